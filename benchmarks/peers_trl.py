"""TRL's advantages and losses, for `benchmarks.peers`, which runs this in an environment of its own.

They stand inside methods of TRL's trainers. Those methods are called on a stand-in that has what they read: a
batch that was sampled and scored elsewhere, and log-probabilities that no model computed. In float64.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks import peers

FILES = ("trl/trainer/grpo_trainer.py", "trl/trainer/rloo_trainer.py")
LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo")
DELTA = 3.0
"""TRL's two-sided clip: the largest ratio of a token of negative advantage."""

BETA = 0.5
"""Coefficient of the KL to the policy that sampled, or to a `reference` among the inputs."""


def _same(value: Any, **_: Any) -> Any:
    return value


def _alone() -> SimpleNamespace:
    """Return the accelerator of one process on a CPU."""
    return SimpleNamespace(device="cpu", process_index=0, num_processes=1, gather=_same, reduce=_same)


def _metrics() -> dict[str, Any]:
    return {"train": defaultdict(list)}


def _logs() -> dict[str, Any]:
    return {"prompt": [], "completion": [], "rewards": defaultdict(list), "advantages": []}


def _sampled(batch: dict[str, Any]) -> tuple[list[float], list[bool], int]:
    """Return rewards, which of them are real, and the size of a group.

    TRL's groups have one size. Smaller ones are filled with what it calls unscorable: a reward of NaN.
    """
    groups: dict[int, list[float]] = defaultdict(list)
    for prompt, reward in zip(batch["prompt"], batch["reward"], strict=True):
        groups[prompt].append(reward)
    size = max(map(len, groups.values()))
    reward, real = [], []
    for group in groups.values():
        reward += [*group, *[float("nan")] * (size - len(group))]
        real += [True] * len(group) + [False] * (size - len(group))
    return reward, real, size


def advantages(batch: dict[str, Any], trainer: type, **settings: Any) -> list[float]:
    """Return the advantages, one for each rollout of the batch, of a trainer with these settings."""
    import torch

    reward, real, size = _sampled(batch)
    reward_N1 = torch.tensor(reward, dtype=torch.float64)[:, None]
    tokens: list[Any] = [[[1]] * len(reward), [[2]] * len(reward)]
    generated = (*tokens, None, tokens[1], None, {}, None, None)
    if trainer.__name__ == "RLOOTrainer":
        generated = (*tokens, tokens[1])
    logprob_N1 = torch.zeros_like(reward_N1)
    stand_in = SimpleNamespace(
        accelerator=_alone(),
        model=SimpleNamespace(training=True, is_gradient_checkpointing=False),
        args=SimpleNamespace(
            per_device_train_batch_size=len(reward),
            gradient_checkpointing_kwargs=None,
            steps_per_generation=1,
            gradient_accumulation_steps=1,
        ),
        environment_factories=None,
        environments=None,
        tools=None,
        pad_to_multiple_of=None,
        mask_truncated_completions=False,
        num_iterations=1,
        use_vllm=False,
        beta=0.0,
        num_generations=size,
        reward_weights=torch.ones(1, dtype=torch.float64),
        reward_funcs=[None],
        reward_func_names=["given"],
        reward_clip_range=None,
        multi_objective_aggregation="sum_then_normalize",
        _tokenizer=SimpleNamespace(pad_token_id=0),
        _generate=lambda _: generated,
        _calculate_rewards=lambda *_: reward_N1,
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprob_N1, None, None),
        _metrics=_metrics(),
        _logs=_logs(),
        _pending_extra_logs={},
        _pending_metrics={},
        **settings,
    )
    score = trainer._generate_and_score_completions  # type: ignore[attr-defined]
    found = score(stand_in, [{"prompt": "p"} for _ in reward])["advantages"].tolist()
    return [advantage for advantage, used in zip(found, real, strict=True) if used]


def loss(trainer: type, inputs: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """Return loss (a scalar) and its gradient (rows of T_n) of a loss type, clip and KL coefficient."""
    import torch

    length, rows = inputs["length"], peers.pad
    new_BT = rows(inputs["new"]).requires_grad_()
    mask_BT = rows([[1.0] * n for n in length])
    delta = settings.pop("delta", None)
    stand_in = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (new_BT, torch.zeros_like(new_BT), None),
        accelerator=_alone(),
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(delta=delta, steps_per_generation=1, use_bias_correction_kl=False),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        epsilon_low=0.2,
        epsilon_high=0.28,
        use_vllm=False,
        current_gradient_accumulation_steps=1,
        max_completion_length=max(length),
        _entropy_bonus_enabled=False,
        _metrics=_metrics(),
        **{"beta": 0.0, **settings},
    )
    given = {
        "prompt_ids": torch.ones(len(length), 1, dtype=torch.long),
        "prompt_mask": torch.ones(len(length), 1, dtype=torch.long),
        "completion_ids": torch.ones(new_BT.shape, dtype=torch.long),
        "completion_mask": mask_BT,
        "advantages": rows(inputs["advantage"]),
        "old_per_token_logps": rows(inputs["old"]),
        "ref_per_token_logps": rows(inputs.get("reference", inputs["old"])),
        "num_items_in_batch": mask_BT.sum(),
    }
    value = trainer._compute_loss(stand_in, None, given)  # type: ignore[attr-defined]
    value.backward()
    return {"loss": value.item(), "gradient": peers.unpad(new_BT.grad, length)}


def compute(site: Path) -> dict[str, Any]:
    """Run TRL's methods; call it inside the peers' environment only."""
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.rloo_trainer import RLOOTrainer

    inputs = peers.batches()
    calls: dict[str, tuple[type, dict[str, Any]]] = {
        f"grpo, scale_rewards {scale}": (GRPOTrainer, {"scale_rewards": scale})
        for scale in ("group", "batch", "none")
    }
    calls["rloo"] = (RLOOTrainer, {"normalize_advantages": False})
    found = {
        name: {call: advantages(batch, trainer, **settings) for call, (trainer, settings) in calls.items()}
        for name, batch in inputs.items()
    }
    losses = {}
    for kind in LOSS_TYPES:
        losses[kind] = loss(GRPOTrainer, peers.losses(), loss_type=kind)
        losses[f"{kind}, kl"] = loss(GRPOTrainer, peers.losses(), loss_type=kind, beta=BETA)
        far = peers.losses() | {"reference": peers.regularisers()["reference"]}
        losses[f"{kind}, far kl"] = loss(GRPOTrainer, far, loss_type=kind, beta=BETA)
        losses[f"{kind}, delta"] = loss(GRPOTrainer, peers.losses(), loss_type=kind, delta=DELTA)
    files = {file: hashlib.sha256((site / file).read_bytes()).hexdigest() for file in FILES}
    source = {"package": "trl", "version": version("trl"), "file": FILES[0], "sha256": files}
    return {"source": source, "advantages": found, "losses": losses}
