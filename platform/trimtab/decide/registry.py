"""Model versions and aliases in MLflow's registry: a promotion happens completely or not at all.

MLflow moves an alias without checking who moved it last. Numbering versions is what the registry does
atomically, and it decides between two simultaneous promotions: each creates its version as `pending`, then
looks. One that sees an earlier pending version, or an alias that has moved since it began, deletes its own
version and raises.
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
"""Tag of a version: `pending` during its promotion, `done` after it, or `rolled back`."""
ALIAS = "trimtab.alias"
REPLACES = "trimtab.replaces"
"""Tag of a version: the one that the alias named before, which `trimtab rollback` restores."""
ORIGIN = "trimtab.origin"
"""Tag of a version: the run that its weights come from."""
STALE_S = 600.0
"""A promotion that has been pending for this long has died."""


@dataclass(frozen=True)
class Moved:
    """The version that an alias names now, and the one that it named before."""

    model: str
    alias: str
    version: str
    before: str | None


class Registry:
    """The model registry of one tracking store. Methods raise RegistryError and leave nothing half done."""

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
        """Register a run's weights as a version and point the alias, if one is given, at it.

        `source` uploads the weights and returns their location; it is called once, after the registry has
        answered. `write` is called with the version's number before the alias moves. A run that has a version
        already is not registered again.

        Raises:
            RegistryError: the registry refused, or another promotion moves the alias.
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
        """Point the alias at the version that the present one replaced.

        Raises:
            RegistryError: there is no such alias, it replaced no version, or that version was deleted.
        """
        with self._answering() as client:
            version = self._version_of(client, model, alias)
            if version is None:
                raise RegistryError(
                    f"model {model!r} has no alias {alias!r}, so there is nothing to roll back; check --alias"
                )
            tags = client.get_model_version(model, version).tags
            before = tags.get(REPLACES)
            if not before:
                raise RegistryError(
                    f"{model}@{alias} is version {version}, which replaced no other; promote another trial"
                )
            if before not in {str(found.version) for found in self._versions(client, model)}:
                raise RegistryError(
                    f"{model}@{alias} was version {before} before, which is deleted now; promote again"
                )
            client.set_model_version_tag(model, version, STATE, "rolled back")
            client.set_registered_model_alias(model, alias, before)
            return Moved(model, alias, before, version)

    def version_of(self, model: str, alias: str) -> str | None:
        """Return the version that an alias names; None if the model has no such alias.

        Raises:
            RegistryError: the registry does not answer, or has no such model.
        """
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
            "nothing: check that version, then promote again"
        )

    def _ensure_model(self, client: MlflowClient, model: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _version_of(self, client: MlflowClient, model: str, alias: str) -> str | None:
        # For an alias that is not set every store raises another error: read the model's own list instead.
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
