"""The ledger: torn tails, one writer, replay, and a study that has changed."""

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_events import event

from afp_ray.config import StudyConfig
from afp_ray.errors import DataError, StudyChangedError, StudyLockedError
from afp_ray.ledger import Ledger, holder, replay, study_hash
from afp_ray.ledger.agreement import package_versions
from afp_ray.records import Failure, FailureClass, LedgerEvent, StudyState, TrialStatus
from afp_ray.store import StudyPaths

STUDY = StudyConfig(name="s", fixed={"training.max_steps": 10}, seeds=(1, 2))


def write(paths: StudyPaths, *events: LedgerEvent) -> StudyState:
    with Ledger.open(paths) as ledger:
        for one in events:
            ledger.append(one)
        return ledger.state


def test_a_line_torn_at_any_byte_loses_that_event_alone(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path, "s")
    before = write(paths, event("PLANNED"), event("RUNNING"))
    whole = paths.ledger.read_bytes()
    last = event("DONE", objective=0.5, splits=("validation",)).model_dump_json().encode() + b"\n"
    for cut in range(len(last)):
        paths.ledger.write_bytes(whole + last[:cut])
        assert replay(paths.ledger) == before
        with Ledger.open(paths) as ledger:
            assert ledger.state.trials == before.trials
        assert paths.ledger.read_bytes().startswith(whole)
        assert all(json.loads(line) for line in paths.ledger.read_text().splitlines())
    paths.ledger.write_bytes(whole + last)
    assert replay(paths.ledger).trials[0].status is TrialStatus.DONE


def test_a_garbled_tail_is_cut_and_a_garbled_middle_is_refused(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path, "s")
    before = write(paths, event("PLANNED"), event("RUNNING"))
    whole = paths.ledger.read_bytes()
    paths.ledger.write_bytes(whole + b"\0" * 40 + b"\n")
    assert replay(paths.ledger) == before
    with Ledger.open(paths) as ledger:
        assert ledger.state.trials == before.trials
    first, _, rest = whole.partition(b"\n")
    paths.ledger.write_bytes(first + b"\n{broken\n" + rest)
    with pytest.raises(DataError, match=r"ledger\.jsonl:2"):
        replay(paths.ledger)


def test_an_event_has_the_four_fields_that_others_read(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path, "s")
    write(paths, event("PLANNED"))
    for line in paths.ledger.read_text().splitlines():
        assert {"time", "trial_id", "state", "attempt"} <= set(json.loads(line))


def test_a_live_driver_keeps_others_out_and_a_dead_one_does_not(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path, "s")
    with Ledger.open(paths):
        with pytest.raises(StudyLockedError, match=rf"pid {os.getpid()} on {os.uname().nodename}"):
            Ledger.open(paths)
        held = holder(paths)
        assert held is not None
        assert held["pid"] == os.getpid()
    assert holder(paths) is None
    paths.lease.write_text('{"pid": 1, "host": "gone", "time": 1}')
    with Ledger.open(paths) as ledger:
        assert ledger.state.driver_attempt == 2


def test_reading_needs_no_lock(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path, "s")
    assert replay(paths.ledger).trials == ()
    with Ledger.open(paths, STUDY) as ledger:
        ledger.append(event("PLANNED"))
        state = replay(paths.ledger)
        assert state == ledger.state
        assert (state.name, state.study_hash, state.closed) == ("s", study_hash(STUDY), None)
        ledger.close("complete")
    assert replay(paths.ledger).closed == "complete"


def test_a_trial_goes_from_planned_to_tested(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path, "s")
    lost = Failure(failure_class=FailureClass.INFRA, message="node gone")
    steps = [
        (event("PLANNED"), TrialStatus.PLANNED, False),
        (event("RUNNING"), TrialStatus.RUNNING, False),
        (event("FAILED", failure=lost), TrialStatus.FAILED, False),
        (event("PLANNED", attempt=2), TrialStatus.PLANNED, False),
        (event("RUNNING", attempt=2), TrialStatus.RUNNING, False),
        (event("DONE", attempt=2, objective=0.5, splits=("validation",)), TrialStatus.DONE, False),
        (event("PLANNED", attempt=2, role="test"), TrialStatus.DONE, True),
        (event("RUNNING", attempt=2, role="test"), TrialStatus.DONE, True),
        (event("DONE", attempt=2, splits=("validation", "test"), gpu_hours=2.0), TrialStatus.DONE, False),
    ]
    with Ledger.open(paths) as ledger:
        for one, status, is_pending in steps:
            ledger.append(one)
            trial = ledger.state.trials[0]
            assert (trial.status, trial.test_pending) == (status, is_pending)
    trial = replay(paths.ledger).trials[0]
    assert (trial.role, trial.attempt, trial.params) == ("search", 2, {"a": 0.1})
    assert (trial.splits, trial.gpu_hours, trial.failure) == (("validation", "test"), 2.0, None)
    assert (trial.planned_at, trial.ended_at) == (101.0, 102.0)


def test_a_failed_test_job_leaves_the_trial_scored(tmp_path: Path) -> None:
    failure = Failure(failure_class=FailureClass.BUG, message="x")
    state = write(
        StudyPaths(tmp_path, "s"),
        event("PLANNED"),
        event("DONE", objective=0.5, splits=("validation",)),
        event("PLANNED", role="test"),
        event("FAILED", failure=failure),
    )
    (trial,) = state.trials
    assert (trial.status, trial.objective, trial.failure, trial.test_pending) == (TrialStatus.DONE, 0.5, failure, False)


@settings(deadline=None, max_examples=25)  # every event is synced to disk
@given(order=st.permutations(["a", "a", "a", "b", "b", "b", "c", "c", "c"]))
def test_interleaving_trials_changes_nothing_but_their_order(
    tmp_path_factory: pytest.TempPathFactory, order: list[str]
) -> None:
    steps = {name: iter(("PLANNED", "RUNNING", "DONE")) for name in "abc"}
    paths = StudyPaths(tmp_path_factory.mktemp("runs"), "s")
    events = [event(next(steps[name]), name) for name in order]
    state = write(paths, *events)
    assert state == replay(paths.ledger)
    assert [trial.trial_id for trial in state.trials] == list(dict.fromkeys(order))
    assert {trial.status for trial in state.trials} == {TrialStatus.DONE}


def test_the_hash_of_a_study_leaves_out_runtime_and_description() -> None:
    other = StudyConfig.model_validate(
        {**STUDY.model_dump(), "runtime": {"executor": "local"}, "description": "another"}
    )
    assert study_hash(other) == study_hash(STUDY)
    assert study_hash(STUDY.model_copy(update={"seeds": (1, 3)})) != study_hash(STUDY)


def test_a_changed_study_is_refused_with_its_differences(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path, "s")
    Ledger.open(paths, STUDY).close("complete")
    changed = STUDY.model_copy(update={"fixed": {"training.max_steps": 20}})
    with pytest.raises(StudyChangedError, match=r"fixed.training.max_steps: 10 -> 20"):
        Ledger.open(paths, changed)
    assert holder(paths) is None
    Ledger.open(paths, changed, allow_drift=True).close("complete")
    opened = [line for line in map(json.loads, paths.ledger.read_text().splitlines()) if line["state"] == "OPENED"]
    assert opened[-1]["note"] == "drift: fixed.training.max_steps: 10 -> 20"
    Ledger.open(paths, changed).close("complete")  # the drift is the study now


def test_other_packages_are_refused_and_noted_where_they_are_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = StudyPaths(tmp_path, "s")
    installed = package_versions()
    assert {"afp-ray", "torch", "transformers"} <= installed.keys()
    assert not any("+" in version for version in installed.values())
    Ledger.open(paths, STUDY).close("complete")
    assert replay(paths.ledger).packages == installed
    newer = {**installed, "torch": "99.1", "unheard-of": "1"}
    monkeypatch.setattr("afp_ray.ledger.log.package_versions", lambda _study: newer)
    with pytest.raises(StudyChangedError, match=f"packages.torch: {installed['torch']} -> 99.1") as caught:
        Ledger.open(paths, STUDY)
    assert f"pip install torch=={installed['torch']}" in str(caught.value.fix)
    assert holder(paths) is None
    assert replay(paths.ledger).packages == installed
    changed = STUDY.model_copy(update={"fixed": {"training.max_steps": 20}})
    Ledger.open(paths, changed, allow_drift=True).close("complete")
    opened = [line for line in map(json.loads, paths.ledger.read_text().splitlines()) if line["state"] == "OPENED"]
    assert opened[-1]["note"] == (
        f"drift: fixed.training.max_steps: 10 -> 20; drift: packages.torch: {installed['torch']} -> 99.1"
    )
    Ledger.open(paths, changed).close("complete")  # the drift is the study now
    Ledger.open(paths).close("complete")  # nothing is about to run: nothing is compared, nothing forgotten
    assert replay(paths.ledger).packages == newer


def test_a_ledger_without_versions_is_continued(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path, "s")
    Ledger.open(paths, STUDY).close("complete")
    lines = [json.loads(line) for line in paths.ledger.read_text().splitlines()]
    assert lines[0].pop("packages")
    assert all(line.pop("check") for line in lines)
    paths.ledger.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    Ledger.open(paths, STUDY).close("complete")
    assert replay(paths.ledger).packages == package_versions()


def test_ten_thousand_trials_are_read_in_well_under_a_second(tmp_path: Path) -> None:
    config = {"data": {"languages": ["zh", "th"]}, "loss": {f"field{number}": number for number in range(40)}}
    lines = [event("PLANNED", f"t{n}", config=config).model_dump_json(exclude_none=True) for n in range(10_000)]
    lines += [event("DONE", f"t{n}", objective=0.5).model_dump_json(exclude_none=True) for n in range(10_000)]
    path = tmp_path / "s" / "ledger.jsonl"
    path.parent.mkdir()
    path.write_text("\n".join(lines) + "\n")
    started = time.process_time()
    assert len(replay(path).trials) == 10_000
    assert time.process_time() - started < 1.0
