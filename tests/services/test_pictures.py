"""Pictures of trainings, searches and changed answers: to scale, thinned out, and only where there is something."""

import json
from pathlib import Path

import pytest
from fabricate import add_curves, fabricate, make_study

from afp_ray.comparison import compare
from afp_ray.comparison.off_target import target_rates
from afp_ray.config import ChoiceSpec, RangeSpec
from afp_ray.records import FieldImportance, StudyState, TrialRecord, TrialStatus
from afp_ray.store import StudyPaths
from services.answers import flipped_answer
from services.reports import write_reports
from services.service_schemas import TrainingCurve
from services.views.axes import Scale, short, signed
from services.views.blocks import changed_grid, off_target_grid
from services.views.pictures import Box, Circle, Mark, Text
from services.views.pictures import Path as Polyline
from services.views.score_pictures import colours_of, cost_picture
from services.views.search_pictures import search_pictures
from services.views.training_pictures import curve_pictures


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    paths = fabricate(tmp_path_factory.mktemp("runs"))
    add_curves(paths)
    write_reports(paths)
    return paths


def lines(marks: tuple[Mark, ...]) -> list[Polyline]:
    return [mark for mark in marks if isinstance(mark, Polyline)]


def test_ticks_are_round_and_scales_run_from_end_to_end() -> None:
    assert Scale(-0.9, 2.1, 0, 100).ticks(5) == [0.0, 1.0, 2.0]
    assert Scale(0.02, 0.06, 0, 100, is_log=True).ticks(6) == pytest.approx([0.02, 0.03, 0.05])
    scale = Scale(1, 100, 200, 0, is_log=True)
    assert [scale(1), scale(10), scale(100)] == pytest.approx([200, 100, 0])
    assert (short(-0.0), short(-2.5), short(16000), signed(0.0), signed(-5)) == ("0", "−2.5", "16000", "0", "−5")


def test_a_curve_has_a_line_per_seed_and_is_thinned_out() -> None:
    steps = tuple(range(1, 1901))
    curve = TrainingCurve(
        trial_id="a" * 16,
        total=1900,
        steps=steps,
        metrics={
            "contrastive_loss": tuple(100.0 / step for step in steps),
            "gradient_cosine": tuple(0.1 if step % 190 == 0 else None for step in steps),
        },
    )
    empty = TrainingCurve(trial_id="b" * 16, total=0)
    drawn = curve_pictures({"base": [empty], "afp": [curve, curve]}, {"base": "soft", "afp": "c0"})
    assert [picture.name for picture in drawn] == ["contrastive-loss", "gradient-cosine"]
    loss, cosine = (lines(picture.marks) for picture in drawn)
    assert len(loss) == len(cosine) == 2
    assert 100 < len(loss[0].points) <= 150
    assert len(cosine[0].points) == 10  # rare values are all there
    assert "logarithmic" in drawn[0].note
    heights = [y for _, y in loss[0].points]
    assert heights == sorted(heights)  # falling values, downwards on the page
    assert all(52 <= x <= 528 and 34 <= y <= 232 for x, y in loss[0].points)
    assert "afp from" in drawn[0].label


def searched_trial(number: int, objective: float, **params: object) -> TrialRecord:
    return TrialRecord(
        trial_id=f"{number:016x}", arm="afp", seed=0, role="search", status=TrialStatus.DONE, attempt=1,
        config={}, params=params, objective=objective, planned_at=0.0,
    )  # fmt: skip


def test_a_search_is_drawn_by_trial_by_field_and_by_importance() -> None:
    tune = {
        "loss.temperature": RangeSpec(low=0.01, high=1.0, log=True),
        "loss.pooling": ChoiceSpec(choices=("last", "mean")),
    }
    study = make_study().model_copy(update={"tune": tune})
    trials = [
        searched_trial(
            n, 0.4 + n / 100, **{"loss.temperature": 10.0 ** -(n % 3), "loss.pooling": ("last", "mean")[n % 2]}
        )
        for n in range(6)
    ]
    state = StudyState(name="demo", trials=tuple(trials))
    importance = FieldImportance(
        arm="afp", field="loss.pooling", share=0.8, ci95=(0.5, 0.9), p=0.01, n_trials=6, verdict=""
    )
    history, temperature, pooling, mattered = search_pictures(study, state, [importance], {"afp": "c0"})
    dots = [mark for mark in history.marks if isinstance(mark, Circle)]
    assert len(dots) == 6
    assert [dot.x for dot in dots] == sorted(dot.x for dot in dots)
    assert [dot.y for dot in dots] == sorted((dot.y for dot in dots), reverse=True)
    x = {round(mark.x, 3) for mark in temperature.marks if isinstance(mark, Circle)}
    low, middle, high = sorted(x)
    assert middle - low == pytest.approx(high - middle)  # a logarithmic axis
    words = [mark.words for mark in pooling.marks if isinstance(mark, Text)]
    assert {"last", "mean"} < set(words)
    (bar,) = [mark for mark in mattered.marks if isinstance(mark, Box) and mark.kind == "bar"]
    (frame,) = [mark for mark in mattered.marks if isinstance(mark, Box) and mark.kind == "frame"]
    assert bar.width == pytest.approx(0.8 * frame.width)
    assert search_pictures(study, StudyState(name="demo"), [], {"afp": "c0"}) == []


def test_the_cost_of_every_arm_is_drawn(finished: StudyPaths) -> None:
    table = compare(finished)
    drawn = cost_picture(table)
    assert drawn is not None
    dots = {mark.title.partition(":")[0]: mark for mark in drawn.marks if isinstance(mark, Circle)}
    assert set(dots) == {arm.arm for arm in table.arms}
    assert dots["base"].x < dots["afp"].x  # base is not trained
    assert dots["afp"].y < dots["base"].y  # and scores less
    assert cost_picture(table.model_copy(update={"pareto": table.pareto[:1]})) is None


def test_changed_answers_are_counted_and_a_few_are_shown(finished: StudyPaths) -> None:
    table = compare(finished)
    flipped = flipped_answer(finished, table)
    assert set(flipped) == {"mcl", "afp"}
    own = flipped["afp"]
    assert sum(cell.gained for cell in own.cells) > sum(cell.lost for cell in own.cells)
    assert [example.language for example in own.examples].count("sw") == 2
    assert all(example.change for example in own.examples)
    grid = changed_grid(own)
    cell = next(cell for cell in own.cells if (cell.task, cell.language) == ("xnli", "sw"))
    row = next(row for row in grid.rows if row[0] == "xnli")
    assert row[grid.header.index("sw")] == f"+{cell.gained} -{cell.lost}"


def test_the_page_has_every_section_that_there_is_something_for(finished: StudyPaths) -> None:
    text = finished.report.read_text()
    order = [
        "verdict",
        "differences",
        "representation",
        "training",
        "cost",
        "flipped",
        "failures",
        "ablation",
        "trials",
    ]
    places = [text.index(f'<h2 id="{name}">') for name in order]
    assert places == sorted(places)
    assert 'id="picture-contrastive-loss"' in text
    assert '<h2 id="search">' not in text  # nothing was searched
    assert '<h2 id="off-target">' not in text  # nothing was generated
    assert colours_of(compare(finished))["base"] == "soft"


def test_answers_off_target_are_shown_where_texts_were_generated(tmp_path: Path) -> None:
    paths = fabricate(tmp_path)
    for file in paths.trials.glob("*/result.json"):
        content = json.loads(file.read_text())
        rate = 0.5 if content["config"]["method"] == "base" else 0.9
        for language in ("sw", "zh"):
            content["scores"].append(
                {"task": "answer_language", "language": language, "split": "test", "metric": "target_language_rate",
                 "value": rate if language == "sw" else 1.0, "n": 50, "shots": 0}
            )  # fmt: skip
        file.write_text(json.dumps(content))
    rates = target_rates(paths, compare(paths))
    assert rates["afp"] == pytest.approx({"sw": 0.9, "zh": 1.0})
    assert off_target_grid(rates).rows[0] == ["base", "50.0", "100.0"]
    assert '<h2 id="off-target">' in write_reports(paths)[0].read_text()
