"""Writes what a run's policies scored, as the rows that `trimtab v0` reads. Each step is a policy of its own.

Layout under a run's folder::

    record.jsonl      one row per prompt and step, in the released format with `count`
    prompts.json      the training prompts' texts by "dataset_id"
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.strategies.batch import Batch
from trainables.strategies.groups import Groups, first_round_N
from trainables.strategies.scale import verified_N
from trainables.value_models.records import Row, read_rows, write_rows


@dataclass(frozen=True)
class Recorder:
    """Records the mean correctness of each prompt's first round.

    Later rounds are left out: a strategy draws them because of what the first round showed.
    """

    folder: Path
    dataset: str
    model: str

    @property
    def file(self) -> Path:
        """Return the file of rows."""
        return self.folder / "record.jsonl"

    def start(self, step: int, prompts: Sequence[str]) -> None:
        """Begin at `step`. Rows of this step and later, which a killed run wrote, are removed.

        Raises:
            RecordError: the file holds something other than rows.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        texts = {f"{self.dataset}_{i}": text for i, text in enumerate(prompts)}
        (self.folder / "prompts.json").write_text(json.dumps(texts), encoding="utf-8")
        if not self.file.is_file():
            return
        # A killed run may have left half a line.
        whole, _, torn = self.file.read_text(encoding="utf-8").rpartition("\n")
        if torn:
            self.file.write_text(f"{whole}\n" if whole else "", encoding="utf-8")
        if whole:
            write_rows(self.file, [row for row in read_rows(self.file) if row.step < step])

    def add(self, batch: Batch, step: int, reward_range: tuple[float, float]) -> None:
        """Append one row for each prompt of the step that has a verdict."""
        low, high = reward_range
        used_N = first_round_N(batch, verified_N(batch))
        groups = Groups(batch.prompt_N, np.where(used_N, batch.correct_N, 0.0), batch.prompts, used_N)
        seen = np.flatnonzero(groups.count_P > 0)
        score_P = np.clip(2.0 * (groups.mean_P - low) / (high - low) - 1.0, -1.0, 1.0)
        rows = [
            Row(
                self.dataset,
                str(batch.prompt_id_P[p]),
                self.model,
                step,
                float(score_P[p]),
                int(groups.count_P[p]),
            )
            for p in seen
        ]
        write_rows(self.file, rows, append=True)
