"""What a prior says: a pass rate per prompt, per rollout or per token."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from trainables.strategies.batch import BoolArray, FloatArray
from trainables.strategies.groups import Groups


@dataclass(frozen=True)
class ValueEstimate:
    """Predicted mean `correct`, in reward units. One of the three levels is given, or the last two.

    With both, `tokens` is for the estimator, which predicts `reward`; everything else reads `mean_N`.
    """

    mean_P: FloatArray | None = None
    """Per prompt. Must not depend on the prompt's own rewards of this step."""
    mean_N: FloatArray | None = None
    """Per rollout, read from that rollout's own trajectory (but never from its reward)."""
    tokens: tuple[FloatArray, ...] | None = None
    """Per token: the value of the state each response token is drawn from, N arrays of shape (T_n,)."""
    sd_P: FloatArray | None = None
    """Standard deviation of the prompt's true pass rate around the value estimate."""
    within_P: FloatArray | None = None
    """Variance of one reward around its prompt's pass rate, where the prior estimates it (EBPO)."""
    fresh_P: BoolArray | None = None
    """Prompts the prior has never met (its mean is then that of the others)."""
    silent_P: BoolArray | None = None
    """Prompts without an opinion: their mean is NaN and their rollouts are not trained under the prior."""
    silent_N: BoolArray | None = None
    """Rollouts that could not be read (states that are not finite): no evidence, and not trained."""
    excludes_own: bool = False
    """For `mean_N`: True if entry i was read from the *other* rollouts already."""

    def for_prompts(self, groups: Groups) -> FloatArray:
        """Return one value estimate per prompt, (P,): as given, or the mean over its used rollouts."""
        if self.mean_P is not None:
            return self.mean_P
        readable = self._readable(groups)
        mean_P = readable.with_values(self._rollouts(groups)).mean_P
        return np.where((readable.count_P == 0) & (groups.count_P > 0), np.nan, mean_P)

    def for_rollouts(
        self, groups: Groups, leave_one_out: bool = False, per_round: bool = False
    ) -> FloatArray:
        """Return one value estimate per rollout, (N,).

        With `leave_one_out`, a value estimate read from trajectories becomes the mean over the group's other
        rollouts (with `per_round`: earlier rounds and the others of its own round). NaN where there is
        no other rollout to read.
        """
        if self.mean_P is not None:
            return self.mean_P[groups.prompt_N]
        own_N = self._rollouts(groups)
        if self.excludes_own:
            return own_N
        if not leave_one_out:
            return own_N
        count_N, sum_N = self._readable(groups).with_values(own_N).others(per_round)
        mean_N: FloatArray = np.divide(sum_N, count_N, out=np.full(len(own_N), np.nan), where=count_N > 0)
        return mean_N

    def _readable(self, groups: Groups) -> Groups:
        if self.silent_N is None:
            return groups
        return replace(groups, used_N=np.asarray(groups.mask_N & ~self.silent_N))

    def _rollouts(self, groups: Groups) -> FloatArray:
        if self.mean_N is not None:
            return self.mean_N
        if self.tokens is not None:
            return np.array([v[0] if len(v) else np.nan for v in self.tokens], dtype=np.float64)
        raise ValueError("a ValueEstimate gives mean_P, mean_N or tokens")
