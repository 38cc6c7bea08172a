"""Quality of predicted pass rates. Shapes: P predictions, each of one prompt under one policy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from trainables.errors import RecordError
from trainables.value_models.heads.base import Float64, Int64

BINS = 10


@dataclass(frozen=True)
class Quality:
    """Metrics of a set of predictions. All but `auc` compare with the mean reward itself."""

    auc: float
    """V0's intra-AUC: the mean over policies, weighted by their rows, of the AUC within each. A row counts as
    right if its mean reward is at least one half."""
    brier: float
    calibration: float
    """Expected calibration error over ten bins of equal width."""
    log_loss: float


def quality(predicted_P: Float64, rate_P: Float64, policy_P: Int64) -> Quality:
    """Compute all metrics.

    Raises:
        RecordError: the rows of a policy are all right or all wrong, so that its AUC does not exist.
    """
    p_P = np.clip(predicted_P, 1e-6, 1.0 - 1e-6)
    logs_P = rate_P * np.log(p_P) + (1.0 - rate_P) * np.log(1.0 - p_P)
    return Quality(
        auc=intra_auc(predicted_P, rate_P, policy_P),
        brier=float(((predicted_P - rate_P) ** 2).mean()),
        calibration=calibration_error(predicted_P, rate_P),
        log_loss=-float(logs_P.mean()),
    )


def intra_auc(predicted_P: Float64, rate_P: Float64, policy_P: Int64) -> float:
    """Return the mean over policies of the area under the ROC curve, weighted by their rows.

    Raises:
        RecordError: the rows of a policy are all right or all wrong.
    """
    total = 0.0
    for policy in np.unique(policy_P):
        rows = policy_P == policy
        total += int(rows.sum()) * auc(predicted_P[rows], rate_P[rows] >= 0.5, int(policy))
    return total / len(policy_P)


def auc(predicted_P: Float64, right_P: npt.NDArray[np.bool_], policy: int = 0) -> float:
    """Return the probability that a right row ranks above a wrong one; ties count half.

    `policy`: number of the policy, for the error.

    Raises:
        RecordError: all rows are right, or all are wrong.
    """
    right = int(right_P.sum())
    wrong = len(right_P) - right
    if not right or not wrong:
        word = "right" if right else "wrong"
        raise RecordError(
            f"evaluation: all {len(right_P)} rows of policy number {policy} are {word}, so their AUC does "
            f"not exist; add prompts, or leave this record out"
        )
    # The Mann-Whitney statistic. scikit-learn's roc_auc_score gives the same number (tests/v0) but takes 20
    # times as long, and a bootstrap needs one for each draw and policy.
    ranks_P = rankdata(predicted_P)
    return float((ranks_P[right_P].sum() - right * (right + 1) / 2) / (right * wrong))


def calibration_error(predicted_P: Float64, rate_P: Float64) -> float:
    """Return the mean over bins, weighted by size, of |mean prediction - mean reward|."""
    bin_P = np.minimum((predicted_P * BINS).astype(np.int64), BINS - 1)
    gap_B = np.bincount(bin_P, predicted_P - rate_P, minlength=BINS)
    return float(np.abs(gap_B).sum() / len(predicted_P))


def bootstrap_se(
    predicted_P: Float64, rate_P: Float64, policy_P: Int64, prompt_P: Int64, draws: int = 400, seed: int = 0
) -> Quality:
    """Return standard errors of the metrics of `quality` by a bootstrap over prompts.

    A prompt's rows are drawn together. A draw that leaves a policy without right or without wrong rows is
    repeated.
    """
    rng = np.random.default_rng(seed)
    _, row_of = np.unique(prompt_P, return_inverse=True)
    order = np.argsort(row_of, kind="stable")
    start = np.searchsorted(row_of[order], np.arange(row_of.max() + 2))
    found: list[tuple[float, ...]] = []
    for _ in range(20 * draws):
        drawn = rng.integers(0, len(start) - 1, len(start) - 1)
        rows = np.concatenate([order[start[d] : start[d + 1]] for d in drawn])
        try:
            values = quality(predicted_P[rows], rate_P[rows], policy_P[rows])
        except RecordError:
            continue
        found.append((values.auc, values.brier, values.calibration, values.log_loss))
        if len(found) == draws:
            break
    return Quality(*np.std(found, axis=0, ddof=1).tolist())
