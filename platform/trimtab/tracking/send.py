"""Carry out operations in MLflow. Every operation may be repeated.

A run that exists already is found by its tags. Metric points carry the journal's time, so a point that is
sent twice is one row in the store.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trimtab.sweepspec.spec import Work
from trimtab.tracking import names
from trimtab.tracking.operations import (
    SYSTEM_RUN,
    CloseRun,
    Key,
    LogData,
    LogPoints,
    LogText,
    OpenRun,
    Operation,
)
from trimtab.tracking.provenance import provenance
from trimtab.tracking.store import connect, ensure_experiment

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MAX_PARAMS = 100
"""MLflow's limit on parameters in one `log_batch`."""
MAX_TAG = 5000
"""Length of a tag that every store accepts, in characters."""
MLFLOW_STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED", "killed": "KILLED"}


class Sender:
    """Writes one sweep's runs to one store. Methods raise whatever the store raises."""

    def __init__(self, uri: str, sweep: str, sweep_id: str, spec: Work) -> None:
        self._uri = uri
        self._sweep_tags = {names.SWEEP: sweep, names.SWEEP_ID: sweep_id}
        self._sweep = sweep
        self._spec = spec
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._runs: dict[Key, str] = {}
        self._complete: set[Key] = set()
        """Runs that are finished in the store. They are neither opened nor closed again."""
        self.parent_run_id: str | None = None

    def connect(self) -> bool:
        """Connect to the store, find the runs of an earlier attempt, and create the parent run if needed.

        Returns:
            True if the store held nothing of this sweep.
        """
        if self._client is not None:
            return False
        client = connect(self._uri)
        self._experiment = ensure_experiment(client, self._uri, self._spec.tracking.experiment)
        self._runs.clear()
        self._complete.clear()
        self.parent_run_id = self._find(self._existing(client))
        fresh = self.parent_run_id is None
        if self.parent_run_id is None:
            self.parent_run_id = self._make_parent(client)
        else:
            client.update_run(self.parent_run_id, status="RUNNING")
        self._client = client
        return fresh

    def _find(self, existing: list[Run]) -> str | None:
        """Take over the runs of an earlier attempt and return the parent's id.

        A request that the store carried out after its sender gave up leaves a run twice. The one with more
        metrics is kept; `end` removes the other.
        """
        parents, named = [], set()
        for run in sorted(existing, key=lambda run: len(run.data.metrics)):
            tags = run.data.tags
            if tags.get(names.ROLE) == "sweep":
                parents.append(str(run.info.run_id))
                continue
            named.add(tags.get(names.PARENT_RUN))
            if tags.get(names.ROLE) == names.SYSTEM:
                self._runs[SYSTEM_RUN] = run.info.run_id
                continue
            key = (tags[names.TRIAL], int(tags[names.SEED]))
            self._runs[key] = run.info.run_id
            if run.info.status == "FINISHED":
                self._complete.add(key)
        return next((parent for parent in parents if parent in named), parents[-1] if parents else None)

    def disconnect(self) -> None:
        """Drop the connection after an error, so that the next one finds what a timed-out request did."""
        self._client = None

    def send(self, operation: Operation) -> None:
        """Carry out one operation. A run that is finished in the store stays so, but still takes points."""
        if isinstance(operation, OpenRun):
            if operation.key not in self._complete:
                self._open(operation)
        elif operation.key == SYSTEM_RUN and isinstance(operation, LogPoints):
            self._log(operation, self._system_run())
        elif operation.key not in self._runs:
            return  # the store refused to open this run, and that refusal was reported
        elif isinstance(operation, LogPoints):
            self._log(operation, self._runs[operation.key])
        elif isinstance(operation, LogData):
            self._log_data(operation)
        elif isinstance(operation, LogText):
            self._connected().log_text(self._runs[operation.key], operation.text, operation.path)
        elif operation.key not in self._complete:
            self._close(operation)

    def end(self, status: str) -> None:
        """Close the parent run, and remove duplicate runs that a late request created."""
        if self.parent_run_id is not None:
            client = self._connected()
            ours = {self.parent_run_id, *self._runs.values()}
            for run in self._existing(client):
                if run.info.run_id not in ours:
                    client.delete_run(run.info.run_id)
            if SYSTEM_RUN in self._runs:
                client.set_terminated(self._runs[SYSTEM_RUN], "FINISHED")
            client.set_tag(self.parent_run_id, names.STATUS, status)
            client.set_terminated(self.parent_run_id, MLFLOW_STATUS[status])

    def _connected(self) -> MlflowClient:
        self.connect()
        if self._client is None:
            raise ConnectionError(f"no connection to {self._uri}")
        return self._client

    def _existing(self, client: MlflowClient) -> list[Run]:
        wanted = f"tags.`{names.SWEEP_ID}` = '{self._sweep_tags[names.SWEEP_ID]}'"
        runs: list[Run] = []
        token: str | None = None
        while True:
            page = client.search_runs([self._experiment], wanted, max_results=1000, page_token=token)
            runs.extend(page)
            token = page.token
            if not token:
                return runs

    def _make_parent(self, client: MlflowClient) -> str:
        tags = {
            **self._sweep_tags,
            names.ROLE: "sweep",
            names.REFERENCE: self._spec.reference_label,
            names.BUDGET: str(self._spec.budget),
            names.PURPOSE: self._spec.purpose,
            names.SPLIT: self._spec.reference_config().evaluation.split,
            names.STATUS: "running",
        }
        if self._spec.confirms:
            tags[names.CONFIRMS] = self._spec.confirms
        run = client.create_run(
            self._experiment, start_time=int(time.time() * 1000), tags=tags, run_name=self._sweep
        )
        run_id = str(run.info.run_id)
        client.log_text(run_id, self._spec.text(), "spec.yaml")
        for file, text in provenance().items():
            client.log_text(run_id, text, file)
        return run_id

    def _system_run(self) -> str:
        """Return the run of the system metrics, made at their first: the parent shows what was found."""
        client = self._connected()
        if SYSTEM_RUN not in self._runs:
            tags = {**self._sweep_tags, names.PARENT_RUN: self.parent_run_id, names.ROLE: names.SYSTEM}
            run = client.create_run(
                self._experiment, start_time=int(time.time() * 1000), tags=tags, run_name="system metrics"
            )
            self._runs[SYSTEM_RUN] = str(run.info.run_id)
        return self._runs[SYSTEM_RUN]

    def _open(self, operation: OpenRun) -> None:
        client = self._connected()
        run_id = self._runs.get(operation.key)
        if run_id is None:
            tags = {**self._sweep_tags, names.PARENT_RUN: self.parent_run_id, **operation.tags}
            run = client.create_run(
                self._experiment, start_time=operation.time_ms, tags=tags, run_name=operation.name
            )
            run_id = str(run.info.run_id)
            self._runs[operation.key] = run_id
        else:
            client.update_run(run_id, status="RUNNING")
        self._log_params(client, run_id, operation.params)
        client.log_text(run_id, operation.config, "config.json")

    def _log_params(self, client: MlflowClient, run_id: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        items = [Param(name, value) for name, value in params.items()]
        for start in range(0, len(items), MAX_PARAMS):
            client.log_batch(run_id, params=items[start : start + MAX_PARAMS])

    def _log_data(self, operation: LogData) -> None:
        """Log one MLflow dataset per split. Logging the same dataset twice leaves one."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(
                    name=f"{found['name']}-{split}"[:500],
                    digest=found["sha256"][:36],
                    source_type="trimtab",
                    source=json.dumps({"source": found["source"], "sha256": found["sha256"]}),
                    profile=json.dumps({"problems": found["problems"]}),
                ),
                tags=[InputTag("mlflow.data.context", split)],
            )
            for split, found in operation.data.items()
        ]
        client, run_id = self._connected(), self._runs[operation.key]
        client.log_inputs(run_id, inputs)
        client.log_text(run_id, json.dumps(operation.data, indent=2), "data.json")

    def _log(self, operation: LogPoints, run_id: str) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(point.name, point.value, point.time_ms, point.step) for point in operation.points]
        client = self._connected()
        client.log_batch(run_id, metrics=metrics)

    def _close(self, operation: CloseRun) -> None:
        client = self._connected()
        run_id = self._runs[operation.key]
        if operation.traceback:
            client.log_text(run_id, operation.traceback, "traceback.txt")
        client.log_batch(run_id, tags=_tags(operation.tags))
        client.set_terminated(run_id, MLFLOW_STATUS[operation.status], end_time=operation.time_ms)
        if operation.status == "finished":
            self._complete.add(operation.key)


def _tags(tags: Mapping[str, str]) -> list[Any]:
    from mlflow.entities import RunTag

    return [RunTag(name, value[:MAX_TAG]) for name, value in tags.items()]
