"""How a study is carried out; nothing here changes a score."""

import math
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from afp_ray.config.base import StrictModel
from afp_ray.config.training import MAX_BATCH_SIZE
from afp_ray.redaction import remember, remember_secret

MAX_SECONDS = 1_000_000_000
"""Thirty years; the system's clocks take no wait of any length."""


class TrainingRuntime(StrictModel):
    """How one worker trains: memory, checkpoints and what is watched."""

    micro_batch_size: int | None = Field(default=None, ge=1, le=MAX_BATCH_SIZE)
    """Instructions per forward pass of one worker; null takes the worker's whole share of the batch. Either is halved
    when memory runs out, and the result says so."""
    pair_chunk_size: int | None = Field(default=None, ge=1, le=MAX_BATCH_SIZE)
    """Pairs per forward pass of one worker; the gradient stays that of the whole batch (gradient caching, at the price
    of a second forward). null takes all at once, and is halved when memory runs out."""
    sharding: Literal["none", "full"] = "none"
    """`full` shards weights, gradients and optimizer state over the workers of a trial (FSDP2)."""
    gradient_checkpointing: bool = False
    """Recompute the states inside each block in the backward pass instead of keeping them."""
    checkpoint_every_s: Annotated[float, Field(gt=0, le=MAX_SECONDS)] | None = 300.0
    """Seconds between two resumable checkpoints of a running trial; null keeps none."""
    keep_last: int = Field(default=2, ge=1, le=1_000_000)
    """Resumable checkpoints of a running trial that are kept; a damaged one is passed over for the one before."""
    step: Literal["auto", "graph", "compile", "eager"] = "auto"
    """`graph` records a training step on a CUDA device and replays it, which spares the host's part of it, and
    compiles the blocks of the model where a training is long enough to pay that back; `compile` always compiles them,
    which takes up to a minute; `eager` does neither, and so does `auto` until both have been run on a card. The result
    says which it was, and why."""
    profile_steps: int = Field(default=0, ge=0, le=1_000_000)
    """Write a Chrome trace of so many steps, from the third on, beside the trial's log."""
    decoding: Literal["eager", "graph"] = "eager"
    """`graph` captures the steps that write texts as CUDA graphs where they give the same logits; where they do not,
    or the device is none of CUDA, a warning in the result says so. It has not been run on a card yet, so that `eager`
    is the default."""


class RuntimeConfig(TrainingRuntime):
    """Executor, resources and tracking."""

    executor: Literal["ray", "local"] = "ray"
    """`ray`: trials on a Ray cluster; `local`: one after another in this process."""
    concurrency: int | None = Field(default=None, ge=1, le=100_000)
    """Trials at the same time; null takes what the cluster has room for."""
    workers_per_trial: int = Field(default=1, ge=1, le=100_000)
    """Data-parallel workers of one trial; from two up they are a Ray Train worker group."""
    gpus_per_worker: float = Field(default=0, ge=0, le=1000)
    """GPUs of one worker; a fraction lets trials share a GPU."""
    cpus_per_worker: float = Field(default=1, gt=0, le=100_000)
    """CPUs of one worker; also its number of torch threads (at least 1)."""
    max_retries: int = Field(default=2, ge=0, le=1_000_000)
    """Fresh attempts of a trial whose worker or node died or hung; a trial that raised is not tried again."""
    hang_s: Annotated[float, Field(gt=0, le=MAX_SECONDS)] | None = 1800.0
    """A trial that reports no progress for so long is taken for hung: its worker is ended and it is tried again. null
    waits for ever."""
    start_s: Annotated[float, Field(gt=0, le=MAX_SECONDS)] | None = 900.0
    """A trial whose workers do not get their resources within so many seconds is given back to the queue, with the
    reason; null waits for ever."""
    grace_s: Annotated[float, Field(gt=0, le=MAX_SECONDS)] = 60.0
    """Seconds that a trial has to save its state once its machine says that it will be taken away."""
    keep_checkpoints: Literal["confirmed", "all", "none"] = "confirmed"
    """Which checkpoints stay on disk once an arm is decided."""
    tracking_uri: str | None = None
    """MLflow tracking URI; null is the environment's MLFLOW_TRACKING_URI, else `sqlite:///` beside the runs."""

    notify: str | tuple[str, ...] | None = None
    """Told once when the study has ended, whatever the end: a URL (http or https) that gets a small JSON document by
    POST, or a command as a list of its arguments, which gets it on standard input. A study never fails for it."""

    @field_validator("notify")
    @classmethod
    def _can_be_told(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        """A webhook's address is its password, so it is hidden as a whole wherever this process writes."""
        if isinstance(value, str):
            remember(value)
            remember_secret(value)
            parts = urlsplit(value)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(
                    "`notify` is a URL (http://HOST/..., https://HOST/...), or a command as a list: [mail-me, --short]"
                )
        elif value is not None and not (value and all(value)):
            raise ValueError("`notify` has no command; give its arguments as a list, or null")
        return value

    @field_validator("tracking_uri")
    @classmethod
    def _secrets_are_known(cls, value: str | None) -> str | None:
        """Whoever reads a study knows from then on what must not leave this process."""
        remember(value or "")
        return value

    @model_validator(mode="after")
    def _gpus_can_be_given(self) -> Self:
        if self.gpus_per_worker > 1 and not self.gpus_per_worker.is_integer():
            raise ValueError(
                f"gpus_per_worker {self.gpus_per_worker:g}: trials can share one GPU, several are given whole; write "
                f"{math.floor(self.gpus_per_worker)} or {math.ceil(self.gpus_per_worker)}"
            )
        if self.workers_per_trial > 1 and 0 < self.gpus_per_worker < 1:
            raise ValueError(
                f"gpus_per_worker {self.gpus_per_worker:g} with {self.workers_per_trial} workers: NCCL lets no two "
                "workers of a trial share a GPU; write 1, or set workers_per_trial to 1"
            )
        return self

    @property
    def num_workers(self) -> int:
        """Workers that a trial has: the local executor trains in one, whatever their number."""
        return 1 if self.executor == "local" else self.workers_per_trial

    @property
    def of_training(self) -> TrainingRuntime:
        """The part that the worker of a trial needs."""
        return TrainingRuntime.model_validate({name: getattr(self, name) for name in TrainingRuntime.model_fields})
