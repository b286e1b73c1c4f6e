"""The verb `eval`: any causal LM scored as it is, beside the majority, another model and published baselines."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from afp_ray.comparison.confirmed import ConfirmedArm, arm_of_result
from afp_ray.comparison.metric import measure_under
from afp_ray.comparison.published import BASELINES, CellKey, is_same_model, load_published
from afp_ray.comparison.wording import adjust
from afp_ray.config import TrialConfig, flatten, nest
from afp_ray.config.load import load_trial
from afp_ray.errors import ConfigError
from afp_ray.languages import LANGUAGES, unknown_language
from afp_ray.methods import METHODS
from afp_ray.records import Difference, Score, TrialResult
from afp_ray.store import StudyPaths
from services.eval_schemas import EvalAnswer, EvalCell

_SETTABLE = ("evaluation.", "model.", "data.pivot")
_Key = tuple[str, str, str, int, str]
"""Split, task, language, number of shots and metric."""


def eval_config(
    model: str,
    *,
    tasks: Sequence[str],
    languages: Sequence[str],
    pivot: str,
    shots: Sequence[int],
    demo_seeds: Sequence[int],
    data_dir: str | None,
    limit: int | None,
    sets: Sequence[str] = (),
) -> TrialConfig:
    """The trial of the method `base` that scores a model.

    Args:
        model: embedded, smollm2, a local folder or a hub id.
        tasks, languages, pivot, shots, demo_seeds, data_dir, limit: fields of the same names.
        sets: `evaluation.<field>=value` or `model.<field>=value` each, over the others.
    Raises: ConfigError naming the option whose value does not fit.
    """
    for option, codes in (("--pivot", [pivot]), ("--languages", languages)):
        for code in codes:
            if code not in LANGUAGES:
                raise ConfigError(unknown_language(code), where=option)
    others = [code for code in languages if code != pivot]
    evaluation = {
        "tasks": list(tasks),
        "languages": list(languages),
        "shots": list(shots),
        "demo_seeds": list(demo_seeds),
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
        option = place.split(".")[0].replace("_", "-")
        message = first["msg"].removeprefix("Value error, ")
        # What a whole section got says nothing; the message of its rule names the value.
        shown = message if isinstance(first["input"], dict | TrialConfig) else f"{first['input']!r}: {message}"
        raise ConfigError(shown, where=f"--{option}" if option else "") from error
    return _with_sets(config, sets) if sets else config


def _with_sets(config: TrialConfig, sets: Sequence[str]) -> TrialConfig:
    for override in sets:
        if not override.strip().startswith(_SETTABLE):
            raise ConfigError(
                f"{override.partition('=')[0].strip()!r} is nothing that an evaluation reads",
                where=f"--set {override}",
                allowed="fields of evaluation and model",
                fix="write --set evaluation.generation.max_new_tokens=64",
            )
    with tempfile.TemporaryDirectory(prefix="afp-eval-") as folder:
        file = Path(folder) / "trial.json"
        file.write_text(json.dumps(config.model_dump(mode="json")), encoding="utf-8")
        return load_trial(file, sets, methods=METHODS)


def eval_answer(
    result: TrialResult,
    paths: StudyPaths,
    *,
    base: TrialResult | None = None,
    all_published: bool = False,
) -> EvalAnswer:
    """The scores of a model beside what they are read against.

    Args:
        result: what the model scored.
        paths: the folder that holds the `trials/` of both.
        base: what the other model scored on the same rows.
        all_published: whether the published values of other checkpoints are given too.
    Raises: DataError when the predictions of either cannot be read.
    """
    model = str(result.config["model"]["name"])
    known = _published(result, model, all_published)
    cells = []
    for split in result.splits:
        own = [score for score in result.scores if score.split == split]
        theirs = {_key(score): score for score in base.scores} if base is not None else {}
        differences = _differences(result, base, paths, own, split) if base is not None else [None] * len(own)
        for score, difference in zip(own, differences, strict=True):
            place = (score.task, score.language, score.shots)
            is_shown = split == "test" and score.is_main
            other = theirs.get(_key(score))
            cells.append(
                EvalCell(
                    split=score.split,
                    task=score.task,
                    language=score.language,
                    shots=score.shots,
                    metric=score.metric,
                    value=score.value,
                    n=score.n,
                    standard_error=score.standard_error,
                    demo_deviation=score.demo_deviation,
                    majority=score.majority,
                    base=other.value if other is not None else None,
                    vs_base=difference,
                    published={name: row[place] for name, row in known.items() if place in row} if is_shown else {},
                    signature=score.signature,
                )
            )
    folder = str(paths.trial(result.trial_id).folder)
    return EvalAnswer(**dict(result), model=model, folder=folder, cells=tuple(cells), base_result=base)


def _key(score: Score) -> _Key:
    return score.split, score.task, score.language, score.shots, score.metric


def _published(result: TrialResult, model: str, everything: bool) -> Mapping[str, Mapping[CellKey, float]]:
    """Published values by checkpoint; none for the embedded rows, which nobody else has."""
    if result.config["evaluation"]["data_dir"] is None:
        return {}
    table = load_published(BASELINES)
    return {
        group.label: {key: value / 100 for key, value in table.cells(group.rows[0]).items()}
        for group in table.models
        if everything or is_same_model(group.model, model)
    }


def _differences(
    result: TrialResult, base: TrialResult, paths: StudyPaths, scores: Sequence[Score], split: str
) -> list[Difference | None]:
    """Of each main score, paired over examples; None for other metrics."""
    arm, other = (arm_of_result(paths, one, split=split, name="model") for one in (result, base))
    if not arm.examples.same_as(other.examples):
        return [None] * len(scores)
    mask = _masks(arm)
    return adjust([measure_under(mask(score), arm, other) if score.is_main else None for score in scores])


def _masks(arm: ConfirmedArm) -> Callable[[Score], NDArray[np.bool_]]:
    examples = arm.examples

    def mask(score: Score) -> NDArray[np.bool_]:
        chosen = (examples.task == score.task) & (examples.language == score.language)
        return np.asarray(chosen & (examples.shots == score.shots), dtype=bool)

    return mask
