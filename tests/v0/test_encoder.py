"""Encoders and their cache on disk."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from trainables.value_models.config import EncoderConfig
from trainables.value_models.encoder import CachedEncoder, SentenceEncoder, make_encoder
from trainables.value_models.statistics import NAMES, text_statistics
from trimtab.errors import ModelError, RecordError


@dataclass
class Lengths:
    """Counts what it is asked: the subject is the cache around it."""

    identity: str = "lengths"
    blocks: tuple[int, ...] = (2,)
    asked: list[str] = field(default_factory=list)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        return np.array([[len(t), t.count("a")] for t in texts], np.float32).reshape(-1, 2)


def test_each_prompt_is_encoded_once(tmp_path: Path) -> None:
    inner = Lengths()
    cached = CachedEncoder(inner, tmp_path / "deep" / "e.sqlite")
    first = cached.encode(["aa", "b", "aa"])
    again = CachedEncoder(inner, tmp_path / "deep" / "e.sqlite").encode(["b", "aa", "cab"])
    assert inner.asked == ["aa", "b", "cab"]
    assert first.tolist() == [[2, 2], [1, 0], [2, 2]]
    assert again.tolist() == [[1, 0], [2, 2], [3, 1]]
    assert cached.encode([]).shape == (0, 2)


def test_the_cache_of_another_encoder_is_refused(tmp_path: Path) -> None:
    CachedEncoder(Lengths(), tmp_path / "e.sqlite").encode(["a"])
    other = CachedEncoder(Lengths(identity="others"), tmp_path / "e.sqlite")
    with pytest.raises(RecordError, match=r"e\.sqlite: holds embeddings of 'lengths', not of 'others'"):
        other.encode(["a"])


def test_a_file_that_is_not_a_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "e.sqlite").write_text("something else, long enough to be no database at all" * 50)
    with pytest.raises(RecordError, match="is not a cache of embeddings"):
        CachedEncoder(Lengths(), tmp_path / "e.sqlite").encode(["a"])


def test_statistics_count() -> None:
    row = dict(zip(NAMES, np.expm1(text_statistics(["12+345= and $x$?"])[0]), strict=True))
    assert row["digits"] == pytest.approx(5)
    assert row["numbers"] == pytest.approx(2)
    assert row["longest_number"] == pytest.approx(3)
    assert row["shortest_number"] == pytest.approx(2)
    assert row["symbols"] == pytest.approx(1)
    assert text_statistics([]).shape == (0, len(NAMES))


def test_without_a_model_text_alone_is_read() -> None:
    encoder = make_encoder(EncoderConfig(model="none", ngrams=64), Path("unused"))
    found = encoder.encode(["1+1=", "1+1=", "Prove that $x$ is prime."])
    assert found.shape == (3, 64 + len(NAMES)) == (3, sum(encoder.blocks))
    assert (found[0] == found[1]).all()
    assert (found[0] != found[2]).any()
    with pytest.raises(ValueError, match="nothing to read"):
        EncoderConfig(model="none", ngrams=0, statistics=False)


@pytest.mark.slow
def test_minilm_works_offline(tmp_path: Path) -> None:
    encoder = make_encoder(EncoderConfig(), tmp_path)
    texts = [
        "How many primes are below 20?",
        "Count the primes less than twenty.",
        "The cat is on the mat." * 90,
    ]
    found = encoder.encode(texts)
    assert encoder.blocks == (512, 384, 384, len(NAMES))
    last = found[:, 512 + 384 : 512 + 768]
    assert np.linalg.norm(last, axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    assert last[0] @ last[1] > 0.6 > last[0] @ last[2]
    # Alone or in a batch, the padding of others changes nothing.
    alone = SentenceEncoder(EncoderConfig()).encode(texts[:1])
    assert np.abs(alone - found[:1]).max() < 1e-4
    pooled = SentenceEncoder(EncoderConfig(layers=(), ngrams=0, statistics=False)).encode(texts)
    assert pooled.shape == (3, 384)
    assert pickle.loads(pickle.dumps(encoder)).identity == encoder.identity


@pytest.mark.slow
def test_a_model_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"encoder\.model: 'no/such-encoder'"):
        SentenceEncoder(EncoderConfig(model="no/such-encoder")).encode(["a"])
