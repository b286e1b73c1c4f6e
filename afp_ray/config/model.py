"""Which causal language model a trial starts from."""

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from afp_ray.config.base import StrictModel

EMBEDDED = "embedded"
_WITH_REVISION = re.compile(r"([\w][\w.-]*(?:/[\w][\w.-]*)?)@(\S+)")
"""A hub id and a revision; neither can hold the other's sign."""


class ModelConfig(StrictModel):
    """A causal LM and its tokenizer."""

    name: str = Field(default=EMBEDDED, min_length=1, max_length=500)
    """`embedded` (the model that ships with the package), a local folder, or a hub id, also with a revision of its own:
    `facebook/xglm-564M@refs/pr/4`."""
    revision: str | None = Field(default=None, min_length=1, max_length=200)
    """Branch, tag or commit of a hub id; null takes the default branch. Of a folder: the digest of its code."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Attention implementation; auto lets transformers choose."""
    trust_remote_code: bool = False
    """Run code that comes with the checkpoint. Off; needs a `revision` that pins it: a full commit, or the
    digest of a folder's Python files, which the refusal names."""

    @model_validator(mode="before")
    @classmethod
    def _take_revision(cls, values: Any) -> Any:
        """Move what stands after the @ of a hub id into `revision`, so that one model has one configuration."""
        name = values.get("name") if isinstance(values, dict) else None
        match = _WITH_REVISION.fullmatch(name) if isinstance(name, str) else None
        if match is None or Path(match.string).is_dir():
            return values
        plain, own = match.groups()
        other = values.get("revision")
        if other is not None and other != own:
            raise ValueError(f"{name!r} names revision {own!r}, and model.revision is {other!r}: leave one of them out")
        return {**values, "name": plain, "revision": own}
