"""What every executor must do, as one suite; a subclass gives the `executor` fixture."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_trials
import pytest

from afp_ray.config import StudyConfig, TrialConfig
from afp_ray.execution import Driver, Executor, StopRequest
from afp_ray.ledger import Ledger, replay
from afp_ray.ledger.state import parse_line
from afp_ray.records import FailureClass, LedgerEvent, StudyState, TrialStatus
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


class ExecutorSuite:
    """Inherit it, and give a fixture `make_executor` of type `MakeExecutor`."""

    @pytest.fixture
    def make_executor(self) -> MakeExecutor:
        """The executor under test, for a study."""
        raise NotImplementedError

    def test_a_study_is_searched_then_confirmed(self, tmp_path: Path, make_executor: MakeExecutor) -> None:
        study = make_study(runtime={"concurrency": 2})
        state = run(study, tmp_path, make_executor(study))
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
        assert set(num_trainings(tmp_path).values()) == {1}

    def test_only_confirmed_checkpoints_stay(self, tmp_path: Path, make_executor: MakeExecutor) -> None:
        study = make_study()
        state = run(study, tmp_path, make_executor(study))
        paths = StudyPaths(tmp_path, "fake")
        kept = {trial.trial_id for trial in state.trials if paths.trial(trial.trial_id).checkpoint.exists()}
        assert kept == {trial.trial_id for trial in state.trials if "test" in trial.splits}
        for trial in state.trials:
            stored = json.loads(paths.trial(trial.trial_id).result.read_text())["checkpoint"]
            assert (stored is not None) == (trial.trial_id in kept)

    def test_every_event_is_told_and_the_ledger_says_the_same(
        self, tmp_path: Path, make_executor: MakeExecutor
    ) -> None:
        events: list[LedgerEvent] = []
        study = make_study()
        state = run(study, tmp_path, make_executor(study), on_event=[lambda event, _: events.append(event)])
        lines = (tmp_path / "fake" / "ledger.jsonl").read_text().splitlines()
        assert [LedgerEvent.model_validate(parse_line(line.encode())) for line in lines] == events
        assert replay(tmp_path / "fake" / "ledger.jsonl") == state

    def test_a_listener_that_raises_stops_nothing(
        self, tmp_path: Path, make_executor: MakeExecutor, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(event: LedgerEvent, state: StudyState) -> None:
            raise ConnectionError("the tracking server is away")

        study = make_study(tune={})
        assert run(study, tmp_path, make_executor(study), on_event=[broken]).closed == "complete"
        assert caplog.text.count("the tracking server is away") == 1

    def test_failed_trials_are_classified_and_do_not_stop_the_study(
        self, tmp_path: Path, make_executor: MakeExecutor
    ) -> None:
        study = with_failures(*FAILURES)
        state = run(study, tmp_path, make_executor(study))
        assert state.closed == "complete"
        trials = {trial.config["training"]["learning_rate"]: trial for trial in state.trials}
        assert trials.pop(1e-5).status is TrialStatus.DONE
        for kind, (expected, message) in FAILURES.items():
            failed = trials[fake_trials.FAILS[kind]]
            assert failed.status is TrialStatus.FAILED
            assert failed.attempt == (2 if kind == "oom" else 1)  # once more at half the micro-batch
            assert failed.failure is not None
            assert (failed.failure.failure_class, failed.failure.message) == (expected, message)
            assert failed.failure.step == (7 if kind == "diverged" else None)
            text = StudyPaths(tmp_path, "fake").trial(failed.trial_id).failure(failed.attempt).read_text()
            assert message.rpartition(": ")[2] in text
        again = run(study, tmp_path, make_executor(study))
        assert again.trials == state.trials  # a trial that raised would raise again

    def test_a_preempted_trial_is_continued_free_of_charge(self, tmp_path: Path, make_executor: MakeExecutor) -> None:
        study = with_failures("preempted_once", runtime={"max_retries": 0})
        state = run(study, tmp_path, make_executor(study))
        assert {trial.status for trial in state.trials} == {TrialStatus.DONE}
        assert sorted(trial.attempt for trial in state.trials) == [1, 2]

    def test_memory_that_ran_out_is_answered_with_half_the_micro_batch(
        self, tmp_path: Path, make_executor: MakeExecutor
    ) -> None:
        study = with_failures("oom_whole")
        state = run(study, tmp_path, make_executor(study))
        assert {trial.status for trial in state.trials} == {TrialStatus.DONE}
        assert {(trial.attempt, trial.num_halvings) for trial in state.trials} == {(1, 0), (2, 1)}

    def test_a_finished_study_starts_nothing(self, tmp_path: Path, make_executor: MakeExecutor) -> None:
        study = make_study()
        first = run(study, tmp_path, make_executor(study))
        second = run(study, tmp_path, make_executor(study))
        assert second.trials == first.trials
        assert second.driver_attempt == 2
        assert set(num_trainings(tmp_path).values()) == {1}

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

    def test_it_runs_outside_the_main_thread(self, tmp_path: Path, make_executor: MakeExecutor) -> None:
        study = make_study(tune={})
        states: list[StudyState] = []
        thread = threading.Thread(target=lambda: states.append(run(study, tmp_path, make_executor(study))))
        thread.start()
        thread.join()
        assert states[0].closed == "complete"
