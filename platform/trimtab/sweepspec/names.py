"""What a sweep, a training or a model may be called."""

from __future__ import annotations

import re

from trimtab.errors import SpecError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def check_name(name: str) -> str:
    """Return a name that can be a folder and a tag: at most 64 letters, digits, `.`, `_` and `-`.

    Raises:
        SpecError: the name holds something else.
    """
    if not NAME.fullmatch(name):
        raise SpecError(
            f"name: {name!r} is not a valid name; use up to 64 letters, digits, '.', '_' or '-', "
            "starting with a letter or digit"
        )
    return name
