"""What only shows when a slot tries it ends the sweep with one message: every trial would fail alike."""

from __future__ import annotations

import json

import pytest


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_prompt_that_does_not_fit_ends_the_sweep_with_the_fix(home) -> None:
    spec = home.write(
        trial={**home.spec["trial"], "engine": {"max_model_len": 10}, "sampling": {"max_tokens": 8}},
        slots={"count": 1},
    )
    done = home.run("sweep", str(spec))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "engine.max_model_len: 10" in done.stderr
    assert "raise engine.max_model_len" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert home.processes() == []
    status = json.loads(home.run("status", "small", "--home", str(home.path), "--json").stdout)
    (trial,) = status["trials"]
    assert (trial["status"], trial["cause"]) == ("failed", "user")
