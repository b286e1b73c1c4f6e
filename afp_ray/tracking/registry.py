"""Puts a saved model into MLflow: a logged model of its trial's run, and a version in the registry under an alias."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afp_ray.config import StudyConfig
from afp_ray.errors import UnavailableError
from afp_ray.models.manifest import MANIFEST, sha256
from afp_ray.records import TrialRecord
from afp_ray.redaction import redact
from afp_ray.store import StudyPaths
from afp_ray.tracking.connection import connect
from afp_ray.tracking.location import find_run, tracking_uri
from afp_ray.tracking.projector import sync  # before mlflow, whose settings it makes
from afp_ray.tracking.run_content import safe_name

from mlflow import MlflowClient  # isort: skip
from mlflow.exceptions import MlflowException  # isort: skip

_CONTENT = "afp.content"
"""Tag of a logged model: what its files are, so that the same ones are never logged twice."""
MODEL_TYPE = "huggingface"


@dataclass(frozen=True, slots=True)
class LoggedModel:
    """A model in MLflow.

    Attributes:
        model_id: of the logged model.
        name, version: in the registry.
        uri: of the tracking server, without secrets.
    """

    model_id: str
    name: str
    version: int
    uri: str


def log_model(
    study: StudyConfig, paths: StudyPaths, trial: TrialRecord, checkpoint: Path, *, card: str, alias: str
) -> LoggedModel:
    """Log a checkpoint as the model of its trial's run, register it under the study's name, and point `alias` at it.

    The run is written first where MLflow lacks it. A model with the same files is found and not logged again.

    Args:
        study, paths: of the trial.
        trial: finished.
        checkpoint: a Hugging Face folder with its manifest.
        card: README.md of the model.
        alias: in the registry; taken from the version that has it now.
    Raises: UnavailableError when MLflow cannot be reached or refuses.
    """
    uri = tracking_uri(study.runtime.tracking_uri, paths.storage)
    sync(study, paths)
    run_id = find_run(paths, trial.trial_id)
    try:
        client, experiment = connect(paths, uri)
        model = _logged(client, experiment, trial, run_id, checkpoint, card)
        version = _registered(client, study.name, model, run_id, is_server=uri.startswith("http"))
        client.set_registered_model_alias(study.name, alias, str(version))
    except (MlflowException, OSError) as error:
        first = redact(str(error).splitlines()[0] if str(error) else type(error).__name__)
        raise UnavailableError(f"MLflow at {redact(uri)}: {first}") from error
    return LoggedModel(str(model.model_id), study.name, version, redact(uri))


def _logged(
    client: MlflowClient, experiment: str, trial: TrialRecord, run_id: str | None, checkpoint: Path, card: str
) -> Any:
    content = sha256(checkpoint / MANIFEST)[:32]
    same = client.search_logged_models([experiment], filter_string=f"tags.`{_CONTENT}` = '{content}'")
    ready = [model for model in same if str(model.status).endswith("READY")]
    if ready:
        return ready[0]
    tags = {"afp.trial_id": trial.trial_id, "afp.arm": trial.arm, _CONTENT: content}
    params = {safe_name(name): str(value) for name, value in trial.params.items()}
    name = f"{trial.arm} seed {trial.seed} {trial.trial_id[:4]}".translate(str.maketrans("/:.%\"'", "------"))
    model = client.create_logged_model(
        experiment, name=name, source_run_id=run_id, tags=tags, params=params, model_type=MODEL_TYPE
    )
    with tempfile.TemporaryDirectory(prefix="afp-model-") as folder:
        whole = Path(folder) / "model"
        shutil.copytree(checkpoint, whole, copy_function=_link_or_copy)
        (whole / "README.md").write_text(card, encoding="utf-8")
        client.log_model_artifacts(model.model_id, str(whole))
    return client.finalize_logged_model(model.model_id, "READY")


def _link_or_copy(source: str, target: str) -> None:
    """The file under another name where the disk is the same one, else a copy."""
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def _registered(client: MlflowClient, name: str, model: Any, run_id: str | None, *, is_server: bool) -> int:
    """The version of the registry that holds the model; made where there is none."""
    if not client.search_registered_models(filter_string=f"name = '{name}'"):
        client.create_registered_model(name, tags={"afp.study": name})
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.tags.get("afp.model") == model.model_id:
            return int(version.version)
    source = f"models:/{model.model_id}" if is_server else model.artifact_location
    made = client.create_model_version(
        name, source=source, run_id=run_id, model_id=model.model_id, tags={"afp.model": str(model.model_id)}
    )
    return int(made.version)
