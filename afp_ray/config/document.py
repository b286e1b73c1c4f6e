"""A YAML 1.2 file as plain values, with the place of every key and value.

PyYAML scans and composes; what a scalar means is decided here, by the core schema of YAML 1.2. PyYAML itself would read
it by YAML 1.1, where `no` is false, `1e-5` text and `1:30` the number 90. Nothing of the file is ever executed.
"""

import difflib
import json
import math
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

import yaml
from pydantic import BaseModel

from afp_ray.config.mistakes import Mistakes
from afp_ray.errors import ConfigError

KeyPath = tuple[str | int, ...]

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_ALIASES = 100
MAX_NODES = 50_000

_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # takes every scalar for text
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLS = {word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")}
# Underscores and 0b are of YAML 1.1; they mean nothing else in 1.2.
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*|0b[01_]*[01]|0o[0-7_]*[0-7]|0x[0-9a-fA-F_]*[0-9a-fA-F])_*")
_NUMBER = re.compile(r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_OCTAL = re.compile(r"[-+]?0[0-7_]*[0-7]")


@dataclass(frozen=True, slots=True)
class Position:
    """Where a value stands: 1-based line and column of its key (where it has one) and of the value itself."""

    line: int
    column: int
    key_line: int
    key_column: int
    raw: str | None = None
    """The scalar as it was written, null for lists and mappings."""
    origin: str | None = None
    """Replaces file, line and column: the `--set` that gave the value."""


@dataclass(slots=True)
class Document:
    """Values of one file and their positions by path of keys and list positions."""

    name: str
    lines: list[str]
    values: dict[str, Any]
    positions: dict[KeyPath, Position] = field(default_factory=dict)
    mistakes: Mistakes = field(default_factory=Mistakes)
    """What was found wrong; whoever has read all of the document refuses them together."""

    def error(
        self, path: KeyPath, problem: str, *, at_key: bool = False, allowed: str = "", fix: str = ""
    ) -> ConfigError:
        """A `ConfigError` at the place of `path`, or of its nearest parent, that shows the source line."""
        nearest = next((path[:size] for size in range(len(path), -1, -1) if path[:size] in self.positions), None)
        if nearest is None:
            return ConfigError(problem, where=self.name, allowed=allowed, fix=fix)
        position = self.positions[nearest]
        if position.origin is not None:
            return ConfigError(problem, where=position.origin, allowed=allowed, fix=fix)
        line, column = (position.key_line, position.key_column) if at_key else (position.line, position.column)
        return _located(self.name, self.lines, line, column, problem, allowed=allowed, fix=fix)

    def raw(self, path: KeyPath) -> str | None:
        """The scalar at `path` as it was written; None for anything else."""
        position = self.positions.get(path)
        return position.raw if position else None


def _snippet(lines: list[str], line: int, column: int) -> str:
    """The source line with up to two before it and a caret under `column`; long lines are cut around it."""
    start = max(0, column - 1 - 60)
    shown = []
    for number in range(max(1, line - 2), line + 1):
        text = lines[number - 1] if number <= len(lines) else ""
        text = "".join(char if char.isprintable() else " " for char in text[start : start + 100])
        shown.append(f"{number:>9} | {text}")
    return "\n".join((*shown, " " * (12 + column - 1 - start) + "^"))


def _located(
    name: str, lines: list[str], line: int, column: int, problem: str, *, allowed: str = "", fix: str = ""
) -> ConfigError:
    text = f"{problem}\n{_snippet(lines, line, column)}"
    return ConfigError(text, where=f"{name}:{line}:{column}", allowed=allowed, fix=fix)


def read_document(path: str | Path) -> Document:
    """Read a YAML file whose top level is a mapping; a `.json` file, which a program wrote, is read as JSON.

    Args:
        path: the file, at most 1 MB of UTF-8.
    Returns: its values as dict, list, str, int, float, bool and None, with their positions; a field whose value cannot
        be read is left out, and among its `mistakes`.
    Raises: ConfigError with file:line:column where it is no document at all.
    """
    name, file = str(path), Path(path).expanduser()
    text = _read_text(file, name)
    return _parse_json(text, name) if file.suffix == ".json" else parse_document(text, name)


def parse_document(text: str, name: str) -> Document:
    """Like `read_document`, from text; `name` is what errors call it."""
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        indent = line[: len(line) - len(line.lstrip())]
        if "\t" in indent and line.strip() and not line.lstrip().startswith("#"):
            where = indent.index("\t") + 1
            raise _located(name, lines, number, where, "a tab is used as indentation", fix="indent with spaces")
    try:
        _check_events(text, name, lines)
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        assert mark is not None
        reason = " ".join(part for part in (error.context, error.problem) if part)
        raise _located(name, lines, mark.line + 1, mark.column + 1, f"this is no YAML: {reason}") from error
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"this is no YAML: {reason}", where=name, fix="save it as plain UTF-8 text") from error
    if node is None:
        raise ConfigError("the file is empty", where=name, fix="see search_spaces/demo.yaml for an example")
    document = Document(name=name, lines=lines, values={})
    values = _Reader(document).value(node, ())
    if not isinstance(values, dict):
        problem = "the file must be a mapping of `field: value` lines"
        raise document.error((), problem, fix="see search_spaces/demo.yaml")
    document.values = values
    return document


def write_document(values: Mapping[str, Any], name: str = "<study>") -> Document:
    """The document that a program's mapping would be in a file, so that errors show the line of the mistake.

    Args:
        values: what JSON can hold, paths, models, and numbers of numpy.
        name: what errors call it.
    Raises: ConfigError for another value, and as `parse_document`.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, BaseModel):
            return value.model_dump(mode="json")
        if isinstance(value, PurePath):
            return str(value)
        if hasattr(value, "item"):
            return value.item()
        raise ConfigError(
            f"a value is of the type {type(value).__name__}: {str(value)[:80]!r}",
            where=name,
            allowed="what a YAML file can hold: text, numbers, true and false, None, lists, mappings; and paths",
        )

    try:
        text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False, default=plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"this is no study: {error}", where=name, fix="use finite numbers and plain names") from error
    return parse_document(text, name)  # JSON is YAML, and a document with one field a line has places to show


def _parse_json(text: str, name: str) -> Document:
    """A JSON document without positions: errors name the file and the field."""

    def refuse(constant: str) -> None:
        raise ConfigError(f"{constant} is not a finite number", where=name)

    def number(written: str) -> float:
        if not math.isfinite(value := float(written)):
            raise ConfigError(f"{written} is beyond every number of a computer", where=name, fix="write a smaller one")
        return value

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            twice = next(key for key in values if sum(key == other for other, _ in pairs) > 1)
            raise ConfigError(f"{twice!r} stands twice in one object", where=name, fix="keep one of them")
        return values

    try:
        values = json.loads(text, parse_constant=refuse, parse_float=number, object_pairs_hook=mapping)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"this is no JSON: {error}", where=name) from error
    if not isinstance(values, dict):
        raise ConfigError("the file must be a JSON object", where=name)
    return Document(name=name, lines=[], values=values)


def parse_value(text: str, origin: str) -> tuple[Any, dict[KeyPath, Position]]:
    """The value of a `--set` as YAML, and the place of each of its parts, which is `origin`."""
    try:
        document = parse_document(f"value: {text}", origin)
        document.mistakes.refuse()
        positions = {
            path[1:]: replace(position, origin=origin) for path, position in document.positions.items() if path
        }
        return document.values["value"], positions
    except ConfigError as error:
        raise ConfigError(error.problem.split("\n")[0], where=origin, allowed=error.allowed, fix=error.fix) from error


def _read_text(path: Path, name: str) -> str:
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise _missing(path, name) from error
    if stat.S_ISDIR(status.st_mode):
        files = sorted(entry.name for entry in path.glob("*.y*ml"))
        raise ConfigError("this is a folder, not a YAML file", where=name, allowed=", ".join(files[:10]))
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError("this is no regular file", where=name)
    if status.st_size > MAX_BYTES:
        raise ConfigError(f"the file has {status.st_size:,} bytes", where=name, allowed=f"at most {MAX_BYTES:,}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the file cannot be read: {error.strerror}", where=name) from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")):
        kind = "UTF-8 with a byte order mark" if data[0] == 0xEF else "UTF-16 or UTF-32"
        raise ConfigError(f"the file is {kind}", where=f"{name}:1:1", fix="save it as UTF-8 without a byte order mark")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line, column = _position(data[: error.start])
        problem = f"byte 0x{data[error.start]:02x} is not UTF-8"
        raise ConfigError(problem, where=f"{name}:{line}:{column}", fix="save the file as UTF-8") from error
    if "\0" in text:
        line, column = _position(data[: data.index(0)])
        raise ConfigError("the file holds a NUL character", where=f"{name}:{line}:{column}", fix="remove it")
    return text.replace("\r\n", "\n")


def _position(before: bytes) -> tuple[int, int]:
    last = before.rpartition(b"\n")[2].decode("utf-8", "replace")
    return before.count(b"\n") + 1, len(last) + 1


def _missing(path: Path, name: str) -> ConfigError:
    try:
        siblings = [entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml")]
    except (OSError, ValueError):
        siblings = []
    near = difflib.get_close_matches(path.name, siblings, n=1, cutoff=0.4)
    fix = f"did you mean {path.parent / near[0]}?" if near else "give the path of a YAML file"
    return ConfigError("there is no such file", where=name, fix=fix)


def _check_events(text: str, name: str, lines: list[str]) -> None:
    """Refuse what would be dangerous or surprising to compose: depth, aliases, tags, several documents."""
    depth = aliases = documents = nodes = 0
    for event in yaml.parse(text, Loader=_LOADER):
        problem = fix = ""
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            nodes += 1
            if nodes > MAX_NODES:
                problem, fix = (
                    f"more than {MAX_NODES:,} keys and values",
                    "give a range (low, high), or shorten the list",
                )
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                problem, fix = "a second document begins here", "one study per file; remove the `---` and what follows"
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                problem, fix = f"more than {MAX_DEPTH} levels are nested here", "flatten the file"
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
            if aliases > MAX_ALIASES:
                problem, fix = f"more than {MAX_ALIASES} aliases (*name)", "write the values out"
        tag = getattr(event, "tag", None)
        if not problem and tag is not None and tag != "!":
            problem, fix = f"the tag {tag!r} is not accepted", "remove it: values are text, numbers, true, false, null"
        if problem:
            mark = event.start_mark
            assert mark is not None
            raise _located(name, lines, mark.line + 1, mark.column + 1, problem, fix=fix)


class _Reader:
    """Turns composed nodes into values and notes their positions."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.nodes = 0
        self.open: set[int] = set()  # nodes being read, to find an alias to its own parent

    def fail(self, node: yaml.Node, problem: str, *, fix: str = "", allowed: str = "") -> ConfigError:
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        return _located(self.document.name, self.document.lines, line, column, problem, fix=fix, allowed=allowed)

    def endless(self, node: yaml.Node) -> ConfigError:
        return self.fail(node, "the aliases of this file expand without end", fix="write the values out")

    def value(self, node: yaml.Node, path: KeyPath, key: yaml.Node | None = None) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES or len(path) > MAX_DEPTH:
            raise self.endless(node)
        if id(node) in self.open:
            raise self.fail(node, "this alias contains itself", fix="write the values out")
        mark, key_mark = node.start_mark, (key or node).start_mark
        self.document.positions[path] = Position(
            mark.line + 1,
            mark.column + 1,
            key_mark.line + 1,
            key_mark.column + 1,
            node.value if isinstance(node, yaml.ScalarNode) else None,
        )
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self.mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.value(child, (*path, index)) for index, child in enumerate(node.value)]
            assert isinstance(node, yaml.ScalarNode)
            return self.scalar(node)
        finally:
            self.open.discard(id(node))

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, child in node.value:
            if self.nodes > MAX_NODES:
                raise self.endless(key_node)
            with self.document.mistakes:  # the field is left out
                self.entry(values, key_node, child, path)
        return values

    def entry(self, values: dict[str, Any], key_node: yaml.Node, child: yaml.Node, path: KeyPath) -> None:
        """Put one field of the mapping at `path` into `values`."""
        if not isinstance(key_node, yaml.ScalarNode):
            raise self.fail(key_node, "a key must be text, not a list or mapping")
        if key_node.value == "<<" and not key_node.style:  # of YAML 1.1 alone
            raise self.fail(key_node, "the merge key << is not accepted", fix="write the fields out")
        key = self.scalar(key_node)
        if not isinstance(key, str):
            problem = f"the key {key_node.value} was read by YAML as {_shown(key)}"
            raise self.fail(key_node, problem, fix=f'write "{key_node.value}"')
        if key in values:
            first = self.document.positions[(*path, key)].key_line
            raise self.fail(key_node, f"the key {key!r} stands twice, first in line {first}", fix="keep one")
        values[key] = self.value(child, (*path, key), key_node)

    def scalar(self, node: yaml.ScalarNode) -> Any:
        """The value of a scalar, refusing numbers that mean something else than they look like."""
        text = node.value
        if node.style:  # quotes, or a block of lines
            return text
        if text in _NULLS:
            return None
        if text in _BOOLS:
            return _BOOLS[text]
        if _OCTAL.fullmatch(text):
            decimal = text.lstrip("+-").replace("_", "").lstrip("0") or "0"
            raise self.fail(node, f"{text} was read by YAML as an octal number", fix=f'write {decimal}, or "{text}"')
        if _INTEGER.fullmatch(text):
            return self.integer(node, text)
        if _NOT_FINITE.fullmatch(text):
            raise self.fail(node, f"{text} is not a finite number", fix="write a finite number, or null for none")
        if _NUMBER.fullmatch(text):
            value = float(text.replace("_", ""))
            if not math.isfinite(value):
                fix = f'write a finite number, or "{text}" for text'
                raise self.fail(node, f"{text} is not a finite number", fix=fix)
            return value
        return text

    def integer(self, node: yaml.ScalarNode, text: str) -> int:
        digits = text.replace("_", "")
        value = int(digits, 0) if len(digits) < 70 else 2**64
        if abs(value) >= 2**63:
            raise self.fail(node, f"{text[:40]} does not fit in 64 bits", allowed="whole numbers below 2^63")
        return value


def _shown(value: Any) -> str:
    """A scalar in YAML's own spelling."""
    return json.dumps(value, ensure_ascii=False)
