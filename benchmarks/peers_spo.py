"""Recompute tests/parity/data/spo.json with SPO's own code: `python -m benchmarks.peers_spo --recipe FILE`.

FILE is spo/spo_ray_trainer.py of github.com/verl-project/verl-recipe at COMMIT. Its trainer needs Ray, vLLM
and a model. `_get_spo_rho` (D and rho) is therefore called by itself, with a policy that is a table of
log-probs, and the lines of `fit` that name the tracker are run one by one. Float64, where the recipe has
float32. `--site` is a folder that holds the verl wheel, for its `masked_mean`; default: the environment that
`python -m benchmarks.peers` makes. Needs torch. Ends with 1 where a stored value has moved; `--write` stores.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from benchmarks import peers

COMMIT = "48ea0a797fa29867ea0ad92aff7d284eec7d4be3"
FILE = "spo/spo_ray_trainer.py"
STORED = peers.ROOT / "tests" / "parity" / "data" / "spo.json"
PROMPTS, STEPS, VOCABULARY, LONGEST, OFFLINE = 6, 10, 16, 9, 8
LINES = {
    "start": ("N_init =", "prompt2alpha = {k: N_init", "prompt2beta = {k: N_init"),
    "score": ("p_hats =", "advantages = r", "advantages = (advantages"),
    "update": ("alpha = rho", "beta = rho"),
}
"""What the lines of `fit` begin with, in their order there."""


def inputs() -> dict[str, Any]:
    """Return the policies and what was drawn from them.

    policy (steps + 1, vocabulary): log-prob of a token after that many updates, exact in float32. offline
    (prompts, 8) and reward: 0 or 1. response: token ids of each visit.
    """
    rng = np.random.default_rng((14, 5))
    move_SV = rng.normal(0.0, 0.006, (STEPS, VOCABULARY))
    policy_SV = np.concatenate([rng.uniform(-3.5, -0.5, (1, VOCABULARY)), move_SV]).cumsum(axis=0)
    rate_P = np.array([0.0, 1.0, 0.2, 0.5, 0.5, 0.8])
    steps = []
    for _ in range(STEPS):
        prompt_V = np.sort(rng.choice(PROMPTS, 3, replace=False))
        length_V = rng.integers(1, LONGEST + 1, 3)
        steps.append(
            {
                "prompt": prompt_V.tolist(),
                "reward": (rng.random(3) < rate_P[prompt_V]).astype(float).tolist(),
                "response": [rng.integers(0, VOCABULARY, n).tolist() for n in length_V],
            }
        )
    return {
        "policy": (np.round(policy_SV * 2**16) / 2**16).tolist(),
        "offline": (rng.random((PROMPTS, OFFLINE)) < rate_P[:, None]).astype(int).tolist(),
        "steps": steps,
    }


class Proto:
    """The little of verl's DataProto that the recipe's method asks for: responses and their mask."""

    def __init__(self, batch: dict[str, Any]) -> None:
        self.batch = batch
        self.meta_info: dict[str, Any] = {}

    def select_idxs(self, rows: list[int]) -> Proto:
        return Proto({name: value[rows] for name, value in self.batch.items()})

    @staticmethod
    def concat(parts: list[Proto]) -> Proto:
        import torch

        return Proto({name: torch.cat([p.batch[name] for p in parts]) for name in parts[0].batch})


class Table:
    """The recipe's workers: a policy that is a table. `now` counts its updates."""

    def __init__(self, policy: list[list[float]]) -> None:
        import torch

        self.policy_SV = torch.tensor(policy, dtype=torch.float64)
        self.now = 0

    def compute_log_prob(self, data: Proto) -> Proto:
        return Proto({"old_log_probs": self.policy_SV[self.now][data.batch["responses"]]})


def load(recipe: Path, site: Path) -> tuple[ModuleType, dict[str, list[Any]]]:
    """Return the recipe's module, its imports stood in for, and the compiled lines of `fit` by part."""
    peers.load(site)
    tree = ast.parse(recipe.read_text())
    for node in tree.body:
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            if name and name.partition(".")[0] in ("verl", "ray", "omegaconf", "tqdm"):
                for depth in range(1, name.count(".") + 2):
                    whole = ".".join(name.split(".")[:depth])
                    if whole not in sys.modules:
                        peers._stand_in(whole)
                for alias in node.names if isinstance(node, ast.ImportFrom) else ():
                    if not hasattr(sys.modules[name], alias.name):
                        setattr(sys.modules[name], alias.name, type(alias.name, (), {}))
    vars(sys.modules["verl"])["DataProto"] = Proto
    vars(sys.modules["verl.trainer.ppo.ray_trainer"])["compute_response_mask"] = lambda d: d.batch["mask"]
    module = ModuleType("spo_ray_trainer")
    exec(compile(tree, str(recipe), "exec"), vars(module))
    (fit,) = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "fit")
    assigned = [n for n in ast.walk(fit) if isinstance(n, ast.Assign)]
    found = {}
    for part, starts in LINES.items():
        lines = [next(n for n in assigned if ast.unparse(n).startswith(start)) for start in starts]
        found[part] = [compile(ast.unparse(line), part, "exec") for line in lines]
    return module, found


def compute(recipe: Path, site: Path) -> dict[str, Any]:
    """Run the recipe over the inputs; return them, what it found at each step, and where it came from."""
    import torch

    module, lines = load(recipe, site)
    given = inputs()
    actor = Table(given["policy"])
    spo = SimpleNamespace(rho=SimpleNamespace(type="kl", clip_lower=0.875))
    trainer = SimpleNamespace(
        config=SimpleNamespace(trainer=SimpleNamespace(spo=spo)), actor_rollout_wg=actor
    )
    scores = {str(p): row for p, row in enumerate(given["offline"])}
    run: dict[str, Any] = {"self": trainer, "prompt2scores": scores, "full_prompts": list(scores)}
    run |= {"Neff": OFFLINE}
    for line in lines["start"]:
        exec(line, run)
    kept: tuple[Any, ...] = ({}, {}, {})
    found = []
    for number, step in enumerate(given["steps"]):
        names = [str(p) for p in step["prompt"]]
        a, b = ([run[f"prompt2{name}"][p] for p in names] for name in ("alpha", "beta"))
        run |= {"alpha": torch.tensor(a, dtype=torch.float64), "beta": torch.tensor(b, dtype=torch.float64)}
        run |= {"r": torch.tensor(step["reward"], dtype=torch.float64), "Neff": run["alpha"] + run["beta"]}
        for line in lines["score"]:
            exec(line, run)
        actor.now = number + 1
        padded = [row + [0] * (LONGEST - len(row)) for row in step["response"]]
        mask = [[1.0] * len(row) + [0.0] * (LONGEST - len(row)) for row in step["response"]]
        data = Proto({"responses": torch.tensor(padded), "mask": torch.tensor(mask, dtype=torch.float64)})
        rho, *kept_now, _ = module.RayPPOTrainer._get_spo_rho(trainer, *kept, names, data)
        kept, run["rho"] = tuple(kept_now), rho
        for line in lines["update"]:
            exec(line, run)
        found.append({"D": [kept[2][p] for p in names], "rho": rho.tolist()})
        found[-1] |= {"value": run["p_hats"].tolist(), "advantage": run["advantages"].tolist()}
        for name in ("alpha", "beta"):
            run[f"prompt2{name}"] |= dict(zip(names, run[name].tolist(), strict=True))
            found[-1][name] = run[name].tolist()
    sha = hashlib.sha256(recipe.read_bytes()).hexdigest()
    source = {"repository": "verl-project/verl-recipe", "commit": COMMIT, "file": FILE, "sha256": sha}
    return {"source": source, "inputs": given, "steps": found}


def main() -> int:
    """Compare with what is stored; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", type=Path, required=True, help=f"{FILE} of the recipe")
    site = peers.VENV / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    parser.add_argument("--site", type=Path, default=site, help="folder with the verl wheel's files")
    parser.add_argument("--write", action="store_true", help="store what was found")
    given = parser.parse_args()
    found = compute(given.recipe, given.site)
    if given.write:
        STORED.write_text(json.dumps(found, separators=(",", ":")) + "\n")
    differences = peers.moved(json.loads(STORED.read_text()), found)
    print("\n".join(differences) or f"all values of {FILE} are as stored")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
