"""What an MLflow run shows of one trial: tags, params, metrics and files, as a pure function of record and result."""

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, TypeAlias

from afp_ray.config import canonical_json, flatten
from afp_ray.records import IncompleteScores, MissingScore, Score, TrialRecord, TrialResult, TrialStatus, Until
from afp_ray.redaction import redact, redact_json

MAX_METRICS = 100
MAX_PARAM = 500
MAX_NAME, MAX_TAG = 250, 5_000
RUN_NAME, DESCRIPTION, FORM = "mlflow.runName", "mlflow.note.content", "afp.form"
PROJECTION_VERSION = 3
"""Raised whenever the same ledger gives other runs: those of another form are then written anew."""
MAX_POINTS = 100
"""Of one curve, evenly over the steps of the training; all curves of a run and its metrics fit one request."""
CURVES = ("contrastive_loss", "instruction_loss", "gradient_norm", "gradient_cosine")
"""Of the metrics of a step, those that are shown by step."""
CONFIRMED = "confirm"
Point: TypeAlias = tuple[str, int, float]
"""Name, step and value."""
_STATUS = {
    TrialStatus.PLANNED: "RUNNING",
    TrialStatus.RUNNING: "RUNNING",
    TrialStatus.PAUSED: "RUNNING",  # a later job may go on with it
    TrialStatus.DONE: "FINISHED",
    TrialStatus.FAILED: "FAILED",
    TrialStatus.PRUNED: "KILLED",
    TrialStatus.CANCELLED: "KILLED",
}
_NOT_ALLOWED = re.compile(r"[^\w\-. :/]")


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that a trial read.

    Attributes:
        name: where they come from and in which languages.
        digest: of their content.
        context: what they were read for.
    """

    name: str
    digest: str
    context: str


@dataclass(frozen=True, slots=True)
class RunContent:
    """One MLflow run as it should be.

    Attributes:
        status: RUNNING, FINISHED, FAILED or KILLED.
        tags, params: text by name.
        metrics: finite numbers by name, at most `MAX_METRICS`.
        step: at which they were measured; after every step of `series`.
        series: what was measured on the way.
        curves: what the training wrote by step.
        files: text by artifact path.
        datasets: rows that it read.
        digest: hash of all of the above; an unchanged run is not written again.
    """

    status: str
    tags: dict[str, str]
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    datasets: tuple[Rows, ...] = ()
    step: int = 0
    series: tuple[Point, ...] = ()
    curves: tuple[Point, ...] = ()

    @property
    def digest(self) -> str:
        """Hash of the content, 16 hex digits."""
        what = (self.status, self.tags, self.params, self.metrics, self.files, self.step, self.series, self.curves)
        parts = (*what, [astuple(rows) for rows in self.datasets], PROJECTION_VERSION)
        return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:16]


def run_content(
    study: str,
    trial: TrialRecord,
    result: TrialResult | None,
    *,
    is_driven: bool,
    rungs: Sequence[Until] = (),
    failures: Mapping[str, str] = {},
    incomplete: IncompleteScores | None = None,
    curve: Iterable[Mapping[str, Any]] = (),
) -> RunContent:
    """The run of one trial.

    Args:
        study: name of the study.
        trial: its record.
        result: its stored result, None while there is none.
        is_driven: a driver is at work; without one, nothing is shown as running.
        rungs: where its training was measured on the way, one for each of the record's.
        failures: tracebacks of its attempts, by name of the file.
        incomplete: what a trial scored that failed because it could not score everything.
        curve: rows of its training, by step.
    """
    status = _STATUS[trial.status]
    if status == "RUNNING" and not is_driven:
        status = "KILLED"
    tags = _tags(study, trial)
    files = {"config.json": _json(trial.config), **failures}
    metrics: dict[str, float] = {}
    if trial.objective is not None:
        metrics["objective"] = trial.objective
    metrics |= {f"also/{name}": value for name, value in trial.values.items()}
    if result is not None:
        metrics |= _metrics(result, is_confirmed=tags["afp.role"] == CONFIRMED)
        files["result.json"] = _json(result.model_dump(mode="json"))
    elif incomplete is not None:
        pivot = trial.config.get("data", {}).get("pivot", "en")
        metrics |= _score_metrics(incomplete.scores, pivot, incomplete.missing)
        files["incomplete.json"] = _json(incomplete.model_dump(mode="json"))
        tags["afp.missing"] = ", ".join(f"{score.task}/{score.language}/{score.split}" for score in incomplete.missing)
    if (scored := result or incomplete) is not None:
        files["scores.json"] = score_table(scored.scores)
        tags["mlflow.loggedArtifacts"] = json.dumps([{"path": "scores.json", "type": "table"}])
    finite = {safe_name(name): value for name, value in metrics.items() if math.isfinite(value)}
    if lost := sorted(name for name, value in metrics.items() if not math.isfinite(value)):
        tags["afp.not_finite"] = ", ".join(lost)
    curves = _points(curve, int(trial.config.get("training", {}).get("max_steps", 0)))
    num_shown = MAX_METRICS - len({name for name, _, _ in curves})
    if len(finite) > num_shown:
        tags["afp.metrics_in_table_only"] = str(len(finite) - num_shown)
    measured = zip(rungs, trial.rungs, strict=False)
    series = tuple(("objective", rung.amount, value) for rung, value in measured if math.isfinite(value))
    return RunContent(
        status=status,
        tags={safe_name(name): redact(value)[:MAX_TAG] for name, value in tags.items()},
        params=params_of(trial.config),
        metrics=dict(list(finite.items())[:num_shown]),
        files={name: redact_json(text) if name.endswith(".json") else redact(text) for name, text in files.items()},
        datasets=tuple(_rows_read(result)) if result else (),
        step=_last_step(series, result, rungs),
        series=series,
        curves=tuple(curves),
    )


def _tags(study: str, trial: TrialRecord) -> dict[str, str]:
    tags = {
        "afp.study": study,
        "afp.kind": "trial",
        "afp.arm": trial.arm,
        "afp.trial_id": trial.trial_id,
        "afp.attempt": str(trial.attempt),
        "afp.status": str(trial.status),
        "afp.seed": str(trial.seed),
        "afp.role": CONFIRMED if "test" in trial.splits else trial.role,  # the best of a search confirms its arm
        FORM: str(PROJECTION_VERSION),
        RUN_NAME: run_name(trial),
        DESCRIPTION: _description(trial),
    }
    if trial.failure is not None:
        tags["afp.failure_class"] = str(trial.failure.failure_class)
        tags["afp.failure"] = redact(trial.failure.message)[:500]
    if trial.note:
        tags["afp.note"] = redact(trial.note)[:500]
    if trial.rungs:
        tags["afp.rungs"] = str(len(trial.rungs))
    return tags


def run_name(trial: TrialRecord) -> str:
    """How the run of a trial is called."""
    return f"{trial.arm} seed {trial.seed} {trial.trial_id[:4]}"


def earlier_name(trial: TrialRecord) -> str:
    """How it was called in the form before this one."""
    return f"{trial.arm} seed {trial.seed} {trial.trial_id[:6]}"


def _description(trial: TrialRecord) -> str:
    """What the trial is, in a few lines of Markdown."""
    lines = [f"Arm **{trial.arm}** at seed {trial.seed}, {trial.status}."]
    if trial.objective is not None and math.isfinite(trial.objective):
        lines[0] += f" Objective {trial.objective:.4f} on validation."
    if trial.failure is not None:
        lines.append(f"{trial.failure.failure_class}: {trial.failure.message}")
    if trial.params:
        sampled = (f"`{name}` {_short(value)}" for name, value in trial.params.items())
        lines.append(f"Searched: {', '.join(sampled)}.")
    lines.append(f"`afp show {trial.trial_id}` has the rest.")
    return "\n\n".join(lines)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _points(curve: Iterable[Mapping[str, Any]], max_steps: int) -> list[Point]:
    """At most `MAX_POINTS` of each curve, at the first step of each part of the training and at its last one.

    Which steps they are depends on the training alone, and not on how far it is: what a trial shows that goes on later
    stays as it is.
    """
    points: list[Point] = []
    parts: set[tuple[str, int]] = set()
    for row in curve:
        step = row["step"]
        part = (step - 1) * (MAX_POINTS - 1) // max(max_steps - 1, 1)  # the last one holds the last step alone
        for name in CURVES:
            value = row.get(name)
            if (name, part) in parts or not isinstance(value, int | float) or not math.isfinite(value):
                continue
            parts.add((name, part))
            points.append((f"curve/{name}", step, float(value)))
    return sorted(points)


def _rows_read(result: TrialResult) -> Iterable[Rows]:
    """The data sets behind a trial, each named by what it is."""
    data, evaluation = result.config["data"], result.config["evaluation"]
    digests, pivot, languages = result.fingerprints, data["pivot"], data["languages"]
    if digests.get("data"):
        sources = ", ".join(dict.fromkeys(_source_name(source) for source in data["sources"]))
        yield Rows(f"{sources}: {pivot} with {' '.join(languages)}"[:MAX_NAME], digests["data"], "training")
    if digests.get("evaluation"):
        where = "embedded" if evaluation["data_dir"] is None else str(evaluation["data_dir"]).rstrip("/").split("/")[-1]
        spoken = " ".join(evaluation["languages"] or [pivot, *languages])
        tasks = " ".join([*evaluation["tasks"], *evaluation.get("own_tasks", ())]) or "no task"
        yield Rows(f"{where}: {tasks} in {spoken}"[:MAX_NAME], digests["evaluation"], "evaluation")
    if digests.get("heldout"):
        source = _source_name(evaluation["representation"]["source"])
        yield Rows(f"{source}: held-out pairs"[:MAX_NAME], digests["heldout"], "retrieval")


def _source_name(source: Mapping[str, Any]) -> str:
    """Kind of a source, and the last part of its path."""
    path = str(source.get("path") or "").rstrip("/").split("/")[-1]
    return redact(f"{source['kind']} {path}".strip())


def _last_step(series: Sequence[tuple[str, int, float]], result: TrialResult | None, rungs: Sequence[Until]) -> int:
    """The step of what was measured at the end, in the unit of the rungs; 0 where there were none."""
    if not series:
        return 0
    last = max(step for _, step, _ in series)
    done = {"steps": result.training.steps, "tokens": result.training.tokens} if result else {}
    return max(last + 1, done.get(rungs[0].unit, 0))


def safe_name(name: str) -> str:
    """`name` as MLflow takes it for a metric, param or tag: letters, digits, `_-. :/`, no empty or dotted part."""
    clean = _NOT_ALLOWED.sub("_", name)
    clean = "/".join("_" if part in ("", ".", "..") else part for part in clean.split("/"))
    if len(clean) <= MAX_NAME:
        return clean
    return f"{clean[: MAX_NAME - 9].rstrip('/')}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def params_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Fields of a config by dotted name; what is longer than `MAX_PARAM` is left to the file `config.json`."""
    params = {}
    for name, value in flatten(dict(config)).items():
        text = redact(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        params[safe_name(name)] = text if len(text) <= MAX_PARAM else "long: see config.json"
    return params


def score_table(scores: Iterable[Score]) -> str:
    """Every score as the JSON that MLflow shows as a table."""
    columns = list(Score.model_fields)
    rows = [[getattr(score, name) for name in columns] for score in scores]
    return _json({"columns": columns, "data": rows})


def _metrics(result: TrialResult, *, is_confirmed: bool) -> dict[str, float]:
    """Costs, the means of the scores, and of a confirmed trial every task and language on test."""
    training = result.training.model_dump(exclude_none=True)
    costs = {f"training/{name}": float(value) for name, value in training.items() if isinstance(value, int | float)}
    pivot = result.config.get("data", {}).get("pivot", "en")
    cells = _cell_metrics(result.scores) if is_confirmed else {}
    return {**costs, "seconds": result.seconds, **_score_metrics(result.scores, pivot), **cells}


def _cell_metrics(scores: Iterable[Score]) -> dict[str, float]:
    """Each task in each language on test, mean over numbers of shots."""
    cells: dict[str, list[float]] = defaultdict(list)
    for score in scores:
        if score.is_main and score.split == "test":
            cells[f"test/{score.task}/{score.language}"].append(score.value)
    return {safe_name(name): math.fsum(values) / len(values) for name, values in cells.items()}


def _score_metrics(scores: Iterable[Score], pivot: str, missing: Sequence[MissingScore] = ()) -> dict[str, float]:
    """Means per split, then per task, then per language; the full matrix is in the table.

    There is none of a set of which a part is missing.
    """
    groups: dict[str, list[float]] = defaultdict(list)
    for score in scores:
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
    for absent in missing:
        mean = "pivot_mean" if absent.language == pivot else "mean"
        without = {f"{mean}/{absent.split}", f"language/{absent.language}/{absent.split}"}
        without |= {name for name in groups if name.startswith(f"task/{absent.task}/") and name.endswith(absent.split)}
        groups = {name: values for name, values in groups.items() if name not in without}
    names = sorted(groups, key=lambda name: (order.index(name.split("/")[0]), name))
    return {safe_name(name): math.fsum(groups[name]) / len(groups[name]) for name in names}


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, sort_keys=False)
