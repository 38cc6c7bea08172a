"""A member of an axis is one class in one file, and one line in its table."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from tests.strategies.engine import FakeEngine
from trainables.strategies.composed import Composed
from trainables.strategies.config import parse_strategy, preset_names
from trainables.strategies.fusion.base import Baseline, Fusion, masked
from trainables.strategies.groups import Groups
from trainables.strategies.members.base import Custom, Member, OneOf, Share, label
from trainables.strategies.members.tables import FUSIONS, TABLES
from trainables.strategies.value_estimate import ValueEstimate
from trimtab.errors import StrategyError
from trimtab.tracking.translate import fingerprint

ROOM = Path(inspect.getfile(Composed)).parent
MEMBERS = sorted(
    {member for table in TABLES.values() for member in table.values() if member is not Custom},
    key=lambda member: member.__module__,
)
LONG = {
    "normalisers": "four members, and the base that users import from here",
    "fusion.tested": "two tests, with and without the scored rollout, in slices that stay in the cache",
    "budget.sequential": "the published stopping rule with its gain",
    "budget.adaptive.sara": "limits of two tests to check, and what they leave to fresh prompts",
    "budget.two_phase": "two caps to check, and rounds of its own",
    "priors.tracker": "what was learned of each prompt, beside the parameters",
    "priors.critic": "the values that train the critic, beside the parameters",
    "priors.probe": "eighteen parameters; what runs is in `probing`",
}
"""Members of more than 60 lines, and why."""


def name_of(member: type[Member]) -> str:
    return member.__module__.removeprefix("trainables.strategies.")


def parameters(member: type[Member]) -> set[str]:
    return set(member.model_fields) - {"type"}


def other_classes(file: Path) -> Iterator[tuple[str, set[str]]]:
    """Every class in a member's file, and in its axis' folder, that is not a member; and its fields."""
    for path in [file] if file.parent == ROOM else file.parent.rglob("*.py"):
        module = ".".join(path.relative_to(ROOM.parent.parent).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found = vars(importlib.import_module(module))[node.name]
                if not issubclass(found, Member):
                    fields = (n.target for n in node.body if isinstance(n, ast.AnnAssign))
                    yield f"{module}.{node.name}", {f.id for f in fields if isinstance(f, ast.Name)}


@pytest.mark.parametrize("axis", TABLES)
def test_a_table_names_its_members_by_their_type(axis: str) -> None:
    assert {name: member.model_fields["type"].default for name, member in TABLES[axis].items()} == {
        name: name for name in TABLES[axis]
    }


def test_a_member_is_one_file_of_at_most_60_lines() -> None:
    lines = {name_of(member): len(inspect.getsourcelines(inspect.getmodule(member))[0]) for member in MEMBERS}
    assert {name for name, count in lines.items() if count > 60} == set(LONG)
    files = [name_of(member) for member in MEMBERS if name_of(member) != "normalisers"]
    assert len(files) == len(set(files))


@pytest.mark.parametrize("member", MEMBERS, ids=name_of)
def test_a_parameter_stands_in_exactly_one_class(member: type[Member]) -> None:
    """What runs reads its parameters through the member and holds no copy of them."""
    others = other_classes(Path(inspect.getfile(member)))
    held = {name: fields & parameters(member) for name, fields in others}
    assert {name: fields for name, fields in held.items() if fields} == {}


class Halfway(Member, Fusion):
    """Halfway between the prior and the group's other rollouts: a member as a new file would hold it."""

    type: Literal["halfway"] = "halfway"
    share: Share = 0.5

    def fuse(self, groups: Groups, estimate: ValueEstimate | None) -> Baseline:
        count_N, sum_N = groups.others()
        return masked(self.share * sum_N / np.maximum(count_N, 1.0), count_N >= 1)


def test_a_new_member_takes_one_line_in_the_table() -> None:
    table = {**FUSIONS, "halfway": Halfway}

    class Strategy(BaseModel):
        fusion: Annotated[Member, OneOf(table)]

    assert Strategy.model_validate({"fusion": "halfway"}).fusion == Halfway()
    found = Strategy.model_validate({"fusion": {"type": "halfway", "share": 0.25}}).fusion
    assert isinstance(found, Halfway)
    assert label(found) == "halfway(share=0.25)"
    assert Strategy(fusion=found).model_dump(mode="json") == {"fusion": {"type": "halfway", "share": 0.25}}
    with pytest.raises(ValidationError, match="less than 1"):
        Strategy.model_validate({"fusion": {"type": "halfway", "share": 1.0}})
    strategy = Composed(fusion=found)
    batch = FakeEngine(np.linspace(0.1, 0.9, 40), np.zeros(40, np.int64)).step(strategy)
    assert np.isfinite(strategy.score(batch).advantage_N).all()


@dataclass(frozen=True)
class OthersMean(Fusion):
    """A fusion as a user's package holds it: no pydantic, and flags as fields of its own."""

    offset: float
    leaves_out: bool = True

    def fuse(self, groups: Groups, estimate: ValueEstimate | None) -> Baseline:
        count_N, sum_N = groups.others()
        return masked(sum_N / np.maximum(count_N, 1.0) + self.offset, count_N >= 1)


def test_a_users_class_needs_no_pydantic() -> None:
    own = {"type": "custom", "path": f"{__name__}:OthersMean", "params": {"offset": 0.1}}
    written = {"fusion": own, "budget": {"type": "fixed", "group_size": 4}}
    plain = parse_strategy({**written, "fusion": "leave_one_out"}).build()
    strategy = parse_strategy(written).build()
    batch = FakeEngine(np.linspace(0.1, 0.9, 40), np.zeros(40, np.int64)).step(strategy)
    moved_N = plain.score(batch).advantage_N - strategy.score(batch).advantage_N
    np.testing.assert_allclose(moved_N, 0.1)
    assert parse_strategy({**written, "prior": "probe"}).build()
    own["params"] = {"offset": 0.1, "leaves_out": False}
    with pytest.raises(StrategyError, match="set its `leaves_out`"):
        parse_strategy({**written, "prior": "probe"}).build()


STORED = {
    "grpo": "03b30cf0ea22e2d0",
    "dr_grpo": "b6879675c8430b50",
    "rloo": "73a29c32b6d03394",
    "dapo": "3e8cbe3d92e545d2",
    "hora": "c6e3cbfbef9b5476",
    "cero": "d71065b84cde4f04",
    "sara": "e23bece6f45a5331",
    "reinforce_pp": "338dc0f7e65c19b9",
    "remax": "04e080bc7b0e2d0f",
    "v05": "5bcc388bd50e7dba",
    "v05_loo": "e0c367a8e87dcf2f",
    "v05_unbiased": "aa6a5648961fa550",
    "v0": "5c55846da695356c",
    "poise": "318de21127e43c60",
    "ppo": "0fd9a861c7a35060",
    "sppo": "a6016d8445a58478",
    "spo": "e5ce4f5d42db01f4",
    "jspo": "11d1ad4c2d69568b",
    "ebpo": "77bc44f3c6af6961",
    "beta_mix": "9720819dbadd87c3",
    "global_mean": "63d7ef00aad01239",
    "dbb": "1ff42e618b092eac",
    "tether": "2cf2481ae822aff3",
    "evpo": "085cf972510af171",
    "kae": "80aa58e63504e9b6",
    "basis": "fd82342a66ca35cb",
}
"""Fingerprint of each preset as it is stored: sweeps that are resumed compare equal by it."""


def test_presets_are_stored_as_they_were() -> None:
    assert {
        name: fingerprint(parse_strategy(name).model_dump(mode="json")) for name in preset_names()
    } == STORED
