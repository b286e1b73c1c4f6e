"""The API's own document, beyond what its routes say by themselves: problems, tokens, and the study that is sent."""

from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI

from afp_ray.config import StudyConfig
from services.problems import PROBLEM
from services.schemas import Problem

EVERYWHERE: Final = (400, 401, 404, 409, 422, 429, 500, 503)
"""Problems that any address may answer with."""
EVENT: Final = {
    "type": "object",
    "description": "A message of the stream; `data` is JSON.",
    "properties": {
        "event": {"enum": ["ledger", "status", "end", "problem"]},
        "id": {"type": "string", "pattern": "^[0-9]+$"},
        "data": {"type": "string"},
    },
    "required": ["event", "data"],
}
_PLAIN: Final = {"text/plain": {"schema": {"type": "string"}}}
_IN_PLAIN_TEXT: Final = (400, 503)
"""What the server and the check of names say before a request reaches the application."""
_AGAIN: Final = {"Retry-After": {"description": "in so many seconds", "schema": {"type": "integer"}}}
_ASKED: Final = {"WWW-Authenticate": {"description": "what is asked for", "schema": {"type": "string"}}}
_HEADERS: Final = {401: _ASKED, 403: _ASKED, 429: _AGAIN, 503: _AGAIN}


def problems_of(*codes: int) -> dict[int | str, dict[str, Any]]:
    """How an address answers with a problem, by status."""
    described: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        content = {PROBLEM: {"schema": Problem.model_json_schema()}}
        described[code] = {"content": content | (_PLAIN if code in _IN_PLAIN_TEXT else {})}
        if code in _HEADERS:
            described[code]["headers"] = _HEADERS[code]
    return described


def describe(app: FastAPI, *, is_open: bool) -> None:
    """Add to the document which address needs a token, and what a study that is sent may say."""
    make = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            described = make()
            parts = described["components"]
            parts["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            parts["schemas"] |= _study_file()
            for methods in described["paths"].values():
                for method, operation in methods.items():
                    is_free = method == "get" and is_open
                    operation["security"] = [*([{}] if is_free else []), {"token": []}]
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # as the library's own pages extend it


def _study_file() -> Mapping[str, Any]:
    """The schema of a study as it is sent, and those of its parts under names of their own."""
    schema = StudyConfig.model_json_schema(ref_template="#/components/schemas/StudyFile.{model}")
    parts = schema.pop("$defs", {})
    return {"StudyFile": schema, **{f"StudyFile.{name}": part for name, part in parts.items()}}
