"""Resources on a cluster: which leaked ones are freed, what a trial that cannot be placed says, what a group leaves."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from executor_suite import make_study, run

from afp_ray.config import StudyConfig
from afp_ray.errors import UnavailableError
from afp_ray.execution import placement, ray_internals
from afp_ray.execution.placement import free_leaked_groups
from afp_ray.execution.ray_executor import RayExecutor
from afp_ray.records import TrialStatus
from afp_ray.store import StudyPaths

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_cluster")]

STRANGER = """
import ray, sys
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
from ray.util.placement_group import placement_group
groups = [placement_group([{"CPU": 0.1}], lifetime=lifetime) for lifetime in ("detached", None)]
ray.get([group.ready() for group in groups])
print(*(group.id.hex() for group in groups), flush=True)
sys.stdin.read()
"""


@contextmanager
def stranger(address: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """Another driver on the cluster, with a detached placement group and an ordinary one."""
    process = subprocess.Popen(
        [sys.executable, "-c", STRANGER, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        detached, ordinary = process.stdout.readline().split()
        yield process, detached, ordinary
    finally:
        process.kill()
        process.communicate()


def living_groups() -> set[str]:
    import ray

    table = ray.util.placement_group_table()
    return {name for name, group in table.items() if group["state"] != "REMOVED"}


def until(condition: Any, within_s: float = 30.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_groups_of_a_dead_driver_go_and_those_of_a_living_one_stay(shared_cluster: str) -> None:
    import ray
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    with stranger(shared_cluster) as (process, detached, ordinary):
        free_leaked_groups()
        assert {detached, ordinary} <= living_groups()
        process.kill()
        process.wait()

        def is_ordinary_gone() -> bool:
            free_leaked_groups()
            return ordinary not in living_groups()

        until(is_ordinary_gone)
        assert detached in living_groups(), "meant to outlive its driver"
    remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(detached))))


def test_groups_of_a_dead_actor_go_while_its_driver_lives() -> None:
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    @ray.remote(num_cpus=0)
    class Creator:
        def create(self) -> str:
            group = placement_group([{"CPU": 0.1}])
            ray.get(group.ready())
            return str(group.id.hex())

    mine = placement_group([{"CPU": 0.1}])
    actors = [Creator.remote() for _ in range(2)]
    lost, alive = ray.get([actor.create.remote() for actor in actors])
    ray.kill(actors[0])

    def is_lost_gone() -> bool:
        free_leaked_groups()
        return lost not in living_groups()

    assert lost in living_groups(), "Ray keeps it as long as the driver lives"
    until(is_lost_gone)
    assert {alive, mine.id.hex()} <= living_groups()
    ray.kill(actors[1])
    remove_placement_group(mine)
    until(lambda: free_leaked_groups() == 0 and alive not in living_groups())


@contextmanager
def occupied(num_cpus: int) -> Iterator[None]:
    """Hold CPUs of the cluster, as another user would."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group([{"CPU": 1}] * num_cpus)
    ray.get(group.ready())
    try:
        yield
    finally:
        remove_placement_group(group)


def lone(**runtime: Any) -> StudyConfig:
    return make_study(tune={}, compare={"method": ["afp"]}, seeds=[1], runtime=runtime)


def test_a_trial_that_gets_no_resources_says_what_is_missing(tmp_path: Path) -> None:
    study = lone(start_s=2)
    message = (
        r"no trial could start for \d+ s: it needs one worker with 1 CPUs and 0 GPUs; "
        r"the cluster \(1 nodes\) has 2 CPUs and 0 GPUs, of which 0 and 0 are free"
    )
    with occupied(2), pytest.raises(UnavailableError, match=message):
        run(study, tmp_path, RayExecutor(study.runtime))
    until(lambda: not living_groups())  # this process lives on, and asks for nothing any more
    state = run(lone(), tmp_path, RayExecutor(study.runtime.model_copy(update={"start_s": None})))
    assert state.closed == "complete"
    assert [(trial.status, trial.attempt) for trial in state.trials] == [(TrialStatus.DONE, 1)]


@pytest.mark.slow
def test_a_group_that_gets_no_resources_says_what_is_missing(tmp_path: Path) -> None:
    study = lone(start_s=8, workers_per_trial=2)
    with occupied(1), pytest.raises(UnavailableError, match="it needs 2 workers with 1 CPUs and 0 GPUs each"):
        run(study, tmp_path, RayExecutor(study.runtime), run_trial="fake_trials:run_in_group")
    states = [json.loads(line)["state"] for line in StudyPaths(tmp_path, "fake").ledger.read_text().splitlines()]
    assert states == ["OPENED", "PLANNED", "RUNNING", "CLOSED"], "the actor was there, its workers were not"


@pytest.mark.slow
def test_a_group_whose_actor_is_killed_leaves_nothing(tmp_path: Path) -> None:
    import ray

    study = lone(workers_per_trial=2)
    trials = StudyPaths(tmp_path, "fake").trials
    pids: list[int] = []

    def kill() -> None:
        until(lambda: len("".join(file.read_text() for file in trials.glob("*/places.jsonl")).splitlines()) == 2, 120)
        pids.extend(pids_of("RayTrainWorker"))
        (actor,) = pids_of("ResourceTrainable")
        os.kill(actor, signal.SIGKILL)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 10)
        pids.append(actor)

    def pids_of(name: str) -> list[int]:
        table = ray._private.state.state.actor_table(None).values()
        return [actor["Pid"] for actor in table if name in actor["ActorClassName"] and actor["State"] == "ALIVE"]

    thread = threading.Thread(target=kill)
    thread.start()
    state = run(study, tmp_path, RayExecutor(study.runtime), run_trial="ray_trials:group_goes_on_once")
    thread.join()
    assert len(pids) == 3, "both workers ended within seconds of their actor"
    assert [(trial.status, trial.attempt) for trial in state.trials] == [(TrialStatus.DONE, 2)]
    until(lambda: not living_groups())
    until(lambda: not pids_of("Train") and not pids_of("PlacementGroupCleaner"))


class Tables:
    """Stands in for the tables of a cluster."""

    def __init__(self, dead_jobs: list[bytes], dead_actors: list[bytes], groups: list[Any]) -> None:
        self.dead_jobs, self.dead_actors, self.groups = dead_jobs, dead_actors, groups

    def get_placement_group_table(self) -> list[bytes]:
        return [group.SerializeToString() for group in self.groups]

    def get_job_table(self) -> list[bytes]:
        from ray.core.generated.gcs_pb2 import JobTableData

        return [JobTableData(job_id=job, is_dead=True).SerializeToString() for job in self.dead_jobs]

    def get_actor_info(self, actor_id: Any) -> bytes:
        from ray.core.generated.gcs_pb2 import ActorTableData

        is_dead = actor_id.binary() in self.dead_actors
        state = ActorTableData.DEAD if is_dead else ActorTableData.ALIVE
        return bytes(ActorTableData(state=state).SerializeToString())


def test_what_is_leaked_is_told_by_who_made_it_and_not_by_what_the_group_says(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData as Group

    own, dead, living = bytes.fromhex(ray.get_runtime_context().get_job_id()), b"\x91\0\0\0", b"\x92\0\0\0"
    nobody, lost, alive = b"\xff" * 16, b"\x01" * 16, b"\x02" * 16
    expected = {
        (dead, nobody): True,
        (dead, lost): True,  # asked for while its driver died: the group itself says that both live
        (dead, alive): False,  # of a detached actor that outlives its job
        (own, nobody): False,  # this driver's
        (own, lost): True,
        (own, alive): False,
        (living, nobody): False,
        (living, lost): False,  # its own driver's to remove
    }
    for (job, actor), is_leaked in expected.items():
        for is_detached in (False, True):
            group = Group(creator_job_id=job, creator_actor_id=actor, is_detached=is_detached)
            monkeypatch.setattr(ray_internals, "_tables", lambda group=group: Tables([dead], [lost], [group]))
            (listed,) = ray_internals.placement_groups()
            assert placement._is_leaked(listed) is (is_leaked and not is_detached), (job, actor, is_detached)
