"""What an MLflow run shows of one trial: tags, params, metrics and files, as a pure function of record and result."""

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from afp_ray.config import canonical_json, flatten
from afp_ray.records import Score, TrialRecord, TrialResult, TrialStatus

MAX_METRICS = 100
MAX_PARAM = 500
PROJECTION_VERSION = 1
_STATUS = {
    TrialStatus.PLANNED: "RUNNING",
    TrialStatus.RUNNING: "RUNNING",
    TrialStatus.DONE: "FINISHED",
    TrialStatus.FAILED: "FAILED",
    TrialStatus.PRUNED: "KILLED",
    TrialStatus.CANCELLED: "KILLED",
}
_SECRET = re.compile(r"(?<=//)[^/@\s\"]+@")
_NOT_ALLOWED = re.compile(r"[^\w\-. :/]")


@dataclass(frozen=True, slots=True)
class RunContent:
    """One MLflow run as it should be.

    Attributes:
        status: RUNNING, FINISHED, FAILED or KILLED.
        tags, params: text by name.
        metrics: finite numbers by name, at most `MAX_METRICS`.
        files: text by artifact path.
        datasets: digest by name.
        digest: hash of all of the above; an unchanged run is not written again.
    """

    status: str
    tags: dict[str, str]
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    datasets: dict[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Hash of the content, 16 hex digits."""
        parts = (self.status, self.tags, self.params, self.metrics, self.files, self.datasets, PROJECTION_VERSION)
        return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:16]


def run_content(study: str, trial: TrialRecord, result: TrialResult | None, *, is_driven: bool) -> RunContent:
    """The run of one trial.

    Args:
        study: name of the study.
        trial: its record.
        result: its stored result, None while there is none.
        is_driven: a driver is at work; without one, nothing is shown as running.
    """
    status = _STATUS[trial.status]
    if status == "RUNNING" and not is_driven:
        status = "KILLED"
    tags = {
        "afp.study": study,
        "afp.arm": trial.arm,
        "afp.trial_id": trial.trial_id,
        "afp.attempt": str(trial.attempt),
        "afp.status": str(trial.status),
        "afp.seed": str(trial.seed),
        "afp.role": trial.role,
        "mlflow.runName": f"{trial.arm} seed {trial.seed} {trial.trial_id[:6]}",
    }
    if trial.failure is not None:
        tags["afp.failure_class"] = str(trial.failure.failure_class)
        tags["afp.failure"] = trial.failure.message[:500]
    if trial.note:
        tags["afp.note"] = trial.note[:500]
    files = {"config.json": _json(trial.config)}
    metrics: dict[str, float] = {}
    if trial.objective is not None:
        metrics["objective"] = trial.objective
    if result is not None:
        metrics |= _metrics(result)
        files |= {"result.json": _json(result.model_dump(mode="json")), "scores.json": score_table(result.scores)}
        tags["mlflow.loggedArtifacts"] = json.dumps([{"path": "scores.json", "type": "table"}])
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    if lost := sorted(metrics.keys() - finite.keys()):
        tags["afp.not_finite"] = ", ".join(lost)
    return RunContent(
        status=status,
        tags={name: redact(value) for name, value in tags.items()},
        params=params_of(trial.config),
        metrics=dict(list(finite.items())[:MAX_METRICS]),
        files={name: redact(text) for name, text in files.items()},
        datasets=dict(result.fingerprints) if result else {},
    )


def params_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Fields of a config by dotted name; what is longer than `MAX_PARAM` is left to the file `config.json`."""
    params = {}
    for name, value in flatten(dict(config)).items():
        text = redact(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        params[_NOT_ALLOWED.sub("_", name)] = text if len(text) <= MAX_PARAM else "long: see config.json"
    return params


def score_table(scores: Iterable[Score]) -> str:
    """Every score as the JSON that MLflow shows as a table."""
    columns = list(Score.model_fields)
    rows = [[getattr(score, name) for name in columns] for score in scores]
    return _json({"columns": columns, "data": rows})


def _metrics(result: TrialResult) -> dict[str, float]:
    """Means per split, then per language, then per task, then costs; the full matrix is in the table."""
    groups: dict[str, list[float]] = defaultdict(list)
    pivot = result.config.get("data", {}).get("pivot", "en")
    for score in result.scores:
        metric = score.metric.replace("@", "_at_")
        if score.task == "retrieval":
            groups[f"{metric}/{score.split}"].append(score.value)
            continue
        if not score.is_main:
            groups[f"task/{score.task}/{metric}/{score.split}"].append(score.value)
            continue
        name = "pivot_mean" if score.language == pivot else "mean"
        groups[f"{name}/{score.split}"].append(score.value)
        groups[f"language/{score.language}/{score.split}"].append(score.value)
        groups[f"task/{score.task}/{score.split}"].append(score.value)
    order = ("mean", "pivot_mean", "retrieval_at_1", "alignment", "uniformity", "task", "language")
    names = sorted(groups, key=lambda name: (order.index(name.split("/")[0]), name))
    metrics = {_NOT_ALLOWED.sub("_", name): math.fsum(groups[name]) / len(groups[name]) for name in names}
    training = result.training.model_dump(exclude_none=True)
    costs = {f"training/{name}": float(value) for name, value in training.items() if isinstance(value, int | float)}
    return {**costs, "seconds": result.seconds, **metrics}


def redact(text: str) -> str:
    """`text` without the user and password of a URL."""
    return _SECRET.sub("***@", text)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, sort_keys=False)
