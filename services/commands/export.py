"""The command `export`: a study for Optuna's tools, the model of a trial as a folder or in MLflow."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from afp_ray.errors import ConfigError
from afp_ray.ledger import replay
from afp_ray.search import make_arms
from afp_ray.search.optuna_export import write_mirror
from afp_ray.store import StudyPaths, read_study
from afp_ray.tracking.location import read_runs
from services.commands.options import Json, Storage
from services.model_export import ModelExport, export_folder, export_to_registry
from services.output import say, say_json
from services.schemas import OptunaExport
from services.studies import paths_of, storage_folder
from services.trial_references import find_trial

app = typer.Typer(rich_markup_mode=None)


@app.command()
def export(
    what: Annotated[
        str, typer.Argument(metavar="STUDY|TRIAL", help="A study for --optuna, else a trial as in afp show.")
    ],
    optuna: Annotated[
        str | None, typer.Option("--optuna", help="Journal file for Optuna's tools; made, or brought up to date.")
    ] = None,
    hf: Annotated[
        str | None, typer.Option("--hf", metavar="DIR", help="Folder for weights, tokenizer and model card.")
    ] = None,
    mlflow: Annotated[
        bool, typer.Option("--mlflow", help="Log the model into MLflow and register it under the study's name.")
    ] = False,
    alias: Annotated[
        str | None, typer.Option(help="Of the registered model [default: best, or the arm of another trial].")
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="For the card: apache-2.0 [default: what the base model says].")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder that is not empty.")] = False,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Export a study for Optuna's tools, or the model of a trial as a Hugging Face folder or into MLflow."""
    folder = storage_folder(storage)
    if optuna is not None and (hf is not None or mlflow):
        raise ConfigError("--optuna exports a study, the others a trial", where="--optuna", fix="give one of them")
    if optuna is not None:
        file = Path(optuna).expanduser().resolve()
        _show_optuna(export_optuna(paths_of(folder, what), file), file, as_json=as_json)
        return
    if hf is None and not mlflow:
        raise ConfigError(
            "nothing was asked for",
            where="afp export",
            allowed="--hf DIR, --mlflow, --optuna FILE",
            fix=f"afp export {what} --hf DIR",
        )
    trial = find_trial(what, folder)
    written = ModelExport(trial_id=trial.trial_id)
    if hf is not None:
        written = export_folder(trial, Path(hf).expanduser().resolve(), licence=licence, force=force)
    if mlflow:
        logged = export_to_registry(trial, alias=alias, licence=licence)
        written = logged.model_copy(update={"folder": written.folder, "form": written.form})
    say_json(written) if as_json else _show_model(written)


def _show_model(written: ModelExport) -> None:
    if written.folder is not None:
        adapters = "adapters merged into them where there were any" if written.form == "merged" else "not trained"
        say(f"{written.folder}  trial {written.trial_id}, whole weights ({adapters}), tokenizer and README.md")
        say(f"load it: AutoModelForCausalLM.from_pretrained({written.folder!r})")
    if written.registered is not None:
        say(f"{written.registered} at {written.tracking_uri}, logged model {written.model}")
        name = written.registered.partition("/")[0]
        say(f'load it: mlflow.artifacts.download_artifacts("models:/{name}@{written.alias}") is a Hugging Face folder')


def _show_optuna(written: OptunaExport, file: Path, *, as_json: bool) -> None:
    if as_json:
        say_json(written)
        return
    say(f"{written.changed} of {written.trials} trials written to {file}")
    for name in written.studies:
        say(f"  {name}")
    if written.left_out:
        say(f"  {written.left_out} trials left out: their parameters are outside the space that the study has now")
    say(f"open it: {written.open_with}")


def export_optuna(paths: StudyPaths, file: Path) -> OptunaExport:
    """Bring the Optuna studies of a study in a journal file up to date with its ledger.

    Raises: ConfigError when the file holds something else, UnavailableError when it cannot be written.
    """
    study = read_study(paths)
    runs = read_runs(paths)
    attributes = {
        trial_id: {"mlflow_run_id": str(run), "mlflow_tracking_uri": str(runs.get("tracking_uri", ""))}
        for trial_id, run in runs.get("runs", {}).items()
    }
    written = write_mirror(file, study, make_arms(study), replay(paths.ledger).trials, attributes=attributes)
    return OptunaExport(
        file=str(file),
        studies=written.studies,
        trials=written.num_trials,
        changed=written.num_changed,
        left_out=written.num_left_out,
        open_with=f"optuna-dashboard {shlex.quote(str(file))} --host 127.0.0.1",
    )
