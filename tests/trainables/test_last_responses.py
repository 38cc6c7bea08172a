"""How far a prompt's last response has moved, and what a run tells its strategy. No process is lent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from trainables.learner import checkpoints
from trainables.learner.tokens import Float32, TokenBatch
from trainables.loop.prompts import LastResponses, PromptOrder
from trainables.loop.rlvr import logprob_change
from trainables.loop.state import Run
from trainables.strategies.batch import Batch, Kind, Needs, Verdict
from trainables.strategies.composed import Composed
from trainables.trial import TrialConfig


def step_of(prompts: dict[int, list[list[int]]]) -> tuple[Batch, TokenBatch]:
    """A step with the given responses (token ids) of each prompt, whose own tokens are [1, 2]."""
    rows = [(place, row) for place, rows in enumerate(prompts.values()) for row in rows]
    zero_N = np.zeros(len(rows), np.int64)
    length_N = np.array([len(row) for _, row in rows], np.int32)
    batch = Batch(
        prompt_id_P=np.array(list(prompts)),
        stratum_P=np.zeros(len(prompts), np.int64),
        prompt_N=np.array([place for place, _ in rows]),
        round_N=zero_N,
        kind_N=zero_N,
        trainable_N=np.ones(len(rows), np.bool_),
        verdict_N=zero_N,
        correct_N=zero_N.astype(float),
        reward_N=zero_N.astype(float),
        length_N=length_N.astype(np.int64),
        version_N=zero_N,
        dropped_P=np.zeros(len(prompts), np.bool_),
    )
    token_S = np.array([token for _, row in rows for token in (1, 2, *row)], np.int32)
    prompt_length_N = np.full(len(rows), 2, np.int32)
    return batch, TokenBatch(prompt_length_N, length_N, token_S, np.zeros(int(length_N.sum()), np.float32))


@dataclass
class Policy:
    """Log-prob of each token id, the same in every context; counts the rollouts it is asked about."""

    of_token: dict[int, float]
    asked: int = 0

    def __call__(self, tokens: TokenBatch) -> Float32:
        self.asked += tokens.rollouts
        found, at = [], 0
        for prompt, response in zip(tokens.prompt_length_N, tokens.response_length_N, strict=True):
            assert tokens.token_S[at : at + 2].tolist() == [1, 2]
            found += [
                self.of_token.get(int(t), -1.0) for t in tokens.token_S[at + prompt : at + prompt + response]
            ]
            at += int(prompt + response)
        return np.array(found, np.float32)


def test_a_change_is_the_prompts_own_and_net() -> None:
    kept = LastResponses()
    assert kept.change_P(*step_of({7: [[10, 11]], 3: [[12]]}), Policy({})).tolist() == [0.0, 0.0]
    # Token 12 moves away in an update that prompt 3 is no part of, and comes back.
    kept.change_P(*step_of({5: [[12, 12]]}), Policy({10: -1.5, 12: -3.0}))
    policy = Policy({10: -1.5})
    change_P = kept.change_P(*step_of({3: [[20]], 7: [[12]], 9: [[20]]}), policy)
    np.testing.assert_allclose(change_P, [0.0, 0.25, 0.0], atol=1e-12)
    assert policy.asked == 5  # two that were kept, three new
    # The new responses have replaced the old ones.
    later_P = kept.change_P(*step_of({3: [[20]], 7: [[12]]}), Policy({10: -9.0, 20: -1.25, 12: -1.125}))
    np.testing.assert_allclose(later_P, [0.25, 0.125], atol=1e-12)


def test_one_verified_sample_of_the_first_round_is_a_visit() -> None:
    kept = LastResponses()
    batch, tokens = step_of({4: [[10], [11], [12], [13]], 6: [[10]]})
    kinds = np.array([Kind.GREEDY, Kind.SAMPLE, Kind.SAMPLE, Kind.SAMPLE, Kind.SAMPLE], np.int64)
    verdicts = np.array([Verdict.OK, Verdict.ERROR, Verdict.OK, Verdict.OK, Verdict.TIMEOUT], np.int64)
    policy = Policy({})
    kept.change_P(replace(batch, kind_N=kinds, verdict_N=verdicts), tokens, policy)
    assert policy.asked == 1
    moved = Policy({10: -50.0, 11: -50.0, 12: -2.0, 13: -50.0})
    assert kept.change_P(*step_of({4: [[20]], 6: [[20]]}), moved).tolist() == [1.0, 0.0]
    nothing = replace(batch, verdict_N=np.full(5, int(Verdict.ERROR)))
    assert kept.change_P(nothing, tokens, Policy({})).tolist() == [0.0, 0.0]


def test_a_checkpoint_holds_what_was_kept(tmp_path: Path) -> None:
    kept, back = LastResponses(), LastResponses()
    back.load_state_dict(kept.state_dict())
    kept.change_P(*step_of({7: [[10, 11]], 3: [[12]]}), Policy({11: -0.5}))
    checkpoints.save(
        tmp_path, 1, {"responses": kept.state_dict()}, lambda folder: folder.mkdir(exist_ok=True)
    )
    back.load_state_dict(checkpoints.load_state(tmp_path / "checkpoint-1")["responses"])
    step = step_of({3: [[9]], 7: [[9]]})
    assert back.change_P(*step, Policy({12: -2.0})).tolist() == [1.0, 0.25]


def lent(learner: Any) -> Any:
    """A lease of stand-ins."""
    verifier = SimpleNamespace(check_golden=lambda *_, **__: None)
    engines = SimpleNamespace(reset=lambda: None)
    return SimpleNamespace(
        learner=learner,
        engines=engines,
        verifier=lambda *_: verifier,
        proof=None,
        tokenizer=None,
        model="none",
    )


def run(learner: Any, needs: Needs, config: TrialConfig | None = None) -> Run:
    nothing = cast(Any, None)
    return Run(
        lease=lent(learner),
        config=config or TrialConfig.model_validate({"strategy": "spo"}),
        seed=3,
        output=Path(),
        problems=nothing,
        strategy=cast(Any, SimpleNamespace(state_dict=dict, load_state_dict=lambda _: None)),
        needs=needs,
        verifier=nothing,
        order=PromptOrder(np.zeros(8, np.int64), 0),
        stratum_of_prompt=np.zeros(8, np.int64),
        recorder=nothing,
    )


def test_the_loop_measures_it_where_it_is_asked_for() -> None:
    policy = Policy({})
    learner = SimpleNamespace(forward=lambda tokens: SimpleNamespace(logprob_M=policy(tokens)))
    step = step_of({7: [[10], [11]], 3: [[12]]})
    assert logprob_change(run(learner, Needs()), *step) is None
    assert policy.asked == 0
    asking = run(learner, Needs(logprob_change=True))
    logprob_change(asking, *step)
    policy.of_token = {10: -1.75}
    change_P = logprob_change(asking, *step)
    assert change_P is not None
    assert change_P.tolist() == [0.75, 0.0]


def test_a_run_saves_the_responses_and_finds_them_again(tmp_path: Path) -> None:
    policy = Policy({})
    learner = SimpleNamespace(
        forward=lambda tokens: SimpleNamespace(logprob_M=policy(tokens)),
        save=lambda folder: folder.mkdir(exist_ok=True),
        load=lambda _: None,
    )
    first = replace(run(learner, Needs(logprob_change=True)), output=tmp_path)
    first.lease.tokenizer = SimpleNamespace(save_pretrained=lambda _: None)  # type: ignore[misc, assignment]
    step = step_of({7: [[10]]})
    logprob_change(first, *step)
    folder = first.save()
    second = run(learner, Needs(logprob_change=True))
    second._restore(folder)
    policy.of_token = {10: -1.5}
    assert logprob_change(second, *step) == pytest.approx([0.5])


def test_a_run_tells_its_strategy_what_shaping_takes_off_a_reward(tmp_path: Path) -> None:
    learner = SimpleNamespace(reset=lambda *_: None)
    for loss, penalty in (({"overlong_buffer": 4}, 0.5), ({"overlong_penalty": 0.25}, 0.0)):
        config = TrialConfig.model_validate({"strategy": "ppo", "loss": loss})
        strategy = Run.start(lent(learner), config, 0, tmp_path).strategy
        assert isinstance(strategy, Composed)
        assert strategy.scale.penalty == penalty
