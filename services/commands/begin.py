"""The commands that begin a study: `init` for its file, `schema` for the editor."""

from pathlib import Path
from typing import Annotated

import typer

from services.beginning import begin_study, schema_text, write_schema
from services.commands.options import Json, PresetName
from services.output import say, say_json, say_json_text
from services.studies import complete_study_file
from services.views.listing import show_begun

DEFAULT_NAME = "mine"
app = typer.Typer(rich_markup_mode=None)


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="Name of the study; its file is NAME.yaml.")] = DEFAULT_NAME,
    files: Annotated[
        list[str] | None, typer.Argument(help="More files, folders and models.", autocompletion=complete_study_file)
    ] = None,
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            help="demo, paper/..., or what you have: TSV, JSONL, a model folder or hub id, task and corpus folders.",
            autocompletion=complete_study_file,
        ),
    ] = None,
    preset: PresetName = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the study file where there is one.")] = False,
    as_json: Json = False,
) -> None:
    """Write a commented study file for your files: languages, amounts, layers, tasks and limits are filled in."""
    names = [*(sources or []), *(files or [])]
    if (
        Path(name).is_file()
        or (Path(name) / "config.json").is_file()
        or Path(name).suffix in (".tsv", ".jsonl")
        or "/" in name
    ):
        name, names = DEFAULT_NAME, [*names, name]  # afp init --from pairs.en-zh.tsv model
    begun = begin_study(name.removesuffix(".yaml"), names, force=force, preset=preset)
    say_json(begun) if as_json else show_begun(begun)


@app.command()
def schema(
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="File to write [default: standard output].")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file whatever it holds.")] = False,
) -> None:
    """Write the JSON schema of the study file, by which an editor completes and checks it."""
    if output is None:
        say_json_text(schema_text().rstrip("\n"), indent=1)
        return
    path = write_schema(output, force=force)
    say(f"{path}   name it in the first line of a study file: # yaml-language-server: $schema={path.name}")
