"""Fixtures of tiny checkpoints."""

from pathlib import Path
from typing import Any

import pytest
import transformers
from tiny_models import FAMILIES, build_model, build_tokenizer


@pytest.fixture(scope="session", autouse=True)
def quiet() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(params=sorted(FAMILIES))
def family_model(request: pytest.FixtureRequest) -> Any:
    return build_model(request.param)


@pytest.fixture
def saved_model(tmp_path: Path) -> Path:
    """Folder of a tiny Llama with its tokenizer."""
    folder = tmp_path / "tiny"
    build_model("llama").save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder
