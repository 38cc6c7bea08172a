"""Whether the splits of a task share problems: compared by their questions, never by their answers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import get_args

from trainables.errors import SpecError
from trainables.tasks.base import Split

EXAMPLES = 3
"""Most shared questions that a refusal quotes for a pair of splits."""
SHORT = 70
"""Longest quoted question, in characters."""

PLAIN = str.maketrans(
    {**dict.fromkeys('$~"“”„«»', " "), **dict.fromkeys("‘’", "'"), **dict.fromkeys("‐‑‒–—−", "-")}  # noqa: RUF001
)
LATEX = re.compile(
    r"\\\\"  # line break
    r"|\\[,;:!> ()\[\]]"  # spaces, and the ends of a formula
    r"|\\(?:quad|qquad|thinspace|enspace|left|right)(?![a-z])"
    r"|\\(?![a-z{}%&#_|])"  # a backslash that begins no command
)
FRACTION = re.compile(r"\\[dt]frac(?![a-z])")
SENTENCE = re.compile(r"[.,;:?]+(?=\s|\Z)")


def normalised(question: str) -> str:
    r"""Return a question with what often differs between two copies of it taken out. Idempotent.

    The steps: Unicode NFKC and lower case; typographic apostrophes and dashes become plain ones. `$`, `~`,
    double quotes, `\left`, `\right`, the marks of a formula `\(` `\)` `\[` `\]`, the LaTeX spaces `\,` `\;`
    `\:` `\!` `\>` `\ ` `\\` `\quad` `\qquad` `\thinspace` `\enspace`, and a backslash that begins no command
    become a space. `\dfrac` and `\tfrac` become `\frac`. `. , ; : ?` go where white space
    or the end follows; white space becomes a single space.

    Operators, brackets and the `.` of 1.5 stay: `3+4` and `3-4` are two problems.
    """
    if question.isascii():
        text = question.lower()
    else:
        # Lower case may leave a letter decomposed.
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", question).lower())
    text = text.translate(PLAIN)
    if "\\" in text:
        text = FRACTION.sub(r"\\frac", LATEX.sub(" ", text))
    return " ".join(SENTENCE.sub("", text).split())


@dataclass(frozen=True)
class Part:
    """One split that was compared."""

    split: Split
    problems: int
    repeated: int
    """Problems whose normalised question stands earlier in the split."""


@dataclass(frozen=True)
class Pair:
    """What the second of two splits shares with the first."""

    first: Split
    second: Split
    exact: int
    """Problems of `second` whose question is in `first`, character by character."""
    normalised: int
    """Problems of `second` whose normalised question is in `first`; the exact ones are among them."""
    rate: float
    """`normalised` over the problems of `second`, in [0, 1]."""
    examples: tuple[str, ...]
    """The first shared questions, shortened."""


@dataclass(frozen=True)
class Overlap:
    """The splits that were compared, in pairs."""

    parts: tuple[Part, ...]
    pairs: tuple[Pair, ...]
    unread: tuple[Split, ...] = ()
    """Splits that are compared only when they are loaded, because they come from a hub."""


def compare(questions: Mapping[Split, Sequence[str]], unread: Sequence[Split] = ()) -> Overlap:
    """Count the questions that splits share. 100,000 take about a second."""
    order = [split for split in get_args(Split) if split in questions]
    # Questions of nothing but punctuation are not all one question.
    keys = {split: [normalised(one) or one for one in questions[split]] for split in order}
    raw_sets, sets = ({split: set(texts[split]) for split in order} for texts in (questions, keys))
    parts = tuple(Part(split, len(keys[split]), len(keys[split]) - len(sets[split])) for split in order)
    pairs = []
    for first, second in combinations(order, 2):
        shared = [
            question
            for question, key in zip(questions[second], keys[second], strict=True)
            if key in sets[first]
        ]
        exact = sum(question in raw_sets[first] for question in shared)
        rate = len(shared) / len(keys[second]) if shared else 0.0
        examples = tuple(_short(question) for question in shared[:EXAMPLES])
        pairs.append(Pair(first, second, exact, len(shared), rate, examples))
    return Overlap(parts, tuple(pairs), tuple(unread))


def check(overlap: Overlap, limit: float, sources: Mapping[Split, str | None]) -> None:
    """Refuse splits that share more than `limit`, a share of the later split's problems.

    Args:
        overlap: What `compare` found.
        limit: `task.overlap_limit`, in [0, 1].
        sources: File or hub id of each split, for the message.

    Raises:
        SpecError: A pair is above the limit; names the pair's files, numbers and examples.
    """
    above = [pair for pair in overlap.pairs if pair.rate > limit]
    if not above:
        return
    found = "; ".join(
        f"{pair.normalised:,} of the {pair.second} problems ({sources[pair.second]}) are in {pair.first} "
        f"({sources[pair.first]}) as well, {pair.exact:,} of them character by character: "
        f"{_percent(pair.rate)}, for example {', '.join(repr(example) for example in pair.examples)}"
        for pair in above
    )
    raise SpecError(
        f"task.overlap_limit: {limit:g} allows {_percent(limit)}, but {found}. Remove these problems from "
        "one of the files, or raise the limit (1.0 allows any overlap)"
    )


def lines(overlap: Overlap) -> list[str]:
    """Say for the plan how many problems there are and how many are shared."""
    found = []
    if overlap.parts:
        counts = ", ".join(
            f"{part.split} {part.problems:,}" + (f" ({part.repeated:,} repeated)" if part.repeated else "")
            for part in overlap.parts
        )
        found.append(f"{counts} problems")
    for first in get_args(Split):
        shares = [f"{pair.second} {_share(pair)}" for pair in overlap.pairs if pair.first == first]
        if shares:
            found.append(f"overlap with {first}: {'; '.join(shares)}")
    if overlap.unread:
        found.append(f"from a hub, compared when loaded: {', '.join(overlap.unread)}")
    return found


def _share(pair: Pair) -> str:
    if not pair.normalised:
        return "0"
    return f"{pair.exact:,} exact, {pair.normalised:,} normalised ({_percent(pair.rate)})"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _short(question: str) -> str:
    text = " ".join(question.split())
    return text if len(text) <= SHORT else f"{text[: SHORT - 3]}..."
