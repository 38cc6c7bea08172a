"""A spec from a file: YAML, overrides, validation."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from trimtab.errors import SpecError
from trimtab.sweepspec.messages import spec_error
from trimtab.sweepspec.outside import check_outside
from trimtab.sweepspec.spec import SweepSpec


def load_spec(path: str | Path, overrides: Sequence[str] = (), *, outside: bool = True) -> SweepSpec:
    """Read, override and check a spec.

    `path` is a YAML file or the name of a shipped space such as `quickstart`; each override reads
    `key.path=value`, the value in YAML, list items by number (`candidates.0.search.alpha.log=true`).
    `outside=False` reads the spec of a past sweep although its model, data or classes may have moved since.
    SpecError: anything that cannot run. ModelError: a model path that does not exist.
    """
    raw = read_yaml(find_spec(path))
    for override in overrides:
        apply_override(raw, override)
    return parse_spec(raw, outside=outside)


def parse_spec(raw: dict[str, Any], *, outside: bool = True) -> SweepSpec:
    """A spec from a mapping, with the same messages as `load_spec`."""
    try:
        spec = SweepSpec.model_validate(raw)
    except ValidationError as error:
        raise spec_error(error, SweepSpec, raw) from None
    if outside:
        check_outside(spec)
    return spec


def shipped_spaces() -> dict[str, Path]:
    """Name -> file of the search spaces that come with trimtab."""
    package = Path(__file__).resolve().parents[1]
    # In a checkout `platform/` lies between the package and the repository root; in a wheel it does not.
    for root in (package.parents[1], package.parent):
        folder = root / "search_spaces"
        if folder.is_dir():
            return {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    return {}


def find_spec(path: str | Path) -> Path:
    """The file itself, or the shipped space of that name."""
    file = Path(path).expanduser()
    if file.is_file():
        return file
    shipped = shipped_spaces()
    if str(path) in shipped:
        return shipped[str(path)]
    raise SpecError(
        f"SPEC: {str(path)!r} is neither a file nor a shipped space ({', '.join(shipped) or 'none found'}); "
        "write one with 'trimtab init my_sweep.yaml'"
    )


def read_yaml(file: Path) -> dict[str, Any]:
    """One mapping from a YAML file. SpecError with line and column where it is not."""
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
                    None, None, f"the key {key!r} is no text", key_node.start_mark
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
    """Set one value of a mapping, as `--set KEY=VALUE` says."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise SpecError(f"--set: {override!r} is no assignment; write --set key.path=value")
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
            f"--set: {override!r}: {part!r} is no item of a list of {len(here)}; items count from 0"
        )
    return int(part)
