"""Whether a machine is about to be taken away, by Ray's drain notices, and whether the head node still answers.

Ray is asked in a thread of its own, once a second: neither a step of a training nor the driver ever waits for a head
node that is gone, which Ray itself does for a minute before it ends the process.
"""

import threading
import time
from collections.abc import Mapping
from functools import cache

from afp_ray.execution.ray_internals import draining_nodes

_POLL_S = 1.0


class ClusterWatch:
    """What the connected cluster said a second ago."""

    def __init__(self) -> None:
        self._noticed: dict[str, float] = {}
        self._answered_at = time.monotonic()
        threading.Thread(target=self._watch, name="cluster-watch", daemon=True).start()

    @property
    def draining(self) -> Mapping[str, float]:
        """Nodes that are about to be taken away: seconds since the notice, by the node's id in hex."""
        now = time.monotonic()
        return {node: now - noticed for node, noticed in self._noticed.items()}

    @property
    def silent_s(self) -> float:
        """Seconds since the head node last answered."""
        return time.monotonic() - self._answered_at

    def _watch(self) -> None:
        import ray

        while True:
            if ray.is_initialized():
                self._ask()
            else:
                self._noticed, self._answered_at = {}, time.monotonic()  # there is nobody to ask
            time.sleep(_POLL_S)

    def _ask(self) -> None:
        try:
            nodes = draining_nodes()
        except Exception:  # whatever a connection that breaks in the middle raises: no answer
            return
        now = time.monotonic()
        self._answered_at = now
        self._noticed = {node: self._noticed.get(node, now) for node in nodes}


@cache
def cluster_watch() -> ClusterWatch:
    """The watch of this process, from the first call on."""
    return ClusterWatch()


def is_announced() -> bool:
    """Whether the machine of this process, one that Ray started, is about to be taken away; quick."""
    return _own_node() in cluster_watch().draining


@cache
def _own_node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())
