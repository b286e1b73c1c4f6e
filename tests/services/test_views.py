"""Tables and the HTML report: numbers as they are, hostile text made harmless, nothing loaded from elsewhere."""

import base64
import csv
import hashlib
import html
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from fabricate import fabricate, make_study

from afp_ray.comparison import best, compare
from afp_ray.ledger import replay
from afp_ray.records import Comparison, IncompleteScores, MissingScore, Score, TrialStatus, signed_points
from afp_ray.store import StudyPaths, TrialPaths, write_json
from services.cli import main
from services.reports import write_reports
from services.status import trial_answer
from services.views.blocks import block, task_grid, tasks_of
from services.views.formats import TableOptions, escape_latex, to_csv, to_json, to_latex, to_markdown
from services.views.grid import plain_grid
from services.views.html import POLICY
from services.views.pictures import Circle, Line, Picture, Text, file_name, real_minus, to_svg
from services.views.score_pictures import forest_pictures, heat_pictures, retrieval_picture, summary_picture
from services.views.tables import ablation_grid, incomplete_grids


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    paths = fabricate(tmp_path_factory.mktemp("runs"))
    write_reports(paths)
    return paths


@pytest.fixture(scope="module")
def table(finished: StudyPaths) -> Comparison:
    return compare(finished)


def hostile(table: Comparison) -> Comparison:
    """The same table with an arm whose name is an attack on every format."""
    arm = table.arms[2].model_copy(update={"arm": "=<script>alert(1)</script>|a_b & 5 % $x$ \\input{/etc/passwd}#~^"})
    return table.model_copy(update={"arms": (*table.arms[:2], arm)})


def test_the_grid_shows_percent_and_marks_the_best(table: Comparison) -> None:
    grid = ablation_grid(table)
    rows = {row[0]: dict(zip(grid.header, row, strict=True)) for row in grid.rows}
    mean = next(row.mean for row in table.arms if row.arm == "afp")
    assert mean is not None
    assert rows["afp"]["mean"] == f"{100 * mean.mean:.1f}‡"
    assert rows["base"]["mean - base"] == "-"
    assert [row[0] for row, marks in zip(grid.rows, grid.is_best, strict=True) if marks[grid.header.index("mean")]] == [
        "afp"
    ]


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a_b", r"a\_b"),
        ("5 % & 6", r"5 \% \& 6"),
        ("\\input{x}", r"\textbackslash{}input\{x\}"),
        ("~^#$", r"\textasciitilde{}\textasciicircum{}\#\$"),
        ("a\nb\x1b[31m", "ab[31m"),
    ],
)
def test_latex_reads_no_command_from_a_name(text: str, escaped: str) -> None:
    assert escape_latex(text) == escaped


def test_the_latex_table_is_balanced_whatever_the_names(table: Comparison) -> None:
    text = to_latex(hostile(table))
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    columns = len(ablation_grid(table).header)
    assert [len(re.findall(r"(?<!\\)&", row)) for row in rows] == [columns - 1] * 4  # majority and three arms
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert r"\textbackslash{}input" in text


def test_latex_tables_have_labels_deviations_and_a_caption_of_facts(table: Comparison) -> None:
    text = to_latex(table, TableOptions(has_std=True))
    labels = re.findall(r"\\label\{(.*)\}", text)
    assert labels[0] == "tab:demo" and len(set(labels)) == len(labels) == text.count(r"\begin{table}")
    mean = next(arm.mean for arm in table.arms if arm.arm == "afp")
    assert mean is not None and len(mean.by_seed) == 2
    assert mean.mean == pytest.approx(sum(mean.by_seed) / 2)
    spread = abs(mean.by_seed[0] - mean.by_seed[1]) / 2**0.5
    assert rf"{100 * mean.mean:.1f}\textdaggerdbl{{}} $\pm${100 * spread:.1f}" in text
    (caption, *_) = re.findall(r"\\caption\{(.*)\}", text)
    assert caption.startswith(r"Accuracy in \% on the test split, mean of xcopa, xnli, by language; mean and standard")
    assert "deviation over 2 seeds. The mean leaves out the pivot language en." in caption
    named = to_latex(table, TableOptions(caption=r"Ours, \method{}", label="tab:main"))
    assert "\\caption{Ours, \\method{}}\n\\label{tab:main}\n" in named


def test_deviations_over_seeds_of_a_language_are_those_of_its_mean_over_tasks(table: Comparison) -> None:
    arm = next(arm for arm in table.arms if arm.arm == "mcl")
    cells = [cell for cell in arm.cells if cell.language == "sw"]
    by_seed = [sum(cell.by_seed[seed] for cell in cells) / len(cells) for seed in (0, 1)]
    grid = ablation_grid(table, has_std=True)
    row = next(row for row in grid.rows if row[0] == "mcl")
    expected = abs(by_seed[0] - by_seed[1]) / 2**0.5
    assert row[grid.header.index("sw")] == f"{50 * sum(by_seed):.1f} ±{100 * expected:.1f}"
    assert "±" not in next(row for row in grid.rows if row[0] == "base")[2]  # one seed has none


def test_the_table_of_one_task_in_every_form(table: Comparison) -> None:
    options = TableOptions(task="xnli", has_std=True)
    text = to_latex(table, options)
    assert text.count(r"\begin{table}") == 1 and r"\label{tab:demo-xnli}" in text and "split of xnli" in text
    assert len(to_markdown(table, options).split("\n\n")) == 2  # a caption and a table
    rows = list(csv.DictReader(io.StringIO(to_csv(table, options))))
    assert {row["task"] for row in rows} == {"xnli"}
    cell = next(cell for cell in table.arms[2].cells if (cell.task, cell.language) == ("xnli", "sw"))
    row = next(row for row in rows if (row["arm"], row["language"]) == ("afp", "sw"))
    assert float(row["seed_deviation"]) == pytest.approx(abs(cell.by_seed[0] - cell.by_seed[1]) / 2**0.5)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--task", "xnlu"], "allowed"),
        (["--caption", "x"], "--format tex"),
        (["--format", "md", "--label", "x"], "--format tex"),
        (["--format", "tex", "--label", "a}b"], "tab:main"),
        (["--json", "--std"], "--format csv"),
    ],
)
def test_what_a_format_has_no_place_for_is_refused(
    finished: StudyPaths, asked: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "demo", "--storage", str(finished.storage), *asked]) == 2
    assert said in "".join(capsys.readouterr())


def test_the_command_writes_the_table_that_was_asked_for(
    finished: StudyPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["compare", "demo", "--storage", str(finished.storage), "--task", "xnli", "--std"]
    assert main([*asked, "--format", "tex", "--caption", "Ours", "--label", "tab:x"]) == 0
    assert "\\caption{Ours}\n\\label{tab:x}" in capsys.readouterr().out
    assert main(asked) == 0
    shown = capsys.readouterr().out
    assert "xnli on test" in shown and "±" in shown


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex on the PATH")
def test_latex_compiles(table: Comparison, tmp_path: Path) -> None:
    text = to_latex(hostile(table), TableOptions(has_std=True)) + to_latex(table, TableOptions(task="xnli"))
    head = "\\documentclass{article}\\usepackage{booktabs}\\usepackage{textcomp}\\begin{document}\n"
    (tmp_path / "paper.tex").write_text(f"{head}{text}\\end{{document}}\n", "utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "-no-shell-escape", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_markdown_table_keeps_its_columns_whatever_the_names(table: Comparison) -> None:
    text = to_markdown(hostile(table))
    assert "<script>" not in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    header = len(re.findall(r"(?<!\\)\|", lines[0]))
    assert all(len(re.findall(r"(?<!\\)\|", line)) == header for line in lines[:5])


def test_csv_and_json_hold_the_exact_numbers(table: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(hostile(table)))))
    assert table.majority is not None
    assert len(rows) == sum(len(arm.cells) + 2 for arm in table.arms) + len(table.majority.cells)
    assert not any(row["arm"].startswith("=") for row in rows)  # a spreadsheet would run it
    mean = next(row for row in rows if row["arm"] == "mcl" and row["task"] == "mean")
    arm = table.arms[1].mean
    assert arm is not None
    assert arm.vs_base is not None
    assert float(mean["mean"]) == arm.mean
    assert float(mean["delta"]) == arm.vs_base.delta
    assert Comparison.model_validate_json(to_json(table)) == table


class Page(HTMLParser):
    """Tags, ids, links and attributes of a page; checks that tags are closed."""

    VOID = ("meta", "line", "circle", "br", "link", "img")

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_report_stands_alone_and_runs_its_own_script_alone(finished: StudyPaths) -> None:
    text = finished.report.read_text()
    page = Page()
    page.feed(text)
    assert not page.open
    assert not {"link", "img", "iframe", "object", "form"} & set(page.tags)
    assert page.tags.count("script") == 1
    script = text[text.index("<script>") + len("<script>") : text.index("</script>")]
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in POLICY
    assert html.escape(POLICY) in text.replace("&#39;", "&#x27;")
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    links = [value for name, value in page.attributes if name in ("href", "src")]
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(set(ids)) == len(ids)
    assert all(link is not None and link.startswith("#") and link[1:] in ids for link in links)
    assert "http://" not in text
    assert "https://" not in text
    assert "default-src 'none'" in POLICY
    assert "prefers-color-scheme: dark" in text


def test_hostile_text_is_escaped_in_the_report(finished: StudyPaths) -> None:
    text = finished.report.read_text()
    assert text.count("<script>") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more_than 100 %" in text
    assert "diverged &lt;b&gt;at&lt;/b&gt; step 3" in text


def test_the_report_says_what_the_answers_say(finished: StudyPaths, table: Comparison) -> None:
    text = finished.report.read_text()
    found = best(finished)
    assert f"{100 * found.score.mean:.1f} %" in text
    for verdict in table.verdicts:
        assert real_minus(verdict).replace("<", "&lt;") in text
    assert found.reproduce in text
    for trial in found.trials:
        assert trial in text


def circles(picture: Picture) -> dict[str, Circle]:
    return {mark.title.partition(":")[0]: mark for mark in picture.marks if isinstance(mark, Circle)}


def test_forests_are_drawn_to_one_scale_and_hold_every_cell(table: Comparison) -> None:
    drawn = forest_pictures(table)
    arms = [arm for arm in table.arms if not arm.is_base]
    assert [picture.name for picture in drawn] == [file_name("forest", arm.arm) for arm in arms]
    scales = []
    for arm, picture in zip(arms, drawn, strict=True):
        rows = [mark for mark in picture.marks if isinstance(mark, Circle)]
        deltas = [cell.vs_base.delta for cell in (arm.mean, arm.pivot_mean, *arm.cells) if cell and cell.vs_base]
        (zero,) = {mark.x1 for mark in picture.marks if isinstance(mark, Line) and mark.kind == "zero"}
        assert len(rows) == len(deltas)
        scales += [(row.x - zero) / (100 * delta) for row, delta in zip(rows, deltas, strict=True) if delta]
        whiskers = [mark for mark in picture.marks if isinstance(mark, Line) and mark.kind == "whisker"]
        assert all(line.x1 <= row.x <= line.x2 for line, row in zip(whiskers, rows, strict=True))
    assert scales == pytest.approx([scales[0]] * len(scales))


def test_the_summary_and_the_heat_map_say_the_differences(table: Comparison) -> None:
    summary = summary_picture(table)
    assert summary is not None
    arm = next(arm for arm in table.arms if arm.arm == "afp")
    assert arm.mean is not None and arm.mean.vs_base is not None
    words = real_minus(signed_points(arm.mean.vs_base.delta))
    assert words in summary.label
    assert any(isinstance(mark, Text) and mark.words.startswith(words) for mark in summary.marks)
    (heat,) = (picture for picture in heat_pictures(table) if picture.title == "afp")
    for cell in arm.cells:
        assert cell.vs_base is not None
        shown = real_minus(signed_points(cell.vs_base.delta))
        assert [mark for mark in heat.marks if isinstance(mark, Text) and mark.words == shown], cell


def test_retrieval_is_drawn_before_and_after(table: Comparison) -> None:
    drawn = retrieval_picture(table)
    assert drawn is not None
    rows = [row for row in table.representation if row.before and not row.language]
    assert [row.arm for row in rows] == ["mcl", "afp"]
    for row in rows:
        words = f"{100 * row.before[0]:.1f} → {100 * row.retrieval_at_1:.1f}" if row.before else ""
        assert any(isinstance(mark, Text) and mark.words == words for mark in drawn.marks)
    bare = table.model_copy(update={"representation": ()})
    assert retrieval_picture(bare) is None


def test_words_of_a_picture_cannot_become_marks_of_the_page(table: Comparison) -> None:
    for picture in (*forest_pictures(hostile(table)), *heat_pictures(hostile(table))):
        for text in (to_svg(picture), to_svg(picture, is_file=True)):
            assert ElementTree.fromstring(text).tag.endswith("svg")
            assert "<script" not in text
        assert re.fullmatch(r"[\w-]+", picture.name)


def test_a_minus_is_one_and_a_hyphen_stays() -> None:
    assert real_minus("-2.0 [-3.1, +0.4]") == "−2.0 [−3.1, +0.4]"
    assert (
        real_minus("afp - base, mcl-2, 1e-5, --limit -5, 2026-11-28")
        == "afp - base, mcl-2, 1e-5, --limit −5, 2026-11-28"
    )


def test_a_task_has_a_table_of_its_own_and_a_wide_one_is_folded(table: Comparison) -> None:
    assert tasks_of(table) == ["xcopa", "xnli"]
    grid = task_grid(table, "xnli")
    assert grid.header == ["arm", "en", "sw", "zh"]
    cell = next(cell for cell in table.arms[2].cells if (cell.task, cell.language) == ("xnli", "sw"))
    assert grid.rows[-1][2].startswith(f"{100 * cell.mean:.1f}")
    wide = plain_grid(["arm", *(f"l{number}" for number in range(40))], [["afp", *(["50.0"] * 40)]])
    parts = block("xnli", wide).parts
    assert len(parts) == 4
    assert all(part.header[0] == "arm" and part.rows[0][0] == "afp" for part in parts)
    assert [name for part in parts for name in part.header[1:]] == wide.header[1:]


def test_a_trial_that_could_not_score_everything_shows_what_it_could(tmp_path: Path) -> None:
    paths = fabricate(tmp_path)
    failed = TrialPaths(paths.trial("f" * 16).folder)
    scores = [
        Score(task="xnli", language=language, shots=shots, split="validation", metric="accuracy", value=0.25, n=4)
        for language, shots in (("en", 0), ("zh", 0), ("en", 5), ("zh", 5))
    ]
    missing = [
        MissingScore(task=task, language=language, split="validation", problem="KeyError: 'x'")
        for task, language in (("xnli", "tr"), ("xcopa", "zh"))
    ]
    write_json(failed.incomplete, IncompleteScores(scores=scores, missing=missing).model_dump(mode="json"))
    (grid,) = incomplete_grids(paths, replay(paths.ledger).trials).values()
    assert grid.header == ["task", "en", "zh", "tr"]
    assert grid.rows == [
        ["xcopa validation 0-shot", "-", "missing", "-"],
        ["xnli validation 0-shot", "25.0", "25.0", "missing"],
        ["xnli validation 5-shot", "25.0", "25.0", "missing"],
    ]
    write_reports(paths)
    page = paths.report.read_text("utf-8")
    assert page.count(">missing<") == 3
    detail = trial_answer(tmp_path, paths.name, "f" * 16)
    assert (len(detail.scores), [one.language for one in detail.missing]) == (4, ["tr", "zh"])
    done = next(trial for trial in replay(paths.ledger).trials if trial.status is TrialStatus.DONE)
    assert trial_answer(tmp_path, paths.name, done.trial_id).missing == ()


def test_a_study_that_has_nothing_yet_still_has_a_report(tmp_path: Path) -> None:
    paths = fabricate(tmp_path, methods=(), study=make_study(), closed=None)
    assert write_reports(paths) == [paths.report]
    assert "No arm has a confirmed configuration yet" in paths.report.read_text()
