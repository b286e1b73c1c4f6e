"""What is searched, by which sampler, within which budget, and towards which objective."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from afp_ray.config.base import StrictModel

Scalar = bool | int | float | str | None
"""A value of a field: null where the field may be null."""


class _Searched(StrictModel):
    when: dict[str, tuple[Scalar, ...]] = {}
    """Fields and their values under which this one is searched, for instance `{loss.pooling: mean}`; everywhere else it
    keeps its default."""

    @field_validator("when", mode="before")
    @classmethod
    def _one_value_is_a_list(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: tuple(part) if isinstance(part, list | tuple) else (part,) for name, part in value.items()}

    @field_validator("when")
    @classmethod
    def _names_values(cls, value: dict[str, tuple[Scalar, ...]]) -> dict[str, tuple[Scalar, ...]]:
        for name, values in value.items():
            if not values:
                raise ValueError(f"the condition on {name} allows no value; give at least one")
        return value


class RangeSpec(_Searched):
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


class ChoiceSpec(_Searched):
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


class FurtherObjective(StrictModel):
    """A metric, and which way is better."""

    metric: str
    """As `objective.metric`."""
    direction: Literal["maximize", "minimize"] = "maximize"


class ObjectiveConfig(StrictModel):
    """What the search maximizes or minimizes."""

    metric: str = "mean"
    """`mean` (every task, mean over the non-pivot languages), `pivot_mean`, a task (`xcopa`), a task and language
    (`xcopa/th`), `retrieval@1`, `alignment` or `uniformity`."""
    split: Literal["validation"] = "validation"
    """Always validation: the test split is read once, by the report alone."""
    direction: Literal["maximize", "minimize"] = "maximize"
    also: tuple[FurtherObjective, ...] = ()
    """Objectives beside the first: the search then looks for the Pareto front of all of them."""

    @model_validator(mode="after")
    def _metrics_differ(self) -> Self:
        names = [self.metric, *(goal.metric for goal in self.also)]
        if len(set(names)) != len(names):
            raise ValueError(f"objective and objective.also repeat a metric: {names}")
        return self

    @property
    def goals(self) -> tuple[FurtherObjective, ...]:
        """Every objective, the first one first."""
        return (FurtherObjective(metric=self.metric, direction=self.direction), *self.also)


class ConstraintConfig(StrictModel):
    """A limit that a configuration has to keep to be chosen: `{metric: pivot_mean, max_drop: 0.02}`."""

    metric: str
    """As `objective.metric`, on validation."""
    min: float | None = None
    """Smallest value allowed."""
    max: float | None = None
    """Largest value allowed."""
    max_drop: Annotated[float, Field(ge=0)] | None = None
    """Largest loss against the arm `base` of the same study: the guard against forgetting. Needs that arm."""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.min is None and self.max is None and self.max_drop is None:
            raise ValueError(f"the constraint on {self.metric!r} limits nothing; give min, max or max_drop")
        return self


class PrunerConfig(StrictModel):
    """Early stopping of search trials: `asha` scores a trial at rungs and continues the better ones alone."""

    name: Literal["none", "asha"] = "none"
    unit: Literal["steps", "tokens", "rows"] = "steps"
    """What rungs count of a trial's training: optimizer steps, real tokens, or rows read (data size)."""
    min: int | None = Field(default=None, ge=1)
    """Amount at the first rung; null takes the whole training divided by factor squared."""
    factor: int = Field(default=3, ge=2, le=1_000_000)
    """Each rung is so many times the one before, and one in so many trials is continued to it."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class SamplerConfig(StrictModel):
    """How the next configuration is drawn."""

    name: Literal["tpe", "random", "grid", "nsga2"] = "tpe"
    """`tpe` and `nsga2` model several objectives and constraints too; `nsga2` is for several objectives."""
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    startup_trials: int = Field(default=4, ge=1, le=100_000)
    """Random draws before TPE models the scores."""
    population: int | None = Field(default=None, ge=2, le=100_000)
    """Trials of one generation of `nsga2`, the first of them random; null takes an eighth of `budget.trials`, at least
    4 and at most 50."""


class BudgetConfig(StrictModel):
    """Where a study stops."""

    trials: int = Field(default=8, ge=1, le=100_000)
    """Search trials per arm, the same for every arm so that the comparison is fair; confirming seeds come on top."""
    gpu_hours: Annotated[float, Field(gt=0, le=1e12)] | None = None
    """Stop starting trials after so many device-hours (of GPUs, or of workers where there is no GPU), of training,
    evaluation and start-up alike."""
    wall_s: Annotated[float, Field(gt=0, le=1e12)] | None = None
    """Stop starting trials after so many seconds of wall time of one driver."""
