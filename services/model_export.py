"""Hands on the model of a trial: a Hugging Face folder with its card, and a logged model of MLflow under an alias."""

import re
import shutil
from pathlib import Path

from afp_ray.comparison.confirmed import arm_of_result
from afp_ray.comparison.metric import Metric, summarize
from afp_ray.config import EMBEDDED, StrictModel, TrialConfig
from afp_ray.config.model import ModelConfig
from afp_ray.errors import AfpError, ConfigError, DataError, ModelError
from afp_ray.models.describe import describe
from afp_ray.models.manifest import verify_manifest
from afp_ray.records import ArmRow, ScoreSummary, TrialResult
from afp_ray.store import read_study
from services.answers import best_answer, comparison_answer
from services.trial_answers import changed_fields
from services.trial_references import StoredTrial
from services.views.model_card import Card, Cell, model_card

CARD = "README.md"
_LICENCE = re.compile(r"^license:\s*[\"']?([\w.-]+)", re.MULTILINE)


class ModelExport(StrictModel):
    """What `afp export --hf` and `--mlflow` wrote."""

    trial_id: str
    folder: str | None = None
    """The Hugging Face folder; null where none was asked for."""
    form: str = "merged"
    """`merged`: whole weights, adapters among them; `base`: a model that was not trained."""
    model: str | None = None
    """Id of MLflow's logged model; null where none was asked for."""
    registered: str | None = None
    """Name and version in MLflow's registry: `demo/3`."""
    alias: str | None = None
    tracking_uri: str | None = None


def export_folder(trial: StoredTrial, folder: Path, *, licence: str | None, force: bool = False) -> ModelExport:
    """Write the model of a finished trial as a folder that stock transformers loads, with its card.

    Args:
        trial: finished, and its checkpoint not removed.
        folder: new, or empty; whole or not there.
        licence: identifier for the card; None takes what the base model's own card says.
        force: replace a folder that holds something.
    Raises: ConfigError for a folder that is not empty, ModelError for a checkpoint that is gone or damaged,
        StorageError when the disk refuses.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not force:
        raise ConfigError(f"{folder} is not empty", where="--hf", fix="give another folder, or --force to replace it")
    result = trial.result()
    config = TrialConfig.model_validate(result.config)
    card = model_card(_card(trial, result, licence=licence))
    # Both write weights or read them, which loads torch.
    from afp_ray.training.checkpoint import save_checkpoint
    from afp_ray.training.whole_folders import written_whole

    if config.training.max_steps > 0:
        checkpoint = _checkpoint(trial)
        with written_whole(folder) as temporary:
            shutil.copytree(checkpoint, temporary, dirs_exist_ok=True)
            (temporary / CARD).write_text(card, encoding="utf-8")
        return ModelExport(trial_id=trial.trial_id, folder=str(folder), form="merged")
    from afp_ray.models.load import load_model

    loaded = load_model(config.model, cache=None)
    save_checkpoint(loaded.model, loaded.tokenizer, folder)
    (folder / CARD).write_text(card, encoding="utf-8")
    return ModelExport(trial_id=trial.trial_id, folder=str(folder), form="base")


def _checkpoint(trial: StoredTrial) -> Path:
    """The saved model of a trial, as it was written.

    Raises: ModelError when it is gone or damaged.
    """
    folder = trial.files.checkpoint
    if not folder.is_dir():
        raise ModelError(
            f"the checkpoint of trial {trial.trial_id} is not kept",
            where=str(folder),
            allowed="confirmed trials, unless runtime.keep_checkpoints says otherwise",
            fix=f"take the confirmed trial of its arm ({trial.paths.name}:ARM), or run the study with "
            "runtime.keep_checkpoints: all",
        )
    verify_manifest(folder)
    return folder


def _card(trial: StoredTrial, result: TrialResult, *, licence: str | None) -> Card:
    name = trial.trial_id if trial.record is None else f"{trial.paths.name}-{trial.record.arm}"
    split = "test" if "test" in result.splits else "validation"
    arm, headline = _row_of(trial)
    return Card(
        name=name,
        study=trial.study,
        result=result,
        split=split,
        scores=_scores(trial, result, split),
        changed=changed_fields(result.config),
        licence=_licence_of(ModelConfig.model_validate(result.config["model"])) if licence is None else licence,
        arm=arm,
        headline=headline,
    )


def _scores(trial: StoredTrial, result: TrialResult, split: str) -> dict[Cell, ScoreSummary]:
    """Each task in each language, with its interval over examples."""
    cells = dict.fromkeys((s.task, s.language) for s in result.scores if s.is_main and s.split == split)
    try:
        own = arm_of_result(trial.paths, result, split=split, name=trial.trial_id)
    except DataError:  # predictions were removed: scores stay, without intervals
        own = None
    summaries: dict[Cell, ScoreSummary] = {}
    for task, language in cells:
        summary = summarize(Metric(task, language), own, split) if own is not None else None
        if summary is None:
            of_cell = [
                s.value for s in result.scores if s.is_main and (s.task, s.language, s.split) == (task, language, split)
            ]
            summary = ScoreSummary(mean=sum(of_cell) / len(of_cell), n_seeds=1, note="no predictions")
        summaries[task, language] = summary
    return summaries


def _row_of(trial: StoredTrial) -> tuple[ArmRow | None, str]:
    """The row of the trial's arm in the table of its study, where it is one of the row's trials; and the headline."""
    if trial.record is None:
        return None, ""
    try:
        table = comparison_answer(trial.paths.storage, [trial.paths.name])
    except AfpError:
        return None, ""
    row = next((arm for arm in table.arms if trial.trial_id in arm.trials), None)
    return row, table.headline.text if table.headline is not None and row is not None else ""


def _licence_of(config: ModelConfig) -> str:
    """What the base model's own card says; "" where it says nothing, or there is none on this machine."""
    if config.name == EMBEDDED:
        return "apache-2.0"
    try:
        folder = describe(config).folder
        text = (Path(folder) / CARD).read_text("utf-8", errors="replace") if folder is not None else ""
    except (AfpError, OSError):
        return ""
    header = text.split("---")[1] if text.startswith("---") else ""
    stated = _LICENCE.search(header)
    return stated[1] if stated else ""


def export_to_registry(trial: StoredTrial, *, alias: str | None, licence: str | None) -> ModelExport:
    """Log the model of a confirmed trial into MLflow and give it an alias in the registry; harmless to repeat.

    Args:
        trial: of a study, finished, and its checkpoint not removed.
        alias: None takes `best` for a trial of the study's best configuration, else the arm.
        licence: as of `export_folder`.
    Raises: ConfigError for a trial without a study; what `export_folder` and a projection into MLflow raise.
    """
    from afp_ray.tracking.registry import log_model  # MLflow, which takes seconds to import

    if trial.record is None:
        raise ConfigError(
            f"trial {trial.trial_id} ran without a study, so MLflow has no run of it",
            where="--mlflow",
            fix="use --hf DIR",
        )
    result = trial.result()
    checkpoint = _checkpoint(trial)
    card = model_card(_card(trial, result, licence=licence))
    alias = alias or _alias_of(trial)
    logged = log_model(read_study(trial.paths), trial.paths, trial.record, checkpoint, card=card, alias=alias)
    return ModelExport(
        trial_id=trial.trial_id,
        model=logged.model_id,
        registered=f"{logged.name}/{logged.version}",
        alias=alias,
        tracking_uri=logged.uri,
    )


def _alias_of(trial: StoredTrial) -> str:
    assert trial.record is not None
    try:
        is_best = trial.trial_id in best_answer(trial.paths.storage, trial.paths.name).trials
    except AfpError:
        is_best = False
    return "best" if is_best else re.sub(r"[^\w-]", "-", trial.record.arm)
