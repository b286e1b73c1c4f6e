"""The view that a study's runs open with in MLflow: columns and order of the table, and charts of scores and curves.

MLflow's page reads it from a tag of the experiment; names of fields are those of the state that the page keeps of
itself, as seen in mlflow 3.17.
"""

import json
from typing import Any

from afp_ray.config import StudyConfig
from afp_ray.tracking.location import VIEW
from afp_ray.tracking.run_content import CURVES

VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
MAX_SEARCHED = 6
"""Searched fields that have a column."""
_MAX_RUNS = 20
"""Runs that a chart shows at first."""
_SCORES = ("mean/test", "pivot_mean/test", "retrieval_at_1/test")


def view_state(study: StudyConfig) -> str:
    """State of the page of runs, as JSON: what a study is compared by, the best objective first."""
    columns = [f"tags.`{name}`" for name in ("afp.arm", "afp.seed", "afp.role")]
    columns += [f"metrics.`{name}`" for name in ("objective", *_SCORES, "training/training_hours")]
    columns += [f"params.`{name}`" for name in list(study.tune)[:MAX_SEARCHED]]
    state = {
        "orderByKey": "metrics.`objective`",
        "orderByAsc": study.objective.direction == "minimize",
        "selectedColumns": columns,
        "runsHiddenMode": f"FIRST_{_MAX_RUNS}_RUNS",
        "isAccordionReordered": True,  # else the page puts sections in the order of their names
        "compareRunSections": [_section("scores", "Scores on test"), _section("curves", "Training by step")],
        "compareRunCharts": [*_score_charts(), *(_curve(name) for name in CURVES)],
    }
    return json.dumps(state, separators=(",", ":"))


def _section(uuid: str, name: str) -> dict[str, Any]:
    return {"uuid": uuid, "name": name, "display": True, "isReordered": True, "deleted": False, "isGenerated": False}


def _score_charts() -> list[dict[str, Any]]:
    """A bar of each score, and what the pivot language loses against what the others gain."""
    bars = [_chart("BAR", name, "scores", name, runsCountToCompare=_MAX_RUNS) for name in ("objective", *_SCORES)]
    axes = {
        f"{axis}axis": {"key": name, "type": "METRIC"}
        for axis, name in zip("xy", ("pivot_mean/test", "mean/test"), strict=True)
    }
    return [*bars, _chart("SCATTER", "price", "scores", "", runsCountToCompare=100, **axes)]


def _curve(name: str) -> dict[str, Any]:
    fields = {"xAxisKey": "step", "xAxisScaleType": "linear", "scaleType": "linear", "range": {}, "lineSmoothness": 0}
    fields |= {"selectedXAxisMetricKey": "", "yAxisKey": "metric", "yAxisExpressions": [], "ignoreOutliers": False}
    fields |= {"useGlobalXaxisKey": True, "useGlobalLineSmoothing": True, "runsCountToCompare": _MAX_RUNS}
    return _chart("LINE", name, "curves", f"curve/{name}", **fields)


def _chart(kind: str, uuid: str, section: str, metric: str, **fields: Any) -> dict[str, Any]:
    chart = {"uuid": f"afp-{uuid}", "type": kind, "metricSectionId": section, "deleted": False, "isGenerated": False}
    return {**chart, **({"metricKey": metric} if metric else {}), **fields}
