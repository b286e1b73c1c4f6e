"""Reads Bactrian-X (a JSON array a language, the same ids in all) as a stream of instruction records."""

from collections.abc import Iterator

from afp_ray.data.readers.files import SourceFile, clean, digest, find
from afp_ray.data.readers.json_array import read_array
from afp_ray.data.readers.records import Record
from afp_ray.errors import DataError


def file_names(language: str) -> list[str]:
    """Names that the file of `language` may have in the folder."""
    return [f"{folder}{language}.json{packed}" for folder in ("", "data/") for packed in ("", ".gz")]


def locate(path: str, language: str) -> SourceFile | None:
    """The file of `language` in the folder or archive `path`; None when it is not there.

    Raises: DataError when the folder is not there.
    """
    return find(path, file_names(language))


def read_records(file: SourceFile) -> Iterator[Record]:
    """The records of one language, in order.

    Raises: DataError when the file is not in the form of Bactrian-X, or cut off.
    """
    for number, record in enumerate(read_array(file), start=1):
        values = [record.get(name) for name in ("id", "instruction", "input", "output")]
        texts = [value for value in values if isinstance(value, str)]
        if len(texts) < len(values) or not clean(texts[0]):
            raise DataError(
                f"record {number} is not in the form of Bactrian-X: it has {', '.join(sorted(record)) or 'no fields'}",
                where=file.label,
                allowed="{instruction, input, id, output}, all of them text, and an id that is not empty",
                fix="give the file as Bactrian-X releases it",
            )
        yield Record(*texts)


def key(file: SourceFile) -> str:
    """What the records of `file` depend on."""
    return f"bactrian_x {digest(file)}"
