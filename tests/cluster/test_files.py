"""Everything in cluster/templates is valid by the schemas of its readers, which are checked offline."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from speed import patience

from cluster.render import render, values, versions

KUBERNETES = "1.37"
CRDS = {"RayCluster": "ray.io_rayclusters.yaml", "RayJob": "ray.io_rayjobs.yaml"}


def objects(rendered: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, text in rendered.items():
        if name.startswith("kubernetes/"):
            for loaded in yaml.safe_load_all(text):
                yield f"{name} {loaded['kind']}/{loaded['metadata']['name']}", loaded


def closed(schema: Any) -> Any:
    """Return a CRD's schema in which unknown keys are errors. Kubernetes would drop them silently."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict) and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


@pytest.fixture(scope="module")
def crds(shared_data: Path) -> dict[str, Any]:
    """Return kind -> schema of `spec` in version ray.io/v1."""
    found = {}
    for kind, file in CRDS.items():
        crd = yaml.load((shared_data / "kuberay" / file).read_text(), Loader=yaml.CSafeLoader)
        version = next(v for v in crd["spec"]["versions"] if v["name"] == "v1")
        schema = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
        found[kind] = jsonschema.Draft202012Validator(closed(schema))
    return found


def test_ray_kinds_fit_kuberays_crds(rendered: dict[str, str], crds: dict[str, Any]) -> None:
    seen = []
    for name, loaded in objects(rendered):
        if loaded["kind"] in CRDS:
            assert loaded["apiVersion"] == "ray.io/v1"
            assert not [e.message for e in crds[loaded["kind"]].iter_errors(loaded["spec"])], name
            seen.append(loaded["kind"])
    assert sorted(seen) == ["RayCluster", "RayCluster", "RayJob", "RayJob"]


def test_the_crds_find_a_misspelt_key(rendered: dict[str, str], crds: dict[str, Any]) -> None:
    loaded = yaml.safe_load(rendered["kubernetes/raycluster-gpu.yaml"])
    broken = copy.deepcopy(loaded["spec"])
    broken["authOption"] = broken.pop("authOptions")
    broken["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    messages = " ".join(e.message for e in crds["RayCluster"].iter_errors(broken))
    assert "authOption" in messages
    assert "livenesProbe" in messages


def pods(loaded: dict[str, Any]) -> Iterator[dict[str, Any]]:
    spec = loaded["spec"].get("rayClusterSpec", loaded["spec"])
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        yield group["template"]["spec"]


def test_core_kinds_and_pods_fit_kubernetes(rendered: dict[str, str]) -> None:
    for _, loaded in objects(rendered):
        if loaded["kind"] not in CRDS:
            kubernetes_validate.validate(loaded, KUBERNETES, strict=True)
            continue
        for pod in pods(loaded):
            named = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": pod}
            kubernetes_validate.validate(named, KUBERNETES, strict=True)
            for container in pod["containers"]:
                assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)
                assert {"name": "home", "mountPath": "/trimtab"} in container["volumeMounts"]


def test_compose_fits_its_schema(rendered: dict[str, str]) -> None:
    schema = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    loaded = yaml.safe_load(rendered["compose.yaml"])
    jsonschema.validate(loaded, json.loads(schema.read_text()))
    published = [port for service in loaded["services"].values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


@pytest.mark.parametrize("name", ["on-premise", "aws"])
def test_ray_up_files_fit_rays_schema(rendered: dict[str, str], name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    loaded = yaml.safe_load(rendered[f"ray-up/{name}.yaml"])
    # `ray up` does the same: it adds its own defaults, then checks ray-schema.json.
    prepared = prepare_config(copy.deepcopy(loaded))
    validate_config(prepared)
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        validate_config({**prepared, "idle_timeout": 3})
    if name == "on-premise":
        assert prepared["available_node_types"]["local.cluster.node"]["min_workers"] == 2
    commands = loaded["head_start_ray_commands"] + loaded["worker_start_ray_commands"]
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2
    assert all(command.startswith("RAY_AUTH_MODE=token ray start") for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]


def test_dockerfiles_pass_hadolint(rendered: dict[str, str], tmp_path: Path) -> None:
    files = []
    for name in (n for n in rendered if n.startswith("Dockerfile")):
        (tmp_path / name).write_text(rendered[name])
        files.append(str(tmp_path / name))
    assert len(files) == 3
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, *files], capture_output=True, text=True, check=False, timeout=patience(60))
    assert done.returncode == 0, done.stdout


def test_versions_come_from_one_place(rendered: dict[str, str]) -> None:
    import ray

    pins = versions()
    assert pins["ray"] == ray.__version__
    for name, loaded in objects(rendered):
        if loaded["kind"] in CRDS:
            spec = loaded["spec"].get("rayClusterSpec", loaded["spec"])
            assert spec["rayVersion"] == pins["ray"], name
    assert f"torch=={pins['torch']}" in rendered["Dockerfile.gpu"]
    assert f"mlflow[auth]=={pins['mlflow']}" in rendered["Dockerfile.mlflow"]
    other = render({**values(), "version": {**pins, "ray": "9.9.9"}})
    assert "rayVersion: 9.9.9" in other["kubernetes/rayjob-gpu.yaml"]
    assert not any(pins["ray"] in text for text in other.values())


def test_every_image_is_pinned(rendered: dict[str, str]) -> None:
    for name, text in rendered.items():
        for line in text.splitlines():
            word = line.strip().removeprefix("- ")
            if word.startswith(("image:", "FROM ")):
                image = word.split(maxsplit=1)[1]
                assert ":" in image.rpartition("/")[2], f"{name}: {image}"
                assert not image.endswith(":latest")


def test_ray_is_closed_by_default(rendered: dict[str, str]) -> None:
    for name, loaded in objects(rendered):
        if loaded["kind"] not in CRDS:
            continue
        spec = loaded["spec"].get("rayClusterSpec", loaded["spec"])
        assert spec["authOptions"] == {"mode": "token"}, name
        # KubeRay's operator follows a RayJob through the head's service; a RayCluster is for port-forwards.
        host = "0.0.0.0" if loaded["kind"] == "RayJob" else "127.0.0.1"
        assert spec["headGroupSpec"]["rayStartParams"]["dashboard-host"] == host, name
        assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_learners_and_engines_have_nodes_of_their_own(rendered: dict[str, str]) -> None:
    spec = yaml.safe_load(rendered["kubernetes/raycluster-gpu.yaml"])["spec"]
    assert spec["enableInTreeAutoscaling"] is True
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    offered = {
        name: json.loads(json.loads(group["rayStartParams"]["resources"])) for name, group in groups.items()
    }
    assert offered == {"learners": {"learner": 1}, "rollouts": {"engine": 1}}
    for group in groups.values():
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert limits["nvidia.com/gpu"] == "8"
        assert group["minReplicas"] < group["maxReplicas"]


def test_no_file_holds_a_secret(rendered: dict[str, str]) -> None:
    """Files name secrets but never contain one: no Secret object, and no value under a secret's name."""
    assert all(loaded["kind"] != "Secret" for _, loaded in objects(rendered))
    for name, text in rendered.items():
        if not name.endswith(".yaml"):
            continue
        for loaded in yaml.safe_load_all(text):
            for path, value in leaves(loaded):
                key = path[-1].lower()
                if "password" in key or "token" in key or "secret" in key:
                    allowed = isinstance(value, bool) or value.startswith(
                        ("/run/secrets/", "trimtab-", "./", "~/")
                    )
                    assert allowed, f"{name}: {'.'.join(path)} = {value!r}"
            for variable in environment(loaded):
                if any(word in variable["name"] for word in ("PASSWORD", "TOKEN", "SECRET", "KEY")):
                    value = variable.get("value", "/run/secrets/")
                    assert value.startswith("/run/secrets/"), f"{name}: {variable}"


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, str(key)))
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict | list):
                yield from leaves(item, path)
    elif path:
        yield path, value


def environment(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every `{name: ..., value: ...}` of an `env` list."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "env" and isinstance(item, list):
                yield from item
            else:
                yield from environment(item)
    elif isinstance(value, list):
        for item in value:
            yield from environment(item)
