"""The presets by name.

Each names its paper and where trimtab departs from it. All presets share loss, clip and learning rate
(`LossConfig`, `LearnerConfig`): only the baseline axes differ. Departure common to all: rewards are in [0, 1]
and the step's compute is `rollouts_per_step`, which pays for every rollout (refills, extras, greedy ones).
"""

from __future__ import annotations

from trainables.strategies.presets.base import Preset
from trainables.strategies.presets.group import Dapo, DrGrpo, Grpo, ReinforcePp, Remax, Rloo
from trainables.strategies.presets.learned import Poise, Ppo, Sppo
from trainables.strategies.presets.shrinkage import BetaMix, Dbb, EbpoPreset, GlobalMean, Jspo, Spo
from trainables.strategies.presets.sized import CeroPreset, HoraPreset, SaraPreset
from trainables.strategies.presets.value_model import V0, V05, V05Loo, V05Unbiased

PRESETS: dict[str, type[Preset]] = {
    "grpo": Grpo,
    "dr_grpo": DrGrpo,
    "rloo": Rloo,
    "dapo": Dapo,
    "hora": HoraPreset,
    "cero": CeroPreset,
    "sara": SaraPreset,
    "reinforce_pp": ReinforcePp,
    "remax": Remax,
    "v05": V05,
    "v05_loo": V05Loo,
    "v05_unbiased": V05Unbiased,
    "v0": V0,
    "poise": Poise,
    "ppo": Ppo,
    "sppo": Sppo,
    "spo": Spo,
    "jspo": Jspo,
    "ebpo": EbpoPreset,
    "beta_mix": BetaMix,
    "global_mean": GlobalMean,
    "dbb": Dbb,
}
