"""The built-in judges. Verifier workers import this module: nothing heavy at module level."""

from __future__ import annotations


def exact_match(response: str, answer: str) -> float:
    """1.0 where the response is the reference answer, surrounding white space aside; else 0.0."""
    return float(response.strip() == answer)


def math_equal(response: str, answer: str) -> float:
    """1.0 where math-verify finds the response's final answer equal to the reference answer; else 0.0.

    math-verify's own time-outs use SIGALRM, which works on main threads only, so they are off: the
    verifier pool bounds the time by killing the process. Without them math-verify swallows no time-out
    either, so a hang is seen as a hang.
    """
    from math_verify import parse, verify

    gold = parse(_delimited(answer), parsing_timeout=None)
    said = parse(response, parsing_timeout=None)
    return float(verify(gold, said, timeout_seconds=None))


def _delimited(answer: str) -> str:
    """A bare reference such as `\\frac{1}{2}` is LaTeX to math-verify only between dollars."""
    return answer if "$" in answer or "\\boxed" in answer else f"${answer}$"
