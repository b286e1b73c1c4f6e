"""Writes the reference pages `docs/study-file.md` and `docs/commands.md` from the code that they describe.

Run it after a change of a configuration field or a command; `--check` says whether a page is out of date instead.
"""

import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import typer.main
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from afp_ray.config import StudyConfig, TrialConfig
from services.cli import app

DOCS = Path(__file__).parent.parent / "docs"


def study_page() -> str:
    """Every field of a study and of a trial: name, type or range, default, meaning."""
    lines = [
        "# The study file",
        "",
        "Made by `tools/make_docs.py` from the configuration models. A study has the fields of the first table;",
        "the names under `fixed`, `compare`, `tune` and each of `arms` are those of the second one. Unknown fields,",
        "repeated keys, non-finite numbers and text where a number belongs are refused with file, line and column.",
        "",
        "## Languages",
        "",
        "Languages are named by their ISO 639 codes; `afp languages` lists those whose name, script and word space are",
        "known. `data.language_names` declares any other code of ISO 639-3, or corrects what the table says:",
        "",
        "```yaml",
        "fixed:",
        "  data.languages: [am, sr, gsw, aaa]",
        "  data.language_names:",
        "    sr: {script: Latn}",
        "    aaa: {name: Ghotuo, script: Latn}",
        "    am: {words: {because: ምክንያቱም, so: ስለዚህ}}",
        "```",
        "",
        'The name stands in prompts ("Answer in Amharic:"); the script tells which letters the quality filter and',
        "the check of swapped columns expect, and whether words have spaces between them (overlap, ROUGE, F1). A",
        "script whose letters are not listed is not judged. Language identification knows about 120 languages:",
        "the filter lets texts of others pass, and the task `answer_language` refuses them. A task that asks with",
        "words (`because`, `so`, ...) needs them in `words`, or `evaluation.prompt_language: pivot`. What is",
        "declared is part of a trial's id.",
        "",
        "## All rows",
        "",
        "`data.num_pairs: all` takes every pair of every language that the quality filter and the held-out",
        "sentences leave, whatever `language_temperature` says; languages with more pairs then have more of them",
        "in training. `data.num_instructions: all` takes each instruction once a fold, and as many translation",
        "tasks beside them as `translation_share` asks; with a share of 1 it is one task for each pair. `afp",
        "plan` tells what the files hold, `afp data inspect` what is drawn of it. A search may choose:",
        "`data.num_pairs: {choices: [1000, all]}`.",
        "",
        "The id of a trial has the word, beside the content of the files, the filter and what is held out, which",
        "decide the number: so ids cost no pass of the filter (which may need the model), a moved folder keeps",
        "its trials, and one more row in a file is another trial. A trial that asked for the same rows by their",
        "number has another id.",
        "",
        "## Arms",
        "",
        "The arms of a study are the grid of `compare`, named by their values, followed by those of `arms`, named by",
        "you. Without `arms` an empty `compare` is one arm; with `arms` it is none.",
        "",
        "```yaml",
        "fixed: {training.max_steps: 200, loss.layer: 2}",
        "arms:",
        "  untrained: {method: base}",
        "  full: {method: afp}",
        "  no_contrastive: {method: cit}",
        "  mean_pool: {method: afp, loss.pooling: mean}",
        "tune: {loss.temperature: {low: 0.01, high: 0.5, log: true}}",
        "```",
        "",
        "An arm's own fields stand over `fixed` and under what its method pins, and leave its search space. Its name",
        "is the row of every table, and what `--require 'full > untrained'` and `--arm` take. The arm of method `base`",
        "is found by its method, whatever its name. No two arms may be one recipe, and a name that is a method's",
        "belongs to an arm of that method. A name enters no trial id and no draw of the search: rename an arm, give",
        "the study another name, and `afp run` takes every finished trial over.",
        "",
        "A range of `tune` is `{low: 0.01, high: 0.5, log: true}` (`int: true` for whole numbers, `step` for a",
        "distance); a list is `{choices: [last, mean]}`. With `when: {other.field: value}` either is searched there",
        "alone; [search](search.md) has the rules. `--set a.b=c` on the command line changes a field.",
        "",
        "## Study",
        "",
        *_table(StudyConfig, ""),
        "",
        "## Trial: what `fixed`, `compare` and `tune` name",
        "",
        *_table(TrialConfig, ""),
    ]
    return "\n".join(lines) + "\n"


def _table(model: type[BaseModel], prefix: str) -> list[str]:
    return ["| field | default | meaning |", "|---|---|---|", *_rows(model, prefix)]


def _rows(model: type[BaseModel], prefix: str) -> list[str]:
    rows: list[str] = []
    for name, field in model.model_fields.items():
        nested = _nested(field.annotation)
        if nested is not None:
            kind = get_origin(field.annotation)
            member = "[]" if kind is tuple else ".NAME" if kind is dict else ""
            rows += _rows(nested, f"{prefix}{name}{member}.")
            continue
        meaning = " ".join(filter(None, [*(field.description or "").split(), _allowed(field.annotation)]))
        meaning = meaning.replace("|", "\\|")
        rows.append(f"| `{prefix}{name}` | {_default(field.get_default(call_default_factory=True))} | {meaning} |")
    return rows


def _nested(annotation: Any) -> type[BaseModel] | None:
    """The model behind a field, also behind `Model | None`."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _allowed(annotation: Any) -> str:
    """The values of a Literal, also of a list of them; "" for other types."""
    if get_origin(annotation) is Literal:
        return f"One of {', '.join(f'`{value}`' for value in get_args(annotation))}."
    return next(filter(None, map(_allowed, get_args(annotation))), "")


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, tuple):
        value = [item.model_dump(exclude_none=True) if isinstance(item, BaseModel) else item for item in value]
    return f"`{'null' if value is None else value}`".replace("|", "\\|")


def commands_page() -> str:
    """Every verb with its arguments and options."""
    group = typer.main.get_command(app)
    lines = ["# Commands", "", "Made by `tools/make_docs.py` from the command line itself.", ""]
    lines += _commands(group, "afp")
    return "\n".join(lines).rstrip() + "\n"


def _commands(command: Any, path: str) -> list[str]:
    context = click.Context(command, info_name=path)
    if hasattr(command, "commands"):
        inner = {name: command.resolve_command(context, [name])[1] for name in command.commands}  # loads its module
        return [line for name in inner for line in _commands(inner[name], f"{path} {name}")]
    lines = [f"## `{path}`", "", " ".join((command.help or "").split()), ""]
    for parameter in command.params:
        record = parameter.get_help_record(context) if parameter.param_type_name == "option" else None
        if record is not None:
            lines.append(f"- `{record[0]}`: {' '.join(record[1].split())}")
        elif parameter.param_type_name == "argument":
            lines.append(f"- `{parameter.name}`: {' '.join((getattr(parameter, 'help', '') or '').split())}")
    return [*lines, ""]


def main() -> int:
    """Write the pages, or compare them with `--check`; 1 when one is out of date."""
    pages = {DOCS / "study-file.md": study_page(), DOCS / "commands.md": commands_page()}
    if "--check" in sys.argv[1:]:
        stale = [path for path, text in pages.items() if not path.is_file() or path.read_text("utf-8") != text]
        for path in stale:
            sys.stderr.write(f"{path} is out of date; run make docs\n")
        return int(bool(stale))
    for path, text in pages.items():
        path.write_text(text, "utf-8")
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
