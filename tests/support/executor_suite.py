"""What every executor must do, as one suite; a subclass gives the `make_executor` fixture."""

import io
import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fake_trials
import pytest

from afp_ray.config import StudyConfig, TrialConfig
from afp_ray.execution import Driver, Executor, StopRequest
from afp_ray.ledger import Ledger, replay
from afp_ray.ledger.state import parse_line
from afp_ray.records import FailureClass, LedgerEvent, StudyState, TrialRecord, TrialStatus
from afp_ray.search import StudySearch
from afp_ray.store import StudyPaths

MakeExecutor = Callable[[StudyConfig], Executor]


def make_study(name: str = "fake", **fields: Any) -> StudyConfig:
    """A study of base and afp at two seeds, with four search trials."""
    return StudyConfig.model_validate(
        {
            "name": name,
            "compare": {"method": ["base", "afp"]},
            "seeds": [1, 2],
            "tune": {"loss.temperature": {"low": 0.01, "high": 0.5, "log": True}, "loss.layer": {"choices": [1, 2]}},
            "budget": {"trials": 4},
            "runtime": {"concurrency": 1} | fields.pop("runtime", {}),
            **fields,
        }
    )


def no_fingerprint(_: TrialConfig) -> dict[str, str]:
    """Fake trials read nothing."""
    return {}


def run(study: StudyConfig, storage: Path, executor: Executor, **options: Any) -> StudyState:
    """Run `study` with fake trials."""
    options = {"measure": lambda result: (fake_trials.objective(result), {}), "run_trial": "fake_trials:run"} | options
    search = options.pop("search", None) or StudySearch(study, no_fingerprint)
    allow_drift = options.pop("allow_drift", False)
    with Ledger.open(StudyPaths(storage, study.name), study, allow_drift=allow_drift) as ledger:
        return Driver(study, ledger, search=search, **options).run(executor)


def num_trainings(storage: Path, study: str = "fake") -> dict[str, int]:
    """How often each trial of a study was really trained."""
    calls = (storage / study / "trials").glob("*/training_calls.jsonl")
    return {path.parent.name: len(path.read_text().splitlines()) for path in calls}


FAILURES = {
    "diverged": (FailureClass.DIVERGED, "diverged at step 7: loss is nan"),
    "bug": (FailureClass.BUG, "ZeroDivisionError: division by zero"),
    "data": (FailureClass.DATA, "corpus.tsv:3: no rows"),
    "oom": (FailureClass.OOM, "OutOfMemoryError: no memory left on the device"),
    "nan": (FailureClass.DIVERGED, "the objective is nan"),
}


def with_failures(*kinds: str, **fields: Any) -> StudyConfig:
    """An arm that is well, and one that fails in each of the ways."""
    rates = [1e-5, *(fake_trials.FAILS[kind] for kind in kinds)]
    return make_study(compare={"training.learning_rate": rates}, tune={}, seeds=[1], **fields)


def by_learning_rate(state: StudyState) -> dict[float, TrialRecord]:
    """The trials of a study that `with_failures` made."""
    return {trial.config["training"]["learning_rate"]: trial for trial in state.trials}


@contextmanager
def captured_log() -> Iterator[io.StringIO]:
    """What this package logs in the block."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    logging.getLogger("afp_ray").addHandler(handler)
    try:
        yield text
    finally:
        logging.getLogger("afp_ray").removeHandler(handler)


@dataclass(frozen=True)
class Finished:
    """A study that has run to its end, and what its listener heard."""

    study: StudyConfig
    storage: Path
    state: StudyState
    events: list[LedgerEvent]
    log: str


class ExecutorSuite:
    """Inherit it, and give a fixture `make_executor` of type `MakeExecutor`.

    On a cluster a study takes seconds to start, so tests that only look share one.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def make_executor(cls) -> MakeExecutor:
        """The executor under test, for a study."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def finished(cls, tmp_path_factory: pytest.TempPathFactory, make_executor: MakeExecutor) -> Finished:
        """A study that ran outside the main thread, two trials at once, with a listener that fails at every event."""
        study, storage = make_study(runtime={"concurrency": 2}), tmp_path_factory.mktemp("finished")
        events: list[LedgerEvent] = []
        states: list[StudyState] = []

        def broken(event: LedgerEvent, state: StudyState) -> None:
            raise ConnectionError("the tracking server is away")

        def in_thread() -> None:
            listeners = [broken, lambda event, _: events.append(event)]
            states.append(run(study, storage, make_executor(study), on_event=listeners))

        with captured_log() as log:
            thread = threading.Thread(target=in_thread)
            thread.start()
            thread.join()
        return Finished(study, storage, states[0], events, log.getvalue())

    @pytest.fixture(scope="class")
    @classmethod
    def failing(cls, tmp_path_factory: pytest.TempPathFactory, make_executor: MakeExecutor) -> Finished:
        """A study whose arms fail in every way that a trial can fail in without its process."""
        study = with_failures(*FAILURES, "preempted_twice", "oom_whole", runtime={"max_retries": 1})
        storage = tmp_path_factory.mktemp("failing")
        return Finished(study, storage, run(study, storage, make_executor(study)), [], "")

    def test_a_study_is_searched_then_confirmed(self, finished: Finished) -> None:
        state = finished.state
        assert state.closed == "complete"
        assert {trial.status for trial in state.trials} == {TrialStatus.DONE}
        searched = [trial for trial in state.trials if trial.role == "search"]
        assert len(searched) == 4
        assert {trial.arm for trial in searched} == {"afp"}
        best = max(searched, key=lambda trial: trial.objective or 0)
        assert best.splits == ("validation", "test")
        assert [trial.splits for trial in searched if trial is not best] == [("validation",)] * 3
        (confirmed,) = [trial for trial in state.trials if trial.arm == "afp" and trial.role == "confirm"]
        assert confirmed.params == best.params
        assert confirmed.seed == 2
        assert confirmed.splits == ("validation", "test")
        (base,) = [trial for trial in state.trials if trial.arm == "base"]
        assert base.seed == 0
        assert set(num_trainings(finished.storage).values()) == {1}

    def test_only_confirmed_checkpoints_stay(self, finished: Finished) -> None:
        paths, trials = StudyPaths(finished.storage, "fake"), finished.state.trials
        kept = {trial.trial_id for trial in trials if paths.trial(trial.trial_id).checkpoint.exists()}
        assert kept == {trial.trial_id for trial in trials if "test" in trial.splits}
        for trial in trials:
            stored = json.loads(paths.trial(trial.trial_id).result.read_text())["checkpoint"]
            assert (stored is not None) == (trial.trial_id in kept)

    def test_every_event_is_told_and_the_ledger_says_the_same(self, finished: Finished) -> None:
        ledger = StudyPaths(finished.storage, "fake").ledger
        lines = ledger.read_text().splitlines()
        assert [LedgerEvent.model_validate(parse_line(line.encode())) for line in lines] == finished.events
        assert replay(ledger) == finished.state

    def test_a_listener_that_raises_stops_nothing(self, finished: Finished) -> None:
        assert finished.state.closed == "complete"
        assert finished.log.count("the tracking server is away") == 1

    def test_a_finished_study_starts_nothing(
        self, finished: Finished, make_executor: MakeExecutor, tmp_path: Path
    ) -> None:
        storage = shutil.copytree(finished.storage, tmp_path / "copy")
        second = run(finished.study, storage, make_executor(finished.study))
        assert second.trials == finished.state.trials
        assert second.driver_attempt == 2
        assert set(num_trainings(storage).values()) == {1}

    def test_failed_trials_are_classified_and_do_not_stop_the_study(
        self, failing: Finished, make_executor: MakeExecutor, tmp_path: Path
    ) -> None:
        assert failing.state.closed == "complete"
        trials = by_learning_rate(failing.state)
        assert trials[1e-5].status is TrialStatus.DONE
        for kind, (expected, message) in FAILURES.items():
            failed = trials[fake_trials.FAILS[kind]]
            assert failed.status is TrialStatus.FAILED
            assert failed.attempt == (2 if kind == "oom" else 1)  # once more at half the micro-batch
            assert failed.failure is not None
            assert (failed.failure.failure_class, failed.failure.message) == (expected, message)
            assert failed.failure.step == (7 if kind == "diverged" else None)
            text = StudyPaths(failing.storage, "fake").trial(failed.trial_id).failure(failed.attempt).read_text()
            assert message.rpartition(": ")[2] in text
        again = run(failing.study, shutil.copytree(failing.storage, tmp_path / "copy"), make_executor(failing.study))
        assert again.trials == failing.state.trials  # a trial that raised would raise again

    def test_a_preempted_trial_is_continued_free_of_charge(self, failing: Finished) -> None:
        preempted = by_learning_rate(failing.state)[fake_trials.FAILS["preempted_twice"]]
        assert failing.study.runtime.max_retries == 1
        assert (preempted.status, preempted.attempt) == (TrialStatus.DONE, 3)

    def test_memory_that_ran_out_is_answered_with_half_the_micro_batch(self, failing: Finished) -> None:
        trials = by_learning_rate(failing.state)
        halved = trials[fake_trials.FAILS["oom_whole"]]
        assert (halved.status, halved.attempt, halved.num_halvings) == (TrialStatus.DONE, 2, 1)
        assert (trials[1e-5].attempt, trials[1e-5].num_halvings) == (1, 0)

    def test_a_request_to_stop_drains_and_the_study_goes_on_later(
        self, tmp_path: Path, make_executor: MakeExecutor
    ) -> None:
        stop = StopRequest()

        def stop_after_two(event: LedgerEvent, state: StudyState) -> None:
            done = sum(trial.status is TrialStatus.DONE for trial in state.trials)
            if done == 2 and not stop.is_requested:
                stop.request("test")

        study = make_study()
        halted = run(study, tmp_path, make_executor(study), stop=stop, on_event=[stop_after_two])
        assert halted.closed == "interrupted: test"
        assert all(trial.status.is_terminal for trial in halted.trials)
        assert len(halted.trials) < 6
        resumed = run(study, tmp_path, make_executor(study))
        assert resumed.closed == "complete"
        assert len(resumed.trials) == 6
        assert set(num_trainings(tmp_path).values()) == {1}

    def test_the_gpu_hour_budget_stops_new_trials(self, tmp_path: Path, make_executor: MakeExecutor) -> None:
        study = make_study(budget={"trials": 4, "gpu_hours": 0.9})  # a fake trial costs half an hour
        state = run(study, tmp_path, make_executor(study))
        assert state.closed is not None
        assert state.closed.startswith("budget: gpu_hours: 1")
        assert 2 <= len(state.trials) <= 3
        assert all(trial.status.is_terminal for trial in state.trials)

    def test_a_sibling_study_lends_its_results(self, tmp_path: Path, make_executor: MakeExecutor) -> None:
        first = make_study("first", tune={}, runtime={"keep_checkpoints": "all"})
        run(first, tmp_path, make_executor(first))
        second = make_study("second", tune={})
        state = run(second, tmp_path, make_executor(second))
        assert {trial.note for trial in state.trials} == {"adopted from first"}
        assert num_trainings(tmp_path, "second") == {}
        for trial in state.trials:
            paths = StudyPaths(tmp_path, "second").trial(trial.trial_id)
            assert (paths.checkpoint / "model.safetensors").read_text() == trial.trial_id
