"""Measure the seconds of each part of one warm RL step of TRL's GRPOTrainer on the tiny model.

    python -m benchmarks.trl_step --workload short long mixed --steps 5

Equal to our step: the model and its fp32 arithmetic, the prompts, rollouts per prompt, temperature 1, the
response lengths (given, or left to the model in `short`), exact-match rewards, one clipped update
(clip-higher, token mean, group standard deviation) over all rollouts, AdamW, gradient clipping, no KL term.

Not equal: TRL generates with transformers' `generate` in the training process, so it does not sync weights,
and every row waits for the longest. Rewards are computed in-process and not in killable processes. The
optimizer is plain torch and not DeepSpeed. There is no separate teacher-forced pass before the update: with
one update per batch, TRL takes the update's own log-probs as the old ones. Hence there is no importance
correction and no parity probe.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.workloads import WORKLOADS, Workload


@dataclass(frozen=True)
class StepSeconds:
    """Wall seconds of a step: medians over the measured steps."""

    generation: float
    verification: float
    preparation: float
    """Tokenising, padding, decoding, advantages, metrics."""
    update: float
    """Forward and backward over all rollouts."""
    optimizer: float
    """Gradient clipping, optimizer step, the trainer's own bookkeeping."""
    total: float
    tokens: float
    """Response tokens of a step (a count, not seconds)."""


class Stopwatch:
    """Adds up seconds by name. Timed calls may be nested."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def wrap(self, owner: Any, method: str, name: str) -> None:
        """Replace a bound method by one that adds its time to a name."""
        original: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.measure(name):
                return original(*args, **kwargs)

        setattr(owner, method, timed)


def trl_step(
    model: Path, workload: Workload, steps: int = 5, warmup: int = 2, lr: float = 2e-4
) -> StepSeconds:
    """Train `warmup + steps` steps from a copy of the weights in `model`, and time the last `steps`."""
    with tempfile.TemporaryDirectory() as output:
        return _train(model, workload, steps, warmup, lr, output)


def _train(model: Path, workload: Workload, steps: int, warmup: int, lr: float, output: str) -> StepSeconds:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    tokens: list[int] = []

    def exact_match(completions: list[str], answer: list[str], completion_ids: Any, **_: Any) -> list[float]:
        tokens.append(sum(len(ids) for ids in completion_ids))
        return [float(said.strip() == right) for said, right in zip(completions, answer, strict=True)]

    rows = [{"prompt": p.prompt, "answer": p.answer} for p in workload.problems()]
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
        processing_class=AutoTokenizer.from_pretrained(model),
        reward_funcs=exact_match,
        train_dataset=Dataset.from_list(rows),
        args=GRPOConfig(
            output_dir=output,
            max_steps=warmup + steps,
            per_device_train_batch_size=workload.rollouts,
            num_generations=workload.group,
            max_completion_length=workload.longest,
            learning_rate=lr,
            lr_scheduler_type="constant",
            epsilon_high=0.28,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            logging_steps=10_000,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
    )
    trainer.remove_callback(PrinterCallback)  # standard output holds results only
    if workload.shortest is not None:
        _control_lengths(trainer, workload)
    timings = _timed_steps(trainer)
    trainer.train()
    counted = [seconds | {"tokens": float(n)} for seconds, n in zip(timings, tokens, strict=True)][warmup:]
    return StepSeconds(
        **{part.name: statistics.median(step[part.name] for step in counted) for part in fields(StepSeconds)}
    )


def _timed_steps(trainer: Any) -> list[dict[str, float]]:
    """Instrument a trainer and return a list that gets one entry per step of its next `train`."""
    from transformers import TrainerCallback

    watch = Stopwatch()
    watch.wrap(trainer, "_generate_single_turn", "generation")
    watch.wrap(trainer, "_calculate_rewards", "verification")
    watch.wrap(trainer, "_prepare_inputs", "inputs")
    watch.wrap(trainer, "training_step", "training_step")
    steps: list[dict[str, float]] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            now = time.perf_counter()
            raw, total = watch.seconds, now - self.start
            self.start = now
            steps.append(
                {
                    "generation": raw["generation"],
                    "verification": raw["verification"],
                    "preparation": raw["inputs"] - raw["generation"] - raw["verification"],
                    "update": raw["training_step"] - raw["inputs"],
                    "optimizer": total - raw["training_step"],
                    "total": total,
                }
            )
            raw.clear()

    trainer.add_callback(Clock())
    return steps


def _control_lengths(trainer: Any, workload: Workload) -> None:
    """Force every rollout's length: end-of-text is its last token, and no earlier one.

    `generate` then pads the row, and TRL masks the padding.
    """
    import torch
    from transformers import LogitsProcessor, LogitsProcessorList

    eos = trainer.model.config.eos_token_id
    original = trainer.model.generate
    step = 0

    class FixedLengths(LogitsProcessor):  # type: ignore[misc]
        def __init__(self, prompt: int, lengths: list[int]) -> None:
            self.end_B = torch.tensor(lengths) + prompt - 1

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            last_B = input_ids.shape[1] >= self.end_B
            scores = scores.clone()
            end_B = torch.where(last_B, 0.0, -torch.inf)
            scores[last_B] = -torch.inf
            scores[:, eos] = end_B
            return scores

    def generate(input_ids: Any, **kwargs: Any) -> Any:
        nonlocal step
        lengths = workload.lengths(step)
        step += 1
        if lengths is None:
            raise ValueError(f"workload: {workload.name!r} has no given lengths; set `shortest`")
        processor = LogitsProcessorList([FixedLengths(input_ids.shape[1], lengths)])
        return original(input_ids=input_ids, logits_processor=processor, **kwargs)

    trainer.model.generate = generate


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=Path(".trimtab/models"))
    args = parser.parse_args()
    from trainables.models.tiny import ensure_tiny

    model = ensure_tiny(args.cache)
    for name in args.workload:
        print(
            json.dumps({"workload": name, "trl": asdict(trl_step(model, WORKLOADS[name], args.steps))}),
            flush=True,
        )


if __name__ == "__main__":
    main()
