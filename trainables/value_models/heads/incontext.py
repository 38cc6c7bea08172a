"""V0's own head: a residual query adapter and a transformer that reads the record in context.

It is meta-trained on logged policies and on synthetic ones (random functions of the same prompts' vectors),
so that it learns to read a record rather than to know one policy. It departs from V0 (arXiv 2602.03584) in
two ways: the adapter attends to pieces of the prompt's vector, because no token states are kept; and the
classifier is trained with the adapter, while V0 freezes TabPFN, whose weights are not free. torch is imported
when it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainables.errors import ModelError, RecordError
from trainables.value_models.heads.base import Context, Float32, Float64, Head, Int64, Prediction
from trainables.value_models.heads.scaling import Layout, Scaling

if TYPE_CHECKING:
    from trainables.value_models.heads.incontext_net import InContext

CONTEXTS = (32, 64, 128, 256)
"""Context sizes of the training tasks."""
QUERY = 64
"""Queries of a training task."""
SYNTHETIC = 3
"""Synthetic policies for each logged one, on the same prompts."""


@dataclass
class QueryAdapterHead(Head):
    """Predicts P(r = 1) by one forward pass over context and queries. It must be fitted."""

    layout: Layout
    steps: int = 800
    lr: float = 3e-3
    decay: float = 0.05
    seed: int = 0
    scaling: Scaling | None = None
    _net: InContext | None = field(default=None, repr=False)
    kind = "adapter"

    def fit(self, records: Sequence[Context]) -> None:
        import torch

        long = [record for record in records if len(record) >= 48]
        if not long:
            raise RecordError(
                f"head adapter: no logged policy has 48 rows (the longest has "
                f"{max((len(r) for r in records), default=0)}); give longer records, or use the head gp"
            )
        self.scaling = Scaling.of(np.concatenate([r.features_NF for r in long]), self.layout)
        rng = np.random.default_rng(self.seed)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            self._train(self._made(), [(self._scaled(r.features_NF), r) for r in long], rng)

    def predict(self, context: Context, queries_QF: Float32, prompt_Q: Int64 | None = None) -> Prediction:
        import torch

        if self._net is None:
            raise ModelError("head adapter: was not fitted; run `trimtab v0 fit --head adapter` first")
        if not len(context) or not len(queries_QF):
            return Prediction(np.full(len(queries_QF), 0.5))
        net = self._net.eval()
        with torch.inference_mode():
            rows = net.embed(torch.from_numpy(self._scaled(context.features_NF)))
            asked = net.embed(torch.from_numpy(self._scaled(queries_QF)))
            rate, count = (torch.from_numpy(v.astype(np.float32)) for v in (context.rate_N, context.count_N))
            logit_Q = net(rows[None], rate[None], count[None], asked[None])[0]
            mean_Q: Float64 = logit_Q.sigmoid().numpy().astype(np.float64)
        return Prediction(mean_Q)

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        if self._net is None or self.scaling is None:
            raise RecordError("head adapter: was not fitted, so there is nothing to save; fit it first")
        arrays = {f"net.{name}": value.numpy() for name, value in self._net.state_dict().items()}
        arrays |= {"centre_F": self.scaling.centre_F, "scale_F": self.scaling.scale_F}
        return {"steps": self.steps, "lr": self.lr, "decay": self.decay, "seed": self.seed}, arrays

    def load(self, settings: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> None:
        import torch

        self.steps, self.lr = settings["steps"], settings["lr"]
        self.decay, self.seed = settings["decay"], settings["seed"]
        self.scaling = Scaling(arrays["centre_F"], arrays["scale_F"], self.layout.states)
        weights = {n.removeprefix("net."): torch.from_numpy(a) for n, a in arrays.items() if n[:4] == "net."}
        try:
            # Strict: V0's released code silently drops an adapter that does not fit.
            self._made().load_state_dict(weights)
        except RuntimeError as error:
            raise ModelError(
                f"head adapter: its weights do not fit this version; fit it again: {error}"
            ) from error

    def _made(self) -> InContext:
        from trainables.value_models.heads.incontext_net import InContext

        self._net = InContext(self.layout.width)
        return self._net

    def _scaled(self, features_NF: Float32) -> Float32:
        if self.scaling is None:
            raise ModelError("head adapter: was not fitted; run `trimtab v0 fit --head adapter` first")
        # Unit length scales leave both parts with a squared norm of about 1 over many columns.
        scaled: Float32 = self.scaling(features_NF, 1.0, 1.0) * np.float32(np.sqrt(self.layout.width))
        return scaled

    def _train(
        self, net: InContext, records: list[tuple[Float32, Context]], rng: np.random.Generator
    ) -> None:
        """Train by AdamW: 5 % warm-up, then cosine decay; gradients clipped at norm 1.

        A step takes prompts of one logged policy, under its own rates and under synthetic ones.
        """
        import torch

        from trainables.value_models.heads.incontext_net import loss_of

        optimizer = torch.optim.AdamW(net.parameters(), lr=self.lr, weight_decay=self.decay)
        warm = max(1, self.steps // 20)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda i: min((i + 1) / warm, 0.5 * (1.0 + np.cos(np.pi * min(1.0, i / self.steps)))),
        )
        net.train()
        for _ in range(self.steps):
            x_NF, record = records[rng.integers(len(records))]
            size = int(rng.choice([n for n in CONTEXTS if n + 16 <= len(record)]))
            rows = rng.permutation(len(record))[: size + QUERY]
            rate_TN, count_TN = _tasks(x_NF[rows], record.take(rows), rng)
            embedded_NM = net.embed(torch.from_numpy(x_NF[rows]))
            tasks_TNM = embedded_NM.expand(len(rate_TN), -1, -1)
            rate, count = torch.from_numpy(rate_TN), torch.from_numpy(count_TN)
            logit_TQ = net(tasks_TNM[:, :size], rate[:, :size], count[:, :size], tasks_TNM[:, size:])
            loss = loss_of(logit_TQ, rate[:, size:])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        net.eval()


def _tasks(x_NF: Float32, record: Context, rng: np.random.Generator) -> tuple[Float32, Float32]:
    """Return (T, N) outcomes and rollout counts: of the logged policy, then of `SYNTHETIC` ones.

    A synthetic policy's pass rate is a logistic function, of random strength, of a random direction in a
    random subspace of the prompts' vectors.
    """
    counts, rates = [record.count_N], [record.rate_N]
    for _ in range(SYNTHETIC):
        # Directions in the span of the prompts themselves: only what differs between them can matter.
        direction_F = rng.normal(size=8) @ x_NF[rng.integers(len(x_NF), size=8)]
        score_N = x_NF @ direction_F
        score_N = (score_N - score_N.mean()) / max(float(score_N.std()), 1e-6)
        if rng.random() < 0.5:
            score_N = np.tanh(score_N) + 0.5 * (score_N**2 - 1.0) * rng.normal()
        truth_N = 1.0 / (1.0 + np.exp(-(rng.gamma(2.0) * score_N + rng.normal(0.0, 1.5))))
        count_N = np.full(len(x_NF), float(rng.choice([1, 4, 10])))
        rates.append(rng.binomial(count_N.astype(np.int64), truth_N) / count_N)
        counts.append(count_N)
    return np.stack(rates).astype(np.float32), np.stack(counts).astype(np.float32)
