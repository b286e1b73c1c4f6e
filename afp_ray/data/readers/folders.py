"""Lists the files of a folder as people have them: behind links, in numbered parts, beside hidden ones and backups."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from afp_ray.errors import DataError

MAX_FILES = 100_000
"""A folder with more is refused: a link may lead to a whole disk."""
_SHARD = re.compile(r"(?P<stem>.*?)(?P<number>\d+)[-_]of[-_](?P<total>\d+)(?P<rest>.*)", re.IGNORECASE)
_NUMBERED = re.compile(r"\d{4,}\.\w+")


def walk(folder: Path) -> list[Path]:
    """Every file under `folder`, links followed, each folder entered once; links that lead nowhere are among them.

    Raises: DataError when a folder cannot be read, or there are more than `MAX_FILES` files.
    """
    files: list[Path] = []
    for file in walk_lazily(folder):
        files.append(file)
        if len(files) > MAX_FILES:
            raise DataError(
                f"the folder has more than {MAX_FILES} files", where=str(folder), fix="give the folder of the corpus"
            )
    return sorted(files)


def walk_lazily(folder: Path, depth: int | None = None) -> Iterator[Path]:
    """The files of `walk` folder by folder, no deeper than `depth` folders, `folder` itself being the first.

    Raises: DataError when a folder cannot be read.
    """
    entered: set[tuple[int, int]] = set()
    waiting = [(folder, 1)]
    while waiting:
        here, level = waiting.pop(0)
        try:
            status = here.stat()
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            entries = sorted(here.iterdir())
        except OSError as error:
            raise DataError(f"cannot be read: {error}", where=str(here), fix="check its permissions") from error
        yield from (entry for entry in entries if not entry.is_dir())
        folders = [(entry, level + 1) for entry in entries if entry.is_dir() and (depth is None or level < depth)]
        # What lies there itself is entered before what a link leads to, so that it keeps its own name.
        waiting = [*(entry for entry in folders if not entry[0].is_symlink()), *waiting]
        waiting += [entry for entry in folders if entry[0].is_symlink()]


def require_shards(files: Sequence[Path]) -> None:
    """Refuse files that are parts of a whole, such as `train-00000-of-00003.parquet`, when another part is missing.

    Raises: DataError that names the missing parts, or parts of two releases.
    """
    totals: dict[tuple[Path, str, str], dict[str, set[int]]] = {}
    for file in files:
        if shard := _SHARD.fullmatch(file.name):
            parts = totals.setdefault((file.parent, shard["stem"], shard["rest"]), {})
            parts.setdefault(shard["total"], set()).add(int(shard["number"]))
    for (folder, stem, rest), parts in totals.items():
        if len(parts) > 1:
            raise DataError(
                f"files of {len(parts)} releases lie there: of {' and of '.join(sorted(parts))}",
                where=str(folder / f"{stem}*{rest}"),
                allowed="the files of one release",
                fix="remove those of the other one",
            )
        for total, numbers in parts.items():
            first = 0 if 0 in numbers or int(total) not in numbers else 1
            missing = [number for number in range(first, first + int(total)) if number not in numbers]
            width = len(total)
            _require(folder, [f"{stem}{number:0{width}}-of-{total}{rest}" for number in missing], len(numbers))
    _require_counted(files)


def _require_counted(files: Sequence[Path]) -> None:
    """Files named by a number alone (`0000.parquet`) count from 0 without a gap."""
    counted: dict[tuple[Path, str], list[Path]] = {}
    for file in files:
        if _NUMBERED.fullmatch(file.name):
            counted.setdefault((file.parent, file.suffix), []).append(file)
    for (folder, suffix), held in counted.items():
        numbers = {int(file.stem) for file in held}
        first = 1 if 0 not in numbers and 1 in numbers else 0
        missing = [number for number in range(first, max(numbers)) if number not in numbers]
        _require(folder, [f"{number:0{len(held[0].stem)}}{suffix}" for number in missing], len(numbers))


def _require(folder: Path, missing: Sequence[str], num_there: int) -> None:
    if missing:
        raise DataError(
            f"{listed(missing)} {'is' if len(missing) == 1 else 'are'} missing, {num_there} of "
            f"{num_there + len(missing)} files are there",
            where=str(folder),
            allowed="every part of one release",
            fix="fetch the missing files",
        )


def listed(names: Iterable[str], most: int = 5) -> str:
    """The first of `names`, and how many more there are."""
    held = list(names)
    more = f" and {len(held) - most} more" if len(held) > most else ""
    return ", ".join(held[:most]) + more
