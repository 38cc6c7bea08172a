"""What a confirmation retrains: the best of all or of each candidate, at the settings it was found at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trimtab.decide.confirm import confirmation_spec
from trimtab.errors import SpecError
from trimtab.sweepdir import journal
from trimtab.sweepdir.folder import SweepDir
from trimtab.sweepspec.load import parse_spec
from trimtab.sweepspec.spec import SweepSpec

Raw = dict[str, Any]


@pytest.fixture
def tuned(raw: Raw, tmp_path: Path) -> SweepSpec:
    """DAPO, V0.5 and RLOO, each at two learning rates."""
    return parse_spec(
        raw
        | {
            "home": str(tmp_path),
            "shared_search": {"learner.lr": {"choice": [5e-5, 4e-4]}},
            "candidates": [{"strategy": "v05"}, {"strategy": "rloo"}],
            "search": {"sampler": "grid"},
            "confirm": {"each": True, "seeds": 5},
        }
    )


@pytest.fixture
def home(tuned: SweepSpec, tmp_path: Path) -> Path:
    """The sweep has ended: the higher rate was better for V0.5 and DAPO, the lower one for RLOO."""
    folder = SweepDir.create(tmp_path, "tuned")
    folder.write_spec(tuned)
    scores = {("dapo", 5e-5): 0.5, ("dapo", 4e-4): 0.52, ("v05", 5e-5): 0.55, ("v05", 4e-4): 0.6}
    scores |= {("rloo", 5e-5): 0.58, ("rloo", 4e-4): 0.3}
    families = {tuned.label_of(one): one for one in (tuned.reference, *tuned.candidates)}
    for number, ((family, rate), score) in enumerate(scores.items()):
        config = tuned.config_of(families[family], {"learner.lr": rate}).model_dump(mode="json")
        role = "candidate" if family != "dapo" else "reference" if number == 0 else "tuned_reference"
        started = {"role": role, "family": family, "label": f"{family} {rate}", "number": number}
        for event in (
            {"event": "trial_started", "config": config, "seeds": [0, 1, 2], "searched": {}, **started},
            {"event": "trial_finished", "status": "finished", "score": score, "error": None},
        ):
            journal.append(folder.path, {"trial": f"trial-{number:04d}", "time": float(number), **event})
    return tmp_path


def rates(spec: SweepSpec) -> list[tuple[str, float]]:
    return [(config.strategy.name, config.learner.lr) for config in spec.configs()]


def test_the_best_of_each_is_retrained_with_its_own_rate_and_so_is_the_reference(home: Path) -> None:
    found = confirmation_spec(home, "tuned")
    assert rates(found) == [("dapo", 4e-4), ("v05", 4e-4), ("rloo", 5e-5)]
    assert found.reference_label == "dapo"
    assert found.seeds == (3, 4, 5, 6, 7)
    assert found.trials == 3
    assert not any(found.space_of(one).ranges for one in (found.reference, *found.candidates))
    assert found.reference_config().evaluation.split == "test"


def test_what_is_asked_for_comes_before_what_the_spec_says(home: Path) -> None:
    best = confirmation_spec(home, "tuned", top=1, seeds=2, each=False)
    assert rates(best) == [("dapo", 4e-4), ("v05", 4e-4)]
    assert len(best.seeds) == 2
    assert rates(confirmation_spec(home, "tuned", top=2)) == [
        ("dapo", 4e-4), ("v05", 4e-4), ("rloo", 5e-5), ("v05", 5e-5), ("rloo", 4e-4),
    ]  # fmt: skip


def test_a_confirmation_of_nothing(raw: Raw) -> None:
    with pytest.raises(SpecError, match=r"confirm\.seeds: 0 must be greater than or equal to 1"):
        parse_spec(raw | {"confirm": {"seeds": 0}})
