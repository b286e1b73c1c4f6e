"""The headline: three clauses that are right whatever was measured, whatever failed and whoever won."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fabricate import LANGUAGES, fabricate, make_states

from afp_ray.comparison import best, compare
from afp_ray.comparison.headline import Finding, make_headline
from afp_ray.evaluation.projection import PairRetrieval, gather_states, write_states
from afp_ray.records import (
    ArmRow,
    Comparison,
    Difference,
    MajorityRow,
    RepresentationRow,
    TableCell,
)
from afp_ray.store import StudyPaths
from services.cli import main
from services.views.pictures import real_minus

SURE, UNSURE = 0.001, 0.4


def change(delta: float, p: float | None) -> Difference:
    return Difference(delta=delta, p=p, p_holm=p)


def row(
    arm: str, mean: float, *, delta: float | None = None, p: float | None = SURE, pivot: float | None = 0.0,
    pivot_p: float | None = UNSURE, seeds: int = 3, method: str = "",
) -> ArmRow:  # fmt: skip
    """An arm; `delta` and `pivot` are differences to base, null where there is none, and no pivot in the tasks."""
    is_base = arm == "base"
    of_pivot = None if is_base or delta is None or pivot is None else change(pivot, pivot_p)
    return ArmRow(
        arm=arm, method=method or arm, is_base=is_base, n_seeds=seeds, trials=("t",), validation=0.5, cells=(),
        mean=TableCell(task="mean", language="", mean=mean, vs_base=None if delta is None else change(delta, p)),
        pivot_mean=None
        if pivot is None
        else TableCell(task="pivot_mean", language="", mean=0.9 + pivot, vs_base=of_pivot),
        gpu_hours=0.1, verdict="", config={},
    )  # fmt: skip


def found(arm: str, after: float, before: float | None, p: float | None = SURE) -> RepresentationRow:
    return RepresentationRow(
        arm=arm, language="", layer=1, pooling="mean", retrieval_at_1=after, alignment=1.0, uniformity=-1.0,
        before=None if before is None else (before, 1.0, -1.0),
        retrieval_difference=None if before is None else change(after - before, p),
    )  # fmt: skip


def clauses(
    rows: Sequence[ArmRow], representation: Sequence[RepresentationRow] = (), *, floor: float | None = None,
    failed: Sequence[str] = (), is_complete: bool = True, pivot: str = "en",
) -> tuple[str, str, str]:  # fmt: skip
    majority = None if floor is None else MajorityRow(cells=(), mean=floor)
    headline = make_headline(Finding(rows, representation, majority, pivot, failed, is_complete))
    return headline.tasks.text, headline.alignment.text, headline.price.text


BASE = row("base", 0.482, seeds=1)


def test_the_demo_reads_as_a_colleague_would_say_it() -> None:
    rows = [
        BASE,
        row("mit", 0.502, delta=0.02, p=0.28, pivot=-0.15, pivot_p=0.1),
        row("mcl", 0.486, delta=0.004, p=0.6, pivot=-0.222, pivot_p=0.008),
        row("afp", 0.495, delta=0.013, p=0.18, pivot=-0.132, pivot_p=0.046),
    ]
    representation = [
        found("base", 0.118, None),
        found("mit", 0.12, 0.118, 1.0),
        found("mcl", 0.873, 0.067),
        found("afp", 0.771, 0.067),
    ]
    assert clauses(rows, representation) == (
        "No method beat base on the tasks (largest +2.0, within noise).",
        "Alignment did happen: translations are found for 87 % (mcl) and 77 % (afp) of sentences, 7 % before.",
        "The price: 13 to 22 points of English; mit within noise.",
    )


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([BASE, row("afp", 0.55, delta=0.07)], "afp beats base on the tasks (+7.0 points)."),
        (
            [BASE, row("afp", 0.55, delta=0.07, seeds=1), row("mcl", 0.53, delta=0.05), row("cit", 0.4, delta=-0.08)],
            "afp and mcl beat base on the tasks (afp +7.0 and mcl +5.0 points, one seed); cit is worse (-8.0 points).",
        ),
        (
            [BASE, *(row(f"a{n}", 0.5, delta=0.02 + n / 100) for n in range(4)), row("b", 0.4, delta=0.0, p=1.0)],
            "4 of 5 methods beat base on the tasks (most a3, +5.0 points).",
        ),
        ([BASE, row("afp", 0.4, delta=-0.08)], "afp is worse than base on the tasks (-8.0 points)."),
        (
            [BASE, row("x=1", 0.4, delta=-0.08, method="afp"), row("x=2", 0.3, delta=-0.18, method="afp")],
            "Every arm is worse than base on the tasks (x=1 -8.0 and x=2 -18.0 points).",
        ),
        ([BASE, row("afp", 0.47, delta=-0.01, p=0.7)], "No method beat base on the tasks (best -1.0, within noise)."),
        ([BASE, row("afp", 0.50, delta=0.02, p=None)], "No method beat base on the tasks (largest +2.0, not tested)."),
        (
            [BASE, row("afp", 0.50, delta=0.02, p=0.2, seeds=1)],
            "No method beat base on the tasks (largest +2.0, within noise, one seed).",
        ),
        (
            [row("afp", 0.54), row("mcl", 0.5)],
            "There is no base to compare with; afp has the highest mean on the tasks (54.0 %).",
        ),
        ([BASE], "Base alone was scored, so there is nothing to compare."),
        (
            [row("base", 0.5).model_copy(update={"mean": None}), row("afp", 0.5).model_copy(update={"mean": None})],
            "No task was scored outside English.",
        ),
    ],
)
def test_tasks(rows: list[ArmRow], words: str) -> None:
    assert clauses(rows)[0] == words


def test_scores_below_the_majority_say_little_and_failed_arms_are_named() -> None:
    rows = [row("base", 0.38, seeds=1), row("afp", 0.39, delta=0.01, p=0.5)]
    assert clauses(rows, floor=0.475)[0] == (
        "No method beat base on the tasks (largest +1.0, within noise), but this says little: no method scores above "
        "the majority (47.5 %), so the model does not do the tasks."
    )
    assert clauses([row("afp", 0.39)], floor=0.475)[0].endswith(
        "(39.0 %). No method scores above the majority (47.5 %), so the model does not do the tasks."
    )
    assert "majority" not in clauses(rows, floor=0.38)[0]
    tasks = clauses(rows, failed=["cit", "mit"], is_complete=False)[0]
    assert tasks == "So far: No method beat base on the tasks (largest +1.0, within noise). cit and mit failed."


@pytest.mark.parametrize(
    ("representation", "words"),
    [
        ([], "Alignment was not measured (evaluation.representation)."),
        (
            [found("afp", 0.09, 0.07, UNSURE), found("mcl", 0.08, 0.07, UNSURE)],
            "Alignment did not happen: translations are found for 9.0 % (afp) and 8.0 % (mcl) of sentences, 7.0 % "
            "before (within noise).",
        ),
        (
            [found("afp", 0.09, 0.07)],
            "Alignment rose a little: translations are found for 9.0 % (afp) of sentences, 7.0 % before.",
        ),
        (
            [found("afp", 0.8, 0.2), found("mcl", 0.02, 0.1)],
            "Alignment did happen: translations are found for 80 % (afp) of sentences, 20 % before; it fell with mcl "
            "(to 2 %).",
        ),
        (
            [found("afp", 0.8, None)],
            "Translations are found for 80.0 % (afp) of sentences; without base no change can be told.",
        ),
        (
            [found("afp", 0.8, 0.1, None)],
            "Alignment did not happen: translations are found for 80 % (afp) of sentences, 10 % before (not tested).",
        ),
    ],
)
def test_alignment(representation: list[RepresentationRow], words: str) -> None:
    rows = [BASE, row("afp", 0.5, delta=0.0), row("mcl", 0.5, delta=0.0)]
    assert clauses(rows, representation)[1] == words


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([BASE, row("afp", 0.5, delta=0.0, pivot=-0.004)], "No price was seen: English changed by -0.4 points."),
        (
            [BASE, row("afp", 0.5, delta=0.0, pivot=0.02, pivot_p=SURE), row("mcl", 0.5, delta=0.0, pivot=-0.0)],
            "No price was seen: English changed by 0.0 to +2.0 points; afp gained.",
        ),
        (
            [BASE, row("afp", 0.5, delta=0.0, pivot=-0.03, pivot_p=UNSURE), row("mcl", 0.5, delta=0.0, pivot=0.01)],
            "The price: 3.0 points of English (afp), within noise.",
        ),
        (
            [BASE, row("afp", 0.5, delta=0.0, pivot=-0.004, pivot_p=SURE)],
            "The price: 0.4 points of English.",
        ),
        (
            [BASE, row("afp", 0.5, delta=0.0, pivot=None)],
            "The price was not measured: English is not among the languages of the tasks.",
        ),
        ([row("afp", 0.5)], "Without base the price in English cannot be told."),
    ],
)
def test_price(rows: list[ArmRow], words: str) -> None:
    assert clauses(rows)[2] == words


def test_the_same_words_stand_first_on_the_terminal_in_the_report_and_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = fabricate(tmp_path, accuracy={"base": 0.3, "mcl": 0.32, "afp": 0.9}, seeds=(0, 1, 2))
    asked = ["compare", paths.name, "--storage", str(paths.storage)]
    assert main(asked) == 0
    shown = capsys.readouterr().out
    assert main([*asked, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    table = Comparison.model_validate(content)
    assert table.headline is not None
    words = table.headline.text
    assert words.startswith("afp beats base on the tasks (+")
    assert "Alignment did happen: translations are found for 90 % (afp) of sentences, 30 % before." in words
    assert shown.startswith(words)
    assert content["headline"]["alignment"]["numbers"][1]["before"] == pytest.approx(0.3)
    (afp,) = [line for line in table.verdicts if line.startswith("retrieval (afp): translations")]
    assert "90.0 % [" in afp and "30.0 % [" in afp and "more: +60.0 points [" in afp
    assert main(["report", paths.name, "--storage", str(paths.storage)]) == 0
    page = paths.report.read_text()
    clauses = (table.headline.tasks.text, table.headline.alignment.text, table.headline.price.text)
    places = [page.index(real_minus(clause)) for clause in clauses]
    assert places == sorted(places) and places[-1] < page.index("<svg")
    lines = [line.strip().removeprefix("warning: ") for line in shown.splitlines()]
    for line in (*table.verdicts, *table.warnings):
        assert lines.count(line) == 1, line


def test_a_loss_of_the_pivot_is_warned_of_by_its_size(tmp_path: Path) -> None:
    # Sixty contents and three seeds do not tell 3 points from noise.
    paths = fabricate(tmp_path, accuracy={"base": 0.55, "mcl": 0.52, "afp": 0.56}, seeds=(0, 1, 2), with_failure=False)
    (line,) = [warning for warning in compare(paths).warnings if "forgotten" in warning]
    assert line.startswith("mcl may have forgotten: in the pivot language en it is below base (-")
    assert line.endswith("so noise is not ruled out)")
    assert not [warning for warning in best(paths).warnings if "forgot" in warning]


def keep_pairs(paths: StudyPaths, found: dict[str, int], *, number: int = 50) -> None:
    """Have every trial of a method find the first translations of each language, and its result say so."""
    languages = [code for code in LANGUAGES for _ in range(number)]
    contents = [f"pair {index}" for _ in LANGUAGES for index in range(number)]
    for file in paths.trials.glob("*/result.json"):
        content = json.loads(file.read_text())
        count = found[content["config"]["method"]]
        for layer in content["layers"]:
            layer["retrieval_at_1"] = count / number
        file.write_text(json.dumps(content))
        hits = np.array([2 * (index < count) for _ in LANGUAGES for index in range(number)], dtype=np.uint8)
        drawn = gather_states(make_states(0.0, ["en", "zh"] * 4), ["en", "zh"] * 4, (0, "mean"))
        kept = PairRetrieval(tuple(languages), tuple(contents), {key: hits for key in drawn.axes})
        write_states(replace(drawn, retrieval=kept), file.parent / "representation" / "test.safetensors")


def test_retrieval_is_paired_sentence_by_sentence_where_trials_kept_it(tmp_path: Path) -> None:
    paths = fabricate(tmp_path, with_failure=False)
    keep_pairs(paths, {"base": 20, "mcl": 21, "afp": 30})
    rows = {row.arm: row.retrieval_difference for row in compare(paths).representation if not row.language}
    afp, mcl = rows["afp"], rows["mcl"]
    assert afp is not None and mcl is not None and rows["base"] is None
    assert afp.delta == pytest.approx(0.2) and afp.n == 100
    # Ten sentences more and none fewer, each in both languages: 2 to the -9 by the signs alone.
    assert afp.p is not None and afp.p == pytest.approx(2 / 2**10, abs=0.002)
    assert afp.is_significant and not mcl.is_significant
    assert afp.p_holm == pytest.approx(2 * afp.p)  # a family of its own: two arms
    for file in paths.trials.glob("*/representation/test.safetensors"):
        file.unlink()
    rows = {row.arm: row.retrieval_difference for row in compare(paths).representation if not row.language}
    alone = rows["afp"]
    assert alone is not None and alone.ci95 is not None and afp.ci95 is not None
    assert alone.delta == pytest.approx(0.2) and "as wide as any pairing" in alone.test
    assert alone.ci95[0] < afp.ci95[0] < afp.ci95[1] < alone.ci95[1]
    assert not alone.is_significant
