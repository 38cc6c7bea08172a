"""TabPFN as head (Hollmann et al., Nature 2025), which is V0's published one. You supply its checkpoint.

The package would download a checkpoint at first use, and newer ones are non-commercial. So trimtab ships none
and downloads none: `checkpoint` names a file. This head follows the package's documentation and has not been
run with a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainables.errors import ModelError, RecordError
from trainables.value_models.heads.base import Context, Float32, Head, Int64, Prediction
from trainables.value_models.heads.scaling import Layout


@dataclass
class TabPFN(Head):
    """A frozen TabPFN classifier on (features, 0/1) rows; a row is of class 1 if its rate is at least .5."""

    layout: Layout
    checkpoint: str = ""
    kind = "tabpfn"

    def predict(self, context: Context, queries_QF: Float32, prompt_Q: Int64 | None = None) -> Prediction:
        right_N = context.rate_N >= 0.5
        if right_N.all() or not right_N.any():
            raise RecordError(
                "head tabpfn: the context's rows are all right or all wrong; give rows of both classes"
            )
        model = self._classifier()
        model.fit(context.features_NF, right_N.astype(np.int64))
        return Prediction(np.asarray(model.predict_proba(queries_QF)[:, 1], np.float64))

    def _classifier(self) -> Any:
        if not self.checkpoint or not Path(self.checkpoint).is_file():
            raise ModelError(
                f"head tabpfn: checkpoint {self.checkpoint!r} is not a file; trimtab ships none: give the "
                "path of one whose licence you accept"
            )
        try:
            from tabpfn import TabPFNClassifier
        except ImportError as error:
            raise ModelError(
                "head tabpfn: needs the package tabpfn; install it, or choose another head"
            ) from error
        return TabPFNClassifier(model_path=self.checkpoint, ignore_pretraining_limits=True)
