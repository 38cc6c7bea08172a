"""Submit a sweep to a Ray cluster as a job. Everything is checked before anything is sent."""

from __future__ import annotations

import hashlib
import re
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trimtab._version import __version__
from trimtab.errors import SecurityError, SpecError
from trimtab.planning.machine import GB, Machine
from trimtab.planning.placement import Cluster
from trimtab.planning.plan import Plan
from trimtab.remote.clusters import CLIENT_VERSION, REQUIRED_SECRETS
from trimtab.remote.jobs import Jobs, submission_id
from trimtab.remote.working_dir import Files, collect, stage
from trimtab.security import SECRET_NAME, check_plain
from trimtab.sweepspec.names import check_name
from trimtab.sweepspec.secrets import check_spec
from trimtab.sweepspec.spec import SweepSpec

SPEC_FILE = "trimtab-spec.yaml"
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
INSTALLED = "installed"
"""Value of --image if the nodes' own image holds trimtab."""
STOP_S = 60
"""Seconds between Ray's request to a driver to stop and its kill. Ray's 3 s would lose the last records."""


@dataclass(frozen=True)
class Request:
    """What the user asked to submit."""

    spec: SweepSpec
    name: str | None = None
    image: str | None = None
    """`installed`, or an image in which Ray starts the job's processes; None = `pip` is given."""
    pip: Path | None = None
    """Requirements that the cluster's nodes install for the job."""
    working_dir: Path | None = None
    limit_mb: float = 20.0
    secrets: Sequence[str] = ()
    """Names of variables that the cluster must have set. Their values are never sent."""
    variables: Mapping[str, str] | None = None
    """Plain variables for every process of the sweep."""
    resume: bool = False
    extend: int | None = None
    """Number of configurations to add to the sweep of this name; None = do not extend it."""
    capacity: Machine | None = None
    """Size to which an autoscaler may grow the cluster; None = its present nodes."""


@dataclass(frozen=True)
class Submission:
    """A request that has passed every check that does not need the cluster."""

    name: str
    spec: SweepSpec
    entrypoint: str
    runtime_env: dict[str, Any]
    files: Files | None
    secrets: tuple[str, ...]
    capacity: Machine | None
    more: int | None = None
    """Number of configurations to add to an existing sweep; None = do not extend it."""

    @property
    def id(self) -> str:
        """Return the id of the job."""
        return submission_id(self.name)

    @cached_property
    def text(self) -> str:
        """Return the spec as it is sent."""
        return self.spec.text()

    @property
    def digest(self) -> str:
        """Return a hash of what this job does. A job of this name with another hash is another sweep."""
        asked = self.text if self.more is None else f"{self.text}\nextend: {self.more}"
        return hashlib.sha256(asked.encode()).hexdigest()


def prepare(request: Request) -> Submission:
    """Check a request without contacting the cluster.

    Raises:
        SpecError: An option or the spec cannot be submitted.
        SecurityError: The request would send a secret.
    """
    spec = request.spec
    contained = request.image not in (None, INSTALLED)
    if contained and request.working_dir is not None:
        raise SpecError(
            "--working-dir: Ray sends no files into a container; put the code into the image, or use "
            "--image installed"
        )
    name = check_name(request.name or spec.name)
    if request.resume and request.extend is not None:
        raise SpecError("--extend: finishes open trials before it searches more; leave --resume out")
    if not spec.home.is_absolute():
        raise SpecError(
            f"home: {str(spec.home)!r} is relative; on a cluster give a folder on storage that all nodes "
            "share: --set home=/trimtab"
        )
    environment = _environment(request)
    software = _software(request)
    files = collect(request.working_dir, request.limit_mb) if request.working_dir else None
    if files is not None and SPEC_FILE in files.sizes:
        raise SpecError(f"--working-dir: submit writes its own {SPEC_FILE} there; rename your file")
    check_spec(spec)
    return Submission(
        name=name,
        spec=spec,
        entrypoint=_entrypoint(request, name, contained=contained),
        runtime_env={"env_vars": environment, **software},
        files=files,
        secrets=tuple(request.secrets),
        capacity=request.capacity,
        more=request.extend,
    )


def send(submission: Submission, jobs: Jobs, *, resume: bool = False) -> bool:
    """Submit a sweep, unless it is running there already. Return whether anything was sent.

    Args:
        resume: Whether to continue a sweep of this name that has ended. An extension always does.

    Raises:
        SpecError: The name is in use by another sweep, or by one that has ended.
    """
    there = jobs.find(submission.name)
    if there is not None and not there.ended:
        if there.digest == submission.digest:
            return False
        if submission.more is not None:
            raise SpecError(
                f"--extend: {submission.name!r} is {there.status.lower()} at {jobs.address}; extend it when "
                f"its job has ended: trimtab status {submission.name} --address {jobs.address}"
            )
        raise SpecError(
            f"--name: {submission.name!r} is in use: a job of that name with another spec or task is "
            f"{there.status.lower()} at {jobs.address}; choose another --name, or stop it: "
            f"trimtab stop {submission.name} --address {jobs.address}"
        )
    if there is not None and not (resume or submission.more is not None):
        raise SpecError(
            f"--name: {submission.name!r} is in use: that sweep has ended at {jobs.address} "
            f"({there.status.lower()}); choose another --name, continue it with --resume, or search more "
            "with --extend N"
        )
    if there is not None:
        jobs.forget(submission.name)
    with tempfile.TemporaryDirectory(prefix="trimtab-submit-") as folder:
        runtime_env = submission.runtime_env
        if "container" not in runtime_env:
            if submission.files is not None:
                stage(submission.files, Path(folder))
            (Path(folder) / SPEC_FILE).write_text(submission.text, encoding="utf-8")
            runtime_env = {**runtime_env, "working_dir": folder}
        jobs.submit(submission.name, submission.entrypoint, runtime_env, submission.digest)
    return True


def _entrypoint(request: Request, name: str, *, contained: bool) -> str:
    command, before = ["python", "-m", "trimtab"], ""
    home = ["--home", str(request.spec.home)]
    if request.resume:
        command += ["resume", name, *home]
    elif request.extend is not None:
        command += ["extend", name, "--trials", str(request.extend), *home]
    else:
        file = SPEC_FILE
        if contained:
            # Ray 2.60 does not accept a working directory with an image, so the command carries the spec.
            file = f"/tmp/{SPEC_FILE}"
            before = f"printf %s {shlex.quote(request.spec.text())} > {file} && "
        command += ["sweep", file, "--name", name]
    if request.capacity is not None:
        memory_gb = request.capacity.memory_bytes / GB
        command += ["--cpus", f"{request.capacity.cpus:g}", "--gpus", str(request.capacity.gpus)]
        command += ["--memory-gb", f"{memory_gb:g}"]
    return before + shlex.join([*command, "--address", "auto"])


def _environment(request: Request) -> dict[str, str]:
    for name in request.secrets:
        if not VARIABLE.fullmatch(name):
            raise SecurityError(
                f"--secret: {name.partition('=')[0]!r}... is not the name of a variable; give the name "
                "alone: its value is set on the cluster and is never sent with a job"
            )
    given = dict(request.variables or {})
    for name in given:
        if not VARIABLE.fullmatch(name):
            raise SpecError(
                f"--env: {name!r} is not the name of a variable; use letters, digits and _, and no "
                "digit first"
            )
        if SECRET_NAME.search(name):
            raise SecurityError(
                f"--env: {name} names a secret, and everybody who may see the job can read its variables; "
                f"set it on the cluster and pass --secret {name}"
            )
    check_plain("--env", given)
    given[CLIENT_VERSION] = __version__
    given["RAY_JOB_STOP_WAIT_TIME_S"] = str(STOP_S)
    if request.secrets:
        given[REQUIRED_SECRETS] = ",".join(request.secrets)
    return given


def _software(request: Request) -> dict[str, Any]:
    """Return where the job's processes find trimtab. There is no default, because this decides what runs."""
    if (request.image is None) == (request.pip is None):
        raise SpecError(
            "--image: say what the sweep runs in, by exactly one of them: --image installed (the nodes hold "
            "trimtab), --image REF (Ray starts the job in it), --pip FILE (the nodes install what it lists)"
        )
    if request.pip is not None:
        if not request.pip.is_file():
            raise SpecError(f"--pip: {request.pip} is not a file; name a requirements file")
        return {"pip": str(request.pip)}
    if request.image == INSTALLED:
        return {}
    # `container`, because `image_uri` cannot mount the shared storage, and the sweep writes its files there.
    home = shlex.quote(str(request.spec.home))
    return {"container": {"image": request.image, "run_options": [f"-v={home}:{home}"]}}


def render(submission: Submission, plan: Plan, cluster: Cluster) -> str:
    """Return everything that would be sent, and to which cluster, as YAML. It holds no secret's value."""
    import yaml

    nodes = [
        {
            "name": node.name,
            **{k: v for k, v in node.resources.items() if not k.startswith(("node:", "object"))},
        }
        for node in cluster.nodes
    ]
    files = submission.files
    shown = {
        "submission id": submission.id,
        "entrypoint": submission.entrypoint,
        "runtime environment": submission.runtime_env,
        "secrets, set on the cluster": list(submission.secrets),
        "working directory": None
        if "container" in submission.runtime_env
        else {
            "files": {SPEC_FILE: len(submission.text), **(files.sizes if files else {})},
            "left out": list(files.left_out) if files else [],
            "bytes": len(submission.text) + (files.bytes if files else 0),
        },
        "cluster": nodes,
        "slots at once": plan.slots,
        "spec": yaml.safe_load(submission.text),
    }
    return str(yaml.safe_dump(shown, sort_keys=False, width=110))
