"""A clock that jumps: leases and budgets do not ask it, and nothing is taken from a driver or lost."""

import itertools
import json
from pathlib import Path

import pytest
from executor_suite import make_study
from fault_driver import KILLED, Nursery
from oracle import Oracle, run_here

from afp_ray.errors import StudyLockedError
from afp_ray.ledger import Ledger, holder, replay
from afp_ray.records import LedgerEvent
from afp_ray.store import StudyPaths

HOUR, DAY = 3_600.0, 86_400.0


@pytest.mark.parametrize("jump", [-HOUR, DAY])
def test_a_study_whose_clock_jumps_ends_as_if_it_had_not(
    jump: float, drivers: Nursery, oracle: Oracle, tmp_path: Path
) -> None:
    budget = {"budget": {"trials": 4, "wall_s": 1_800.0}}
    code, output = drivers.drive(tmp_path, budget, {"clock": jump, "from": 60})
    assert code == 0, output
    times = [LedgerEvent.model_validate_json(line).time for line in (tmp_path / "fake" / "ledger.jsonl").open()]
    steps = [after - before for before, after in itertools.pairwise(times)]
    assert min(steps) < 0.9 * jump if jump < 0 else max(steps) > 0.9 * jump, "it did jump"
    state = oracle(make_study(**budget), tmp_path, max_repeated=0, clock_jumped=True)
    assert {trial.attempt for trial in state.trials} == {1}, "nobody was taken for dead"


@pytest.mark.parametrize("jump", [-HOUR, DAY])
def test_a_driver_that_dies_after_a_jump_is_continued(
    jump: float, drivers: Nursery, oracle: Oracle, tmp_path: Path
) -> None:
    code, output = drivers.drive(tmp_path, {}, {"clock": jump, "from": 40, "die_before": 90})
    assert code == KILLED, output
    run_here(make_study(), tmp_path)
    oracle(make_study(), tmp_path, max_repeated=1, clock_jumped=True, projects=False)


@pytest.mark.parametrize("jump", [-HOUR, DAY])
def test_a_live_lease_is_kept_whatever_the_clock_says(
    jump: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    real = time.time
    paths = StudyPaths(tmp_path, "fake")
    with Ledger.open(paths, make_study()) as ledger:
        monkeypatch.setattr(time, "time", lambda: real() + jump)
        held = holder(paths)
        assert held is not None and held["pid"] == json.loads(paths.lease.read_text())["pid"]
        with pytest.raises(StudyLockedError):
            Ledger.open(paths, make_study())
        ledger.close("complete")
    assert holder(paths) is None
    assert replay(paths.ledger).closed == "complete"
