"""The math-verify judge. Only verifier workers import this module, before their first answer: its import
takes more than a second, which no answer's deadline should pay for.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

from math_verify import parse, verify

# It warns in every worker that its own time-outs are off.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def math_equal(response: str, answer: str) -> float:
    """1.0 where math-verify finds the response's final answer equal to the reference answer; else 0.0.

    A response that holds no expression is wrong. A reference that holds none, or a comparison that fails,
    raises: nothing is known about the response then, and the verifier counts it as an error.

    math-verify's own time-outs use SIGALRM, which works on main threads only and is swallowed as "not
    equal", so they are off: the verifier pool bounds the time by killing the process.
    """
    gold = _parsed_reference(answer)
    said = parse(response, parsing_timeout=None)
    if verify(gold, said, timeout_seconds=None):
        return 1.0
    # math-verify reports a failed comparison as False unless told to raise. It stops at the first failure
    # then, while another reading of the same answers may well be equal: hence the second look, and only now.
    return float(verify(gold, said, timeout_seconds=None, raise_on_error=True))


@lru_cache(maxsize=1024)
def _parsed_reference(answer: str) -> list[Any]:
    gold: list[Any] = parse(answer, parsing_timeout=None, raise_on_error=True)
    if not gold:
        raise ValueError(
            f"answer: {answer!r} holds no expression that math-verify can read; drop the problem"
        )
    return gold
