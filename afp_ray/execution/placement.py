"""Placement groups that nobody can use any more, and what is missing where a trial cannot be placed."""

from afp_ray.config import RuntimeConfig
from afp_ray.execution.ray_internals import Group, dead_jobs, is_actor_dead, placement_groups


def free_leaked_groups() -> int:
    """Remove placement groups that hold resources for nobody.

    Those of a job that is dead, which Ray keeps when a group was asked for while its driver died; and those of this job
    whose creating actor is dead, which Ray keeps as long as the job lives. Groups of other living jobs are not touched,
    nor are detached ones, which are meant to outlive their job.

    Returns: how many were removed.
    """
    import ray
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    leaked = [group for group in placement_groups() if _is_leaked(group)]
    for group in leaked:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.group_id)))
    return len(leaked)


def _is_leaked(group: Group) -> bool:
    """By who asked for it: what the group itself says of its owner may be old."""
    import ray

    if group.is_detached or (group.actor_id and not is_actor_dead(group.actor_id)):
        return False
    if group.job_id == bytes.fromhex(ray.get_runtime_context().get_job_id()):
        return bool(group.actor_id)  # without an actor it is Tune's, and this process's
    return group.job_id in dead_jobs()


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
