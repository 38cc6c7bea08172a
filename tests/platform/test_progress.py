"""Live progress from the journal."""

import io
import threading

import pytest
from rich.console import Console
from speed import patience

from trimtab.sweepdir.journal import Tail
from trimtab.watch import progress
from trimtab.watch.progress import Progress, SweepProgress, clock, render

CURVE = [0.5, 0.6, 0.7]


def shown(state: SweepProgress, rows: int | None = None) -> str:
    console = Console(width=140, file=io.StringIO())
    with console.capture() as text:
        console.print(render("v05_small", state, 65.0, rows))
    return text.get()


def test_rows_show_where_each_trial_is(journal, spec) -> None:
    state = SweepProgress(spec, 6)
    assert "starting" in shown(state)
    journal.start("ref", 0)
    for seed in (0, 1, 2):
        journal.run("ref", seed, CURVE)
    journal.finish("ref")
    journal.start("new", 1)
    journal.run("new", 0, CURVE)
    journal.run("new", 1, [0.55, 0.7], status=None)
    state.feed(Tail(journal.folder).read())
    trial = state.trials["new"]
    assert (trial.position, trial.accuracy, trial.rollouts) == (2, 0.7, 2560 + 1280)
    assert state.minus_reference(trial) == pytest.approx(0.1)
    # Seed 0 ended level with the reference, seed 1 is .1 above it so far.
    assert state.mean_minus_reference(trial) == (pytest.approx(0.05), 2)
    assert state.rollouts == 3 * 2560 + 3840
    assert state.ended == 1
    text = shown(state)
    for part in (
        "1 v05-1",
        "training",
        "2/3",
        "0.700",
        "+0.100",
        "+0.050 of 2",
        "3,840/23,040",
        "1 of 6",
        "1:05",
        "left",
    ):
        assert part in text


def test_a_reference_that_ended_early_stands_for_the_rest_of_its_budget(journal, spec) -> None:
    state = SweepProgress(spec, 2)
    journal.start("ref", 0)
    journal.run("ref", 0, CURVE[:2], status=None)
    journal.start("new", 1)
    journal.run("new", 0, CURVE, status=None)
    tail = Tail(journal.folder)
    state.feed(tail.read())
    assert state.minus_reference(state.trials["new"]) is None, "it may still go on"
    journal.event("ref", "run_finished", seed=0, status="finished", error=None, checkpoint=None)
    state.feed(tail.read())
    assert state.minus_reference(state.trials["new"]) == pytest.approx(CURVE[2] - CURVE[1])


def test_no_reference_yet_no_difference(journal, spec) -> None:
    state = SweepProgress(spec, 6)
    journal.start("new", 1)
    journal.run("new", 0, CURVE)
    state.feed(Tail(journal.folder).read())
    assert state.minus_reference(state.trials["new"]) is None


def test_the_rest_of_a_stopped_trial_is_not_waited_for(journal, spec) -> None:
    state = SweepProgress(spec, 1)
    journal.start("ref", 0)
    journal.run("ref", 0, CURVE, status="stopped")
    journal.finish("ref", "stopped")
    state.feed(Tail(journal.folder).read())
    assert state.eta_s() == 0


def test_plain_lines_without_a_terminal(journal, spec) -> None:
    out = io.StringIO()
    progress = Progress(journal.folder, spec, 2, Console(file=out, width=60))
    progress.start()
    journal.start("ref", 0)
    journal.run("ref", 0, CURVE)
    journal.finish("ref", "failed", "boom\nmore")
    progress.close()
    lines = out.getvalue().splitlines()
    assert lines[0] == "v05_small: starting"
    assert sum("accuracy" in line for line in lines) == len(CURVE)
    assert "0 dapo seed 0 (1/3): accuracy 0.700 after 2,560 of 7,680 rollouts" in lines
    assert lines[-1] == "0 dapo: failed: boom (1 of 2)"
    assert len(lines) == len(CURVE) + 3


def test_a_table_on_a_terminal(journal, spec) -> None:
    out = io.StringIO()
    progress = Progress(journal.folder, spec, 2, Console(file=out, width=120, force_terminal=True))
    progress.start()
    journal.start("ref", 0)
    journal.run("ref", 0, CURVE, status=None)
    progress.close()
    assert "0 dapo" in out.getvalue()
    assert "2,560/23,040" in out.getvalue()


def test_a_sweep_of_more_trials_than_lines_shows_what_is_under_way(journal, spec) -> None:
    state = SweepProgress(spec, 300)
    for number in range(200):
        journal.start(f"t{number}", number)
        if number not in (3, 199):
            journal.finish(f"t{number}")
    state.feed(Tail(journal.folder).read())
    text = shown(state, rows=4)
    assert [line.split()[0] for line in text.splitlines() if "v05-" in line] == ["3", "197", "198", "199"]
    assert "198 of 300" in text
    assert "196 not shown" in text
    assert shown(state).count("v05-") == 199, "all but the reference"


def test_a_terminal_is_not_drawn_beyond_its_height_before_the_end(journal, spec, monkeypatch) -> None:
    for number in range(200):
        journal.start(f"t{number}", number)
    asked: list[int | None] = []
    drawn = threading.Event()

    def watched(name, state, elapsed_s, rows, doing):
        asked.append(rows)
        drawn.set()
        return render(name, state, elapsed_s, rows, doing)

    monkeypatch.setattr(progress, "render", watched)
    out = Console(file=io.StringIO(), width=120, height=30, force_terminal=True)
    display = Progress(journal.folder, spec, 200, out)
    display.start()
    assert drawn.wait(patience(60))
    display.close()
    assert set(asked[:-1]) == {30 - progress.AROUND}
    assert asked[-1] is None, "the picture that stays is whole"


def test_clock() -> None:
    assert [clock(value) for value in (5, 65, 3723)] == ["0:05", "1:05", "1:02:03"]


def test_no_silence_before_the_first_result(journal, spec, monkeypatch) -> None:
    """What is being done is said again and again: Ray, the slots, what the trials wait for."""
    monkeypatch.setattr(progress, "SILENT_S", 0.0)
    monkeypatch.setattr(progress, "POLL_S", 0.001)

    class Lines(io.StringIO):
        def write(self, text: str) -> int:
            for words, seen in said.items():
                if words in text:
                    seen.set()
            return super().write(text)

    said = {
        words: threading.Event() for words in ("starting Ray ·", "loading ·", "resetting ·", "after 0 of")
    }
    display = Progress(journal.folder, spec, 2, Console(file=Lines(), width=200))
    display.start()
    display.say("starting Ray")
    assert said["starting Ray ·"].wait(patience(60))
    journal.start("ref", 0)
    journal.event("ref", "stage", seed=None, stage="waiting")
    display.say("loading")
    assert said["loading ·"].wait(patience(60)), "while all trials wait, what the slots do"
    journal.event("ref", "stage", seed=0, stage="resetting")
    assert said["resetting ·"].wait(patience(60))
    journal.point("ref", 0, 0, 0.5)
    assert said["after 0 of"].wait(patience(60))
    display.close()


def test_a_learned_prior_that_never_acted_is_said_to_have_been_warm_up(journal, spec) -> None:
    state = SweepProgress(spec, 2)
    config = spec.trial.with_strategy({"preset": "poise", "warmup_updates": 20}).model_dump(mode="json")
    for number, curve in enumerate((CURVE, [*CURVE, 0.7, 0.8])):
        key = f"poise-{number}"
        journal.event(
            key, "trial_started", role="candidate", number=number, label="poise(k=2)", config=config,
            searched={}, seeds=[0],
        )  # fmt: skip
        journal.run(key, 0, curve)
        journal.finish(key)
    lines = state.feed(Tail(journal.folder).read())
    never = "its prior never acted; read it as a run trained by rloo alone"
    assert f"0 poise(k=2): finished: {never} (1 of 2)" in lines
    assert "1 poise(k=2): finished (2 of 2)" in lines
    text = shown(state)
    assert "0 poise(k=2) (100% warm-up)" in text
    assert "1 poise(k=2) (50% warm-up)" in text


def simulated(spec, trials: int, seeds: int, startup_s: float, step_s: float, slots: int = 2):
    """The events of a sweep in order of time: runs of 60 steps with resets and evaluations, on slots."""
    free, events = [startup_s] * slots, []
    for number in range(trials):
        at = {"event": "trial_started", "trial": f"t{number}", "time": 0.0 if number < slots else min(free)}
        events.append({**at, "number": number, "role": "reference" if not number else "candidate",
                       "label": "x", "seeds": list(range(seeds))})  # fmt: skip
        slot, at_s = free.index(min(free)), min(free)
        for seed in range(seeds):
            own = {"trial": f"t{number}", "seed": seed}
            events.append({**own, "event": "stage", "stage": "resetting", "time": at_s})
            at_s += 3
            for step in range(61):
                spent = {"step": step, "rollouts": 128 * step}
                if step:
                    at_s += step_s
                    events.append({**own, "event": "step", "time": at_s, **spent})
                if step % 10 == 0:
                    at_s += 4
                    metrics = {"accuracy": 0.5}
                    events.append({**own, "event": "evaluation", "time": at_s, "metrics": metrics, **spent})
            at_s += 1
            events.append({**own, "event": "run_finished", "status": "finished", "time": at_s})
        events.append({"trial": f"t{number}", "event": "trial_finished", "status": "finished", "time": at_s})
        free[slot] = at_s
    return sorted(events, key=lambda event: event["time"])


@pytest.mark.parametrize(("trials", "seeds"), [(6, 3), (2, 1), (3, 1), (5, 2)])
@pytest.mark.parametrize("startup_s", [5.0, 240.0])
def test_the_time_left_is_within_a_factor_of_two_from_the_first_evaluation_on(
    spec, trials, seeds, startup_s
) -> None:
    spec = spec.model_copy(update={"seeds": tuple(range(seeds))})
    state, told = SweepProgress(spec, trials), []
    events = simulated(spec, trials, seeds, startup_s, step_s=0.8)
    end_s = events[-1]["time"]
    for event in events:
        state.feed([event])
        left_s = state.eta_s()
        if event["event"] == "evaluation" and event["step"]:
            told.append((left_s, end_s - event["time"]))
    assert told
    for left_s, true_s in told:
        assert true_s / 2 - 10 < left_s < 2 * true_s + 10
    assert state.eta_s() == 0


def test_a_killed_trial_is_open_and_a_resumed_sweep_does_not_say_killed(journal, spec) -> None:
    journal.start("ref", 0)
    journal.run("ref", 0, CURVE)
    journal.start("new", 1)
    journal.run("new", 0, CURVE[:2], status=None)
    journal.finish("ref")
    journal.finish("new", "killed")
    state = SweepProgress(spec, 2)
    state.feed(Tail(journal.folder).read())
    assert (state.ended, state.trials["new"].stage) == (1, "killed")
    out = io.StringIO()
    display = Progress(journal.folder, spec, 2, Console(file=out, width=100))
    display.start()
    journal.start("new", 1)
    journal.run("new", 0, CURVE[2:])
    journal.finish("new")
    display.close()
    lines = out.getvalue().splitlines()
    assert "killed" not in out.getvalue()
    assert lines[1:] == [
        "1 v05-1: resumed",
        "1 v05-1 seed 0 (1/3): accuracy 0.700 (+0.200 to dapo) after 0 of 7,680 rollouts",
        "1 v05-1: finished (2 of 2)",
    ]


def test_a_table_in_which_all_wait_says_for_what(journal, spec) -> None:
    state = SweepProgress(spec, 2)
    journal.start("ref", 0)
    journal.event("ref", "stage", seed=None, stage="waiting")
    state.feed(Tail(journal.folder).read())
    console = Console(width=140, file=io.StringIO())
    with console.capture() as text:
        console.print(render("v05_small", state, 5.0, doing="loading vLLM in slot-0 (1 of 2)"))
    assert "loading vLLM in slot-0 (1 of 2)" in text.get()
