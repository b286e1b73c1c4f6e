"""A Ray cluster of several nodes on this machine, in a process of its own: one scenario per line of standard input.

The head node has no CPU, so that every trial lands on a node that a scenario may drain or remove. A scenario gives a
JSON line; the trials' own files say where they ran.
"""

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SUPPORT = str(Path(__file__).parent)
sys.path[:0] = [SUPPORT, str(Path(SUPPORT).parents[1])]

from executor_suite import make_study, run  # noqa: E402
from forked_python import forked_by_ray  # noqa: E402

from afp_ray.execution.cluster import DRIVER_ENVIRONMENT, WORKER_ENVIRONMENT, set_environment  # noqa: E402
from afp_ray.execution.ray_executor import RayExecutor  # noqa: E402
from afp_ray.records import StudyState  # noqa: E402

_PATIENCE_S = 120.0


class Nodes:
    """The cluster, and what is done to its nodes while a study runs."""

    def __init__(self, folder: str) -> None:
        from ray._private import utils
        from ray.cluster_utils import Cluster

        utils.write_ray_address = lambda *_, **__: None  # no other process of this machine is to find this cluster
        head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": folder, "node_ip_address": "127.0.0.1"}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self._whole: dict[str, Any] = {}
        self._drained: list[Any] = []
        import ray

        ray.init(address=self.cluster.address, log_to_driver=False, logging_level="ERROR")

    def of_one_cpu(self, number: int) -> list[str]:
        """The ids of exactly `number` nodes of one CPU; those that the scenario before has left are among them.

        Starting a node takes seconds.
        """
        self.remove_drained()
        while len(self._whole) > number:
            self.remove(next(iter(self._whole)))
        while len(self._whole) < number:
            node = self.cluster.add_node(node_ip_address="127.0.0.1", num_cpus=1)
            self._whole[node.node_id] = node
        return sorted(self._whole)

    def remove_drained(self) -> None:
        """Take away the nodes that have had their notice."""
        while self._drained:
            self.cluster.remove_node(self._drained.pop(), allow_graceful=False)

    def remove(self, node_id: str) -> None:
        """Take a node away without notice."""
        self.cluster.remove_node(self._whole.pop(node_id), allow_graceful=False)

    def drain(self, node_id: str) -> None:
        """Announce that a node will be taken away, as a spot market does."""
        import ray
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason

        client = ray._raylet.GcsClient(address=self.cluster.address)
        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        accepted, why = client.drain_node(node_id, reason, "spot", 0)
        assert accepted, why
        self._drained.append(self._whole.pop(node_id))


def places(storage: Path) -> list[dict[str, Any]]:
    """Where trials ran, in time's order, each with its trial's id."""
    found = []
    for file in storage.glob("*/trials/*/places.jsonl"):
        found += [{**json.loads(line), "trial_id": file.parent.name} for line in file.read_text().splitlines()]
    return sorted(found, key=lambda place: place["time"])


def once_placed(storage: Path, action: Callable[[dict[str, Any]], None], *, number: int = 1) -> threading.Thread:
    """Call `action` with the last place as soon as `number` of them are written down."""

    def wait() -> None:
        until = time.monotonic() + _PATIENCE_S
        while len(places(storage)) < number and time.monotonic() < until:
            time.sleep(0.05)
        action(places(storage)[-1])

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def told(storage: Path, state: StudyState, **more: Any) -> dict[str, Any]:
    """What the tests ask of a study."""
    events = [json.loads(line) for line in (storage / "fake" / "ledger.jsonl").read_text().splitlines()]
    failures = [event["failure"] for event in events if event["state"] == "FAILED"]
    spans = [
        json.loads(line) for file in storage.glob("*/trials/*/spans.jsonl") for line in file.read_text().splitlines()
    ]
    trials = [{"status": trial.status, "attempt": trial.attempt} for trial in state.trials]
    return {
        "closed": state.closed,
        "trials": trials,
        "failures": failures,
        "places": places(storage),
        "spans": spans,
        **more,
    }


def study_of(run_trial: str, storage: Path, *, num_trials: int = 1, **runtime: Any) -> StudyState:
    """Run a study of `num_trials` on the cluster."""
    fields: dict[str, Any] = {"tune": {}, "compare": {"method": ["afp"]}, "seeds": list(range(num_trials))}
    study = make_study(runtime={"concurrency": None, **runtime}, **fields)
    return run(study, storage, RayExecutor(study.runtime), run_trial=f"ray_trials:{run_trial}")


def spread(nodes: Nodes, storage: Path) -> dict[str, Any]:
    """Four trials on two nodes of one CPU each."""
    ids = nodes.of_one_cpu(2)
    return told(storage, study_of("in_twos", storage, num_trials=4), nodes=ids)


def group(nodes: Nodes, storage: Path) -> dict[str, Any]:
    """A trial of two workers, on two nodes of one CPU each."""
    ids = nodes.of_one_cpu(2)
    return told(storage, study_of("group_where", storage, workers_per_trial=2), nodes=ids)


def removed(nodes: Nodes, storage: Path) -> dict[str, Any]:
    """The node of a trial is removed while it trains."""
    nodes.of_one_cpu(2)
    once_placed(storage, lambda place: nodes.remove(place["node"]))
    return told(storage, study_of("goes_on_once", storage, concurrency=1))


def drained(nodes: Nodes, storage: Path) -> dict[str, Any]:
    """The node of a trial is about to be taken away; the trial saves its state, and the node goes."""
    nodes.of_one_cpu(2)
    once_placed(storage, lambda place: nodes.drain(place["node"]))
    return told(storage, study_of("saves_when_told", storage, concurrency=1))


def outstayed(nodes: Nodes, storage: Path) -> dict[str, Any]:
    """Likewise, but the trial does not listen."""
    nodes.of_one_cpu(2)
    once_placed(storage, lambda place: nodes.drain(place["node"]))
    return told(storage, study_of("ignores_the_notice", storage, concurrency=1, grace_s=1))


def taken(nodes: Nodes, storage: Path) -> dict[str, Any]:
    """Likewise, and the node is gone before the trial has said anything."""
    nodes.of_one_cpu(2)

    def take(place: dict[str, Any]) -> None:
        nodes.drain(place["node"])
        nodes.remove_drained()

    once_placed(storage, take)
    return told(storage, study_of("ignores_the_notice", storage, concurrency=1))


def group_drained(nodes: Nodes, storage: Path) -> dict[str, Any]:
    """One of the two nodes of a trial is about to be taken away; there is a third."""
    nodes.of_one_cpu(3)
    once_placed(storage, lambda place: nodes.drain(place["node"]), number=2)
    return told(storage, study_of("group_saves_when_told", storage, workers_per_trial=2))


def shared_gpu(nodes: Nodes, storage: Path) -> dict[str, Any]:
    """Four trials of half a GPU each, on a node that says it has two."""
    node = nodes.cluster.add_node(node_ip_address="127.0.0.1", num_cpus=4, num_gpus=2)
    try:
        return told(storage, study_of("in_fours", storage, num_trials=4, gpus_per_worker=0.5))
    finally:
        nodes.cluster.remove_node(node, allow_graceful=False)


SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (spread, group, removed, drained, outstayed, taken, group_drained, shared_gpu)
}


def main() -> None:
    """Serve scenarios until standard input ends."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [SUPPORT, os.environ.get("PYTHONPATH", "")]))
    set_environment({"TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "1"})  # a failed group waits so long, twice
    set_environment(DRIVER_ENVIRONMENT)
    set_environment(WORKER_ENVIRONMENT)
    answers = os.dup(1)
    os.dup2(2, 1)  # Ray prints
    with tempfile.TemporaryDirectory(prefix="afp-nodes-", ignore_cleanup_errors=True) as folder, forked_by_ray():
        nodes = Nodes(folder)
        try:
            for line in sys.stdin:
                name, storage = json.loads(line)
                answer = SCENARIOS[name](nodes, Path(storage))
                os.write(answers, (json.dumps(answer) + "\n").encode())
        finally:
            import ray

            ray.shutdown()
            nodes.cluster.shutdown()


if __name__ == "__main__":
    main()
