"""The clipped loss against what its papers say, by hand and by autograd."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from pydantic import ValidationError

from trainables.config import LossConfig
from trainables.learner.losses import LossInput, denominator_of, kl_penalty, policy_loss


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


def dual_clip_directly(logprob, old, advantage, config):
    """The cost of each token: the larger one of eq. 7 in PPO, then at most `dual_clip` times -A."""
    ratio = (logprob - old).exp()
    cost = -advantage * ratio
    cost_clipped = -advantage * ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    ppo = torch.maximum(cost, cost_clipped)
    return torch.where(advantage < 0, torch.minimum(-advantage * config.dual_clip, ppo), ppo)


@pytest.mark.parametrize("dual_clip", [1.1, 3.0])
def test_dual_clip_is_its_definition_in_value_and_gradient(dual_clip):
    config = LossConfig(dual_clip=dual_clip, importance_cap=None)
    generator = torch.Generator().manual_seed(0)
    logprob, old = torch.randn(2, 4, 50, generator=generator)
    advantage = torch.randn(4, 50, generator=generator)
    ours, theirs = logprob.clone().requires_grad_(), logprob.clone().requires_grad_()
    x = LossInput(ours, old, old, advantage, torch.ones(4), torch.ones(4, 50, dtype=torch.bool))
    sums = policy_loss(x, config, denominator=200)
    sums.loss.backward()
    expected = dual_clip_directly(theirs, old, advantage, config)
    expected.mean().backward()
    torch.testing.assert_close(sums.loss, expected.mean())
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert sums.clipped == (theirs.grad == 0).sum()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "moves"),
    [
        (2.9, -1.0, 2.9, True),
        (3.1, -1.0, 3.0, False),  # a bad token costs no more than 3 |A|
        (3.1, 1.0, -1.28, False),  # a good one is stopped by the clip alone
    ],
)
def test_dual_clip_bounds_negative_advantages_alone(ratio, advantage, loss, moves):
    x = one_row([math.log(ratio)], [0.0], [0.0], advantage)
    sums = policy_loss(x, LossConfig(dual_clip=3.0), denominator=1)
    sums.loss.backward()
    assert sums.loss.item() == pytest.approx(loss)
    assert (x.logprob_BT.grad.item() != 0) == moves
    assert sums.clipped == (0 if moves else 1)


@pytest.mark.parametrize("dual_clip", [1, 0.5, -3])
def test_a_dual_clip_that_is_not_above_one_is_refused(dual_clip):
    with pytest.raises(
        ValidationError, match=rf"dual_clip: {dual_clip} must be above 1.*set it to 3, or to null"
    ):
        LossConfig(dual_clip=dual_clip)


def test_the_ratio_is_bounded_at_20_nats():
    inside = one_row([20.0], [0.0], [0.0], -1.0)
    beyond = one_row([200.0], [0.0], [0.0], -1.0)
    sums = policy_loss(beyond, LossConfig(), denominator=1)
    sums.loss.backward()
    assert sums.loss.item() == pytest.approx(math.exp(20))
    assert sums.loss.item() == policy_loss(inside, LossConfig(), denominator=1).loss.item()
    assert beyond.logprob_BT.grad.item() == 0
    vanished = one_row([-200.0], [0.0], [0.0], 1.0)
    loss = policy_loss(vanished, LossConfig(), denominator=1).loss
    assert loss.item() == pytest.approx(-math.exp(-20))


@pytest.mark.parametrize(("sampler", "weight"), [(-200.0, math.exp(20)), (200.0, math.exp(-20))])
def test_the_importance_weight_is_bounded_at_20_nats(sampler, weight):
    x = one_row([0.0], [0.0], [sampler], 1.0)
    loss = policy_loss(x, LossConfig(importance_cap=1e30), denominator=1).loss
    assert loss.item() == pytest.approx(-weight)


@pytest.mark.parametrize("field", ["logprob", "old", "sampler", "advantage"])
@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dual_clip", [None, 3.0])
def test_padding_may_hold_anything(field, junk, dual_clip):
    clean = {name: torch.tensor([[-1.0, -2.0, 0.0]]) for name in ("logprob", "old", "sampler")}
    clean["advantage"] = torch.tensor([[1.0, -1.0, 0.0]])
    found = []
    for value in (0.0, junk):
        tensors = {name: tensor.clone() for name, tensor in clean.items()}
        tensors[field][0, 2] = value
        logprob = tensors["logprob"].requires_grad_()
        mask = torch.tensor([[True, True, False]])
        x = LossInput(logprob, tensors["old"], tensors["sampler"], tensors["advantage"], torch.ones(1), mask)
        loss = policy_loss(x, LossConfig(dual_clip=dual_clip), denominator=2).loss
        loss.backward()
        found.append((loss.item(), logprob.grad.tolist()))
    assert found[0] == found[1]
    assert found[1][1][0][2] == 0


@pytest.mark.parametrize("field", ["logprob", "old", "sampler", "advantage"])
@pytest.mark.parametrize("dual_clip", [None, 3.0])
def test_a_nan_that_is_trained_on_stays_one(field, dual_clip):
    tokens = {"logprob": [-1.0], "old": [-1.0], "sampler": [-1.0]}
    if field in tokens:
        tokens[field] = [math.nan]
    x = one_row(**tokens, advantage=math.nan if field == "advantage" else -1.0)
    assert math.isnan(policy_loss(x, LossConfig(dual_clip=dual_clip), denominator=1).loss.item())


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


def regularised(x: LossInput, **tensors) -> LossInput:
    return dataclasses.replace(x, **{name: torch.tensor([row]) for name, row in tensors.items()})


@pytest.mark.parametrize("sampler", [-1.0, -1.0 - math.log(2.0)])
def test_kl_pulls_back_and_takes_no_weight_between_sampler_and_learner(sampler):
    config = LossConfig.model_validate({"kl": {"coefficient": 0.1, "estimator": "k2"}})
    x = regularised(one_row([-1.0], [-1.0], [sampler], 0.0), reference_logprob_BT=[-1.5])
    sums = policy_loss(x, config, denominator=1)
    sums.loss.backward()
    assert x.logprob_BT.grad.item() == pytest.approx(0.1 * 0.5)
    assert sums.kl_reference == pytest.approx(0.125)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "abs"])
def test_kl_is_zero_at_the_reference(estimator):
    config = LossConfig.model_validate({"kl": {"coefficient": 1.0, "estimator": estimator}})
    x = regularised(one_row([-1.0, -3.0], [-1.0, -3.0], [-1.0, -3.0], 0.0), reference_logprob_BT=[-1.0, -3.0])
    sums = policy_loss(x, config, denominator=2)
    assert (sums.loss.item(), sums.kl_reference) == (0, 0)


def test_k1_and_k3_estimate_the_kl_and_k2_its_gradient():
    """Expectations over all tokens of a distribution, against the KL by its definition."""
    logits = torch.tensor([0.3, -1.0, 0.8, 0.1], dtype=torch.float64, requires_grad=True)
    reference = torch.log_softmax(torch.tensor([0.1, -0.7, 0.9, 0.4], dtype=torch.float64), -1)
    logprob = torch.log_softmax(logits, -1)
    probability = logprob.exp().detach()
    exact = (logprob.exp() * (logprob - reference)).sum()
    (expected,) = torch.autograd.grad(exact, logits, retain_graph=True)
    mean = {e: (probability * kl_penalty(logprob - reference, e)).sum() for e in ("k1", "k2", "k3")}
    assert mean["k1"].item() == pytest.approx(exact.item())
    assert mean["k3"].item() == pytest.approx(exact.item())
    (gradient,) = torch.autograd.grad(mean["k2"], logits, retain_graph=True)
    torch.testing.assert_close(gradient, expected)
    (nothing,) = torch.autograd.grad(mean["k1"], logits)
    torch.testing.assert_close(nothing, torch.zeros_like(nothing))


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant_length"])
def test_kl_and_entropy_are_aggregated_as_the_surrogate_is(aggregation):
    """Per token, k1 of the reference 0 costs what an advantage of -1 does, and so does an entropy of -1."""
    gradients, weight_B = [], torch.tensor([1.0, 3.0])
    for settings in ({}, {"kl": {"coefficient": 1.0, "estimator": "k1"}}, {"entropy_bonus": 1.0}):
        x = dataclasses.replace(two_rows(), weight_B=weight_B)
        sign = 0.0 if settings else -1.0
        x = dataclasses.replace(
            x,
            advantage_BT=torch.full((2, 3), sign),
            reference_logprob_BT=torch.zeros(2, 3),
            entropy_BT=-x.logprob_BT,
        )
        config = LossConfig.model_validate({"aggregation": aggregation, **settings})
        policy_loss(x, config, denominator_of(config, [3, 1], 8)).loss.backward()
        gradients.append(x.logprob_BT.grad)
    torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(gradients[2], gradients[0])


@pytest.mark.parametrize("field", ["reference_logprob_BT", "entropy_BT"])
@pytest.mark.parametrize("junk", [math.nan, math.inf])
def test_padding_of_reference_and_entropy_may_hold_anything(field, junk):
    config = LossConfig.model_validate({"kl": {"coefficient": 1.0}, "entropy_bonus": 1.0})
    found = []
    for value in (0.0, junk):
        rows = {"reference_logprob_BT": [-1.2, -2.0, 0.0], "entropy_BT": [1.0, 1.0, 0.0]}
        rows[field][2] = value
        x = one_row([-1.0, -2.0, 0.0], [-1.0, -2.0, 0.0], [-1.0, -2.0, 0.0], 1.0, mask=[True, True, False])
        loss = policy_loss(regularised(x, **rows), config, denominator=2).loss
        loss.backward()
        found.append((loss.item(), x.logprob_BT.grad.tolist()))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"kl": {"coefficient": 0.1}}, r"loss\.kl\.coefficient"),
        ({"entropy_bonus": 0.1}, r"loss\.entropy_bonus"),
    ],
)
def test_a_term_without_its_tensor_is_not_left_out_silently(settings, field):
    with pytest.raises(ValueError, match=field):
        policy_loss(one_row([-1.0], [-1.0], [-1.0], 1.0), LossConfig.model_validate(settings), denominator=1)


def test_without_its_coefficient_a_term_changes_no_bit():
    x = one_row([-1.0, -2.0], [-1.3, -1.7], [-1.1, -1.9], 0.7)
    plain = policy_loss(x, LossConfig(), denominator=2).loss
    config = LossConfig.model_validate({"kl": {"coefficient": 0.0, "estimator": "k2"}, "entropy_bonus": 0})
    x = regularised(x, reference_logprob_BT=[math.nan] * 2, entropy_BT=[math.nan] * 2)
    assert policy_loss(x, config, denominator=2).loss.item() == plain.item()


@pytest.mark.parametrize("settings", [{"kl": {"coefficient": -0.1}}, {"entropy_bonus": -0.1}])
def test_a_negative_coefficient_is_refused(settings):
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        LossConfig.model_validate(settings)


def test_nothing_to_train_has_a_denominator():
    for aggregation in ("token_mean", "sequence_mean", "constant_length"):
        assert denominator_of(LossConfig(aggregation=aggregation), [], 8) > 0


def test_tokens_are_counted_where_they_are_trained_and_a_limit_is_passed():
    """Ratio 2 is clipped, but not for an advantage of 0; weight 2 is capped at 1.5, and not at 2."""
    ratio = math.log(2.0)
    for advantage, clipped in ((1.0, 2), (0.0, 0)):
        x = one_row([ratio] * 3, [0.0] * 3, [-ratio] * 3, advantage, mask=[True, True, False])
        sums = policy_loss(x, LossConfig(importance_cap=1.5), denominator=1)
        assert (sums.clipped, sums.importance_capped, sums.kl_reference) == (clipped, 2, 0)
    x = one_row([0.0], [0.0], [0.0], 1.0)
    assert policy_loss(x, LossConfig(importance_cap=1.0), denominator=1).importance_capped == 0
    x = one_row([ratio] * 3, [0.0] * 3, [-ratio] * 3, 1.0, weight=0.0)
    config = LossConfig.model_validate({"kl": {"coefficient": 1.0, "estimator": "k1"}, "importance_cap": 1.5})
    sums = policy_loss(regularised(x, reference_logprob_BT=[0.0] * 3), config, denominator=1)
    assert (sums.clipped, sums.importance_capped, sums.kl_reference, sums.loss.item()) == (0, 0, 0, 0)
    negative = one_row([ratio], [0.0], [0.0], 1.0, weight=-0.5)
    assert policy_loss(negative, LossConfig(), denominator=1).clipped == 1, "any weight but 0 is trained"


def test_kl_estimators_by_hand():
    difference = torch.tensor([2.0, -2.0, 0.0])
    found = {name: kl_penalty(difference, name).tolist() for name in ("k1", "k2", "abs", "k3")}
    assert found["k1"] == [2.0, -2.0, 0.0]
    assert found["k2"] == [2.0, 2.0, 0.0]
    assert found["abs"] == [2.0, 2.0, 0.0]
    assert found["k3"] == pytest.approx([math.exp(-2) + 1, math.exp(2) - 3, 0.0])
    assert kl_penalty(torch.tensor([-3.0, -50.0, 30.0]), "k3").tolist() == [10.0, 10.0, 10.0]
    assert kl_penalty(torch.tensor([9.0]), "k3").item() == pytest.approx(8.0, abs=1e-3)


@pytest.mark.parametrize(
    ("aggregation", "some", "none"),
    [("token_mean", 5.0, 1.0), ("sequence_mean", 3.0, 1.0), ("constant_length", 24.0, 8.0)],
)
def test_a_mini_batch_is_divided_by_what_it_trains(aggregation, some, none):
    config = LossConfig(aggregation=aggregation)
    assert denominator_of(config, [2, 1, 2], 8) == some
    assert denominator_of(config, [], 8) == none


def test_a_sequence_without_a_token_is_divided_by_one():
    x = one_row([0.0, 0.0], [0.0, 0.0], [0.0, 0.0], 1.0, mask=[False, False])
    assert policy_loss(x, LossConfig(aggregation="sequence_mean"), denominator=1).loss.item() == 0
    x = one_row([0.0, 0.0], [0.0, 0.0], [0.0, 0.0], 1.0, mask=[True, False])
    assert policy_loss(x, LossConfig(aggregation="sequence_mean"), denominator=4).loss.item() == -0.25


def test_an_entropy_lowers_the_loss_by_its_bonus():
    x = regularised(one_row([0.0], [0.0], [0.0], 0.0), entropy_BT=[0.75])
    assert policy_loss(x, LossConfig(entropy_bonus=0.2), denominator=3).loss.item() == pytest.approx(-0.05)


def test_a_token_at_the_dual_clip_itself_is_not_stopped():
    x = one_row([math.log(2.0)], [0.0], [0.0], -1.0)
    assert x.logprob_BT.exp().item() == 2.0
    assert policy_loss(x, LossConfig(dual_clip=2.0), denominator=1).clipped == 0
    assert policy_loss(x, LossConfig(dual_clip=1.5), denominator=1).clipped == 1
