"""The state of a long ledger as of one of its lines, kept beside it so that reading need not begin at the first.

A projection: it names how many bytes of the ledger it stands for and their SHA-256, is passed over when anything of it
is not as it should be, and may be deleted at any time. Trials lie in columns; sections of configs that trials share
are written, and held in memory, once.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import from_json

from afp_ray.errors import StorageError
from afp_ray.records import Failure, TrialRecord, TrialStatus, Until
from afp_ray.store import LEDGER_SNAPSHOT, write_atomic

if TYPE_CHECKING:
    from afp_ray.ledger.state import Replayer

logger = logging.getLogger(__name__)

FORM = 3
"""Raised whenever a fold of the same events gives other records."""
_COLUMNS: dict[str, Any] = {
    "trial_id": None, "arm": None, "seed": None, "role": None, "status": None, "attempt": None, "planned_at": None,
    "params": None, "objective": None, "splits": (), "gpu_hours": 0.0, "failure": None, "note": "",
    "started_at": None, "ended_at": None, "test_pending": False, "values": {}, "until": None, "rungs": (),
    "num_halvings": 0, "files": {},
}  # fmt: skip
"""Fields of a trial but for its config, with what they are before an event sets them."""


def path_of(ledger: Path) -> Path:
    """Where the snapshot of a ledger lies."""
    return ledger.with_name(LEDGER_SNAPSHOT)


class Sections:
    """Parts of configs, each held once: trials of a study differ in few of them."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}
        self._parts: list[Any] = []
        self._by_identity: dict[int, int] = {}

    def share(self, config: dict[str, Any]) -> dict[str, Any]:
        """`config` with every section that was seen before replaced by the one seen first."""
        return {
            name: self._parts[self.number(part)] if isinstance(part, dict) else part for name, part in config.items()
        }

    def number(self, part: Any) -> int:
        """Which section this is; a new one gets the next number."""
        index = self._by_identity.get(id(part))
        if index is not None:
            return index
        text = json.dumps(part, ensure_ascii=False, separators=(",", ":"))
        index = self.texts.setdefault(text, len(self._parts))
        if index == len(self._parts):
            self._parts.append(part)  # kept alive, so that its identity stays its own
            self._by_identity[id(part)] = index
        return index


def save(replayer: "Replayer", path: Path, sections: Sections) -> None:
    """Write what `replayer` holds; a disk that refuses gives a warning, since the ledger has it all."""
    trials = replayer.trials.values()
    columns = {name: [trial.get(name, default) for trial in trials] for name, default in _COLUMNS.items()}
    for name in ("failure", "until"):
        columns[name] = [value and value.model_dump(mode="json") for value in columns[name]]
    names: dict[str, int] = {}
    configs = []
    for trial in trials:
        row: list[int] = []
        for name, part in trial["config"].items():
            row += (names.setdefault(name, len(names)), sections.number(part))
        configs.append(row)
    counts = {"offset": replayer.offset, "num_events": replayer.num_events, "num_stale": replayer.num_stale}
    whole: dict[str, Any] = {"form": FORM, **counts, "sha256": replayer.digest.hexdigest()}
    whole |= {"study": replayer.study, "driver": replayer.driver}
    whole |= {"names": list(names), "columns": columns, "configs": configs}
    text = json.dumps(whole, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    content = (text[:-1] + ',"sections":[' + ",".join(sections.texts) + "]}").encode()
    try:
        write_atomic(path, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
    except StorageError as error:
        logger.warning("the snapshot of the ledger was not kept: %s", error)


def restore(replayer: "Replayer", path: Path, ledger: bytes) -> None:
    """Bring an empty `replayer` to where the snapshot stands; it stays empty when the snapshot is not of `ledger`.

    Args:
        replayer: has no events yet.
        path: of the snapshot.
        ledger: what the ledger holds now; its beginning must be what the snapshot was made from.
    """
    try:
        seal, _, content = path.read_bytes().partition(b"\n")
    except OSError:
        return
    if hashlib.sha256(content).hexdigest().encode() != seal:
        return
    try:
        whole = from_json(content, cache_strings="all")
        if whole["form"] != FORM or whole["offset"] > len(ledger):
            return
        digest = hashlib.sha256(memoryview(ledger)[: whole["offset"]])
        if digest.hexdigest() != whole["sha256"]:
            return
        trials = _trials(whole)
        study, counts = dict(whole["study"]), (whole["offset"], whole["num_events"], whole["num_stale"])
        driver = whole["driver"]
    except (ValueError, KeyError, TypeError, IndexError, ValidationError):
        return
    replayer.study, replayer.trials, replayer.driver, replayer.digest = study, trials, driver, digest
    replayer.offset, replayer.num_events, replayer.num_stale = counts


def _trials(whole: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Fields of every trial by id; sections of configs are shared between trials."""
    columns, names, sections = whole["columns"], whole["names"], whole["sections"]
    statuses = {str(status): status for status in TrialStatus}
    columns["status"] = [statuses[text] for text in columns["status"]]
    columns["splits"] = [tuple(splits) for splits in columns["splits"]]
    columns["rungs"] = [tuple(rungs) for rungs in columns["rungs"]]
    columns["failure"] = [failure and Failure.model_validate(failure) for failure in columns["failure"]]
    columns["until"] = [until and Until.model_validate(until) for until in columns["until"]]
    columns["config"] = [
        {names[name]: sections[part] for name, part in zip(row[::2], row[1::2], strict=True)}
        for row in whole["configs"]
    ]
    fields = list(TrialRecord.model_fields)
    rows = zip(*(columns[name] for name in fields), strict=True)
    return {row[0]: dict(zip(fields, row, strict=True)) for row in rows}
