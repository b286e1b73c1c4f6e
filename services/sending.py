"""What of a study goes to the machines that run it: the study, the files that it names here, and no secret."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from afp_ray.config import StudyConfig, flatten
from afp_ray.errors import ConfigError
from afp_ray.store import write_json

STUDY_FILE: Final = "study.json"
MAX_BYTES: Final = 90 * 2**20
"""Ray takes 100 MiB with a job."""
_NAMES_A_FILE = ("path", "instruction_scores", "data_dir", "spbleu_model", "name")


def refuse_secrets(study: StudyConfig, storage: str | None) -> None:
    """Refuse what must not be sent: everybody who may use the cluster reads the jobs of all.

    Raises: ConfigError naming the field; the value is not repeated.
    """
    from afp_ray.redaction import redact

    for field, value in {**flatten(study.model_dump(mode="json")), "--storage": storage}.items():
        for _, text in _texts(field, value):
            if redact(text) != text:
                raise ConfigError(
                    f"the value of {field} holds a password or a token: {redact(text)}",
                    where=field,
                    fix="leave it out, and give it to the nodes as a file or as a variable of their own environment "
                    "(MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, HF_TOKEN ...)",
                )


def pack(study: StudyConfig, folder: Path) -> None:
    """Write into `folder` the study and the files that it names relative to where we are.

    Raises: ConfigError when they are too large to send, or lie above the current folder.
    """
    write_json(folder / STUDY_FILE, study.model_dump(mode="json"))
    size = 0
    for name in sorted(set(_named_files(study))):
        source = Path(name)
        if not source.resolve().is_relative_to(Path.cwd().resolve()):
            raise ConfigError(f"{name} lies outside the current folder", fix="give a path that the cluster has")
        files = [source] if source.is_file() else [file for file in source.rglob("*") if file.is_file()]
        size += sum(file.stat().st_size for file in files)
        if size > MAX_BYTES:
            raise ConfigError(
                f"{name} makes {size / 2**20:.0f} MiB to send with the job",
                allowed=f"{MAX_BYTES / 2**20:.0f} MiB",
                fix="put it where every node of the cluster finds it, and name that place: ${AFP_DATA_DIR}/...",
            )
        (folder / source).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, folder / source, dirs_exist_ok=True)
        else:
            shutil.copy2(source, folder / source)


def _named_files(study: StudyConfig) -> Iterator[str]:
    """Relative paths in the study that are there; what is not, and absolute paths, are the cluster's own."""
    choices = {name: list(getattr(spec, "choices", ())) for name, spec in study.tune.items()}
    for name, value in (*flatten(study.fixed).items(), *study.compare.items(), *choices.items()):
        for field, text in _texts(name, value):
            if field.rpartition(".")[2] not in _NAMES_A_FILE or "\0" in text or text.startswith(("~", "$", "/")):
                continue
            pattern = re.sub(r"\{[^}]*\}", "*", text)  # {source} and the like stand for language codes
            yield from map(str, Path().glob(pattern)) if pattern != text else [text] * Path(text).exists()


def _texts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(f"{name}.{key}", inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(name, inner)
