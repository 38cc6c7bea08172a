"""Prior `context`: an in-context value model on the policy's own record (V0, arXiv 2602.03584)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from trainables.strategies.members.base import Keep
from trainables.strategies.priors.base import PriorMember
from trainables.strategies.scale import Scale
from trainables.value_models.config import EncoderConfig

if TYPE_CHECKING:
    from trainables.strategies.priors.record import Record


class ContextPrior(PriorMember):
    """In-context value model reading the policy's own record (V0, arXiv 2602.03584)."""

    type: Literal["context"] = "context"
    size: Annotated[int, Field(ge=1, le=4096)] = 256
    """Most recent (prompt, mean reward) pairs that are read."""
    keep: Keep = 0.9
    """Share of a pair's evidence that survives a step: the policy changes."""
    head: str = ""
    """Folder of a head that `trimtab v0 fit` wrote (it brings its encoder); empty: the record alone."""
    refit: Annotated[int, Field(ge=1)] = 8
    """Steps between choices of the unfitted head's length scales. The record is read anew each step."""
    encoder: EncoderConfig = EncoderConfig()

    foresight: ClassVar[bool] = True

    def begin(self, scale: Scale) -> Record:
        # The value models load SciPy.
        from trainables.strategies.priors.record import Record

        return Record(self, scale)
