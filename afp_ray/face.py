"""The package from Python: what the commands do, with the same arguments, errors and answers.

A study is given as the command line takes it (the path of a file, the name of one that ships or was run), as a
`StudyConfig`, or as the mapping that would stand in a file. What is answered can be read field by field, is a data
frame by `to_frame()`, and shows itself in a notebook.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from afp_ray.config import DEFAULT_TASKS, StudyConfig
from afp_ray.records import StudyState
from afp_ray.store import StudyPaths

if TYPE_CHECKING:
    from services.views.notebook import Best, Comparison, Evaluation, Plan, Status, Trials

Study: TypeAlias = str | Path | Mapping[str, Any] | StudyConfig
"""A study file, the name of one that ships or was run, or a study made in Python."""
Sets: TypeAlias = Mapping[str, Any]
"""Fields over the study's own, as `--set` has them: `{"training.max_steps": 50}`."""


def load(study: Study, *, sets: Sets | None = None, small: bool = False) -> StudyConfig:
    """The study of a file, of a shipped name or of a mapping, checked field by field.

        study = afp.load("demo", sets={"training.max_steps": 50})
        study = afp.load({"name": "mine", "compare": {"method": ["base", "afp"]}})

    Args:
        study: what is read.
        sets: fields over it.
        small: its small form, for two CPU cores without a network.
    Raises: ConfigError with place, value, what is allowed and the fix.
    """
    from afp_ray.config.load import load_study
    from services.studies import find

    if isinstance(study, StudyConfig):
        study = study.model_dump(mode="json")
    return load_study(study if isinstance(study, Mapping) else find(str(study)), _overrides(sets), small=small)


def plan(study: Study, *, sets: Sets | None = None, storage: str | Path | None = None, probe: bool = False) -> "Plan":
    """What a study would do, read and cost; starts no trial (`afp plan`).

        afp.plan("demo").trials

    Args:
        study, sets: as `load`.
        storage: folder or URL of the studies, whose finished trials tell the cost; null takes `$AFP_STORAGE` or `runs`.
        probe: estimate cost and GPU memory from a few steps that are run here now.
    Raises: UserError for the first thing that would fail.
    """
    import afp_ray.study
    from services.views import notebook

    return notebook.Plan.of(afp_ray.study.plan(load(study, sets=sets), _storage(storage), probe=probe))


def run(
    study: Study,
    *,
    sets: Sets | None = None,
    storage: str | Path | None = None,
    address: str | None = None,
    allow_drift: bool = False,
    attach: bool = False,
    progress: bool = True,
) -> "Status":
    """Run a study, or continue it; finished trials are never trained again (`afp run`).

        afp.run("demo", sets={"training.max_steps": 50, "runtime.executor": "local"})

    Ctrl-C, or the button of a notebook, ends it after the running trials; `run` or `resume` goes on. The report is
    written as the command writes it.

    Args:
        study, sets: as `load`.
        storage: folder or URL of the studies; null takes `$AFP_STORAGE` or `runs`.
        address: of a running Ray cluster; null takes `$RAY_ADDRESS`, else one is started here.
        allow_drift: go on although study or packages differ from what ran.
        attach: follow a study that another driver holds, and take it over if that one dies.
        progress: print a line for every event.
    Returns: how far it came; `state` is `complete` where nothing is left to run.
    Raises: UserError before anything is written; StudyLockedError, StudyChangedError, UnavailableError.
    """
    import afp_ray.study
    from services.commands.study import prepare
    from services.output import note
    from services.reports import write_reports
    from services.views.live import LineProgress

    config = load(study, sets=sets)
    paths = StudyPaths(_storage(storage), config.name)
    address, unloadable = prepare(config, paths, address, allow_open=False)
    shown = [LineProgress(as_json=False)] if progress else []

    def drive() -> StudyState:
        return afp_ray.study.run(
            config,
            paths,
            unloadable=unloadable,
            address=address,
            allow_drift=allow_drift,
            on_event=shown,
            on_end=lambda state: write_reports(paths, state),
        )

    if attach:
        afp_ray.study.run_or_follow(config, paths, drive, on_event=shown, say=note)
    else:
        drive()
    return status(config.name, storage=storage)


def resume(
    study: Study,
    *,
    sets: Sets | None = None,
    storage: str | Path | None = None,
    address: str | None = None,
    allow_drift: bool = False,
    attach: bool = False,
    progress: bool = True,
) -> "Status":
    """Continue a study after any interruption, as it was run (`afp resume`).

        afp.resume("demo")

    Args, returns and raises as `run`; the name of a study that was run takes its own copy of its file.
    """
    from services.studies import is_file_name, paths_of

    if isinstance(study, str) and not is_file_name(study):
        study = paths_of(_storage(storage), study).study
    return run(
        study,
        sets=sets,
        storage=storage,
        address=address,
        allow_drift=allow_drift,
        attach=attach,
        progress=progress,
    )


@overload
def status(study: Study, *, storage: str | Path | None = None) -> "Status": ...
@overload
def status(study: None = None, *, storage: str | Path | None = None) -> "list[Status]": ...


def status(study: Study | None = None, *, storage: str | Path | None = None) -> "Status | list[Status]":
    """How far a study is, also when its driver is dead; all of the storage without one (`afp status`).

        afp.status("demo").counts["DONE"]

    Raises: UserError for a name that is none under the storage.
    """
    from services.status import all_statuses, status_answer
    from services.views import notebook

    folder = _storage(storage)
    if study is None:
        return [notebook.Status.of(answer) for answer in all_statuses(folder)]
    return notebook.Status.of(status_answer(folder, _name(study)))


def best(
    study: Study,
    *,
    metric: str | None = None,
    language: str | None = None,
    under: Mapping[str, float] | None = None,
    max_forgetting: float | None = None,
    storage: str | Path | None = None,
) -> "Best":
    """The best configuration of a study with its interval and its difference to base (`afp best`).

        best = afp.best("demo")
        best.config.loss.temperature, best.score.mean, best.score.ci95

    Args:
        study: one that was run.
        metric: mean, pivot_mean, a task, TASK/LANGUAGE, retrieval@1 ...; null takes the study's own.
        language: choose by this language alone.
        under: limits of one training: `{"gpu_hours": 2, "seconds": 600}`.
        max_forgetting: leave out arms that lose more points than this in the pivot language.
        storage: as `run`.
    Raises: ConfigError for a metric or limit that is not known, DataError when no arm is confirmed or keeps the limits.
    """
    from services.answers import best_answer
    from services.views import notebook

    answer = best_answer(
        _storage(storage),
        _name(study),
        metric=metric,
        language=language,
        under=under,
        max_forgetting=None if max_forgetting is None else max_forgetting / 100,
    )
    return notebook.Best.of(answer)


def compare(*studies: Study, storage: str | Path | None = None) -> "Comparison":
    """The ablation table: arms by language, differences to base, significance (`afp compare`).

        table = afp.compare("demo")
        table.to_frame().query("task == 'mean'")
        print("\\n".join(table.verdicts))

    Args:
        studies: one or more that were run.
        storage: as `run`.
    Raises: UserError when no arm is confirmed, or studies have no rows in common.
    """
    from services.answers import comparison_answer
    from services.views import notebook

    return notebook.Comparison.of(comparison_answer(_storage(storage), [_name(study) for study in studies]))


def trials(study: Study, *, storage: str | Path | None = None) -> "Trials":
    """The trials of a study in the order in which they were planned.

        afp.trials("demo").to_frame().sort_values("objective")

    Args:
        study: one that was run.
        storage: as `run`.
    Raises: UserError for a name that is none under the storage.
    """
    from afp_ray.ledger import replay
    from services.studies import paths_of
    from services.views import notebook

    paths = paths_of(_storage(storage), _name(study))
    return notebook.Trials(paths.name, replay(paths.ledger).trials)


def evaluate(
    model: str | Path,
    *,
    tasks: Sequence[str] = DEFAULT_TASKS,
    languages: Sequence[str] = ("en",),
    data_dir: str | Path | None = None,
    base: str | Path | None = None,
    sets: Sets | None = None,
    storage: str | Path | None = None,
) -> "Evaluation":
    """Score any causal language model as it is (`afp eval`).

        afp.evaluate("embedded", tasks=["xcopa"], languages=["en", "zh"]).to_frame()
        afp.evaluate(afp.best("demo").checkpoint, base="embedded", sets={"evaluation.limit": 50})

    Args:
        model: embedded, smollm2, a local folder or a hub id.
        tasks: choice and generation tasks.
        languages: codes.
        data_dir: the tasks' original files; null takes the embedded rows.
        base: another model on the same rows, for paired differences.
        sets: further fields of `evaluation` and `model`, and `data.pivot`, the language of prompts (else English).
        storage: as `run`; scores are kept there and found again.
    Raises: UserError for a model, task, language or file that cannot be scored.
    """
    from services import trials as single
    from services.views import notebook
    from services.views.live import LineReporter

    fields = dict(sets or {})
    pivot = str(fields.pop("data.pivot", "en"))
    config, other = (
        None
        if name is None
        else single.eval_config(
            str(name),
            tasks=tasks,
            languages=languages,
            pivot=pivot,
            shots=(0,),
            demo_seeds=(0,),
            data_dir=None if data_dir is None else str(data_dir),
            limit=None,
            sets=_overrides(fields),
        )
        for name in (model, base)
    )
    assert config is not None
    return notebook.Evaluation.of(single.evaluate(config, _storage(storage), base=other, reporter=LineReporter()))


def _overrides(sets: Sets | None) -> list[str]:
    """The fields as `--set` would give them."""
    return [f"{name}={json.dumps(value, default=str)}" for name, value in (sets or {}).items()]


def _storage(storage: str | Path | None) -> Path:
    from services.studies import storage_folder

    return storage_folder(None if storage is None else str(storage))


def _name(study: Study) -> str:
    """The name under which a study lies in the storage."""
    from services.studies import is_file_name

    if isinstance(study, str) and not is_file_name(study):
        return study
    return load(study).name
