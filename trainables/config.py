"""The settings of each part of a trial. Pydantic only: the CLI loads this module without torch.

Field docs are the string literals below the fields. Unknown keys are errors.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

Positive = Annotated[int, Field(ge=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Dtype = Literal["auto", "float32", "bfloat16"]
Backend = Literal["gloo", "nccl"]


def resolve_dtype(dtype: Dtype, *, on_gpu: bool) -> Literal["float32", "bfloat16"]:
    """Return what `auto` stands for: learner and engines must compute in the same type."""
    if dtype == "auto":
        return "bfloat16" if on_gpu else "float32"
    return dtype


class Strict(BaseModel):
    """Base of all user-facing models: unknown keys are refused, instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TaskConfig(Strict):
    """Which prompts, and how an answer is judged."""

    name: str = "addition"
    """`addition` or `sorting` (built in), `math` (JSONL or Parquet: question and reference answer), or an
    import path `package.module:Task` of your own."""
    params: dict[str, Any] = {}
    """Keyword arguments of a task of your own: it is built as `Task(config, **params)`."""
    train: str | None = None
    """Training prompts of the math task: a file, a slice of it (`train.jsonl[:512]`) or a hub id."""
    validation: str | None = None
    """The same for the validation prompts (search and pruning)."""
    test: str | None = None
    """The same for the test prompts (verdict only; the search never reads them)."""
    question_field: str = "question"
    answer_field: str = "answer"
    stratum_field: str | None = None
    """Column that declares a prompt's stratum, for the `strata` prior."""
    overlap_limit: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Largest share of the math task's validation or test problems that may also be in train, or of its test
    problems in validation; 1 allows any overlap. What counts: `trainables.tasks.overlap.normalised`."""
    template: str = "{question}"
    """Prompt text made from the question."""
    chat: bool = False
    """Whether the prompt text is one user turn in the tokenizer's chat template (instruct models)."""
    train_prompts: Positive = 512
    """Number of training prompts that the built-in task draws."""
    validation_prompts: Positive = 512
    test_prompts: Positive = 512
    data_seed: int = 0
    """Seed of the built-in task's prompts; separate from the run seed so that seeds share their data."""

    @model_validator(mode="after")
    def _params_of_ones_own(self) -> TaskConfig:
        if self.params and ":" not in self.name:
            raise ValueError(
                f"params: {', '.join(self.params)} belongs to a task of your own (package.module:Task), and "
                f"{self.name!r} is built in; write its settings beside `name`"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_before_params(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out empty `params`: runs of earlier versions have none, and are compared with later ones."""
        raw: dict[str, Any] = write(self)
        if not self.params:
            raw.pop("params", None)
        return raw


class SamplingConfig(Strict):
    """How training rollouts are drawn. Top-p and top-k are left out: they make importance ratios wrong."""

    temperature: Annotated[float, Field(gt=0, le=2)] = 1.0
    max_tokens: Positive = 8
    """Longest response, in tokens."""


class EngineConfig(Strict):
    """vLLM rollout engines (or the plain transformers engine, for parity and where vLLM is absent)."""

    kind: Literal["vllm", "transformers"] = "vllm"
    count: Positive = 1
    """E: rollout engines of one slot."""
    max_model_len: Positive = 64
    """Prompt plus response, in tokens."""
    kv_cache_mb: Positive = 64
    """KV cache of each engine on CPU. On GPUs `gpu_memory_utilization` decides."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, lt=1)] = 0.85
    tensor_parallel: Positive = 1
    max_num_seqs: Positive = 128
    parity_tolerance: Annotated[float, Field(gt=0)] | None = None
    """Largest allowed difference of a token's log-prob between engine and learner right after a weight
    sync. Default: 1e-3 in fp32, 0.25 in bf16."""
    sync_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """Deadline of one weight sync; an engine that has not loaded the weights by then is restarted."""
    weight_sync: Literal["object_store", "broadcast"] = "object_store"
    """How weights reach the engines. `object_store`: whole, through rank 0's host memory. `broadcast`: in
    buckets as they are gathered, over NCCL where learner and engines have GPUs, else gloo."""

    @model_validator(mode="after")
    def _broadcast_to_vllm(self) -> EngineConfig:
        if self.weight_sync == "broadcast" and self.kind != "vllm":
            raise ValueError(
                f"weight_sync: broadcast needs kind vllm, not {self.kind}; use weight_sync: object_store"
            )
        return self


class LearnerConfig(Strict):
    """The DeepSpeed learner."""

    workers: Positive = 1
    """W: data-parallel learner workers of one slot."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 1
    dtype: Dtype = "auto"
    """`auto`: bfloat16 on GPUs, float32 on CPUs."""
    lr: Annotated[float, Field(gt=0)] = 1e-6
    lr_warmup_steps: Annotated[int, Field(ge=0)] = 0
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    grad_clip: Annotated[float, Field(gt=0)] = 1.0
    mini_batches: Positive = 1
    """Optimizer updates per step: the step's trained prompts are split into this many mini-batches of equal
    size, each with a loss of its own denominator; into fewer where fewer prompts are trained."""
    micro_batch_tokens: Positive = 8192
    """Padded tokens in one forward pass of one worker. Changes memory, never the gradient."""
    collective_timeout_s: Positive = 120
    """How long a learner worker waits for the others inside a step before the group counts as broken."""
    command_timeout_s: Positive = 1800
    """How long learner workers wait for their next part of a step, while engines draw and judges verify: it
    must exceed the longest draw. A worker that hangs outside a collective is noticed only after this time."""
    gradient_noise_every: Annotated[int, Field(ge=0)] = 0
    """Steps between measurements of tr Cov(g) / |E g|^2, from the gradients of two halves of the step's
    prompts; 0 = never. Each takes one more backward pass and memory for two gradients."""

    @model_validator(mode="after")
    def _whole_gradients(self) -> LearnerConfig:
        if self.gradient_noise_every and self.zero_stage == 3:
            raise ValueError(
                f"gradient_noise_every: {self.gradient_noise_every} needs whole parameters on every worker, "
                "which zero_stage 3 splits; set it to 0 or lower zero_stage"
            )
        return self


class KlConfig(Strict):
    """KL of the policy to a frozen reference, added to the loss (GRPO, arXiv 2402.03300, eq. 3)."""

    coefficient: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the KL in the loss; 0 = none, and no reference is loaded."""
    estimator: Literal["k1", "k2", "k3", "abs"] = "k3"
    """Of one token, with d = log pi - log pi_reference in nats: k1 is d, k2 is d^2 / 2, k3 is exp(-d) + d - 1
    (Schulman 2020), abs is |d|. verl calls them kl, mse, low_var_kl and abs."""
    reference: str = "start"
    """`start`: the weights that the run starts from. Or a local directory or a hub id of a model that has
    the policy's vocabulary."""


class LossConfig(Strict):
    """Shared by every strategy that is compared; only the baseline axes differ."""

    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    clip_high: Annotated[float, Field(gt=0)] = 0.28
    """Clip-higher (DAPO, arXiv 2503.14476)."""
    dual_clip: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Dual clip (arXiv 1912.09729, eq. 5): a token of negative advantage A costs at most `-dual_clip * A`,
    however far its ratio has grown. Above 1, in the paper 3; null switches it off."""
    aggregation: Literal["token_mean", "sequence_mean", "constant_length"] = "token_mean"
    importance_cap: Annotated[float, Field(gt=0)] | None = 2.0
    """Truncated importance weight min(pi_learner / pi_sampler, cap) per token; null switches it off."""
    kl: KlConfig = KlConfig()
    entropy_bonus: Annotated[float, Field(ge=0)] = 0.0
    """The loss is lowered by this much per nat of the entropy of the distribution that tokens are drawn from,
    that is at `sampling.temperature`; 0 = none."""
    max_mismatch_kl: Annotated[float, Field(gt=0)] | None = 1.0
    """A step whose sampler/learner KL exceeds this fails the trial as diverged."""
    overlong_buffer: Annotated[int, Field(ge=0)] = 0
    """DAPO's soft punishment grows over this number of tokens before `max_tokens`; 0 = none."""
    overlong_penalty: Annotated[float, Field(ge=0)] = 0.5
    """Size of the full punishment in [0, 1] reward units (DAPO's -1 on rewards of +-1 is 0.5 here)."""

    @property
    def largest_penalty(self) -> float:
        """Return the most that shaping takes off a reward, in reward units."""
        return self.overlong_penalty if self.overlong_buffer else 0.0

    @model_validator(mode="after")
    def _dual_clip_above_one(self) -> LossConfig:
        if self.dual_clip is not None and self.dual_clip <= 1:
            raise ValueError(
                f"dual_clip: {self.dual_clip:g} must be above 1, or it would stop tokens whose ratio has not "
                "grown; set it to 3, or to null for no dual clip"
            )
        return self


class VerifierConfig(Strict):
    """The verifier, which judges answers in processes that can be killed."""

    processes: Positive = 1
    timeout_s: Annotated[float, Field(gt=0)] = 10.0
    """Deadline of one answer."""
    max_failure_rate: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of one step's answers whose verification may fail; above it the trial is aborted."""


class EvaluationConfig(Strict):
    """Accuracy on held-out prompts. Not counted as compute."""

    every: Positive = 10
    """Steps of compute between evaluations: one each `every * rollouts_per_step` rollouts spent."""
    samples: Positive = 2
    """Sampled answers per prompt (mean@k)."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    split: Literal["validation", "test"] = "validation"
    """Which held-out prompts. A search must not see `test`: `trimtab confirm` sets it."""
