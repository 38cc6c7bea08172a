"""The policy on one micro-batch, and the frozen reference that its loss may be held to. torch.

Shapes: B rows, S columns of a padded micro-batch, T its longest response, M response tokens of the batch.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from trainables.config import LearnerConfig
from trainables.errors import ModelError
from trainables.learner.deepspeed import dtype_of, loading, rank_parts, start_frozen
from trainables.learner.losses import LossInput
from trainables.learner.tokens import Float32, Padded, TokenBatch, TrainBatch, ragged_index


def load_policy(model: str, dtype: torch.dtype) -> Any:
    """Load a causal language model from a local directory or a hub id."""
    config = AutoConfig.from_pretrained(model)
    # Safetensors only: other formats are pickles, which run code when they are read.
    return AutoModelForCausalLM.from_pretrained(
        model, config=config, dtype=dtype, attn_implementation="sdpa", use_safetensors=True
    )


def pad_token_of(model: Any) -> int:
    """Return the id to pad with. Padding is masked everywhere: any id will do if the model declares none."""
    return int(model.config.pad_token_id or 0)


def vocabulary_of(model: Any) -> int:
    """Return how many token ids a model has log-probs of."""
    return int(model.config.get_text_config().vocab_size)


def response_logprobs(
    model: Any, part: Padded, temperature: float, device: torch.device, *, entropy: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probs and entropies, nats, of the response tokens, both (B, T).

    `model` is the policy or its DeepSpeed engine. The second tensor is meaningless unless `entropy` is set.
    """
    token_BS = torch.from_numpy(part.token_BS).to(device)
    mask_BS = torch.from_numpy(part.mask_BS).to(device)
    longest = part.response_mask_BT.shape[1]
    output = model(
        input_ids=token_BS,
        attention_mask=mask_BS,
        position_ids=(mask_BS.cumsum(dim=1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=longest + 1,
    )
    # Position s predicts token s + 1: the last T tokens are predicted by the T positions before the end.
    logits_BTV = output.logits[:, -longest - 1 : -1].float() / temperature
    normaliser_BT = torch.logsumexp(logits_BTV, dim=-1)
    chosen_BT = logits_BTV.gather(-1, token_BS[:, -longest:, None]).squeeze(-1)
    if not entropy:
        return chosen_BT - normaliser_BT, normaliser_BT
    mean_BT = (logits_BTV.softmax(dim=-1) * logits_BTV).sum(dim=-1)
    return chosen_BT - normaliser_BT, normaliser_BT - mean_BT


def loss_input(
    batch: TrainBatch,
    part: Padded,
    logprob_BT: torch.Tensor,
    device: torch.device,
    entropy_BT: torch.Tensor | None = None,
) -> LossInput:
    """Put the batch's numbers for one of its micro-batches beside the micro-batch's log-probs."""
    mask_BT = part.response_mask_BT
    rows = part.row_B[part.row_B >= 0]
    index = ragged_index(batch.tokens.response_length_N, rows)

    def padded(flat_M: Float32) -> torch.Tensor:
        full_BT = np.zeros(mask_BT.shape, dtype=np.float32)
        full_BT[mask_BT] = flat_M[index]
        return torch.from_numpy(full_BT).to(device)

    reference_M = batch.reference_logprob_M
    weight_B = np.zeros(len(mask_BT), dtype=np.float32)
    weight_B[: len(rows)] = batch.weight_N[rows]
    return LossInput(
        logprob_BT=logprob_BT,
        old_logprob_BT=padded(batch.old_logprob_M),
        sampler_logprob_BT=padded(batch.tokens.sampler_logprob_M),
        advantage_BT=padded(batch.advantage_M),
        weight_B=torch.from_numpy(weight_B).to(device),
        mask_BT=torch.from_numpy(mask_BT).to(device),
        reference_logprob_BT=None if reference_M is None else padded(reference_M),
        entropy_BT=entropy_BT,
    )


@dataclass
class Reference:
    """One rank's share of a policy that is never trained. Shares dtype and ZeRO stage with the learner.

    Each rank holds a whole copy up to ZeRO stage 2, and its part under stage 3. Like the learner's, its
    methods are collective.
    """

    config: LearnerConfig
    temperature: float
    pad_token: int
    world_size: int
    device: torch.device
    _model: Any = field(default=None, init=False)
    _engine: Any = field(default=None, init=False)

    def start(self, model: str, vocabulary: int) -> None:
        """Load the weights. `vocabulary` is the number of the policy's token ids.

        Raises:
            ModelError: The reference has fewer token ids.
        """
        dtype = dtype_of(self.config, self.device)
        with loading(self.config, dtype):
            self._model = load_policy(model, dtype)
        known = vocabulary_of(self._model)
        if known < vocabulary:
            raise ModelError(
                f"trial.loss.kl.reference: {model!r} knows {known} token ids and the policy {vocabulary}; "
                "give a model with the policy's vocabulary, or 'start'"
            )
        self._engine = start_frozen(self._model, self.config, dtype, self.device)

    def close(self) -> None:
        """Give the memory back."""
        if self._engine is not None and self._engine is not self._model:
            self._engine.destroy()
        self._engine = self._model = None
        gc.collect()

    @torch.no_grad()
    def logprobs(self, batch: TokenBatch) -> Float32:
        """Return the log-probs (M,) of this rank's response tokens at the sampling temperature, nats."""
        logprob_M = np.zeros(batch.response_tokens, dtype=np.float32)
        budget = self.config.micro_batch_tokens
        for part in rank_parts(batch, budget, self.pad_token, self.world_size, self.device):
            found_BT, _ = response_logprobs(self._engine, part, self.temperature, self.device, entropy=False)
            index = ragged_index(batch.response_length_N, part.row_B[part.row_B >= 0])
            logprob_M[index] = found_BT.float().cpu().numpy()[part.response_mask_BT]
        return logprob_M
