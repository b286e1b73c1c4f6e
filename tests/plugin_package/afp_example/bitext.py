"""A source is a `PairSource`: here files `corpus.en-zh` with lines `sentence ||| translation`, as of fast_align."""

from collections.abc import Iterator
from pathlib import Path

from afp_ray.data.readers.pair_source import PairSource


def locate(folder: Path, pivot: str, language: str) -> tuple[Path, ...] | None:
    file = folder / f"corpus.{pivot}-{language}"
    return (file,) if file.is_file() else None


def read(files: tuple[Path, ...], pivot: str, language: str) -> Iterator[tuple[str, str]]:
    with files[0].open(encoding="utf-8") as lines:
        for line in lines:
            sentence, _, translation = line.partition("|||")
            yield sentence, translation


SOURCE = PairSource(locate=locate, read=read)
