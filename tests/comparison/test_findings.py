"""What a comparison adds to its table: majority, components, searched fields, cost, forgetting, requirements."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fabricate import FINGERPRINTS, event, fabricate, make_config, make_study

from afp_ray.comparison import best, check_requirements, compare
from afp_ray.config import StudyConfig, trial_id
from afp_ray.errors import ConfigError
from afp_ray.ledger import Ledger
from afp_ray.records import TrialStatus
from afp_ray.store import StudyPaths
from services.cli import main
from services.views.formats import to_markdown
from services.views.tables import ablation_grid, effect_grid, pareto_grid

METHODS = ("base", "mcl", "cit", "mcl_mit", "afp")
ACCURACY = {"base": 0.5, "mcl": 0.52, "cit": 0.7, "mcl_mit": 0.7, "afp": 0.7}


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    return fabricate(tmp_path_factory.mktemp("runs"), methods=METHODS, accuracy=ACCURACY, seeds=(0, 1, 2))


def set_gold(paths: StudyPaths, ones: int) -> None:
    """Make choice 1 the right one of the first examples of every cell."""
    for file in paths.trials.glob("*/predictions/*.parquet"):
        table = pq.read_table(file)
        gold = [int(int(name.rsplit("-", 1)[1]) < ones) for name in table["example_id"].to_pylist()]
        column = table.schema.get_field_index("gold")
        pq.write_table(table.set_column(column, "gold", pa.array(gold, pa.int32())), file)


def test_the_majority_is_the_share_of_the_most_frequent_right_choice(tmp_path: Path) -> None:
    paths = fabricate(tmp_path)
    set_gold(paths, 15)  # of 60
    table = compare(paths)
    assert table.majority is not None
    assert {cell.mean for cell in table.majority.cells} == {0.75}
    assert table.majority.mean == table.majority.pivot_mean == 0.75
    grid = ablation_grid(table)
    assert grid.rows[0] == ["majority", "-", "75.0", "75.0", "75.0", "75.0", "75.0", "-", "-", "-"]
    assert "majority" in to_markdown(table)


def test_components_are_differences_of_the_arms_that_lack_them(ablation: StudyPaths) -> None:
    table = compare(ablation)
    means = {row.arm: row.mean.mean for row in table.arms if row.mean}
    effects = {(one.component, one.with_arm, one.without_arm): one for one in table.effects}
    assert set(effects) == {
        ("contrastive term", "afp", "cit"),
        ("instruction term", "afp", "mcl"),
        ("crossing", "afp", "mcl_mit"),
    }
    instructions = effects["instruction term", "afp", "mcl"]
    assert instructions.difference.delta == pytest.approx(means["afp"] - means["mcl"])
    assert instructions.difference.is_significant and "better than mcl" in instructions.verdict
    assert instructions.also_differ == ()
    crossing = effects["crossing", "afp", "mcl_mit"]
    assert not crossing.difference.is_significant and "not distinguishable" in crossing.verdict
    assert crossing.difference.ci95 is not None and crossing.difference.p_holm is not None
    plain = [one.difference.p for one in table.effects]
    assert max(one.difference.p_holm or 0 for one in table.effects) >= max(p for p in plain if p is not None)
    words = {row[0]: row[-1] for row in effect_grid(table).rows}
    assert words == {
        "contrastive term": "not distinguishable",
        "instruction term": "adds",
        "crossing": "not distinguishable",
    }
    assert all(effect.verdict in table.verdicts for effect in table.effects)


def test_holm_covers_every_cell_of_the_table(ablation: StudyPaths) -> None:
    deltas = [cell.vs_base for row in compare(ablation).arms for cell in row.cells if cell.vs_base]
    assert len(deltas) == 4 * 6
    smallest = min(deltas, key=lambda delta: delta.p or 1.0)
    assert smallest.p is not None and smallest.p_holm == pytest.approx(min(1.0, 24 * smallest.p))


def cost(paths: StudyPaths, hours: dict[str, float]) -> None:
    """Let every training of a method take so many hours."""
    for file in paths.trials.glob("*/result.json"):
        text = file.read_text()
        method = next(name for name in METHODS if f'"method": "{name}"' in text or f'"method":"{name}"' in text)
        if method != "base":
            assert '"seconds": 720.0' in text
            file.write_text(text.replace('"seconds": 720.0', f'"seconds": {3600 * hours[method]}'))


def test_the_cheapest_arm_that_is_not_worse_and_the_front(tmp_path: Path) -> None:
    accuracy = ACCURACY | {"afp": 0.71}
    paths = fabricate(tmp_path, methods=METHODS, accuracy=accuracy, seeds=(0, 1, 2))
    cost(paths, {"mcl": 0.1, "cit": 0.6, "mcl_mit": 0.2, "afp": 0.5})
    found = best(paths)
    assert found.arm == "afp"
    assert found.cheapest is not None
    assert found.cheapest.arm == "mcl_mit"
    assert "not distinguishable from afp on validation" in found.cheapest.verdict
    assert "40 % of the device-hours of its training" in found.cheapest.verdict
    assert found.cheapest.behind is not None
    front = {point.arm: point.is_on_front for point in found.pareto}
    assert [point.arm for point in found.pareto] == ["base", "mcl", "mcl_mit", "afp", "cit"]
    assert front["base"] and not front["cit"]
    assert [row[0] for row in pareto_grid(found.pareto).rows] == ["base", "mcl", "mcl_mit", "afp", "cit"]
    assert compare(paths).pareto == found.pareto


def test_the_best_is_the_cheapest_where_all_cheaper_ones_are_worse(tmp_path: Path) -> None:
    paths = fabricate(tmp_path, seeds=(0, 1, 2))
    cost(paths, {"mcl": 0.1, "afp": 0.5})
    found = best(paths).cheapest
    assert found is not None and found.arm == "afp" and found.behind is None
    assert found.verdict == "every cheaper arm is significantly worse on validation"


def forget(paths: StudyPaths, method: str) -> None:
    """Make every answer of a method in the pivot language wrong, and its scores with them."""
    import json

    for file in paths.trials.glob("*/result.json"):
        result = json.loads(file.read_text())
        if result["config"]["method"] != method:
            continue
        for score in result["scores"]:
            if score["language"] == "en" and score["metric"] == "accuracy":
                score["value"] = 0.0
        file.write_text(json.dumps(result))
        for answers in (file.parent / "predictions").glob("*.parquet"):
            table = pq.read_table(answers)
            correct = [
                c and code != "en"
                for c, code in zip(*(table[n].to_pylist() for n in ("correct", "language")), strict=True)
            ]
            place = table.schema.get_field_index("correct")
            pq.write_table(table.set_column(place, "correct", pa.array(correct)), answers)


def test_forgetting_is_said_measured_and_can_be_refused(tmp_path: Path) -> None:
    paths = fabricate(tmp_path, seeds=(0, 1, 2))
    forget(paths, "afp")
    table = compare(paths)
    (line,) = [warning for warning in table.warnings if "forgot" in warning]
    assert line.startswith("afp forgot: in the pivot language en it is worse than base (-")
    found = best(paths)
    check = found.constraints["pivot_drop"]
    assert found.arm == "afp" and not check.ok
    assert check.ci95 is not None and check.ci95[1] < 0 and check.p is not None and check.p < 0.05
    assert any("forgot" in warning for warning in found.warnings)
    kept = best(paths, max_forgetting=0.02)
    assert kept.arm == "mcl"
    assert kept.constraints["pivot_drop"].limit == -0.02
    assert kept.constraints["pivot_drop"].ok
    assert best(paths, max_forgetting=1.0).arm == "afp"


def test_forgetting_without_a_base_cannot_be_limited(tmp_path: Path) -> None:
    paths = fabricate(tmp_path, methods=("mcl", "afp"), study=make_study(methods=("mcl", "afp")))
    with pytest.raises(ConfigError, match="measured against base"):
        best(paths, max_forgetting=0.02)


def test_requirements_hold_or_not(ablation: StudyPaths) -> None:
    found = check_requirements([ablation], ["afp > base", "afp>=mcl_mit", "base >= afp", "mcl_mit > afp"])
    assert [one.ok for one in found] == [True, True, False, False]
    assert "better than base" in found[0].verdict
    assert "not distinguishable from mcl_mit" in found[1].verdict
    with pytest.raises(ConfigError, match="no requirement"):
        check_requirements([ablation], ["afp better"])
    with pytest.raises(ConfigError, match="no confirmed arm 'ft'"):
        check_requirements([ablation], ["ft > base"])


def test_a_requirement_that_is_not_met_ends_with_seven(
    ablation: StudyPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = ["--storage", str(ablation.storage)]
    assert main(["compare", ablation.name, "--require", "afp > base", *storage]) == 0
    assert "ok       afp > base: afp is better than base" in capsys.readouterr().out
    assert main(["compare", ablation.name, "--require", "mcl_mit > afp", "--json", *storage]) == 7
    assert "not met: mcl_mit > afp" in capsys.readouterr().err


def test_the_command_shows_the_front_and_refuses_to_forget(
    ablation: StudyPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["best", ablation.name, "--pareto", "--max-forgetting", "50", "--storage", str(ablation.storage)]) == 0
    shown = capsys.readouterr().out
    assert "training, device-hours" in shown and "cheapest not significantly worse" in shown


def searched(storage: Path) -> StudyPaths:
    """A study whose ledger has 40 searched trials of afp, in which the temperature alone mattered."""
    plain = make_study("searched", seeds=(0, 1, 2))
    tune = {"loss.temperature": {"low": 0.01, "high": 1.0, "log": True}, "loss.pooling": {"choices": ["last", "mean"]}}
    study = StudyConfig.model_validate(plain.model_dump(mode="json") | {"tune": tune})
    paths = fabricate(storage, study=study, with_failure=False, closed=None, seeds=(0, 1, 2))
    ledger = Ledger.open(paths, study)
    draws = random.Random(0)
    for number in range(40):
        params = {"loss.temperature": 10 ** draws.uniform(-2, 0), "loss.pooling": draws.choice(["last", "mean"])}
        config = make_config(study, "afp", 0, params)
        common = {
            "trial_id": trial_id(config, FINGERPRINTS),
            "arm": "afp",
            "seed": 0,
            "role": "search",
            "params": params,
        }
        event(ledger, TrialStatus.PLANNED, 1_800_000_000.0 + number, **common, config=config.model_dump(mode="json"))
        quality = -abs(np.log10(params["loss.temperature"] / 0.1)) + draws.gauss(0, 0.05)
        event(
            ledger,
            TrialStatus.DONE,
            1_800_000_000.5 + number,
            **common,
            objective=float(quality),
            splits=("validation",),
        )
    ledger.close("complete")
    return paths


def test_a_searched_field_that_mattered_is_told_from_one_that_did_not(tmp_path: Path) -> None:
    table = compare(searched(tmp_path))
    found = {one.field: one for one in table.importances}
    assert set(found) == {"loss.temperature", "loss.pooling"}
    assert found["loss.temperature"].n_trials == 40
    assert found["loss.temperature"].p < 0.05 and found["loss.temperature"].share > 0.6
    assert "not distinguishable" in found["loss.pooling"].verdict
    assert "PED-ANOVA" in to_markdown(table)
