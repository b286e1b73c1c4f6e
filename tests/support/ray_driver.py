"""A driver of one fake trial with a Ray cluster of its own, in a process that a test may break."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

SUPPORT = str(Path(__file__).parent)
sys.path[:0] = [SUPPORT, str(Path(SUPPORT).parents[1])]

from executor_suite import make_study, run  # noqa: E402

from afp_ray.errors import AfpError  # noqa: E402
from afp_ray.execution import cluster  # noqa: E402
from afp_ray.execution.ray_executor import RayExecutor  # noqa: E402


def main(storage: str, run_trial: str, options: str) -> int:
    """Run the study under `storage`; 75 for an error of this package, as the command line has it.

    Args:
        options: JSON: `runtime` of the study; `store_bytes` of the object store, of which `filled_bytes` are taken
            before the study begins.
    """
    given: dict[str, Any] = json.loads(options)
    fields: dict[str, Any] = {"tune": {}, "compare": {"method": ["afp"]}, "seeds": [1]}
    study = make_study(runtime=given.get("runtime", {}), **fields)
    cluster._OBJECT_STORE_BYTES = given.get("store_bytes", cluster._OBJECT_STORE_BYTES)
    try:
        with cluster.connected(None) if "filled_bytes" in given else nullcontext():
            kept = fill(given.get("filled_bytes", 0))
            run(study, Path(storage), RayExecutor(study.runtime), run_trial=f"ray_trials:{run_trial}")
            del kept
    except AfpError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return 75
    return 0


def fill(num_bytes: int) -> Any:
    """Take so much of the object store, for as long as the answer is kept."""
    import ray

    return ray.put(b"x" * num_bytes) if num_bytes else None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
