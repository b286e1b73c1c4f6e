"""The tables of docs/performance.md are what the memory model computes."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent.parent
TOOL = ROOT / "tools" / "memory_tables.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    specification = importlib.util.spec_from_file_location("memory_tables", TOOL)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_tables_of_the_page_are_computed() -> None:
    done = subprocess.run([sys.executable, str(TOOL), "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_page_that_says_something_else_is_found(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tool.PAGE.read_text("utf-8")
    table = page.partition(tool.BEGIN)[2].partition(tool.END)[0].strip()
    assert "564M" in table
    monkeypatch.setattr(tool.sys, "argv", ["memory_tables.py", "--check"])
    monkeypatch.setattr(tool, "tables", lambda: table)
    assert tool.main() == 0
    monkeypatch.setattr(tool, "tables", lambda: table.replace("10.7 GB", "10.6 GB"))
    assert tool.main() == 1


def test_the_largest_batch_of_one_pass_counts_where_gradients_are_freed(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "MODELS", {"7B (Llama)": tool.MODELS["7B (Llama)"]})
    monkeypatch.setattr(tool, "FORMS", {name: tool.FORMS[name] for name in tool.FORMS if "resident" in name})
    rows = {form: tool._rows(model, 80) for (_, form), model in tool._models()}
    plain, in_backward = rows.values()
    assert 0 < plain < in_backward
