"""The spec that `trimtab init` writes: every section, commented, runnable as it is."""

from __future__ import annotations

import errno
from pathlib import Path

from trimtab.errors import SpecError
from trimtab.sweepspec.names import check_name

TEMPLATE = """\
# A sweep: which baseline steers best, per rollout spent, for this model, task and machine?
#   trimtab plan {file}       what would run and what it takes; starts nothing
#   trimtab sweep {file}      run it
# Any value can be set from the command line: --set trial.learner.lr=1e-4
name: {name}

# Shared by every configuration, so that only the baseline differs.
trial:
  model: tiny                     # built in; or a directory in Hugging Face format, or a hub id (org/name)
  task:
    name: addition                # built in; or `math` with your files, or package.module:Task
    train_prompts: 512
    validation_prompts: 512
  steps: 60                       # compute budget of a run: steps x rollouts_per_step rollouts
  rollouts_per_step: 128          # the compute knob; prompts per step follow from the group size
  sampling:
    temperature: 1.0
    max_tokens: 8                 # longest answer
  learner:
    workers: 1                    # data-parallel DeepSpeed workers
    zero_stage: 1
    dtype: float32                # auto: bfloat16 on GPUs, float32 on CPUs
    lr: 2e-4
    lr_warmup_steps: 5
    grad_clip: 1.0
  loss: {{clip_low: 0.2, clip_high: 0.28, aggregation: token_mean}}
  engine: {{kind: vllm, count: 1, max_model_len: 64}}
  evaluation: {{every: 10, samples: 2, temperature: 1.0}}    # not counted as compute

# Settings of the trial that are searched for every configuration, the reference included. A strategy of low
# noise bears a larger learning rate, and a fair comparison lets each have its own.
shared_search:
  learner.lr: {{float: [5e-5, 8e-4], log: true}}

# Runs first, at the same compute; everything is compared with it.
reference:
  strategy: {{preset: dapo, group_size: 8}}

# Strategies to search. With several, the strategy is chosen first, then only its own parameters.
# A range is {{choice: [a, b]}}, {{float: [low, high], log: true}} or {{int: [low, high], step: 2}}.
# A bound may name another parameter, so that no invalid pair is ever tried.
candidates:
  - strategy: {{preset: v05}}       # its own values run first, then the search begins
    search:
      group_size: {{choice: [2, 4, 8]}}
      k_max: {{int: [group_size, 16]}}
      alpha: {{float: [0.01, 0.9], log: true}}

seeds: [0, 1, 2]                  # of every configuration; fewer than three are not enough evidence

search:
  trials: 5                       # configurations of the candidates; the reference gets as many
  sampler: tpe                    # tpe | gp | qmc | random | grid
  seed: 0
  early_stopping: null            # or {{type: asha, first_rung: 5760, reduction_factor: 3}}, rung in rollouts

# What `trimtab confirm`, or `trimtab sweep --confirm`, retrains under fresh seeds on the test split.
confirm: {{top: 1, each: false, seeds: 8}}

# What one slot (learner workers + engines) may take; `auto` starts as many as fit.
slots:
  count: auto
  learner_cpus: 0.45              # of each learner worker
  engine_cpus: 0.45               # of each engine
  learner_gpus: 0                 # of each learner worker; fractions share a GPU
  engine_gpus: 0                  # of each engine
  memory_gb: 3                    # of the whole slot

tracking: {{uri: null, experiment: trimtab}}   # null: SQLite under home; or an MLflow server's URL
storage: null                     # Optuna storage; null: a journal file in the sweep's folder
home: .trimtab                    # everything that sweeps leave behind
"""


def write_template(path: Path) -> None:
    """Write the commented spec.

    Raises:
        SpecError: the file exists, cannot be written, or its name cannot name a sweep.
    """
    name = check_name(path.stem)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE.format(name=name, file=path))
    except OSError as error:
        if isinstance(error, FileExistsError) and path.exists():
            raise SpecError(
                f"PATH: {str(path)!r} exists already; choose another, or delete it first"
            ) from None
        if error.errno == errno.ENOSPC:
            path.unlink(missing_ok=True)  # ours: it was made, and could not be filled
        raise SpecError(
            f"PATH: {str(path)!r} cannot be written ({error.strerror}: {error.filename}); choose another"
        ) from None
