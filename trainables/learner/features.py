"""Hidden states of the teacher-forced pass, pooled by forward hooks while it runs. torch.

POISE (arXiv 2605.07579, section 3.2): the outputs of decoder blocks, averaged over the last tokens of the
prompt and over the last tokens of the reasoning. Pooling happens inside the pass, in fp32, so what is kept is
O(L d) numbers per rollout and never a whole sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trainables.errors import ModelError, StrategyError
from trainables.learner.tokens import Float32, Int32, Padded, TokenBatch
from trainables.strategies.batch import FeatureNeeds, Features
from trainables.strategies.suits import layer_error

HALF_MAX = float(torch.finfo(torch.float16).max)
"""Large models have states beyond fp16's range in a few dimensions."""


@dataclass(frozen=True)
class FeaturePlan:
    """`FeatureNeeds` for one model and tokenizer. Plain values, so that it can be sent to every rank."""

    layer: int
    window: int
    end_tokens: tuple[int, ...]
    """Token ids that end the reasoning; empty if the tokenizer cannot write the text."""
    survey: int | None
    """As `FeatureNeeds.survey`."""

    @staticmethod
    def of(needs: FeatureNeeds, layers: int, tokenizer: Any) -> FeaturePlan:
        """Resolve the needs for a model of `layers` decoder blocks.

        Raises:
            StrategyError: The model does not have the block.
        """
        ids = tokenizer(needs.reasoning_end, add_special_tokens=False)["input_ids"]
        # A tokenizer that lacks the characters gives its unknown token, which other text shares.
        written = tokenizer.decode(ids).strip() == needs.reasoning_end
        return FeaturePlan(block_of(needs, layers), needs.window, tuple(ids) if written else (), needs.survey)


def block_of(needs: FeatureNeeds, layers: int) -> int:
    """Return the decoder block, from 0, that a strategy asks for in a model of `layers` blocks.

    Raises:
        StrategyError: The model does not have it.
    """
    if needs.layer is None:
        return min(layers - 1, int(needs.depth * layers))
    problem = layer_error(needs.layer, layers)
    if problem is not None:
        raise StrategyError(problem)
    return needs.layer


def decoder_blocks(model: torch.nn.Module) -> torch.nn.ModuleList:
    """Find the decoder blocks of a transformers causal language model: the list as long as its depth.

    Raises:
        ModelError: There is no such list.
    """
    layers = int(model.config.get_text_config().num_hidden_layers)  # type: ignore[operator, union-attr]
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model  # type: ignore[operator]
    for module in (decoder or model).modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == layers:
            return module
    raise ModelError(
        f"{type(model).__name__}: found no list of its {layers} decoder blocks to read states from"
    )


def reasoning_length(batch: TokenBatch, end_tokens: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Count response tokens (N,) up to and including the last end of reasoning; 0 without one."""
    end_N = np.zeros(batch.rollouts, dtype=np.int64)
    if not end_tokens:
        return end_N
    total_N = batch.prompt_length_N + batch.response_length_N
    rollout_S = np.repeat(np.arange(batch.rollouts), total_N)
    place_S = np.arange(batch.tokens) - np.repeat(
        np.cumsum(total_N) - total_N + batch.prompt_length_N, total_N
    )
    found_S = np.zeros(batch.tokens, dtype=np.bool_)
    size = len(end_tokens)
    ends = np.ones(max(0, batch.tokens - size + 1), dtype=np.bool_)
    for shift, token in enumerate(end_tokens):
        ends &= batch.token_S[shift : shift + len(ends)] == token
    found_S[size - 1 :] = ends
    # The whole tag must lie in the response; position s ends a span of s + 1 tokens.
    found_S &= place_S >= size - 1
    np.maximum.at(end_N, rollout_S[found_S], place_S[found_S] + 1)
    return end_N


def entropy_means(entropy_M: Float32, length_N: Int32, reasoning_N: npt.NDArray[np.int64]) -> Float32:
    """Average the entropy, nats, over response, reasoning and answer, (N, 3).

    A response whose reasoning does not end (`reasoning_N` 0) has 0 for reasoning and answer, as in POISE's
    released code. Its whole is in the first column already.
    """
    length_N = length_N.astype(np.int64)
    first_N = np.cumsum(length_N) - length_N
    place_M = np.arange(len(entropy_M)) - np.repeat(first_N, length_N)
    inside_M = place_M < np.repeat(reasoning_N, length_N)
    row_M = np.repeat(np.arange(len(length_N)), length_N)
    whole = np.bincount(row_M, entropy_M, len(length_N))
    reasoning = np.bincount(row_M, entropy_M * inside_M, len(length_N))
    answer_N = np.where(reasoning_N > 0, length_N - reasoning_N, 0)
    means = [
        whole / length_N,
        reasoning / np.maximum(reasoning_N, 1),
        np.where(answer_N > 0, whole - reasoning, 0.0) / np.maximum(answer_N, 1),
    ]
    return np.stack(means, axis=1).astype(np.float32)


@dataclass
class StatePooler:
    """Averages hidden states over windows of tokens, for one rank's rollouts, micro-batch by micro-batch."""

    model: torch.nn.Module
    plan: FeaturePlan
    reasoning_N: npt.NDArray[np.int64]
    """Response tokens up to the end of reasoning; 0 where it does not end."""
    layers: int = field(init=False)
    _index_BJ: torch.Tensor = field(init=False)
    """Columns that are averaged, first the prompt's and then the reasoning's: J = 2 W."""
    _weight_B2W: torch.Tensor = field(init=False)
    _pooled: dict[int, torch.Tensor] = field(init=False, default_factory=dict)
    _own: list[Float32] = field(init=False, default_factory=list)
    _survey: list[npt.NDArray[np.float16]] = field(init=False, default_factory=list)
    _rows: list[npt.NDArray[np.int64]] = field(init=False, default_factory=list)
    _projection: torch.Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.layers = len(decoder_blocks(self.model))

    @contextmanager
    def listening(self) -> Iterator[StatePooler]:
        """Hook the decoder blocks for the duration of a `with` block."""
        blocks = decoder_blocks(self.model)
        wanted = range(self.layers) if self.plan.survey is not None else (self.plan.layer,)
        handles = [blocks[block].register_forward_hook(partial(self._hook, block)) for block in wanted]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def aim(self, part: Padded, device: torch.device) -> None:
        """Set the windows of the micro-batch that runs next."""
        response_T = part.response_mask_BT.shape[1]
        prompt_Q = part.token_BS.shape[1] - response_T
        prompt_B = part.mask_BS[:, :prompt_Q].sum(axis=1)
        end_B = np.ones(len(part.row_B), dtype=np.int64)
        real_B = part.row_B >= 0
        closed_B, length_B = self.reasoning_N[part.row_B[real_B]], part.response_mask_BT[real_B].sum(axis=1)
        end_B[real_B] = np.where(closed_B > 0, closed_B, length_B)
        back_W = np.arange(self.plan.window)
        # Prompts are padded on the left: all end at column Q - 1, and responses begin at Q.
        ends_B2 = np.stack([np.full_like(end_B, prompt_Q), prompt_Q + end_B], axis=1)
        count_B2 = np.minimum(np.stack([prompt_B, end_B], axis=1), self.plan.window)
        used_B2W = back_W < count_B2[..., None]
        # An unused place repeats a used one: padding, whose states mean nothing, is never read.
        column_B2W = ends_B2[..., None] - 1 - np.minimum(back_W, np.maximum(count_B2[..., None] - 1, 0))
        weight_B2W = (used_B2W / np.maximum(count_B2[..., None], 1)).astype(np.float32)
        self._index_BJ = torch.from_numpy(column_B2W.reshape(len(end_B), -1)).to(device)
        self._weight_B2W = torch.from_numpy(weight_B2W).to(device)
        self._pooled = {}

    def collect(self, part: Padded) -> None:
        """Take what the hooks pooled of the micro-batch that has just run."""
        real_B = part.row_B >= 0
        pooled, self._pooled = self._pooled, {}
        if not real_B.any():
            return
        rows = torch.from_numpy(real_B)
        self._rows.append(part.row_B[real_B])
        self._own.append(pooled[self.plan.layer].cpu()[rows].numpy())
        if self.plan.survey is not None:
            all_BL2F = torch.stack([pooled[block] for block in range(self.layers)], dim=1)
            self._survey.append(self._projected(all_BL2F).cpu()[rows].numpy())

    def features(self, entropy_N3: Float32) -> Features:
        """Return the features of all rollouts, in the batch's order."""
        count = len(self.reasoning_N)
        width = int(self.model.config.get_text_config().hidden_size)  # type: ignore[operator, union-attr]
        own = np.concatenate(self._own) if self._own else np.zeros((0, 2, width), np.float32)
        order = np.argsort(np.concatenate(self._rows)) if self._rows else np.zeros(0, np.int64)
        survey = None
        if self.plan.survey is not None:
            size = self.plan.survey if 0 < self.plan.survey < width else width
            empty = np.zeros((0, self.layers, 2, size), np.float16)
            survey = (np.concatenate(self._survey) if self._survey else empty)[order]
        if len(order) != count:
            raise ModelError(f"states of {len(order)} rollouts were pooled, not of {count}")
        return Features(self.plan.layer, own[order, 0], own[order, 1], entropy_N3, survey)

    def _hook(self, block: int, module: torch.nn.Module, inputs: Any, output: Any) -> None:
        hidden_BSF = output[0] if isinstance(output, tuple) else output
        rows, columns = self._index_BJ.shape
        index = self._index_BJ[..., None].expand(rows, columns, hidden_BSF.shape[-1])
        picked = hidden_BSF.detach().gather(1, index).float().view(rows, 2, self.plan.window, -1)
        self._pooled[block] = torch.einsum("bpw,bpwf->bpf", self._weight_B2W, picked)

    def _projected(self, all_BL2F: torch.Tensor) -> torch.Tensor:
        """Project (B, L, 2, F) to (B, L, 2, K), in fp16, by the same Gaussian matrix on every rank."""
        width, size = all_BL2F.shape[-1], self.plan.survey
        if size and size < width:
            if self._projection is None:
                generator = torch.Generator().manual_seed(0)
                matrix = torch.randn(width, size, generator=generator) / width**0.5
                self._projection = matrix.to(all_BL2F.device)
            all_BL2F = all_BL2F @ self._projection
        # clamp keeps NaN, so that a broken state stays visible.
        return all_BL2F.clamp(-HALF_MAX, HALF_MAX).half()
