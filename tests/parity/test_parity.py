"""Our strategies and loss beside the peers' own functions, on the inputs they were run on.

The values are verl's (tests/parity/data/verl.json names version and files). `python -m benchmarks.peers`
recomputes them; nothing of the peers is needed here.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from benchmarks import peers
from trainables.config import LossConfig
from trainables.learner.losses import LossInput, denominator_of, policy_loss
from trainables.learner.policy import response_logprobs
from trainables.learner.tokens import Padded
from trainables.strategies.batch import Batch, Kind
from trainables.strategies.config import parse_strategy

ROOT = Path(__file__).resolve().parents[2]
DATA: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "verl.json").read_text())
GUIDE = ROOT / "docs" / "strategies.md"
EXACT = 1e-12
EPSILON = 1e-5
"""Whitening: verl adds 1e-8 to the variance, we add 1e-6 to its root."""
VISIBLE = 1e-3
"""What departs differs by at least this."""


class Case(NamedTuple):
    """One strategy of ours and the peer's function it is held to."""

    name: str
    strategy: Any
    source: str
    tolerance: float = EXACT


CASES = (
    Case("grpo", "grpo", "grpo"),
    Case("dapo", "dapo", "grpo"),
    Case("dr_grpo", "dr_grpo", "grpo without std"),
    Case("rloo", "rloo", "rloo"),
    Case("rloo", "rloo", "rloo_vectorized"),
    Case("reinforce_pp", "reinforce_pp", "reinforce_plus_plus_baseline", EPSILON),
    Case("remax", "remax", "remax"),
    Case("ppo", {"preset": "ppo", "lam": 1.0}, "gae lam=1", EPSILON),
    Case("ppo", {"preset": "ppo", "lam": 0.95}, "gae lam=0.95", EPSILON),
    Case("fusion: length_weighted", {"fusion": "length_weighted"}, "opo"),
)
BATCHES = tuple(DATA["batches"])

ALONE = "a group of one is left untrained; verl takes 0 for its mean"
ALONE_ZERO = "a group of one is left untrained and out of the whitening; verl takes 0 for its mean"
departures: dict[tuple[str, str], str] = {
    **{(source, "alone"): ALONE for source in ("grpo", "grpo without std", "rloo", "opo")},
    ("reinforce_plus_plus_baseline", "alone"): ALONE_ZERO,
}
"""(peer's function, batch) -> why ours differs. An entry that no longer differs fails."""

LOSSES = {
    "token-mean": "token_mean",
    "seq-mean-token-mean": "sequence_mean",
    "seq-mean-token-sum-norm": "constant_length",
}
ESTIMATORS = {"kl": "k1", "mse": "k2", "low_var_kl": "k3", "abs": "abs"}
SINGLE = 1e-6
"""The policy's log-probs and entropies are in float32."""


def batch_of(name: str, greedy: bool) -> Batch:
    """The stored inputs, with one greedy rollout for each prompt at the end if asked for."""
    given = DATA["batches"][name]
    sampled, prompts = len(given["prompt"]), len(given["greedy"])
    extra = prompts if greedy else 0
    prompt_N = np.array(given["prompt"] + list(range(extra)), np.int64)
    reward_N = np.array(given["reward"] + given["greedy"][:extra])
    kind_N = np.repeat([int(Kind.SAMPLE), int(Kind.GREEDY)], [sampled, extra])
    zero_N = np.zeros(sampled + extra, np.int64)
    return Batch(
        prompt_id_P=np.arange(prompts),
        stratum_P=np.zeros(prompts, np.int64),
        prompt_N=prompt_N,
        round_N=zero_N,
        kind_N=kind_N,
        trainable_N=kind_N == Kind.SAMPLE,
        verdict_N=zero_N,
        correct_N=reward_N,
        reward_N=reward_N,
        length_N=np.array(given["length"] + [1] * extra, np.int64),
        version_N=zero_N,
        dropped_P=np.zeros(prompts, np.bool_),
        values=tuple(map(np.array, given["values"] + [[0.5]] * extra)),
    )


def ours(case: Case, name: str) -> np.ndarray:
    """Weight times advantage of every sampled token, one after another."""
    batch = batch_of(name, greedy=case.name == "remax")
    scores = parse_strategy(case.strategy).build().score(batch)
    rows = scores.advantage_tokens
    if rows is None:
        rows = tuple(np.full(n, a) for n, a in zip(batch.length_N, scores.advantage_N, strict=True))
    sampled = np.flatnonzero(batch.kind_N == Kind.SAMPLE)
    return np.concatenate([scores.weight_N[n] * rows[n] for n in sampled])


def theirs(case: Case, name: str) -> np.ndarray:
    return np.concatenate(DATA["advantages"][name][case.source])


def distance(case: Case, name: str) -> float:
    return float(np.abs(ours(case, name) - theirs(case, name)).max())


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}-{case.source}")
def test_advantages_are_verls_or_depart_as_said(case: Case, name: str) -> None:
    if (case.source, name) in departures:
        assert distance(case, name) > VISIBLE, "it no longer departs: take the entry out of `departures`"
    else:
        assert distance(case, name) <= case.tolerance


def test_every_departure_is_of_a_case() -> None:
    assert set(departures) <= {(case.source, name) for case in CASES for name in BATCHES}


def padded(rows: list[list[float]]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row, dtype=torch.float64) for row in rows], batch_first=True
    )


def loss_of_ours(name: str) -> tuple[float, list[float]]:
    """Loss, and its gradient on the trained tokens one after another."""
    mode, _, dual_clip = name.partition(", ")
    given = DATA["loss_inputs"]
    new_BT, old_BT = padded(given["new"]).requires_grad_(), padded(given["old"])
    mask_BT = padded([[1.0] * n for n in given["length"]]).bool()
    weight_B = torch.ones(len(given["length"]), dtype=torch.float64)
    config = LossConfig(clip_low=0.2, clip_high=0.28, dual_clip=3.0 if dual_clip else None)
    config = LossConfig.model_validate(config.model_dump() | {"aggregation": LOSSES[mode]})
    inputs = LossInput(new_BT, old_BT, old_BT, padded(given["advantage"]), weight_B, mask_BT)
    denominator = denominator_of(config, given["length"], max(given["length"]))
    loss = policy_loss(inputs, config, denominator).loss
    loss.backward()
    assert new_BT.grad is not None
    return loss.item(), new_BT.grad[mask_BT].tolist()


@pytest.mark.parametrize("name", list(DATA["losses"]))
def test_loss_and_gradient_are_verls(name: str) -> None:
    """1e-7: verl adds 1e-8 to a rollout's length, and to nothing else."""
    loss, gradient = loss_of_ours(name)
    stored = DATA["losses"][name]
    apart = np.abs(np.array(gradient) - np.concatenate(stored["gradient"])).max()
    tolerance = 1e-7 if "seq-mean-token-mean" in name else EXACT
    assert max(abs(loss - stored["loss"]), apart) <= tolerance


def test_the_dual_clip_acts_on_the_stored_inputs() -> None:
    for mode in LOSSES:
        off, on = DATA["losses"][mode]["loss"], DATA["losses"][f"{mode}, dual clip"]["loss"]
        assert abs(off - on) > VISIBLE


def kl_of_ours(name: str, coefficient: float) -> tuple[float, list[float]]:
    """The loss without an advantage, which is the KL alone, and its gradient on the trained tokens."""
    mode, _, kind = name.partition(", ")
    given = DATA["loss_inputs"]
    new_BT = padded(given["new"]).requires_grad_()
    old_BT, reference_BT = new_BT.detach(), padded(DATA["regulariser_inputs"]["reference"])
    mask_BT = padded([[1.0] * n for n in given["length"]]).bool()
    weight_B = torch.ones(len(given["length"]), dtype=torch.float64)
    kl = {"coefficient": coefficient, "estimator": ESTIMATORS[kind]}
    config = LossConfig.model_validate({"aggregation": LOSSES[mode], "kl": kl})
    inputs = LossInput(new_BT, old_BT, old_BT, 0 * old_BT, weight_B, mask_BT, reference_BT)
    loss = policy_loss(inputs, config, denominator_of(config, given["length"], max(given["length"]))).loss
    loss.backward()
    assert new_BT.grad is not None
    return loss.item(), new_BT.grad[mask_BT].tolist()


@pytest.mark.parametrize("coefficient", [1.0, 0.001])
@pytest.mark.parametrize("name", list(DATA["kl"]))
def test_kl_and_its_gradient_are_verls(name: str, coefficient: float) -> None:
    """Relative 1e-8 for a mean over rollouts, for the reason given at the loss."""
    loss, gradient = kl_of_ours(name, coefficient)
    stored = DATA["kl"][name]
    expected = coefficient * np.array([stored["loss"], *np.concatenate(stored["gradient"])])
    relative = 2e-8 if "seq-mean-token-mean" in name else EXACT
    np.testing.assert_allclose([loss, *gradient], expected, rtol=relative, atol=EXACT)


def entropy_of_ours(mode: str, bonus: float) -> tuple[float, list[float]]:
    """The loss without an advantage, the bonus alone, and its gradient on the trained tokens' logits.

    The model is one that knows its logits by heart. Its prompt is one token, whose logits draw the first.
    """
    given, length = DATA["regulariser_inputs"]["logits"], DATA["loss_inputs"]["length"]
    rows, longest = len(length), max(length)
    mask_BT = padded([[1.0] * n for n in length]).bool()
    logits_BTV = torch.zeros(rows, longest, 6)
    logits_BTV[mask_BT] = torch.tensor(np.concatenate(given), dtype=torch.float32)
    logits_BTV.requires_grad_()
    last_B1V = torch.zeros(rows, 1, 6)

    def model(**_: Any) -> Any:
        return SimpleNamespace(logits=torch.cat([logits_BTV, last_B1V], dim=1))

    tokens = np.zeros((rows, longest + 1), np.int64)
    part = Padded(np.arange(rows), tokens, np.ones_like(tokens), mask_BT.numpy())
    here = torch.device("cpu")
    logprob_BT, entropy_BT = response_logprobs(model, part, peers.TEMPERATURE, here, entropy=True)
    old_BT = logprob_BT.detach()
    config = LossConfig.model_validate({"aggregation": LOSSES[mode], "entropy_bonus": bonus})
    inputs = LossInput(
        logprob_BT, old_BT, old_BT, 0 * old_BT, torch.ones(rows), mask_BT, entropy_BT=entropy_BT
    )
    loss = policy_loss(inputs, config, denominator_of(config, length, longest)).loss
    loss.backward()
    assert logits_BTV.grad is not None
    return loss.item(), logits_BTV.grad[mask_BT].flatten().tolist()


@pytest.mark.parametrize("mode", list(LOSSES))
def test_the_entropy_bonus_and_its_gradient_are_verls(mode: str) -> None:
    loss, gradient = entropy_of_ours(mode, 0.5)
    stored = DATA["entropy"][mode]
    expected = -0.5 * np.array([stored["loss"], *np.concatenate(stored["gradient"]).ravel()])
    np.testing.assert_allclose([loss, *gradient], expected, rtol=0, atol=SINGLE)


def test_both_bounds_of_k3_act_on_the_stored_inputs() -> None:
    stored = DATA["kl"]["token-mean, low_var_kl"]["gradient"][0]
    assert stored[:3] == [0, 0, 0]
    assert stored[3] != 0


def test_the_stored_inputs_are_those_that_the_benchmark_makes() -> None:
    assert peers.moved(DATA["batches"], peers.batches()) == []
    assert peers.moved(DATA["loss_inputs"], peers.losses()) == []
    assert peers.moved(DATA["regulariser_inputs"], peers.regularisers()) == []
    assert f"verl=={DATA['source']['version']}" == peers.VERL


def test_a_value_that_moved_is_found() -> None:
    found = json.loads(json.dumps(DATA))
    assert peers.moved(DATA, found) == []
    found["advantages"]["even"]["grpo"][0][0] += 1e-6
    (place,) = peers.moved(DATA, found)
    assert place.startswith("/advantages/even/grpo/0/0: stored ")
    del found["losses"]["token-mean"]
    assert len(peers.moved(DATA, found)) == 2


def table() -> str:
    """The section's table for docs/strategies.md."""
    rows = ["| ours | verl's function | equal on | departs on |", "|---|---|---|---|"]
    for case in CASES:
        why = {name: departures[case.source, name] for name in BATCHES if (case.source, name) in departures}
        equal = ", ".join(name for name in BATCHES if name not in why)
        apart = [f"{', '.join(n for n in why if why[n] == r)}: {r}" for r in dict.fromkeys(why.values())]
        rows.append(f"| `{case.name}` | `{case.source}` | {equal} | {'; '.join(apart) or 'none'} |")
    for mode, aggregation in LOSSES.items():
        source = f"| `loss.aggregation: {aggregation}` | `vanilla`, `{mode}`"
        rows.append(f"{source} | dual clip off, dual clip 3 | none |")
    for kind, estimator in ESTIMATORS.items():
        rows.append(f"| `loss.kl.estimator: {estimator}` | `kl_penalty`, `{kind}` | all three modes | none |")
    rows.append("| `loss.entropy_bonus` | `entropy_from_logits` | all three modes | none |")
    return "\n".join(rows)


def test_the_guides_table_is_what_these_tests_hold() -> None:
    assert table() in GUIDE.read_text(), f"put this into docs/strategies.md:\n{table()}"
