"""Ray's job API, with one message per failure. Ray is imported on use.

The job of a sweep has the submission id `trimtab-<sweep>`. The sweep's name is thus enough to submit, follow
or stop it, and no two jobs can have the same name.
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
"""Key of a job's metadata: hash of what the job does, by which a repeated submit is recognised."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
NOTICE_S = 30.0
"""Time limit for Ray to notice that a driver died with its node."""
NO_TRIMTAB = "No module named trimtab"


@dataclass(frozen=True)
class Job:
    """The job of one submitted sweep."""

    id: str
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    message: str
    exit_code: int | None
    """Exit code of the driver, once it has ended."""
    digest: str | None
    """Hash of what the job does; see `DIGEST`."""
    node: str | None = None
    """Ray's id of the driver's node, once the driver has one."""

    @property
    def ended(self) -> bool:
        """Tell whether the job has ended."""
        return self.status in ENDED

    @property
    def fix(self) -> str | None:
        """Return the fix for a failure whose cause is known, or None."""
        if self.status != "FAILED" or NO_TRIMTAB not in self.message:
            return None
        return (
            "the job's `python`, the first on the PATH that `ray start` had on the head, has no trimtab; "
            "start Ray there in the environment that holds trimtab, or use --image REF or --pip FILE"
        )


def submission_id(name: str) -> str:
    """Return Ray's id of the job that runs this sweep."""
    return f"trimtab-{check_name(name)}"


class Jobs:
    """A cluster's job API.

    Raises:
        ClusterError: From every method: the cluster does not answer, or it refuses the token or the request.
            From the constructor also: it runs another version of Ray.
        SpecError: The address is not one of a job API.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SpecError(
                f"--address: {address!r} is not a job API; give http://HOST:8265, the head's dashboard (it "
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
        """Return the nodes that are alive now."""
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
        """Return the job of a sweep, or None."""
        wanted = submission_id(name)
        with self._errors():
            job = self._look(wanted)
            if job is None or job.status != "RUNNING" or self._alive(job.node):
                return job
            # In Ray 2.60, a driver that died with its head counts as running until something is asked of the
            # new head's job agent. Stopping a dead driver changes nothing else.
            deadline = time.monotonic() + NOTICE_S
            while job is not None and not job.ended and time.monotonic() < deadline:
                # The agent raises RuntimeError until it is up.
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
        """Tell whether the head counts a node as alive. A node that is not known yet counts as alive."""
        if node is None:
            return True
        found = self._get(f"/api/v0/nodes?filter_keys=node_id&filter_predicates=%3D&filter_values={node}")
        return any(row["state"] == "ALIVE" for row in found["data"]["result"]["result"])

    def get(self, name: str) -> Job:
        """Return the job of a sweep.

        Raises:
            NotFoundError: The cluster has no such job; the message names the sweeps that it has.
        """
        job = self.find(name)
        if job is None:
            with self._errors():
                ids = [str(found.submission_id) for found in self._client.list_jobs()]
            known = sorted(i.removeprefix("trimtab-") for i in ids if i.startswith("trimtab-"))
            there = ", ".join(known) or "none"
            raise NotFoundError(f"no sweep named {name!r} at {self.address}; sweeps there: {there}")
        return job

    def submit(self, name: str, entrypoint: str, runtime_env: dict[str, Any], digest: str) -> None:
        """Submit the job. Its driver runs on the head and reserves no resources."""
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
        """Interrupt the driver, as Ctrl-C would.

        Raises:
            NotFoundError: The cluster has no such job, or it has ended.
        """
        job = self.get(name)
        if job.ended:
            raise NotFoundError(f"sweep {name!r} is not running: its job has ended ({job.status.lower()})")
        with self._errors():
            self._client.stop_job(job.id)

    def logs(self, name: str) -> str:
        """Return what the driver has printed so far."""
        job = self.get(name)
        with self._errors():
            return str(self._client.get_job_logs(job.id))

    async def follow(self, name: str) -> AsyncIterator[str]:
        """Yield what the driver prints, until it ends."""
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
        """Turn whatever the client raises into a ClusterError of one line."""
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
            raise ClusterError(
                f"--address: no Ray cluster answers at {self.address} ({why}); check the address, and that "
                "the head runs"
            ) from None
        except json.JSONDecodeError:
            raise ClusterError(
                f"--address: what answers at {self.address} is not a Ray cluster; give the address of the "
                "head's dashboard"
            ) from None
        except RuntimeError as error:
            raise ClusterError(f"{self.address}: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
