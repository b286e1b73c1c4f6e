"""What belongs to a cluster that this process has started, and what to one that it has started for others."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from afp_ray.errors import UnavailableError
from afp_ray.execution.cluster import _descendants, start_local


@pytest.mark.parametrize(
    ("raised", "seen"),
    [(Exception("The node timed out."), UnavailableError), (TypeError("no such argument"), TypeError)],
    ids=["a start that takes too long", "a fault of ours"],
)
def test_a_node_that_does_not_come_up_is_no_fault_of_ours(
    raised: Exception, seen: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: object) -> None:
        raise raised

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(seen, match=str(raised)):
        start_local(str(tmp_path))


def test_processes_of_another_cluster_are_left_out_with_all_below_them() -> None:
    before = _descendants(os.getpid())
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        child = int(other.stdout.readline())
        try:
            until = time.monotonic() + 10
            while child not in _descendants(os.getpid()) and time.monotonic() < until:
                time.sleep(0.01)
            assert {other.pid, child} <= _descendants(os.getpid()).keys()
            assert {other.pid, child} <= _descendants(os.getpid(), but=before).keys()
            assert not {other.pid, child} & _descendants(os.getpid(), but={other.pid}).keys()
        finally:
            os.kill(child, 9)
            other.kill()
