"""The rendered files of cluster/, once a session."""

from __future__ import annotations

import pytest

from cluster.render import render, values


@pytest.fixture(scope="session")
def rendered() -> dict[str, str]:
    """Path -> text, rendered as a user would."""
    return render(values())
