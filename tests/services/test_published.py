"""Published tables beside ours, in every form of the comparison and beside the scores of a checkpoint."""

import csv
import io
import json
from pathlib import Path

import pytest
from fabricate import fabricate, make_study

from afp_ray.comparison import compare
from afp_ray.records import Comparison
from afp_ray.store import StudyPaths
from services import cli
from services.views.formats import to_csv, to_json, to_latex, to_markdown
from services.views.published import caption, published_grid


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    methods = ("base", "mit", "cit")
    study = make_study(methods=methods).model_copy(update={"published": ("mit_vs_cit_xnli",)})
    accuracy = {"base": 0.5, "mit": 0.55, "cit": 0.7}
    return fabricate(tmp_path_factory.mktemp("runs"), methods=methods, accuracy=accuracy, study=study)


@pytest.fixture(scope="module")
def comparison(finished: StudyPaths) -> Comparison:
    return compare(finished)


def test_the_grid_has_both_values_and_both_differences(comparison: Comparison) -> None:
    grid = published_grid(comparison.published[0])
    assert grid.header == [
        "accuracy, %", "base: paper", "ours", "mit_nfold: paper", "ours (mit)", "cit: paper", "ours",
    ]  # fmt: skip
    rows = {row[0]: row[1:] for row in grid.rows}
    assert len(rows) == 13
    assert rows["instructions"] == ["-", "-", "335,085", "1,000", "67,017", "1,000"]
    assert rows["translation pairs"] == ["-", "-", "-", "0", "-", "0"]
    assert rows["xnli/th/5"] == ["35.0", "-", "42.6 (+7.6)", "-", "42.8 (+7.8)", "-"]
    cell = next(cell for cell in comparison.published[0].rows[2].cells if (cell.language, cell.shots) == ("zh", 0))
    assert cell.ours is not None
    assert cell.vs_base is not None
    assert rows["xnli/zh/0"][5].startswith(f"{100 * cell.ours:.1f}")
    assert f"({100 * cell.vs_base:+.1f} [" in rows["xnli/zh/0"][5]
    assert rows["mean of 3 shared cells"][4] == "42.9 (+2.7)"


def test_the_terminal_shows_the_cells_of_both_alone(comparison: Comparison) -> None:
    shown = [row[0] for row in published_grid(comparison.published[0], shared_only=True).rows]
    assert shown == [
        "translation pairs",
        "instructions",
        "xnli/en/0",
        "xnli/zh/0",
        "xnli/sw/0",
        "mean of 3 shared cells",
    ]


def test_the_caption_says_which_model_the_paper_used_and_that_ours_is_another(comparison: Comparison) -> None:
    text = caption(comparison.published[0])
    assert "is XGLM-564M (high confidence" in text
    assert "another model: compare the differences, not the levels" in text
    same = comparison.published[0].model_copy(update={"is_same_model": True, "confidence": "moderate"})
    assert "is most likely XGLM-564M (moderate confidence), as is ours" in caption(same)


def test_every_form_has_the_table(comparison: Comparison, finished: StudyPaths) -> None:
    assert "| xnli/th/5 | 35.0 | - |" in to_markdown(comparison)
    assert "xnli/th/5 & 35.0 & - &" in to_latex(comparison)
    assert to_latex(comparison).count(r"\begin{tabular}") == to_latex(comparison).count(r"\end{tabular}") == 5
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    (found,) = [
        row
        for row in rows
        if row["arm"] == "paper mit_vs_cit_xnli BLOOM-560M cit" and (row["language"], row["shots"]) == ("sw", "5")
    ]
    assert (float(found["mean"]), float(found["delta"])) == (0.386, 0.041)
    assert all(len(row) == 13 for row in csv.reader(io.StringIO(to_csv(comparison))))
    assert json.loads(to_json(comparison))["published"][1]["model"] == "BLOOM-560M"
    assert cli.main(["report", finished.name, "--storage", str(finished.storage)]) == 0
    page = finished.report.read_text("utf-8")
    assert "Published tables beside ours" in page
    assert "<td>35.0</td>" in page


def test_compare_prints_the_paper_beside_ours(finished: StudyPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", finished.name, "--storage", str(finished.storage)]) == 0
    out = capsys.readouterr().out
    assert out.count("mit_vs_cit_xnli") == 2
    assert "mean of 3 shared cells" in out


def test_a_study_that_names_none_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = fabricate(tmp_path)
    assert compare(paths).published == ()
    assert "Published" not in to_markdown(compare(paths))
    assert cli.main(["report", paths.name, "--storage", str(tmp_path)]) == 0
    assert "Published tables" not in paths.report.read_text("utf-8")


def test_arms_beside_the_paper_are_those_of_the_nearest_amount_whatever_validation_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = ("base", "mit", "cit")
    study = make_study(methods=methods).model_copy(update={"published": ("mit_vs_cit_xnli",)})
    amounts = (80, 60_000, 335_085)
    accuracy = {
        "base": 0.5,
        **{f"{method} {amount}": 0.9 - 0.1 * n for method in methods for n, amount in enumerate(amounts)},
    }
    paths = fabricate(tmp_path, methods=methods, accuracy=accuracy, study=study, num_instructions=amounts)
    assert cli.main(["compare", paths.name, "--storage", str(tmp_path), "--json"]) == 0
    base, mit, cit = json.loads(capsys.readouterr().out)["published"][0]["rows"]
    assert (mit["arm"], mit["num_instructions"], mit["our_num_instructions"]) == ("mit 335085", 335_085, 335_085)
    assert (cit["arm"], cit["num_instructions"], cit["our_num_instructions"]) == ("cit 60000", 67_017, 60_000)
    assert (base["num_instructions"], base["our_num_instructions"]) == (None, None)


def test_what_the_paper_says_in_words_stands_beside_the_difference_of_our_arms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = ("base", "afp", "bloomz_560m")
    study = make_study(methods=methods).model_copy(update={"published": ("figure_4b", "translation_flores")})
    accuracy = {"base": 0.5, "afp": 0.7, "bloomz_560m": 0.6}
    paths = fabricate(tmp_path, methods=methods, accuracy=accuracy, study=study, with_failure=False)
    comparison = compare(paths)
    (figure,) = comparison.published[0].claims
    assert (figure.arm, figure.other, figure.paper) == ("afp", "bloomz_560m", None)
    means = {arm.arm: arm.mean.mean for arm in comparison.arms}
    assert figure.ours == pytest.approx(means["afp"] - means["bloomz_560m"])
    translation = [claim for table in comparison.published[1:] for claim in table.claims]
    assert [claim.paper for claim in translation] == [pytest.approx(0.019)]
    assert translation[0].ours is None, "the study has no cell of the table"
    assert cli.main(["compare", paths.name, "--storage", str(tmp_path)]) == 0
    words = set(capsys.readouterr().out.split())
    assert {"167k", "BLOOMZ", "78M", "instructions"} <= words, "folded, never cut"
    assert "AFP with 167k parallel items surpasses BLOOMZ with 78M instructions" in to_markdown(comparison)
    assert "(afp to bloomz" in to_markdown(comparison)
