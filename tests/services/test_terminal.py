"""What a terminal of any width shows: tables fold into blocks and sentences into lines, and no number is ever cut."""

import re
from collections import Counter
from collections.abc import Callable

import pytest
from fabricate import add_representation, fabricate, make_study
from rich.cells import cell_len

from afp_ray.comparison import best, compare
from afp_ray.records import Comparison
from afp_ray.store import StudyPaths
from services.cli import main
from services.inspection import inspect_answer
from services.schemas import InspectAnswer
from services.studies import load
from services.views.data import show_inspection
from services.views.grid import plain_grid
from services.views.results import show_best, show_comparison, show_pareto
from services.views.tables import cell_grid
from services.views.terminal import folded_text, show_grid

WIDTHS = (60, 80, 100, 140)
LANGUAGES = ("zh", "sw", "th", "tr", "de", "es", "fr", "ru", "ja", "ko", "vi")
_NUMBERS = re.compile(r"[-+±]?\d[\d.,]*\d|\d")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    methods = ("base", "mcl", "afp")
    study = make_study(methods=methods).model_copy(update={"published": ("mit_vs_cit_xnli",)})
    paths = fabricate(tmp_path_factory.mktemp("runs"), study=study)
    add_representation(paths)
    return paths


@pytest.fixture(scope="module")
def inspection() -> InspectAnswer:
    return inspect_answer(
        load("demo", ["fixed.data.num_instructions=100", "fixed.data.num_pairs=100", "tune={}"], executor=None)
    )


def of_languages(comparison: Comparison, number: int) -> Comparison:
    """The same table in the pivot and `number` - 1 others, with an arm whose name is wide."""
    arms = []
    for arm in comparison.arms:
        chinese = [cell for cell in arm.cells if cell.language == "zh"]
        cells = [cell for cell in arm.cells if cell.language == "en"]
        cells += [cell.model_copy(update={"language": code}) for code in LANGUAGES[: number - 1] for cell in chinese]
        name = "跨语言对齐方法" if arm.arm == "afp" else arm.arm
        arms.append(arm.model_copy(update={"arm": name, "cells": tuple(cells)}))
    return comparison.model_copy(update={"arms": tuple(arms)})


def check_folds(
    show: Callable[[], object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> dict[int, str]:
    """Every number of what is piped stands whole in every width, and no line is wider than its terminal."""
    capsys.readouterr()
    monkeypatch.delenv("COLUMNS", raising=False)
    show()
    piped = capsys.readouterr().out
    numbers, shown = Counter(_NUMBERS.findall(piped)), {}
    assert numbers
    for width in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(width))
        show()
        shown[width] = capsys.readouterr().out
        folded = Counter(_NUMBERS.findall(shown[width]))
        assert numbers <= folded, (width, numbers - folded)  # a block repeats its first column
        assert set(numbers) == set(folded), width
        for line in shown[width].splitlines():
            is_to_copy = any(word in line for word in ("reproduce:", "continue:", "run: afp"))
            assert cell_len(line) <= width or is_to_copy or " " not in line.strip(), (width, line)
            assert not re.search(r"\d…|…\d", line)
    assert piped.count("\n") <= min(text.count("\n") for text in shown.values())
    return shown


@pytest.mark.parametrize("number", [5, 12])
def test_the_comparison_folds(
    finished: StudyPaths, number: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = of_languages(compare(finished), number)
    shown = check_folds(lambda: show_comparison(table), capsys, monkeypatch)
    headers = [line for line in shown[80].splitlines() if re.search(r"[┃|] arm ", line)]
    assert len(headers) >= 2
    assert all("跨语言对齐方法" in text for text in shown.values())
    check_folds(lambda: show_grid(cell_grid(table), "every cell"), capsys, monkeypatch)


def test_a_difference_stays_beside_its_interval(
    finished: StudyPaths, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = of_languages(compare(finished), 5)
    delta = next(arm.mean.vs_base for arm in table.arms if arm.arm == "mcl" and arm.mean)
    assert delta is not None
    number = f"{100 * delta.delta:+.1f}"
    for text in check_folds(lambda: show_comparison(table), capsys, monkeypatch).values():
        (line,) = [line for line in text.splitlines() if line.startswith("│ mcl") and number in line and "[" in line]
        assert re.search(r"\[-\d+\.\d, \+\d+\.\d\].*0\.\d{3}", line)


def test_best_and_status_fold(
    finished: StudyPaths, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = best(finished)
    check_folds(lambda: (show_best(answer), show_pareto(answer)), capsys, monkeypatch)
    where = ["--storage", str(finished.storage)]
    check_folds(lambda: main(["status", finished.name, *where]), capsys, monkeypatch)
    check_folds(lambda: main(["status", *where]), capsys, monkeypatch)


def test_an_inspection_folds(
    inspection: InspectAnswer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_folds(lambda: show_inspection(inspection), capsys, monkeypatch)


def test_words_break_and_long_names_fold_but_numbers_do_not() -> None:
    lines = folded_text("  warning: it is lower (-15.0 points [-43.4, +13.4], p = 0.101, 15.0 % of it)", 30)
    assert all(len(line) <= 30 for line in lines)
    assert any("[-43.4, +13.4]," in line for line in lines) and any("p = 0.101," in line for line in lines)
    assert [line[:4] for line in lines[1:]] == ["    "] * (len(lines) - 1)
    assert "".join(lines).replace(" ", "") == "warning:itislower(-15.0points[-43.4,+13.4],p=0.101,15.0%ofit)"
    assert folded_text("short", 30) == ["short"]


def test_a_name_longer_than_the_terminal_is_whole_over_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    name = "data.num_instructions=80,method=mit_nfold,loss.temperature=0.05,training.max_steps=2000"
    show_grid(plain_grid(["arm", "a", "b"], [[name, "12.3", "[-1.0, +2.0]"]]), "long")
    shown = capsys.readouterr().out
    assert "12.3" in shown and "[-1.0, +2.0]" in shown
    column = "".join(line.split("│")[1].strip() for line in shown.splitlines() if line.startswith("│"))
    assert column == name
