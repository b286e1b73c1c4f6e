"""What is seen of a study that runs: one line an event, or a table that keeps its arms; and that it is stopping."""

import re
import time
from pathlib import Path

import pytest
from fabricate import event, fabricate, leave_running, make_config, make_study
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from afp_ray.execution.stop import StopRequest
from afp_ray.ledger import Ledger, replay
from afp_ray.records import LedgerEvent, StudyState, TrialStatus
from afp_ray.reporter import PartReporter
from afp_ray.store import StudyPaths
from services.cli import main
from services.schemas import ArmStatus, RunningTrial, StudyStatus
from services.views.live import LineProgress, StopWatch, stopping_line
from services.views.live_table import drawing

METRICS = {
    "contrastive_loss": 3.3125,
    "instruction_loss": 2.0944,
    "gradient_norm": 12.5,
    "tokens_per_s": 54321.0,
}


def status(*, num_running: int = 2, arm: str = "afp") -> StudyStatus:
    trial = RunningTrial(
        trial_id="0123456789abcdef", arm=arm, seed=2, attempt=1, stage="train", done=61, total=100,
        metrics=METRICS, seconds=75.0, left_s=46.0,
    )  # fmt: skip
    return StudyStatus(
        name="demo", state="running", trials=6, expected=17,
        counts={**dict.fromkeys(map(str, TrialStatus), 0), "DONE": 4},
        arms=(ArmStatus(arm="base", done=1, best_objective=0.4719), ArmStatus(arm="mit", done=3, best_objective=0.5128),
              ArmStatus(arm=arm, running=num_running)),
        running=(trial,) * num_running, objective="mean", direction="maximize", best_objective=0.5128, best_arm="mit",
        folder="runs/demo",
    )  # fmt: skip


def drawn(shown: StudyStatus, width: int, height: int = 24) -> list[str]:
    console = Console(width=width, height=height, force_terminal=False)
    with console.capture() as capture:
        last = Text("stopping: 2 trials to finish, about 0:08; Ctrl-C again stops now", overflow="fold")
        console.print(drawing(shown, clocks="1:23   eta 4:01", last=last, report="runs/r.html", size=(width, height)))
    return capture.get().splitlines()


@pytest.mark.parametrize("width", [60, 80, 100, 140])
@pytest.mark.parametrize("arm", ["afp", "data.num_instructions=80,method=mit_nfold", "跨语言对齐"])
def test_the_table_names_its_losses_and_keeps_arms_that_are_over(width: int, arm: str) -> None:
    lines = drawn(status(arm=arm), width)
    text = "\n".join(lines)
    assert all(cell_len(line.rstrip()) <= width for line in lines)
    assert "…" not in text
    assert lines[0].startswith("demo  4 of 17 done  2 running")
    (head,) = [line for line in lines if "contrastive" in line]
    (first, _) = [line for line in lines if "3.31" in line]
    for name, value in (("contrastive", "3.31"), ("instruction", "2.09")):
        assert cell_len(head.partition(name)[0] + name) == cell_len(first.partition(value)[0] + value)
    assert re.search(r"base +1 +0 +0 +0\.4719", text) and re.search(r"mit +3 +0 +0 +0\.5128", text)
    assert "61 %" in first and "0:46" in first
    assert "tracking in sync" in text and "report runs/r.html" in text.replace("\n", " ")
    assert "stopping: 2 trials to finish" in text
    assert ("gradient norm" in text and "54321" in text) == (width >= 128)  # a wide terminal shows more
    assert ("█" in text) == (width >= 100)


def test_what_does_not_fit_in_height_is_counted() -> None:
    lines = drawn(status(num_running=30), 80, height=16)
    assert len(lines) <= 16
    assert any(re.fullmatch(r"and \d+ more that run", line.strip()) for line in lines)


def play(progress: LineProgress, events: list[tuple[LedgerEvent, StudyState]]) -> None:
    for told, state in events:
        progress(told, state)


def test_a_start_is_one_line_and_counts_are_of_the_whole_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_study()
    paths = StudyPaths(tmp_path, study.name)
    ledger, events = Ledger.open(paths, study, num_trials=17), []
    events.append((ledger.last_event, ledger.state))
    config = make_config(study, "afp", 0)
    common = {"trial_id": "0123456789abcdef", "arm": "afp", "seed": 0, "role": "confirm"}
    for state, fields in (
        (TrialStatus.PLANNED, {"config": config.model_dump(mode="json"), "note": "its result was altered"}),
        (TrialStatus.RUNNING, {}),
        (TrialStatus.DONE, {"objective": 0.5, "splits": ("validation", "test")}),
    ):
        event(ledger, state, time.time(), **common, **fields)
        events.append((ledger.last_event, ledger.state))
    play(LineProgress(as_json=False), events)
    opened, running, done = capsys.readouterr().out.splitlines()
    assert "OPENED" in opened and "17 trials; search: " in opened and "confirm: " in opened
    assert "RUNNING   01234567  afp seed 0  confirm" in running
    assert running.endswith("its result was altered  [0 of 17 done]")
    assert "DONE" in done and "objective 0.5000" in done and "[1 of 17 done]" in done
    play(LineProgress(as_json=True), events)
    assert len(capsys.readouterr().out.splitlines()) == 4  # programs get every event
    ledger.release()
    assert main(["status", study.name, "--storage", str(tmp_path)]) == 0
    assert "demo  dead  1 of 17 done" in capsys.readouterr().out
    with Ledger.open(paths, study, num_trials=17) as again:
        again.close("complete")  # fewer came than might have
    assert main(["status", "--storage", str(tmp_path)]) == 0
    assert "1 of 1 done" in capsys.readouterr().out


def test_a_ledger_of_before_counts_what_it_planned(tmp_path: Path) -> None:
    paths = fabricate(tmp_path, closed=None)
    state = replay(paths.ledger)
    assert (state.num_trials, state.expected) == (None, len(state.trials))


def test_a_stop_is_answered_at_once_and_says_how_long_it_takes(tmp_path: Path) -> None:
    paths = fabricate(tmp_path, closed=None, with_failure=False)
    leave_running(paths)
    state = replay(paths.ledger)
    stop, told = StopRequest(), []
    with StopWatch(stop, lambda line: told.append((time.monotonic(), line)), lambda: state):
        time.sleep(0.2)
        assert told == []
        asked = time.monotonic()
        stop.request("SIGINT")
        while not told and time.monotonic() < asked + 5:
            time.sleep(0.01)
        (at, line), *rest = told
        assert at - asked < 1 and rest == []
        # It has run for years, longer than the four seconds of those before it.
        assert line == "stopping: 1 trial to finish, about 0:01; Ctrl-C again stops now"
        stop.request("SIGINT")
    assert [line for _, line in told][1:] == ["stopping now: what runs is cut off, and what has finished is saved"]


def test_another_who_asks_is_named() -> None:
    stop = StopRequest()
    stop.request("afp stop")
    state = StudyState(name="demo")
    assert stopping_line(stop, state) == "stopping: no trial runs, saving"


def test_parts_of_a_stage_never_go_back() -> None:
    class Recorder:
        shares: list[float] = []

        def report(self, stage: str, done: int, total: int, metrics: object = None) -> None:
            self.shares.append(done / total)

    recorder = Recorder()
    for part in range(2):
        reporter = PartReporter(recorder, part, 2)  # type: ignore[arg-type]
        for done in range(5):
            reporter.report("evaluate", done, 4)
    assert recorder.shares == sorted(recorder.shares)
    assert (recorder.shares[0], recorder.shares[-1]) == (0.0, 1.0)
