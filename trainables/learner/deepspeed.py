"""What the policy's and the critic's engines share: settings, loading, micro-batches. torch, DeepSpeed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import deepspeed
import torch
import torch.distributed as dist

from trainables.config import LearnerConfig, resolve_dtype
from trainables.learner.extensions import skip_shm_extension
from trainables.learner.tokens import Padded, TokenBatch, filler, micro_batches


def dtype_of(config: LearnerConfig, device: torch.device) -> torch.dtype:
    """Return the type that parameters are computed in."""
    name = resolve_dtype(config.dtype, on_gpu=device.type == "cuda")
    return torch.bfloat16 if name == "bfloat16" else torch.float32


@contextmanager
def loading(config: LearnerConfig, dtype: torch.dtype) -> Iterator[None]:
    """Wrap `from_pretrained`: under ZeRO-3, transformers must shard parameters while it builds them."""
    skip_shm_extension()
    if config.zero_stage < 3:
        yield
        return
    from transformers.integrations import HfDeepSpeedConfig

    # transformers holds only a weak reference to it: it must live until the block ends.
    sharding = HfDeepSpeedConfig(deepspeed_settings(config, dtype))
    yield
    del sharding


def start_engine(model: torch.nn.Module, config: LearnerConfig, dtype: torch.dtype, lr: float) -> Any:
    """Build a DeepSpeed engine with AdamW around a loaded model. Switches dropout off."""
    model.train()
    _switch_dropout_off(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=config.betas, weight_decay=config.weight_decay)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        config=deepspeed_settings(config, dtype),
        dist_init_required=False,
    )
    return engine


def start_frozen(
    model: torch.nn.Module, config: LearnerConfig, dtype: torch.dtype, device: torch.device
) -> Any:
    """Make a loaded model ready for passes without a gradient. Return what to call.

    Under ZeRO-3 its parameters stay sharded, which takes an engine; the engine has no optimizer.
    """
    model.eval()
    model.requires_grad_(False)
    if config.zero_stage < 3:
        return model.to(device)
    engine, *_ = deepspeed.initialize(
        model=model, config=deepspeed_settings(config, dtype), dist_init_required=False
    )
    return engine


def rank_parts(
    batch: TokenBatch, budget: int, pad_token: int, world_size: int, device: torch.device
) -> Iterator[Padded]:
    """Yield this rank's micro-batches, then fillers until every rank has run the same number."""
    parts = list(micro_batches(batch, budget, pad_token))
    wanted = len(parts)
    if world_size > 1:
        count = torch.tensor(wanted, device=device)
        dist.all_reduce(count, op=dist.ReduceOp.MAX)
        wanted = int(count)
    yield from parts
    for _ in range(wanted - len(parts)):
        yield filler(pad_token)


def gradient_norm(engine: Any, model: torch.nn.Module, stage: int) -> float | None:
    """Return the gradient norm before `engine.step()` at stage 0, where DeepSpeed reports none; else None."""
    if stage > 0:
        return None
    # Gradients are whole and averaged here.
    squares = [p.grad.float().pow(2).sum() for p in model.parameters() if p.grad is not None]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def deepspeed_settings(config: LearnerConfig, dtype: torch.dtype) -> dict[str, Any]:
    """Translate the learner's settings into DeepSpeed's configuration."""
    bf16 = dtype is torch.bfloat16
    return {
        # `Learner.update` cuts the micro-batches and sets the accumulation boundary by hand.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.grad_clip,
        "zero_optimization": {
            "stage": config.zero_stage,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": bf16},
        # Sums of many micro-batches lose small gradients in bfloat16. DeepSpeed has no such mix at stage 0.
        "data_types": {"grad_accum_dtype": "fp32" if bf16 and config.zero_stage else None},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def _switch_dropout_off(model: torch.nn.Module) -> None:
    """Dropout would make the learner's log-probs differ from the sampler's."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]
