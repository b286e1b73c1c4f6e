"""The fixture that several rooms share: one Ray cluster for the session, whose workers can import what tests can."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = str(Path(__file__).parent)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """The address of a cluster of two CPUs with its own ports and folder, shared since starting one takes seconds."""
    from afp_ray.execution.cluster import DRIVER_ENVIRONMENT, WORKER_ENVIRONMENT, set_environment, start_local

    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [TESTS, os.environ.get("PYTHONPATH", "")]))
    set_environment(DRIVER_ENVIRONMENT)
    set_environment(WORKER_ENVIRONMENT)
    import ray

    with tempfile.TemporaryDirectory(prefix="afp-test-", ignore_cleanup_errors=True) as folder:
        start_local(folder, num_cpus=2)
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()
