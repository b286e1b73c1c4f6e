"""English COPA in the XML of its authors (`COPA-resources`), read as the rows that XCOPA's form of it has.

`copa-dev.xml` holds items 1 to 500, `copa-test.xml` items 501 to 1000, `copa-all.xml` all of them. Validation takes
items 1 to 400, as `train.en.jsonl` does: the dev items 401 to 500 are those that XCOPA translates for its validation.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers import expat

from afp_ray.config import Split
from afp_ray.data.readers.files import SourceFile
from afp_ray.data.readers.streams import open_unpacked
from afp_ray.errors import DataError
from afp_ray.evaluation.task_files import locate

FOLDERS = ("", "datasets/", "COPA-resources/datasets/")
"""Where the files may lie under `copa_en/`, beside the archive itself."""
_ITEMS: dict[Split, tuple[str, str, int, int]] = {
    "validation": ("copa-dev.xml", "train", 1, 400),
    "test": ("copa-test.xml", "test", 501, 1000),
}
"""File of each split, the name that its rows bear in XCOPA's form, and its first and last item."""
_TEXTS = {"p": "premise", "a1": "choice1", "a2": "choice2"}
_ATTRIBUTES = ("id", "asks-for", "most-plausible-alternative")


@dataclass(frozen=True, slots=True)
class CopaItems(SourceFile):
    """The items of one split in a file that may hold those of both.

    Attributes:
        part: what XCOPA's form names the split.
        first, last: ids of the items that belong to it.
    """

    part: str
    first: int
    last: int


def copa_items(data_dir: Path, split: Split) -> CopaItems | None:
    """The items of `split` under `data_dir/copa_en`, in the split's own file or in that of all; None without one."""
    own, part, first, last = _ITEMS[split]
    file = locate(data_dir, "copa_en", *(folder + name for name in (own, "copa-all.xml") for folder in FOLDERS))
    return None if file is None else CopaItems(file.path, file.member, file.size, file.modified_ns, part, first, last)


def read_items(file: CopaItems) -> Iterator[dict[str, Any]]:
    """Rows with the fields of XCOPA's form, each with its `where`; `idx` counts from 0 within the split.

    Raises: DataError for a file that is no XML of COPA, that declares entities, or has no item of the split.
    """
    items = {number: row for number, row in _Items(file).parse().items() if file.first <= number <= file.last}
    if not items:
        raise _refused(file, f"it has none of the items {file.first} to {file.last}")
    for number in sorted(items):
        yield {**items[number], "idx": number - file.first}


class _Items:
    """Collects the items of one file; what could make the parser expand or fetch anything is refused."""

    def __init__(self, file: CopaItems) -> None:
        self._file = file
        self._found: dict[int, dict[str, Any]] = {}
        self._item: dict[str, Any] | None = None
        self._number = 0
        self._field = ""
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.EntityDeclHandler = self._entity
        self._parser.SkippedEntityHandler = self._entity

    def parse(self) -> dict[int, dict[str, Any]]:
        try:
            with open_unpacked(self._file) as stream:
                self._parser.Parse(self._file.read_unpacked(stream), True)
        except expat.ExpatError as error:
            raise DataError(
                f"not XML: {expat.errors.messages[error.code]}",
                where=f"{self._file.label}:{error.lineno}",
                allowed="the XML of COPA-resources",
                fix="download the file again",
            ) from error
        return self._found

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "item":
            self._number, self._item = self._header(attributes)
        elif name in _TEXTS and self._item is not None:
            self._field = _TEXTS[name]
            self._item[self._field] = ""

    def _header(self, attributes: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if missing := [name for name in _ATTRIBUTES if name not in attributes]:
            raise self._refused(f"the item has no {', '.join(missing)}")
        number, question, answer = (attributes[name].strip() for name in _ATTRIBUTES)
        if not number.isdecimal() or answer not in ("1", "2") or int(number) in self._found:
            raise self._refused(f"the item has id {number[:20]!r} and most-plausible-alternative {answer[:20]!r}")
        return int(number), {"question": question, "label": int(answer) - 1, "where": self._place()}

    def _end(self, name: str) -> None:
        if name in _TEXTS:
            self._field = ""
        elif name == "item" and self._item is not None:
            if missing := [tag for tag, field in _TEXTS.items() if field not in self._item]:
                raise self._refused(f"item {self._number} has no <{missing[0]}>")
            texts = {field: self._item[field].strip() for field in _TEXTS.values()}
            self._found[self._number], self._item = {**self._item, **texts}, None

    def _text(self, text: str) -> None:
        if self._field and self._item is not None:
            self._item[self._field] += text

    def _entity(self, name: str, *_: object) -> None:
        raise self._refused(f"the entity {name[:40]!r} is declared or used, and COPA has none")

    def _place(self) -> str:
        return f"{self._file.label}:{self._parser.CurrentLineNumber}"

    def _refused(self, problem: str) -> DataError:
        return _refused(self._file, problem, where=self._place())


def _refused(file: CopaItems, problem: str, *, where: str = "") -> DataError:
    return DataError(
        problem,
        where=where or file.label,
        allowed='<item id="1" asks-for="cause" most-plausible-alternative="1"> with <p>, <a1> and <a2>',
        fix="give the file as COPA-resources has it",
    )
