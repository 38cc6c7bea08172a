"""The clipped policy-gradient loss, shared by every strategy. torch.

Sources: PPO (arXiv 1707.06347, eq. 7), clip-higher and token mean (DAPO, arXiv 2503.14476, eq. 8),
dual clip (Ye et al. 2019, arXiv 1912.09729, eq. 5), constant length (Dr. GRPO, arXiv 2503.20783), truncated
importance weights between sampler and learner (Yao et al. 2025, "Your efficient RL framework secretly brings
you off-policy RL training"), KL to a reference as a loss (GRPO, arXiv 2402.03300, eq. 3) by the estimators of
Schulman ("Approximating KL divergence", 2020). The bounds on log-ratios and on k3 are those of verl's
`compute_policy_loss` and `kl_penalty`, of which the code was read.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainables.config import KlConfig, LossConfig

LOG_RATIO_BOUND = 20.0
"""Nats. A log-ratio beyond it counts as this much, so that its exponential stays finite in float32."""
K3_BOUND = 10.0
"""Nats. A token's k3 beyond it counts as this much, and has no gradient."""


@dataclass(frozen=True)
class LossInput:
    """One micro-batch: B rows of at most T response tokens. `logprob_BT` and `entropy_BT` carry a gradient.

    What the tensors hold outside `mask_BT` is never read into the loss, not even a NaN.
    """

    logprob_BT: torch.Tensor
    old_logprob_BT: torch.Tensor
    sampler_logprob_BT: torch.Tensor
    advantage_BT: torch.Tensor
    weight_B: torch.Tensor
    mask_BT: torch.Tensor
    reference_logprob_BT: torch.Tensor | None = None
    """Read if `kl.coefficient` is not 0."""
    entropy_BT: torch.Tensor | None = None
    """Nats; read if `entropy_bonus` is not 0."""


@dataclass(frozen=True)
class LossSums:
    """The loss of a micro-batch, and counts over its trained tokens."""

    loss: torch.Tensor
    """Scalar, already divided by the mini-batch's denominator."""
    clipped: float
    """Tokens that a clip pushes no further; those that `dual_clip` stops are among them."""
    importance_capped: float
    """Tokens whose sampler/learner weight hit the cap."""
    kl_reference: float
    """Sum of the tokens' KL to the reference, nats; 0 without a reference."""


def policy_loss(x: LossInput, config: LossConfig, denominator: float) -> LossSums:
    """Compute the loss, to be minimised, divided by `denominator` (see `denominator_of`).

    It is the clipped surrogate, plus the KL to the reference, minus the entropy. All three are aggregated in
    one way, but the weight between sampler and learner is the surrogate's alone (as in verl). The loss is a
    differentiable scalar. A micro-batch without a trained token gives an exact zero that still carries a
    graph, so that collectives in the backward pass match on every rank.
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
    cost = -surrogate
    active = x.mask_BT & (x.weight_B != 0)[:, None]
    kl_reference = 0.0
    if config.kl.coefficient:
        kl = _kl_to_reference(x, config.kl)
        cost = cost + config.kl.coefficient * kl
        kl_reference = float((kl.detach() * active).sum())
    if config.entropy_bonus:
        entropy = _given(x.entropy_BT, "entropy_bonus")
        cost = cost - config.entropy_bonus * torch.where(x.mask_BT, entropy, 0)
    token_loss = cost * mask * x.weight_B[:, None]
    if config.aggregation == "sequence_mean":
        token_loss = token_loss / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return LossSums(
        loss=token_loss.sum() / denominator,
        clipped=float((stopped & active).sum()),
        importance_capped=float((capped & active).sum()),
        kl_reference=kl_reference,
    )


def kl_penalty(difference: torch.Tensor, estimator: str) -> torch.Tensor:
    """Estimate each token's KL, nats, from `difference` = log pi - log pi_reference of a token drawn from pi.

    The values of k1 and k3 are unbiased (Schulman 2020). Of the gradients that of k2 is, and that of k1 has
    mean 0.
    """
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return 0.5 * difference.square()
    if estimator == "abs":
        return difference.abs()
    bounded = (-difference).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    return (torch.exp(bounded) - bounded - 1).clamp(max=K3_BOUND)


def _kl_to_reference(x: LossInput, config: KlConfig) -> torch.Tensor:
    """Return (B, T); 0 outside the mask."""
    reference_BT = _given(x.reference_logprob_BT, "kl.coefficient")
    # Padding is replaced first, for the reason given at `_ratio`.
    return kl_penalty(torch.where(x.mask_BT, x.logprob_BT - reference_BT, 0), config.estimator)


def _given(tensor: torch.Tensor | None, field: str) -> torch.Tensor:
    if tensor is None:
        raise ValueError(f"loss.{field}: is not 0, and the micro-batch lacks the tensor that it acts on")
    return tensor


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
