"""What is searched, by which sampler, within which budget, and towards which objective."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from afp_ray.config.base import StrictModel

Scalar = bool | int | float | str


class RangeSpec(StrictModel):
    """A numeric range, ends included: `{low: 0.01, high: 0.5, log: true}`."""

    low: float
    high: float
    log: bool = False
    """Sample the logarithm; needs low > 0."""
    int: bool = False
    """Sample whole numbers."""
    step: float | None = Field(default=None, gt=0)
    """Distance between values; not together with `log`."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}; swap them")
        if self.log and self.low <= 0:
            raise ValueError(f"low = {self.low:g} is not > 0 (log scale); use a positive low, or log: false")
        if self.log and self.step is not None:
            raise ValueError("`log` and `step` exclude each other; choose one")
        if self.int and (self.low != math.floor(self.low) or self.high != math.floor(self.high)):
            raise ValueError(f"int range needs whole ends, got {self.low:g} and {self.high:g}")
        if self.step is not None:
            steps = (self.high - self.low) / self.step
            if abs(steps - round(steps)) > 1e-9:
                raise ValueError(f"step {self.step:g} does not divide high - low = {self.high - self.low:g}")
        return self


class ChoiceSpec(StrictModel):
    """A list of values: `{choices: [last, mean]}`."""

    choices: tuple[Scalar, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _choices_differ(self) -> Self:
        if len({(type(value), value) for value in self.choices}) != len(self.choices):
            raise ValueError(f"choices repeat a value: {list(self.choices)}")
        return self


def _spec_kind(value: Any) -> str:
    keys = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return "choices" if "choices" in keys else "range"


TuneSpec = RangeSpec | ChoiceSpec


class ObjectiveConfig(StrictModel):
    """What the search maximizes or minimizes."""

    metric: str = "mean"
    """`mean` (every task, mean over the non-pivot languages), `pivot_mean`, a task (`xcopa`), a task and language
    (`xcopa/th`), `retrieval@1`, `alignment` or `uniformity`."""
    split: Literal["validation"] = "validation"
    """Always validation: the test split is read once, by the report alone."""
    direction: Literal["maximize", "minimize"] = "maximize"


class SamplerConfig(StrictModel):
    """How the next configuration is drawn."""

    name: Literal["tpe", "random", "grid"] = "tpe"
    seed: int = Field(default=0, ge=0)
    startup_trials: int = Field(default=4, ge=1)
    """Random draws before TPE models the scores."""


class BudgetConfig(StrictModel):
    """Where a study stops."""

    trials: int = Field(default=8, ge=1, le=100_000)
    """Search trials per arm, the same for every arm so that the comparison is fair; confirming seeds come on top."""
    gpu_hours: Annotated[float, Field(gt=0)] | None = None
    """Stop starting trials after so many GPU-hours (device-hours of CPU trials where there is no GPU)."""
    wall_s: Annotated[float, Field(gt=0)] | None = None
    """Stop starting trials after so many seconds of wall time of one driver."""
