"""Refuses what would fail once a study runs, arm by arm, before anything is started or written."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from afp_ray.comparison.published import check_published
from afp_ray.config import ModelConfig, StudyConfig, TrialConfig, canonical_json
from afp_ray.config.mistakes import Refusals
from afp_ray.config.trial import NO_MODEL
from afp_ray.data.sources import describe_all
from afp_ray.errors import ConfigError, ModelError, UserError
from afp_ray.evaluation.objective import check_metric, scored_languages
from afp_ray.ledger import replay
from afp_ray.models.describe import describe, local_folder
from afp_ray.models.hub import fetch
from afp_ray.records import Failure, FailureClass, TrialStatus
from afp_ray.redaction import redact
from afp_ray.search import asked_metrics, make_arms
from afp_ray.search.arms import Arm, ends_of
from afp_ray.search.objectives import require_base
from afp_ray.store import StudyPaths
from afp_ray.tracking.location import require_tracking
from afp_ray.training.option_conflicts import check_lengths, check_together
from afp_ray.trial.check import check_trial, fingerprints

MAX_MESSAGE = 500
"""Characters of a failure's message that the ledger keeps."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What the checks of a study found.

    Attributes:
        lines: what was checked, one line each.
        unloadable: by arm, why its model cannot be loaded; the other arms can run.
    """

    lines: tuple[str, ...] = ()
    unloadable: Mapping[str, ModelError] = field(default_factory=dict)


def check_study(study: StudyConfig) -> Checked:
    """Check every arm as far as possible without starting anything; writes nothing.

    Returns: what was checked, and the arms whose model cannot be loaded.
    Raises: UserError for what would fail once it runs, SeveralConfigError for several things; of an arm with a model of
        its own, that model aside.
    """
    check_published(study.published)
    require_tracking(study.runtime.tracking_uri, Path())
    arms = make_arms(study)
    require_base(study, arms)
    limited = [limit.metric for limit in study.constraints]
    places = {metric: "constraints" if metric in limited else "objective.also" for metric in asked_metrics(study)}
    places[study.objective.metric] = "objective.metric"
    num_workers = study.runtime.num_workers
    seen: dict[str, ModelError | None] = {}
    unloadable: dict[str, ModelError] = {}
    refusals = Refusals()
    for arm in arms:
        for config in ends_of(arm, study.seeds[0]):
            key = _what_is_checked(config)
            if key in seen:
                if (known := seen[key]) is not None:
                    unloadable[arm.name] = known
                continue
            seen[key] = None
            pivot = config.data.pivot
            for metric, where in places.items():
                check_metric(metric, config.evaluation, languages=config.evaluated_languages, pivot=pivot, where=where)
            try:
                with refusals, _of_arm(arm.name):
                    check_together(config.loss, config.training, study.runtime, num_workers=num_workers)
                with refusals, _of_arm(arm.name):
                    check_trial(config)
                with refusals, _of_arm(arm.name):
                    check_lengths(describe(config.model).lengths.longest_plain, config.training, study.runtime)
            except ModelError as error:
                if not _searches_models(arm):
                    seen[key] = unloadable[arm.name] = error
                    continue
                raise
    refusals.refuse()
    _require_a_model(arms, unloadable)
    uneven = _uneven_scores(arms, study)
    num_checked = len(arms) - len(unloadable)
    count = f"{num_checked} arm{'s' if num_checked != 1 else ''}"
    line = f"{count}: configuration, model, training data, evaluation rows and objective are there"
    return Checked((line, *uneven, *_amounts(arms, study)), unloadable)


def _amounts(arms: Sequence[Arm], study: StudyConfig) -> tuple[str, ...]:
    """What `all` stands for, a line each; the filter and held-out sentences take from it what a trial then lacks."""
    trained = (config for arm in arms for config in ends_of(arm, study.seeds[0]) if config.training.max_steps > 0)
    lines = dict.fromkeys(line for config in trained for line in describe_all(config.data))
    return tuple(f"{line}, less what the filter and the held-out sentences take" for line in lines)


def _uneven_scores(arms: Sequence[Arm], study: StudyConfig) -> tuple[str, ...]:
    """One line where arms are scored on different tasks or languages.

    Raises: ConfigError when there is nothing that all of them are scored on.
    """
    by_arm: dict[str, set[str]] = {}
    for arm in arms:
        config = next(ends_of(arm, study.seeds[0]))
        scored = scored_languages(config.evaluation, languages=config.evaluated_languages, pivot=config.data.pivot)
        by_arm[arm.name] = {f"{task}/{language}" for task, codes in scored.items() for language in codes}
    shared = set.intersection(*by_arm.values())
    if not any(by_arm.values()) or all(cells == shared for cells in by_arm.values()):
        return ()
    if not shared:
        raise ConfigError(
            "there is no task and language that all arms are scored on: "
            + "; ".join(f"{name} {', '.join(sorted(cells)) or 'nothing'}" for name, cells in by_arm.items()),
            where="evaluation",
            fix="set evaluation.languages, or evaluation.tasks, for all arms under `fixed`",
        )
    left_out = sorted(set.union(*by_arm.values()) - shared)
    return (f"arms are compared on what all are scored on; not compared: {', '.join(left_out)}",)


@contextmanager
def _of_arm(name: str) -> Iterator[None]:
    """Let an error that says no place name the arm."""
    try:
        yield
    except UserError as error:
        error.where = error.where or f"arm {name}"
        raise


def _searches_models(arm: Arm) -> bool:
    """Whether trials of one arm have models of their own, so that one of them says nothing of the others."""
    return any(name.startswith("model.") for name in arm.tune)


def _require_a_model(arms: Sequence[Arm], unloadable: Mapping[str, ModelError]) -> None:
    """Refuse a study none of whose models can be loaded: it would have nothing to compare."""
    if len(unloadable) == len(arms):
        raise unloadable[arms[0].name]


def fetch_models(
    study: StudyConfig, unloadable: Mapping[str, ModelError], *, on_fetch: Callable[[str], None] = lambda _: None
) -> dict[str, ModelError]:
    """Bring the hub models of a study into this machine's cache, once for all its trials.

    Args:
        study: checked.
        unloadable: arms whose model is not asked for again.
        on_fetch: hears the name of every model that comes from a hub, before it is asked for.
    Returns: `unloadable` and the arms whose model is neither cached nor to be had.
    Raises: ModelError where that are all arms, or an arm that searches models.
    """
    found, lost, arms = dict(unloadable), dict[ModelConfig, ModelError | None](), make_arms(study)
    for arm in arms:
        for model in {config.model: None for config in ends_of(arm, study.seeds[0]) if arm.name not in unloadable}:
            if model not in lost:
                lost[model] = None
                try:
                    if local_folder(model) is None:
                        on_fetch(model.name)
                        fetch(model)
                except ModelError as error:
                    if _searches_models(arm):
                        raise
                    lost[model] = error
            if (known := lost[model]) is not None:
                found[arm.name] = known
    _require_a_model(arms, found)
    return found


def require_not_begun(paths: StudyPaths, unloadable: Mapping[str, ModelError]) -> None:
    """Refuse to give up an arm that has run: its trials are there, and it is the model that has gone.

    Raises: ModelError of the first such arm.
    """
    if not unloadable or not paths.ledger.is_file():
        return
    for record in replay(paths.ledger).trials:
        if record.arm in unloadable and record.status not in (TrialStatus.FAILED, TrialStatus.CANCELLED):
            error = unloadable[record.arm]
            raise ModelError(
                f"{error.problem}; trials of arm {record.arm} have run with it",
                where=error.where,
                allowed=error.allowed,
                fix=error.fix,
            )


def _what_is_checked(config: TrialConfig) -> str:
    """The part of a trial that `check_trial` looks at, so that arms alike are checked once."""
    content = config.model_dump(mode="json")
    training = content["training"]
    is_trained = training["max_steps"] > 0
    has_contrast = config.loss.contrastive_weight > 0
    content["data"].pop("seed")
    layer = config.loss.layer if has_contrast else 0
    return canonical_json(
        [
            content["model"],
            content["data"],
            content["evaluation"],
            is_trained,
            layer,
            content["loss"]["negatives"],
            training,
        ]
    )


def cached_fingerprints(
    study: StudyConfig | None = None, unloadable: Collection[str] = ()
) -> Callable[[TrialConfig], Mapping[str, str]]:
    """`trial.fingerprints`, read once per model, data sources and evaluation: a search asks for it at every draw.

    Args:
        study: gives the models of `unloadable`.
        unloadable: arms whose model cannot be loaded; every trial with it has the fingerprints `NO_MODEL`.
    """
    lost = _models_of(study, unloadable) if study is not None and unloadable else frozenset()
    known: dict[str, Mapping[str, str]] = {}

    def lookup(config: TrialConfig) -> Mapping[str, str]:
        if config.model in lost:
            return NO_MODEL
        content = config.model_dump(mode="json", include={"model", "data", "evaluation"})
        data = content["data"]
        for name in ("num_pairs", "num_instructions", "translation_share"):
            data[name] = data[name] != 0  # decides which files are read; how much of them does not
        for name in ("cross_probability", "direction_probability", "seed"):
            data.pop(name)
        key = canonical_json([content, config.training.max_steps > 0])
        if key not in known:
            known[key] = fingerprints(config)
        return known[key]

    return lookup


def _models_of(study: StudyConfig, names: Collection[str]) -> frozenset[ModelConfig]:
    arms = [arm for arm in make_arms(study) if arm.name in names]
    return frozenset(config.model for arm in arms for config in ends_of(arm, study.seeds[0]))


def refusals(unloadable: Mapping[str, ModelError]) -> dict[str, Failure]:
    """What the trials of arms whose model cannot be loaded fail with, by arm."""
    return {arm: _as_failure(error) for arm, error in unloadable.items()}


def _as_failure(error: ModelError) -> Failure:
    place = f" ({error.where})" if error.where else ""
    message = f"{error.problem}{place}; {error.fix}" if error.fix else f"{error.problem}{place}"
    return Failure(failure_class=FailureClass.CONFIG, message=redact(message)[:MAX_MESSAGE], traceback=str(error))
