"""The exact-match judge."""

from __future__ import annotations


def exact_match(response: str, answer: str) -> float:
    """Return 1.0 if the response is the reference answer, surrounding white space aside, else 0.0."""
    return float(response.strip() == answer)
