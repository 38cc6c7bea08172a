"""Counts in a prompt's text: length, numbers, formulae, n-grams. Needs no model."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_NUMBER = re.compile(r"\d+")
_SYMBOL = re.compile(r"\$([A-Za-z])\$")
NAMES = (
    "characters",
    "words",
    "commands",
    "formulae",
    "digits",
    "numbers",
    "mean_digits",
    "longest_number",
    "shortest_number",
    "cjk",
    "lines",
    "equations",
    "powers",
    "fractions",
    "symbols",
    "question",
    "commas",
)


def text_statistics(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return (P, len(NAMES)) statistics: counts as log(1 + count), shares as they are."""
    return np.array([_count(text) for text in texts], dtype=np.float32).reshape(len(texts), len(NAMES))


def _count(text: str) -> list[float]:
    runs = [len(run) for run in _NUMBER.findall(text)]
    counts = (
        len(text),
        len(text.split()),
        text.count("\\"),
        text.count("$"),
        sum(runs),
        len(runs),
        sum(runs) / (1 + len(runs)),
        max(runs, default=0),
        min(runs, default=0),
    )
    marks = (
        text.count("\n"),
        text.count("="),
        text.count("^"),
        text.count("frac"),
        len(set(_SYMBOL.findall(text))),
    )
    cjk = sum(letter > "\u2e80" for letter in text) / max(1, len(text))
    question = float(text.rstrip().endswith("?"))
    return [*np.log1p(counts), cjk, *np.log1p(marks), question, float(np.log1p(text.count(",")))]


def hashed_ngrams(texts: Sequence[str], width: int) -> npt.NDArray[np.float32]:
    """Return (P, width) counts of character n-grams of 2 to 5 letters.

    The n-grams are hashed with signs; counts enter as log(1 + count); rows are scaled to length 1.
    """
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.preprocessing import normalize

    hashing = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 5), n_features=width, norm=None)
    counts: npt.NDArray[np.float32] = hashing.transform(texts).toarray().astype(np.float32)
    found: npt.NDArray[np.float32] = normalize(np.sign(counts) * np.log1p(np.abs(counts)))
    return found
