"""The verbs about one trial or its data: `trial`, `eval`, `reproduce` and `data inspect`."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from afp_ray.config import StudyConfig, TrialConfig, flatten, nest, trial_id
from afp_ray.config.load import load_trial
from afp_ray.errors import ConfigError
from afp_ray.methods import METHODS
from afp_ray.records import TrialResult
from afp_ray.store import TrialPaths, write_json
from services.output import note, say, say_json


class LineReporter:
    """A `Reporter` that says once in a while how far a trial is."""

    def __init__(self, interval_s: float = 5.0) -> None:
        self._interval_s, self._said_at, self._stage = interval_s, 0.0, ""

    def report(self, stage: str, done: int, total: int, metrics: Mapping[str, float] = {}) -> None:
        """Print the stage, unless it was printed within the interval."""
        now = time.monotonic()
        if stage == self._stage and now - self._said_at < self._interval_s:
            return
        self._stage, self._said_at = stage, now
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        note(f"{stage} {done}/{total}  {numbers}".rstrip())


def run_single(file: str, sets: list[str], storage: Path, *, as_json: bool) -> TrialResult:
    """Run one trial file in this process; its folder is `<storage>/trials/<trial id>`."""
    return _run_and_show(load_trial(file, sets, methods=METHODS), storage, as_json=as_json)


def evaluate_model(
    model: str,
    storage: Path,
    *,
    tasks: Sequence[str],
    languages: Sequence[str],
    pivot: str,
    shots: Sequence[int],
    data_dir: str | None,
    limit: int | None,
    as_json: bool,
) -> TrialResult:
    """Score any causal LM as it is: a trial of the method `base`, kept and found again like every other.

    Raises: UserError for a model, task, language or file that cannot be scored.
    """
    others = [code for code in languages if code != pivot]
    evaluation = {
        "tasks": list(tasks),
        "languages": list(languages),
        "shots": list(shots),
        "data_dir": data_dir,
        "limit": limit,
        "representation": None,
    }
    fields = {"method": "base", "model": {"name": model}, "evaluation": evaluation}
    fields |= {"data": {"pivot": pivot, "languages": others}} if others else {"data": {"pivot": pivot}}
    try:
        config = TrialConfig.model_validate(nest({**flatten(fields), **METHODS["base"]}))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])).removeprefix("evaluation.")
        raise ConfigError(f"{first['input']!r}: {first['msg']}", where=f"--{place.split('.')[0]}") from error
    return _run_and_show(config, storage, as_json=as_json)


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
    from afp_ray.trial import check_trial, run_trial

    check_trial(config)
    with tempfile.TemporaryDirectory(prefix="afp-reproduce-") as folder:
        again = run_trial(
            config,
            trial_id=stored.trial_id,
            folder=Path(folder),
            splits=stored.splits,
            reporter=LineReporter(),
            num_threads=int(stored.environment.get("threads", "1")),  # sums round otherwise with another number
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
    return TrialResult.model_validate_json(files[0].read_bytes())


def _differences(stored: TrialResult, again: TrialResult) -> dict[str, float]:
    def by_name(result: TrialResult) -> dict[str, float]:
        return {
            f"{score.split} {score.task}/{score.language} {score.shots}-shot {score.metric}": score.value
            for score in result.scores
        }

    ours = by_name(again)
    return {name: abs(value - ours[name]) for name, value in by_name(stored).items() if name in ours}


def _run_and_show(config: TrialConfig, storage: Path, *, as_json: bool) -> TrialResult:
    from afp_ray.trial import check_trial, fingerprints, run_trial

    check_trial(config)
    identity = trial_id(config, fingerprints(config))
    folder = storage / "trials" / identity
    write_json(TrialPaths(folder).config, config.model_dump(mode="json"))
    result = run_trial(config, trial_id=identity, folder=folder, splits=("validation", "test"), reporter=LineReporter())
    assert result is not None
    if as_json:
        say_json(result)
        return result
    for score in result.scores:
        name = f"{score.task}/{score.shots}" if score.task != "retrieval" else score.task
        error = f" ±{score.standard_error:.4f}" if score.standard_error is not None else ""
        say(
            f"{score.split:<10} {name:<14} {score.language:<3} {score.metric:<12} {score.value:.4f}{error}  n {score.n}"
        )
    for warning in result.warnings:
        say(f"warning: {warning}")
    say(f"{identity}  {result.seconds:.1f} s   {folder}")
    return result


def inspect_data(study: StudyConfig) -> dict[str, Any]:
    """How many rows the sources of a study hold per language, with a pair of each."""
    from afp_ray.config import DataConfig, flatten, nest
    from afp_ray.data.sources import load_instructions, load_pairs

    fields = nest({name: value for name, value in flatten(study.fixed).items() if name.startswith("data.")})
    data = DataConfig.model_validate(fields.get("data", {}))
    pairs, instructions = load_pairs(data), load_instructions(data)
    languages: dict[str, dict[str, Any]] = {}
    for code in data.languages:
        own = [pair for pair in pairs if code in (pair.source_language, pair.target_language)]
        languages[code] = {
            "pairs": len(own),
            "instructions": sum(code in row.prompts for row in instructions),
            "example": [own[0].source, own[0].target] if own else [],
        }
    return {
        "pivot": data.pivot,
        "num_pairs": len(pairs),
        "num_instructions": len(instructions),
        "languages": languages,
    }
