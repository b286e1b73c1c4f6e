"""The pages that a browser opens: the studies at `/` and the API at `/docs`, from own files and without a network."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

_VIEWS = Path(__file__).parent / "views"
_TYPES = {"page.css": "text/css", "page.js": "text/javascript"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing but the service's own files and answers; no inline script or style."""


def add_pages(app: FastAPI) -> None:
    """Add the pages and their files. None has anything of a study: the script asks the API for it."""

    async def page(_: Request) -> Response:
        return _page((_VIEWS / "web" / "page.html").read_text("utf-8"))

    async def docs(_: Request) -> Response:
        return _page(docs_page(app))

    # Plain routes: what the API's own depend on, a token among it, is not asked of them.
    app.add_route("/", page)
    app.add_route("/docs", docs)
    for name, media_type in _TYPES.items():
        app.add_route(f"/{name}", _file_of(name, media_type))


def _page(html: str) -> Response:
    return HTMLResponse(html, headers={"Content-Security-Policy": POLICY})


def _file_of(name: str, media_type: str) -> Any:
    async def file(_: Request) -> Response:
        return Response((_VIEWS / "web" / name).read_bytes(), media_type=media_type)

    return file


@cache
def docs_page(app: FastAPI) -> str:
    """The API's own document as a page: every address, what it takes, and what it answers."""
    document = app.openapi()
    environment = Environment(
        loader=FileSystemLoader(_VIEWS / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("docs.html").render(
        info=document["info"],
        operations=list(_operations(document)),
        schemas=sorted(document.get("components", {}).get("schemas", {}).items()),
        type_of=type_of,
    )


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            answers = [
                (status, answer.get("description", ""), list(answer.get("content", {}).items()))
                for status, answer in operation["responses"].items()
            ]
            yield {
                "method": method.upper(),
                "path": path,
                "id": operation["operationId"],
                "description": operation.get("description", ""),
                "parameters": operation.get("parameters", []),
                "body": list(operation.get("requestBody", {}).get("content", {}).items()),
                "answers": answers,
            }


def type_of(schema: dict[str, Any]) -> list[tuple[str, str]]:
    """A schema in words: pieces of text, each with the name of the schema that it leads to, or "" for none."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return [(name, name)]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            parts = [type_of(part) for part in schema[key]]
            return [piece for index, part in enumerate(parts) for piece in ([(" or ", "")] if index else []) + part]
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return [(", ".join(str(value) for value in values), "")]
    if schema.get("type") == "array":
        return [("list of ", ""), *type_of(schema.get("items", {}))]
    if isinstance(schema.get("additionalProperties"), dict):
        return [("map to ", ""), *type_of(schema["additionalProperties"])]
    limits = {"minimum": "at least", "maximum": "at most", "maxLength": "length at most", "pattern": "matching"}
    words = [f"{word} {schema[name]}" for name, word in limits.items() if name in schema]
    kind = str(schema.get("title") if schema.get("type") == "object" and "properties" in schema else "")
    return [(" ".join([kind or str(schema.get("type", "anything")), ", ".join(words)]).strip(), "")]
