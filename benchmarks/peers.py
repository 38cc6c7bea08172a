"""Recompute the values of tests/parity with the peers' own functions, in a virtual environment of their own.

`python -m benchmarks.peers` installs torch, TRL and the verl wheel (without its dependencies) into
`.trimtab/peers` and runs their advantage and loss functions on the seeded batches below, in float64. It ends
with 1 where a stored value has moved. `--write` stores what it found. Code that is not on PyPI is skipped
unless a clone of it is given: `--source jspo=PATH --source sppo=PATH`.

verl's packages pull in Ray and vLLM: the three files that hold the functions are loaded by themselves,
between empty stand-ins.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
STORED = ROOT / "tests" / "parity" / "data"
VENV = ROOT / ".trimtab" / "peers"
TORCH = "torch==2.13.0"
VERL = "verl==0.9.0"
TRL = "trl==1.16.0"
TOLERANCE = 1e-12
"""Largest absolute difference that is still the same value."""
CORE = "verl/trainer/ppo/core_algos.py"
FILES = {
    "verl.utils.groupwise": "verl/utils/groupwise.py",
    "verl.utils.torch_functional": "verl/utils/torch_functional.py",
    "core_algos": CORE,
}
GROUPS: dict[str, list[list[float]]] = {
    "even": [[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]],
    "ragged": [[1, 0], [0, 0, 1], [1, 1, 0, 1, 0], [1, 1, 1], [0, 0, 0, 1, 0, 0, 0]],
    "fractions": [[0.25, 0.5, 1.0, 0.125], [0.75, 0.0, 0.5], [0.375, 0.875, 0.625, 0.0, 0.25]],
    "alone": [[1], [0, 1, 1], [0], [1, 0]],
    "uniform": [[1, 1, 1], [1, 1], [1, 1, 1, 1]],
}
"""Rewards of each batch's groups."""
CLIP_OFF = 1e9
"""Dual clip at a ratio that never occurs."""
MODES = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm")
KL_TYPES = ("kl", "mse", "low_var_kl", "abs")
TEMPERATURE = 0.7


def batches() -> dict[str, dict[str, Any]]:
    """Return the inputs by name.

    prompt, reward and length (1 to 9 tokens) are (N,), greedy is (P,), and values are N rows of (T_n,).
    """
    made = {}
    for number, (name, groups) in enumerate(GROUPS.items()):
        rng = np.random.default_rng((14, number))
        length_N = rng.integers(1, 10, sum(map(len, groups)))
        made[name] = {
            "prompt": [row for row, group in enumerate(groups) for _ in group],
            "reward": [float(reward) for group in groups for reward in group],
            "length": length_N.tolist(),
            "greedy": rng.integers(0, 2, len(groups)).astype(float).tolist(),
            "values": [(rng.integers(0, 65, n) / 64).tolist() for n in length_N],
        }
    return made


def losses() -> dict[str, Any]:
    """Return the inputs of the loss: rows of 5, 1, 3 and 2 tokens; ratios from .5 to 6, both signs of A."""
    rng = np.random.default_rng(14)
    length = [5, 1, 3, 2]
    old = [rng.uniform(-4, -2, n).tolist() for n in length]
    move = [rng.uniform(np.log(0.5), np.log(2.0), n).tolist() for n in length]
    move[0][0] = float(np.log(6.0))
    advantage = [rng.normal(0, 1, n).tolist() for n in length]
    advantage[0][0] = -1.5
    new = [[a + b for a, b in zip(*rows, strict=True)] for rows in zip(old, move, strict=True)]
    return {"length": length, "old": old, "new": new, "advantage": advantage}


def regularisers() -> dict[str, Any]:
    """Return the inputs of KL and entropy: log-probs of both policies, and logits over 6 tokens.

    Reference minus policy reaches from -25 to 25, which both of low_var_kl's bounds act on.
    """
    rng = np.random.default_rng((14, 10))
    given = losses()
    apart = [rng.normal(0, 1, n).tolist() for n in given["length"]]
    apart[0][:4] = [25.0, -25.0, 3.0, 2.0]
    pairs = zip(given["new"], apart, strict=True)
    return {
        "reference": [[a + b for a, b in zip(*rows, strict=True)] for rows in pairs],
        "logits": [rng.normal(0, 2, (n, 6)).tolist() for n in given["length"]],
    }


def stand_in(name: str, **holds: Any) -> None:
    """Put an empty module with these attributes where an import will find it."""
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__path__ = []
    for key, value in holds.items():
        setattr(module, key, value)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], child, module)


def load(site: Path) -> ModuleType:
    """Return verl's `core_algos`, loaded by itself from the packages in `site`."""

    def same(*_: Any) -> Any:
        return lambda function: function

    nothing: dict[str, Any] = {"omegaconf": "DictConfig", "tensordict": "TensorDict"}
    nothing |= {"transformers": "PreTrainedTokenizer", "verl.trainer.config": "AlgoConfig"}
    nothing |= {"verl.workers.config": "ActorConfig"}
    for package in ("verl", "verl.trainer", "verl.workers", "verl.utils"):
        stand_in(package)
    for name, holds in nothing.items():
        stand_in(name, **{holds: type(holds, (), {})})
    stand_in("verl.utils.import_utils", deprecated=same)
    stand_in("verl.utils.device", get_device_name=lambda: "cpu", get_torch_device=lambda: None)
    module = ModuleType("none")
    for name, file in FILES.items():
        spec = importlib.util.spec_from_file_location(name, site / file)
        if spec is None or spec.loader is None:
            raise ImportError(f"{site / file}: not a Python file; install {VERL} there")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        setattr(sys.modules["verl.utils"], name.rpartition(".")[2], module)
        spec.loader.exec_module(module)
        if name == "verl.utils.groupwise":
            sys.modules["verl.utils"].__dict__.update(
                as_torch_index=module.as_torch_index, group_mean_std=module.group_mean_std
            )
    return module


def from_clone(clone: Path, commit: str, file: str) -> tuple[ModuleType, str]:
    """Return one file of a clone (a git directory will do) as a module, and its SHA-256.

    Raises:
        subprocess.CalledProcessError: the clone does not have the commit.
    """
    command = ["git", "-C", str(clone), "show", f"{commit}:{file}"]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    module = ModuleType(Path(file).stem)
    exec(compile(text, file, "exec"), module.__dict__)
    return module, hashlib.sha256(text).hexdigest()


def pad(rows: list[list[float]]) -> Any:
    """Return rows of T_n numbers as one tensor, with zeros behind them."""
    import torch

    padded = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.float64)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = torch.tensor(values, dtype=torch.float64)
    return padded


def unpad(matrix: Any, length: list[int]) -> list[list[float]]:
    """Return the first T_n numbers of every row."""
    return [row[:n].tolist() for row, n in zip(matrix, length, strict=True)]


def advantages(core: ModuleType, batch: dict[str, Any]) -> dict[str, list[list[float]]]:
    """Return per-token advantages, N rows of T_n, by function and setting."""
    length = batch["length"]
    mask = pad([[1.0] * n for n in length])
    reward = pad([[0.0] * (n - 1) + [r] for n, r in zip(length, batch["reward"], strict=True)])
    index = np.array(batch["prompt"])
    group = {"response_mask": mask, "index": index}
    greedy = pad([[batch["greedy"][p]] for p in batch["prompt"]])[:, 0]
    values = pad(batch["values"])
    calls = {
        "grpo": (core.compute_grpo_outcome_advantage, group),
        "grpo without std": (
            core.compute_grpo_outcome_advantage,
            group | {"norm_adv_by_std_in_grpo": False},
        ),
        "rloo": (core.compute_rloo_outcome_advantage, group),
        "rloo_vectorized": (core.compute_rloo_vectorized_outcome_advantage, group),
        "reinforce_plus_plus_baseline": (
            core.compute_reinforce_plus_plus_baseline_outcome_advantage,
            group,
        ),
        "opo": (core.compute_opo_outcome_advantage, group),
        "remax": (core.compute_remax_outcome_advantage, {"response_mask": mask, "reward_baselines": greedy}),
        "gae lam=1": (
            core.compute_gae_advantage_return,
            {"values": values, "response_mask": mask, "gamma": 1.0, "lam": 1.0},
        ),
        "gae lam=0.95": (
            core.compute_gae_advantage_return,
            {"values": values, "response_mask": mask, "gamma": 1.0, "lam": 0.95},
        ),
    }
    return {name: unpad(call(reward.clone(), **given)[0], length) for name, (call, given) in calls.items()}


class _Actor(SimpleNamespace):
    def get(self, name: str, default: Any) -> Any:
        return getattr(self, name, default)


def vanilla(core: ModuleType, inputs: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return loss (a scalar) and its gradient (rows of T_n) of verl's `vanilla` by mode and dual clip."""
    found = {}
    mask = pad([[1.0] * n for n in inputs["length"]])
    for mode in MODES:
        for name, ratio_c in ((mode, CLIP_OFF), (f"{mode}, dual clip", 3.0)):
            actor = _Actor(clip_ratio=0.2, clip_ratio_low=0.2, clip_ratio_high=0.28, clip_ratio_c=ratio_c)
            actor.global_batch_info = {}
            new = pad(inputs["new"]).requires_grad_()
            loss, _ = core.compute_policy_loss_vanilla(
                pad(inputs["old"]), new, pad(inputs["advantage"]), mask, mode, actor
            )
            loss.backward()
            found[name] = {"loss": loss.item(), "gradient": unpad(new.grad, inputs["length"])}
    return found


def kl_losses(core: ModuleType) -> dict[str, dict[str, Any]]:
    """Return verl's KL loss and its gradient on the policy's log-probs (rows of T_n) by mode and type."""
    found = {}
    inputs, reference = losses(), pad(regularisers()["reference"])
    mask = pad([[1.0] * n for n in inputs["length"]])
    for mode in MODES:
        for kind in KL_TYPES:
            new = pad(inputs["new"]).requires_grad_()
            loss = core.agg_loss(core.kl_penalty(new, reference, kind), mask, mode)
            loss.backward()
            found[f"{mode}, {kind}"] = {"loss": loss.item(), "gradient": unpad(new.grad, inputs["length"])}
    return found


def entropy_losses(core: ModuleType) -> dict[str, dict[str, Any]]:
    """Return verl's entropy, and its gradient on the logits (rows of T_n x 6), by mode.

    The logits are divided by the temperature first, as verl's engine does (`engine/fsdp`).
    """
    import torch

    found = {}
    length = losses()["length"]
    mask = pad([[1.0] * n for n in length])
    for mode in MODES:
        logits = torch.zeros(*mask.shape, 6, dtype=torch.float64)
        for row, values in zip(logits, regularisers()["logits"], strict=True):
            row[: len(values)] = torch.tensor(values, dtype=torch.float64)
        logits.requires_grad_()
        entropy = sys.modules["verl.utils.torch_functional"].entropy_from_logits(logits / TEMPERATURE)
        loss = core.agg_loss(entropy, mask, mode)
        loss.backward()
        found[mode] = {"loss": loss.item(), "gradient": unpad(logits.grad, length)}
    return found


def compute(site: Path) -> dict[str, Any]:
    """Run the peer's functions; call it inside the peers' environment only."""
    core = load(site)
    files = {file: hashlib.sha256((site / file).read_bytes()).hexdigest() for file in FILES.values()}
    inputs = batches()
    return {
        "source": {"package": "verl", "version": version("verl"), "file": CORE, "sha256": files},
        "batches": inputs,
        "advantages": {name: advantages(core, batch) for name, batch in inputs.items()},
        "loss_inputs": losses(),
        "losses": vanilla(core, losses()),
        "regulariser_inputs": regularisers(),
        "kl": kl_losses(core),
        "entropy": entropy_losses(core),
    }


def moved(stored: Any, found: Any, where: str = "") -> list[str]:
    """Return the places at which two results differ by more than TOLERANCE."""
    if isinstance(stored, dict) and isinstance(found, dict):
        keys = sorted({*stored, *found})
        return [m for k in keys for m in moved(stored.get(k), found.get(k), f"{where}/{k}")]
    if isinstance(stored, list) and isinstance(found, list) and len(stored) == len(found):
        pairs = enumerate(zip(stored, found, strict=True))
        return [m for i, (a, b) in pairs for m in moved(a, b, f"{where}/{i}")]
    if isinstance(stored, float) and isinstance(found, float):
        return [] if abs(stored - found) <= TOLERANCE else [f"{where}: stored {stored!r}, found {found!r}"]
    return [] if stored == found else [f"{where}: stored {stored!r}, found {found!r}"]


class Peer(NamedTuple):
    """One file of stored values and what recomputes it."""

    module: str
    """Its `compute` returns what is stored; it is given the installed packages, or the clone."""
    needs: tuple[tuple[str, ...], ...]
    """Arguments of `pip install`, one call after another."""
    cloned: bool = False
    """True: the code is not on PyPI."""


PEERS = {
    "verl": Peer("benchmarks.peers", ((TORCH, "numpy"), ("--no-deps", VERL))),
    # Under our own versions of what TRL is built on: it is what the extra `bench` installs.
    "trl": Peer("benchmarks.peers_trl", ((TORCH, TRL, "--constraint", str(ROOT / "constraints.txt")),)),
    "jspo": Peer("benchmarks.peers_jspo", ((TORCH, "numpy", "einops"),), cloned=True),
    "sppo": Peer("benchmarks.peers_sppo", ((TORCH, "numpy"),), cloned=True),
}


def _in_environment(name: str, venv: Path, clone: Path | None) -> dict[str, Any]:
    """Install what is missing and let the environment's own Python compute."""
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    for arguments in PEERS[name].needs:
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *arguments], check=True)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [str(python), "-m", "benchmarks.peers", "--inside", name]
    if clone is not None:
        command += ["--source", f"{name}={clone.resolve()}"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def check(name: str, venv: Path, clone: Path | None, write: bool) -> bool:
    """Recompute one file, say what has moved, and return whether anything has."""
    if PEERS[name].cloned and clone is None:
        source = json.loads((STORED / f"{name}.json").read_text())["source"]
        print(f"{name}: skipped, {source['repository']} at {source['commit']} is {source['recompute']}")
        return False
    found = _in_environment(name, venv, clone)
    if write:
        (STORED / f"{name}.json").write_text(json.dumps(found, separators=(",", ":")) + "\n")
    differences = moved(json.loads((STORED / f"{name}.json").read_text()), found)
    print("\n".join(differences) or f"{name}: all values are as stored")
    return bool(differences)


def main() -> int:
    """Compare with what is stored; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="store what was found")
    parser.add_argument("--inside", choices=PEERS, help="print one peer's values; runs in the environment")
    parser.add_argument("--venv", type=Path, default=VENV, help="the environment; made if absent")
    parser.add_argument(
        "--source", action="append", default=[], metavar="NAME=CLONE", help="code not on PyPI"
    )
    given = parser.parse_args()
    clones = {name: Path(path) for name, _, path in (entry.partition("=") for entry in given.source)}
    unknown = sorted(set(clones) - {name for name, peer in PEERS.items() if peer.cloned})
    if unknown:
        parser.error(f"--source: {', '.join(unknown)}: not among the peers that are not on PyPI")
    if given.inside:
        site = clones.get(given.inside, Path(sysconfig.get_path("purelib")))
        print(json.dumps(importlib.import_module(PEERS[given.inside].module).compute(site)))
        return 0
    found = [check(name, given.venv, clones.get(name), given.write) for name in PEERS]
    return int(any(found))


if __name__ == "__main__":
    sys.exit(main())
