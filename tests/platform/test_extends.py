"""A spec laid over another: mappings merge, lists and scalars replace, the result is whole."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import SpecError
from trimtab.sweepspec.load import laid_over, load_spec, read_extended, shipped_spaces

Raw = dict[str, Any]

LEAVES = st.none() | st.booleans() | st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2)
MAPPINGS = st.dictionaries(
    st.sampled_from("abc"),
    st.recursive(LEAVES, lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3)),
    max_size=3,
)
MINIMAL = {"name": "mine", "reference": {"strategy": "dapo"}, "candidates": [{"strategy": "v05"}]}


def leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every path that ends in something other than a mapping, or in an empty one."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, tree


def at(tree: Any, path: tuple[str, ...]) -> Any:
    """What lies at the end of the path; None where it ends before."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def mentioned(tree: Any, path: tuple[str, ...]) -> bool:
    """Whether a tree reaches the end of the path, or replaces what lies on it."""
    for key in path:
        if not isinstance(tree, dict):
            return True
        if key not in tree:
            return False
        tree = tree[key]
    return True


def write(file: Path, raw: Raw) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(raw, sort_keys=False))
    return file


@given(MAPPINGS, MAPPINGS)
def test_what_the_upper_file_says_holds(base: Raw, top: Raw) -> None:
    merged = laid_over(base, top)
    for path, value in leaves(top):
        if value != {}:
            assert at(merged, path) == value
        else:
            assert isinstance(at(merged, path), dict)


@given(MAPPINGS, MAPPINGS)
def test_what_the_upper_file_does_not_mention_stays(base: Raw, top: Raw) -> None:
    merged = laid_over(base, top)
    for path, value in leaves(base):
        if not mentioned(top, path):
            assert at(merged, path) == value


@given(MAPPINGS, MAPPINGS)
def test_a_merge_changes_neither_side_and_adds_nothing_of_its_own(base: Raw, top: Raw) -> None:
    before = copy.deepcopy((base, top))
    merged = laid_over(base, top)
    assert (base, top) == before
    assert list(merged) == [*base, *(key for key in top if key not in base)]
    assert laid_over(base, {}) == base
    assert laid_over({}, top) == top
    assert laid_over(merged, top) == merged


def test_mappings_merge_and_lists_and_scalars_replace(tmp_path: Path) -> None:
    base = {**MINIMAL, "seeds": [0, 1, 2], "trial": {"steps": 9, "learner": {"lr": 1e-4, "workers": 2}}}
    write(tmp_path / "base.yaml", base)
    top = {"extends": "base.yaml", "name": "top", "seeds": [7], "trial": {"learner": {"lr": 3e-4}}}
    spec = load_spec(write(tmp_path / "top.yaml", top))
    assert (spec.name, spec.seeds, spec.trial.steps) == ("top", (7,), 9)
    assert (spec.trial.learner.lr, spec.trial.learner.workers) == (3e-4, 2)


def test_a_chain_goes_through_folders_and_shipped_spaces(tmp_path: Path) -> None:
    write(tmp_path / "team" / "base.yaml", {"extends": "v05_small", "trial": {"steps": 7}})
    write(tmp_path / "mine" / "middle.yaml", {"extends": "../team/base.yaml", "name": "middle"})
    file = write(tmp_path / "mine" / "top.yaml", {"extends": "middle.yaml", "search": {"trials": 3}})
    spec = load_spec(file)
    assert (spec.name, spec.trial.steps, spec.search.trials) == ("middle", 7, 3)
    assert spec.candidates == load_spec("v05_small").candidates


def test_overrides_come_last_and_the_stored_spec_is_whole(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", MINIMAL)
    file = write(tmp_path / "top.yaml", {"extends": "base.yaml", "trial": {"steps": 7}})
    spec = load_spec(file, ["trial.steps=8", "reference.strategy={preset: dapo, group_size: 8}"])
    assert spec.trial.steps == 8
    stored = tmp_path / "elsewhere" / "spec.yaml"
    stored.parent.mkdir()
    stored.write_text(spec.text())
    (tmp_path / "base.yaml").unlink()
    assert "extends" not in stored.read_text()
    assert load_spec(stored) == spec


@pytest.mark.parametrize(
    ("extends", "expected"),
    [
        ("absent.yaml", r"top\.yaml: extends: 'absent\.yaml' is neither a file .*absent\.yaml\).*v05_small"),
        ("quickstrat", "extends: 'quickstrat' is neither"),
        (3, "extends: 3 must be the path of a YAML file or the name of a shipped space"),
        (None, "extends: None must be"),
        (["a", "b"], r"extends: \['a', 'b'\] must be"),
        ("list.yaml", r"list\.yaml: holds list, not a mapping"),
        ("broken.yaml", r"broken\.yaml: not YAML"),
        ("top.yaml", r"extends: .*top\.yaml -> .*top\.yaml is a circle; remove extends: from"),
        ("loop.yaml", r"extends: .*top\.yaml -> .*loop\.yaml -> .*top\.yaml is a circle"),
    ],
)
def test_refuses_what_leads_nowhere_or_back(tmp_path: Path, extends: Any, expected: str) -> None:
    (tmp_path / "list.yaml").write_text("- 1")
    (tmp_path / "broken.yaml").write_text("a: [")
    write(tmp_path / "loop.yaml", {"extends": "./top.yaml"})
    with pytest.raises(SpecError, match=expected):
        load_spec(write(tmp_path / "top.yaml", {**MINIMAL, "extends": extends}))


def test_a_merge_removes_no_key(tmp_path: Path) -> None:
    reference = {"strategy": {"preset": "dapo", "group_size": 8}, "search": {"initial": {"float": [0.5, 1]}}}
    write(tmp_path / "base.yaml", {**MINIMAL, "reference": reference})
    file = tmp_path / "top.yaml"
    other = {"extends": "base.yaml", "reference": {"strategy": {"preset": "grpo"}, "label": "other"}}
    assert read_extended(write(file, other))["reference"]["strategy"] == {"preset": "grpo", "group_size": 8}
    kind = {"extends": "base.yaml", "reference": {"search": {"initial": {"choice": [0.5, 1.0]}}}}
    with pytest.raises(SpecError, match=r"reference\.search\.initial: .* is not a range; write exactly one"):
        load_spec(write(file, kind))


def test_a_mistake_in_a_base_names_its_field(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", {**MINIMAL, "trial": {"stepz": 3}})
    with pytest.raises(SpecError, match=r"trial\.stepz: unknown key \(value 3\); did you mean 'steps'\?"):
        load_spec(write(tmp_path / "top.yaml", {"extends": "base.yaml"}))


def test_the_small_spaces_share_one_trial() -> None:
    """The block stands once: every space for two cores takes it whole from the same file."""
    small = {name: file for name, file in shipped_spaces().items() if not name.startswith("math_qwen3_4b")}
    assert len(small) == 9
    for name, file in small.items():
        shared, trial = read_extended(small["v05_small"])["trial"], read_extended(file)["trial"]
        if name in ("quickstart", "sorting"):  # shorter runs, and another task
            trial |= {key: shared[key] for key in ("steps", "rollouts_per_step")}
        else:
            assert "\ntrial:" not in file.read_text(encoding="utf-8"), name
        if name == "sorting":
            trial |= {key: shared[key] for key in ("task", "sampling")}
        assert trial == shared, name


def test_what_is_extended_is_not_a_space_by_itself() -> None:
    for file in shipped_spaces()["v05_small"].parent.glob("_*.yaml"):
        assert file.stem not in shipped_spaces()
        with pytest.raises(SpecError, match="neither a file nor a shipped space"):
            load_spec(file.stem)
        with pytest.raises(SpecError, match="candidates: is missing"):
            load_spec(file)
