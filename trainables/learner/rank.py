"""One rank of the learner: a causal language model in a DeepSpeed engine. torch, DeepSpeed.

Every public method is collective: all ranks call it together, each with its own share of the rollouts.
"""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from trainables.config import LearnerConfig, LossConfig
from trainables.errors import DivergedError, ModelError, StrategyError
from trainables.learner.checkpoints import refuse_foreign
from trainables.learner.critic import Critic
from trainables.learner.deepspeed import dtype_of, gradient_norm, loading, rank_parts, start_engine
from trainables.learner.features import (
    FeaturePlan,
    StatePooler,
    decoder_blocks,
    entropy_means,
    reasoning_length,
)
from trainables.learner.losses import LossSums, policy_loss
from trainables.learner.policy import (
    Reference,
    load_policy,
    loss_input,
    pad_token_of,
    response_logprobs,
    vocabulary_of,
)
from trainables.learner.results import Forward, UpdateStats, ValueStats
from trainables.learner.tokens import Float32, Padded, TokenBatch, TrainBatch, ragged_index
from trainables.learner.value_batch import ValueBatch
from trainables.strategies.batch import CriticNeeds
from trainables.weight_sync.publish import Endpoint, Manifest, Published, manifest, stream, whole_parameters
from trainables.weight_sync.weights import Weights, checksum, to_numpy


@dataclass
class Learner:
    """One rank's share of the policy. `reset` starts every lease; nothing survives it."""

    rank: int
    world_size: int
    device: torch.device
    endpoint: Endpoint | None = field(default=None, init=False)
    """On rank 0: its place in the weight broadcast."""
    _engine: Any = field(default=None, init=False)
    _critic: Critic | None = field(default=None, init=False)
    _reference: Reference | None = field(default=None, init=False)
    _model: Any = field(default=None, init=False)
    _config: LearnerConfig = field(default=LearnerConfig(), init=False)
    _pad_token: int = field(default=0, init=False)
    _temperature: float = field(default=1.0, init=False)
    _updates: int = field(default=0, init=False)

    def reset(
        self,
        model: str,
        config: LearnerConfig,
        temperature: float,
        seed: int,
        critic: CriticNeeds | None = None,
        reference: str | None = None,
    ) -> None:
        """Load the base weights afresh and build new DeepSpeed engines for policy and critic, if any.

        `reference` is the model that the loss takes a KL to.

        Raises:
            ModelError: The reference has another vocabulary.
        """
        self.close()
        torch.manual_seed(seed)
        self._config, self._temperature, self._updates = config, temperature, 0
        dtype = self.dtype()
        with loading(config, dtype):
            self._model = load_policy(model, dtype)
        self._pad_token = pad_token_of(self._model)
        self._engine = start_engine(self._model, config, dtype, config.lr)
        if critic is not None:
            self._critic = Critic(critic, config, self._pad_token, self.rank, self.world_size, self.device)
            self._critic.start(model)
        if reference is not None:
            self._reference = Reference(config, temperature, self._pad_token, self.world_size, self.device)
            self._reference.start(reference, vocabulary_of(self._model))

    def close(self) -> None:
        """Give the engines' memory back."""
        if self._critic is not None:
            self._critic.close()
        if self._reference is not None:
            self._reference.close()
        if self._engine is not None:
            self._engine.destroy()
        self._engine = self._model = self._critic = self._reference = None
        gc.collect()

    @torch.no_grad()
    def forward(self, batch: TokenBatch, plan: FeaturePlan | None = None) -> Forward:
        """Return teacher-forced log-probs and entropies of this rank's rollouts, in the batch's order.

        With a `plan`, the hidden states it names are pooled in the same pass.
        """
        logprob_M = np.zeros(batch.response_tokens, dtype=np.float32)
        entropy_M = np.zeros(batch.response_tokens, dtype=np.float32)
        reasoning_N = reasoning_length(batch, plan.end_tokens if plan else ())
        pooler = StatePooler(self._model, plan, reasoning_N) if plan else None
        with pooler.listening() if pooler else nullcontext():
            for part in self._parts(batch):
                if pooler:
                    pooler.aim(part, self.device)
                logprob_BT, entropy_BT = self._logprobs(self._engine, part, entropy=True)
                index = ragged_index(batch.response_length_N, part.row_B[part.row_B >= 0])
                mask = part.response_mask_BT
                logprob_M[index] = logprob_BT.float().cpu().numpy()[mask]
                entropy_M[index] = entropy_BT.float().cpu().numpy()[mask]
                if pooler:
                    pooler.collect(part)
        if pooler is None:
            return Forward(logprob_M, entropy_M)
        means_N3 = entropy_means(entropy_M, batch.response_length_N, reasoning_N)
        return Forward(logprob_M, entropy_M, pooler.features(means_N3))

    @property
    def layers(self) -> int:
        """Decoder blocks of the policy."""
        return len(decoder_blocks(self._model))

    def update(self, batch: TrainBatch, loss: LossConfig) -> UpdateStats:
        """Make one optimizer update on this rank's share of a mini-batch.

        Raises:
            DivergedError: The gradient norm is not finite. It is global, so every rank raises or none does.
        """
        engine = self._engine
        parts = list(self._parts(batch.tokens))
        total = clipped = capped = kl = 0.0
        for number, part in enumerate(parts):
            engine.set_gradient_accumulation_boundary(number == len(parts) - 1)
            sums = self._loss(engine, batch, part, loss)
            # DeepSpeed averages over ranks; the denominator is the whole mini-batch's, so undo that.
            engine.backward(sums.loss * self.world_size)
            total += float(sums.loss.detach())
            clipped += sums.clipped
            capped += sums.importance_capped
            kl += sums.kl_reference
        self._set_lr()
        before = gradient_norm(engine, self._model, self._config.zero_stage)
        engine.step()
        norm = float(before if before is not None else engine.get_global_grad_norm())
        if not math.isfinite(norm):
            raise DivergedError(
                f"update {self._updates}: the gradient norm is {norm}; lower learner.lr "
                f"(now {self._config.lr}) or learner.grad_clip (now {self._config.grad_clip})"
            )
        self._updates += 1
        return UpdateStats(
            gradient_norm=norm,
            loss=total,
            clipped_tokens=clipped,
            capped_tokens=capped,
            tokens=batch.tokens.response_tokens,
            kl_reference=kl,
        )

    def reference_logprobs(self, batch: TokenBatch) -> Float32:
        """Return the reference's log-probs (M,) of this rank's rollouts (see `Reference.logprobs`)."""
        if self._reference is None:
            raise StrategyError(
                "loss.kl.coefficient: is not 0, but the learner was reset without a reference"
            )
        return self._reference.logprobs(batch)

    def values(self, batch: TokenBatch) -> Float32:
        """Return the critic's values (M,) of this rank's rollouts (see `Critic.values`)."""
        return self._need_critic().values(batch)

    def update_values(self, batch: ValueBatch) -> ValueStats:
        """Make one update of the critic on this rank's share."""
        return self._need_critic().update(batch)

    def gradient_products(
        self, first: TrainBatch, second: TrainBatch, loss: LossConfig
    ) -> tuple[float, float, float]:
        """Return |g1|^2, |g2|^2 and g1 . g2 of two batches' gradients over all ranks; change nothing."""
        pairs = zip(self._gradient(first, loss), self._gradient(second, loss), strict=True)
        sums = torch.stack([torch.stack([(a * a).sum(), (b * b).sum(), (a * b).sum()]) for a, b in pairs])
        found = sums.sum(dim=0).tolist()
        return found[0], found[1], found[2]

    def weights(self) -> Weights | None:
        """Gather the policy's parameters, under their Hugging Face names, on rank 0; return None elsewhere.

        Under ZeRO-3 parameters are gathered one at a time, so no rank but 0 ever holds the whole model.
        """
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, tensor in self._whole():
            if self.rank == 0:
                arrays[name] = to_numpy(tensor)
        if self.rank != 0:
            return None
        return Weights(arrays, str(self.dtype()).removeprefix("torch."))

    def checksum(self) -> str:
        """Hash the parameters as `Weights.checksum` does, gathered one at a time. The same on every rank."""
        return checksum((name, to_numpy(tensor)) for name, tensor in self._whole())

    def manifest(self) -> Manifest:
        """Return what `publish` sends. Not collective."""
        return manifest(self._model)

    def publish(self, timeout_s: float) -> Published:
        """Broadcast the parameters from rank 0's `endpoint`, never holding more than a bucket of them."""
        # Under ZeRO-3 the other ranks wait in a gather meanwhile, for `collective_timeout_s` at most.
        patience_s = self._config.collective_timeout_s / 2 if self._config.zero_stage == 3 else timeout_s
        return stream(self._whole(), self.endpoint, timeout_s, patience_s)

    def save(self, folder: Path) -> None:
        """Write DeepSpeed's state and, on rank 0, the model in Hugging Face format (`folder/model`)."""
        self._engine.save_checkpoint(str(folder / "deepspeed"), tag="state")
        if self._critic is not None:
            self._critic.save(folder)
        weights = self.weights()
        if weights is not None:
            state = dict(weights.tensors())
            self._model.save_pretrained(folder / "model", state_dict=state, safe_serialization=True)
            (folder / "learner.json").write_text(json.dumps({"updates": self._updates}))
        self._barrier()

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote: parameters, optimizer state and the update count.

        Raises:
            SecurityError: The checkpoint may hold another user's code.
            ModelError: The checkpoint lacks DeepSpeed's state, or the critic's.
        """
        refuse_foreign(folder / "deepspeed")
        path, _ = self._engine.load_checkpoint(str(folder / "deepspeed"), tag="state")
        if path is None:
            raise ModelError(f"checkpoint {folder}: holds no DeepSpeed state; delete it to start afresh")
        if self._critic is not None:
            self._critic.load(folder)
        self._updates = json.loads((folder / "learner.json").read_text())["updates"]

    def dtype(self) -> torch.dtype:
        """Return the type that the parameters are computed in."""
        return dtype_of(self._config, self.device)

    def rank_alive(self) -> None:
        """Do nothing: the call itself keeps a waiting rank's collective from timing out."""

    # -- internals ---------------------------------------------------------------------------------

    def _whole(self) -> Iterator[tuple[str, torch.Tensor]]:
        return whole_parameters(self._model, self._config.zero_stage)

    def _need_critic(self) -> Critic:
        if self._critic is None:
            raise StrategyError("strategy: reads values, but `needs` asked for no critic")
        return self._critic

    def _barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def _parts(self, batch: TokenBatch) -> Iterator[Padded]:
        budget = self._config.micro_batch_tokens
        return rank_parts(batch, budget, self._pad_token, self.world_size, self.device)

    def _logprobs(self, model: Any, part: Padded, *, entropy: bool) -> tuple[torch.Tensor, torch.Tensor]:
        return response_logprobs(model, part, self._temperature, self.device, entropy=entropy)

    def _gradient(self, batch: TrainBatch, loss: LossConfig) -> list[torch.Tensor]:
        """Return the gradient of a batch over all ranks, one tensor per parameter.

        The pass goes around the engine, whose hooks would take the gradient for part of an update.
        """
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        total = [torch.zeros_like(p, dtype=torch.float32) for p in parameters]
        for part in self._parts(batch.tokens):
            sums = self._loss(self._model, batch, part, loss)
            gradients = torch.autograd.grad(sums.loss, parameters)
            torch._foreach_add_(total, [g.float() for g in gradients])
        if self.world_size > 1:
            for whole in total:
                dist.all_reduce(whole)
        return total

    def _loss(self, model: Any, batch: TrainBatch, part: Padded, loss: LossConfig) -> LossSums:
        with_entropy = loss.entropy_bonus > 0
        logprob_BT, entropy_BT = self._logprobs(model, part, entropy=with_entropy)
        inputs = loss_input(batch, part, logprob_BT, self.device, entropy_BT if with_entropy else None)
        return policy_loss(inputs, loss, batch.denominator)

    def _set_lr(self) -> None:
        """Set the learning rate of the next update, which rises linearly over `learner.lr_warmup_steps`."""
        warmup = self._config.lr_warmup_steps
        scale = min(1.0, (self._updates + 1) / warmup) if warmup else 1.0
        for group in self._engine.optimizer.param_groups:
            group["lr"] = self._config.lr * scale
