"""The smallest effect that a study can find: its closed form, a simulation of the test itself, and the command."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricate import fabricate
from scipy import stats

from afp_ray.config import StudyConfig
from afp_ray.data import embedded
from afp_ray.statistics import paired_difference, smallest_effect
from services import cli

STUDY = {
    "name": "demo",
    "fixed": {
        "model.name": "embedded",
        "data.languages": ["zh", "sw"],
        "evaluation.tasks": ["xcopa", "xnli"],
        "evaluation.representation": None,
        "training.max_steps": 5,
    },
    "compare": {"method": ["base", "mcl", "afp"]},
    "seeds": [0, 1],
}


def test_with_one_seed_it_is_the_reach_and_what_power_adds() -> None:
    deviation = math.sqrt(0.2 / 400)
    found = smallest_effect(0.2 / 400, 399, alpha=0.0125, power=0.8)
    assert found == pytest.approx(deviation * (stats.t.ppf(1 - 0.0125 / 2, 399) + stats.norm.ppf(0.8)), rel=1e-6)
    assert smallest_effect(0.0, 399) == 0.0


def test_more_seeds_contents_and_fewer_arms_find_less() -> None:
    plain = smallest_effect(5e-4, 399, seeds=1e-4, num_seeds=3, alpha=0.025)
    assert smallest_effect(5e-4, 399, seeds=1e-4, num_seeds=6, alpha=0.025) < plain
    assert smallest_effect(1e-4, 1999, seeds=1e-4, num_seeds=3, alpha=0.025) < plain
    assert smallest_effect(5e-4, 399, seeds=1e-4, num_seeds=3, alpha=0.05) < plain
    assert smallest_effect(5e-4, 399, seeds=4e-4, num_seeds=3, alpha=0.025) > plain


@pytest.mark.parametrize(("num_seeds", "of_seeds", "alpha"), [(1, 0.0, 0.0125), (3, 0.01, 0.05), (5, 0.02, 0.025)])
def test_a_simulated_study_finds_it_as_often_as_it_says(num_seeds: int, of_seeds: float, alpha: float) -> None:
    number, changed, rounds = 400, 0.25, 250
    effect = smallest_effect(changed / number, number - 1, seeds=of_seeds**2, num_seeds=num_seeds, alpha=alpha)
    random, hits = np.random.default_rng(7), 0
    for _ in range(rounds):
        base = random.random(number) < 0.5
        # What changes an answer is the question, for every run alike; each run is a little better or worse.
        luck, shifts = random.random(number), effect + of_seeds * random.standard_normal(num_seeds)
        flips = luck < changed + np.where(base, -1, 1) * shifts[:, None]
        pair = paired_difference((base ^ flips).astype(float), base.astype(float), range(number), is_share=True,
                                 resamples=400)  # fmt: skip
        hits += pair.p < alpha
    assert 0.7 <= hits / rounds <= 0.9, hits / rounds


def plan(capsys: pytest.CaptureFixture[str], file: Path, storage: Path, *more: str) -> Any:
    assert cli.main(["plan", str(file), "--storage", str(storage), "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)["effects"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "study.json"
    path.write_text(json.dumps(STUDY))
    return path


def test_a_given_spread_gives_every_arm_its_effect(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    effects = plan(capsys, file, tmp_path / "runs", "--spread", "20")
    assert [effect["arm"] for effect in effects] == ["mcl", "afp"]
    (first, second) = effects
    assert first["effect"] == second["effect"]
    assert (first["alpha"], first["seeds"], first["tasks"], first["seed_deviation"]) == (0.025, 2, 2, None)
    contents = [
        len({row["content_id"] for row in embedded.task_rows(task, "zh", "test")}) for task in ("xcopa", "xnli")
    ]
    assert first["contents"] == sum(contents)
    share = sum(1 / number for number in contents) / 4  # of the mean over both tasks
    deviation = math.sqrt(0.2 * share)
    wanted = deviation * (stats.t.ppf(1 - 0.025 / 2, sum(contents) - 2) + stats.norm.ppf(0.8))
    assert first["effect"] == pytest.approx(wanted, rel=1e-6)
    wider = plan(capsys, file, tmp_path / "runs", "--spread", "20,1.5")
    assert wider[0]["seed_deviation"] == pytest.approx(0.015) and wider[0]["effect"] > first["effect"]
    assert plan(capsys, file, tmp_path / "runs") == []  # nothing tells the spread
    no_base = json.dumps({**STUDY, "compare": {"method": ["mcl", "afp"]}})
    file.write_text(no_base)
    assert plan(capsys, file, tmp_path / "runs", "--spread", "20") == []


def test_a_finished_study_of_the_same_model_and_tasks_tells_the_spread(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = tmp_path / "runs"
    fabricate(storage, study=StudyConfig.model_validate({**STUDY, "name": "before"}), with_failure=False)
    mcl, afp = plan(capsys, file, storage)
    assert mcl["source"] == afp["source"] == "as in before"
    assert mcl["seed_deviation"] == afp["seed_deviation"] < 0.05
    assert mcl["content_deviation"] < afp["content_deviation"]  # which changes more answers
    assert mcl["effect"] < afp["effect"]
    assert cli.main(["plan", str(file), "--storage", str(storage)]) == 0
    shown = capsys.readouterr().out
    points = f"mcl {100 * mcl['effect']:.1f}, afp {100 * afp['effect']:.1f} points"
    assert points in shown and "is found 80 times in 100" in shown and "as in before" in shown


@pytest.mark.parametrize("text", ["0", "101", "20,1,2", "much", "20,-1"])
def test_what_is_no_spread_is_refused(
    text: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", str(file), "--storage", str(tmp_path), f"--spread={text}"]) == 2
    assert "write --spread 20,1.5" in capsys.readouterr().err
