"""Reinforcement learning with verifiable rewards: one run of one configuration, top to bottom.

    while compute is left:
        rollouts   <- select -> [ draw -> verify -> decide ]*     the strategy chooses, within a budget
        log-probs  <- teacher-forced pass of the learner
        advantages <- score                                       the strategy's baseline
        policy     <- clipped update, then weight sync to the engines
        strategy   <- observe                                     the only place where its state changes

The loop is blind to the baseline: it knows `trainables.strategies.protocol` and nothing else of it. It owns
no process: learner, engines and verifiers are lent (`Lease`), so a cold and a warm slot run the same code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np

from trainables.errors import DivergedError, StrategyError, VerifierError
from trainables.learner.tokens import Float32, TokenBatch
from trainables.loop.buffer import Reading, RolloutBuffer, cut, one_row_each
from trainables.loop.lease import Lease
from trainables.loop.metrics import Stopwatch, accuracy_metrics, mismatch, rollout_metrics
from trainables.loop.prompts import rollout_seed
from trainables.loop.state import Run
from trainables.loop.sync import sync_weights
from trainables.loop.update import measure_noise, update_critic, update_metrics, update_policy
from trainables.rollouts.engine import Completions, DrawRequest
from trainables.strategies.batch import (
    Batch,
    BoolArray,
    FloatArray,
    IntArray,
    Kind,
    Requests,
    RolloutBudget,
    Stats,
    Verdict,
)
from trainables.tasks.base import Split
from trainables.trial import TrialConfig


def run_trial(lease: Lease, config: TrialConfig, seed: int, output: Path) -> Literal["finished", "stopped"]:
    """Train one configuration under one seed, from the newest checkpoint in `output` if there is one.

    Spends `config.budget` rollouts; stops early when the lease's report says so. Raises DivergedError,
    VerifierError, WeightSyncError, or RayActorError when a lent process has died.
    """
    lease.report("stage", stage="resetting")
    run = Run.start(lease, config, seed, output)
    lease.report("data", data=run.data())
    with run.clock.part("sync"):
        _sync(run)
    lease.report("stage", stage="training")
    go = evaluate_when_due(run)
    while go and run.rollout_budget() >= config.strategy.min_rollouts():
        go = train_step(run) and evaluate_when_due(run)
        if config.checkpoint_every and run.step % config.checkpoint_every == 0:
            run.save()
    if not go:
        return "stopped"
    evaluate_when_due(run, last=True)
    lease.report("stage", stage="saving")
    run.save()
    return "finished"


def train_step(run: Run) -> bool:
    """One step of the algorithm. Returns False when the sweep asks the run to stop."""
    config, clock = run.config, Stopwatch()
    buffer = gather_rollouts(run, clock)
    if not buffer.rollouts:
        return _nothing_asked_for(run)
    with clock.part("logprobs"):
        read_rollouts(run, buffer)
    tokens, reading, batch = buffer.tokens(), buffer.reading(), buffer.batch()
    sampled_M = _sampled(batch)
    drift = mismatch(tokens.sampler_logprob_M[sampled_M], reading.logprob_M[sampled_M])
    _check_drift(drift, config, run.step)
    with clock.part("score"):
        scores = run.strategy.score(batch)
    with clock.part("gradient_noise"):
        noise = measure_noise(run, batch, tokens, scores, reading.logprob_M)
    with clock.part("update"):
        updates = update_policy(run, batch, tokens, scores, reading.logprob_M)
    with clock.part("critic"):
        fitted = update_critic(run, batch, tokens, scores)
    run.version += 1
    with clock.part("sync"):
        synced = _sync(run)
    with clock.part("observe"):
        change = _logprob_change(run, tokens, reading.logprob_M, sampled_M)
        run.strategy.observe(batch, Stats(step=run.step, logprob_change=change))
        run.recorder.add(batch, run.step, config.strategy.reward_range)
    run.spend(buffer.rollouts, tokens, clock.total)
    metrics = {
        **rollout_metrics(batch),
        **drift,
        **synced,
        **update_metrics(updates),
        **noise,
        **fitted,
        "truncated": buffer.truncated(),
        "entropy": float(reading.entropy_M.mean()),
        **_reading_metrics(reading),
        "rollouts": float(buffer.rollouts),
        **{f"strategy/{name}": value for name, value in scores.diagnostics.items()},
        **{f"seconds/{name}": value for name, value in clock.seconds.items()},
        "seconds/step": clock.total,
    }
    return run.report("step", metrics=metrics)


def gather_rollouts(run: Run, clock: Stopwatch) -> RolloutBuffer:
    """select -> [draw, verify, decide]*, never more than the step's room in rollouts and rounds."""
    buffer = RolloutBuffer(run.stratum_of_prompt)
    total, rounds = run.rollout_budget(), run.config.strategy.rounds()

    def rollout_budget() -> RolloutBudget:
        return RolloutBudget(total - buffer.rollouts, rounds - buffer.rounds, run.step, total)

    with clock.part("select"):
        requests = select_prompts(run, buffer, rollout_budget(), None)
    while requests.rollouts:
        draw_and_verify(run, buffer, requests, clock)
        if run.needs.at_decide:
            with clock.part("logprobs"):
                read_rollouts(run, buffer)
        with clock.part("decide"):
            decision = run.strategy.decide(buffer.batch(), rollout_budget())
            buffer.drop(decision.drop_P)
            left = rollout_budget()
            if decision.done or left.rollouts == 0 or left.rounds == 0:
                break
            requests = decision.more or Requests.samples([], [])
            if decision.new_prompts:
                less = RolloutBudget(left.rollouts - requests.rollouts, left.rounds, left.step, left.total)
                requests = _join(requests, select_prompts(run, buffer, less, decision.new_prompts))
            requests = cut(requests, left.rollouts)
    return buffer


def select_prompts(
    run: Run, buffer: RolloutBuffer, rollout_budget: RolloutBudget, wanted: int | None
) -> Requests:
    """Ask the strategy for prompts that are not in this step yet."""
    if rollout_budget.rollouts <= 0:
        return Requests.samples([], [])
    pool = run.order.pool(run.step, exclude=buffer.prompt_ids)
    requests = cut(run.strategy.select(pool, rollout_budget, wanted), rollout_budget.rollouts)
    run.order.take(requests.prompt_R)
    return requests


def draw_and_verify(run: Run, buffer: RolloutBuffer, requests: Requests, clock: Stopwatch) -> None:
    """One round of sampling into the book."""
    config = run.config
    rows = one_row_each(requests)
    if (rows.kind_R == Kind.REFERENCE).any():
        raise StrategyError(
            "strategy: asked for rollouts of the reference policy, which no engine of a slot holds; use "
            "sample or greedy rollouts"
        )
    seeds = [
        rollout_seed(run.seed, run.step, prompt, kind, index)
        for prompt, kind, index in zip(rows.prompt_R, rows.kind_R, buffer.index_of(rows), strict=True)
    ]
    prompts = [run.prompt_tokens[p] for p in rows.prompt_R]
    request = DrawRequest(
        prompts=prompts,
        seed_R=np.array(seeds, dtype=np.int64),
        temperature_R=np.where(rows.kind_R == Kind.GREEDY, 0.0, config.sampling.temperature),
        max_tokens_R=np.full(len(prompts), config.sampling.max_tokens, dtype=np.int64),
    )
    with clock.part("generate"):
        completions = run.lease.engines.draw(request)
    with clock.part("verify"):
        verdict_N, correct_N = _verify(run, completions, "train", rows.prompt_R)
    buffer.add(rows, prompts, completions, verdict_N, correct_N, config.loss, config.sampling.max_tokens)
    _check_verifier(buffer.batch().verdict_N, config, f"step {run.step}")


def read_rollouts(run: Run, buffer: RolloutBuffer) -> None:
    """The learner's pass over the rollouts that have had none: log-probs, and what the strategy reads."""
    tokens = buffer.unread()
    if tokens is not None:
        forward = run.lease.learner.forward(tokens, run.feature_plan)
        values = None
        if run.needs.values is not None:
            flat_M = run.lease.learner.values(tokens).astype(np.float64)
            values = tuple(np.split(flat_M, np.cumsum(tokens.response_length_N)[:-1]))
        buffer.enter(Reading(forward.logprob_M, forward.entropy_M, forward.features, values))


def evaluate_when_due(run: Run, *, last: bool = False) -> bool:
    """Held-out accuracy, once for every `evaluation.every` steps' worth of rollouts, at 0 and at the end.

    Returns False when the sweep asks the run to stop.
    """
    if not run.evaluation_due(last=last):
        return True
    run.lease.report("stage", stage="evaluating")
    split = run.config.evaluation.split
    metrics = accuracy_metrics(answer_split(run, split))
    run.evaluated_at = run.rollouts
    go = run.report("evaluation", split=split, metrics=metrics)
    run.lease.report("stage", stage="training")
    return go


def answer_split(run: Run, split: Split) -> FloatArray:
    """Correctness (P, K) of K sampled answers to each problem of a split.

    The seeds do not depend on the step: successive evaluations differ by the policy, not by the draw. An
    answer whose verification failed counts as wrong here, so more than a few of them raise VerifierError.
    Before the first update the policy is the base model, whose answers are drawn once for all runs.
    """
    if run.version > 0:
        return _draw_answers(run, split)
    config, known = run.config, run.lease.base_answers
    settings = (config.task, config.evaluation, config.sampling, config.verifier)
    key = json.dumps([run.seed, split, *(part.model_dump(mode="json") for part in settings)])
    if key not in known:
        known[key] = _draw_answers(run, split)
    return known[key]


def _draw_answers(run: Run, split: Split) -> FloatArray:
    settings = run.config.evaluation
    prompts = run.tokens_of(split)
    row_of = np.repeat(np.arange(len(prompts)), settings.samples)
    seeds = [rollout_seed("evaluation", run.seed, split, n) for n in range(len(row_of))]
    request = DrawRequest(
        prompts=[prompts[p] for p in row_of],
        seed_R=np.array(seeds, dtype=np.int64),
        temperature_R=np.full(len(row_of), settings.temperature),
        max_tokens_R=np.full(len(row_of), run.config.sampling.max_tokens, dtype=np.int64),
    )
    completions = run.lease.engines.draw(request)
    verdict_N, correct_N = _verify(run, completions, split, row_of)
    _check_verifier(verdict_N, run.config, f"evaluation on {split}")
    return correct_N.reshape(len(prompts), settings.samples)


def _verify(
    run: Run, completions: Completions, split: Split, problem_N: IntArray
) -> tuple[IntArray, FloatArray]:
    texts = run.lease.tokenizer.batch_decode(completions.responses(), skip_special_tokens=True)
    answers = run.answers_of(split)
    judgements = run.verifier.verify([(t, answers[p]) for t, p in zip(texts, problem_N, strict=True)])
    verdict_N = np.array([int(j.verdict) for j in judgements], dtype=np.int64)
    return verdict_N, np.array([j.correct for j in judgements], dtype=np.float64)


def _nothing_asked_for(run: Run) -> bool:
    """The last step's budget may be too small for a strategy's first round; a full step's is not."""
    if run.rollout_budget() == run.config.rollouts_per_step:
        raise StrategyError(
            f"step {run.step}: strategy {run.config.strategy.label()} asked for no rollouts out of "
            f"{run.rollout_budget()}; raise rollouts_per_step or fix its `select`"
        )
    run.exhausted = True
    return True


def _sync(run: Run) -> dict[str, float]:
    return sync_weights(
        run.lease.learner,
        run.lease.engines,
        run.version,
        run.prompt_tokens[0],
        run.config.sampling.temperature,
        run.parity_tolerance,
        run.config.engine.sync_timeout_s,
    )


def _sampled(batch: Batch) -> BoolArray:
    """Which tokens (M,) were drawn from the policy. Greedy ones have the log-prob of another temperature."""
    return np.repeat(batch.kind_N != Kind.GREEDY, batch.length_N)


def _logprob_change(run: Run, tokens: TokenBatch, old_logprob_M: Float32, sampled_M: BoolArray) -> float:
    if not run.needs.logprob_change or not sampled_M.any():
        return 0.0
    change_M = np.abs(run.lease.learner.forward(tokens).logprob_M - old_logprob_M)
    return float(change_M[sampled_M].mean())


def _check_verifier(verdict_N: IntArray, config: TrialConfig, where: str) -> None:
    failed = float((verdict_N != Verdict.OK).mean())
    if failed > config.verifier.max_failure_rate:
        raise VerifierError(
            f"{where}: the verifier failed on {failed:.0%} of {len(verdict_N)} answers, more than "
            f"verifier.max_failure_rate={config.verifier.max_failure_rate:g}; raise verifier.timeout_s (now "
            f"{config.verifier.timeout_s:g}) or mend the task's judge"
        )


def _check_drift(drift: dict[str, float], config: TrialConfig, step: int) -> None:
    if not np.isfinite(drift["mismatch_kl"]):
        raise DivergedError(
            f"step {step}: log-probs are not finite; lower learner.lr (now {config.learner.lr:g})"
        )
    limit = config.loss.max_mismatch_kl
    if limit is not None and not drift["mismatch_kl"] <= limit:
        raise DivergedError(
            f"step {step}: KL between sampler and learner is {drift['mismatch_kl']:.3g} nats per token, more "
            f"than loss.max_mismatch_kl={limit:g}; lower learner.lr (now {config.learner.lr:g})"
        )


def _reading_metrics(reading: Reading) -> dict[str, float]:
    """What the strategy's inputs take, in memory."""
    if reading.features is None:
        return {}
    return {"features_kb_per_rollout": reading.features.nbytes / 1e3 / len(reading.features.prompt_NF)}


def _join(first: Requests, second: Requests) -> Requests:
    return Requests(
        prompt_R=np.concatenate([first.prompt_R, second.prompt_R]),
        count_R=np.concatenate([first.count_R, second.count_R]),
        kind_R=np.concatenate([first.kind_R, second.kind_R]),
        trainable_R=np.concatenate([first.trainable_R, second.trainable_R]),
    )
