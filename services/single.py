"""The verbs about one trial: `trial`, `eval` and `reproduce`."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from afp_ray.config import TrialConfig, trial_id
from afp_ray.config.load import load_trial
from afp_ray.errors import ConfigError
from afp_ray.methods import METHODS
from afp_ray.records import Score, TrialResult
from afp_ray.reporter import Pace
from afp_ray.store import StudyPaths, TrialPaths, read_result, write_json
from services.eval_schemas import EvalAnswer
from services.evaluating import eval_answer
from services.output import note, say, say_json
from services.progress import clock
from services.showing_eval import show_eval


class LineReporter:
    """A `Reporter` that says once in a while how far a trial is."""

    def __init__(self, interval_s: float = 5.0) -> None:
        self._interval_s, self._said_at, self._stage = interval_s, 0.0, ""
        self._pace = Pace()

    def report(self, stage: str, done: int, total: int, metrics: Mapping[str, float] = {}) -> None:
        """Print the stage, unless it was printed within the interval."""
        now, left_s = time.monotonic(), self._pace.left_s(stage, done, total)
        if stage == self._stage and now - self._said_at < self._interval_s:
            return
        self._stage, self._said_at = stage, now
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        eta = f"  eta {clock(left_s)}" if left_s else ""
        note(f"{stage} {done}/{total}{eta}  {numbers}".rstrip())


def run_single(file: str, sets: list[str], storage: Path, *, as_json: bool) -> TrialResult:
    """Run one trial file in this process; its folder is `<storage>/trials/<trial id>`."""
    return _run_and_show(load_trial(file, sets, methods=METHODS), storage, as_json=as_json)


def evaluate_model(
    config: TrialConfig,
    storage: Path,
    *,
    base: TrialConfig | None = None,
    splits: Sequence[Literal["validation", "test"]] = ("validation", "test"),
    all_published: bool = False,
    as_json: bool = False,
) -> EvalAnswer:
    """Score any causal LM as it is: a trial of the method `base`, kept and found again like every other.

    Args:
        config: what is scored, of `services.evaluating.eval_config`.
        storage: its folder is `<storage>/trials/<trial id>`.
        base: another model on the same rows.
        splits: rows to score.
        all_published: whether published values of other checkpoints are shown too.
        as_json: answer as JSON.
    Raises: UserError for a model, task, language or file that cannot be scored.
    """
    from afp_ray.trial.run import check_trial

    for one in (config, base) if base is not None else (config,):
        check_trial(one, splits=splits)
    result = _run(config, storage, splits=splits)
    other = _run(base, storage, splits=splits) if base is not None else None
    root = storage.resolve()
    answer = eval_answer(result, StudyPaths(root.parent, root.name), base=other, all_published=all_published)
    say_json(answer) if as_json else show_eval(answer)
    return answer


def reproduce(identity: str, storage: Path, *, tolerance: float, as_json: bool) -> bool:
    """Run a stored trial again from its own configuration, elsewhere, and compare every score.

    Args:
        identity: trial id, or the first digits of one.
        storage: folder of the studies.
        tolerance: largest difference of a score that still counts as the same.
        as_json: answer as JSON.
    Returns: whether every score is within `tolerance`.
    Raises: ConfigError when no stored trial, or more than one, has that id.
    """
    stored = _stored_trial(identity, storage)
    config = TrialConfig.model_validate(stored.config)
    from afp_ray.trial.run import check_trial, run_trial

    check_trial(config)
    with tempfile.TemporaryDirectory(prefix="afp-reproduce-") as folder:
        again = run_trial(
            config,
            trial_id=stored.trial_id,
            folder=Path(folder),
            splits=stored.splits,
            reporter=LineReporter(),
            num_threads=int(stored.environment.get("threads", "1")),  # sums round otherwise with another number
            keep_scores=False,  # what was answered before proves nothing
        )
    assert again is not None
    differences = _differences(stored, again)
    worst = max(differences.values(), default=0.0)
    is_same = worst <= tolerance and len(differences) == len(stored.scores)
    if as_json:
        say_json(
            {"trial_id": stored.trial_id, "reproduced": is_same, "largest_difference": worst, "scores": differences}
        )
        return is_same
    for name, difference in differences.items():
        if difference > tolerance:
            say(f"{name} differs by {difference:.4g}")
    verdict = "reproduced" if is_same else "NOT reproduced"
    say(f"{stored.trial_id}  {verdict}: {len(differences)} scores, largest difference {worst:.3g} of {tolerance:g}")
    return is_same


def _stored_trial(identity: str, storage: Path) -> TrialResult:
    files = sorted({file.parent.name: file for file in storage.glob(f"**/trials/{identity}*/result.json")}.values())
    if len(files) != 1:
        raise ConfigError(
            f"{len(files)} finished trials begin with {identity!r}",
            where=str(storage),
            allowed="one trial id, or as many of its first digits as name one",
            fix="`afp status STUDY --json` and the report list the ids",
        )
    return read_result(files[0])


def _differences(stored: TrialResult, again: TrialResult) -> dict[str, float]:
    def by_name(result: TrialResult) -> dict[str, float]:
        return {
            f"{score.split} {score.task}/{score.language} {score.shots}-shot {score.metric}": score.value
            for score in result.scores
        }

    ours = by_name(again)
    return {name: abs(value - ours[name]) for name, value in by_name(stored).items() if name in ours}


def _run_and_show(config: TrialConfig, storage: Path, *, as_json: bool) -> TrialResult:
    from afp_ray.trial.run import check_trial

    check_trial(config)
    result = _run(config, storage, splits=("validation", "test"))
    if as_json:
        say_json(result)
        return result
    for score in result.scores:
        say(_score_line(score))
    for warning in result.warnings:
        say(f"warning: {warning}")
    say(f"{result.trial_id}  {result.seconds:.1f} s   {storage / 'trials' / result.trial_id}")
    return result


def _run(config: TrialConfig, storage: Path, *, splits: Sequence[Literal["validation", "test"]]) -> TrialResult:
    from afp_ray.trial.run import fingerprints, run_trial

    identity = trial_id(config, fingerprints(config))
    folder = storage / "trials" / identity
    write_json(TrialPaths(folder).config, config.model_dump(mode="json"))
    result = run_trial(config, trial_id=identity, folder=folder, splits=splits, reporter=LineReporter())
    assert result is not None
    return result


def _score_line(score: Score) -> str:
    name = f"{score.task}/{score.shots}" if score.task != "retrieval" else score.task
    error = f" ±{score.standard_error:.4f}" if score.standard_error is not None else ""
    signature = f"  {score.signature}" if score.signature else ""
    value = f"{score.metric:<12} {score.value:.4f}{error}  n {score.n}"
    return f"{score.split:<10} {name:<14} {score.language:<3} {value}{signature}"
