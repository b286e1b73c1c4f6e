"""The executors' suite on `LocalExecutor`."""

import pytest
from conformance.executor_suite import ExecutorSuite, MakeExecutor

from afp_ray.errors import UnavailableError
from afp_ray.execution import LocalExecutor
from afp_ray.execution.cluster import connected


class TestLocalExecutor(ExecutorSuite):
    @pytest.fixture
    def make_executor(self) -> MakeExecutor:
        return lambda study: LocalExecutor()


def test_an_address_where_nobody_listens_is_refused_at_once() -> None:
    with pytest.raises(UnavailableError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"), connected("127.0.0.1:1"):
        pass
