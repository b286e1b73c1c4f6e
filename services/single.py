"""The verbs about one trial or its data: `trial` and `data inspect`."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from afp_ray.config import StudyConfig, trial_id
from afp_ray.config.load import load_trial
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
    config = load_trial(file, sets, methods=METHODS)
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
        say(f"{score.split:<10} {score.task:<12} {score.language:<3} {score.metric:<12} {score.value:.4f}  n {score.n}")
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
