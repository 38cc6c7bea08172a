"""Our strategies and loss beside the peers' own functions, on the inputs they were run on.

The values are verl's, TRL's, JSPO's and SPPO's (tests/parity/data: each file names version or commit).
`python -m benchmarks.peers` recomputes them; nothing of the peers is needed here. `presets.toml` has a line
for every preset that is not compared here.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from benchmarks import peers, peers_jspo, peers_sppo, peers_trl
from trainables.config import LossConfig
from trainables.learner.losses import LossInput, denominator_of, policy_loss
from trainables.learner.policy import response_logprobs
from trainables.learner.tokens import Padded
from trainables.strategies.batch import Batch, Kind
from trainables.strategies.config import parse_strategy
from trainables.strategies.fusion.james_stein import weights
from trainables.strategies.groups import Groups
from trainables.strategies.presets.table import PRESETS
from trainables.strategies.scale import UNIT

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
DATA: dict[str, Any] = {
    name: json.loads((HERE / "data" / f"{name}.json").read_text()) for name in ("verl", "trl", "jspo", "sppo")
}
LISTED: dict[str, dict[str, str]] = tomllib.loads((HERE / "presets.toml").read_text())
GUIDE = ROOT / "docs" / "strategies.md"
PEER = {
    "verl": f"verl {DATA['verl']['source']['version']}",
    "trl": f"TRL {DATA['trl']['source']['version']}",
    "jspo": f"JSPO-Official {DATA['jspo']['source']['commit']}",
    "sppo": f"SPPO {DATA['sppo']['source']['commit']}",
}
"""Names in the table."""
EXACT = 1e-12
EPSILON = 1e-5
"""Whitening: verl adds 1e-8 to the variance, we add 1e-6 to its root."""
SINGLE = 1e-7
"""TRL divides the counts of a standard deviation in single precision."""
STD_EPSILON = 1e-3
"""TRL adds 1e-4 to a group's standard deviation, verl and we add 1e-6."""
VISIBLE = 1e-3
"""What departs differs by at least this."""


class Case(NamedTuple):
    """One strategy of ours and the peer's function it is held to. A preset's case has its name."""

    name: str
    strategy: Any
    peer: str
    source: str
    tolerance: float = EXACT

    def on(self, batch: str) -> tuple[str, str, str, str]:
        """Key of `departures`."""
        return (self.name, self.peer, self.source, batch)


STD_OF_TRL = {"preset": "grpo", "normaliser": {"type": "group_std", "epsilon": 1e-4}}
RAW_SPPO = {"preset": "sppo", "normaliser": "none"}
CASES = (
    Case("grpo", "grpo", "verl", "grpo"),
    Case("grpo", "grpo", "trl", "grpo, scale_rewards group", STD_EPSILON),
    Case("grpo, normaliser.epsilon: 1e-4", STD_OF_TRL, "trl", "grpo, scale_rewards group", SINGLE),
    Case("dapo", "dapo", "verl", "grpo"),
    Case("dapo", "dapo", "trl", "grpo, scale_rewards group", STD_EPSILON),
    Case("v0", "v0", "verl", "grpo"),
    Case("hora", "hora", "verl", "grpo"),
    Case("cero", "cero", "verl", "grpo"),
    Case("sara", "sara", "verl", "grpo"),
    Case("dr_grpo", "dr_grpo", "verl", "grpo without std"),
    Case("dr_grpo", "dr_grpo", "trl", "grpo, scale_rewards none"),
    Case("rloo", "rloo", "verl", "rloo"),
    Case("rloo", "rloo", "verl", "rloo_vectorized"),
    Case("rloo", "rloo", "trl", "rloo"),
    Case("reinforce_pp", "reinforce_pp", "verl", "reinforce_plus_plus_baseline", EPSILON),
    Case("remax", "remax", "verl", "remax"),
    Case("ppo", {"preset": "ppo", "lam": 1.0}, "verl", "gae lam=1", EPSILON),
    Case("ppo", {"preset": "ppo", "lam": 0.95}, "verl", "gae lam=0.95", EPSILON),
    Case("sppo", "sppo", "sppo", "compute_sequence_level_advantage"),
    Case("sppo, normaliser: none", RAW_SPPO, "sppo", "compute_sequence_level_advantage"),
    Case("jspo", "jspo", "jspo", "compute_jspo_outcome_advantage"),
    Case("fusion: length_weighted", {"fusion": "length_weighted"}, "verl", "opo"),
    Case("normaliser: batch_std", {"normaliser": "batch_std"}, "trl", "grpo, scale_rewards batch"),
)

ALONE = "a group of one is left untrained; verl takes 0 for its mean"
ALONE_ZERO = "a group of one is left untrained and out of the whitening; verl takes 0 for its mean"
OTHER_STD = "the advantages' std divides; TRL divides by the rewards'"
FACTOR = "the others' mean weighs (n - 1)/n of the code's weight, by the paper's text"
PAIR = "two prompts shrink nothing; the code takes the one other prompt for all others"
MIXED = ("even", "ragged", "fractions", "alone")
WHITENED = "the preset whitens; the code does not"
MEAN_OF_ONE = ("grpo", "grpo without std", "rloo", "opo")
"""verl's functions that take 0 for the mean of a group of one."""
APART = (
    *((case, ("alone",), ALONE) for case in CASES if case.peer == "verl" and case.source in MEAN_OF_ONE),
    *((case, ("alone",), ALONE_ZERO) for case in CASES if case.name == "reinforce_pp"),
    *((case, peers.GROUPS, WHITENED) for case in CASES if case.name == "sppo"),
    *((case, ("even", "fractions"), FACTOR) for case in CASES if case.name == "jspo"),
    *((case, ("two prompts",), PAIR) for case in CASES if case.name == "jspo"),
    *((case, MIXED, OTHER_STD) for case in CASES if case.name == "normaliser: batch_std"),
)
departures = {case.on(batch): why for case, batches, why in APART for batch in batches}
"""(ours, peer, its function, batch) -> why ours differs. An entry that no longer differs fails."""

LOSSES = {
    ("verl", "token-mean"): "token_mean",
    ("verl", "seq-mean-token-mean"): "sequence_mean",
    ("verl", "seq-mean-token-sum-norm"): "constant_length",
    ("trl", "dapo"): "token_mean",
    ("trl", "bnpo"): "token_mean",
    ("trl", "grpo"): "sequence_mean",
    ("trl", "dr_grpo"): "constant_length",
}
"""(peer, its mode) -> our aggregation. Our dual clip at 3 is verl's `clip_ratio_c` and TRL's `delta`."""
CLIPPED = {"verl": "dual clip", "trl": "delta"}
ESTIMATORS = {"kl": "k1", "mse": "k2", "low_var_kl": "k3", "abs": "abs"}
KL_SEQUENCE = 2e-8
"""Relative: verl adds 1e-8 to a rollout's length."""
UNBOUNDED = "far references: a token's k3 above 10 nats counts as 10; TRL has no bound"
FLOAT32 = 1e-6
"""The policy's log-probs and entropies are in float32."""


def of_groups(groups: list[list[float]]) -> dict[str, Any]:
    """Inputs of groups whose responses are one token long."""
    prompt = [row for row, group in enumerate(groups) for _ in group]
    reward = [float(r) for group in groups for r in group]
    return {"prompt": prompt, "reward": reward, "length": [1] * len(prompt), "greedy": [0.0] * len(groups)}


def of_sppo(name: str) -> dict[str, Any]:
    """The inputs with the value that SPPO's code makes of its critic's logit, at every token."""
    given = DATA["verl"]["batches"][name]
    chance_P = 1 / (1 + np.exp(-np.array(DATA["sppo"]["logits"][name])))
    values = [[float(chance_P[p])] * n for p, n in zip(given["prompt"], given["length"], strict=True)]
    return {**given, "values": values}


BATCHES: dict[str, dict[str, Any]] = {
    "verl": DATA["verl"]["batches"],
    "trl": DATA["verl"]["batches"],
    "sppo": {name: of_sppo(name) for name in DATA["verl"]["batches"]},
    "jspo": {name: of_groups(groups) for name, groups in peers_jspo.GROUPS.items()},
}
"""Peer -> its inputs by name."""
RUNS = [(case, name) for case in CASES for name in BATCHES[case.peer]]


def batch_of(given: dict[str, Any], greedy: bool = False) -> Batch:
    """The stored inputs, with one greedy rollout for each prompt at the end if asked for."""
    sampled, prompts = len(given["prompt"]), len(given["greedy"])
    extra = prompts if greedy else 0
    prompt_N = np.array(given["prompt"] + list(range(extra)), np.int64)
    reward_N = np.array(given["reward"] + given["greedy"][:extra])
    kind_N = np.repeat([int(Kind.SAMPLE), int(Kind.GREEDY)], [sampled, extra])
    zero_N = np.zeros(sampled + extra, np.int64)
    values = given.get("values", [[0.5] * n for n in given["length"]])
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
        values=tuple(map(np.array, values + [[0.5]] * extra)),
    )


def ours(case: Case, name: str) -> np.ndarray:
    """Weight times advantage of every sampled token, one after another."""
    batch = batch_of(BATCHES[case.peer][name], greedy=case.name == "remax")
    scores = parse_strategy(case.strategy).build().score(batch)
    rows = scores.advantage_tokens
    if rows is None:
        rows = tuple(np.full(n, a) for n, a in zip(batch.length_N, scores.advantage_N, strict=True))
    sampled = np.flatnonzero(batch.kind_N == Kind.SAMPLE)
    return np.concatenate([scores.weight_N[n] * rows[n] for n in sampled])


def theirs(case: Case, name: str) -> np.ndarray:
    if case.peer == "verl":
        return np.concatenate(DATA["verl"]["advantages"][name][case.source])
    if case.peer == "trl":
        return np.repeat(DATA["trl"]["advantages"][name][case.source], BATCHES["trl"][name]["length"])
    if case.peer == "sppo":
        return np.repeat(DATA["sppo"]["advantages"][name], BATCHES["sppo"][name]["length"])
    return np.array(DATA["jspo"]["jspo"][name]["advantage"])


def distance(case: Case, name: str) -> float:
    return float(np.abs(ours(case, name) - theirs(case, name)).max())


@pytest.mark.parametrize(("case", "name"), RUNS, ids=[f"{c.name}-{c.peer}-{c.source}-{n}" for c, n in RUNS])
def test_advantages_are_the_peers_or_depart_as_said(case: Case, name: str) -> None:
    if case.on(name) in departures:
        assert distance(case, name) > VISIBLE, "it no longer departs: take the entry out of `departures`"
    else:
        assert distance(case, name) <= case.tolerance


def test_every_departure_is_of_a_case() -> None:
    assert set(departures) <= {case.on(name) for case, name in RUNS}


@pytest.mark.parametrize("name", ["even", "fractions"])
def test_james_steins_weight_is_the_codes_but_for_the_factor(name: str) -> None:
    """1e-5: the code adds 1e-6 to the sum of both variances."""
    given = BATCHES["jspo"][name]
    prompts = len(given["greedy"])
    groups = Groups(np.array(given["prompt"]), np.array(given["reward"]), prompts, scale=UNIT)
    weight_N = np.array(DATA["jspo"]["jspo"][name]["weight"])
    apart_N = weights(groups)[given["prompt"]] - (prompts - 1) / prompts * weight_N
    assert float(np.abs(apart_N).max()) < EPSILON


def padded(rows: list[list[float]]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row, dtype=torch.float64) for row in rows], batch_first=True
    )


def loss_of_ours(aggregation: str, dual_clip: bool) -> tuple[float, list[float]]:
    """Loss, and its gradient on the trained tokens one after another."""
    given = DATA["verl"]["loss_inputs"]
    new_BT, old_BT = padded(given["new"]).requires_grad_(), padded(given["old"])
    mask_BT = padded([[1.0] * n for n in given["length"]]).bool()
    weight_B = torch.ones(len(given["length"]), dtype=torch.float64)
    config = LossConfig(clip_low=0.2, clip_high=0.28, dual_clip=3.0 if dual_clip else None)
    config = LossConfig.model_validate(config.model_dump() | {"aggregation": aggregation})
    inputs = LossInput(new_BT, old_BT, old_BT, padded(given["advantage"]), weight_B, mask_BT)
    denominator = denominator_of(config, given["length"], max(given["length"]))
    loss = policy_loss(inputs, config, denominator).loss
    loss.backward()
    assert new_BT.grad is not None
    return loss.item(), new_BT.grad[mask_BT].tolist()


def loss_tolerance(peer: str, aggregation: str) -> float:
    """verl adds 1e-8 to a rollout's length, and to nothing else."""
    return 1e-7 if (peer, aggregation) == ("verl", "sequence_mean") else EXACT


@pytest.mark.parametrize("clipped", [False, True], ids=["one-sided", "dual clip"])
@pytest.mark.parametrize(("peer", "mode"), LOSSES)
def test_loss_and_gradient_are_the_peers(peer: str, mode: str, clipped: bool) -> None:
    aggregation = LOSSES[peer, mode]
    loss, gradient = loss_of_ours(aggregation, clipped)
    stored = DATA[peer]["losses"][f"{mode}, {CLIPPED[peer]}" if clipped else mode]
    apart = np.abs(np.array(gradient) - np.concatenate(stored["gradient"])).max()
    assert max(abs(loss - stored["loss"]), apart) <= loss_tolerance(peer, aggregation)


@pytest.mark.parametrize(("peer", "mode"), LOSSES)
def test_the_dual_clip_acts_on_the_stored_inputs(peer: str, mode: str) -> None:
    stored = DATA[peer]["losses"]
    assert abs(stored[mode]["loss"] - stored[f"{mode}, {CLIPPED[peer]}"]["loss"]) > VISIBLE


def test_every_stored_value_is_compared() -> None:
    for peer in ("verl", "trl"):
        assert {case.source for case in CASES if case.peer == peer} == set(DATA[peer]["advantages"]["even"])
        modes = {mode for other, mode in LOSSES if other == peer}
        with_kl = {f"{mode}, {kl}" for mode in modes for kl in REFERENCES if peer == "trl"}
        dual = {f"{mode}, {CLIPPED[peer]}" for mode in modes}
        assert modes | dual | with_kl == set(DATA[peer]["losses"])
    assert set(DATA["jspo"]["jspo"]) == set(peers_jspo.GROUPS)


def kl_of_ours(name: str, coefficient: float) -> tuple[float, list[float]]:
    """The loss without an advantage, which is the KL alone, and its gradient on the trained tokens."""
    mode, _, kind = name.partition(", ")
    given = DATA["verl"]["loss_inputs"]
    new_BT = padded(given["new"]).requires_grad_()
    old_BT, reference_BT = new_BT.detach(), padded(DATA["verl"]["regulariser_inputs"]["reference"])
    mask_BT = padded([[1.0] * n for n in given["length"]]).bool()
    weight_B = torch.ones(len(given["length"]), dtype=torch.float64)
    kl = {"coefficient": coefficient, "estimator": ESTIMATORS[kind]}
    config = LossConfig.model_validate({"aggregation": LOSSES["verl", mode], "kl": kl})
    inputs = LossInput(new_BT, old_BT, old_BT, 0 * old_BT, weight_B, mask_BT, reference_BT)
    loss = policy_loss(inputs, config, denominator_of(config, given["length"], max(given["length"]))).loss
    loss.backward()
    assert new_BT.grad is not None
    return loss.item(), new_BT.grad[mask_BT].tolist()


@pytest.mark.parametrize("coefficient", [1.0, 0.001])
@pytest.mark.parametrize("name", list(DATA["verl"]["kl"]))
def test_kl_and_its_gradient_are_verls(name: str, coefficient: float) -> None:
    """Relative 1e-8 for a mean over rollouts, for the reason given at the loss."""
    loss, gradient = kl_of_ours(name, coefficient)
    stored = DATA["verl"]["kl"][name]
    expected = coefficient * np.array([stored["loss"], *np.concatenate(stored["gradient"])])
    relative = KL_SEQUENCE if "seq-mean-token-mean" in name else EXACT
    np.testing.assert_allclose([loss, *gradient], expected, rtol=relative, atol=EXACT)


REFERENCES = {
    "kl": DATA["verl"]["loss_inputs"]["old"],
    "far kl": DATA["verl"]["regulariser_inputs"]["reference"],
}


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("mode", [mode for peer, mode in LOSSES if peer == "trl"])
def test_surrogate_and_kl_are_trls_but_for_far_references(mode: str, reference: str) -> None:
    """Its `beta` is our coefficient."""
    given = DATA["verl"]["loss_inputs"]
    new_BT, old_BT = padded(given["new"]).requires_grad_(), padded(given["old"])
    mask_BT = padded([[1.0] * n for n in given["length"]]).bool()
    weight_B = torch.ones(len(given["length"]), dtype=torch.float64)
    reference_BT = padded(REFERENCES[reference])
    kl = {"coefficient": peers_trl.BETA, "estimator": "k3"}
    config = LossConfig.model_validate({"aggregation": LOSSES["trl", mode], "kl": kl})
    inputs = LossInput(new_BT, old_BT, old_BT, padded(given["advantage"]), weight_B, mask_BT, reference_BT)
    loss = policy_loss(inputs, config, denominator_of(config, given["length"], max(given["length"]))).loss
    loss.backward()
    assert new_BT.grad is not None
    stored = DATA["trl"]["losses"][f"{mode}, {reference}"]
    gradient = new_BT.grad[mask_BT].numpy()
    apart = max(
        abs(loss.item() - stored["loss"]), np.abs(gradient - np.concatenate(stored["gradient"])).max()
    )
    assert apart > VISIBLE if reference == "far kl" else apart <= EXACT
    assert abs(stored["loss"] - DATA["trl"]["losses"][mode]["loss"]) > VISIBLE


def entropy_of_ours(mode: str, bonus: float) -> tuple[float, list[float]]:
    """The loss without an advantage, the bonus alone, and its gradient on the trained tokens' logits.

    The model is one that knows its logits by heart. Its prompt is one token, whose logits draw the first.
    """
    given, length = DATA["verl"]["regulariser_inputs"]["logits"], DATA["verl"]["loss_inputs"]["length"]
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
    config = LossConfig.model_validate({"aggregation": LOSSES["verl", mode], "entropy_bonus": bonus})
    inputs = LossInput(
        logprob_BT, old_BT, old_BT, 0 * old_BT, torch.ones(rows), mask_BT, entropy_BT=entropy_BT
    )
    loss = policy_loss(inputs, config, denominator_of(config, length, longest)).loss
    loss.backward()
    assert logits_BTV.grad is not None
    return loss.item(), logits_BTV.grad[mask_BT].flatten().tolist()


@pytest.mark.parametrize("mode", peers.MODES)
def test_the_entropy_bonus_and_its_gradient_are_verls(mode: str) -> None:
    loss, gradient = entropy_of_ours(mode, 0.5)
    stored = DATA["verl"]["entropy"][mode]
    expected = -0.5 * np.array([stored["loss"], *np.concatenate(stored["gradient"]).ravel()])
    np.testing.assert_allclose([loss, *gradient], expected, rtol=0, atol=FLOAT32)


def test_both_bounds_of_k3_act_on_the_stored_inputs() -> None:
    stored = DATA["verl"]["kl"]["token-mean, low_var_kl"]["gradient"][0]
    assert stored[:3] == [0, 0, 0]
    assert stored[3] != 0


def test_the_stored_inputs_are_those_that_the_benchmark_makes() -> None:
    assert peers.moved(DATA["verl"]["batches"], peers.batches()) == []
    assert peers.moved(DATA["verl"]["loss_inputs"], peers.losses()) == []
    assert peers.moved(DATA["verl"]["regulariser_inputs"], peers.regularisers()) == []
    assert f"verl=={DATA['verl']['source']['version']}" == peers.VERL
    assert f"trl=={DATA['trl']['source']['version']}" == peers.TRL
    assert peers.TRL in (ROOT / "constraints.txt").read_text().split()
    assert DATA["jspo"]["source"]["commit"] == peers_jspo.COMMIT
    assert DATA["sppo"]["source"]["commit"] == peers_sppo.COMMIT
    assert peers.moved(DATA["sppo"]["logits"], peers_sppo.logits()) == []


def test_a_value_that_moved_is_found() -> None:
    stored = DATA["verl"]
    found = json.loads(json.dumps(stored))
    assert peers.moved(stored, found) == []
    found["advantages"]["even"]["grpo"][0][0] += 1e-6
    (place,) = peers.moved(stored, found)
    assert place.startswith("/advantages/even/grpo/0/0: stored ")
    del found["losses"]["token-mean"]
    assert len(peers.moved(stored, found)) == 2


def test_code_that_is_not_on_pypi_is_skipped_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert not peers.check("jspo", ROOT / "no-such-environment", clone=None, write=False)
    assert "guanning03/JSPO-Official at 3f8539d is not on PyPI" in capsys.readouterr().out


def without_row(presets: Iterable[str]) -> list[str]:
    """Presets that neither a case nor `presets.toml` names."""
    return sorted(set(presets) - {case.name for case in CASES} - set(LISTED))


def test_every_preset_has_its_rows_in_one_place() -> None:
    missing = without_row(PRESETS)
    assert missing == [], f"give each of {missing} a Case here, or a line in tests/parity/presets.toml"
    assert without_row([*PRESETS, "new"]) == ["new"]
    assert set(LISTED) <= set(PRESETS) - {case.name for case in CASES}
    assert {tuple(sorted(line)) for line in LISTED.values()} == {("departs", "equal", "source")}


def short(tolerance: float) -> str:
    return f"{tolerance:.0e}".replace("e-0", "e-")


def row_of(case: Case) -> str:
    names = list(BATCHES[case.peer])
    why = {name: departures.get(case.on(name), "") for name in names}
    equal = ", ".join(name for name in names if not why[name])
    apart = [f"{', '.join(n for n in names if why[n] == r)}: {r}" for r in dict.fromkeys(why.values()) if r]
    found = f"{equal} (within {short(case.tolerance)})" if equal else "-"
    return f"| `{case.name}` | {PEER[case.peer]} `{case.source}` | {found} | {'; '.join(apart) or '-'} |"


def table() -> str:
    """The section's table for docs/strategies.md: presets, members, losses."""
    rows = ["| ours | source | equal to it on | departs by |", "|---|---|---|---|"]
    of_presets = {
        name: [row_of(case) for case in CASES if case.name.split(",")[0] == name] for name in PRESETS
    }
    for name, line in LISTED.items():
        of_presets[name] = [f"| `{name}` | {line['source']} | {line['equal']} | {line['departs']} |"]
    rows += [row for name in PRESETS for row in of_presets[name]]
    rows += [row_of(case) for case in CASES if case.name.split(",")[0] not in PRESETS]
    for (peer, mode), aggregation in LOSSES.items():
        source = f"| `loss.aggregation: {aggregation}` | {PEER[peer]} `{mode}`, loss and gradient"
        within = f"(within {short(loss_tolerance(peer, aggregation))})"
        rows.append(f"{source} | one-sided clip, {CLIPPED[peer]} 3 {within} | - |")
    for kind, estimator in ESTIMATORS.items():
        source = f"{PEER['verl']} `kl_penalty`, `{kind}`, loss and gradient"
        within = f"within {short(EXACT)}, sequence_mean relative {short(KL_SEQUENCE)}"
        rows.append(f"| `loss.kl.estimator: {estimator}` | {source} | all three modes ({within}) | - |")
    source = f"{PEER['trl']} `beta`, loss and gradient"
    equal = f"all loss types (within {short(EXACT)})"
    rows.append(f"| `loss.kl.estimator: k3` | {source} | {equal} | {UNBOUNDED} |")
    source = f"{PEER['verl']} `entropy_from_logits`, loss and gradient"
    rows.append(f"| `loss.entropy_bonus` | {source} | all three modes (within {short(FLOAT32)}) | - |")
    return "\n".join(rows)


def test_the_guides_table_is_what_these_tests_hold() -> None:
    assert table() in GUIDE.read_text(), f"put this into docs/strategies.md:\n{table()}"
