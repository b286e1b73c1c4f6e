"""The pages: references made from the code are up to date, and every link between pages leads somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def test_the_reference_pages_are_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, "tools/make_docs.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_page_of_environment_variables_names_all_of_ours() -> None:
    code = "".join(path.read_text("utf-8") for room in ("afp_ray", "services") for path in (ROOT / room).rglob("*.py"))
    page = (ROOT / "docs" / "environment.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(AFP_\w+)`", page, re.MULTILINE)) == set(re.findall(r"AFP_[A-Z_]*[A-Z]", code))


def test_every_row_of_the_fault_matrix_names_tests_that_are_there_and_that_make_runs() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \|.*\|([^|]*)\|$", text, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, len(rows) + 1))
    command = subprocess.run(
        ["make", "--dry-run", "--silent", "test-faults"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    asked = [word for word in command.split() if word.startswith("tests/")]
    assert asked and len(asked) == len(set(asked))
    assert all((ROOT / file).is_file() for file in asked), "make test-faults names a file that is not there"
    for number, cell in rows:
        files = re.findall(r"`([\w/.]+\.py)`", cell)
        assert any(file.split("/")[-1].startswith("test_") for file in files), f"row {number} names no test"
        for file in files:
            path = ROOT / file if file.startswith("benchmarks/") else ROOT / "tests" / file
            assert path.exists(), f"row {number} names {file}"
            is_test = path.name.startswith("test_")
            assert not is_test or f"tests/{file}" in asked, f"make test-faults leaves {file} out"


def test_every_file_and_function_of_the_walk_exists() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    walk = page.partition("## A walk\n")[2].partition("\n## ")[0]
    stops = re.findall(r"`([\w/]+\.py):([\w.]+)`", walk)
    assert len(stops) > 30
    for file, name in stops:
        assert (ROOT / file).is_file(), f"the walk names {file}"
        code = (ROOT / file).read_text("utf-8")
        for part in name.split("."):
            assert re.search(rf"^\s*(?:async )?(?:def|class) {part}\b", code, re.MULTILINE), f"{file} has no {part}"


def test_every_module_that_the_architecture_names_exists() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    names = re.findall(r"`([\w/]+\.py|\w+(?:/\w+)+(?:\.yaml)?)`", page)
    assert len(names) > 20
    for name in names:
        places = [folder / (name + ending) for folder in (ROOT, ROOT / "afp_ray") for ending in ("", ".py")]
        assert any(place.exists() for place in places), f"docs/architecture.md names {name}"
