"""How a study is carried out; nothing here changes a score."""

from typing import Literal

from pydantic import Field

from afp_ray.config.base import StrictModel


class RuntimeConfig(StrictModel):
    """Executor, resources and tracking."""

    executor: Literal["ray", "local"] = "ray"
    """`ray`: trials on a Ray cluster; `local`: one after another in this process."""
    concurrency: int | None = Field(default=None, ge=1)
    """Trials at the same time; null takes what the cluster has room for."""
    workers_per_trial: int = Field(default=1, ge=1)
    """Data-parallel workers of one trial; from two up they are a Ray Train worker group."""
    gpus_per_worker: float = Field(default=0, ge=0)
    """GPUs of one worker; a fraction lets trials share a GPU."""
    cpus_per_worker: float = Field(default=1, gt=0)
    """CPUs of one worker; also its number of torch threads (at least 1)."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Instructions per forward pass of one worker; null takes the worker's whole share of the batch."""
    max_retries: int = Field(default=2, ge=0)
    """Fresh attempts of a trial whose worker or node died; a trial that raised is not tried again."""
    keep_checkpoints: Literal["confirmed", "all", "none"] = "confirmed"
    """Which checkpoints stay on disk once an arm is decided."""
    tracking_uri: str | None = None
    """MLflow tracking URI; null is the environment's MLFLOW_TRACKING_URI, else `sqlite:///` beside the runs."""
