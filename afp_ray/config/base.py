"""The strict pydantic base of every configuration model and of every record."""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """Frozen, refuses unknown fields, infinities and NaN; lists come back as tuples.

    A model is a key of caches by its content, also where a field is a mapping.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    def __hash__(self) -> int:
        """Of the class and the canonical JSON; pydantic's own hash knows no field that is a mapping."""
        return hash((type(self), canonical_json(self.model_dump(mode="json"))))


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal content gives equal text, whatever the order of keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
