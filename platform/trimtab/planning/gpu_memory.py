"""GPU memory of a slot, estimated from the model's shape before anything starts.

Assumptions:

- the learner keeps the activations of `micro_batch_tokens` (at least one sequence of full length), recomputes
  none, and holds its logits as four arrays in fp32, with `loss.entropy_bonus` as six;
- AdamW holds two moments in fp32, and in bf16 training a master copy of the weights; ZeRO (arXiv 1910.02054)
  partitions optimizer states (stage 1), gradients (2) and weights (3) over the learner's workers;
- the reference of `loss.kl` is as large as the policy, and its weights are partitioned alike;
- each process needs another 2 GB (CUDA context, libraries, buffers).
"""

from __future__ import annotations

from dataclasses import dataclass

from trainables.models.shape import ModelShape, model_shape
from trainables.trial import TrialConfig
from trimtab.errors import PlanError
from trimtab.planning.machine import GB
from trimtab.sweepspec.sections import SlotsConfig

CONTEXT_BYTES = 2 * GB
LOGIT_COPIES = 4
ENTROPY_COPIES = 2
"""The probabilities, and their product with the logits."""


@dataclass(frozen=True)
class GpuMemory:
    """Estimate for one GPU, in bytes."""

    parameters: int
    learner: dict[str, int]
    """Memory of one learner worker, by purpose; empty if the learner has no GPU."""
    engine: dict[str, int]
    """Memory of one engine on each of its GPUs, by purpose; empty if it has none."""
    sequences: int
    """Sequences of full length that fit into an engine's KV cache; 0 if the GPU's size is not known."""
    gpu: int | None
    """Memory of the GPU; None: not known, so nothing was checked."""

    @property
    def learner_bytes(self) -> int:
        """Return the memory of one learner worker."""
        return sum(self.learner.values())

    @property
    def engine_bytes(self) -> int:
        """Return the memory of one engine on each of its GPUs."""
        return sum(self.engine.values())


def estimate(config: TrialConfig, slots: SlotsConfig, gpu: int | None) -> GpuMemory | None:
    """Estimate what a learner worker and an engine take on GPUs of `gpu` bytes (None: not known).

    Returns None without GPUs, or where the model's shape is not known.

    Raises:
        PlanError: a process needs more than a GPU has, or more than its share of one.
        ModelError: the model's config.json cannot be read.
    """
    if not (slots.learner_gpus or slots.engine_gpus):
        return None
    shape = model_shape(config.model)
    if shape is None:
        return None
    engine = _engine(config, shape) if slots.engine_gpus else {}
    found = GpuMemory(
        parameters=shape.parameters,
        learner=_learner(config, shape) if slots.learner_gpus else {},
        engine=engine,
        sequences=_sequences(config, engine, gpu),
        gpu=gpu,
    )
    if gpu is not None:
        _check(found, config, slots, gpu)
    return found


def _learner(config: TrialConfig, shape: ModelShape) -> dict[str, int]:
    learner = config.learner
    wide = learner.dtype == "float32"
    number = 4 if wide else 2
    tokens = max(learner.micro_batch_tokens, config.engine.max_model_len)

    def shared(of: int, from_stage: int) -> int:
        total = of * shape.parameters
        return total // learner.workers if learner.zero_stage >= from_stage else total

    copies = LOGIT_COPIES + (ENTROPY_COPIES if config.loss.entropy_bonus else 0)
    reference = {"reference": shared(number, 3)} if config.loss.kl.coefficient else {}
    return {
        "weights": shared(number, 3),
        **reference,
        "gradients": shared(number, 2),
        "optimizer": shared(8 if wide else 12, 1),
        "activations": tokens * shape.activation_numbers * number,
        "logits": tokens * shape.vocabulary * 4 * copies,
        "context": CONTEXT_BYTES,
    }


def _engine(config: TrialConfig, shape: ModelShape) -> dict[str, int]:
    number = 4 if config.learner.dtype == "float32" else 2
    parts = config.engine.tensor_parallel
    return {
        "weights": number * shape.parameters // parts,
        "one sequence": number * shape.cache_numbers * config.engine.max_model_len // parts,
        "context": CONTEXT_BYTES,
    }


def _sequences(config: TrialConfig, engine: dict[str, int], gpu: int | None) -> int:
    if gpu is None or not engine:
        return 0
    room = config.engine.gpu_memory_utilization * gpu - engine["weights"] - engine["context"]
    return max(0, int(room // engine["one sequence"]))


def _check(found: GpuMemory, config: TrialConfig, slots: SlotsConfig, gpu: int) -> None:
    learner_room = min(slots.learner_gpus, 1.0) * gpu
    if found.learner_bytes > learner_room:
        raise PlanError(
            f"GPU memory: a learner worker needs about {_parts(found.learner)} of {learner_room / GB:.1f} GB"
            f"{_share(slots.learner_gpus, gpu)}; raise trial.learner.zero_stage or workers, lower "
            "trial.learner.micro_batch_tokens or trial.engine.max_model_len, or use larger GPUs "
            "(--gpu-memory-gb)"
        )
    utilization = config.engine.gpu_memory_utilization
    if 0 < slots.engine_gpus < 1 and utilization > slots.engine_gpus:
        raise PlanError(
            f"trial.engine.gpu_memory_utilization: {utilization:g} of a GPU is more than the engine's "
            f"share slots.engine_gpus={slots.engine_gpus:g}; lower it to {slots.engine_gpus:g} or less"
        )
    if found.engine_bytes > utilization * gpu:
        raise PlanError(
            f"GPU memory: an engine needs about {_parts(found.engine)} on each GPU of "
            f"{utilization * gpu / GB:.1f} GB (trial.engine.gpu_memory_utilization={utilization:g} of "
            f"{gpu / GB:.1f}); raise trial.engine.tensor_parallel, lower trial.engine.max_model_len, or use "
            "larger GPUs (--gpu-memory-gb)"
        )


def _share(share: float, gpu: int) -> str:
    return f" ({share:g} of {gpu / GB:.1f})" if share < 1 else ""


def _parts(parts: dict[str, int]) -> str:
    """Return `57.1 GB (weights 2.0, gradients 2.0, ...)`."""
    return f"{sum(parts.values()) / GB:.1f} GB ({describe(parts)})"


def describe(parts: dict[str, int]) -> str:
    """List the parts in GB: `weights 2.0, gradients 2.0`."""
    return ", ".join(f"{name} {size / GB:.1f}" for name, size in parts.items())
