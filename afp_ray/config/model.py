"""Which causal language model a trial starts from."""

from typing import Literal

from pydantic import Field

from afp_ray.config.base import StrictModel

EMBEDDED = "embedded"


class ModelConfig(StrictModel):
    """A causal LM and its tokenizer."""

    name: str = Field(default=EMBEDDED, min_length=1, max_length=500)
    """`embedded` (the model that ships with the package), a local folder, or a hub id."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; null takes the default branch."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Attention implementation; auto lets transformers choose."""
    trust_remote_code: bool = False
    """Run code that comes with the checkpoint. Off; needs a pinned `revision`."""
