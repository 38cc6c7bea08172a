"""The judge of the sorting task: any right order is right."""

from __future__ import annotations


def by_last_digit(response: str, answer: str) -> float:
    """Return 1.0 if the response orders the reference's numbers by their last digits, else 0.0.

    Numbers that share a last digit may stand in any order. White space around the response is ignored.
    """
    given, reference = response.strip().split(","), answer.split(",")
    digits = [number[-1:] for number in given]
    return float(sorted(given) == sorted(reference) and digits == sorted(digits))
