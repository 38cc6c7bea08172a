"""The order of the training prompts, and the seeds of their rollouts. NumPy only."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from trainables.strategies.batch import BoolArray, IntArray, Pool


def rollout_seed(*parts: int | str) -> int:
    """Hash whatever identifies a rollout (run seed, step, prompt id, kind, index) to a 63-bit seed.

    Neighbouring identifiers give unrelated seeds, and no seed depends on the order of drawing.
    """
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class PromptOrder:
    """Epochs over the training prompts, shuffled anew each time.

    A strategy may take prompts out of turn; an epoch ends when each of its prompts has been used once.
    """

    def __init__(self, stratum_of_prompt: IntArray, seed: int) -> None:
        self._stratum = stratum_of_prompt
        self._seed = seed
        self._epoch = 0
        self._used: BoolArray = np.zeros(len(stratum_of_prompt), dtype=np.bool_)

    def pool(self, step: int, exclude: IntArray) -> Pool:
        """Return every prompt but the excluded ones (those already in this step), soonest first."""
        this, following = self._shuffle(self._epoch), self._shuffle(self._epoch + 1)
        order = np.concatenate([this[~self._used[this]], following[self._used[following]]])
        order = order[~np.isin(order, exclude)]
        # The draw differs between the calls of one step, which exclude different prompts.
        rng = np.random.default_rng([self._seed, step, len(exclude)])
        return Pool(prompt_C=order, stratum_C=self._stratum[order], rng=rng)

    def take(self, prompts: IntArray) -> None:
        """Mark prompts as used."""
        for prompt in prompts:
            if self._used.all():
                self._epoch += 1
                self._used[:] = False
            self._used[prompt] = True

    def _shuffle(self, epoch: int) -> IntArray:
        order = np.random.default_rng([self._seed, epoch, 0x0DD5]).permutation(len(self._stratum))
        return order.astype(np.int64)

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch and which prompts it has used."""
        return {"epoch": self._epoch, "used": self._used.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._epoch = int(state["epoch"])
        self._used = np.asarray(state["used"], dtype=np.bool_).copy()
