"""Compare the two orders of POISE's probe on rollouts of the tiny model: `python -m benchmarks.probe_order`.

Each seed draws two rollouts of 2,560 additions and fits both probes on rollouts of the first 2,048. On the
others the baseline of a rollout is what a probe reads from its twin. The policy is not trained. Printed are
the Brier score, E[(r - b)^2], and its root, as means over seeds; intervals are Student's t, 95 %, paired by
seed.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import argparse
from pathlib import Path
from typing import Any, get_args

import numpy as np
from scipy.stats import t as student

from trainables.config import EngineConfig, TaskConfig
from trainables.strategies.batch import Features, FloatArray
from trainables.strategies.priors.probe import ProbePrior
from trainables.strategies.priors.probing.regression import Order, Part, Projection, Regression

FITTED, HELD = 2048, 512
"""Prompts that are fitted on at most, and held out. Two rollouts each."""


def brier(parts: list[Part], reward_N: FloatArray, order: Order, rows: int) -> float:
    """Fit on the first `rows` rollouts and return E[(r - b)^2] on the held-out ones.

    Rollouts 2p and 2p + 1 are of the same prompt.
    """
    config = ProbePrior(order=order)
    other_N = reward_N.reshape(-1, 2)[:, ::-1].ravel()
    fit, held = [part[:rows] for part in parts], [part[2 * FITTED :] for part in parts]
    projection = Projection.fit(fit, config.components(), config.order)
    regression = Regression.fit(projection.apply(fit), other_N[:rows], config.model, config.penalty)
    twin_H = regression.predict(projection.apply(held)).reshape(-1, 2)[:, ::-1].ravel()
    return float(np.square(reward_N[2 * FITTED :] - twin_H).mean())


def rollouts(model: Path, seeds: int) -> list[tuple[list[Part], FloatArray]]:
    """Draw the rollouts of each seed; return their parts (N, F) and rewards (N,)."""
    from transformers import AutoTokenizer

    from trainables.rollouts.engine import DrawRequest
    from trainables.rollouts.transformers_engine import TransformersEngine
    from trainables.tasks.load import load_task

    tokenizer = AutoTokenizer.from_pretrained(model)
    engine = TransformersEngine(str(model), EngineConfig(kind="transformers"), "float32")
    problems = list(load_task(TaskConfig(train_prompts=4096)).split("train"))
    found = []
    for seed in range(seeds):
        chosen = np.random.default_rng(seed).permutation(len(problems))[: FITTED + HELD].repeat(2)
        count = len(chosen)
        prompts = [tokenizer(problems[k].prompt, add_special_tokens=False)["input_ids"] for k in chosen]
        seed_N = np.arange(count) + seed * count
        drawn = engine.draw(DrawRequest(prompts, seed_N, np.ones(count), np.full(count, 8)))
        answers = [tokenizer.decode(own, skip_special_tokens=True).strip() for own in drawn.responses()]
        reward_N = np.array([answer == problems[k].answer for answer, k in zip(answers, chosen, strict=True)])
        states = pooled(model, tokenizer, prompts, drawn)
        parts = [states.prompt_NF, states.response_NF, states.entropy_N3]
        found.append((parts, reward_N.astype(np.float64)))
    return found


def pooled(model: Path, tokenizer: Any, prompts: list[list[int]], drawn: Any) -> Features:
    """Pool the states of rollouts in a teacher-forced pass, as the learner does."""
    import torch

    from trainables.learner.features import FeaturePlan, StatePooler, entropy_means, reasoning_length
    from trainables.learner.policy import load_policy, pad_token_of, response_logprobs
    from trainables.learner.tokens import TokenBatch, micro_batches, ragged_index

    policy = load_policy(str(model), torch.float32).eval()
    plan = FeaturePlan.of(ProbePrior().features(), policy.config.num_hidden_layers, tokenizer)
    flat = [token for pair in zip(prompts, drawn.responses(), strict=True) for own in pair for token in own]
    length_N = np.array([len(own) for own in prompts], np.int32)
    batch = TokenBatch(length_N, drawn.length_R, np.array(flat, np.int32), drawn.logprob_M)
    reasoning_N = reasoning_length(batch, plan.end_tokens)
    pooler, cpu = StatePooler(policy, plan, reasoning_N), torch.device("cpu")
    entropy_M = np.zeros(batch.response_tokens, np.float32)
    with torch.no_grad(), pooler.listening():
        for part in micro_batches(batch, 8192, pad_token_of(policy)):
            pooler.aim(part, cpu)
            _, entropy_BT = response_logprobs(policy, part, 1.0, cpu, entropy=True)
            entropy_M[ragged_index(drawn.length_R, part.row_B)] = entropy_BT.numpy()[part.response_mask_BT]
            pooler.collect(part)
    return pooler.features(entropy_means(entropy_M, drawn.length_R, reasoning_N))


def interval(value_S: FloatArray) -> str:
    """Return mean and 95 % interval over seeds, as text."""
    half = student.ppf(0.975, len(value_S) - 1) * value_S.std(ddof=1) / len(value_S) ** 0.5
    return f"{value_S.mean():+.4f} [{value_S.mean() - half:+.4f}, {value_S.mean() + half:+.4f}]"


def main() -> None:
    from trainables.models.tiny import ensure_tiny

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=8)
    options = parser.parse_args()
    drawn = rollouts(ensure_tiny(Path(".trimtab") / "models"), options.seeds)
    print(f"pass rate {np.mean([reward_N.mean() for _, reward_N in drawn]):.3f}, {options.seeds} seeds")
    print("| rows | Brier, released | rmse | Brier, standardised | rmse | released - standardised, 95 % |")
    print("|---|---|---|---|---|---|")
    for rows in (64, 128, 256, 512, 1024, 4096):
        brier_OS = np.array([[brier(*own, order, rows) for own in drawn] for order in get_args(Order)])
        cells = [f"{own_S.mean():.4f} | {np.sqrt(own_S).mean():.4f}" for own_S in brier_OS]
        print(f"| {rows} | {' | '.join(cells)} | {interval(brier_OS[0] - brier_OS[1])} |")


if __name__ == "__main__":
    main()
