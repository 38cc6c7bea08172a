"""Model versions and aliases in MLflow's registry, so that a promotion is whole, or nothing.

MLflow moves an alias without asking who moved it last. Two promotions at once are told apart by what the
registry does atomically, numbering versions: each makes its version as `pending`, then looks. One that sees
an earlier pending version, or an alias that has moved since it began, takes its own version back and says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trimtab.errors import RegistryError
from trimtab.tracking.store import connect, refusal, transient_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient

STATE = "trimtab.promotion"
"""Of a version: `pending` while a promotion is under way, `done` after it, `rolled back`."""
ALIAS = "trimtab.alias"
REPLACES = "trimtab.replaces"
"""Version that the alias named before; `trimtab rollback` moves it back there."""
ORIGIN = "trimtab.origin"
"""Run that the version's weights come from."""
STALE_S = 600.0
"""A promotion that has been pending for so long has died."""


@dataclass(frozen=True)
class Moved:
    """Where an alias points now, and where it pointed before."""

    model: str
    alias: str
    version: str
    before: str | None


class Registry:
    """The registry of one store. Methods raise RegistryError, with nothing left half done."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def promote(
        self,
        model: str,
        alias: str | None,
        run_id: str,
        source: Callable[[], str],
        tags: Mapping[str, str],
        write: Callable[[str], None],
    ) -> Moved:
        """Make a version of a run's weights and point the alias, if there is one, at it.

        `source`: uploads the weights and returns where they are; called once, when the registry is known to
        take them. `write`: called with the version's number before the alias moves. A run that is a version
        already is not registered again.
        """
        with self._answering() as client:
            self._ensure_model(client, model)
            before = self._version_of(client, model, alias) if alias else None
            known = self._of_run(client, model, run_id)
            if known is not None:
                write(known)
                return self._point(client, model, alias, known, before)
            made = client.create_model_version(
                model,
                source(),
                run_id=run_id,
                tags={**tags, STATE: "pending", ALIAS: alias or "", ORIGIN: run_id},
            )
            version = str(made.version)
            try:
                if alias:
                    self._check_alone(client, model, alias, version, before)
                write(version)
                return self._point(client, model, alias, version, before)
            except BaseException:
                client.delete_model_version(model, version)
                raise

    def rollback(self, model: str, alias: str) -> Moved:
        """Point the alias at the version that the present one replaced."""
        with self._answering() as client:
            version = self._version_of(client, model, alias)
            if version is None:
                raise RegistryError(f"model {model!r} has no alias {alias!r}; there is nothing to roll back")
            tags = client.get_model_version(model, version).tags
            before = tags.get(REPLACES)
            if not before:
                raise RegistryError(
                    f"{model}@{alias} is version {version}, which replaced none; promote another trial"
                )
            if before not in {str(found.version) for found in self._versions(client, model)}:
                raise RegistryError(
                    f"{model}@{alias} was version {before} before, which is deleted now; promote again"
                )
            client.set_model_version_tag(model, version, STATE, "rolled back")
            client.set_registered_model_alias(model, alias, before)
            return Moved(model, alias, before, version)

    def version_of(self, model: str, alias: str) -> str | None:
        """Version that an alias names."""
        with self._answering() as client:
            return self._version_of(client, model, alias)

    def _point(
        self, client: MlflowClient, model: str, alias: str | None, version: str, before: str | None
    ) -> Moved:
        if alias is None:
            client.set_model_version_tag(model, version, STATE, "done")
            return Moved(model, "", version, None)
        if before == version:
            return Moved(model, alias, version, version)
        now = self._version_of(client, model, alias)
        if now != before:
            raise self._overtaken(model, alias, now)
        client.set_model_version_tag(model, version, REPLACES, before or "")
        client.set_registered_model_alias(model, alias, version)
        client.set_model_version_tag(model, version, STATE, "done")
        return Moved(model, alias, version, before)

    def _check_alone(
        self, client: MlflowClient, model: str, alias: str, version: str, before: str | None
    ) -> None:
        youngest = (time.time() - STALE_S) * 1000
        for other in self._versions(client, model):
            rival = other.tags.get(STATE) == "pending" and other.tags.get(ALIAS) == alias
            if rival and int(other.version) < int(version) and other.creation_timestamp > youngest:
                left_s = (other.creation_timestamp - youngest) / 1000
                under_way = f"{other.version} (under way; if it died, it counts for {left_s:.0f} s more)"
                raise self._overtaken(model, alias, under_way)
        now = self._version_of(client, model, alias)
        if now != before:
            raise self._overtaken(model, alias, now)

    def _overtaken(self, model: str, alias: str, version: str | None) -> RegistryError:
        return RegistryError(
            f"another promotion moves {model}@{alias} to version {version} at this moment; this one changed "
            "nothing: look at it, then promote again"
        )

    def _ensure_model(self, client: MlflowClient, model: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _version_of(self, client: MlflowClient, model: str, alias: str) -> str | None:
        # An alias that is not set is an error of another name in every store: read the model's own list.
        found = client.get_registered_model(model).aliases.get(alias)
        return None if found is None else str(found)

    def _of_run(self, client: MlflowClient, model: str, run_id: str) -> str | None:
        for found in self._versions(client, model):
            if found.tags.get(ORIGIN) == run_id and found.tags.get(STATE) != "pending":
                return str(found.version)
        return None

    def _versions(self, client: MlflowClient, model: str) -> list[Any]:
        return list(client.search_model_versions(f"name = '{model}'", max_results=1000))

    @contextmanager
    def _answering(self) -> Iterator[MlflowClient]:
        try:
            yield connect(self._uri)
        except transient_errors() as error:
            raise RegistryError(f"the registry at {self._uri} refused: {_why(error)}") from error


def _why(error: Exception) -> str:
    if advice := refusal(error):
        return f"{error}; {advice}"
    if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
        return f"{error}; check the model's name"
    return str(error)
