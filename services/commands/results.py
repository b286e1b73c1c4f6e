"""The verb of the command line that hands a study to other programs: `export`."""

from pathlib import Path
from typing import Annotated

import typer

from services.commands.options import Json, Storage, StudyName
from services.output import say, say_json


def export(
    study: StudyName,
    optuna: Annotated[
        str, typer.Option("--optuna", help="Journal file for Optuna's tools; made, or brought up to date.")
    ],
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Write the trials of a study as Optuna studies, one per arm, for instance for optuna-dashboard."""
    from services.exporting import export_optuna
    from services.studies import paths_of, storage_folder

    file = Path(optuna).expanduser().resolve()
    written = export_optuna(paths_of(storage_folder(storage), study), file)
    if as_json:
        say_json(written)
        return
    say(f"{written.changed} of {written.trials} trials written to {file}")
    for name in written.studies:
        say(f"  {name}")
    if written.left_out:
        say(f"  {written.left_out} trials left out: their parameters are outside the space that the study has now")
    say(f"open it: {written.open_with}")
