"""The command line: exit codes, messages, and what it must not import."""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner
from services import answers
from speed import patience, wait_until

from trimtab.cli.main import WORK, main
from trimtab.planning.doctor import diagnose
from trimtab.sweepdir.folder import SweepDir
from trimtab.sweepspec.spec import SweepSpec
from trimtab.tracking.tracker import Tracker
from trimtab.watch.ui import command

HEAVY = ("torch", "vllm", "deepspeed", "transformers")
LATER = ("ray", "optuna", "mlflow", "rich", "pydantic", "numpy", "scipy")


def trimtab(*arguments: str):
    return CliRunner().invoke(main, list(arguments))


def imported_by(code: str) -> set[str]:
    probe = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_help_answers_in_under_a_second() -> None:
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "trimtab", "--help"], capture_output=True, check=False)
        seconds.append(time.perf_counter() - begun)
        assert done.returncode == 0
    # The best of three: other programs on the machine are not what is tested.
    assert min(seconds) < patience(1.0)


def test_the_command_line_loads_nothing_heavy() -> None:
    assert not imported_by("import trimtab.cli.main").intersection(HEAVY + LATER)


@pytest.mark.parametrize(
    "module",
    [
        "sweepspec.spec",
        "sweepspec.space.suggest",
        "sweepspec.template",
        "sweepdir.driver",
        "sweepdir.folder",
        "tracking.tracker",
        "planning.plan",
        "planning.doctor",
        "watch.progress",
        "watch.ui",
        "remote.clusters",
        "session.session",
        "decide.compare.table",
        "decide.train",
        "api",
    ],
)
def test_no_module_of_the_platform_loads_torch_or_ray_when_imported(module: str) -> None:
    loaded = imported_by(f"import trimtab.{module}")
    assert not loaded.intersection((*HEAVY, "ray", "mlflow", "optuna"))


def test_plan_prints_and_starts_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    done = trimtab("plan", "v05_small", "--set", f"home={home}", "--cpus", "2", "--memory-gb", "16")
    assert done.exit_code == 0, done.output
    assert "138,240" in done.output
    assert not home.exists()


@pytest.mark.parametrize("number", ["nan", "inf", "-1", "0", "two"])
@pytest.mark.parametrize("option", ["--cpus", "--memory-gb", "--gpu-memory-gb", "--nodes", "--gpus"])
def test_a_size_is_a_number_above_zero(option: str, number: str) -> None:
    if (option, number) == ("--gpus", "0"):
        return
    done = trimtab("plan", "v05_small", option, number)
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)
    assert option in done.output
    assert number in done.output


def test_a_plan_as_json_has_the_tables_numbers() -> None:
    done = trimtab("plan", "v05_small", "--json", "--nodes", "2", "--cpus", "2", "--memory-gb", "16")
    numbers = json.loads(done.output)
    assert (numbers["trials"], numbers["runs"], numbers["rollouts"], numbers["slots"]) == (6, 18, 138240, 4)
    assert (
        numbers["places"]
        == ["node 0: 1 learner worker, 1 engine"] * 2 + ["node 1: 1 learner worker, 1 engine"] * 2
    )


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("trial.lerner.lr=1", "did you mean 'learner'"),
        ("reference.strategy.group_size=1", "reference.strategy.group_size"),
        ("candidates.0.strategy={preset: v05, group_size: 8, k_max: 4}", "k_max"),
        ("candidates.0.search.alpha={float: [0, 1]}", "candidates.0.search.alpha"),
        ("trial.model=/no/such/model", "does not exist"),
        ("slots.memory_gb=4000", "4000.0 GB"),
    ],
)
@pytest.mark.parametrize("what", ["plan", "sweep"])
def test_bad_input_is_one_message_and_exit_code_two(
    tmp_path: Path, what: str, override: str, part: str
) -> None:
    home = tmp_path / "home"
    overrides = ["--set", f"home={home}", "--set", override]
    if "k_max" in override:
        overrides += ["--set", "candidates.0.search={}"]
    done = trimtab(what, "v05_small", *overrides)
    assert done.exit_code == 2, done.output
    assert part in done.output
    assert "Traceback" not in done.output
    assert done.output.startswith("Error: ")
    assert not home.exists(), "nothing is started"


def test_a_sweep_name_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sweeps" / "mine").mkdir(parents=True)
    (tmp_path / "sweeps" / "mine" / "spec.yaml").touch()
    done = trimtab("sweep", "v05_small", "--name", "mine", "--set", f"home={tmp_path}")
    assert done.exit_code == 2
    assert "in use" in done.output
    assert "trimtab resume mine" in done.output


def test_init_writes_a_spec_that_passes_plan(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    assert trimtab("init", str(file)).exit_code == 0
    assert sum("#" in line for line in file.read_text().splitlines()) > 20
    done = trimtab("plan", str(file), "--cpus", "2", "--memory-gb", "16")
    assert done.exit_code == 0, done.output
    assert "mine" in done.output
    assert trimtab("init", str(file)).exit_code == 2


def test_compare_reads_the_store_of_the_home(journal, store_uri, tmp_path: Path) -> None:
    home = tmp_path / "home"
    journal.start("ref", 0)
    journal.run("ref", 0, [0.5, 0.6, 0.7])
    journal.finish("ref")
    tracker = Tracker(journal.folder, store_uri, "v05_small", journal.spec)
    tracker.start()
    tracker.close("finished")
    done = trimtab("compare", "v05_small", "--home", str(home))
    assert done.exit_code == 0, done.output
    assert "search only: not confirmed" in done.output
    numbers = json.loads(trimtab("compare", "v05_small", "--home", str(home), "--json").output)
    assert numbers["level"] == pytest.approx(0.6)
    assert trimtab("compare", "other", "--home", str(home)).exit_code == 2


def test_stop_of_what_does_not_run(tmp_path: Path) -> None:
    done = trimtab("stop", "v05_small", "--home", str(tmp_path))
    assert done.exit_code == 2
    assert "no sweep named 'v05_small'" in done.output


def test_ui_needs_a_store_and_serves_on_loopback_only(tmp_path: Path) -> None:
    done = trimtab("ui", "--home", str(tmp_path))
    assert done.exit_code == 2
    assert "no tracking store" in done.output
    line = command("sqlite:////data/mlflow.db", 5001)
    assert line[line.index("--host") + 1] == "127.0.0.1"
    assert line[line.index("--artifacts-destination") + 1] == "/data/artifacts"


@pytest.mark.slow
def test_ui_answers_and_leaves_nothing_behind(store_uri, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    line = [sys.executable, "-m", "trimtab", "ui", "--home", str(tmp_path / "home"), "--port", str(port)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(f"MLflow UI: http://127.0.0.1:{port}")
        url = f"http://127.0.0.1:{port}/health"
        wait_until(lambda: answers(url), 120)
    finally:
        process.terminate()
        assert process.wait(timeout=patience(30)) == 0
    assert not answers(url)


def test_doctor_has_one_line_a_check(tmp_path: Path) -> None:
    done = trimtab("doctor", "--home", str(tmp_path))
    names = ["python", "packages", "tested set", "gpus", "vllm", "ray", "mlflow", "memory", "disk"]
    lines = done.output.splitlines()
    assert [line[6:].strip().split("  ")[0] for line in lines] == [*names, "torch extensions"]
    assert done.exit_code == (1 if any(line.startswith("red") for line in lines) else 0)


def test_doctor_finds_a_stale_build_lock(tmp_path: Path) -> None:
    lock = tmp_path / "torch_extensions" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    fresh = diagnose(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")[-1]
    assert fresh.state == "ok"
    os.utime(lock, (0, 0))
    stale = diagnose(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")[-1]
    assert stale.state == "red"
    assert stale.fix == f"rm {lock}"
    done = trimtab("doctor", "--home", str(tmp_path))
    assert done.exit_code == 1
    assert str(lock) in done.output


def test_version() -> None:
    assert metadata.version("trimtab") in trimtab("--version").output


def test_a_full_disk_is_one_message(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(b"x" * shutil.disk_usage(small_disk).free)
    done = trimtab("init", str(small_disk / "spec.yaml"))
    assert done.exit_code == 2
    assert "cannot be written (No space left" in done.stderr
    assert not (small_disk / "spec.yaml").exists()
    done = trimtab("sweep", "v05_small", "--set", f"home={small_disk}")
    assert done.exit_code == 2
    assert "the disk is full; free space, or set home to a larger disk" in done.stderr


def test_help_lists_every_command_in_the_order_of_work() -> None:
    listed = [name for names in WORK.values() for name in names]
    assert sorted(listed) == sorted(main.commands)
    done = CliRunner().invoke(main, ["--help"])
    shown = [line.split()[0] for line in done.output.splitlines() if line.startswith("  ") and line.split()]
    assert [name for name in shown if name in listed] == listed
    assert list(WORK)[:4] == ["Make a sweep", "Run it", "Judge it", "Ship it"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("plan", "quikstart"), "did you mean 'quickstart'? shipped are across_axes, "),
        (("plan", "elsewhere/quikstart.yaml"), "did you mean 'quickstart'?"),
        (("status", "smal"), "did you mean 'small'? sweeps there: small"),
        (("compare", "smal"), "did you mean 'small'? sweeps there: recorded, small"),
        (("compare", "small", "recordd"), "did you mean 'recorded'? sweeps there: recorded, small"),
        (("report", "smal"), "did you mean 'small'? sweeps there: recorded, small"),
        (("promote", "smal"), "did you mean 'small'? sweeps there: recorded, small"),
        (("rollback", "champ"), "did you mean 'champs'? models there: champs"),
    ],
)
def test_an_unknown_name_is_answered_without_loading_mlflow(
    command: tuple[str, ...], message: str, tmp_path: Path, spec: SweepSpec
) -> None:
    home = tmp_path / "home"
    SweepDir.create(home, "small").write_spec(spec)
    with closing(sqlite3.connect(home / "mlflow.db")) as store:
        store.execute("CREATE TABLE tags (key TEXT, value TEXT)")
        store.execute("INSERT INTO tags VALUES ('trimtab.sweep', 'recorded')")
        store.execute("CREATE TABLE registered_models (name TEXT)")
        store.execute("INSERT INTO registered_models VALUES ('champs')")
        store.commit()
    where = [] if command[0] == "plan" else ["--home", str(home)]
    code = (
        "import sys\nfrom trimtab.cli.main import main\n"
        f"main({[*command, *where]!r}, standalone_mode=False)\nprint('mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert message in done.stderr
    assert done.stdout.strip() == "False"
