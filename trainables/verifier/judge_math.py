"""The math-verify judge. Only verifier processes import this module, before their first answer: the import
takes more than a second, which must not count towards an answer's deadline.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

from math_verify import parse, verify

# Otherwise it warns in every process that its own time-outs are off.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def math_equal(response: str, answer: str) -> float:
    """Return 1.0 if math-verify finds the response's final answer equal to the reference answer, else 0.0.

    A response that holds no expression is wrong. If the reference holds none, or the comparison fails,
    nothing is known about the response: the function raises, and the verifier counts an error.

    math-verify's own time-outs use SIGALRM, which works on main threads only and is swallowed as "not
    equal", so they are off: the verifier bounds the time by killing the process.

    Raises:
        ValueError: The reference holds no expression.
    """
    gold = _parsed_reference(answer)
    said = parse(response, parsing_timeout=None)
    if verify(gold, said, timeout_seconds=None):
        return 1.0
    # math-verify reports a failed comparison as False unless told to raise, and then it stops at the first
    # failure, although another reading of the same answers may be equal. So ask for the reason only now.
    return float(verify(gold, said, timeout_seconds=None, raise_on_error=True))


@lru_cache(maxsize=1024)
def _parsed_reference(answer: str) -> list[Any]:
    gold: list[Any] = parse(answer, parsing_timeout=None, raise_on_error=True)
    if not gold:
        raise ValueError(
            f"answer: {answer!r} holds no expression that math-verify can read; drop the problem"
        )
    return gold
