"""What `afp eval --json` answers with."""

from typing import Literal

from afp_ray.config import StrictModel
from afp_ray.records import Difference, TrialResult


class EvalCell(StrictModel):
    """One score with what it is read against."""

    split: Literal["validation", "test"]
    task: str
    language: str
    shots: int
    metric: str
    value: float
    n: int
    """Examples."""
    standard_error: float | None = None
    """Over examples, by content."""
    demo_deviation: float | None = None
    """Over demonstration seeds; null where there is one."""
    majority: float | None = None
    """Of always giving the most frequent right answer; null but for choice tasks."""
    base: float | None = None
    """The other model's."""
    vs_base: Difference | None = None
    """Of the main metric to the other model's, paired; p-values adjusted (Holm) over the cells of the split."""
    published: dict[str, float] = {}
    """Published values of untrained checkpoints by name: this one's, and others where they were asked for. Test rows,
    0 shots, native prompts."""
    signature: str = ""


class EvalAnswer(TrialResult):
    """The result of the model as a trial, and its scores beside baselines."""

    model: str
    folder: str
    cells: tuple[EvalCell, ...]
    base_result: TrialResult | None = None
