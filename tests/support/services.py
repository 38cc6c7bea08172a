"""What tests ask of services that they start."""

from __future__ import annotations

import urllib.request


def answers(url: str) -> bool:
    """Tell whether somebody answers at the URL, with a success."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False
