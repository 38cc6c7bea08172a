"""Reinforcement learning with verifiable rewards: one run of one configuration, top to bottom.

    while compute is left:
        rollouts   <- select -> [ draw -> verify -> decide ]*     the strategy chooses, within a budget
        log-probs  <- teacher-forced pass of the learner
        advantages <- score                                       the strategy's baseline
        policy     <- clipped update, then weight sync to the engines
        strategy   <- observe                                     the only place where its state changes

The loop is blind to the baseline: it knows `trainables.strategies.protocol` and nothing else of it. It owns
no process: learner, engines and verifier are lent (`Lease`), so a cold and a warm slot run the same code.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from trainables.errors import StrategyError
from trainables.learner.tokens import TokenBatch
from trainables.loop.buffer import Reading, RolloutBuffer, cut, join, one_row_each
from trainables.loop.evaluate import evaluate_when_due
from trainables.loop.lease import Lease
from trainables.loop.metrics import Stopwatch, check_drift, mismatch, reading_metrics, rollout_metrics
from trainables.loop.prompts import rollout_seed
from trainables.loop.state import Run
from trainables.loop.sync import sync_weights
from trainables.loop.update import (
    measure_noise,
    reference_logprobs,
    update_critic,
    update_metrics,
    update_policy,
)
from trainables.loop.verify import check_failure_rate, verify
from trainables.rollouts.engine import DrawRequest
from trainables.strategies.batch import Batch, BoolArray, FloatArray, Kind, Requests, RolloutBudget, Stats
from trainables.trial import TrialConfig


def run_trial(lease: Lease, config: TrialConfig, seed: int, output: Path) -> Literal["finished", "stopped"]:
    """Train one configuration under one seed, from the newest checkpoint in `output` if there is one.

    Spends `config.budget` rollouts; stops early when the lease's report says so.

    Raises:
        SpecError, StrategyError: The configuration cannot run.
        DivergedError: A loss, a gradient or the sampler/learner KL left its bounds.
        VerifierError: Too many verifications failed, or the judge does not work.
        WeightSyncError: Engine and learner differ after a weight sync.
        LeaseLost, RayActorError: A lent process has died.
    """
    lease.report("stage", stage="resetting")
    run = Run.start(lease, config, seed, output)
    lease.report("data", data=run.data())
    sync_weights(run)
    lease.report("stage", stage="training")
    go = evaluate_when_due(run)
    while go and run.step_rollouts() >= config.strategy.min_rollouts():
        go = train_step(run) and evaluate_when_due(run)
        if config.checkpoint_every and run.counters.step % config.checkpoint_every == 0:
            run.save()
    if not go:
        return "stopped"
    evaluate_when_due(run, last=True)
    lease.report("stage", stage="saving")
    run.save()
    return "finished"


def train_step(run: Run) -> bool:
    """Take one step of the algorithm. Returns False when the sweep asks the run to stop."""
    config, clock, step = run.config, Stopwatch(), run.counters.step
    buffer = gather_rollouts(run, clock)
    if not buffer.rollouts:
        refuse_idle_full_step(run)
        run.exhausted = True
        return True
    with clock.part("logprobs"):
        read_rollouts(run, buffer)
    tokens, reading, batch = buffer.tokens(), buffer.reading(), buffer.batch()
    sampled_M = _sampled(batch)
    drift = mismatch(tokens.sampler_logprob_M[sampled_M], reading.logprob_M[sampled_M])
    check_drift(drift["mismatch_kl"], config, step)
    with clock.part("score"):
        scores = run.strategy.score(batch)
    with clock.part("logprobs"):
        reference_M = reference_logprobs(run, tokens, scores)
    with clock.part("gradient_noise"):
        noise = measure_noise(run, batch, tokens, scores, reading.logprob_M, reference_M)
    with clock.part("update"):
        updates = update_policy(run, batch, tokens, scores, reading.logprob_M, reference_M)
    with clock.part("critic"):
        critic = update_critic(run, batch, tokens, scores)
    run.counters.version += 1
    with clock.part("sync"):
        sync = sync_weights(run)
    with clock.part("observe"):
        run.strategy.observe(batch, Stats(step, logprob_change(run, batch, tokens)))
        run.recorder.add(batch, step, config.strategy.reward_range)
    run.spend(buffer.rollouts, tokens, clock.total)
    metrics = {
        **rollout_metrics(batch),
        **drift,
        **sync,
        **update_metrics(updates, config.loss),
        **noise,
        **critic,
        "truncated": buffer.truncated(),
        **reading_metrics(reading),
        "rollouts": float(buffer.rollouts),
        **{f"strategy/{name}": value for name, value in scores.diagnostics.items()},
        **{f"seconds/{name}": value for name, value in clock.seconds.items()},
        "seconds/step": clock.total,
    }
    return run.report("step", metrics=metrics)


def gather_rollouts(run: Run, clock: Stopwatch) -> RolloutBuffer:
    """Select -> [draw -> verify -> decide]*, within the step's rollouts and rounds."""
    buffer = RolloutBuffer(run.stratum_of_prompt)
    total, rounds = run.step_rollouts(), run.config.strategy.rounds()

    def budget() -> RolloutBudget:
        return RolloutBudget(total - buffer.rollouts, rounds - buffer.rounds, run.counters.step, total)

    with clock.part("select"):
        requests = select_prompts(run, buffer, budget(), None)
    while requests.rollouts:
        draw_and_verify(run, buffer, requests, clock)
        if run.needs.at_decide:
            with clock.part("logprobs"):
                read_rollouts(run, buffer)
        with clock.part("decide"):
            requests = decide(run, buffer, budget())
    return buffer


def select_prompts(run: Run, buffer: RolloutBuffer, budget: RolloutBudget, wanted: int | None) -> Requests:
    """Ask the strategy for prompts that are not in this step yet."""
    if budget.rollouts <= 0:
        return Requests.samples([], [])
    pool = run.order.pool(run.counters.step, exclude=buffer.prompt_ids)
    requests = cut(run.strategy.select(pool, budget, wanted), budget.rollouts)
    run.order.take(requests.prompt_R)
    return requests


def draw_and_verify(run: Run, buffer: RolloutBuffer, requests: Requests, clock: Stopwatch) -> None:
    """Draw one round of rollouts, verify them, and add them to the buffer.

    Raises:
        StrategyError: A request is for the reference policy.
        VerifierError: Too many verifications of the step so far have failed.
    """
    config, step = run.config, run.counters.step
    rows = one_row_each(requests)
    if (rows.kind_R == Kind.REFERENCE).any():
        raise StrategyError(
            "strategy: asked for rollouts of the reference policy, which no engine of a slot holds; use "
            "sample or greedy rollouts"
        )
    seeds = [
        rollout_seed(run.seed, step, prompt, kind, index)
        for prompt, kind, index in zip(rows.prompt_R, rows.kind_R, buffer.index_of(rows), strict=True)
    ]
    prompt_tokens = run.problems.tokens("train")
    prompts = [prompt_tokens[p] for p in rows.prompt_R]
    request = DrawRequest(
        prompts=prompts,
        seed_R=np.array(seeds, dtype=np.int64),
        temperature_R=np.where(rows.kind_R == Kind.GREEDY, 0.0, config.sampling.temperature),
        max_tokens_R=np.full(len(prompts), config.sampling.max_tokens, dtype=np.int64),
    )
    with clock.part("generate"):
        completions = run.lease.engines.draw(request)
    with clock.part("verify"):
        verdict_R, correct_R = verify(run, completions, "train", rows.prompt_R)
    buffer.add(rows, prompts, completions, verdict_R, correct_R, config.loss, config.sampling.max_tokens)
    check_failure_rate(buffer.batch().verdict_N, config, f"step {step}")


def decide(run: Run, buffer: RolloutBuffer, budget: RolloutBudget) -> Requests:
    """Ask the strategy what to drop and what to draw in the next round. No requests: the step is complete."""
    decision = run.strategy.decide(buffer.batch(), budget)
    buffer.drop(decision.drop_P)
    if decision.done or budget.rollouts == 0 or budget.rounds == 0:
        return Requests.samples([], [])
    requests = decision.more or Requests.samples([], [])
    if decision.new_prompts:
        rest = replace(budget, rollouts=budget.rollouts - requests.rollouts)
        requests = join(requests, select_prompts(run, buffer, rest, decision.new_prompts))
    return cut(requests, budget.rollouts)


def refuse_idle_full_step(run: Run) -> None:
    """Refuse a strategy that asks for nothing out of a full step.

    The last step of a run may be smaller than the strategy's first round; a full step is not.

    Raises:
        StrategyError: The step was a full one.
    """
    rollouts = run.step_rollouts()
    if rollouts == run.config.rollouts_per_step:
        raise StrategyError(
            f"step {run.counters.step}: strategy {run.config.strategy.label()} asked for no rollouts out of "
            f"{rollouts}; raise rollouts_per_step or fix its `select`"
        )


def read_rollouts(run: Run, buffer: RolloutBuffer) -> None:
    """Pass the unread rollouts through the learner: log-probs, and what the strategy reads besides."""
    tokens = buffer.unread()
    if tokens is not None:
        forward = run.lease.learner.forward(tokens, run.feature_plan)
        values = None
        if run.needs.values is not None:
            flat_M = run.lease.learner.values(tokens).astype(np.float64)
            values = tuple(np.split(flat_M, np.cumsum(tokens.response_length_N)[:-1]))
        buffer.enter(Reading(forward.logprob_M, forward.entropy_M, forward.features, values))


def _sampled(batch: Batch) -> BoolArray:
    """Mark the tokens (M,) of sampled rollouts. Greedy ones have log-probs of another temperature."""
    return np.repeat(batch.kind_N != Kind.GREEDY, batch.length_N)


def logprob_change(run: Run, batch: Batch, tokens: TokenBatch) -> FloatArray | None:
    """Measure how far each prompt's last response has moved since, nats (P,); None if not needed."""
    if not run.needs.logprob_change:
        return None
    return run.responses.change_P(batch, tokens, lambda part: run.lease.learner.forward(part).logprob_M)
