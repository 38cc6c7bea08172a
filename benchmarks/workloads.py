"""The workloads on which RL steps are measured, the same for every contender."""

from __future__ import annotations

import random
from dataclasses import dataclass

from trainables.config import TaskConfig
from trainables.tasks.base import Problem
from trainables.tasks.load import load_task


@dataclass(frozen=True)
class Workload:
    """One step's rollouts.

    The model's own answers end after two to five tokens. If `shortest` is set, each rollout has a given
    length and end-of-text is impossible before it.
    """

    name: str
    prompts: int
    group: int
    """Rollouts of each prompt."""
    longest: int
    """Maximum number of response tokens."""
    shortest: int | None = None
    """Minimum, for lengths drawn uniformly from [shortest, longest]; None: the model ends its answers."""

    @property
    def rollouts(self) -> int:
        return self.prompts * self.group

    def problems(self) -> list[Problem]:
        """Return the step's prompts: the first of the addition task's training split."""
        return list(load_task(TaskConfig(train_prompts=max(self.prompts, 512))).split("train"))[
            : self.prompts
        ]

    def lengths(self, step: int) -> list[int] | None:
        """Return the response tokens of each rollout, prompt by prompt; the same for all contenders."""
        if self.shortest is None:
            return None
        rng = random.Random(step)
        return [rng.randint(self.shortest, self.longest) for _ in range(self.rollouts)]


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("short", prompts=16, group=8, longest=8),
        Workload("long", prompts=64, group=8, longest=64, shortest=64),
        Workload("mixed", prompts=64, group=8, longest=64, shortest=4),
    )
}
