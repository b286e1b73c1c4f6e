"""Comparisons of scores that are computed from sums over sentences: intervals, tests, and whole studies."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from fabricate import fabricate
from sacrebleu.metrics import BLEU

from afp_ray.comparison import totals
from afp_ray.comparison.best_arm import best
from afp_ray.comparison.confirmed import ConfirmedArm, Examples
from afp_ray.comparison.metric import choose, difference_under, mean_under
from afp_ray.comparison.table import compare
from afp_ray.evaluation.predictions import Prediction, read_predictions, write_predictions
from afp_ray.evaluation.text_metrics import bleu
from afp_ray.records import Score
from afp_ray.statistics import paired_difference, permutation_test, redrawn_contents, score_interval, t_quantile

WORDS = ["a", "b", "c", "d", "e", "f", "g", "h"]


def write_text(reference: str, skill: float, draws: random.Random) -> str:
    """The reference with some words replaced: fewer the higher the skill."""
    return " ".join(word if draws.random() < skill else "z" for word in reference.split())


def references(number: int) -> list[str]:
    draws = random.Random(0)
    return [" ".join(draws.choices(WORDS, k=draws.randint(5, 12))) for _ in range(number)]


def make_arm(skills: list[float], *, rows: int = 30, with_choices: bool = True, seed: int = 0) -> ConfirmedArm:
    """An arm with one translation cell, a choice task beside it, and one seed per skill."""
    metric = bleu("en")
    assert metric.totals is not None
    lines = references(rows)
    cells = [("translation", "zh", "bleu")] + ([("xnli", "zh", "accuracy")] if with_choices else [])
    columns = [
        (task, code, 0, f"{task}-{row:02d}", f"content-{row // 2}", name)
        for task, code, name in cells
        for row in range(rows)
    ]
    examples = Examples(*(np.array(column, dtype=object) for column in zip(*columns, strict=True)))
    values = np.zeros((len(skills), len(columns)))
    sums = np.zeros((len(skills), len(columns), 10))
    for place, skill in enumerate(skills):
        draws = random.Random(f"{seed} {place}")
        for row, line in enumerate(lines):
            text = write_text(line, skill, draws)
            values[place, row] = metric.example(text, line)
            sums[place, row] = metric.totals(text, line)
        values[place, rows:] = [draws.random() < skill for _ in range(len(columns) - rows)]
    return ConfirmedArm("study", f"arm {skills}", (), (), values, examples, Path(), sums)


def everything(arm: ConfirmedArm) -> Any:
    return np.ones(len(arm.examples), dtype=bool)


def test_a_value_is_the_mean_over_tasks_and_seeds_of_corpus_bleu() -> None:
    arm = make_arm([0.6, 0.8])
    where = arm.examples.task == "translation"
    expected = []
    for place, skill in enumerate([0.6, 0.8]):
        draws = random.Random(f"0 {place}")
        lines = references(30)
        texts = [write_text(line, skill, draws) for line in lines]
        expected.append(BLEU(effective_order=True).corpus_score(texts, [lines]).score / 100)
    assert totals.value(arm, where) == pytest.approx(np.mean(expected), abs=1e-12)
    assert mean_under(where, arm) == totals.value(arm, where)
    accuracy = arm.values[:, 30:].mean()
    assert totals.value(arm, everything(arm)) == pytest.approx((np.mean(expected) + accuracy) / 2, abs=1e-12)


def test_plain_means_get_the_same_interval_and_test_as_elsewhere() -> None:
    arm, base = make_arm([0.7, 0.75, 0.8]), make_arm([0.5])
    where = arm.examples.task == "xnli"
    assert not totals.has_totals(arm, where)
    ours, theirs = choose(arm, where), choose(base, where)
    cells = {"tasks": ours.task, "languages": ours.language}
    expected = paired_difference(ours.values, theirs.values, ours.content, **cells, is_share=True)  # type: ignore[arg-type]
    found = totals.difference(arm, base, where, sign=1, resamples=10_000)
    ends = [(one.interval.mean, one.interval.low, one.interval.high) for one in (found, expected)]
    assert ends[0] == pytest.approx(ends[1], abs=0.015)  # here by content, there by row
    alone = score_interval(ours.values, ours.content, **cells, is_share=True)  # type: ignore[arg-type]
    score = totals.interval(arm, where)
    assert (score.mean, score.low, score.high) == pytest.approx((alone.mean, alone.low, alone.high), abs=0.03)
    p = permutation_test(ours.values, theirs.values, ours.content, **cells, resamples=4000)  # type: ignore[arg-type]
    assert totals.permutation(arm, base, where, resamples=4000) == pytest.approx(p, abs=0.02)


def test_the_interval_is_as_wide_as_redrawn_sentences_say() -> None:
    arm, base = make_arm([0.8], with_choices=False), make_arm([0.6], with_choices=False)
    where = everything(arm)
    contents = list(arm.examples.content_id)
    names = list(dict.fromkeys(contents))
    gaps = []
    for counts in redrawn_contents(contents, ["cell"] * len(contents), resamples=300):
        for row in counts:
            weights = np.array([row[names.index(name)] for name in contents])
            scores = []
            for side in (arm, base):
                assert side.totals is not None
                sums = (weights[:, None] * side.totals[0]).sum(axis=0)
                found = BLEU.compute_bleu(
                    list(sums[2:6]), list(sums[6:]), int(sums[0]), int(sums[1]), "exp", effective_order=True
                )
                scores.append(found.score / 100)
            gaps.append(scores[0] - scores[1])
    found = totals.difference(arm, base, where, sign=1, resamples=300).interval
    reach = t_quantile(0.975, len(names) - 1) * np.std(gaps)
    assert found.high - found.low == pytest.approx(2 * reach, rel=0.1)
    assert found.low < found.mean < found.high


def test_a_difference_is_negated_when_its_sides_are_swapped() -> None:
    arm, base = make_arm([0.75, 0.8]), make_arm([0.55, 0.6])
    there, back = (
        totals.difference(a, b, everything(arm), sign=1, resamples=500) for a, b in ((arm, base), (base, arm))
    )
    assert there.interval.mean == pytest.approx(-back.interval.mean) and there.interval.mean > 0
    assert (there.interval.low, there.interval.high) == pytest.approx((-back.interval.high, -back.interval.low))
    assert there.p == back.p < 0.05


def test_equal_sides_do_not_differ() -> None:
    arm = make_arm([0.7])
    found = totals.difference(arm, arm, everything(arm), sign=1, resamples=200)
    assert (found.interval.mean, found.p) == (0, 1)
    assert found.interval.low == -found.interval.high < 0


def test_the_test_keeps_its_level_where_nothing_differs() -> None:
    ps = [
        totals.permutation(
            make_arm([0.7], rows=12, with_choices=False, seed=seed),
            make_arm([0.7], rows=12, with_choices=False, seed=seed + 1000),
            np.ones(12, dtype=bool),
            resamples=199,
        )
        for seed in range(150)
    ]
    assert np.mean(np.array(ps) < 0.1) <= 0.17
    assert 0.35 < np.mean(ps) < 0.65


def test_shares_of_best_sum_to_one_and_follow_the_score() -> None:
    arms = [make_arm([skill], seed=seed) for seed, skill in enumerate((0.5, 0.7, 0.72))]
    where = everything(arms[0])
    shares = totals.shares_of_best(arms, where, sign=1, resamples=1000)
    worst = totals.shares_of_best(arms, where, sign=-1, resamples=1000)
    assert shares is not None and worst is not None
    assert sum(shares) == pytest.approx(1) == sum(worst)
    assert shares[0] < 0.05 < shares[1] and worst[0] > 0.95
    assert totals.shares_of_best([arms[1], arms[1]], where, sign=1, resamples=100) == [0.5, 0.5]


def test_one_content_has_no_interval() -> None:
    arm, base = make_arm([0.8], rows=2, with_choices=False), make_arm([0.5], rows=2, with_choices=False)
    found = difference_under(everything(arm), arm, base)
    assert found is not None
    assert found.ci95 is None and found.p is None and "fewer than two" in found.test


SKILL = {"base": 0.5, "mcl": 0.52, "afp": 0.8}


def add_translations(paths: Any) -> None:
    """Give every trial of a fabricated study translations, with two demonstration seeds, and their scores."""
    metric = bleu("en")
    assert metric.totals is not None
    for file in paths.folder.rglob("result.json"):
        folder = file.parent
        result = json.loads((folder / "result.json").read_text("utf-8"))
        method, seed = result["config"]["method"], result["config"]["seed"]
        for split in ("validation", "test"):
            rows = []
            for place, demo_seed in ((p, d) for p in range(40) for d in (0, 1)):
                line = references(40)[place]
                draws = random.Random(f"{method} {seed} {split} {place} {demo_seed}")
                text = write_text(line, SKILL[method], draws)
                rows.append(
                    Prediction(
                        "translation", "zh", 1, demo_seed, f"t{place}", f"{split}-t{place}", metric="bleu", text=text,
                        reference=line, value=metric.example(text, line), totals=metric.totals(text, line),
                    )
                )  # fmt: skip
            answers = folder / "predictions" / f"{split}.parquet"
            write_predictions([*read_predictions(answers), *rows], answers)
            value = metric.corpus([row.text for row in rows], [row.reference for row in rows])
            score = Score(task="translation", language="zh", shots=1, split=split, metric="bleu", value=value, n=40)  # type: ignore[arg-type]
            extra = score.model_copy(update={"metric": "chrf++", "value": 0.99})
            result["scores"] += [score.model_dump(), extra.model_dump()]
        file.write_text(json.dumps(result), "utf-8")


@pytest.fixture(scope="module")
def study(tmp_path_factory: Any) -> Any:
    paths = fabricate(tmp_path_factory.mktemp("storage"), seeds=(0, 1, 2))
    add_translations(paths)
    return paths


def test_a_study_with_generated_text_has_its_columns_and_tests(study: Any) -> None:
    table = compare(study)
    rows = {row.arm: row for row in table.arms}
    cells = {(cell.task, cell.language, cell.shots): cell for cell in rows["afp"].cells}
    cell = cells["translation", "zh", 1]
    assert cell.metric == "bleu" and cells["xnli", "zh", 0].metric == "accuracy"
    values = [
        score["value"]
        for trial in rows["afp"].trials
        for score in json.loads((study.trial(trial).folder / "result.json").read_text("utf-8"))["scores"]
        if (score["task"], score["metric"], score["split"]) == ("translation", "bleu", "test")
    ]
    assert len(values) == 3
    assert cell.mean == pytest.approx(np.mean(values), abs=1e-12)
    assert cell.vs_base is not None and cell.vs_base.ci95 is not None
    assert cell.vs_base.delta > 0.2 and cell.vs_base.is_significant
    assert cell.vs_base.ci95[0] < cell.vs_base.delta < cell.vs_base.ci95[1]
    mean = rows["afp"].mean
    assert mean is not None and mean.metric == "mean"
    by_task: dict[str, list[float]] = {}
    for one in rows["afp"].cells:
        if one.language != "en":
            by_task.setdefault(one.task, []).append(one.mean)
    assert mean.mean == pytest.approx(np.mean([np.mean(values) for values in by_task.values()]))
    assert mean.vs_base is not None and rows["base"].mean is not None
    assert mean.vs_base.delta == pytest.approx(mean.mean - rows["base"].mean.mean, abs=1e-12)
    near = {one.task: one for one in rows["mcl"].cells if one.language == "zh"}["translation"]
    assert near.vs_base is not None and not near.vs_base.is_significant


def test_choice_cells_are_as_they_are_without_generated_text(study: Any, tmp_path: Path) -> None:
    plain = compare(fabricate(tmp_path, seeds=(0, 1, 2)))
    mixed = compare(study)
    for left, right in zip(plain.arms, mixed.arms, strict=True):
        others = [cell for cell in right.cells if cell.task != "translation"]
        for old, new in zip(left.cells, others, strict=True):
            assert old.mean == new.mean
            assert (old.vs_base is None) == (new.vs_base is None)
            if old.vs_base and new.vs_base:
                assert (old.vs_base.delta, old.vs_base.ci95, old.vs_base.p) == (
                    new.vs_base.delta,
                    new.vs_base.ci95,
                    new.vs_base.p,
                )


def test_the_best_can_be_chosen_by_bleu(study: Any) -> None:
    found = best(study, metric="translation", language="zh")
    assert found.arm == "afp"
    assert found.score.ci95 is not None
    assert found.score.ci95[0] < found.score.mean < found.score.ci95[1]
    assert found.p_best is not None and found.p_best > 0.95
    assert found.vs_base is not None and found.vs_base.is_significant
    assert set(found.per_language) == {"zh"}


def test_predictions_of_the_first_format_compare_as_before(tmp_path: Path) -> None:
    paths = fabricate(tmp_path)
    before = compare(paths)
    for file in tmp_path.rglob("predictions/*.parquet"):
        table = pq.read_table(file)
        pq.write_table(table.select(table.column_names[:10]).replace_schema_metadata({}), file)
    assert compare(paths) == before
