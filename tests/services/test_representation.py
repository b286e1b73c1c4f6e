"""Drawings of the report: to one scale, inside their frames, and readable where languages meet."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from fabricate import add_representation, fabricate

from afp_ray.comparison import compare
from afp_ray.comparison.representation import MEASURES, Change, Drawing
from services.reports import write_reports
from services.views.gallery import most_moved
from services.views.pictures import NUM_COLOURS
from services.views.representation import Cloud, Figure, figures


def change(arm: str = "afp", *, languages: tuple[str, ...] = ("en", "zh"), with_drawing: bool = True) -> Change:
    random = np.random.default_rng(0)
    before = {code: random.normal(size=(5, 2)) + number for number, code in enumerate(languages)}
    after = {code: points * 0 + 0.5 for code, points in before.items()}
    by_layer = {name: {layer: (0.2 + 0.1 * layer, 0.4) for layer in range(3)} for name in MEASURES}
    drawing = Drawing((0.5, 0.25), before, after) if with_drawing else None
    return Change(arm, "base", 1, "mean", by_layer, 1 / 3, drawing)


def spots(cloud: Cloud) -> list[tuple[float, float]]:
    return cloud.points


def figure(**options: object) -> Figure:
    (found,) = figures([change(**options)], None)  # type: ignore[arg-type]
    return found


def test_both_panels_have_one_scale_and_hold_every_sentence() -> None:
    own = change()
    assert own.drawing is not None
    plot = figure().scatter
    assert plot is not None
    left, right = plot.panels
    assert (left.title, right.title) == ("before: base", "after: afp")
    assert plot.axes[0] == "first axis of base, 50 % of its variance"
    scales = []
    for panel, points in ((left, own.drawing.before), (right, own.drawing.after)):
        for cloud in panel.clouds:
            drawn = np.array(spots(cloud))
            assert len(drawn) == 5
            assert (drawn[:, 0] >= panel.x).all() and (drawn[:, 0] <= panel.x + plot.side).all()
            assert (drawn[:, 1] >= plot.top).all() and (drawn[:, 1] <= plot.top + plot.side).all()
            scales.append(np.linalg.lstsq(np.c_[points[cloud.language][:, 0], np.ones(5)], drawn[:, 0])[0])
    first = np.array(spots(left.clouds[0])) - [left.x, 0]
    there = np.array(spots(right.clouds[0])) - [right.x, 0]
    pixels = scales[0][0]
    expected = first + (own.drawing.after["en"] - own.drawing.before["en"]) * [pixels, -pixels]
    assert there == pytest.approx(expected, abs=2)  # pixels are rounded


def test_labels_of_languages_that_lie_together_do_not_cover_each_other() -> None:
    plot = figure(languages=("en", "zh", "th", "tr", "sw", "vi")).scatter
    assert plot is not None
    heights = sorted(cloud.label[1] for cloud in plot.panels[1].clouds if cloud.label)
    assert len(heights) == 6
    assert min(high - low for low, high in pairwise(heights)) >= 14.7


def test_labels_stay_near_their_sentences_or_are_left_to_the_legend() -> None:
    plot = figure(languages=tuple(f"l{number}" for number in range(30))).scatter
    assert plot is not None
    labels = [(spots(cloud)[0], cloud.label) for cloud in plot.panels[1].clouds]
    assert 9 <= sum(label is not None for _, label in labels) < 30
    assert all(abs(label[1] - spot[1]) <= 62 for spot, label in labels if label)


def test_many_languages_have_colours_and_a_legend_of_several_lines() -> None:
    plot = figure(languages=tuple(f"l{number}" for number in range(NUM_COLOURS + 2))).scatter
    assert plot is not None
    assert len({(x, y) for x, y, _, _ in plot.legend}) == NUM_COLOURS + 2
    assert {colour for _, _, colour, _ in plot.legend} == {f"c{number}" for number in range(NUM_COLOURS)}
    assert max(y for _, y, _, _ in plot.legend) < plot.top - 20
    assert max(x for x, _, _, _ in plot.legend) < plot.width - 60


def test_charts_are_drawn_to_scale_and_say_their_values() -> None:
    charts = {chart.title: chart for chart in figure().charts}
    assert len(charts) == 6
    share = charts["language probe, %"]
    (top, highest), (bottom, lowest) = sorted((y, words) for y, words in share.ticks)
    assert (highest, lowest) == ("100", "0")
    assert share.chance == pytest.approx(bottom + (top - bottom) / 3, abs=0.1)
    assert ("before, layer 2: 40", "was") in [(words, kind) for *_, kind, words in share.marks]
    place = next(y for _, y, _, words in share.marks if words == "after, layer 0: 40")
    assert place == pytest.approx(bottom + 0.4 * (top - bottom), abs=0.1)
    assert charts["alignment"].chance is None


def test_the_arm_that_moved_most_is_open_and_numbers_stand_beside_the_drawing() -> None:
    found = figures([change("mcl"), change("afp", with_drawing=False)], "afp")
    assert [(one.arm, one.is_open) for one in found] == [("afp", True), ("mcl", False)]
    assert found[0].scatter is None
    assert found[0].projection is None
    assert found[1].projection is not None
    assert [one.is_open for one in figures([change("mcl"), change("cit")], "base")] == [True, False]
    assert found[0].grid.rows[1][:3] == ["1", "40.0", "30.0"]
    assert figures([], "afp") == []


def test_the_page_holds_the_drawings_and_reads_well_in_light_and_dark(tmp_path: Path) -> None:
    paths = fabricate(tmp_path)
    without = write_reports(paths)[0].read_text()
    assert "No states were kept to draw" in without
    add_representation(paths)
    text = write_reports(paths)[0].read_text()
    assert "chance is 33 %" in text
    assert "0.700 (0.900)" in text
    for arm in ("mcl", "afp"):
        assert f"after: {arm}" in text
    assert text.count("<details open>") == 2  # the verdicts in sentences, and the arm that moved most
    comparison = compare(paths)
    assert most_moved(comparison) == "afp"
    assert text.index("after: afp") < text.index("after: mcl")
    dots = re.findall(r'class="dots (c\d+)" d="([^"]*)"', text)
    assert sum(path.count("M") for _, path in dots if path.count("M") > 1) == 2 * 2 * 24
    for colour in {colour for colour, _ in dots}:
        assert len(re.findall(rf"--{colour}: #", text)) == 2  # one for each scheme
        assert f".{colour} {{" in text
    assert not re.findall(r"(?:href|src)=\"(?!#)", text)
    assert (paths.folder / "comparison.md").read_text().count("0.700 (0.900)") == 1
