"""Measure what a probe costs: its refit on one core, its hooks in the log-prob pass. `make bench BENCH=probe`

Exits with 1 if the refit of the default shape takes more than 50 ms, or the hooks more than 5 % of the pass.
Passes with and without hooks alternate, so that a busy machine disturbs both equally.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from trainables.strategies.priors.probing.regression import ModelKind, Projection, Regression

REFIT_LIMIT, HOOK_LIMIT = 0.050, 0.05
ROWS = 4096


def seconds(run: Callable[[], object], repeats: int) -> list[float]:
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        found.append(time.perf_counter() - begin)
    return found


def refits(repeats: int) -> bool:
    """Time a refit on 4096 rows for each shape and model. Return True if the default keeps its limit."""
    rng = np.random.default_rng(0)
    rate_R = np.clip(rng.normal(0.4, 0.3, ROWS), 0, 1)
    print(f"refit on {ROWS} rows, one core: median of {repeats}")
    kept = True
    kinds: tuple[ModelKind, ...] = ("ridge", "logistic", "mlp")
    cases = [(32, 64, 0, 0, kind) for kind in kinds]
    cases += [(128, 128, 0, 0, "ridge"), (128, 128, 32, 64, "ridge"), (2560, 2560, 0, 0, "ridge")]
    cases += [(2560, 2560, 32, 64, "ridge")]
    for prompt, response, pca_prompt, pca_response, kind in cases:
        parts = [rng.normal(size=(ROWS, width)).astype(np.float32) for width in (prompt, response, 3)]

        def refit(
            parts: list[np.ndarray] = parts,
            components: tuple[int, int, int] = (pca_prompt, pca_response, 0),
            kind: ModelKind = kind,
        ) -> Regression:
            columns = Projection.fit(parts, components, "released").apply(parts)
            return Regression.fit(columns, rate_R, kind, 100.0)

        refit()
        wide = prompt > 1000 or kind != "ridge"
        found = float(np.median(seconds(refit, max(2, repeats // 5) if wide else repeats)))
        default = (prompt, response, kind) == (32, 64, "ridge")
        kept &= not default or found <= REFIT_LIMIT
        pca = f", PCA {pca_prompt} + {pca_response}" if pca_prompt else ""
        limit = f"   limit {1e3 * REFIT_LIMIT:.0f} ms" if default else ""
        print(f"  {prompt} + {response} + 3 columns, {kind}{pca}: {1e3 * found:.1f} ms{limit}", flush=True)
    return kept


def hooks(repeats: int) -> bool:
    """Time the log-prob pass without hooks, with the probe's layer, and with the survey of all layers."""
    import torch
    import torch.distributed as dist
    from transformers import AutoConfig, AutoModelForCausalLM

    from trainables.config import LearnerConfig
    from trainables.learner.features import FeaturePlan
    from trainables.learner.group import LearnerGroup
    from trainables.learner.rank import Learner
    from trainables.learner.tokens import TokenBatch

    torch.set_num_threads(1)
    os.environ.update(DS_ACCELERATOR="cpu", RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    group = LearnerGroup(Learner(0, 1, torch.device("cpu")))
    shapes = {
        "tiny's shape (4 x 128), 128 rollouts of 12 + 8 tokens": (4, 128, 16, 128, 12, 8),
        "8 x 512, vocabulary 4096, 8 rollouts of 32 + 96 tokens": (8, 512, 4096, 8, 32, 96),
    }
    kept = True
    for name, (layers, width, vocabulary, rollouts, prompt, response) in shapes.items():
        rng = np.random.default_rng(0)
        tokens = TokenBatch(
            np.full(rollouts, prompt, np.int32),
            np.full(rollouts, response, np.int32),
            rng.integers(2, vocabulary, rollouts * (prompt + response)).astype(np.int32),
            np.zeros(rollouts * response, np.float32),
        )
        config = AutoConfig.for_model(
            "qwen3",
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=width // 4,
            intermediate_size=2 * width,
            vocab_size=vocabulary,
            max_position_embeddings=512,
        )
        with tempfile.TemporaryDirectory() as folder:
            AutoModelForCausalLM.from_config(config).save_pretrained(folder)
            group.reset(str(Path(folder)), LearnerConfig(), 1.0, 0)
        plans = {
            "no hooks": None,
            "one layer": FeaturePlan(layers // 2, 10, (1,), None),
            "all layers": FeaturePlan(layers // 2, 10, (1,), 64),
        }
        found: dict[str, list[float]] = {plan: [] for plan in plans}
        for _ in range(repeats + 2):
            for label, plan in plans.items():
                found[label] += seconds(lambda plan=plan, tokens=tokens: group.forward(tokens, plan), 1)
        print(f"log-prob pass, {name}: medians of {repeats}, one core")
        plain = np.array(found["no hooks"][2:])
        for label, times in found.items():
            # Compare neighbouring passes. The median of their ratios is robust against outliers.
            ratio = float(np.median(np.array(times[2:]) / plain)) - 1.0
            limited = label == "one layer" and width > 256
            kept &= not limited or ratio <= HOOK_LIMIT
            note = f"   limit {HOOK_LIMIT:.0%}" if limited else ""
            print(f"  {label}: {1e3 * float(np.median(times[2:])):.1f} ms ({ratio:+.1%}){note}", flush=True)
        features = group.forward(tokens, plans["all layers"]).features
        if features is not None:
            print(f"  features with all layers: {features.nbytes / 1e3 / rollouts:.2f} kB per rollout")
    group.close()
    dist.destroy_process_group()
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", choices=["refits", "hooks"])
    options = parser.parse_args()
    parts = {"refits": refits, "hooks": hooks}
    kept = [run(options.repeats) for name, run in parts.items() if options.only in (None, name)]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
