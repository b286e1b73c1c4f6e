"""A study of ten thousand trials costs its driver what a short one does, event by event."""

import itertools
import os
import time
from pathlib import Path
from typing import Any

import pytest
from ledger_events import event

from afp_ray.ledger import Ledger, replay
from afp_ray.store import StudyPaths

NUM_TRIALS = 10_000


def memory() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def num_handles() -> int:
    return len(os.listdir("/proc/self/fd"))


def config_of(number: int) -> dict[str, Any]:
    """As large as a real one; trials differ in one section."""
    shared = {name: {f"field{place}": place for place in range(20)} for name in ("model", "data", "evaluation")}
    return {**shared, "loss": {"temperature": number / NUM_TRIALS, "layer": 1}, "seed": number}


@pytest.mark.slow
def test_ten_thousand_trials_leave_memory_handles_and_time_flat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # the disk's time is not this process's
    paths = StudyPaths(tmp_path, "s")
    seconds, sizes, handles = [], [], []
    with Ledger.open(paths) as ledger:
        for number in range(NUM_TRIALS):
            if number % 1_000 == 0:
                seconds.append(time.process_time())
                sizes.append(memory())
                handles.append(num_handles())
            name = f"{number:016x}"
            ledger.append(event("PLANNED", name, config=config_of(number)))
            ledger.append(event("RUNNING", name))
            ledger.append(event("DONE", name, objective=0.5, splits=("validation",)))
            assert ledger.trial(name) is not None
        seconds.append(time.process_time())
        state = ledger.state
        ledger.close("complete")
    assert len(set(handles)) == 1
    assert (sizes[-1] - sizes[1]) / (NUM_TRIALS - 2_000) < 12_000  # bytes a trial; its config alone is larger
    spent = [after - before for before, after in itertools.pairwise(seconds)]
    assert sum(spent[-3:]) < 2.5 * sum(spent[:3])
    assert replay(paths.ledger).trials == state.trials
    assert num_handles() == handles[0] - 2  # the ledger and its lease
