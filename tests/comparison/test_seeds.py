"""What varies beside the examples: seeds of training, which a single one cannot show, and sets of demonstrations."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from fabricate import ACCURACY, fabricate, make_study

from afp_ray.comparison import best, compare
from afp_ray.methods import METHODS
from afp_ray.records import Comparison
from afp_ray.store import StudyPaths
from services.views.formats import to_csv, to_markdown
from services.views.tables import DEMONSTRATIONS, ablation_grid, cell_grid

ONE_SEED = "one seed only, so that intervals say nothing about training noise: "


def add_deviations(paths: StudyPaths, *, skipped_seed: int | None = None) -> None:
    """Give every score a deviation over demonstration seeds: 0.02 at seed 0, 0.04 at seed 1."""
    for file in paths.trials.glob("*/result.json"):
        content: dict[str, Any] = json.loads(file.read_text())
        seed = content["config"]["seed"]
        for score in content["scores"]:
            if score["metric"] == "accuracy" and seed != skipped_seed:
                score["demo_deviation"] = 0.02 * (seed + 1) if score["language"] == "zh" else 0.0
        file.write_text(json.dumps(content))


@pytest.fixture
def with_deviations(tmp_path: Path) -> Comparison:
    paths = fabricate(tmp_path)
    add_deviations(paths)
    return compare(paths)


def test_trained_arms_of_one_seed_are_named_once(tmp_path: Path) -> None:
    paths = fabricate(tmp_path, seeds=(0,))
    (warning,) = [warning for warning in compare(paths).warnings if warning.startswith("one seed only")]
    assert warning == f"{ONE_SEED}mcl, afp", "base is not trained"
    assert f"{ONE_SEED}afp" in best(paths).warnings


def test_several_seeds_give_no_warning(tmp_path: Path) -> None:
    paths = fabricate(tmp_path)
    assert not [line for line in (*compare(paths).warnings, *best(paths).warnings) if "one seed" in line]


def test_a_published_checkpoint_that_wins_has_no_noise_of_training(tmp_path: Path) -> None:
    assert METHODS["bloomz_560m"]["training.max_steps"] == 0
    methods = ("base", "mcl", "bloomz_560m")
    study = make_study(methods=methods, seeds=(0,))
    accuracy = {**ACCURACY, "bloomz_560m": 0.8}
    paths = fabricate(tmp_path, methods=methods, seeds=(0,), accuracy=accuracy, study=study, with_failure=False)
    found = best(paths)
    assert found.arm == "bloomz_560m"
    assert not [line for line in found.warnings if "one seed" in line]
    assert f"{ONE_SEED}mcl" in compare(paths).warnings


def test_deviations_over_demonstrations_are_means_over_seeds(with_deviations: Comparison) -> None:
    rows = {row.arm: row for row in with_deviations.arms}
    for arm, expected in (("base", 0.02), ("afp", 0.03)):
        for cell in rows[arm].cells:
            assert cell.demo_deviation == pytest.approx(expected if cell.language == "zh" else 0.0)


def test_a_seed_without_a_deviation_leaves_none(tmp_path: Path) -> None:
    paths = fabricate(tmp_path)
    add_deviations(paths, skipped_seed=1)
    rows = {row.arm: row for row in compare(paths).arms}
    assert all(cell.demo_deviation is None for cell in rows["afp"].cells)
    assert all(cell.demo_deviation is not None for cell in rows["base"].cells)


def test_tables_show_deviations_in_points_where_there_are_some(with_deviations: Comparison, tmp_path: Path) -> None:
    grid = ablation_grid(with_deviations)
    assert grid.header[-1] == DEMONSTRATIONS
    # Two tasks in zh at 3 points each, four other cells at none.
    assert {row[0]: row[-1] for row in grid.rows} == {"majority": "-", "base": "0.7", "mcl": "1.0", "afp": "1.0"}
    assert all(len(row) == len(marks) == len(grid.header) for row, marks in zip(grid.rows, grid.is_best, strict=True))
    cells = cell_grid(with_deviations)
    afp = dict(zip(cells.header, next(row for row in cells.rows if row[0] == "afp"), strict=True))
    assert afp["xcopa/zh/0"].endswith(" ±3.0")
    assert DEMONSTRATIONS in to_markdown(with_deviations)
    rows = [row for row in csv.DictReader(io.StringIO(to_csv(with_deviations))) if row["arm"] == "afp"]
    assert {row["language"]: row["demo_deviation"] for row in rows} == {"": "", "en": "0.0", "sw": "0.0", "zh": "0.03"}
    plain = ablation_grid(compare(fabricate(tmp_path / "plain")))
    assert DEMONSTRATIONS not in plain.header
    assert "±" not in str(plain.rows)
