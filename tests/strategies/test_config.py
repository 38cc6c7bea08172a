"""What a user writes under `strategy:`: forms, labels, resolution, refusals."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from trainables.strategies.config import (
    StrategyConfig,
    parse_strategy,
    preset_names,
    preset_parameters,
)
from trainables.strategies.fusion.tested import PAPER_ALPHA
from trainables.strategies.protocol import Strategy
from trimtab.errors import SpecError, StrategyError


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_resolves_dumps_and_builds(name: str) -> None:
    config = parse_strategy(name)
    assert parse_strategy(json.loads(config.model_dump_json())) == config
    assert isinstance(config.build(), Strategy)


def test_the_forms_a_user_may_write() -> None:
    assert parse_strategy("dapo").budget.type == "dynamic"
    assert parse_strategy({"preset": "v05", "group_size": 4, "alpha": 0.1}).label() == "v05(k=4,alpha=0.1)"
    opened = parse_strategy(
        {
            "prior": "strata",
            "fusion": {"type": "tested", "alpha": 0.1, "leave_one_out": True},
            "budget": {"type": "sequential", "k_min": 4, "k_max": 16, "cost": 0.00390625},
            "normaliser": "none",
        }
    )
    assert opened.fusion == parse_strategy({"preset": "v05_loo", "alpha": 0.1}).fusion
    assert opened.label() == "strata+tested(alpha=0.1,leave_one_out)+sequential(4-16)"
    assert parse_strategy("pkg.mine:Baseline").label() == "Baseline"
    assert parse_strategy({"preset": "v05", "prior": "tracker"}).prior.type == "tracker"
    assert parse_strategy({"preset": "rloo", "warmup": {"updates": 2, "strategy": "grpo"}}).warmup is not None


def test_min_rollouts_counts_what_one_prompt_needs() -> None:
    least = {name: parse_strategy(name).min_rollouts() for name in ("grpo", "v05", "remax", "spo", "v0")}
    assert least == {"grpo": 16, "v05": 4, "remax": 2, "spo": 1, "v0": 2}
    assert parse_strategy({"preset": "spo", "bootstrap": 8}).min_rollouts() == 8


def test_parameters_of_a_preset_carry_type_default_and_bounds() -> None:
    known = preset_parameters("v05")
    assert known["alpha"] == ("float", PAPER_ALPHA, (0, 1), ())
    assert known["group_size"][:2] == ("int", 4)
    assert preset_parameters("v0")["method"].choices == ("greedy", "lagrangian", "exact")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("dapoo", r"strategy\.preset: 'dapoo' is unknown; did you mean 'dapo'\? choose one of grpo"),
        ({"preset": "v05", "alpha": 1.5}, r"strategy\.alpha: 1\.5"),
        ({"preset": "v05", "alpha": 0.0}, r"strategy\.alpha: 0"),
        (
            {"preset": "v05", "aplha": 0.1},
            r"strategy\.aplha: unknown for preset 'v05' .*did you mean 'alpha'\? its parameters are",
        ),
        ({"preset": "v05", "group_size": 32}, r"strategy\.k_max: 16 is a cap below the group size k_min=32"),
        ({"preset": "grpo", "group_size": 1}, r"strategy\.group_size: 1"),
        (
            {"fusion": "group_mean", "budget": {"type": "fixed", "group_size": 1}},
            r"budget\.group_size: 1 .*one",
        ),
        ({"fusion": "leave_one_out", "budget": {"type": "fixed", "group_size": 1}}, r"group_size: 1"),
        ({"fusion": {"type": "tested", "alpha": 2}}, r"strategy\.fusion\.alpha: 2"),
        ({"fusion": "tested"}, r"strategy\.prior: none, but fusion 'tested'"),
        ({"prior": "strata", "fusion": "james_stein"}, r"set prior to pool"),
        ({"prior": "pool", "fusion": "prior_only", "budget": "weighted"}, r"speaks only after sampling"),
        ({"fusion": "testd"}, r"strategy\.fusion: 'testd' must be one of"),
        ({"foo": 1}, r"strategy\.foo: unknown key"),
        (3, r"strategy: 3 is neither"),
        (
            {"prior": "strata", "fusion": "tested", "budget": {"type": "sequential", "k_min": 8, "k_max": 4}},
            r"budget\.k_max: 4 is a cap below",
        ),
        ({"prior": "strata", "estimator": "gae"}, r"estimator: 'gae' needs token values"),
        ({"reward_range": [1, 0]}, r"reward_range: \[1\.0, 0\.0\]"),
        ({"prior": "strata", "fusion": {"type": "tested", "per_round": True}}, r"needs leave_one_out: true"),
        (
            {**parse_strategy("rloo").model_dump(), "name": "grpo"},
            r"differs from what preset 'grpo'",
        ),
    ],
)
def test_what_is_refused_names_field_value_and_fix(written: object, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_strategy(written)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_pkg.mine:X", "no module 'no_such_pkg'"),
        ("trainables.strategies.scale:Missing", "has no class 'Missing'"),
        ("trainables.strategies.scale:Scale", "makes a Scale, which is not a Strategy"),
    ],
)
def test_an_import_path_that_leads_nowhere_says_so(path: str, message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        parse_strategy(path).build()


def test_a_resolved_config_is_frozen() -> None:
    config = parse_strategy("rloo")
    assert isinstance(config, StrategyConfig)
    with pytest.raises(ValueError, match="frozen"):
        config.name = "grpo"  # type: ignore[misc]


def test_configs_load_without_what_is_slow_to_import() -> None:
    heavy = {"torch", "transformers", "ray", "vllm", "deepspeed"}
    assert not loaded("trainables.strategies.config") & (heavy | {"scipy", "sklearn", "pandas"})
    running = "trainables.strategies.priors.record, trainables.strategies.priors.probing.state"
    assert not loaded(running) & heavy


def loaded(modules: str) -> set[str]:
    """All modules of a fresh interpreter that has imported these."""
    code = f"import sys, {modules}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("strategy", "rounds"),
    [
        ("grpo", 16),
        ({"preset": "v05", "group_size": 4, "k_max": 64}, 61),
        ({"preset": "v05", "group_size": 4, "k_max": 64, "draw": 8}, 16),
        ({"preset": "v05", "group_size": 1, "k_max": 33, "draw": 2}, 17),
        ({"preset": "dapo", "max_refills": 30}, 31),
        ({"preset": "sara", "group_size": 32}, 32),
        ({"prior": "none", "budget": {"type": "two_phase", "group_size": 2, "k_max": 64}}, 32),
        ({"preset": "spo", "warmup": {"updates": 2, "strategy": {"preset": "dapo", "max_refills": 30}}}, 31),
    ],
)
def test_a_step_has_the_rounds_that_the_cap_needs(strategy, rounds):
    assert parse_strategy(strategy).rounds() == rounds
