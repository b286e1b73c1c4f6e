"""Carries a study out: one driver writes the ledger, and an executor runs its jobs here or on a Ray cluster."""

from afp_ray.execution.adoption import find_result
from afp_ray.execution.base import Executor, JobQueue, JobSource, RunTrial
from afp_ray.execution.driver import Driver
from afp_ray.execution.local import LocalExecutor
from afp_ray.execution.stop import StopRequest

__all__ = [
    "Driver",
    "Executor",
    "JobQueue",
    "JobSource",
    "LocalExecutor",
    "RunTrial",
    "StopRequest",
    "find_result",
]
