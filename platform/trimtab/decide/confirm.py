"""From a search to its confirmation: a sweep of fixed configurations under fresh seeds, on the test split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import NotFoundError, SpecError
from trimtab.sweepdir.folder import SweepDir
from trimtab.sweepdir.home import command
from trimtab.sweepdir.journal import Event
from trimtab.sweepspec.load import parse_spec
from trimtab.sweepspec.outside import has_test_split
from trimtab.sweepspec.space.settings import setting_values, settings_of
from trimtab.sweepspec.spec import SweepSpec


@dataclass(frozen=True)
class Finished:
    """A configuration that the search ran to its end."""

    number: int
    role: str
    family: str
    """Label of the reference or candidate that it is a configuration of."""
    label: str
    score: float
    strategy: dict[str, Any]
    settings: dict[str, Any]
    """Settings in which it differs from the sweep's `trial`."""

    def written(self, label: str) -> dict[str, Any]:
        """Return it as a spec's reference or candidate, with nothing left to search."""
        return {"strategy": self.strategy, "settings": self.settings, "label": label}


def confirmation_spec(
    home: Path, name: str, top: int | None = None, seeds: int | None = None, *, each: bool | None = None
) -> SweepSpec:
    """Return the spec that confirms a sweep: its best `top` configurations and its best reference.

    Nothing is searched in it. `seeds` counts fresh seeds, which neither the sweep nor an earlier confirmation
    of it has seen. `each`: the best `top` of every candidate. What is not given is as the sweep's `confirm`
    says. The model, data and classes that it names are not looked at.

    Raises:
        NotFoundError: there is no such sweep, nothing in it has finished, or records of it are gone.
        SpecError: it is a confirmation itself, or there is no test split.
    """
    folder = SweepDir.existing(home, name)
    spec = folder.spec()
    if spec.confirms:
        raise SpecError(
            f"sweep {name!r} is itself the confirmation of {spec.confirms!r}; confirm that sweep again, with "
            f"more --seeds: {command(f'confirm {spec.confirms}', home)}"
        )
    check_confirmable(spec, f" in {folder.spec_file}")
    folder.check_records()
    finished = finished_configurations(folder)
    references = [found for found in finished if found.role != "candidate"]
    candidates = [found for found in finished if found.role == "candidate"]
    if not references:
        raise NotFoundError(
            f"sweep {name!r} has no finished reference to confirm against; finish it: "
            f"{command(f'resume {name}', home)}"
        )
    if not candidates:
        raise NotFoundError(
            f"sweep {name!r} has no finished configuration to confirm; see why: "
            f"{command(f'status {name}', home)}"
        )
    first = _fresh_seed(home, name, spec)
    wanted = spec.confirm
    each = wanted.each if each is None else each
    reference, chosen = _best(references, 1)[0], _chosen(candidates, top or wanted.top, each=each)
    raw = spec.model_dump(mode="json")
    raw |= {
        "name": f"{name}-confirm",
        "confirms": name,
        "reference": reference.written(spec.reference_label),
        "candidates": [found.written(f"trial-{found.number}") for found in chosen],
        "shared_search": {},
        "seeds": list(range(first, first + (seeds or wanted.seeds))),
        "search": {"trials": len(chosen), "sampler": "random"},
    }
    evaluation = {**raw["trial"].get("evaluation", {}), "split": "test"}
    raw["trial"] = {**raw["trial"], "evaluation": evaluation}
    return parse_spec(raw, outside=False)


def check_confirmable(spec: SweepSpec, where: str = "") -> None:
    """Refuse a sweep whose task has no test split; `where` says where to add it.

    Raises:
        SpecError: with the field.
    """
    if not has_test_split(spec.trial.task):
        raise SpecError(
            f"trial.task.test: not set in sweep {spec.name!r}; the verdict needs prompts that the search "
            f"never saw: add 'test:' under trial.task{where}"
        )


def finished_configurations(folder: SweepDir) -> list[Finished]:
    """Return the configurations that ran over all their seeds, by the journal; not the stopped or failed."""
    started: dict[str, Event] = {}
    ended: dict[str, Event] = {}
    for event in folder.events():
        if event["event"] == "trial_started":
            started[event["trial"]] = event
        elif event["event"] == "trial_finished":
            ended[event["trial"]] = event
    shared = setting_values(folder.spec().trial)
    found = []
    for trial, event in started.items():
        end = ended.get(trial)
        if end is not None and end["status"] == "finished" and end["score"] is not None:
            config = event["config"]
            own = {name: value for name, value in settings_of(config).items() if value != shared[name]}
            found.append(
                Finished(
                    event["number"],
                    event["role"],
                    str(event.get("family", event["label"])),
                    event["label"],
                    end["score"],
                    config["strategy"],
                    own,
                )
            )
    return sorted(found, key=lambda one: one.number)


def _chosen(candidates: list[Finished], top: int, *, each: bool) -> list[Finished]:
    """Return the best `top` of all or of each candidate, best first."""
    if not each:
        return _best(candidates, top)
    families = dict.fromkeys(one.family for one in candidates)
    chosen = [b for family in families for b in _best([o for o in candidates if o.family == family], top)]
    return _best(chosen, len(chosen))


def _best(found: list[Finished], count: int) -> list[Finished]:
    """Return the best by score, each configuration once."""
    unique: dict[str, Finished] = {}
    for one in sorted(found, key=lambda one: -one.score):
        unique.setdefault(repr((one.strategy, one.settings)), one)
    return list(unique.values())[:count]


def _fresh_seed(home: Path, name: str, spec: SweepSpec) -> int:
    """Return the first seed that no run of the sweep or of its confirmations has seen."""
    used = set(spec.seeds)
    for folder in SweepDir.all(home):
        if not folder.spec_file.is_file():
            continue
        if folder.name != name and folder.spec().confirms != name:
            continue
        for event in folder.events():
            if event["event"] == "trial_started":
                used.update(event["seeds"])
    return max(used) + 1
