"""Render cluster/templates: `python -m cluster.render OUT --registry registry.example.com/team`.

Versions come from constraints.txt (packages that are tested together) and images.toml (images of others), so
that image, head, workers and client cannot differ in Ray's version.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

CLUSTER = Path(__file__).resolve().parent
TEMPLATES = CLUSTER / "templates"
CONSTRAINTS = CLUSTER.parent / "constraints.txt"


def versions() -> dict[str, str]:
    """Return package -> version as constraints.txt pins them. Dashes become underscores."""
    pins = {}
    for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines():
        name, separator, version = line.partition("==")
        if separator:
            pins[name.strip().replace("-", "_")] = version.strip()
    return pins


def values(registry: str = "registry.example.com/trimtab", namespace: str = "trimtab") -> dict[str, Any]:
    """Return all names that templates may use. A template that uses another name is an error."""
    project = tomllib.loads((CLUSTER.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {
        "version": versions(),
        "image": tomllib.loads((CLUSTER / "images.toml").read_text(encoding="utf-8")),
        "trimtab": project["version"],
        "registry": registry.rstrip("/"),
        "namespace": namespace,
    }


def render(given: Mapping[str, Any]) -> dict[str, str]:
    """Render all templates: path -> text. Templates whose names begin with `_` are parts of others."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    names = [
        path.relative_to(TEMPLATES).as_posix()
        for path in sorted(TEMPLATES.rglob("*"))
        if path.is_file() and not path.name.startswith("_")
    ]
    files = {name: environment.get_template(name).render(given) for name in names if name != "Dockerfile"}
    for extra in ("cpu", "gpu"):
        files[f"Dockerfile.{extra}"] = environment.get_template("Dockerfile").render(given, extra=extra)
    return files


def main() -> None:
    """Render the templates into a folder, and print each file's path."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--registry", default="registry.example.com/trimtab", help="where images are pushed")
    parser.add_argument("--namespace", default="trimtab", help="Kubernetes namespace")
    options = parser.parse_args()
    for name, text in render(values(options.registry, options.namespace)).items():
        target = options.out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        print(target)


if __name__ == "__main__":
    main()
