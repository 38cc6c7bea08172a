"""The clipped policy-gradient loss, shared by every strategy. torch.

Sources: PPO (arXiv 1707.06347, eq. 7), clip-higher and token mean (DAPO, arXiv 2503.14476, eq. 8),
dual clip (Ye et al. 2019, arXiv 1912.09729, eq. 5), constant length (Dr. GRPO, arXiv 2503.20783), truncated
importance weights between sampler and learner (Yao et al. 2025, "Your efficient RL framework secretly brings
you off-policy RL training"). The bound on log-ratios is that of verl's `compute_policy_loss`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainables.config import LossConfig

LOG_RATIO_BOUND = 20.0
"""Nats. A log-ratio beyond it counts as this much, so that its exponential stays finite in float32."""


@dataclass(frozen=True)
class LossInput:
    """One micro-batch: B rows of at most T response tokens. Only `logprob_BT` carries a gradient.

    What the tensors hold outside `mask_BT` is never read into the loss, not even a NaN.
    """

    logprob_BT: torch.Tensor
    old_logprob_BT: torch.Tensor
    sampler_logprob_BT: torch.Tensor
    advantage_BT: torch.Tensor
    weight_B: torch.Tensor
    mask_BT: torch.Tensor


@dataclass(frozen=True)
class LossSums:
    """The loss of a micro-batch, and counts over its trained tokens."""

    loss: torch.Tensor
    """Scalar, already divided by the mini-batch's denominator."""
    clipped: float
    """Tokens that a clip pushes no further; those that `dual_clip` stops are among them."""
    importance_capped: float
    """Tokens whose sampler/learner weight hit the cap."""


def policy_loss(x: LossInput, config: LossConfig, denominator: float) -> LossSums:
    """Compute the clipped surrogate, to be minimised, divided by `denominator` (see `denominator_of`).

    The loss is a differentiable scalar. A micro-batch without a trained token gives an exact zero that still
    carries a graph, so that collectives in the backward pass match on every rank.
    """
    mask = x.mask_BT.to(x.logprob_BT.dtype)
    advantage = torch.where(x.mask_BT, x.advantage_BT, 0)
    ratio = _ratio(x.logprob_BT, x.old_logprob_BT, x.mask_BT)
    bounded = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    surrogate = torch.minimum(ratio * advantage, bounded * advantage)
    stopped = (bounded != ratio) & (ratio * advantage > bounded * advantage)
    if config.dual_clip is not None:
        floor = config.dual_clip * advantage
        beyond = (advantage < 0) & (surrogate < floor)
        surrogate = torch.where(beyond, floor, surrogate)
        stopped = stopped | beyond
    importance = _ratio(x.old_logprob_BT, x.sampler_logprob_BT, x.mask_BT)
    capped = torch.zeros_like(x.mask_BT)
    if config.importance_cap is not None:
        capped = (importance > config.importance_cap) & x.mask_BT
        surrogate = surrogate * importance.clamp(max=config.importance_cap)
    token_loss = -surrogate * mask * x.weight_B[:, None]
    if config.aggregation == "sequence_mean":
        token_loss = token_loss / mask.sum(dim=1, keepdim=True).clamp(min=1)
    active = x.mask_BT & (x.weight_B != 0)[:, None]
    return LossSums(
        loss=token_loss.sum() / denominator,
        clipped=float((stopped & active).sum()),
        importance_capped=float((capped & active).sum()),
    )


def _ratio(logprob_BT: torch.Tensor, other_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Return exp(logprob - other), bounded by exp(+-LOG_RATIO_BOUND), and 1 outside the mask.

    Padding is replaced before the exponential: multiplying it by 0 would keep a NaN, in the value and in the
    gradient. A NaN under the mask stays one, because that is a fault to be noticed.
    """
    difference_BT = torch.where(mask_BT, logprob_BT - other_BT, 0)
    return torch.exp(difference_BT.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND))


def denominator_of(config: LossConfig, lengths: list[int], max_tokens: int) -> float:
    """Return what a mini-batch's loss is divided by, from the lengths of its *trained* rollouts, in tokens.

    token_mean: their tokens; sequence_mean: their number; constant_length: their number times `max_tokens`.
    Never 0, so that a mini-batch in which nothing is trained gives a zero gradient.
    """
    if config.aggregation == "token_mean":
        return float(max(1, sum(lengths)))
    if config.aggregation == "sequence_mean":
        return float(max(1, len(lengths)))
    return float(max(1, len(lengths)) * max_tokens)
