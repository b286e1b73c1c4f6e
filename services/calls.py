"""What the client asks the API for: each question as a request and a reader of its answer; sends nothing itself."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, TypeAdapter

from afp_ray.config import StrictModel, StudyConfig
from afp_ray.records import Best, Comparison, LedgerEvent
from services.schemas import Health, Problem, StudyDetail, StudyStatus, TrialDetail, TrialPage
from services.service_schemas import Pareto, Stopped, Submitted, TrainingCurve
from services.studies import load

_Answer = TypeVar("_Answer")
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Call(Generic[_Answer]):
    """A request and how its answer is read.

    Attributes:
        path: of the address.
        read: makes the answer of its bytes.
        method, query, body, headers: of the request; values of null are left out of the query.
    """

    path: str
    read: Callable[[bytes], _Answer]
    method: str = "GET"
    query: Mapping[str, Any] = field(default_factory=dict)
    body: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class StudyEvent(StrictModel):
    """One message of a stream of events."""

    position: int | None = None
    """In the ledger, to go on from; null where it is no event of the ledger."""
    event: LedgerEvent | None = None
    """Of the ledger."""
    status: StudyStatus | None = None
    """Of the study, where it has changed."""
    is_end: bool = False
    """Whether the driver has ended; `status` is the last one then."""
    problem: Problem | None = None
    """Why the stream cannot go on."""


def _one(model: type[_Model], path: str, **query: Any) -> Call[_Model]:
    return Call(path, model.model_validate_json, query=query)


def path_of(name: str, *parts: str) -> str:
    """The address of a study, or of something of it."""
    return "/".join(["/v1/studies", *(quote(part, safe="") for part in (name, *parts))])


def health() -> Call[Health]:
    """Whether the service answers."""
    return _one(Health, "/v1/health")


def studies() -> Call[list[StudyStatus]]:
    """How far every study is."""
    return Call("/v1/studies", TypeAdapter(list[StudyStatus]).validate_json)


def study(name: str) -> Call[StudyDetail]:
    """How far a study is, and what it asks."""
    return _one(StudyDetail, path_of(name))


def trials(name: str, *, descending: bool, **query: Any) -> Call[TrialPage]:
    """A page of the trials of a study."""
    return _one(TrialPage, path_of(name, "trials"), **query, descending=str(descending).lower())


def trial(name: str, trial_id: str) -> Call[TrialDetail]:
    """One trial with its scores."""
    return _one(TrialDetail, path_of(name, "trials", trial_id))


def curve(name: str, trial_id: str, points: int) -> Call[TrainingCurve]:
    """Metrics of a training by step."""
    return _one(TrainingCurve, path_of(name, "trials", trial_id, "curve"), points=points)


def best(name: str, metric: str | None, language: str | None, under: Mapping[str, float] | None) -> Call[Best]:
    """The best configuration of a study."""
    limits = [f"{limit}={value!r}" for limit, value in (under or {}).items()]
    return _one(Best, path_of(name, "best"), metric=metric, language=language, under=limits)


def pareto(name: str) -> Call[Pareto]:
    """Quality against cost."""
    return _one(Pareto, path_of(name, "pareto"))


def comparison(name: str) -> Call[Comparison]:
    """The ablation table of a study."""
    return _one(Comparison, path_of(name, "comparison"))


def report(name: str) -> Call[str]:
    """The HTML report of a study."""
    return Call(path_of(name, "report"), bytes.decode)


def submit(what: StudyConfig | Mapping[str, Any] | str | Path, key: str | None) -> Call[Submitted]:
    """Run a study.

    Args:
        what: the study; or its file, or the name of one that ships, which are read here.
        key: of the request, where a repeated one should get the first one's answer.
    Raises: ConfigError for a file that is no study.
    """
    if isinstance(what, str | Path):
        what = load(str(what))
    body = what.model_dump_json() if isinstance(what, StudyConfig) else json.dumps(dict(what))
    headers = {"Content-Type": "application/json", **({"Idempotency-Key": key} if key else {})}
    return Call("/v1/studies", Submitted.model_validate_json, method="POST", body=body, headers=headers)


def stop(name: str, *, now: bool) -> Call[Stopped]:
    """Ask the driver of a study to stop."""
    query = {"now": "true"} if now else {}
    return Call(path_of(name), Stopped.model_validate_json, method="DELETE", query=query)


class EventReader:
    """Reads the lines of a stream of events.

    Attributes:
        position: of the last event of the ledger, to go on from.
    """

    def __init__(self, position: int) -> None:
        self.position = position
        self._fields: dict[str, str] = {}

    def read(self, line: str) -> Iterator[StudyEvent]:
        """The event that a line completes, if it does."""
        if line:
            name, _, value = line.partition(":")
            if name:  # else a comment, which only says that the connection lives
                self._fields[name] = value.removeprefix(" ")
            return
        fields, self._fields = self._fields, {}
        if "event" not in fields:
            return
        kind, data = fields["event"], fields.get("data", "")
        if kind == "ledger":
            self.position = int(fields["id"])
            yield StudyEvent(position=self.position, event=LedgerEvent.model_validate_json(data))
        elif kind == "problem":
            detail = str(json.loads(data)["detail"])
            yield StudyEvent(problem=Problem(status=409, title="the stream ends", detail=detail), is_end=True)
        else:
            yield StudyEvent(status=StudyStatus.model_validate_json(data), is_end=kind == "end")
