"""The commands that begin a study: `schema` for the editor."""

from typing import Annotated

import typer

from services.beginning import schema_text, write_schema
from services.output import say, say_json_text

app = typer.Typer(rich_markup_mode=None)


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
