"""A finished study on disk without any training: ledger, results and predictions with planted accuracies."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from afp_ray.config import StudyConfig, TrialConfig, nest, trial_id
from afp_ray.evaluation.predictions import Prediction, write_predictions
from afp_ray.evaluation.projection import gather_states, write_states
from afp_ray.ledger import Ledger
from afp_ray.methods import METHODS
from afp_ray.records import (
    Failure,
    FailureClass,
    LayerMetrics,
    LedgerEvent,
    Score,
    TrainingSummary,
    TrialResult,
    TrialStatus,
)
from afp_ray.store import StudyPaths, write_json

LANGUAGES = ("zh", "sw")
TASKS = ("xcopa", "xnli")
FINGERPRINTS = {"model": "m" * 16, "data": "d" * 16, "evaluation": "e" * 16, "heldout": "h" * 16}
ACCURACY = {"base": 0.5, "mcl": 0.52, "afp": 0.7}


def make_study(
    name: str = "demo", *, methods: Sequence[str] = ("base", "mcl", "afp"), seeds: Sequence[int] = (0, 1)
) -> StudyConfig:
    return StudyConfig(
        name=name,
        description="planted <script>alert(1)</script> & more_than 100 %",
        fixed={"data.languages": list(LANGUAGES), "evaluation.tasks": list(TASKS), "training.max_steps": 5},
        compare={"method": tuple(methods)},
        seeds=tuple(seeds),
    )


def make_config(study: StudyConfig, method: str, seed: int, params: Mapping[str, Any] = {}) -> TrialConfig:
    fields = {**study.fixed, "method": method, "seed": seed, **params, **METHODS[method]}
    return TrialConfig.model_validate(nest(fields))


def predictions(method: str, seed: int, split: str, accuracy: float, *, rows: int = 60) -> list[Prediction]:
    """Answers whose contents are hard or easy alike for every arm; a better arm gets more contents right."""
    found = []
    for task in TASKS:
        for language in ("en", *LANGUAGES):
            for row in range(rows):
                content = f"{split}-{row}"
                difficulty = random.Random(f"{task}{language}{content}").random()
                noise = random.Random(f"{method}{seed}{task}{language}{content}").random() * 0.1 - 0.05
                correct = difficulty + noise < accuracy
                found.append(
                    Prediction(
                        task, language, 0, 0, f"{task}-{content}", content, 0, 0 if correct else 1, correct, (0.0, -1.0)
                    )
                )
    return found


def make_scores(answers: Sequence[Prediction], split: str) -> list[Score]:
    cells: dict[tuple[str, str], list[bool]] = {}
    for answer in answers:
        cells.setdefault((answer.task, answer.language), []).append(answer.correct)
    scores = [
        Score(task=task, language=code, split=split, metric="accuracy", value=sum(row) / len(row), n=len(row))  # type: ignore[arg-type]
        for (task, code), row in cells.items()
    ]
    return scores


def make_layers(split: str, retrieval: float) -> list[LayerMetrics]:
    return [
        LayerMetrics(
            split=split, language=code, layer=layer, pooling="mean", n=50,  # type: ignore[arg-type]
            retrieval_at_1=retrieval - 0.1 * layer, alignment=1 - retrieval, uniformity=-2.0,
        )
        for code in LANGUAGES
        for layer in (0, 1)
    ]  # fmt: skip


def make_summary(config: TrialConfig) -> TrainingSummary:
    """Each trial holds a quarter of an hour: a trained one twelve minutes for its steps, base all of it for scoring."""
    if config.training.max_steps == 0:
        return TrainingSummary(steps=0, gpu_hours=0.25)
    return TrainingSummary(steps=5, tokens=100, seconds=720.0, gpu_hours=0.25, contrastive_loss=1.5)


def make_result(
    config: TrialConfig, identity: str, folder: Path, *, accuracy: float, splits: Sequence[str]
) -> TrialResult:
    scores: list[Score] = []
    layers: list[LayerMetrics] = []
    for split in splits:
        answers = predictions(config.method, config.seed, split, accuracy)
        write_predictions(answers, folder / "predictions" / f"{split}.parquet")
        scores += make_scores(answers, split)
        layers += make_layers(split, min(1.0, accuracy))  # a share, whatever is planted
        scores += [
            Score(task="retrieval", language=code, split=split, metric=metric, value=value, n=50)  # type: ignore[arg-type]
            for code in LANGUAGES
            for metric, value in (("retrieval@1", accuracy), ("alignment", 1 - accuracy), ("uniformity", -2.0))
        ]
    result = TrialResult(
        trial_id=identity,
        config=config.model_dump(mode="json"),
        splits=tuple(splits),
        scores=tuple(scores),
        layers=tuple(layers),
        training=make_summary(config),
        predictions={split: f"predictions/{split}.parquet" for split in splits},
        fingerprints=FINGERPRINTS,
        environment={"torch": "0"},
        seconds=900.0,
    )
    write_json(folder / "config.json", result.config)
    write_json(folder / "result.json", result.model_dump(mode="json"))
    return result


def event(ledger: Ledger, state: str, time: float, **fields: Any) -> None:
    ledger.append(LedgerEvent(time=time, state=state, attempt=fields.pop("attempt", 1), **fields))


def fabricate(
    storage: Path,
    name: str = "demo",
    *,
    methods: Sequence[str] = ("base", "mcl", "afp"),
    seeds: Sequence[int] = (0, 1),
    accuracy: Mapping[str, float] = ACCURACY,
    with_failure: bool = True,
    closed: str | None = "complete",
    study: StudyConfig | None = None,
    num_instructions: Sequence[int] = (),
) -> StudyPaths:
    """Write a study under `storage`; `closed=None` leaves it as a kill would.

    With `num_instructions` every trained method is an arm of each amount, whose accuracy is that of "method amount".
    """
    study = study or make_study(name, methods=methods, seeds=seeds)
    paths = StudyPaths(storage, study.name)
    ledger = Ledger.open(paths, study)
    clock = 1_700_000_000.0
    arms: dict[str, tuple[str, dict[str, Any]]] = {}
    for method in methods:
        amounts = num_instructions if method != "base" else ()
        for amount in amounts:
            params = {"data.num_instructions": amount, **({} if amount else {"loss.instruction_weight": 0.0})}
            arms[f"{method} {amount}"] = method, params
        arms |= {} if amounts else {method: (method, {})}
    for arm, (method, params) in arms.items():
        for seed in (0,) if method == "base" else seeds:
            config = make_config(study, method, seed, params)
            identity = trial_id(config, FINGERPRINTS)
            common = {"trial_id": identity, "arm": arm, "seed": seed, "role": "confirm"}
            event(ledger, TrialStatus.PLANNED, clock, **common, config=config.model_dump(mode="json"))
            event(ledger, TrialStatus.RUNNING, clock + 1, **common)
            folder = paths.trial(identity).folder
            make_result(config, identity, folder, accuracy=accuracy[arm], splits=("validation", "test"))
            event(
                ledger, TrialStatus.DONE, clock + 5, **common,
                objective=accuracy[arm], splits=("validation", "test"), gpu_hours=0.25,
            )  # fmt: skip
            clock += 10
    if with_failure:
        config = make_config(study, "afp", 99)
        common = {"trial_id": "f" * 16, "arm": "afp", "seed": 99, "role": "search"}
        event(ledger, TrialStatus.PLANNED, clock, **common, config=config.model_dump(mode="json"))
        event(ledger, TrialStatus.RUNNING, clock + 1, **common)
        failure = Failure(
            failure_class=FailureClass.DIVERGED, message="diverged <b>at</b> step 3: loss nan", traceback="T"
        )
        event(ledger, TrialStatus.FAILED, clock + 2, **common, failure=failure)
    if closed is None:
        ledger.release()
    else:
        ledger.close(closed)
    return paths


def leave_running(paths: StudyPaths) -> str:
    """Add a trial that a killed driver left running; returns its id."""
    study = StudyConfig.model_validate_json(paths.study.read_bytes())
    ledger = Ledger.open(paths, study)
    config = make_config(study, "afp", 7)
    common = {"trial_id": "a" * 16, "arm": "afp", "seed": 7, "role": "confirm"}
    event(ledger, TrialStatus.PLANNED, 1_700_001_000.0, **common, config=config.model_dump(mode="json"))
    event(ledger, TrialStatus.RUNNING, 1_700_001_001.0, **common)
    ledger.release()
    return "a" * 16


def make_states(offset: float, languages: list[str]) -> dict[tuple[int, str], np.ndarray]:
    """Each language at a place of its own, `offset` further along the direction in which base is widest."""
    draws = np.random.default_rng(0)
    states = draws.normal(size=(len(languages), 6)) * 0.01
    states[:, 2] += [3.0 * (language == "zh") + offset for language in languages]
    return {(layer, "mean"): states + layer for layer in (0, 1)}


def add_representation(paths: StudyPaths) -> None:
    """Give the results of a fabricated study what the newest ones hold."""
    languages = ["en", "zh", "sw"] * 8
    for file in paths.trials.glob("*/result.json"):
        content = json.loads(file.read_text())
        method = content["config"]["method"]
        step = {"base": 0.0, "mcl": 0.1, "afp": 0.2}[method]
        for row in content["layers"]:
            row |= {"retrieval_from_pivot": 0.4 + step, "retrieval_to_pivot": 0.2 + step, "anisotropy": 0.9 - step}
            row |= {"language_probe": 1 - step - 0.1 * row["layer"], "language_probe_chance": 1 / 3}
        file.write_text(json.dumps(content))
        for split in ("validation", "test"):
            kept = gather_states(make_states(10 * step, languages), languages, (0, "mean"))
            write_states(kept, file.parent / "representation" / f"{split}.safetensors")


def add_curves(paths: StudyPaths) -> None:
    """Give every trained trial of a fabricated study a curve."""
    for file in paths.trials.glob("*/config.json"):
        if json.loads(file.read_text())["training"]["max_steps"]:
            rows = [
                {"step": step, "contrastive_loss": 9.0 / step, "instruction_loss": 4.0 / step, "gradient_norm": 1.0}
                for step in range(1, 6)
            ]
            (file.parent / "training.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


__all__ = ["add_curves", "add_representation", "fabricate", "leave_running", "make_config", "make_states", "make_study"]
