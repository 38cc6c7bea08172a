"""From completions to verdicts, and when too many verifications have failed to continue."""

from __future__ import annotations

import numpy as np

from trainables.errors import VerifierError
from trainables.loop.state import Run
from trainables.rollouts.engine import Completions
from trainables.strategies.batch import FloatArray, IntArray, Verdict
from trainables.tasks.base import Split
from trainables.trial import TrialConfig


def verify(
    run: Run, completions: Completions, split: Split, problem_R: IntArray
) -> tuple[IntArray, FloatArray]:
    """Judge each completion against the reference answer of its problem.

    `problem_R` holds the index of each completion's problem in `split`. Returns `Verdict` (R,) and
    correctness (R,) in [0, 1], which is meaningless unless the verdict is OK.
    """
    texts = run.lease.tokenizer.batch_decode(completions.responses(), skip_special_tokens=True)
    answers = run.problems.answers(split)
    judgements = run.verifier.verify([(t, answers[p]) for t, p in zip(texts, problem_R, strict=True)])
    verdict_R = np.array([int(j.verdict) for j in judgements], dtype=np.int64)
    return verdict_R, np.array([j.correct for j in judgements], dtype=np.float64)


def check_failure_rate(verdict_N: IntArray, config: TrialConfig, where: str) -> None:
    """Refuse to continue when more than `verifier.max_failure_rate` of the verdicts are not OK.

    Raises:
        VerifierError: Too many failed; the message begins with `where`.
    """
    failed = float((verdict_N != Verdict.OK).mean())
    if failed > config.verifier.max_failure_rate:
        raise VerifierError(
            f"{where}: the verifier failed on {failed:.0%} of {len(verdict_N)} answers, more than "
            f"verifier.max_failure_rate={config.verifier.max_failure_rate:g}; raise verifier.timeout_s (now "
            f"{config.verifier.timeout_s:g}) or fix the task's judge"
        )
