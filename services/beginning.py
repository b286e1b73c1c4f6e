"""Writes the files that a study begins with: the study file itself, and its schema for the editor."""

import json
import re
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

import afp_ray.study
from afp_ray.config import StudyConfig
from afp_ray.config.base import StrictModel
from afp_ray.config.document import Document
from afp_ray.config.load import load_study
from afp_ray.config.schema import TITLE, study_schema
from afp_ray.config.translate import translate
from afp_ray.errors import ConfigError, UserError
from afp_ray.planning.draft import Draft, draft_study
from afp_ray.planning.presets import choose_preset, preset_lines
from afp_ray.planning.survey import Survey, survey
from afp_ray.store import write_atomic
from services.studies import find, shipped_names
from services.views.study_file import study_text

SCHEMA_FILE = "afp-study.schema.json"


def schema_text() -> str:
    """The schema of the study file as JSON."""
    return json.dumps(study_schema(), indent=1, ensure_ascii=False) + "\n"


def write_schema(output: str | Path, *, force: bool = False) -> Path:
    """Write the schema; an older one of ours is replaced.

    Raises: ConfigError when the folder is not there, or the file holds something else and `force` is not given.
    """
    path = new_file(output, force=force or _is_schema(Path(output).expanduser()))
    write_atomic(path, schema_text())
    return path


def new_file(output: str | Path, *, force: bool) -> Path:
    """The path of a file to write.

    Raises: ConfigError when the folder is not there, or there is such a file and `force` is not given.
    """
    path = Path(output).expanduser()
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"{str(path)!r} cannot be a file", allowed="a file in a folder that exists", fix="change it")
    if path.exists() and not force:
        raise ConfigError(f"{str(path)!r} is there already", where=str(path), fix="give another name, or --force")
    return path


def _is_schema(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("title") == TITLE


class Begun(StrictModel):
    """A study file that was written."""

    study: str
    """The file."""
    schema_file: str
    """Its schema for the editor."""
    saw: tuple[str, ...]
    chose: tuple[str, ...]
    left_out: dict[str, str]
    """What was not used, and why."""
    problem: str
    """What `afp plan` would refuse; "" where it does not."""


def begin_study(name: str, names: Sequence[str], *, force: bool = False, preset: str | None = None) -> Begun:
    """Write a study file for what was named, or a copy of a study that ships, and the schema beside it.

    Args:
        name: of the study; its file is `<name>.yaml` in the current folder.
        names: files, folders and models, or the name of one study that ships; nothing is the demonstration's parts.
        force: whether a file of that name is replaced.
        preset: card whose size decides how it trains.
    Raises: ConfigError for a name that cannot be a study's or a file that is there; DataError when nothing that was
        named can be used.
    """
    _require_name(name)
    file = new_file(f"{name}.yaml", force=force)
    shipped = [item for item in names if item in shipped_names()]
    if shipped and len(names) > 1:
        raise ConfigError(f"{shipped[0]} is a study that ships", where="--from", fix="give it alone, or files alone")
    if shipped:
        if preset is not None:
            fix = f"give it to the plan and the run: afp run {name}.yaml --preset {preset}"
            raise ConfigError("a study that ships is copied as it is", where="--preset", fix=fix)
        text, draft, seen = _copied(find(shipped[0]), name), Draft({}, chose=[f"a copy of {shipped[0]}"]), Survey()
    else:
        seen = survey(names)
        draft = draft_study(name, seen)
        made_by = shlex.join(["afp", "init", name, *names])
        text = study_text(draft, schema=SCHEMA_FILE, made_by=made_by)
        if preset is not None:
            _apply_preset(draft, _loaded(text, name), preset)
            text = study_text(draft, schema=SCHEMA_FILE, made_by=f"{made_by} --preset {preset}")
    problem = _problem(text, name)
    schema = write_schema(file.parent / SCHEMA_FILE)
    write_atomic(file, text)
    return Begun(
        study=str(file),
        schema_file=str(schema),
        saw=tuple(_seen_lines(seen)),
        chose=tuple(draft.chose),
        left_out=draft.left_out,
        problem=problem,
    )


def _require_name(name: str) -> None:
    try:
        StudyConfig(name=name)
    except ValidationError as error:
        mistake = translate(error.errors()[0], Document(name="", lines=[], values={}), model=StudyConfig)
        raise ConfigError(mistake.problem, where="NAME", allowed=mistake.allowed, fix="choose another name") from error


def _copied(shipped: Path, name: str) -> str:
    """The text of a study that ships, comments and all, under another name."""
    text = re.sub(r"^name:.*$", f"name: {name}", shipped.read_text(encoding="utf-8"), count=1, flags=re.MULTILINE)
    return f"# yaml-language-server: $schema={SCHEMA_FILE}\n{text}"


def _problem(text: str, name: str) -> str:
    """What a plan of the study would refuse; "" where it would not."""
    try:
        unloadable = afp_ray.study.check(_loaded(text, name)).unloadable
    except UserError as error:
        return f"{error.where}: {error.problem}" if error.where else error.problem
    return "; ".join(f"arm {arm}: {error.problem}" for arm, error in unloadable.items())


def _loaded(text: str, name: str) -> StudyConfig:
    with tempfile.TemporaryDirectory(prefix="afp-init-") as folder:
        file = Path(folder) / f"{name}.yaml"
        file.write_text(text, encoding="utf-8")
        return load_study(file)


def _apply_preset(draft: Draft, study: StudyConfig, name: str) -> None:
    """Put what a preset chooses into the draft."""
    preset = choose_preset(study, name)
    for field, value in preset.values.items():
        section, _, last = field.partition(".")
        if section == "runtime":
            draft.fields.setdefault("runtime", {})[last] = value
        else:
            draft.fix(field, value, f"for a card of {name}")
    draft.chose += preset_lines(preset)


def _seen_lines(seen: Survey) -> list[str]:
    lines = [f"{name}: {model.model_type}, {model.num_layers} blocks" for name, model in seen.models.items()]
    for corpus in (*seen.corpora, *seen.beside):
        pairs = [f"pairs of {corpus.pivot} with {_listed(corpus.pairs)}"] if corpus.pairs else []
        told = [f"instructions in {_listed(corpus.instructions)}"] if corpus.instructions else []
        lines.append(f"{corpus.source.path}: {corpus.source.kind}, {'; '.join(pairs + told)}")
    return lines + [f"{folder}: tasks {', '.join(tasks)}" for folder, tasks in seen.data_dirs.items()]


def _listed(codes: Sequence[str]) -> str:
    return " ".join(codes) if len(codes) <= 12 else f"{len(codes)} languages"
