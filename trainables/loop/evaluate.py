"""Held-out accuracy: when it is measured, and on which answers. Not counted as compute."""

from __future__ import annotations

import json

import numpy as np

from trainables.loop.metrics import accuracy_metrics
from trainables.loop.prompts import rollout_seed
from trainables.loop.state import Run
from trainables.loop.verify import check_failure_rate, verify
from trainables.rollouts.engine import DrawRequest
from trainables.strategies.batch import FloatArray
from trainables.tasks.base import Split


def evaluate_when_due(run: Run, *, last: bool = False) -> bool:
    """Measure held-out accuracy if it is due: at the start, every `evaluation.every` steps, and at the end.

    The steps are full ones: the clock is rollouts spent, so that strategies are compared at equal compute.
    Returns False when the sweep asks the run to stop.
    """
    if not run.evaluation_due(last=last):
        return True
    run.lease.report("stage", stage="evaluating")
    split = run.config.evaluation.split
    metrics = accuracy_metrics(answer_split(run, split))
    run.counters.evaluated_at = run.counters.rollouts
    go = run.report("evaluation", split=split, metrics=metrics)
    run.lease.report("stage", stage="training")
    return go


def answer_split(run: Run, split: Split) -> FloatArray:
    """Return the correctness (P, K) of K sampled answers to each of the P problems of a split.

    Before the first update the policy is the base model, whose answers are drawn once for all runs.
    """
    if run.counters.version > 0:
        return _draw_answers(run, split)
    config, known = run.config, run.lease.base_answers
    settings = (config.task, config.evaluation, config.sampling, config.verifier)
    key = json.dumps([run.seed, split, *(part.model_dump(mode="json") for part in settings)])
    if key not in known:
        known[key] = _draw_answers(run, split)
    return known[key]


def _draw_answers(run: Run, split: Split) -> FloatArray:
    """Draw and verify the answers.

    Their seeds do not depend on the step: successive evaluations differ by the policy, not by the draw.

    Raises:
        VerifierError: Too many verifications failed. A failed one counts as a wrong answer here.
    """
    settings = run.config.evaluation
    prompts = run.problems.tokens(split)
    problem_R = np.repeat(np.arange(len(prompts)), settings.samples)
    seeds = [rollout_seed("evaluation", run.seed, split, n) for n in range(len(problem_R))]
    request = DrawRequest(
        prompts=[prompts[p] for p in problem_R],
        seed_R=np.array(seeds, dtype=np.int64),
        temperature_R=np.full(len(problem_R), settings.temperature),
        max_tokens_R=np.full(len(problem_R), run.config.sampling.max_tokens, dtype=np.int64),
    )
    completions = run.lease.engines.draw(request)
    verdict_R, correct_R = verify(run, completions, split, problem_R)
    check_failure_rate(verdict_R, run.config, f"evaluation on {split}")
    return correct_R.reshape(len(prompts), settings.samples)
