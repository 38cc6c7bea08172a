"""The state of one run: what the loop carries from step to step, and how it is saved."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trainables.config import TaskConfig
from trainables.errors import SpecError
from trainables.learner import checkpoints
from trainables.learner.features import FeaturePlan
from trainables.learner.losses import denominator_of
from trainables.learner.tokens import Int32, TokenBatch
from trainables.loop.lease import Lease
from trainables.loop.metrics import Stopwatch
from trainables.loop.prompts import PromptOrder
from trainables.loop.recorder import Recorder
from trainables.strategies.batch import IntArray, Needs
from trainables.strategies.protocol import ReadsPrompts, Strategy
from trainables.tasks.base import Problem, Split, Task
from trainables.tasks.load import load_task
from trainables.trial import TrialConfig
from trainables.value_models.vectors import VectorTable
from trainables.verifier.pool import VerifierPool


@dataclass
class Run:
    """One configuration under one seed, on lent processes."""

    lease: Lease
    config: TrialConfig
    seed: int
    output: Path
    task: Task
    strategy: Strategy
    needs: Needs
    verifier: VerifierPool
    order: PromptOrder
    stratum_of_prompt: IntArray
    feature_plan: FeaturePlan | None = None
    """Which hidden states the learner pools for the strategy."""
    step: int = 0
    version: int = 0
    """Policy version: the number of updates the engines' weights have seen."""
    rollouts: int = 0
    tokens: int = 0
    """Generated tokens so far."""
    learner_tokens: int = 0
    """Prompt and response tokens the learner has been through."""
    seconds: float = 0.0
    """Wall seconds in training steps; evaluation and start-up are not counted."""
    evaluated_at: int | None = None
    """Rollouts spent at the last evaluation."""
    exhausted: bool = False
    """True: what is left of the budget is too little for this strategy."""
    clock: Stopwatch = field(default_factory=Stopwatch)

    @staticmethod
    def start(lease: Lease, config: TrialConfig, seed: int, output: Path) -> Run:
        """Reset everything that is lent, then continue from the newest checkpoint if there is one."""
        task = load_task(config.task)
        strategy = config.strategy.build()
        needs = strategy.needs()
        train = task.split("train")
        strata = np.array([p.stratum for p in train], dtype=np.int64)
        if needs.encoder is not None and isinstance(strategy, ReadsPrompts):
            strategy.provide(VectorTable(needs.encoder, [p.prompt for p in train]))
        lease.learner.reset(lease.model, config.learner, config.sampling.temperature, seed, needs.values)
        plan = None
        if needs.features is not None:
            plan = FeaturePlan.of(needs.features, lease.learner.layers, lease.tokenizer)
        lease.engines.reset()
        if lease.proof is not None:
            lease.proof(lease)
        verifier = lease.verifier(task.judge, config.verifier)
        verifier.check_golden(train, max_failure_rate=config.verifier.max_failure_rate)
        order = PromptOrder(strata, seed)
        run = Run(lease, config, seed, output, task, strategy, needs, verifier, order, strata, plan)
        checkpoint = checkpoints.latest(output)
        if checkpoint is not None:
            run._restore(checkpoint)
        run.recorder.start(run.step, [p.prompt for p in train])
        return run

    # -- compute ---------------------------------------------------------------------------------

    def rollout_budget(self) -> int:
        """Rollouts the next step may draw. Half a step or less at the end of the budget is left unspent: an
        update on so few rollouts would be noisier than all others."""
        left = self.config.budget - self.rollouts
        per_step = self.config.rollouts_per_step
        return min(left, per_step) if 2 * left > per_step and not self.exhausted else 0

    def spend(self, rollouts: int, tokens: TokenBatch, seconds: float) -> None:
        self.step += 1
        self.rollouts += rollouts
        self.tokens += tokens.response_tokens
        self.learner_tokens += tokens.tokens
        self.seconds += seconds

    def evaluation_due(self, *, last: bool) -> bool:
        if self.evaluated_at is None:
            return True
        if last:
            return self.evaluated_at != self.rollouts
        every = self.config.evaluation.every * self.config.rollouts_per_step
        return self.rollouts // every > self.evaluated_at // every

    def report(self, event: str, **fields: Any) -> bool:
        return self.lease.report(
            event,
            step=self.step,
            rollouts=self.rollouts,
            tokens=self.tokens,
            learner_tokens=self.learner_tokens,
            seconds=self.seconds,
            **fields,
        )

    # -- what the loop reads ---------------------------------------------------------------------

    @cached_property
    def recorder(self) -> Recorder:
        """Keeps what each prompt scored, for value models (docs/v0.md)."""
        name = re.sub(r"\W+", "-", self.config.task.name)
        return Recorder(self.output, f"{name}-{self.config.task.data_seed}", Path(self.config.model).name)

    @cached_property
    def prompt_tokens(self) -> list[list[int]]:
        """Token ids of each training prompt."""
        return self.tokens_of("train")

    def tokens_of(self, split: Split) -> list[list[int]]:
        """Token ids of each prompt of a split. Raises SpecError for one that leaves no room to answer."""
        if split not in self._tokens:
            ids = self._tokenise([p.prompt for p in self._problems(split)])
            self._check_lengths(split, ids)
            self._tokens[split] = ids
        return self._tokens[split]

    def data(self) -> dict[str, dict[str, Any]]:
        """What the run reads, for the record: source, number and hash of the problems of each split."""
        splits: tuple[Split, ...] = ("train", self.config.evaluation.split)
        return {split: _described(self.config.task, split, self._problems(split)) for split in splits}

    def answers_of(self, split: Split) -> list[str]:
        return [p.answer for p in self._problems(split)]

    @property
    def parity_tolerance(self) -> float:
        given = self.config.engine.parity_tolerance
        if given is not None:
            return given
        return 1e-3 if self.lease.learner.dtype == "float32" else 0.25

    def denominator(self, length_N: Int32) -> float:
        return denominator_of(self.config.loss, length_N.tolist(), self.config.sampling.max_tokens)

    # -- checkpoints -----------------------------------------------------------------------------

    def save(self) -> Path:
        """Write a checkpoint of everything that the next step depends on."""
        state = {
            "step": self.step,
            "version": self.version,
            "rollouts": self.rollouts,
            "tokens": self.tokens,
            "learner_tokens": self.learner_tokens,
            "seconds": self.seconds,
            "evaluated_at": self.evaluated_at,
            "order": self.order.state_dict(),
            "strategy": self.strategy.state_dict(),
        }

        def write_model(folder: Path) -> None:
            self.lease.learner.save(folder)
            self.lease.tokenizer.save_pretrained(folder / "model")

        return checkpoints.save(self.output, self.step, state, write_model)

    def _restore(self, checkpoint: Path) -> None:
        state = checkpoints.load_state(checkpoint)
        self.lease.learner.load(checkpoint)
        self.order.load_state_dict(state.pop("order"))
        self.strategy.load_state_dict(state.pop("strategy"))
        for name, value in state.items():
            setattr(self, name, value)

    # -- internals -------------------------------------------------------------------------------

    @cached_property
    def _tokens(self) -> dict[str, list[list[int]]]:
        return {}

    def _tokenise(self, texts: list[str]) -> list[list[int]]:
        tokenizer = self.lease.tokenizer
        if not self.config.task.chat:
            ids: list[list[int]] = tokenizer(texts)["input_ids"]
            return ids
        chats = [[{"role": "user", "content": text}] for text in texts]
        return [
            tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
            for chat in chats
        ]

    def _problems(self, split: Split) -> list[Problem]:
        return list(self.task.split(split))

    def _check_lengths(self, split: Split, ids: list[list[int]]) -> None:
        allowed = self.config.engine.max_model_len - self.config.sampling.max_tokens
        longest = max(len(prompt) for prompt in ids)
        if longest > allowed:
            raise SpecError(
                f"engine.max_model_len: {self.config.engine.max_model_len} holds a prompt of {allowed} "
                f"tokens beside sampling.max_tokens={self.config.sampling.max_tokens}, but the longest "
                f"{split} prompt has {longest}; raise engine.max_model_len to at least "
                f"{longest + self.config.sampling.max_tokens}"
            )


def _described(task: TaskConfig, split: Split, problems: list[Problem]) -> dict[str, Any]:
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps([problem.prompt, problem.answer]).encode())
    source = getattr(task, split) or f"{task.name}, data_seed {task.data_seed}"
    return {"name": task.name, "source": source, "problems": len(problems), "sha256": digest.hexdigest()}
