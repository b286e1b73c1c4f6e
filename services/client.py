"""A typed client of the API; needs nothing beyond the standard library and pydantic."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from pydantic import BaseModel, TypeAdapter, ValidationError

from afp_ray.errors import AfpError, UnavailableError
from afp_ray.records import Best, Comparison
from services.schemas import Health, Problem, StudyDetail, StudyStatus, TrialDetail, TrialPage

_Model = TypeVar("_Model", bound=BaseModel)


class ApiError(AfpError):
    """The API refused a request.

    Args:
        problem: what it answered.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(f"{problem.status} {problem.title}: {problem.detail}" if problem.detail else problem.title)


class Client:
    """Asks a service started by `afp serve`.

    Args:
        base_url: where it listens.
        timeout_s: seconds to wait for an answer; `best` and `comparison` compute.
    """

    def __init__(self, base_url: str = "http://127.0.0.1:8000", *, timeout_s: float = 60.0) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url {base_url!r} must begin with http:// or https://")
        self.base_url, self.timeout_s = base_url.rstrip("/"), timeout_s

    def health(self) -> Health:
        """Whether the service answers."""
        return self._one(Health, "/v1/health")

    def studies(self) -> list[StudyStatus]:
        """How far every study is."""
        return TypeAdapter(list[StudyStatus]).validate_json(self._get("/v1/studies"))

    def study(self, name: str) -> StudyDetail:
        """How far a study is, and what it asks."""
        return self._one(StudyDetail, f"/v1/studies/{quote(name, safe='')}")

    def trials(
        self,
        name: str,
        *,
        arm: str | None = None,
        status: str | None = None,
        sort: str = "planned_at",
        descending: bool = False,
        offset: int = 0,
        limit: int = 100,
    ) -> TrialPage:
        """A page of the trials of a study."""
        query = {"arm": arm, "status": status, "sort": sort, "offset": offset, "limit": limit}
        return self._one(
            TrialPage, f"/v1/studies/{quote(name, safe='')}/trials", {**query, "descending": str(descending).lower()}
        )

    def trial(self, name: str, trial_id: str) -> TrialDetail:
        """One trial with its scores."""
        return self._one(TrialDetail, f"/v1/studies/{quote(name, safe='')}/trials/{quote(trial_id, safe='')}")

    def best(
        self,
        name: str,
        *,
        metric: str | None = None,
        language: str | None = None,
        under: Mapping[str, float] | None = None,
    ) -> Best:
        """The best configuration of a study."""
        query: dict[str, Any] = {"metric": metric, "language": language}
        query["under"] = [f"{limit}={value!r}" for limit, value in (under or {}).items()]
        return self._one(Best, f"/v1/studies/{quote(name, safe='')}/best", query)

    def comparison(self, name: str) -> Comparison:
        """The ablation table of a study."""
        return self._one(Comparison, f"/v1/studies/{quote(name, safe='')}/comparison")

    def _one(self, model: type[_Model], path: str, query: Mapping[str, Any] | None = None) -> _Model:
        return model.model_validate_json(self._get(path, query))

    def _get(self, path: str, query: Mapping[str, Any] | None = None) -> bytes:
        """The body of an answer.

        Raises: ApiError when the service refuses; UnavailableError when it does not answer.
        """
        fields = {name: value for name, value in (query or {}).items() if value is not None}
        url = f"{self.base_url}{path}" + (f"?{urlencode(fields, doseq=True)}" if fields else "")
        try:
            with urlopen(Request(url, headers={"Accept": "application/json"}), timeout=self.timeout_s) as answer:  # noqa: S310
                body: bytes = answer.read()
                return body
        except HTTPError as error:
            with error:
                raise ApiError(_problem(error.code, error.read())) from error
        except (URLError, TimeoutError) as error:
            raise UnavailableError(f"no answer from {self.base_url}: {error}") from error


def _problem(status: int, body: bytes) -> Problem:
    try:
        return Problem.model_validate_json(body)
    except ValidationError:
        return Problem(
            status=status, title="the service refused", detail=json.dumps(body[:200].decode("utf-8", "replace"))
        )
