"""The training prompts: their order, the seeds of their rollouts, their last responses. NumPy only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from trainables.learner.tokens import Float32, Int32, TokenBatch
from trainables.strategies.batch import Batch, BoolArray, FloatArray, IntArray, Pool
from trainables.strategies.groups import first_round_N
from trainables.strategies.scale import verified_N


def rollout_seed(*parts: int | str) -> int:
    """Hash whatever identifies a rollout (run seed, step, prompt id, kind, index) to a 63-bit seed.

    Neighbouring identifiers give unrelated seeds, and no seed depends on the order of drawing.
    """
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class PromptOrder:
    """Epochs over the training prompts, shuffled anew each time.

    A strategy may take prompts out of turn; an epoch ends when each of its prompts has been used once.
    """

    def __init__(self, stratum_of_prompt: IntArray, seed: int) -> None:
        self._stratum = stratum_of_prompt
        self._seed = seed
        self._epoch = 0
        self._used: BoolArray = np.zeros(len(stratum_of_prompt), dtype=np.bool_)

    def pool(self, step: int, exclude: IntArray) -> Pool:
        """Return every prompt but the excluded ones (those already in this step), soonest first."""
        this, following = self._shuffle(self._epoch), self._shuffle(self._epoch + 1)
        order = np.concatenate([this[~self._used[this]], following[self._used[following]]])
        order = order[~np.isin(order, exclude)]
        # The draw differs between the calls of one step, which exclude different prompts.
        rng = np.random.default_rng([self._seed, step, len(exclude)])
        return Pool(prompt_C=order, stratum_C=self._stratum[order], rng=rng)

    def take(self, prompts: IntArray) -> None:
        """Mark prompts as used."""
        for prompt in prompts:
            if self._used.all():
                self._epoch += 1
                self._used[:] = False
            self._used[prompt] = True

    def _shuffle(self, epoch: int) -> IntArray:
        order = np.random.default_rng([self._seed, epoch, 0x0DD5]).permutation(len(self._stratum))
        return order.astype(np.int64)

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch and which prompts it has used."""
        return {"epoch": self._epoch, "used": self._used.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._epoch = int(state["epoch"])
        self._used = np.asarray(state["used"], dtype=np.bool_).copy()


class _Response(NamedTuple):
    """A prompt's last response: its tokens (behind the prompt's), and their log-probs after that update."""

    token_S: Int32
    logprob_T: Float32


class LastResponses:
    """One response per prompt, which tells how far the policy has moved since.

    Takes 8 bytes a response token and 4 a prompt token, of the prompts met so far.
    """

    def __init__(self) -> None:
        self._of: dict[int, _Response] = {}

    def change_P(
        self, batch: Batch, tokens: TokenBatch, logprobs: Callable[[TokenBatch], Float32]
    ) -> FloatArray:
        """Measure the change of each prompt's kept response, and keep one of this step's instead.

        A visit is a verified sample of the prompt's first round; its first one is kept. `tokens` are the
        batch's rollouts. `logprobs` returns their log-probs (M,), nats, under the policy after the update.

        Returns the mean absolute change of a token's log-prob, nats (P,); 0 where nothing was kept.
        """
        rows = np.flatnonzero(first_round_N(batch, verified_N(batch)))
        prompt_V, first_V = np.unique(batch.prompt_N[rows], return_index=True)
        change_P = np.zeros(batch.prompts)
        if not len(rows):
            return change_P
        id_V = batch.prompt_id_P[prompt_V].tolist()
        new = tokens.take(rows[first_V])
        known = [(p, self._of[i]) for p, i in zip(prompt_V, id_V, strict=True) if i in self._of]
        both = TokenBatch.concatenate([_joined([response for _, response in known]), new])
        now = np.split(logprobs(both), np.cumsum(both.response_length_N)[:-1])
        for (p, last), now_T in zip(known, now[: len(known)], strict=True):
            change_P[p] = np.abs(now_T.astype(np.float64) - last.logprob_T).mean()
        length_V = new.prompt_length_N + new.response_length_N
        token_V = np.split(new.token_S, np.cumsum(length_V)[:-1])
        # A slice would keep the whole step in memory.
        kept = [_Response(t.copy(), n.copy()) for t, n in zip(token_V, now[len(known) :], strict=True)]
        self._of |= dict(zip(id_V, kept, strict=True))
        return change_P

    def state_dict(self) -> dict[str, Any]:
        """Return the responses as flat arrays, without padding."""
        joined = _joined(list(self._of.values()))
        return {
            "prompt_V": np.array(list(self._of), dtype=np.int64),
            "prompt_length_V": joined.prompt_length_N,
            "response_length_V": joined.response_length_N,
            "token_S": joined.token_S,
            "logprob_M": joined.sampler_logprob_M,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        response_V = np.asarray(state["response_length_V"], np.int64)
        end_V = np.cumsum(response_V + np.asarray(state["prompt_length_V"], np.int64))
        token_V = np.split(np.asarray(state["token_S"], np.int32), end_V)
        logprob_V = np.split(np.asarray(state["logprob_M"], np.float32), np.cumsum(response_V))
        prompts = np.asarray(state["prompt_V"], np.int64).tolist()
        self._of = {p: _Response(token_V[v].copy(), logprob_V[v].copy()) for v, p in enumerate(prompts)}


def _joined(responses: list[_Response]) -> TokenBatch:
    """Return the responses in the learner's format; the kept log-probs stand for the sampler's."""
    response_V = np.array([len(r.logprob_T) for r in responses], dtype=np.int32)
    length_V = np.array([len(r.token_S) for r in responses], dtype=np.int32)
    token_S = np.concatenate([np.zeros(0, np.int32), *(r.token_S for r in responses)])
    logprob_M = np.concatenate([np.zeros(0, np.float32), *(r.logprob_T for r in responses)])
    return TokenBatch(length_V - response_V, response_V, token_S, logprob_M)
