"""Placement groups that nobody can use any more, and what is missing where a trial cannot be placed."""

from collections.abc import Iterator
from typing import Any

from afp_ray.config import RuntimeConfig


def free_leaked_groups() -> int:
    """Remove placement groups that hold resources for nobody.

    Those of a job that is dead, which Ray keeps when a group was asked for while its driver died; and those of this job
    whose creating actor is dead, which Ray keeps as long as the job lives. Groups of other living jobs are not touched,
    nor are detached ones, which are meant to outlive their job.

    Returns: how many were removed.
    """
    import ray
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    leaked = [group.placement_group_id for group in _living_groups() if _is_leaked(group)]
    for group_id in leaked:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(group_id)))
    return len(leaked)


def _is_leaked(group: Any) -> bool:
    import ray

    if group.is_detached:
        return False
    if not _is_actor_dead(group.creator_actor_id):
        return False
    own = bytes.fromhex(ray.get_runtime_context().get_job_id())
    if group.creator_job_id == own:
        return _is_set(group.creator_actor_id)  # without one it is Tune's, and this process's
    return group.creator_job_id in _dead_jobs()


def _living_groups() -> Iterator[Any]:
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData

    for content in _accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(content)
        if group.state != PlacementGroupTableData.REMOVED:
            yield group


def _dead_jobs() -> set[bytes]:
    from ray.core.generated.gcs_pb2 import JobTableData

    jobs = map(JobTableData.FromString, _accessor().get_job_table())
    return {job.job_id for job in jobs if job.is_dead}


def _is_actor_dead(actor_id: bytes) -> bool:
    """Whether an actor has ended; true where there is none."""
    import ray
    from ray.core.generated.gcs_pb2 import ActorTableData

    if not _is_set(actor_id):
        return True
    content = _accessor().get_actor_info(ray.ActorID(actor_id))
    return content is None or ActorTableData.FromString(content).state == ActorTableData.DEAD


def node_of(actor: Any) -> str:
    """The id of the node on which an actor runs, in hex; "" where it has none yet."""
    from ray.core.generated.gcs_pb2 import ActorTableData

    content = _accessor().get_actor_info(actor._actor_id)
    return "" if content is None else ActorTableData.FromString(content).node_id.hex()


def _is_set(identity: bytes) -> bool:
    return bool(identity.strip(b"\xff"))


def _accessor() -> Any:
    """The tables of the cluster, which are there without a dashboard too."""
    import ray

    return ray._private.state.state._connect_and_get_accessor()


def shortage(runtime: RuntimeConfig, waited_s: float) -> str:
    """Why a trial has not started: what it needs, and what the cluster has and has free.

    Args:
        runtime: workers per trial and what each needs.
        waited_s: how long it has waited.
    """
    import ray

    offered, free = ray.cluster_resources(), ray.available_resources()
    number = runtime.workers_per_trial
    workers = f"{number} workers" if number > 1 else "one worker"
    needed = f"{runtime.cpus_per_worker:g} CPUs and {runtime.gpus_per_worker:g} GPUs"
    nodes = sum(bool(node["Alive"]) for node in ray.nodes())
    return (
        f"no trial could start for {waited_s:.0f} s: it needs {workers} with {needed}{' each' if number > 1 else ''}; "
        f"the cluster ({nodes} nodes) has {offered.get('CPU', 0):g} CPUs and {offered.get('GPU', 0):g} GPUs, of which "
        f"{free.get('CPU', 0):g} and {free.get('GPU', 0):g} are free"
    )
