"""What MLflow shows of a study as a whole: its own run, and what its experiment says."""

import hashlib
import json
from collections.abc import Mapping

from afp_ray.config import StudyConfig
from afp_ray.records import ArmRow, CloseReason, Comparison, StudyState, TrialStatus
from afp_ray.redaction import redact, redact_json
from afp_ray.tracking.run_content import (
    DESCRIPTION,
    FORM,
    MAX_METRICS,
    MAX_TAG,
    PROJECTION_VERSION,
    RUN_NAME,
    RunContent,
    params_of,
    safe_name,
)
from afp_ray.tracking.view import VIEW_TAG, view_state

KIND = "study"
"""Value of `afp.kind` of the study's own run; that of its trials is `trial`."""
EDITED = "afp.description"
"""Tag with a hash of the description that was written: one that differs from it was written by hand."""
FINISHED = {
    CloseReason.COMPLETE: "FINISHED",
    CloseReason.BUDGET: "FINISHED",
    CloseReason.INTERRUPTED: "KILLED",
    CloseReason.ERROR: "FAILED",
}
"""MLflow's word for why a study was closed."""


def study_content(
    study: StudyConfig,
    state: StudyState,
    *,
    is_driven: bool,
    comparison: Comparison | None = None,
    files: Mapping[str, str] = {},
) -> RunContent:
    """The run of the study itself: what was asked, how far it is, what came of it, and the report.

    Args:
        study: as it was first run.
        state: of its ledger.
        is_driven: a driver is at work.
        comparison: its table; None while there is none.
        files: report and tables, by name.
    """
    counts = {str(status): 0 for status in TrialStatus}
    for trial in state.trials:
        counts[str(trial.status)] += 1
    finished = FINISHED[state.ended.reason] if state.ended else "KILLED"
    fields = study.model_dump(mode="json")
    arms = comparison.arms if comparison is not None else ()
    tags = {
        "afp.study": study.name,
        "afp.kind": KIND,
        "afp.status": state.closed or ("RUNNING" if is_driven else "INTERRUPTED"),
        "afp.trials": ", ".join(f"{count} {name}" for name, count in counts.items() if count),
        FORM: str(PROJECTION_VERSION),
        RUN_NAME: run_name(study),
        DESCRIPTION: description(study, comparison),
        **{f"afp.verdict/{arm.arm}": arm.verdict for arm in arms if not arm.is_base},
    }
    metrics = {name: value for arm in arms for name, value in _arm_metrics(arm, comparison).items()}
    content = {"study.json": json.dumps(fields, indent=1, ensure_ascii=False), **files}
    return RunContent(
        status="RUNNING" if is_driven else finished,
        tags={safe_name(name): redact(text)[:MAX_TAG] for name, text in tags.items() if text},
        params=params_of({key: fields[key] for key in ("objective", "seeds", "sampler", "pruner", "budget")}),
        metrics=dict(list(metrics.items())[:MAX_METRICS]),
        files={name: redact_json(text) if name.endswith(".json") else redact(text) for name, text in content.items()},
    )


def run_name(study: StudyConfig) -> str:
    """How the study's own run is called, beside those of its trials."""
    return f"study {study.name}"


def earlier_name(study: StudyConfig) -> str:
    """How it was called in the form before this one."""
    return study.name


def _arm_metrics(arm: ArmRow, comparison: Comparison | None) -> dict[str, float]:
    """Score, difference to base and retrieval of one arm, on the split of the table."""
    values: dict[str, float | None] = {"validation": arm.validation}
    for name, cell in (("mean", arm.mean), ("pivot_mean", arm.pivot_mean)):
        delta = cell.vs_base if cell is not None else None
        values |= {name: cell.mean if cell is not None else None, f"{name}_delta": delta.delta if delta else None}
    rows = comparison.representation if comparison is not None else ()
    of_arm = (row.retrieval_at_1 for row in rows if row.arm == arm.arm and not row.language)
    values["retrieval_at_1"] = next(of_arm, None)
    return {safe_name(f"arm_{name}/{arm.arm}"): value for name, value in values.items() if value is not None}


def description(study: StudyConfig, comparison: Comparison | None) -> str:
    """What came of a study and what it asked, as Markdown; the page shows the first line alone at first."""
    headline = comparison.headline if comparison is not None else None
    parts = [f"**{headline.text}**" if headline is not None else "", study.description]
    if comparison is not None:
        parts.append("\n".join(f"- {arm.arm}: {arm.verdict}" for arm in comparison.arms if not arm.is_base))
    parts.append(f"`afp compare {study.name}` shows the table; the run *{run_name(study)}* has the report.")
    return redact("\n\n".join(part for part in parts if part))[:MAX_TAG]


def experiment_tags(study: StudyConfig, comparison: Comparison | None) -> dict[str, str]:
    """What the experiment says of the study, and the view that its link opens."""
    return {DESCRIPTION: description(study, comparison), VIEW_TAG: view_state(study)}


def is_edited(tags: Mapping[str, str]) -> bool:
    """Whether somebody has written the description by hand since it was last written here."""
    written = tags.get(EDITED)
    return DESCRIPTION in tags and (written is None or written != description_hash(tags[DESCRIPTION]))


def description_hash(text: str) -> str:
    """What `EDITED` holds for a description."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
