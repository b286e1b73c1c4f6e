"""Names of a field that plug-ins may add to: its own values stay a Literal, for errors, schema and reference pages."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticKnownError, ValidationError, core_schema

from afp_ray.plugins import Names


@dataclass(frozen=True)
class OrPlugin:
    """Beside the values of the annotated Literal, the names that installed packages add are allowed.

    Attributes:
        names: both.
    """

    names: Names

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Ask for plug-ins where the value is none of ours."""

        def validate(value: Any, own: Callable[[Any], Any]) -> Any:
            try:
                return own(value)
            except ValidationError:
                if not isinstance(value, str):
                    raise
                if value in self.names:
                    return value
                expected = ", ".join(repr(name) for name in self.names)
                raise PydanticKnownError("literal_error", {"expected": expected}) from None

        text = core_schema.to_string_ser_schema()
        return core_schema.no_info_wrap_validator_function(validate, handler(source), serialization=text)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Our own names and those that are installed where the schema is written."""
        written = handler(schema)
        if "enum" in written:
            written["enum"] = [*written["enum"], *self.names.plugins()]
        return written
