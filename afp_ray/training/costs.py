"""Adds up what a trial costs in device-hours: its steps, its scorings and all else, over every attempt."""

from afp_ray.records import TrainingSummary, TrialResult


def with_costs(
    summary: TrainingSummary,
    stored: TrialResult | None,
    paused: TrialResult | None,
    *,
    seconds: float,
    scoring_s: float,
    workers: int,
) -> TrainingSummary:
    """The summary of a training, with the hours of the attempt that ends now.

    Args:
        summary: its `gpu_hours` are those of earlier attempts; of a trial that was paused, those of its steps alone.
        stored: the result of the trial, where it is scored again.
        paused: its result at the last rung, where it was trained on from there.
        seconds: of this attempt, the steps that it did included.
        scoring_s: of them those of scoring.
        workers: of this attempt.
    """
    held = summary.gpu_hours + seconds * workers / 3600
    if paused is not None:
        apart = paused.hours(workers)
        held += apart.evaluation + (apart.startup or 0.0)
    earlier = stored or paused
    scored = 0.0 if earlier is None else earlier.training.evaluation_hours
    if scored is not None:  # an earlier result that does not tell its scoring from the rest leaves the sum unknown
        scored += scoring_s * workers / 3600
    return summary.model_copy(update={"gpu_hours": held, "evaluation_hours": scored, "workers": workers})
