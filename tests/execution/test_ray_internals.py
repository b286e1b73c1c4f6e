"""The installed Ray still has every private name that `ray_internals` uses, and what it does with them."""

import ast
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.train.torch import TorchTrainer

from afp_ray.execution import ray_internals

SEEN_WITH = "2.60.0"
# Where each private name stands, by the function that uses it.
NAMES = {
    "address_on_this_machine": ["ray._private.services:canonicalize_bootstrap_address"],
    "version_of_head": [
        "ray.core.generated.gcs_service_pb2:CheckAliveRequest",
        "ray.core.generated.gcs_service_pb2:CheckAliveReply.ray_version",
        "ray.core.generated.gcs_service_pb2_grpc:NodeInfoGcsServiceStub",
    ],
    "num_nodes_of_head": [
        "ray.core.generated.gcs_pb2:GcsNodeInfo.ALIVE",
        "ray.core.generated.gcs_service_pb2:GetAllNodeInfoRequest",
        "ray.core.generated.gcs_service_pb2:GetAllNodeInfoReply.node_info_list",
        "ray.core.generated.gcs_service_pb2_grpc:NodeInfoGcsServiceStub",
    ],
    "_tables": [
        "ray._private.state:state._connect_and_get_accessor",
        "ray._raylet:GlobalStateAccessor.get_placement_group_table",
        "ray._raylet:GlobalStateAccessor.get_job_table",
        "ray._raylet:GlobalStateAccessor.get_actor_info",
        "ray._raylet:GlobalStateAccessor.get_draining_nodes",
    ],
    "placement_groups": [
        "ray.core.generated.gcs_pb2:PlacementGroupTableData.REMOVED",
        "ray.core.generated.gcs_pb2:PlacementGroupTableData.placement_group_id",
        "ray.core.generated.gcs_pb2:PlacementGroupTableData.creator_job_id",
        "ray.core.generated.gcs_pb2:PlacementGroupTableData.creator_actor_id",
        "ray.core.generated.gcs_pb2:PlacementGroupTableData.is_detached",
    ],
    "dead_jobs": [
        "ray.core.generated.gcs_pb2:JobTableData.job_id",
        "ray.core.generated.gcs_pb2:JobTableData.is_dead",
    ],
    "is_actor_dead": ["ray.core.generated.gcs_pb2:ActorTableData.DEAD"],
    "node_of": ["ray.core.generated.gcs_pb2:ActorTableData.node_id", "ray.actor:ActorHandle._actor_id"],
    "group_trainer": [
        "ray.train.torch:TorchTrainer._create_default_callbacks",
        "ray.train.v2._internal.callbacks.datasets:DatasetsCallback",
        "ray.train.v2._internal.callbacks.placement_group_callback:PlacementGroupCleanerCallback",
    ],
    "job_client": ["ray.job_submission:JobSubmissionClient._do_request"],
}


def moved(name: str, function: str) -> str:
    """What to do when a name is no longer there."""
    return (
        f"Ray {ray.__version__} has no {name}, which Ray {SEEN_WITH} had: find its new place, or a public name, for "
        f"afp_ray.execution.ray_internals.{function}, and write the version here"
    )


@pytest.mark.parametrize(("function", "name"), [(function, name) for function in NAMES for name in NAMES[function]])
def test_ray_still_has_the_name(function: str, name: str) -> None:
    module, _, path = name.partition(":")
    try:
        value: Any = importlib.import_module(module)
        for part in path.split("."):
            is_field = hasattr(value, "DESCRIPTOR") and not hasattr(value, part)  # fields are on messages alone
            value = getattr(value() if is_field else value, part)
    except (ImportError, AttributeError):
        pytest.fail(moved(name, function))


def test_ray_still_takes_the_folder_of_a_cluster() -> None:
    assert '"_temp_dir"' in inspect.getsource(ray.init), moved("ray.init(_temp_dir=...)", "start_cluster")


@pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning")  # Ray copies its own settings
def test_ray_train_still_starts_what_a_group_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    monkeypatch.setenv("RAY_TRAIN_METRICS_ENABLED", "0")

    def kinds(trainer: TorchTrainer) -> list[type]:
        return [type(callback) for callback in trainer._create_default_callbacks()]

    plain, ours = kinds(TorchTrainer(print)), kinds(ray_internals.group_trainer(print))
    assert [kind for kind in plain if kind not in (DatasetsCallback, PlacementGroupCleanerCallback)] == ours, moved(
        "default callbacks of TorchTrainer", "group_trainer"
    )
    assert len(ours) == len(plain) - 2, moved("both callbacks", "group_trainer")


def test_every_function_of_the_room_is_looked_after_here() -> None:
    tree = ast.parse(Path(ray_internals.__file__).read_text("utf-8"))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert functions == NAMES.keys() | {"start_cluster", "draining_nodes"}  # the second asks `_tables` alone
