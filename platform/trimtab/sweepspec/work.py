"""What a session runs: the part of a sweep's spec that a single training run has as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from trainables.trial import TrialConfig
    from trimtab.sweepspec.spec import SlotsConfig, TrackingConfig

Purpose = Literal["search", "confirm", "train"]


class Work(Protocol):
    """What the plan, the slots, the tracker and the display read. `SweepSpec` is one."""

    @property
    def name(self) -> str: ...
    @property
    def slots(self) -> SlotsConfig: ...
    @property
    def tracking(self) -> TrackingConfig: ...
    @property
    def seeds(self) -> tuple[int, ...]:
        """Run seeds of every configuration."""

    @property
    def trials(self) -> int:
        """All configurations."""

    @property
    def reference_trials(self) -> int:
        """Configurations of the reference, its own values included."""

    @property
    def reference_label(self) -> str: ...
    @property
    def budget(self) -> int:
        """Rollouts of one run (one configuration, one seed)."""

    @property
    def purpose(self) -> Purpose: ...
    @property
    def confirms(self) -> str | None:
        """Name of the sweep that is confirmed."""

    def reference_config(self) -> TrialConfig:
        """Return the reference's resolved configuration; all others share its model, slot and budget."""

    def configs(self) -> list[TrialConfig]:
        """Return the configurations as they are written, before anything is searched; the reference first."""

    def text(self) -> str:
        """Return the document that the tracking store keeps, as YAML."""
