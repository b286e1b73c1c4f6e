"""The executors' suite on `LocalExecutor`."""

import pytest
from conformance.executor_suite import ExecutorSuite, MakeExecutor

from afp_ray.execution import LocalExecutor


class TestLocalExecutor(ExecutorSuite):
    @pytest.fixture
    def make_executor(self) -> MakeExecutor:
        return lambda study: LocalExecutor()
