"""Send a tracking store what it lacks of a sweep that no driver runs any more."""

from __future__ import annotations

from pathlib import Path

from trimtab.sweepdir.folder import SweepDir
from trimtab.sweepdir.home import tracking_uri
from trimtab.sweepdir.journal import Status, Tail
from trimtab.sweepspec.spec import SweepSpec
from trimtab.tracking.store import check_file
from trimtab.tracking.tracker import Tracker

CATCH_UP_S = 600.0
"""Time limit of `trimtab track`."""


def catch_up(sweep_dir: Path, spec: SweepSpec, uri: str | None = None) -> list[str]:
    """Send the rest of the journal and return what could not be sent, as `Tracker.close` does.

    Call this only while no driver runs the sweep.

    Args:
        uri: Another store than the sweep's own. It then gets the whole journal.

    Raises:
        NotFoundError: Records are gone.
        StorageError: The journal is damaged.
        TrackingError: The store is a file that is damaged or not MLflow's.
    """
    SweepDir(sweep_dir).check_records()
    # Read in this thread first: the journal may be damaged.
    status = sweep_status(sweep_dir, spec)
    store = uri or tracking_uri(SweepDir(sweep_dir).home, spec.tracking.uri)
    check_file(store)
    tracker = Tracker(sweep_dir, store, sweep_dir.name, spec)
    tracker.start()
    return tracker.close(status, CATCH_UP_S)


def sweep_status(sweep_dir: Path, spec: SweepSpec) -> Status:
    """Return how a sweep ended, by its journal: `killed` if `trimtab resume` has trials left to run."""
    ended: dict[str, str] = {}
    for event in Tail(sweep_dir).read():
        if event["event"] == "trial_started":
            ended.pop(event["trial"], None)
        elif event["event"] == "trial_finished":
            ended[event["trial"]] = event["status"]
    if len(ended) < spec.trials or "killed" in ended.values():
        return "killed"
    return "failed" if set(ended.values()) == {"failed"} else "finished"
