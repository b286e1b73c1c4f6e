"""The commands that list what there is: tasks and whether their files are found, methods, languages."""

import os
from typing import Annotated

import typer

from afp_ray.languages import LANGUAGES
from services.commands.options import Json
from services.listing import language_rows, method_rows, task_rows
from services.output import say, say_json
from services.studies import complete_study_file
from services.views.listing import show_languages, show_methods, show_tasks

app = typer.Typer(rich_markup_mode=None)


@app.command()
def tasks(
    study: Annotated[
        str | None,
        typer.Argument(
            help="A study file, whose evaluation.data_dir is looked at.", autocompletion=complete_study_file
        ),
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option(help="Folder of the original files [default: $AFP_DATA_DIR, else the embedded rows].")
    ] = None,
    pivot: Annotated[str, typer.Option(help="Other side of the generation tasks.")] = "en",
    as_json: Json = False,
) -> None:
    """List the tasks, in which languages their files are found, and how many rows they have."""
    rows = task_rows(study, data_dir or (None if study else os.environ.get("AFP_DATA_DIR")), pivot=pivot)
    say_json([row.model_dump(mode="json") for row in rows]) if as_json else show_tasks(rows)


@app.command()
def methods(as_json: Json = False) -> None:
    """List the methods: what each trains on, and the fields that it pins."""
    rows = method_rows()
    say_json([row.model_dump(mode="json") for row in rows]) if as_json else show_methods(rows)


@app.command()
def languages(as_json: Json = False) -> None:
    """List the languages that are known by themselves: names, scripts, and which prompt words each has."""
    rows = language_rows()
    if as_json:
        say_json([row.model_dump(mode="json") for row in rows])
        return
    show_languages(rows)
    say(f"{len(rows)} languages, {len(LANGUAGES)} of them with prompt words; data.language_names adds what is not here")
