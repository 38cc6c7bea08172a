"""A spec from a file: YAML, what it extends, overrides, validation."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from trainables.strategies.wording import did_you_mean
from trimtab.errors import SpecError
from trimtab.sweepspec.effect import check_effect
from trimtab.sweepspec.messages import spec_error
from trimtab.sweepspec.outside import check_outside
from trimtab.sweepspec.spec import SweepSpec

EXTENDS = "extends"
"""Key of a spec file that names the file it is laid over."""


def load_spec(path: str | Path, overrides: Sequence[str] = (), *, outside: bool = True) -> SweepSpec:
    """Read, override and check a spec.

    `path` is a YAML file or the name of a shipped space such as `quickstart`, with what it extends; each
    override reads `key.path=value`, the value in YAML, list items by number
    (`candidates.0.search.alpha.log=true`). `outside=False` reads the spec of a past sweep although its model,
    data or classes may have moved since, or it shows less than it costs.

    Raises:
        SpecError: something in it cannot run.
        ModelError: the model does not exist.
    """
    raw = read_extended(find_spec(path))
    for override in overrides:
        apply_override(raw, override)
    if EXTENDS in raw:
        raise SpecError(f"--set: {EXTENDS} is resolved before any --set; write it in the file")
    return parse_spec(raw, outside=outside)


def parse_spec(raw: dict[str, Any], *, outside: bool = True) -> SweepSpec:
    """Return the spec that a mapping holds, with the messages of `load_spec`."""
    try:
        spec = SweepSpec.model_validate(raw)
    except ValidationError as error:
        raise spec_error(error, SweepSpec, raw) from None
    if outside:
        check_outside(spec)
        check_effect(spec)
    return spec


def shipped_spaces() -> dict[str, Path]:
    """Return the file of each search space that comes with trimtab, by name."""
    return {name: file for name, file in _shipped().items() if not name.startswith("_")}


def _shipped() -> dict[str, Path]:
    """Return the shipped spaces, and those that begin with `_`: what several of them extend."""
    package = Path(__file__).resolve().parents[1]
    # In a checkout `platform/` lies between the package and the repository root; in a wheel it does not.
    for root in (package.parents[1], package.parent):
        folder = root / "search_spaces"
        if folder.is_dir():
            return {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    return {}


def find_spec(path: str | Path) -> Path:
    """Return the file itself, or the shipped space of that name.

    Raises:
        SpecError: there is neither.
    """
    file = Path(path).expanduser()
    if file.is_file():
        return file
    shipped = shipped_spaces()
    if str(path) in shipped:
        return shipped[str(path)]
    hint = did_you_mean(path, _near(file, shipped)) or did_you_mean(file.stem, shipped)
    raise SpecError(
        f"SPEC: {str(path)!r} is neither a file nor a shipped space; {hint}shipped are "
        f"{', '.join(shipped) or 'none'}; write one with 'trimtab init my_sweep.yaml'"
    )


def _near(file: Path, shipped: Iterable[str]) -> list[str]:
    """Return what a spec that is not there may have meant: shipped spaces, and the YAML files beside it."""
    beside = file.parent.glob("*.y*ml") if file.parent.is_dir() else ()
    return [*shipped, *(str(other) for other in beside)]


def read_extended(file: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a spec file, laid over the file that its `extends` names, and so on down the chain.

    `below` are the files that led here.

    Raises:
        SpecError: a file of the chain is missing, is not a spec, or extends itself.
    """
    chain = (*below, file.resolve())
    if chain[-1] in below:
        circle = " -> ".join(str(step) for step in chain[chain.index(chain[-1]) :])
        raise SpecError(f"{EXTENDS}: {circle} is a circle; remove {EXTENDS}: from one of these files")
    raw = read_yaml(file)
    if EXTENDS not in raw:
        return raw
    return laid_over(read_extended(_base(file, raw.pop(EXTENDS)), chain), raw)


def laid_over(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the keys of `top`: mappings in both are merged, anything else in `top` replaces."""
    merged = dict(base)
    for key, value in top.items():
        here = base.get(key)
        if isinstance(here, dict) and isinstance(value, dict):
            merged[key] = laid_over(here, value)
        else:
            merged[key] = value
    return merged


def _base(file: Path, written: Any) -> Path:
    """Return the file that `extends: written` in `file` names."""
    if not isinstance(written, str):
        raise SpecError(
            f"{file}: {EXTENDS}: {written!r} must be the path of a YAML file or the name of a shipped space"
        )
    beside = file.parent / Path(written).expanduser()
    if beside.is_file():
        return beside
    shipped = _shipped()
    if written not in shipped:
        raise SpecError(
            f"{file}: {EXTENDS}: {written!r} is neither a file ({beside}) nor a shipped space "
            f"({', '.join(shipped) or 'none found'}); {did_you_mean(written, _near(beside, shipped))}"
            "correct the path, which is relative to the file"
        )
    return shipped[written]


def read_yaml(file: Path) -> dict[str, Any]:
    """Read one mapping from a YAML file.

    Raises:
        SpecError: it does not hold one; with line and column.
    """
    try:
        raw = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.YAMLError as error:
        raise SpecError(f"{file}: not YAML: {_flat(str(error))}; correct it there") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{file}: cannot be read: {error}") from None
    if not isinstance(raw, dict):
        raise SpecError(f"{file}: holds {type(raw).__name__}, not a mapping; begin with 'name: my_sweep'")
    return raw


class _Loader(yaml.SafeLoader):
    """YAML as users expect it: `2e-4` is a number (YAML 1.1: `2.0e-4`), a key given twice an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is not text", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} occurs twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _flat(text: str) -> str:
    return " ".join(text.split())


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Set one value of a mapping, as `--set KEY=VALUE` says.

    Raises:
        SpecError: the override is not an assignment, or leads to where there are no keys.
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise SpecError(f"--set: {override!r} is not an assignment; write --set key.path=value")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise SpecError(f"--set: the value of {override!r} is not YAML: {_flat(str(error))}") from None
    *parents, last = key.strip().split(".")
    here: Any = raw
    for part in parents:
        here = _descend(here, part, override)
    _assign(here, last, value, override)


def _descend(here: Any, part: str, override: str) -> Any:
    if isinstance(here, list):
        child = here[_index(here, part, override)]
    else:
        if here.get(part) is None:
            here[part] = {}
        child = here[part]
    if not isinstance(child, dict | list):
        raise SpecError(f"--set: {override!r} goes into {part!r}, which is {child!r} and holds no keys")
    return child


def _assign(here: Any, last: str, value: Any, override: str) -> None:
    if isinstance(here, list):
        here[_index(here, last, override)] = value
    else:
        here[last] = value


def _index(here: list[Any], part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(here):
        raise SpecError(
            f"--set: {override!r}: {part!r} is not an item of a list of {len(here)}; the first is 0"
        )
    return int(part)
