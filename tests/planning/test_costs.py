"""What `afp plan` says a study will cost: from planted trials whose price is known, and against real ones."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from afp_ray.config import StudyConfig, TrialConfig, trial_id
from afp_ray.config.model import ModelConfig
from afp_ray.ledger import Ledger
from afp_ray.models.describe import describe
from afp_ray.planning.check import Checked
from afp_ray.planning.costs import Costs, measured_trials
from afp_ray.planning.probe import probe_trials
from afp_ray.records import LedgerEvent, Score, TrainingSummary, TrialResult
from afp_ray.search import make_arms, resolve
from afp_ray.search.halving import make_ladder
from afp_ray.store import StudyPaths, write_json
from afp_ray.study import plan as plan_study
from services import cli

FIXED = {
    "model.name": "embedded",
    "data.languages": ["zh"],
    "data.num_pairs": 20,
    "data.num_instructions": 20,
    "training.batch_size": 4,
    "training.pair_batch_size": 8,
    "training.max_steps": 100,
    "evaluation.tasks": ["xnli"],
    "evaluation.representation": None,
}
START_S, SCORING_S, INSTRUCTION_S, PAIR_S = 2.0, 30.0, 0.02, 0.005
"""What planted trials cost: once, for each split, and for each row of a step."""
Seconds = Callable[[TrialConfig, int], tuple[float, float]]


def price(config: TrialConfig, num_splits: int) -> tuple[float, float]:
    """Seconds of the training and of the whole trial."""
    instructions = config.training.batch_size * (config.loss.instruction_weight > 0)
    pairs = config.training.num_pairs_per_step * (config.loss.contrastive_weight > 0)
    training = config.training.max_steps * (INSTRUCTION_S * instructions + PAIR_S * pairs)
    return training, training + START_S + SCORING_S * num_splits


def make_study(name: str = "mine", *, methods: Sequence[str] = ("mcl", "mit"), **fields: Any) -> StudyConfig:
    settings: dict[str, Any] = {
        "tune": {"training.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}},
        "seeds": (0, 1),
        "budget": {"trials": 4},
        "runtime": {"executor": "local"},
    }
    return StudyConfig(
        name=name, fixed={**FIXED, **fields.pop("fixed", {})}, compare={"method": tuple(methods)}, **settings | fields
    )


def plant(storage: Path, study: StudyConfig, trials: Sequence[tuple[str, str]], seconds: Seconds = price) -> StudyPaths:
    """Finished trials of a study, (arm, role) each, as they would have been left."""
    paths = StudyPaths(storage, study.name)
    arms = {arm.name: arm for arm in make_arms(study)}
    with Ledger.open(paths, study) as ledger:
        for number, (name, role) in enumerate(trials):
            params = {"training.learning_rate": 1e-4 * (number + 1)} if arms[name].tune else {}
            config = resolve(arms[name], params, number)
            splits = ("validation",) if role == "search" else ("validation", "test")
            training_s, whole_s = seconds(config, len(splits))
            identity = trial_id(config, {"planted": str(number)})
            common = {"trial_id": identity, "arm": name, "seed": number, "role": role, "attempt": 1}
            content = config.model_dump(mode="json")
            hours = whole_s / 3600
            result = TrialResult(
                trial_id=identity,
                config=content,
                splits=splits,
                scores=tuple(
                    Score(task="xnli", language="zh", split=split, metric="accuracy", value=0.5, n=9)
                    for split in splits
                ),
                training=TrainingSummary(steps=config.training.max_steps, seconds=training_s, gpu_hours=hours),
                environment={"device": "cpu planted"},
                seconds=whole_s,
            )
            write_json(paths.trial(identity).result, result.model_dump(mode="json"))
            ledger.append(LedgerEvent(time=1.0, state="PLANNED", **common, config=content, params=params))
            ledger.append(LedgerEvent(time=2.0, state="RUNNING", **common))
            ledger.append(LedgerEvent(time=3.0, state="DONE", **common, objective=0.5, splits=splits, gpu_hours=hours))
        ledger.close("budget: gpu_hours")
    return paths


@pytest.fixture(autouse=True)
def only_the_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks and overlap have their own tests; planted trials keep their ids."""
    monkeypatch.setattr("afp_ray.study.check_study", lambda _: Checked())
    monkeypatch.setattr("afp_ray.planning.plan.overlap_reports", lambda _: [])
    for name in ("_is_current", "plans"):
        monkeypatch.setattr(f"afp_ray.search.study_search.StudySearch.{name}", lambda *_: True)


def test_without_trials_there_is_no_estimate_and_the_probe_is_named(tmp_path: Path) -> None:
    answer = plan_study(make_study(), tmp_path)
    assert (answer.cost, answer.hours, answer.based_on) == (None, None, 0)
    assert any("--probe" in line and "mcl, mit" in line for line in answer.notes)


@pytest.mark.parametrize("gpus, precision, advised", [(1, "fp32", True), (1, "bf16", False), (0, "fp32", False)])
def test_bf16_is_advised_for_large_models_that_a_gpu_scores(
    gpus: int, precision: str, advised: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = replace(describe(ModelConfig()), num_layers=24, hidden_size=2048, vocab_size=50_000)  # 1.3 billion
    monkeypatch.setattr("afp_ray.planning.plan.describe", lambda _: shape)
    runtime = {"executor": "local", "gpus_per_worker": gpus}
    study = make_study(runtime=runtime, fixed={"evaluation.precision": precision})
    assert any("evaluation.precision: bf16" in line for line in plan_study(study, tmp_path).notes) is advised


def test_two_trials_tell_what_the_rest_costs(tmp_path: Path) -> None:
    study = make_study()
    plant(tmp_path, study, [("mcl", "search"), ("mit", "search")])
    answer = plan_study(study, tmp_path)
    assert answer.cost is not None
    real = 0.0
    for arm in make_arms(study):
        config = resolve(arm, {"training.learning_rate": 1e-4}, 0)
        real += 3 * price(config, 1)[1] + price(config, 2)[1] + START_S + SCORING_S  # search, confirm, test
    assert answer.cost.trial_hours[1] * 3600 == pytest.approx(real, rel=0.3)
    assert answer.cost.trial_hours[0] <= answer.cost.trial_hours[1] <= answer.cost.trial_hours[2]
    assert answer.cost.device_hours == answer.cost.trial_hours[1]
    assert (answer.cost.source, answer.cost.measured, answer.based_on) == ("trials", 2, 2)
    assert {arm.arm: arm.left for arm in answer.arms} == {"mcl": 4, "mit": 4}
    assert sum(arm.hours or 0 for arm in answer.arms) == pytest.approx(answer.cost.trial_hours[1])


def test_a_whole_confirmation_is_priced_from_another_and_not_from_a_search_trial(tmp_path: Path) -> None:
    study = make_study(methods=("mcl",))

    def long_test(config: TrialConfig, num_splits: int) -> tuple[float, float]:
        training, whole = price(config, num_splits)
        return training, whole + (100.0 if num_splits == 2 else 0.0)

    plant(tmp_path, study, [("mcl", "search"), ("mcl", "confirm")], long_test)
    costs = Costs(measured_trials(tmp_path, on_gpu=False))
    config = resolve(make_arms(study)[0], {}, 0)
    found = [costs.trial(config, splits) for splits in (1, 2)]
    assert [span.mid for span in found if span] == pytest.approx([long_test(config, splits)[1] for splits in (1, 2)])


def test_terms_that_were_not_measured_together_are_added_up(tmp_path: Path) -> None:
    plant(tmp_path, make_study(), [("mcl", "search"), ("mit", "search")])
    study = make_study("other", methods=("afp",))
    answer = plan_study(study, tmp_path)
    config = resolve(make_arms(study)[0], {}, 0)
    assert answer.arms[0].trial_s == pytest.approx(price(config, 1)[1], rel=1e-6)


@pytest.mark.parametrize("field, value", [("training.max_steps", 400), ("training.batch_size", 16)])
def test_more_steps_and_larger_batches_cost_in_proportion(tmp_path: Path, field: str, value: int) -> None:
    plant(tmp_path, make_study(), [("mit", "search"), ("mit", "search")])
    study = make_study("other", methods=("mit",), fixed={field: value})
    config = resolve(make_arms(study)[0], {}, 0)
    assert plan_study(study, tmp_path).arms[0].trial_s == pytest.approx(price(config, 1)[1], rel=1e-6)


@pytest.mark.parametrize("fixed", [{"model.name": "smollm2"}, {"evaluation.limit": 3}, {"evaluation.tasks": ["xcopa"]}])
def test_trials_of_another_model_or_evaluation_tell_nothing(tmp_path: Path, fixed: dict[str, Any]) -> None:
    plant(tmp_path, make_study(), [("mit", "search")])
    other = TrialConfig.model_validate({"model": {"name": "embedded"}})
    config = resolve(make_arms(make_study("other", methods=("mit",), fixed=fixed))[0], {}, 0)
    assert Costs(measured_trials(tmp_path, on_gpu=False)).trial(config, 1) is None
    assert Costs(measured_trials(tmp_path, on_gpu=True)).trial(other, 1) is None


def test_the_first_trial_of_a_process_does_not_make_all_others_dear(tmp_path: Path) -> None:
    study = make_study(methods=("mit",))
    calls: list[int] = []

    def cold(config: TrialConfig, num_splits: int) -> tuple[float, float]:
        calls.append(1)
        training, whole = price(config, num_splits)
        return training, whole + (20.0 if len(calls) == 1 else 0.0)

    plant(tmp_path, study, [("mit", "search"), ("mit", "search")], cold)
    answer = plan_study(study, tmp_path)
    config = resolve(make_arms(study)[0], {}, 0)
    assert answer.arms[0].trial_s == pytest.approx(price(config, 1)[1])
    assert answer.hours is not None
    assert answer.hours[1] > answer.hours[0]


def test_rungs_count_with_the_share_that_halving_expects(tmp_path: Path) -> None:
    whole = make_study(methods=("mit",), budget={"trials": 9}, seeds=(0,), fixed={"training.max_steps": 90})
    plant(tmp_path, make_study("before"), [("mit", "search"), ("mit", "search")])
    halved = whole.model_copy(update={"pruner": type(whole.pruner)(name="asha", factor=3)})
    costs = [plan_study(study, tmp_path) for study in (whole, halved)]
    config = resolve(make_arms(whole)[0], {}, 0)
    training, one = price(config, 1)
    # All train 10 of 90 steps, some go on to 30, fewer to the end; each stop is a scoring.
    numbers = make_ladder(halved, make_arms(halved)[0]).expected(9)
    share = sum(number * part for number, part in zip(numbers, (10, 20, 60), strict=True)) / 90
    rest = START_S + SCORING_S
    seconds = [cost.cost.trial_hours[1] * 3600 for cost in costs if cost.cost]
    assert seconds == pytest.approx([9 * one + rest, share * training + sum(numbers) * rest + rest])
    assert costs[1].arms[0].whole_share == pytest.approx(share / 9)
    assert share < 0.35 * 9
    assert any("rungs" in line for line in costs[1].notes)


@pytest.mark.parametrize(
    "budget, name, share",
    [
        ({"gpu_hours": 0.1}, "budget.gpu_hours", None),
        ({"wall_s": 60.0}, "budget.wall_s", None),
        ({"gpu_hours": 1e6, "wall_s": 1e9}, "", 1.0),
    ],
)
def test_the_budget_that_will_end_the_study_is_named(
    tmp_path: Path, budget: dict[str, float], name: str, share: float | None, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(tmp_path, make_study(), [("mcl", "search"), ("mit", "search")])
    study = make_study(budget={"trials": 4, **budget})
    cost = plan_study(study, tmp_path).cost
    assert cost is not None
    assert cost.stopped_by == name
    if share is not None:
        assert cost.stops_at is None
        return
    left = (0.1 - cost.spent_hours) / cost.device_hours if "gpu_hours" in budget else 60 / 3600 / cost.trial_hours[1]
    assert cost.stops_at == pytest.approx(left)
    file = tmp_path / "study.json"
    file.write_text(study.model_dump_json())
    assert cli.main(["plan", str(file), "--storage", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert f"CUT    {name} ends it after about {left:.0%}" in shown
    assert f"--set {name}=" in shown


def test_workers_share_steps_and_all_of_them_are_paid(tmp_path: Path) -> None:
    plant(tmp_path, make_study(), [("mit", "search"), ("mit", "search")])
    study = make_study("other", methods=("mit",), runtime={"executor": "ray", "workers_per_trial": 2})
    answer = plan_study(study, tmp_path)
    training, whole = price(resolve(make_arms(study)[0], {}, 0), 1)
    assert answer.arms[0].trial_s == pytest.approx(whole - training / 2)
    assert answer.cost is not None
    assert answer.cost.device_hours == pytest.approx(2 * answer.cost.trial_hours[1])


def test_the_local_executor_trains_in_one_worker_whatever_their_number(tmp_path: Path) -> None:
    plant(tmp_path, make_study(), [("mit", "search"), ("mit", "search")])
    study = make_study("other", methods=("mit",), runtime={"executor": "local", "workers_per_trial": 2})
    answer = plan_study(study, tmp_path)
    assert answer.arms[0].trial_s == pytest.approx(price(resolve(make_arms(study)[0], {}, 0), 1)[1])
    assert answer.cost is not None
    assert answer.cost.device_hours == pytest.approx(answer.cost.trial_hours[1])


@pytest.mark.parametrize(
    "runtime",
    [{"executor": "local"}, {"executor": "ray", "workers_per_trial": 4}],
    ids=["in this process", "in four workers"],
)
@pytest.mark.parametrize("says_so", [False, True], ids=["earlier result", "with its own numbers"])
def test_trials_that_were_restarted_are_priced_by_all_their_attempts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], runtime: dict[str, Any], says_so: bool
) -> None:
    workers = runtime.get("workers_per_trial", 1)
    measured = make_study(runtime={"executor": "local"} if says_so else runtime)  # adopted, perhaps: by its own numbers
    paths = plant(tmp_path, measured, [("mit", "search"), ("mit", "search")])
    for file in paths.trials.glob("*/result.json"):
        result = json.loads(file.read_text())
        training, rest = result["training"]["seconds"], result["seconds"] - result["training"]["seconds"]
        # Nine tenths of the steps were done by an attempt that was killed: its time is not in that of the last one.
        result["seconds"] = training / 10 / workers + rest
        result["training"] |= {"seconds": training / workers, "gpu_hours": (training + workers * rest) / 3600}
        if says_so:
            result["training"] |= {"training_hours": training / 3600, "workers": workers}
        file.write_text(json.dumps(result))
    study = make_study("other", methods=("mit",), runtime={"executor": "local"})
    file = tmp_path / "other.json"
    file.write_text(study.model_dump_json())
    assert cli.main(["plan", str(file), "--storage", str(tmp_path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["arms"][0]["trial_s"] == pytest.approx(price(resolve(make_arms(study)[0], {}, 0), 1)[1])


def test_trials_at_the_same_time_shorten_the_wait_alone(tmp_path: Path) -> None:
    plant(tmp_path, make_study(), [("mit", "search"), ("mit", "search")])
    one, four = (
        plan_study(make_study("other", methods=("mit",), runtime=runtime), tmp_path).cost
        for runtime in ({"executor": "local"}, {"executor": "ray", "concurrency": 4})
    )
    assert one is not None
    assert four is not None
    assert four.trial_hours == one.trial_hours
    assert four.wall_hours == pytest.approx((one.wall_hours or 0) / 4)


def test_the_answer_as_json_has_hours_by_arm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = make_study()
    plant(tmp_path, study, [("mcl", "search"), ("mit", "search")])
    file = tmp_path / "study.json"
    file.write_text(study.model_dump_json())
    assert cli.main(["plan", str(file), "--storage", str(tmp_path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert all(arm["hours"] > 0 and arm["left"] == 4 for arm in answer["arms"])
    assert answer["cost"]["trial_hours"][1] == pytest.approx(sum(arm["hours"] for arm in answer["arms"]))
    assert cli.main(["plan", str(file), "--storage", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "from 2 finished trials" in shown
    assert "device-hours" in shown


def test_a_probe_for_gpus_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(Exception, match="GPU") as caught:
        probe_trials([], on_gpu=True, num_threads=1)
    assert caught.type.__name__ == "ConfigError"


TINY = {**FIXED, "training.max_steps": 3, "evaluation.limit": 4, "data.num_instructions": 16, "data.num_pairs": 16}


def test_a_probe_measures_each_kind_of_trial_once_and_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "cache"))
    study = make_study(methods=("base", "mit", "cit"), fixed={**TINY, "evaluation.limit": 40})
    answer = plan_study(study, tmp_path / "runs", probe=True)
    assert answer.cost is not None
    assert (answer.cost.source, answer.cost.measured, answer.based_on) == ("probe", 1, 0)  # all three cost alike
    base, mit, cit = answer.arms
    assert mit.trial_s == pytest.approx(cit.trial_s)
    assert 0 < (base.hours or 0) < (mit.hours or 0)
    assert not (tmp_path / "runs").exists()


class NoProjection:
    """Stands for MLflow, which has its own tests."""

    @classmethod
    def to_mlflow(cls, *args: object) -> "NoProjection":
        return cls()

    def submit(self, *_: object) -> None:
        """Take no notice."""

    def close(self, **options: object) -> None:
        """Have nothing open."""


def run(study: StudyConfig, storage: Path, *arguments: str) -> int:
    file = storage.parent / f"{study.name}.json"
    file.write_text(study.model_dump_json())
    return cli.main(["run", str(file), "--storage", str(storage), *arguments])


@pytest.fixture
def no_mlflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("afp_ray.tracking.background.BackgroundProjector", NoProjection)
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("afp_ray.study.check_study", lambda _: Checked())


@pytest.mark.usefixtures("no_mlflow")
def test_a_spent_budget_ends_with_5_and_more_of_it_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = tmp_path / "runs"
    study = make_study(methods=("base", "mit"), tune={}, seeds=(0,), fixed=TINY)
    assert run(study, storage, "--set", "budget.gpu_hours=1.0e-9") == 5
    assert "--set budget.gpu_hours=2.0e-09" in capsys.readouterr().out
    assert cli.main(["status", "mine", "--storage", str(storage), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["DONE"] == 1
    calls = list(storage.glob("mine/trials/*/training_calls.jsonl"))
    assert cli.main(["resume", "mine", "--storage", str(storage), "--set", "budget.gpu_hours=5"]) == 0
    shown = capsys.readouterr().out
    assert "stopped" not in shown
    assert len(list(storage.glob("mine/trials/*/training_calls.jsonl"))) == len(calls) + 1
    assert all(len(file.read_text().splitlines()) == 1 for file in storage.glob("mine/trials/*/training_calls.jsonl"))
    kept = StudyConfig.model_validate_json((storage / "mine" / "study.json").read_bytes())
    assert kept.budget.gpu_hours == 5


@pytest.mark.usefixtures("no_mlflow")
def test_a_budget_of_wall_time_goes_on_by_itself_and_more_trials_are_another_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = tmp_path / "runs"
    study = make_study(methods=("base",), tune={}, seeds=(0,), fixed=TINY)
    assert run(study, storage, "--set", "budget.wall_s=1.0e-9") == 5
    assert "afp resume mine" in capsys.readouterr().out
    assert cli.main(["resume", "mine", "--storage", str(storage), "--set", "budget.trials=9"]) == 2
    shown = capsys.readouterr().err
    assert "budget.trials: 4 -> 9" in shown
    assert "--allow-drift" in shown
    assert cli.main(["resume", "mine", "--storage", str(storage), "--set", "budget.wall_s=1000"]) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("no_mlflow")
def test_two_real_trials_tell_the_cost_of_the_next_within_30_percent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials are measured in CPU seconds here: other work on the machine stretches the wall time of single ones."""
    monkeypatch.setattr(time, "perf_counter", time.process_time)
    off = []
    for attempt in range(3):
        storage = tmp_path / f"runs-{attempt}"
        fixed = {**FIXED, "training.max_steps": 60, "training.batch_size": 8, "evaluation.limit": 100}
        studies = [
            make_study(name, methods=("mit", "cit"), tune={}, seeds=seeds, fixed=fixed)
            for name, seeds in (("first", (0,)), ("next", (1, 2)))
        ]
        assert run(studies[0], storage) == 0
        cost = plan_study(studies[1], storage).cost
        assert cost is not None
        assert run(studies[1], storage) == 0
        found = measured_trials(storage, on_gpu=False)
        results = [
            TrialResult.model_validate_json(file.read_bytes()) for file in storage.glob("next/trials/*/result.json")
        ]
        assert (cost.measured, len(found), len(results)) == (2, 6, 4)
        real = sum(result.seconds for result in results) / 3600
        off.append(abs(cost.trial_hours[1] - real) / real)
        if off[-1] <= 0.3:
            return
    pytest.fail(f"estimates were off by {', '.join(f'{one:.0%}' for one in off)}")


def test_a_price_makes_money_of_the_hours_and_nothing_left_costs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_study()
    plant(tmp_path, study, [("mcl", "search"), ("mit", "search")])
    file = tmp_path / "study.json"
    file.write_text(study.model_dump_json())
    asked = ["plan", str(file), "--storage", str(tmp_path)]
    assert cli.main([*asked, "--price", "2.5", "--json"]) == 0
    cost = json.loads(capsys.readouterr().out)["cost"]
    assert cost["money"] == pytest.approx(2.5 * cost["device_hours"])
    assert cli.main([*asked, "--price", "2.5"]) == 0
    shown = capsys.readouterr().out
    assert f"device-hours, about {cost['money']:,.2f} at that price" in shown and "GPU-hours" not in shown
    assert cli.main([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cost"]["money"] is None
