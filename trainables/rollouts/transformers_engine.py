"""Plain transformers `generate` behind the engine interface.

It is the parity reference for vLLM, and the engine of machines without vLLM. It is slower: every batch waits
for its longest response.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList

from trainables.config import Dtype, EngineConfig, resolve_dtype
from trainables.learner.tokens import Float32, Int32
from trainables.rollouts.engine import Completions, DrawRequest, Fingerprint, eos_token_ids
from trainables.weight_sync.publish import Manifest, Rendezvous
from trainables.weight_sync.weights import Weights, checksum, to_numpy


class _SeededSampler(LogitsProcessor):
    """Turns greedy search into seeded sampling, with one random stream per row.

    `generate` has one seed for a whole batch, which would make a row's tokens depend on its neighbours. The
    arg-max of logits / T plus Gumbel noise is an exact sample of softmax(logits / T).
    """

    def __init__(self, request: DrawRequest, eos: list[int]) -> None:
        self._eos = eos
        self._min_tokens_R = request.min_tokens_R
        self._rng_R = [np.random.default_rng(int(seed) & (2**63 - 1)) for seed in request.seed_R]
        self._temperature_R = request.temperature_R
        self.logprobs: list[torch.Tensor] = []
        """The processed distribution: one (R, V) tensor per generated position."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
        temperature = torch.from_numpy(np.where(self._temperature_R > 0, self._temperature_R, 1.0))
        processed = torch.log_softmax(scores.float() / temperature[:, None].to(scores.device).float(), dim=-1)
        if self._min_tokens_R is not None:
            early_R = torch.from_numpy(self._min_tokens_R > len(self.logprobs))
            closed = torch.zeros_like(processed, dtype=torch.bool)
            closed[:, self._eos] = early_R[:, None].to(processed.device)
            processed = torch.log_softmax(processed.masked_fill(closed, float("-inf")), dim=-1)
        self.logprobs.append(processed)
        noise = np.stack([rng.gumbel(size=scores.shape[1]) for rng in self._rng_R])
        noise[self._temperature_R == 0] = 0.0
        return processed + torch.from_numpy(noise).to(processed)


class TransformersEngine:
    """A causal language model sampled with `generate`."""

    def __init__(self, model: str, config: EngineConfig, dtype: Dtype = "auto") -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        wanted = getattr(torch, resolve_dtype(dtype, on_gpu=self._device.type == "cuda"))
        self._model = (
            AutoModelForCausalLM.from_pretrained(model, dtype=wanted, use_safetensors=True)
            .to(self._device)
            .eval()
        )
        self._eos = eos_token_ids(model)
        self._rows = config.max_num_seqs
        self._version = -1

    def draw(self, request: DrawRequest) -> Completions:
        """Sample every rollout of the request, in batches of `max_num_seqs`."""
        # Similar lengths together: a batch runs as long as its longest row.
        order = np.argsort(request.max_tokens_R, kind="stable")
        chunks = [order[i : i + self._rows] for i in range(0, len(order), self._rows)]
        return Completions.gather([self._draw(request.take(rows)) for rows in chunks], order)

    @torch.no_grad()
    def _draw(self, request: DrawRequest) -> Completions:
        longest = max(len(p) for p in request.prompts)
        token_RS = np.full((request.rollouts, longest), self._eos[0], dtype=np.int64)
        mask_RS = np.zeros_like(token_RS)
        for row, prompt in enumerate(request.prompts):
            token_RS[row, longest - len(prompt) :] = prompt
            mask_RS[row, longest - len(prompt) :] = 1
        sampler = _SeededSampler(request, self._eos)
        output = self._model.generate(
            input_ids=torch.from_numpy(token_RS).to(self._device),
            attention_mask=torch.from_numpy(mask_RS).to(self._device),
            max_new_tokens=int(request.max_tokens_R.max()),
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=self._eos,
            pad_token_id=self._eos[0],
            logits_processor=LogitsProcessorList([sampler]),
        )
        response_RT = output[:, longest:].cpu().numpy().astype(np.int32)
        logprob_RT = _gather(sampler.logprobs, response_RT)
        length_R, finished_R = _lengths(response_RT, self._eos, request.max_tokens_R)
        mask_RT = np.arange(response_RT.shape[1]) < length_R[:, None]
        return Completions(
            length_R=length_R,
            token_M=response_RT[mask_RT],
            logprob_M=logprob_RT[mask_RT],
            finished_R=finished_R,
            version=self._version,
        )

    def reset(self) -> None:
        """Do nothing: `generate` keeps no cache between calls."""

    def load(self, weights: Weights, version: int) -> None:
        """Take new weights.

        Raises:
            RuntimeError: They do not fit the model.
        """
        state = dict(weights.tensors())
        missing, unexpected = self._model.load_state_dict(state, strict=False)
        untied = [name for name in missing if not self._tied(name)]
        if untied or unexpected:
            raise RuntimeError(f"weights do not fit the model: missing {untied}, unexpected {unexpected}")
        self._version = version

    def join(self, rendezvous: Rendezvous, first_rank: int) -> None:
        """Refuse: this engine takes no broadcasts."""
        raise NotImplementedError("EngineConfig refuses this combination")

    def receive(self, manifest: Manifest, version: int) -> None:
        """Refuse: this engine takes no broadcasts."""
        raise NotImplementedError("EngineConfig refuses this combination")

    def _tied(self, name: str) -> bool:
        return bool(self._model.config.tie_word_embeddings) and name == "lm_head.weight"

    def fingerprint(self) -> Fingerprint:
        """Return the checksum of the parameters; there is no cache."""
        named = ((name, to_numpy(p.detach())) for name, p in self._model.named_parameters())
        return Fingerprint(checksum(named), cache_empty=True)

    def close(self) -> None:
        """Give the model's memory back."""
        del self._model


def _gather(logprobs: list[torch.Tensor], response_RT: Int32) -> Float32:
    """Pick the log-prob (R, T) of each sampled token."""
    chosen = torch.from_numpy(response_RT.astype(np.int64))
    columns = [step.cpu().gather(1, chosen[:, t : t + 1]).squeeze(1) for t, step in enumerate(logprobs)]
    result: Float32 = torch.stack(columns, dim=1).numpy()
    return result


def _lengths(
    response_RT: Int32,
    eos: list[int],
    max_tokens_R: npt.NDArray[np.int64],
) -> tuple[Int32, npt.NDArray[np.bool_]]:
    """Count tokens up to the first end of sequence (included) or `max_tokens_R`; tell which it was."""
    is_eos = np.isin(response_RT, eos)
    first = np.where(is_eos.any(axis=1), is_eos.argmax(axis=1) + 1, response_RT.shape[1] + 1)
    finished = first <= max_tokens_R
    length = np.minimum(np.where(finished, first, max_tokens_R), response_RT.shape[1])
    return length.astype(np.int32), finished
