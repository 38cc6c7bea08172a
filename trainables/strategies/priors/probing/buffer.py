"""What a probe is fitted on: states, and the pass rates seen beside them. First in, first out."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from trainables.strategies.batch import Batch, Features, Float32Array, FloatArray, IntArray
from trainables.strategies.groups import Groups, first_round_N
from trainables.strategies.scale import Scale, verified_N


@dataclass(frozen=True)
class Rows:
    """R rows, oldest first."""

    prompt_RF: Float32Array
    response_RF: Float32Array
    entropy_R3: Float32Array
    survey_RL2K: npt.NDArray[np.float16]
    """(R, 0, 2, 0) without a survey."""
    rate_R: FloatArray
    """Mean reward of the prompt's *other* rollouts, in [0, 1]: the cross-rollout target."""
    group_R: IntArray
    """Counts prompt groups up; one visit of a prompt is one group."""
    stratum_R: IntArray

    def __len__(self) -> int:
        return len(self.rate_R)

    def take(self, rows: Any) -> Rows:
        return Rows(**{name: column[rows] for name, column in self._columns().items()})

    def push(self, new: Rows, size: int) -> Rows:
        """Return the rows with new ones at the end, and without the oldest whole groups beyond `size` rows.

        The newest group stays even where it alone is larger.
        """
        start = int(self.group_R[-1]) + 1 if len(self) else 0
        new = replace(new, group_R=new.group_R + start)
        fresh = new._columns()
        both = Rows(
            **{name: np.concatenate([column, fresh[name]]) for name, column in self._columns().items()}
        )
        if len(both) <= size:
            return both
        # A group that reaches into the rows to be dropped goes as a whole.
        last_lost = int(both.group_R[len(both) - size - 1])
        keep = min(last_lost, int(both.group_R[-1]) - 1)
        return both.take(both.group_R > keep)

    def state_dict(self) -> dict[str, Any]:
        return {name: column.copy() for name, column in self._columns().items()}

    def _columns(self) -> dict[str, npt.NDArray[Any]]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


def finite_N(features: Features) -> npt.NDArray[np.bool_]:
    """Return the rollouts whose states can be used, (N,)."""
    arrays = (features.prompt_NF, features.response_NF, features.entropy_N3, features.survey_NL2K)
    good = np.ones(len(features.prompt_NF), dtype=np.bool_)
    for array in arrays:
        if array is not None:
            good &= np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    return good


def rows_of(batch: Batch, features: Features, scale: Scale, *, per_prompt: bool) -> Rows:
    """Return this step's evidence, by prompt group.

    A row per rollout, with the mean reward of the prompt's other rollouts as its target, so that a row says
    what a state foretells about *another* rollout. `per_prompt`: a row per prompt with the mean of all.
    First-round rollouts only: later ones are drawn because of what the first showed.
    """
    used_N = first_round_N(batch, verified_N(batch)) & finite_N(features)
    unit_N = np.where(used_N, scale.unit(batch.correct_N), 0.0)
    groups = Groups(batch.prompt_N, unit_N, batch.prompts, used_N)
    if per_prompt:
        _, rows = np.unique(np.where(used_N, batch.prompt_N, -1), return_index=True)
        rows = rows[used_N[rows]]
        rate = groups.mean_P[batch.prompt_N[rows]]
    else:
        count_N, sum_N = groups.others()
        rows = np.flatnonzero(count_N > 0)
        rows = rows[np.argsort(batch.prompt_N[rows], kind="stable")]
        rate = sum_N[rows] / count_N[rows]
    survey = features.survey_NL2K
    return Rows(
        prompt_RF=features.prompt_NF[rows],
        response_RF=features.response_NF[rows],
        entropy_R3=features.entropy_N3[rows],
        survey_RL2K=np.zeros((len(rows), 0, 2, 0), np.float16) if survey is None else survey[rows],
        rate_R=rate,
        group_R=batch.prompt_N[rows],
        stratum_R=batch.stratum_P[batch.prompt_N[rows]],
    )
