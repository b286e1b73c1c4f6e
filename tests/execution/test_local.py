"""The executors' suite on `LocalExecutor`."""

import math
from pathlib import Path

import pytest
from executor_suite import ExecutorSuite, MakeExecutor, make_study, run

from afp_ray.errors import ConfigError, UnavailableError
from afp_ray.execution import LocalExecutor
from afp_ray.execution.cluster import connected
from afp_ray.records import TrialResult


class TestLocalExecutor(ExecutorSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def make_executor(cls) -> MakeExecutor:
        return lambda study: LocalExecutor()


def test_an_address_where_nobody_listens_is_refused_at_once() -> None:
    with pytest.raises(UnavailableError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"), connected("127.0.0.1:1"):
        pass


def test_a_metric_that_cannot_be_read_fails_its_trial_and_not_the_study(tmp_path: Path) -> None:
    def measure(result: TrialResult) -> tuple[float, dict[str, float]]:
        if result.config["seed"] == 1:
            raise ConfigError("no score answers to metric 'xnli'")
        return 0.25, {"alignment": 0.5, "uniformity": math.nan}

    study = make_study(tune={}, compare={"method": ["afp"]})
    state = run(study, tmp_path, LocalExecutor(), measure=measure)
    assert state.closed == "complete"
    failed, done = state.trials
    assert failed.failure is not None
    assert "no score answers" in failed.failure.message
    assert done.values == {"alignment": 0.5}, "what is not finite is left out"
