"""What a tracker sent of a journal, as MLflow gives it back. Not a test: what tests of the tracker share."""

from speed import patience

from trimtab.tracking.store import connect
from trimtab.tracking.tracker import Tracker

CURVE = [0.5, 0.55, 0.6, 0.62, 0.64, 0.65, 0.66]


def track(journal, uri, status="finished"):
    tracker = Tracker(journal.folder, uri, "v05_small", journal.spec)
    tracker.start()
    left = tracker.close(status, timeout_s=patience(60))
    assert left == []
    return tracker


def runs_of(uri, where=""):
    client = connect(uri)
    experiment = client.get_experiment_by_name("trimtab")
    return client.search_runs([experiment.experiment_id], where, max_results=1000)


def children(uri):
    return [run for run in runs_of(uri) if "mlflow.parentRunId" in run.data.tags]


def history(uri, run, name):
    points = connect(uri).get_metric_history(run.info.run_id, name)
    return [(point.step, point.value) for point in sorted(points, key=lambda point: point.step)]
