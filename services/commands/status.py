"""The command `status`: alone in its module, since it is asked often and must not wait for what runs a study."""

from typing import Annotated

import typer

from services.commands.options import Json, Storage
from services.output import say_json
from services.status import all_statuses, status_answer
from services.studies import complete_study_name, storage_folder
from services.views.text import show_status, show_studies

app = typer.Typer(rich_markup_mode=None)


@app.command()
def status(
    study: Annotated[
        str | None, typer.Argument(help="Name of a study; all of them without one.", autocompletion=complete_study_name)
    ] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Show how far a study is, also when its driver is dead."""
    folder = storage_folder(storage)
    if study is None:
        statuses = all_statuses(folder)
        say_json(list(statuses)) if as_json else show_studies(statuses, folder)
        return
    answer = status_answer(folder, study)
    say_json(answer) if as_json else show_status(answer)
