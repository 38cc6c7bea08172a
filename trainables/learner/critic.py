"""The critic: a second model of the policy's architecture with a value head, in a DeepSpeed engine. torch.

A service of the learner: strategies see its values and return targets. Like the learner's, its methods are
collective.
"""

from __future__ import annotations

import gc
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import AutoModel

from trainables.config import LearnerConfig
from trainables.errors import DivergedError, ModelError
from trainables.learner.deepspeed import dtype_of, gradient_norm, loading, rank_parts, start_engine
from trainables.learner.results import ValueStats
from trainables.learner.tokens import Float32, Padded, TokenBatch, ragged_index
from trainables.learner.value_batch import ValueBatch
from trainables.strategies.batch import CriticNeeds


class ValueModel(torch.nn.Module):
    """A decoder without its output layer, and one number per position."""

    def __init__(self, backbone: torch.nn.Module, start: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.backbone = backbone
        width = int(backbone.config.get_text_config().hidden_size)  # type: ignore[operator, union-attr]
        self.head = torch.nn.Linear(width, 1, dtype=dtype)
        # Every state is worth `start` at first, so that the policy does not follow random values.
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.constant_(self.head.bias, start)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the raw outputs (B, S)."""
        hidden_BSF = self.backbone(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=(attention_mask.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state
        raw: torch.Tensor = self.head(hidden_BSF).squeeze(-1).float()
        return raw


@dataclass
class Critic:
    """One rank's share of the critic. Shares ZeRO stage, micro-batches and clipping with the learner."""

    needs: CriticNeeds
    config: LearnerConfig
    pad_token: int
    rank: int
    world_size: int
    device: torch.device
    _engine: Any = field(default=None, init=False)
    _model: Any = field(default=None, init=False)

    def start(self, model: str) -> None:
        """Load the base weights afresh, with a new head."""
        dtype = dtype_of(self.config, self.device)
        with loading(self.config, dtype):
            backbone = AutoModel.from_pretrained(model, dtype=dtype, attn_implementation="sdpa")
        bias = self.needs.start
        if self.needs.level == "prompt":
            bias = math.log(bias / (1.0 - bias))
        self._model = ValueModel(backbone, bias, dtype)
        self._engine = start_engine(self._model, self.config, dtype, self.needs.lr)

    def close(self) -> None:
        """Give the engine's memory back."""
        if self._engine is not None:
            self._engine.destroy()
        self._engine = self._model = None
        gc.collect()

    @torch.no_grad()
    def values(self, batch: TokenBatch) -> Float32:
        """Return the value (M,) of the state that each response token is drawn from, in the batch's order.

        At level `prompt` all tokens of a response carry the value of its prompt.
        """
        value_M = np.zeros(batch.response_tokens, dtype=np.float32)
        for part in self._parts(batch):
            raw_BT = self._raw(part)
            if self.needs.level == "prompt":
                raw_BT = raw_BT[:, :1].sigmoid().expand_as(raw_BT)
            index = ragged_index(batch.response_length_N, part.row_B[part.row_B >= 0])
            value_M[index] = raw_BT.cpu().numpy()[part.response_mask_BT]
        return value_M

    def update(self, batch: ValueBatch) -> ValueStats:
        """Make one optimizer update towards the targets.

        Raises:
            DivergedError: The gradient norm is not finite.
        """
        engine, total, clipped = self._engine, 0.0, 0.0
        parts = list(self._parts(batch.tokens))
        for number, part in enumerate(parts):
            engine.set_gradient_accumulation_boundary(number == len(parts) - 1)
            loss, held = self._loss(batch, part, self._raw(part))
            loss = loss / batch.denominator
            # DeepSpeed averages over ranks; the denominator is the whole mini-batch's.
            engine.backward(loss * self.world_size)
            total += float(loss.detach())
            clipped += held / batch.denominator
        before = gradient_norm(engine, self._model, self.config.zero_stage)
        engine.step()
        norm = float(before if before is not None else engine.get_global_grad_norm())
        if not math.isfinite(norm):
            raise DivergedError(
                f"critic: the gradient norm is {norm}; lower strategy.prior.lr (now {self.needs.lr})"
            )
        return ValueStats(loss=total, gradient_norm=norm, clipped=clipped)

    def save(self, folder: Path) -> None:
        """Write DeepSpeed's state to `folder/critic`."""
        self._engine.save_checkpoint(str(folder / "critic"), tag="state")

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote.

        Raises:
            ModelError: The checkpoint holds no critic.
        """
        path, _ = self._engine.load_checkpoint(str(folder / "critic"), tag="state")
        if path is None:
            raise ModelError(f"checkpoint {folder}: holds no critic; delete it to start afresh")

    # -- internals ---------------------------------------------------------------------------------

    def _parts(self, batch: TokenBatch) -> Any:
        return rank_parts(batch, self.config.micro_batch_tokens, self.pad_token, self.world_size, self.device)

    def _raw(self, part: Padded) -> torch.Tensor:
        """Return the raw outputs (B, T) at the positions that predict the response's tokens."""
        longest = part.response_mask_BT.shape[1]
        token_BS = torch.from_numpy(part.token_BS).to(self.device)
        mask_BS = torch.from_numpy(part.mask_BS).to(self.device)
        raw_BS: torch.Tensor = self._engine(input_ids=token_BS, attention_mask=mask_BS)
        return raw_BS[:, -longest - 1 : -1]

    def _loss(self, batch: ValueBatch, part: Padded, raw_BT: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Sum the loss over the positions with a target; count those that clipping left without a gradient.

        Without a target the sum is zero but still carries a graph: the backward pass is collective.
        """
        target_BT = self._padded(batch, part, batch.target_M)
        if self.needs.level == "prompt":
            # All tokens of a response repeat the target of its prompt.
            raw_BT, target_BT = raw_BT[:, :1], target_BT[:, :1]
        known_BT = target_BT.isfinite()
        target_BT = target_BT.nan_to_num()
        if self.needs.level == "prompt":
            loss_BT = functional.binary_cross_entropy_with_logits(raw_BT, target_BT, reduction="none")
            return (loss_BT * known_BT).sum(), 0.0
        loss_BT = 0.5 * (raw_BT - target_BT).square()
        if self.needs.clip is None or batch.old_M is None:
            return (loss_BT * known_BT).sum(), 0.0
        old_BT = self._padded(batch, part, batch.old_M).nan_to_num()
        near_BT = old_BT + (raw_BT - old_BT).clamp(-self.needs.clip, self.needs.clip)
        near_loss_BT = 0.5 * (near_BT - target_BT).square()
        away_BT = (raw_BT - old_BT).abs() > self.needs.clip
        held = int(((near_loss_BT > loss_BT) & away_BT & known_BT).sum())
        return (torch.maximum(loss_BT, near_loss_BT) * known_BT).sum(), float(held)

    def _padded(self, batch: ValueBatch, part: Padded, value_M: Float32) -> torch.Tensor:
        """Lay out a number per response token (M,) as (B, T); NaN elsewhere."""
        index = ragged_index(batch.tokens.response_length_N, part.row_B[part.row_B >= 0])
        value_BT = np.full(part.response_mask_BT.shape, np.nan, dtype=np.float32)
        # A filler has an empty mask and an empty index.
        value_BT[part.response_mask_BT] = value_M[index]
        return torch.from_numpy(value_BT).to(self.device)
