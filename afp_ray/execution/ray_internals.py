"""Every use of a name that Ray keeps to itself: one function each, with the reason why no public name does.

Such a name may move with any release of Ray; `tests/execution/test_ray_internals.py` says so by name when it has. Ray
is imported inside each function, since a command that only checks an address must not wait for that.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import grpc
    from ray.job_submission import JobSubmissionClient
    from ray.train.torch import TorchTrainer

# --- the start, and where a cluster is -------------------------------------------------------------------------------


def start_cluster(folder: str, **options: Any) -> None:
    """Start a cluster whose sockets and logs lie in `folder`.

    Why: `ray.init` has no public argument for the folder, and RAY_TMPDIR would hold for every program that this process
    starts.

    Args:
        folder: absolute and short.
        options: public arguments of `ray.init`.
    """
    import ray

    ray.init(address="local", _temp_dir=folder, **options)


def address_on_this_machine() -> str | None:
    """`host:port` of the cluster that `auto` stands for; None where there is none.

    Why: whether a cluster asks for a token must be seen before `ray.init` connects to it, and `ray.init` alone resolves
    `auto`.

    Raises: ConnectionError or ValueError when there is no cluster, or an entry of one that is gone.
    """
    from ray._private.services import canonicalize_bootstrap_address

    address = canonicalize_bootstrap_address("auto")
    return None if address is None else str(address)


# --- questions to a head, before a connection ------------------------------------------------------------------------
# Why: `ray.init` is the only public way to ask a head anything, and it shows the head our token and waits for minutes.


def version_of_head(channel: "grpc.Channel", **options: Any) -> str:
    """Ray's version, by the question that Ray itself asks to see whether a head lives.

    Raises: grpc.RpcError, ImportError where grpcio is missing.
    """
    from ray.core.generated.gcs_service_pb2 import CheckAliveRequest
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    return str(NodeInfoGcsServiceStub(channel).CheckAlive(CheckAliveRequest(), **options).ray_version)


def num_nodes_of_head(channel: "grpc.Channel", **options: Any) -> int:
    """Nodes of the cluster that live.

    Raises: grpc.RpcError, ImportError where grpcio is missing.
    """
    from ray.core.generated.gcs_pb2 import GcsNodeInfo
    from ray.core.generated.gcs_service_pb2 import GetAllNodeInfoRequest
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    nodes = NodeInfoGcsServiceStub(channel).GetAllNodeInfo(GetAllNodeInfoRequest(), **options).node_info_list
    return sum(bool(node.state == GcsNodeInfo.ALIVE) for node in nodes)


# --- tables of the connected cluster ---------------------------------------------------------------------------------


def _tables() -> Any:
    """The tables that the head keeps.

    Why: the public `ray.util.state` asks the dashboard, which clusters need not have; `ray.util.placement_group_table`
    does not say who asked for a group.
    """
    import ray

    return ray._private.state.state._connect_and_get_accessor()


class Group(NamedTuple):
    """A placement group that has not been removed, and who asked for it."""

    group_id: bytes
    job_id: bytes
    actor_id: bytes
    """b"" where no actor asked for it, but the driver of the job itself."""
    is_detached: bool
    """Whether it is meant to outlive its job."""


def placement_groups() -> list[Group]:
    """Placement groups of all jobs."""
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData

    groups = map(PlacementGroupTableData.FromString, _tables().get_placement_group_table())
    return [
        Group(
            group.placement_group_id,
            group.creator_job_id,
            # Ray writes an id that is not set as bytes of ones.
            group.creator_actor_id if group.creator_actor_id.strip(b"\xff") else b"",
            group.is_detached,
        )
        for group in groups
        if group.state != PlacementGroupTableData.REMOVED
    ]


def dead_jobs() -> set[bytes]:
    """Ids of jobs whose driver has ended."""
    from ray.core.generated.gcs_pb2 import JobTableData

    jobs = map(JobTableData.FromString, _tables().get_job_table())
    return {job.job_id for job in jobs if job.is_dead}


def is_actor_dead(actor_id: bytes) -> bool:
    """Whether an actor has ended."""
    import ray
    from ray.core.generated.gcs_pb2 import ActorTableData

    content = _tables().get_actor_info(ray.ActorID(actor_id))
    return content is None or ActorTableData.FromString(content).state == ActorTableData.DEAD


def node_of(actor: Any) -> str:
    """The id of the node on which an actor runs, in hex; "" where it has none yet.

    Why: a handle has no public id, and an actor that does not answer cannot be asked for its node.
    """
    from ray.core.generated.gcs_pb2 import ActorTableData

    content = _tables().get_actor_info(actor._actor_id)
    return "" if content is None else ActorTableData.FromString(content).node_id.hex()


def draining_nodes() -> list[str]:
    """Ids, in hex, of nodes that are about to be taken away.

    Why: `ray.nodes` does not say so; Ray Train reads the same table.
    """
    return list(_tables().get_draining_nodes())


# --- classes of Ray with one habit less ------------------------------------------------------------------------------


def group_trainer(*arguments: Any, **options: Any) -> "TorchTrainer":
    """A `TorchTrainer` without two actors that Ray Train starts beside every worker group.

    Why: no option keeps them from being started. One serves Ray datasets, of which there are none. The other watches
    over the placement group: it sees a dead one only where there is a dashboard, and stays as a process for ever where
    there is none; `placement.free_leaked_groups` does its work.
    """
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    class GroupTrainer(TorchTrainer):  # type: ignore[misc]  # Ray's class is untyped
        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()
            unused = PlacementGroupCleanerCallback | DatasetsCallback
            return [callback for callback in callbacks if not isinstance(callback, unused)]

    return GroupTrainer(*arguments, **options)


def job_client(address: str, *, headers: Mapping[str, str], timeout_s: tuple[float, float]) -> "JobSubmissionClient":
    """A client of the Jobs API whose every request has an end.

    Why: the client has no timeout of its own, and waits for ever for a dashboard that accepts and does not answer.

    Args:
        address: of the dashboard.
        headers: of every request.
        timeout_s: to connect, and between two bytes.
    """
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):  # type: ignore[misc]  # Ray's class is untyped
        def _do_request(self, method: str, endpoint: str, **request: Any) -> Any:
            return super()._do_request(method, endpoint, **{"timeout": timeout_s, **request})

    return Client(address, headers=dict(headers))
