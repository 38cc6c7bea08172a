"""The state of one run: what the loop carries from step to step, and how it is saved."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainables.learner import checkpoints
from trainables.learner.features import FeaturePlan
from trainables.learner.losses import denominator_of
from trainables.learner.tokens import Int32, TokenBatch
from trainables.loop.lease import Lease
from trainables.loop.problems import Problems
from trainables.loop.prompts import LastResponses, PromptOrder
from trainables.loop.recorder import Recorder
from trainables.models.reference import reference_of
from trainables.strategies.batch import IntArray, Needs
from trainables.strategies.protocol import ReadsPrompts, Strategy
from trainables.tasks.load import load_task
from trainables.trial import TrialConfig
from trainables.value_models.vectors import VectorTable
from trainables.verifier.verifier import Verifier


@dataclass
class Counters:
    """What a run has done and spent so far. Every checkpoint holds all of it."""

    step: int = 0
    """Completed steps."""
    version: int = 0
    """Policy version: the number of updates in the engines' weights."""
    rollouts: int = 0
    tokens: int = 0
    """Generated tokens."""
    learner_tokens: int = 0
    """Prompt and response tokens that the learner has processed."""
    seconds: float = 0.0
    """Wall seconds in training steps; evaluation and start-up are not counted."""
    evaluated_at: int | None = None
    """Rollouts spent at the last evaluation."""


@dataclass
class Run:
    """One configuration under one seed, on lent processes."""

    lease: Lease
    config: TrialConfig
    seed: int
    output: Path
    problems: Problems
    strategy: Strategy
    needs: Needs
    verifier: Verifier
    order: PromptOrder
    stratum_of_prompt: IntArray
    recorder: Recorder
    """Writes what each prompt scored, for value models (docs/v0.md)."""
    feature_plan: FeaturePlan | None = None
    """Which hidden states the learner pools for the strategy."""
    responses: LastResponses = field(default_factory=LastResponses)
    """What each prompt answered last, where the strategy asks how far the policy has moved from it."""
    counters: Counters = field(default_factory=Counters)
    exhausted: bool = False
    """True: the rest of the budget is too small for this strategy."""

    @staticmethod
    def start(lease: Lease, config: TrialConfig, seed: int, output: Path) -> Run:
        """Reset everything that is lent, then continue from the newest checkpoint if there is one."""
        task = load_task(config.task)
        strategy = config.strategy.build(penalty=config.loss.largest_penalty)
        needs = strategy.needs()
        train = task.split("train")
        problems = Problems(task, config, lease.tokenizer)
        strata = np.array([p.stratum for p in train], dtype=np.int64)
        if needs.encoder is not None and isinstance(strategy, ReadsPrompts):
            strategy.provide(VectorTable(needs.encoder, problems.prompts("train")))
        temperature, reference = config.sampling.temperature, reference_of(config.loss.kl, lease.model)
        lease.learner.reset(lease.model, config.learner, temperature, seed, needs.values, reference)
        plan = None
        if needs.features is not None:
            plan = FeaturePlan.of(needs.features, lease.learner.layers, lease.tokenizer)
        lease.engines.reset()
        if lease.proof is not None:
            lease.proof(lease)
        verifier = lease.verifier(task.judge, config.verifier)
        verifier.check_golden(train, max_failure_rate=config.verifier.max_failure_rate)
        order = PromptOrder(strata, seed)
        recorder = _recorder(config, output)
        run = Run(
            lease, config, seed, output, problems, strategy, needs, verifier, order, strata, recorder, plan
        )
        checkpoint = checkpoints.latest(output)
        if checkpoint is not None:
            run._restore(checkpoint)
        run.recorder.start(run.counters.step, problems.prompts("train"))
        return run

    # -- compute ---------------------------------------------------------------------------------

    def step_rollouts(self) -> int:
        """Return how many rollouts the next step may draw; 0 ends the run.

        Half a step or less at the end of the budget is left unspent: an update on so few rollouts would be
        noisier than all others.
        """
        left = self.config.budget - self.counters.rollouts
        per_step = self.config.rollouts_per_step
        return min(left, per_step) if 2 * left > per_step and not self.exhausted else 0

    def spend(self, rollouts: int, tokens: TokenBatch, seconds: float) -> None:
        """Count one completed step."""
        self.counters.step += 1
        self.counters.rollouts += rollouts
        self.counters.tokens += tokens.response_tokens
        self.counters.learner_tokens += tokens.tokens
        self.counters.seconds += seconds

    def evaluation_due(self, *, last: bool) -> bool:
        """Tell whether held-out accuracy is to be measured now; `last`: the budget is spent."""
        spent, evaluated_at = self.counters.rollouts, self.counters.evaluated_at
        if evaluated_at is None:
            return True
        if last:
            return evaluated_at != spent
        every = self.config.evaluation.every * self.config.rollouts_per_step
        return spent // every > evaluated_at // every

    def report(self, event: str, **fields: Any) -> bool:
        """Send one event with the compute spent so far. Return False when the run is to stop."""
        spent = self.counters
        return self.lease.report(
            event,
            step=spent.step,
            rollouts=spent.rollouts,
            tokens=spent.tokens,
            learner_tokens=spent.learner_tokens,
            seconds=spent.seconds,
            **fields,
        )

    # -- what the loop reads ---------------------------------------------------------------------

    def data(self) -> dict[str, dict[str, Any]]:
        """Describe the data of the splits that the run reads."""
        return self.problems.provenance("train", self.config.evaluation.split)

    @property
    def parity_tolerance(self) -> float:
        """Largest difference of a token's log-prob between engine and learner after a sync, nats."""
        given = self.config.engine.parity_tolerance
        if given is not None:
            return given
        return 1e-3 if self.lease.learner.dtype == "float32" else 0.25

    def denominator(self, length_N: Int32) -> float:
        """Return what the loss of trained rollouts of these lengths, in tokens, is divided by."""
        return denominator_of(self.config.loss, length_N.tolist(), self.config.sampling.max_tokens)

    # -- checkpoints -----------------------------------------------------------------------------

    def save(self) -> Path:
        """Write a checkpoint of everything that the next step depends on. Return its folder."""
        state = {
            **asdict(self.counters),
            "order": self.order.state_dict(),
            "strategy": self.strategy.state_dict(),
            "responses": self.responses.state_dict(),
        }

        def write_model(folder: Path) -> None:
            self.lease.learner.save(folder)
            self.lease.tokenizer.save_pretrained(folder / "model")

        return checkpoints.save(self.output, self.counters.step, state, write_model)

    def _restore(self, checkpoint: Path) -> None:
        state = checkpoints.load_state(checkpoint)
        self.lease.learner.load(checkpoint)
        self.order.load_state_dict(state.pop("order"))
        self.strategy.load_state_dict(state.pop("strategy"))
        # An earlier version's checkpoint holds none: each prompt's next visit is its first one then.
        if (responses := state.pop("responses", None)) is not None:
            self.responses.load_state_dict(responses)
        self.counters = Counters(**state)


def _recorder(config: TrialConfig, output: Path) -> Recorder:
    name = re.sub(r"\W+", "-", config.task.name)
    return Recorder(output, f"{name}-{config.task.data_seed}", Path(config.model).name)
