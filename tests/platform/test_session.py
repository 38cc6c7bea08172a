"""What a session begins it ends, for a sweep and for a training alike. Ray and MLflow are stand-ins here."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from trimtab.cli.main import main
from trimtab.decide import train as training_run
from trimtab.decide.promoted import Promoted, Training
from trimtab.errors import TrialFailed
from trimtab.planning.machine import Machine
from trimtab.planning.placement import plan_here
from trimtab.session import cluster as clusters
from trimtab.session import session as sessions
from trimtab.session.cluster import JoinedRay, ray_for
from trimtab.session.session import Session
from trimtab.sweepdir import journal
from trimtab.sweepdir.folder import SweepDir
from trimtab.sweepspec.load import load_spec
from trimtab.sweepspec.spec import SweepSpec, Work

MACHINE = Machine(cpus=2, gpus=0, memory_bytes=16_000_000_000)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the session asks of Ray, the slots, the meters and the tracker, in order."""
    import ray

    import trimtab.slots.client  # noqa: F401  # before `ray.remote` is replaced: what it loads decorates by it
    from trimtab.slots import host

    said: list[Any] = []

    class Remote:
        def options(self, **options: Any) -> Remote:
            said.append(("broker", options["scheduling_strategy"], options["num_cpus"]))
            return self

        def remote(self, folder: str) -> str:
            return f"broker of {folder}"

    class Slots:
        failed = False

        def __init__(self, spec: Any, count: int, broker: str, say: Any) -> None:
            said.append(("slots", count, spec.model, broker))

        def start(self) -> None:
            said.append("start")

        def close(self, timeout_s: float) -> None:
            said.append(("close", timeout_s))

    class Tracker:
        def __init__(self, folder: Path, uri: str, name: str, work: Any) -> None:
            said.append(("tracker", name, work.purpose))

        def start(self) -> None:
            pass

        def close(self, status: str, timeout_s: float) -> list[str]:
            said.append(("tracked", status, timeout_s))
            return []

    monkeypatch.setattr(ray, "remote", lambda actor: Remote())
    monkeypatch.setattr(host, "beside_driver", lambda: "beside the driver")
    monkeypatch.setattr(host, "Slots", Slots)
    monkeypatch.setattr(clusters, "metered_nodes", lambda broker: nullcontext())
    monkeypatch.setattr(sessions, "Tracker", Tracker)
    monkeypatch.setattr(training_run, "Tracker", Tracker)
    monkeypatch.setattr(sessions, "resolve_model", lambda work, home: "the model")
    return said


@pytest.fixture
def folder(tmp_path: Path) -> SweepDir:
    return SweepDir.create(tmp_path, "v05_small")


@pytest.fixture
def session(folder: SweepDir, spec: SweepSpec) -> Session:
    return Session(folder, spec, JoinedRay(plan_here(spec, MACHINE)))


def begin(folder: SweepDir) -> None:
    event = {"event": "trial_started", "trial": "trial-0000", "time": 0.0, "seeds": [0], "config": {}}
    journal.append(folder.path, event)


def ends(folder: SweepDir) -> list[str]:
    return [event["status"] for event in folder.events() if event["event"] == "trial_finished"]


@pytest.mark.parametrize(("worked", "status"), [(True, "finished"), (False, "failed")])
def test_the_body_gets_broker_and_slots_and_both_are_ended(
    session: Session, folder: SweepDir, said: list[Any], worked: bool, status: str
) -> None:
    def body(broker: Any, slots: Any) -> bool:
        said.append(("body", broker, slots.failed))
        return worked

    ended = session.run(body)
    broker = f"broker of {folder.path}"
    assert (ended.status, ended.unsent) == (status, [])
    assert said == [
        ("tracker", "v05_small", "search"),
        ("broker", "beside the driver", 0),
        ("slots", 2, "the model", broker),
        "start",
        ("body", broker, False),
        ("close", 60.0),
        ("tracked", status, 60.0),
    ]


def test_the_next_work_takes_over_the_slots_and_is_ended_before_them(
    session: Session, folder: SweepDir, spec: SweepSpec, said: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    class Broker:
        class move:
            remote = staticmethod(lambda path: said.append(("moved", Path(path).name)))

    monkeypatch.setattr(ray, "get", lambda reference: reference)
    monkeypatch.setattr(sessions, "start_broker", lambda path: Broker)
    second = SweepDir.create(folder.home, "v05_small-confirm")

    def then(lent: Any) -> str:
        inner = Session(second, spec, session.cluster, lent=lent)
        return inner.run(lambda broker, slots: bool(said.append(("body 2", broker is Broker))) or True).status

    assert session.run(lambda broker, slots: True, then).status == "finished"
    assert said == [
        ("tracker", "v05_small", "search"),
        ("slots", 2, "the model", Broker),
        "start",
        ("tracked", "finished", 60.0),
        ("tracker", "v05_small-confirm", "search"),
        ("moved", "v05_small-confirm"),
        ("body 2", True),
        ("tracked", "finished", 60.0),
        ("close", 60.0),
    ]


def test_nothing_follows_work_that_came_to_nothing(session: Session, said: list[Any]) -> None:
    assert session.run(lambda broker, slots: False, lambda lent: pytest.fail("called")).status == "failed"


def test_a_signal_in_the_next_work_ends_the_slots_at_once_and_leaves_the_first_finished(
    session: Session, said: list[Any]
) -> None:
    assert session.run(lambda broker, slots: True, lambda lent: "killed").status == "finished"
    assert said[-2:] == [("tracked", "finished", 60.0), ("close", 10.0)]


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_session_as_killed(
    session: Session, folder: SweepDir, said: list[Any], which: signal.Signals
) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def body(broker: Any, slots: Any) -> bool:
        begin(folder)
        os.kill(os.getpid(), which)
        signal.pause()
        return True

    assert session.run(body).status == "killed"
    assert said[-2:] == [("close", 10.0), ("tracked", "killed", 60.0)]
    assert ends(folder) == ["killed"]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_model_is_made_ends_the_session_before_it_begins(
    session: Session, said: list[Any], monkeypatch: pytest.MonkeyPatch, which: signal.Signals
) -> None:
    def making(work: Work, home: Path) -> str:
        os.kill(os.getpid(), which)
        signal.pause()
        return "the model"

    monkeypatch.setattr(sessions, "resolve_model", making)
    assert session.run(lambda broker, slots: True).status == "killed"
    assert said == []


def test_what_the_body_raises_is_raised_after_all_has_ended(
    session: Session, folder: SweepDir, said: list[Any]
) -> None:
    def body(broker: Any, slots: Any) -> bool:
        begin(folder)
        raise TrialFailed("diverged", "diverged")

    with pytest.raises(TrialFailed, match="diverged"):
        session.run(body)
    assert said[-2:] == [("close", 60.0), ("tracked", "failed", 60.0)]
    assert ends(folder) == ["failed"]


def test_without_a_body_no_ray_is_started(session: Session, said: list[Any]) -> None:
    assert session.run(None).status == "finished"
    assert said == [("tracker", "v05_small", "search"), ("tracked", "finished", 60.0)]


@pytest.fixture
def training(spec: SweepSpec) -> Training:
    return Training(Promoted(name="quick", trial=spec.reference_config().model_dump(mode="json")))


def test_a_training_is_one_lease_in_a_session(
    training: Training, tmp_path: Path, said: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its broker is pinned beside the driver as a sweep's is: on a cluster no other node may take it away."""
    checkpoint = tmp_path / "checkpoint-60"
    (checkpoint / "model").mkdir(parents=True)
    (checkpoint / "model" / "config.json").write_text("{}")
    folder = SweepDir.training(tmp_path, "quick")

    def lease(broker: str, key: str, payload: dict[str, Any]) -> Iterator[dict[str, Any]]:
        said.append(("lease", broker, key, payload["seeds"], payload["output"]))
        event = {"event": "run_finished", "trial": key, "time": 1.0, "seed": 0, "status": "finished"}
        journal.append(folder.path, {**event, "error": None, "checkpoint": str(checkpoint)})
        yield event

    monkeypatch.setattr("trimtab.slots.client.lease_until_done", lease)
    monkeypatch.setattr(training_run, "_register", lambda folder, promoted, checkpoint: "registered")
    joined = JoinedRay(plan_here(training, MACHINE))
    done = training_run.train(training, tmp_path, joined)
    assert (done.status, done.checkpoint, done.moved) == ("finished", checkpoint, "registered")
    broker, output = f"broker of {folder.path}", str(folder.path / "trials" / "production")
    assert said == [
        ("tracker", "quick", "train"),
        ("broker", "beside the driver", 0),
        ("slots", 1, "the model", broker),
        "start",
        ("lease", broker, "production", [0], output),
        ("close", 60.0),
        ("tracked", "finished", 600.0),
    ]
    assert [event["event"] for event in folder.events()] == [
        "trial_started",
        "run_finished",
        "trial_finished",
    ]
    assert ends(folder) == ["finished"]
    said.clear()
    assert training_run.train(training, tmp_path, joined).checkpoint == checkpoint
    assert said == [("tracker", "quick", "train"), ("tracked", "finished", 600.0)], "trained once"
    assert not (folder.path / "driver.json").exists()


def test_a_training_that_fails_says_so_in_its_journal(
    training: Training, tmp_path: Path, said: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lease(broker: str, key: str, payload: dict[str, Any]) -> Iterator[dict[str, Any]]:
        raise TrialFailed("diverged", "diverged")
        yield {}

    monkeypatch.setattr("trimtab.slots.client.lease_until_done", lease)
    with pytest.raises(TrialFailed, match="diverged"):
        training_run.train(training, tmp_path, JoinedRay(plan_here(training, MACHINE)))
    folder = SweepDir.training(tmp_path, "quick")
    assert ends(folder) == ["failed"]
    assert said[-1] == ("tracked", "failed", 60.0)


@pytest.mark.parametrize(("kind", "meters"), [(clusters.OwnRay, "this machine"), (JoinedRay, "all nodes")])
def test_meters_read_this_machine_or_every_node(
    kind: Any, meters: str, spec: SweepSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(clusters, "metered", lambda folder: nullcontext(("this machine", folder)))
    monkeypatch.setattr(clusters, "metered_nodes", lambda broker: nullcontext(("all nodes", broker)))
    with kind(plan_here(spec, MACHINE)).metered(tmp_path, tmp_path) as metered:
        assert metered == (meters, tmp_path)


def test_without_an_address_the_ray_is_the_sessions_own(spec: SweepSpec, tmp_path: Path) -> None:
    with ray_for(spec, tmp_path, None, None) as cluster:
        assert isinstance(cluster, clusters.OwnRay)
        assert cluster.plan == plan_here(spec, clusters.this_machine())
    assert list(tmp_path.iterdir()) == [], "nothing is started"


@pytest.fixture
def searched(said: list[Any], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sweeps whose trials fail as often as the next number says, on a cluster that the test has joined."""
    from trimtab import api
    from trimtab.session import sweep

    failures: list[int] = []

    @contextmanager
    def joined(work: Work, home: Path, address: str | None, capacity: Any) -> Iterator[JoinedRay]:
        said.append(("plan", work.trials, address))
        yield JoinedRay(plan_here(work, MACHINE))

    def run_trials(searcher: Any, broker: Any, folder: Path, at_once: int, where: str, shared: bool) -> int:
        said.append(("search", searcher.left, folder.name, at_once, where, shared))
        return failures.pop(0)

    monkeypatch.setattr(api, "ray_for", joined)
    monkeypatch.setattr(sweep, "run_trials", run_trials)
    monkeypatch.setattr(sweep, "_beside_driver", lambda: "beside the driver")
    return failures


@pytest.mark.parametrize(("failed", "code"), [(0, 0), (5, 0), (6, 1)])
def test_a_sweep_is_a_search_in_a_session(
    searched: list[int], said: list[Any], tmp_path: Path, failed: int, code: int
) -> None:
    searched.append(failed)
    home = tmp_path / "home"
    done = CliRunner().invoke(main, ["sweep", "v05_small", "--set", f"home={home}", "--address", "auto"])
    assert done.exit_code == code, done.output
    assert ("no configuration finished" in done.output) == (code == 1)
    assert f"later: trimtab compare v05_small --home {home}" in done.output
    assert said[0] == ("plan", 6, "auto"), "planned once, before anything else"
    assert said.count(said[0]) == 1
    assert ("search", 6, "v05_small", 2, "beside the driver", True) in said
    assert said[-1] == ("tracked", "failed" if code else "finished", 60.0)
    folder = SweepDir.existing(home, "v05_small")
    assert folder.spec() == load_spec("v05_small", [f"home={home}"])
    assert not (folder.path / "driver.json").exists()


def test_slots_that_all_died_fail_a_sweep_in_which_something_finished(
    searched: list[int], said: list[Any], spec: SweepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trimtab import api
    from trimtab.slots import host

    searched.append(1)
    monkeypatch.setattr(host.Slots, "failed", True)
    result = api.sweep(spec, name="mine")
    assert (result.name, result.status, result.unsent) == ("mine", "failed", [])


def test_a_sweep_is_extended_in_its_folder(searched: list[int], said: list[Any], spec: SweepSpec) -> None:
    from trimtab import api

    searched += [0, 0, 0]
    folder = api.sweep(spec).folder
    said.clear()
    # No trial was asked for above, so all are left.
    assert api.resume("v05_small", folder.home).spec == spec
    assert [event[:2] for event in said if event[0] in ("plan", "search")] == [("plan", 6), ("search", 6)]
    home = ["--home", str(folder.home)]
    done = CliRunner().invoke(main, ["extend", "v05_small", "--trials", "3", *home])
    assert done.exit_code == 0, done.output
    assert folder.spec().search.trials == spec.candidate_trials + 3
    assert ("search", 9, "v05_small", 2, "beside the driver", True) in said


def test_a_confirmation_without_a_test_split_is_refused_before_anything_starts(
    searched: list[int], said: list[Any], tmp_path: Path
) -> None:
    rows = tmp_path / "train.jsonl"
    rows.write_text('{"question": "1+1?", "answer": "2"}\n')
    other = tmp_path / "validation.jsonl"
    other.write_text('{"question": "3+4?", "answer": "7"}\n')
    task = f"trial.task={{name: math, train: {rows}, validation: {other}}}"
    home = tmp_path / "home"
    done = CliRunner().invoke(
        main, ["sweep", "v05_small", "--confirm", "--set", task, "--set", f"home={home}"]
    )
    assert done.exit_code == 2, done.output
    assert "trial.task.test: not set in sweep 'v05_small'" in done.output
    assert said == []
    assert not home.exists()


def test_a_confirmation_that_cannot_begin_leaves_the_sweep_as_it_is(
    searched: list[int], said: list[Any], spec: SweepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trimtab import api
    from trimtab.errors import StorageError
    from trimtab.session import sweep

    create = sweep.create_studies

    def studies(of: SweepSpec, name: str, path: Path) -> Any:
        if of.confirms:
            raise StorageError("storage: is down")
        return create(of, name, path)

    def run_trials(searcher: Any, broker: Any, folder: Path, *_: Any, **__: Any) -> int:
        for number, role in enumerate(("reference", "candidate")):
            config = spec.configs()[number].model_dump(mode="json")
            started = {"role": role, "label": role, "number": number, "seeds": [0], "config": config}
            for event in (
                {"event": "trial_started", **started},
                {"event": "trial_finished", "status": "finished", "score": 0.5, "error": None},
            ):
                journal.append(folder, {"trial": f"trial-{number:04d}", "time": 0.0, **event})
        return 0

    monkeypatch.setattr(sweep, "create_studies", studies)
    monkeypatch.setattr(sweep, "run_trials", run_trials)
    monkeypatch.setattr(sessions, "start_broker", lambda path: "broker")
    with pytest.raises(StorageError, match="is down"):
        api.sweep(spec, confirm=True)
    folder = SweepDir.existing(spec.home, "v05_small")
    assert ends(folder) == ["finished", "finished"]
    assert [found.name for found in SweepDir.all(spec.home)] == ["v05_small"], (
        "the confirmation's name is free"
    )
    assert ("close", 60.0) in said


def test_slots_say_what_each_of_them_waits_for() -> None:
    from trainables.config import EngineConfig, LearnerConfig
    from trimtab.slots.host import Slots, SlotSpec

    told: list[str] = []
    slots = Slots(SlotSpec("m", LearnerConfig(), EngineConfig(), 1.0, 1.0), 2, None, told.append)
    slots._tell("slot-0", "loading vLLM")
    slots._tell("slot-1", "loading vLLM")
    slots._tell("slot-0", "starting DeepSpeed")
    assert told == [
        "loading vLLM in slot-0 (1 of 2)",
        "loading vLLM in slot-0 (1 of 2), loading vLLM in slot-1 (2 of 2)",
        "starting DeepSpeed in slot-0 (1 of 2), loading vLLM in slot-1 (2 of 2)",
    ]
