"""Ray's job API, with every failure as one message. Imports Ray when used.

A sweep's job has the submission id `trimtab-<sweep>`, so that whoever submits, follows or stops it needs its
name only, and one name is never used twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from trimtab.errors import ClusterError, NotFoundError, SpecError
from trimtab.planning.placement import Cluster, Node
from trimtab.remote.clusters import CONNECT_S, check_reachable
from trimtab.security import prepare_ray_auth
from trimtab.sweepspec.names import check_name

DIGEST = "trimtab-spec"
"""Key of a job's metadata: hash of the spec, which tells a second submit from another sweep of that name."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
NOTICE_S = 30.0
"""Longest wait for Ray to notice that a driver died with its node."""
NO_TRIMTAB = "No module named trimtab"


@dataclass(frozen=True)
class Job:
    """One submitted sweep."""

    id: str
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    message: str
    exit_code: int | None
    """Of the driver, once it has ended."""
    digest: str | None

    node: str | None = None
    """Ray's id of the driver's node, once there is one."""

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def fix(self) -> str | None:
        """What to do about a failure whose cause is known."""
        if self.status != "FAILED" or NO_TRIMTAB not in self.message:
            return None
        return (
            "the job's `python`, the first on the PATH that `ray start` had on the head, has no trimtab; "
            "start Ray there in the environment that holds trimtab, or use --image REF or --pip FILE"
        )


def submission_id(name: str) -> str:
    """Ray's id of the job that runs this sweep."""
    return f"trimtab-{check_name(name)}"


class Jobs:
    """A cluster's job API. ClusterError: nobody there, a wrong token, another version of Ray."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SpecError(
                f"--address: {address!r} is no job API; give http://HOST:8265, the head's dashboard (it "
                "listens on the head's loopback: forward it: ssh -L, kubectl port-forward, ray dashboard)"
            )
        prepare_ray_auth(create=False)
        from ray.job_submission import JobSubmissionClient

        self.address = address
        check_reachable(address, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
        with self._errors():
            self._client = JobSubmissionClient(address)
            found = self._get("/api/version")
        self._check_version(str(found["ray_version"]))

    def cluster(self) -> Cluster:
        """The nodes that are alive now."""
        with self._errors():
            found = self._get("/api/v0/nodes?detail=1&limit=10000")
        return Cluster(
            tuple(
                Node(node["node_name"], node["resources_total"])
                for node in found["data"]["result"]["result"]
                if node["state"] == "ALIVE"
            )
        )

    def find(self, name: str) -> Job | None:
        """The job of a sweep, or None."""
        wanted = submission_id(name)
        with self._errors():
            job = self._look(wanted)
            if job is None or job.status != "RUNNING" or self._alive(job.node):
                return job
            # After a restart of the head a driver that died with it counts as running until the job agent of
            # the new one is asked for anything (Ray 2.60). Stopping what is dead changes nothing else.
            deadline = time.monotonic() + NOTICE_S
            while job is not None and not job.ended and time.monotonic() < deadline:
                # RuntimeError: the agent is not up yet.
                with suppress(RuntimeError):
                    self._client.stop_job(wanted)
                time.sleep(0.5)
                job = self._look(wanted)
        return job

    def _look(self, wanted: str) -> Job | None:
        for job in self._client.list_jobs():
            if job.submission_id == wanted:
                return Job(
                    wanted,
                    str(job.status.value),
                    job.message or "",
                    job.driver_exit_code,
                    (job.metadata or {}).get(DIGEST),
                    job.driver_node_id,
                )
        return None

    def _alive(self, node: str | None) -> bool:
        """Whether the head counts a node as alive; a node that is not known yet may be."""
        if node is None:
            return True
        found = self._get(f"/api/v0/nodes?filter_keys=node_id&filter_predicates=%3D&filter_values={node}")
        return any(row["state"] == "ALIVE" for row in found["data"]["result"]["result"])

    def get(self, name: str) -> Job:
        """The job of a sweep; NotFoundError names the sweeps that there are."""
        job = self.find(name)
        if job is None:
            with self._errors():
                ids = [str(found.submission_id) for found in self._client.list_jobs()]
            known = sorted(i.removeprefix("trimtab-") for i in ids if i.startswith("trimtab-"))
            there = ", ".join(known) or "none"
            raise NotFoundError(f"no sweep named {name!r} at {self.address}; sweeps there: {there}")
        return job

    def submit(self, name: str, entrypoint: str, runtime_env: dict[str, Any], digest: str) -> None:
        """Start the job; its driver runs on the head and reserves nothing."""
        with self._errors():
            self._client.submit_job(
                entrypoint=entrypoint,
                submission_id=submission_id(name),
                runtime_env=runtime_env,
                metadata={DIGEST: digest},
            )

    def forget(self, name: str) -> None:
        """Free the id of a job that has ended. Its sweep stays on the cluster's storage."""
        with self._errors():
            self._client.delete_job(submission_id(name))

    def stop(self, name: str) -> None:
        """Interrupt the driver, as Ctrl-C would. NotFoundError: it has ended."""
        job = self.get(name)
        if job.ended:
            raise NotFoundError(f"sweep {name!r} is not running: its job {job.status.lower()} before")
        with self._errors():
            self._client.stop_job(job.id)

    def logs(self, name: str) -> str:
        """What the driver has printed so far."""
        job = self.get(name)
        with self._errors():
            return str(self._client.get_job_logs(job.id))

    async def follow(self, name: str) -> AsyncIterator[str]:
        """What the driver prints, until it ends."""
        with self._errors():
            async for lines in self._client.tail_job_logs(submission_id(name)):
                yield lines

    def _get(self, path: str) -> dict[str, Any]:
        answer = self._client._do_request("GET", path, timeout=CONNECT_S)
        answer.raise_for_status()
        loaded: dict[str, Any] = answer.json()
        return loaded

    def _check_version(self, found: str) -> None:
        import ray

        if found != ray.__version__:
            raise ClusterError(
                f"--address: the cluster runs Ray {found}, this client {ray.__version__}; install "
                f"ray=={found} here, or render the cluster's files from this checkout's constraints.txt"
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Whatever the client raises, as one line."""
        import aiohttp
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise ClusterError(
                f"--address: {self.address} refuses this token ({_first_line(error)}); copy the cluster's "
                "token to ~/.ray/auth_token, or name its file with RAY_AUTH_TOKEN_PATH"
            ) from None
        except (ConnectionError, requests.RequestException, aiohttp.ClientError) as error:
            why = _first_line(error)
            raise ClusterError(f"--address: no Ray cluster answers at {self.address} ({why})") from None
        except json.JSONDecodeError:
            raise ClusterError(f"--address: what answers at {self.address} is no Ray cluster") from None
        except RuntimeError as error:
            raise ClusterError(f"{self.address}: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
