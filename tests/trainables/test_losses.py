"""The clipped loss against what its papers say, by hand and by autograd."""

from __future__ import annotations

import math

import pytest
import torch

from trainables.config import LossConfig
from trainables.learner.losses import LossInput, denominator_of, policy_loss


def one_row(logprob, old, sampler, advantage, weight=1.0, mask=None):
    logprob = torch.tensor([logprob], requires_grad=True)
    length = logprob.shape[1]
    return LossInput(
        logprob_BT=logprob,
        old_logprob_BT=torch.tensor([old]),
        sampler_logprob_BT=torch.tensor([sampler]),
        advantage_BT=torch.full((1, length), advantage),
        weight_B=torch.tensor([weight]),
        mask_BT=torch.tensor([[True] * length]) if mask is None else torch.tensor([mask]),
    )


def test_on_policy_gradient_is_minus_advantage_over_tokens():
    x = one_row([-1.0, -2.0], [-1.0, -2.0], [-1.0, -2.0], advantage=0.7)
    policy_loss(x, LossConfig(), denominator=2).loss.backward()
    assert x.logprob_BT.grad[0].tolist() == pytest.approx([-0.35, -0.35])


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [
        (1.27, 1.0, True),
        (1.29, 1.0, False),  # clip-higher: above 1 + .28 a good token is pushed no further
        (1.29, -1.0, True),
        (0.81, -1.0, True),
        (0.79, -1.0, False),  # below 1 - .2 a bad token is pushed no further
        (0.79, 1.0, True),
    ],
)
def test_clip_is_asymmetric_and_pessimistic(ratio, advantage, moves):
    x = one_row([math.log(ratio)], [0.0], [0.0], advantage)
    sums = policy_loss(x, LossConfig(), denominator=1)
    sums.loss.backward()
    assert (x.logprob_BT.grad.abs().item() > 0) == moves
    assert sums.clipped == (0 if moves else 1)


def test_importance_weight_is_truncated_and_carries_no_gradient():
    x = one_row([0.0], [0.0], [-math.log(5.0)], advantage=1.0)
    sums = policy_loss(x, LossConfig(importance_cap=2.0), denominator=1)
    sums.loss.backward()
    assert x.logprob_BT.grad.item() == pytest.approx(-2.0)
    assert sums.importance_capped == 1
    x = one_row([0.0], [0.0], [-math.log(5.0)], advantage=1.0)
    policy_loss(x, LossConfig(importance_cap=None), denominator=1).loss.backward()
    assert x.logprob_BT.grad.item() == pytest.approx(-1.0)


def test_masked_tokens_and_weightless_rollouts_do_nothing():
    x = one_row([-1.0, 5.0], [-1.0, float("-3")], [-1.0, 9.0], 1.0, mask=[True, False])
    policy_loss(x, LossConfig(), denominator=1).loss.backward()
    assert x.logprob_BT.grad[0, 1].item() == 0
    x = one_row([-1.0], [-1.0], [-1.0], 1.0, weight=0.0)
    policy_loss(x, LossConfig(), denominator=1).loss.backward()
    assert x.logprob_BT.grad.abs().sum() == 0


def two_rows() -> LossInput:
    logprob = torch.zeros(2, 3, requires_grad=True)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    zeros = torch.zeros(2, 3)
    return LossInput(logprob, zeros, zeros, torch.ones(2, 3), torch.ones(2), mask)


@pytest.mark.parametrize(
    ("aggregation", "first", "second"),
    [
        ("token_mean", -1 / 4, -1 / 4),
        ("sequence_mean", -1 / 6, -1 / 2),
        ("constant_length", -1 / 16, -1 / 16),
    ],
)
def test_aggregations(aggregation, first, second):
    x, config = two_rows(), LossConfig(aggregation=aggregation)
    policy_loss(x, config, denominator_of(config, [3, 1], max_tokens=8)).loss.backward()
    assert x.logprob_BT.grad[0].tolist() == pytest.approx([first] * 3)
    assert x.logprob_BT.grad[1].tolist() == pytest.approx([second, 0, 0])


def test_nothing_to_train_has_a_denominator():
    for aggregation in ("token_mean", "sequence_mean", "constant_length"):
        assert denominator_of(LossConfig(aggregation=aggregation), [], 8) > 0
