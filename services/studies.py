"""Finds studies, files by path or the name of one that ships, folders by name; and trials by their first digits."""

import glob
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from afp_ray.config import StudyConfig
from afp_ray.config.fields import did_you_mean
from afp_ray.errors import ConfigError, UserError
from afp_ray.remote import working_folder
from afp_ray.store import DEFAULT_STORAGE, StudyPaths, list_studies

_SHIPPED = (Path(__file__).resolve().parent.parent / "search_spaces", Path(sys.prefix) / "share/afp_ray/search_spaces")


_YAML = (".yaml", ".yml")
TRIAL_FORMS = "the first digits of an id, STUDY:ARM, STUDY:ARM:SEED, or STUDY:best"
"""How a trial is named."""
ID_DIGITS = re.compile(r"[0-9a-f]{1,64}")
MAX_LISTED = 12
"""Names that a message lists."""
_JOB_FOLDER = "working_dir_files"  # where Ray unpacks the folder of a job


def storage_folder(option: str | None) -> Path:
    """The storage: what was given, else AFP_STORAGE, else `runs`; under a Ray job, `afp_ray/runs` in the home folder.

    A Ray job works in a copy of the submitted folder that the cluster throws away, and the study would go with it.
    A URL gives the folder of this machine that stands for it, brought up to date first.

    Raises: ConfigError for a URL that cannot be opened or a path with a control character, UnavailableError when what
        is there cannot be read, StudyChangedError for a study there that was driven on two machines.
    """
    chosen = option or os.environ.get("AFP_STORAGE")
    if chosen and any(ord(character) < 0x20 or character == "\x7f" for character in chosen):
        raise ConfigError(
            f"{chosen!r} has a line end or another control character",
            where="--storage" if option else "AFP_STORAGE",
            fix="name a folder without it: every command that is shown fits in one line",
        )
    if chosen and "://" in chosen:
        return working_folder(chosen)
    if not chosen and _JOB_FOLDER in Path.cwd().parts:
        return Path.home() / "afp_ray" / DEFAULT_STORAGE
    return Path(chosen or DEFAULT_STORAGE).expanduser()


def find(name: str) -> Path:
    """A study file: the path itself, else `search_spaces/<name>.yaml` among those that ship, `paper/...` included.

    `search_spaces/<name>.yaml` itself is found in this way too where there is no such file below the current folder.

    Raises: ConfigError with the names that ship.
    """
    path = Path(name).expanduser()
    # A script that `ray submit` ships runs in the home folder, and is told of the project's own files all the same.
    short = name.removeprefix("search_spaces/").removesuffix(".yaml") if name.startswith("search_spaces/") else name
    if path.is_file() or (short == name and path.suffix in (".yaml", ".yml", ".json")):
        return path
    for folder in _SHIPPED:
        shipped = folder / f"{short}.yaml"
        if shipped.is_file():
            return shipped
    if path.suffix in (".yaml", ".yml", ".json"):
        return path
    names = shipped_names()
    raise ConfigError(
        f"there is no study file {name!r}",
        allowed=f"a path, or one of: {', '.join(names)}",
        fix=did_you_mean(short, names, separator="/") or "check the path",
    )


def shipped_names() -> list[str]:
    """Names of the studies that ship; those in a folder have its name before theirs."""
    return sorted(
        {
            file.relative_to(folder).with_suffix("").as_posix()
            for folder in _SHIPPED
            for file in folder.glob("**/*.yaml")
        }
    )


def load(
    study: str,
    sets: Sequence[str] | None = None,
    *,
    executor: str | None = None,
    small: bool = False,
    preset: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> StudyConfig:
    """The study of a file or of a shipped name, with what the command line sets over it.

    Args:
        study: path or name.
        sets: `name=value` each.
        executor: over the file's.
        small: take its small form.
        preset: card whose size decides how it trains; its values stand where the file's would, below `sets`.
        say: hears what a preset chose.
    Raises: ConfigError for a study that is not there or not as it should be, or that no form of training fits the card.
    """
    from afp_ray.config.load import load_study  # the YAML library, which answers about finished studies do not need

    overrides = [*(sets or []), *([f"runtime.executor={executor}"] if executor else [])]
    config = load_study(find(study), overrides, small=small)
    if preset is None:
        return config
    from afp_ray.planning.presets import choose_preset, preset_lines  # the search's library

    chosen = choose_preset(config, preset, given=[override.partition("=")[0].strip() for override in overrides])
    for line in preset_lines(chosen):
        say(line)
    return load_study(find(study), [*chosen.overrides, *overrides], small=small)


def is_file_name(name: str) -> bool:
    """Whether a name on the command line means a file rather than a study that was run."""
    return name.endswith((".yaml", ".yml", ".json")) or "/" in name


def paths_of(storage: Path, name: str) -> StudyPaths:
    """The folder of a study by name; a name that could leave the storage is refused.

    Raises: UserError for a name that cannot be a study's, or that is none under `storage`.
    """
    studies = list_studies(storage)
    study = next((paths for paths in studies if paths.name == name), None)
    if study is None:
        names = [paths.name for paths in studies]
        raise UserError(
            f"there is no study {name[:80]!r} under {storage}",
            allowed=", ".join(names) or "none yet",
            fix=did_you_mean(name, names) or "give one of these names, or another --storage",
        )
    return study


def complete_study_name(ctx: Any, incomplete: str) -> list[str]:
    """Studies under the storage of the command line that begin so, for the shell; a storage at a URL is not asked."""
    storage = ctx.params.get("storage") or os.environ.get("AFP_STORAGE") or DEFAULT_STORAGE
    names = [] if "://" in storage else [paths.name for paths in list_studies(storage)]
    return [name for name in names if name.startswith(incomplete)]


def complete_study_file(incomplete: str) -> list[str]:
    """Study files that begin so, for the shell: YAML files and folders on this machine, and the names that ship."""
    near = [Path(name) for name in glob.glob(f"{glob.escape(incomplete)}*")]
    files = [f"{path}/" if path.is_dir() else str(path) for path in near if path.is_dir() or path.suffix in _YAML]
    return sorted(files) + [name for name in shipped_names() if name.startswith(incomplete)]


def complete_study(ctx: Any, incomplete: str) -> list[str]:
    """Studies that were run, then study files, for the shell."""
    return [*complete_study_name(ctx, incomplete), *complete_study_file(incomplete)]


def match_id(prefix: str, ids: Iterable[str], *, where: str, names: Sequence[str] = ()) -> str:
    """The one id that begins with `prefix`.

    Args:
        prefix: digits of an id; a whole id fits itself alone.
        ids: that there are.
        where: for the message.
        names: of studies that might have been meant.
    Raises: UserError when none or several fit.
    """
    known = sorted(ids)
    fitting = [identity for identity in known if identity.startswith(prefix)] if ID_DIGITS.fullmatch(prefix) else []
    if prefix in fitting or len(fitting) == 1:
        return prefix if prefix in fitting else fitting[0]
    if fitting:
        raise UserError(
            f"{len(fitting)} trials begin with {prefix!r}",
            where=where,
            allowed=listed(fitting),
            fix="give more digits",
        )
    shortened = {identity[: max(3, len(prefix))] for identity in known}
    near = did_you_mean(prefix, [*names, *shortened])
    raise UserError(
        f"no trial begins with {prefix[:80]!r}",
        where=where,
        allowed=TRIAL_FORMS if known else f"{TRIAL_FORMS}; there are no trials yet",
        fix=near or "the report of each study lists its trials, `afp status` the studies",
    )


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more
