"""Settings that every process of a session inherits."""

from __future__ import annotations

import os
from pathlib import Path


def prepare_environment(home: Path) -> dict[str, str]:
    """Set the variables that Ray and the workers read; what the user has set stays. Return all of them."""
    defaults = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "180",
        # A slot is a dozen processes, most of them idle; the default warns beyond a few a core.
        "RAY_worker_maximum_startup_concurrency": "16",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        # Tune's new console output announces itself whatever the verbosity.
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        # The studies and the journal are the sweep's state; nobody reads Tune's, which would be written anew,
        # of all trials, every ten seconds.
        "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
        "TORCH_EXTENSIONS_DIR": str((home / "torch_extensions").resolve()),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    for key, value in defaults.items():
        os.environ.setdefault(key, value)
    return {key: os.environ[key] for key in defaults}
