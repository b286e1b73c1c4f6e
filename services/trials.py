"""One trial without a study: run it, score any model as it is, run a finished one again."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from afp_ray.comparison.confirmed import arm_of_result
from afp_ray.comparison.published import BASELINES, CellKey, is_same_model, load_published
from afp_ray.comparison.trial_pairs import paired_differences
from afp_ray.config import SPLITS, TrialConfig, flatten, nest, trial_id
from afp_ray.config.document import Document
from afp_ray.config.evaluation import Split
from afp_ray.config.load import load_trial
from afp_ray.config.translate import parts_of, translate
from afp_ray.errors import ConfigError
from afp_ray.languages import is_known, unknown_language
from afp_ray.methods import METHODS
from afp_ray.records import Difference, Host, Score, TrialRequest, TrialResult
from afp_ray.reporter import Reporter
from afp_ray.store import StudyPaths, TrialPaths, write_json
from afp_ray.trial.check import check_trial, fingerprints
from afp_ray.trial.run import run_trial
from services.schemas import EvalAnswer, EvalCell, Reproduction
from services.trial_references import find_trial

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
            if not is_known(code):
                problem, allowed, fix = parts_of(f"language {unknown_language(code)}")
                raise ConfigError(problem, where=option, allowed=allowed, fix=fix)
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
        field = ".".join(map(str, first["loc"])).removeprefix("evaluation.")
        option = field.split(".")[0].replace("_", "-")
        mistake = translate(first, Document(name="", lines=[], values={}), model=TrialConfig)
        where = f"--{option}" if option else ""
        raise ConfigError(mistake.problem, where=where, allowed=mistake.allowed, fix=mistake.fix) from error
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
    published = _published(result, model, all_published)
    cells = []
    for split in result.splits:
        own = [score for score in result.scores if score.split == split]
        theirs = {_key(score): score for score in base.scores} if base is not None else {}
        differences = _differences(result, base, paths, own, split) if base is not None else [None] * len(own)
        for score, difference in zip(own, differences, strict=True):
            cell = (score.task, score.language, score.shots)
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
                    published={name: row[cell] for name, row in published.items() if cell in row} if is_shown else {},
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
    arm, other = (arm_of_result(paths, trial, split=split, name="model") for trial in (result, base))
    return paired_differences(arm, other, scores)


def run_file(file: str, sets: Sequence[str], storage: Path, *, reporter: Reporter) -> TrialResult:
    """Run one trial file in this process; its folder is `<storage>/trials/<trial id>`."""
    config = load_trial(file, sets, methods=METHODS)
    check_trial(config)
    return _run(config, storage, splits=("validation", "test"), reporter=reporter)


def evaluate(
    config: TrialConfig,
    storage: Path,
    *,
    reporter: Reporter,
    base: TrialConfig | None = None,
    splits: Sequence[Split] = ("validation", "test"),
    all_published: bool = False,
) -> EvalAnswer:
    """Score any causal LM as it is: a trial of the method `base`, stored and found again like every other.

    Args:
        config: what is scored, of `eval_config`.
        storage: its folder is `<storage>/trials/<trial id>`.
        reporter: hears how far it is.
        base: another model on the same rows.
        splits: rows to score.
        all_published: whether published values of other checkpoints are given too.
    Raises: UserError for a model, task, language or file that cannot be scored.
    """
    for model in (config, base) if base is not None else (config,):
        check_trial(model, splits=splits)
    result = _run(config, storage, splits=splits, reporter=reporter)
    other = _run(base, storage, splits=splits, reporter=reporter) if base is not None else None
    root = storage.resolve()
    return eval_answer(result, StudyPaths(root.parent, root.name), base=other, all_published=all_published)


def reproduce(identity: str, storage: Path, *, tolerance: float, reporter: Reporter) -> Reproduction:
    """Run a stored trial again from its own configuration, elsewhere, and compare every score.

    Args:
        identity: the first digits of its id, or `STUDY:ARM`.
        storage: folder of the studies.
        tolerance: largest difference of a score that still counts as the same.
        reporter: hears how far it is.
    Raises: UserError when no stored trial, or more than one, is meant; DataError when it has no result.
    """
    stored = find_trial(identity, storage).result()
    config = TrialConfig.model_validate(stored.config)
    check_trial(config)
    with tempfile.TemporaryDirectory(prefix="afp-reproduce-") as folder:
        splits = tuple(split for split in SPLITS if split in stored.splits)
        request = TrialRequest(config=config, trial_id=stored.trial_id, splits=splits)
        host = Host(
            reporter=reporter,
            num_threads=int(stored.environment.get("threads", "1")),  # sums round otherwise with another number
            caches_scores=False,  # what was answered before proves nothing
        )
        again = run_trial(request, Path(folder), host)
    assert again is not None
    differences = _score_differences(stored, again)
    largest = max(differences.values(), default=0.0)
    is_same = largest <= tolerance and len(differences) == len(stored.scores)
    return Reproduction(trial_id=stored.trial_id, reproduced=is_same, largest_difference=largest, scores=differences)


def _score_differences(stored: TrialResult, again: TrialResult) -> dict[str, float]:
    def by_name(result: TrialResult) -> dict[str, float]:
        return {
            f"{score.split} {score.task}/{score.language} {score.shots}-shot {score.metric}": score.value
            for score in result.scores
        }

    ours = by_name(again)
    return {name: abs(value - ours[name]) for name, value in by_name(stored).items() if name in ours}


def _run(config: TrialConfig, storage: Path, *, splits: Sequence[Split], reporter: Reporter) -> TrialResult:
    identity = trial_id(config, fingerprints(config))
    folder = storage / "trials" / identity
    write_json(TrialPaths(folder).config, config.model_dump(mode="json"))
    request = TrialRequest(config=config, trial_id=identity, splits=tuple(splits))
    result = run_trial(request, folder, Host(reporter=reporter))
    assert result is not None
    return result
