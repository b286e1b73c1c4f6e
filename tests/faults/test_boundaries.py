"""A driver that dies at any operation that changes the disk, or in the midst of one, is continued without a trace."""

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
from executor_suite import make_study, num_trainings
from fake_trials import steps_of
from fault_driver import KILLED, Nursery
from oracle import Oracle, run_here

from afp_ray.ledger import replay
from afp_ray.records import TrialStatus

FIELDS: dict[str, Any] = {"budget": {"trials": 2}}
STUDY = make_study(**FIELDS)
"""Four trials: base, two of the search, and the best one once more at another seed."""
NUM_EVENTS = 17
"""Of that study: three per trial and test job, OPENED and CLOSED."""


@pytest.fixture(scope="module")
def operations(drivers: Nursery, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Everything that a driver does to the disk in a study, in order."""
    folder = tmp_path_factory.mktemp("counted")
    code, output = drivers.drive(folder / "runs", FIELDS, {"count_into": str(folder / "operations")})
    assert code == 0, output
    found = (folder / "operations").read_text().splitlines()
    kinds = {line.split()[0] for line in found}
    assert {"fsync", "write", "pwrite", "replace", "ftruncate", "unlink", "mkdir", "rmdir"} <= kinds
    return found


def die(drivers: Nursery, storage: Path, fault: dict[str, Any]) -> int:
    """Let a driver die; returns how many trials had finished for the ledger."""
    code, output = drivers.drive(storage, FIELDS, fault)
    assert code == KILLED, output
    state = replay(storage / "fake" / "ledger.jsonl")
    return sum(trial.status is TrialStatus.DONE for trial in state.trials)


def continue_and_check(oracle: Oracle, storage: Path, *, max_repeated: int = 1, **options: Any) -> None:
    run_here(STUDY, storage)
    oracle(STUDY, storage, max_repeated=max_repeated, **options)


@pytest.mark.slow
def test_a_driver_that_dies_before_any_operation(
    operations: list[str], drivers: Nursery, oracle: Oracle, tmp_path: Path
) -> None:
    finished = []
    for number in range(len(operations)):
        storage = tmp_path / str(number)
        finished.append(die(drivers, storage, {"die_before": number}))
        continue_and_check(oracle, storage, projects=number % 60 == 30)
        shutil.rmtree(storage)
    assert finished == sorted(finished)
    assert set(finished) == set(range(5)), "operations between any two commits were among them"


def test_a_line_of_the_ledger_that_was_half_written(
    operations: list[str], drivers: Nursery, oracle: Oracle, tmp_path: Path
) -> None:
    """Row 16 too: the tail is torn at every line, and one result that the ledger missed is adopted."""
    writes = [number for number, line in enumerate(operations) if line.startswith("write")]
    assert len(writes) == NUM_EVENTS, "one per event"
    for number in writes[::3]:
        storage = tmp_path / str(number)
        die(drivers, storage, {"tear": number})
        continue_and_check(oracle, storage, projects=False)


def test_a_driver_that_dies_again_and_again_while_it_recovers(
    operations: list[str], drivers: Nursery, oracle: Oracle, tmp_path: Path
) -> None:
    """Each driver gets a dozen operations further than the one before had been, or dies in recovering."""
    num_deaths = 0
    while drivers.drive(tmp_path, FIELDS, {"die_before": 15 + num_deaths % 7})[0] == KILLED:
        num_deaths += 1
        assert num_deaths < len(operations)
    assert num_deaths > 5
    oracle(STUDY, tmp_path, max_repeated=num_deaths)


def test_a_result_brought_from_another_study_is_brought_whole(drivers: Nursery, oracle: Oracle, tmp_path: Path) -> None:
    """A driver dies at each operation of a study whose trials another study has paid for."""
    lender = make_study("lender", **FIELDS, runtime={"keep_checkpoints": "all"})
    run_here(lender, tmp_path / "lent")
    drivers.drive(
        shutil.copytree(tmp_path / "lent", tmp_path / "all"), FIELDS, {"count_into": str(tmp_path / "operations")}
    )
    num_operations = len((tmp_path / "operations").read_text().splitlines())
    for number in range(0, num_operations, num_operations // 10):
        storage = shutil.copytree(tmp_path / "lent", tmp_path / str(number))
        die(drivers, storage, {"die_before": number})
        run_here(STUDY, storage)
        assert num_trainings(storage) == {}
        oracle(STUDY, storage, max_repeated=0, projects=False)


def test_a_snapshot_that_was_being_written(drivers: Nursery, oracle: Oracle, tmp_path: Path) -> None:
    """With a snapshot every other event, dying anywhere leaves a ledger that reads the same with and without it."""
    drivers.drive(tmp_path / "all", FIELDS, {"count_into": str(tmp_path / "operations"), "snapshot_every": 2})
    operations = (tmp_path / "operations").read_text().splitlines()
    snapshots = [number for number, line in enumerate(operations) if "snapshot" in line]
    assert len(snapshots) > 5
    for number in [first + later for first in snapshots[::3] for later in (0, 1)]:
        storage = tmp_path / str(number)
        die(drivers, storage, {"die_before": number, "snapshot_every": 2})
        continue_and_check(oracle, storage, projects=False)


@pytest.mark.parametrize("eighth", range(8))
def test_a_study_with_rungs_whose_driver_dies_promotes_from_the_states_it_had(
    eighth: int, drivers: Nursery, oracle: Oracle, tmp_path: Path
) -> None:
    fields: dict[str, Any] = {"pruner": {"name": "asha", "min": 20}, "budget": {"trials": 9}, "seeds": [1]}
    counted = tmp_path / "operations"
    code, output = drivers.drive(tmp_path / "counted", fields, {"count_into": str(counted)})
    assert code == 0, output
    number = (2 * eighth + 1) * len(counted.read_text().splitlines()) // 16
    code, output = drivers.drive(tmp_path, fields, {"die_before": number})
    assert code == KILLED, output
    study = make_study(**fields)
    run_here(study, tmp_path)
    state = oracle(study, tmp_path, max_repeated=1, projects=eighth == 4)
    assert {trial.status for trial in state.trials} == {TrialStatus.DONE, TrialStatus.PRUNED}
    repeated = 0
    for trial in state.trials:
        spans = steps_of(tmp_path / "fake" / "trials" / trial.trial_id)
        repeated += len(spans) - len(set(spans))
        for before, after in itertools.pairwise(dict.fromkeys(spans)):
            assert after[0] == before[1], f"{trial.trial_id} went on from {after[0]}, and had come to {before[1]}"
    assert repeated <= 1
