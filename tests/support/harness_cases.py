"""lm-evaluation-harness on rows in memory: its own task files, its own prompts, its own scores."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from afp_ray.evaluation.task import Row

FOLDERS = {"xnli": "xnli", "pawsx": "paws-x", "xcopa": "xcopa", "xstorycloze": "xstorycloze", "xwinograd": "xwinograd"}
PREFIXES = {
    "xnli": "xnli_",
    "pawsx": "paws_",
    "xcopa": "default_",
    "xstorycloze": "default_",
    "xwinograd": "xwinograd_",
}
_STORY = {
    **{f"input_sentence_{number}": f"InputSentence{number}" for number in range(1, 5)},
    **{f"sentence_quiz{number}": f"RandomFifthSentenceQuiz{number}" for number in (1, 2)},
}


def task_folder() -> Path:
    """The harness' task files; skips where it is not installed."""
    harness = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    return Path(harness.__file__).parent / "tasks"


def task_file(task: str, language: str) -> Path:
    """The file of `task` in `language`; English XCOPA is COPA there."""
    if (task, language) == ("xcopa", "en"):
        return task_folder() / "super_glue" / "copa" / "default.yaml"
    code = "jp" if (task, language) == ("xwinograd", "ja") else language
    return task_folder() / FOLDERS[task] / f"{PREFIXES[task]}{code}.yaml"


def languages(task: str) -> list[str]:
    """Languages that the harness has `task` in."""
    prefix = PREFIXES[task]
    codes = [file.stem.removeprefix(prefix) for file in (task_folder() / FOLDERS[task]).glob(f"{prefix}*.yaml")]
    return sorted({"jp": "ja"}.get(code, code) for code in codes) + (["en"] if task == "xcopa" else [])


def hub_row(task: str, row: Row) -> dict[str, Any]:
    """`row` with the names and types of the hub, which the harness reads."""
    if task == "xnli":
        label = ("entailment", "neutral", "contradiction").index(str(row["label"]))
        return {"premise": row["premise"], "hypothesis": row["hypothesis"], "label": label}
    if task == "pawsx":
        return {"sentence1": row["sentence1"], "sentence2": row["sentence2"], "label": int(row["label"])}
    if task == "xcopa":
        kept: dict[str, Any] = {name: row[name] for name in ("premise", "choice1", "choice2", "question")}
        return {**kept, "label": int(row["label"])}
    if task == "xstorycloze":
        return {
            **{theirs: row[ours] for theirs, ours in _STORY.items()},
            "answer_right_ending": int(row["AnswerRightEnding"]),
        }
    return {name: row[name] for name in ("sentence", "option1", "option2", "answer")}


def harness_task(
    task: str, language: str, rows: Sequence[Row], demonstrations: Sequence[Row] = (), metrics: Sequence[str] = ("acc",)
) -> Any:
    """The harness' task over `rows` alone, showing `demonstrations` in their order."""
    file = task_file(task, language)
    import datasets
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    datasets.disable_progress_bars()
    config = load_yaml(file)
    scored = config.get("test_split") or config["validation_split"]
    parts = {scored: rows, "shown": demonstrations or rows[:1]}
    splits = {
        name: datasets.Dataset.from_list([hub_row(task, row) for row in members]) for name, members in parts.items()
    }
    for name in ("training_split", "dataset_path", "dataset_name", "tag"):
        config.pop(name, None)
    if scored == "test":
        config.pop("validation_split", None)
    config |= {"fewshot_split": "shown", "fewshot_config": {"sampler": "first_n"}, "dataset_path": "memory"}
    config["metric_list"] = [{"metric": name} for name in metrics]
    return ConfigurableTask(config={**config, "custom_dataset": lambda **_: splits})


def harness_requests(task: Any, num_shots: int = 0) -> list[Any]:
    """What the harness sends to a model, in the order of rows and choices."""
    task.set_config(key="num_fewshot", value=num_shots)
    task.build_all_requests(rank=0, world_size=1)
    return list(task.instances)


def harness_prompts(task: Any, num_shots: int = 0) -> list[tuple[tuple[str, str], ...]]:
    """(context, continuation) of every choice of every row."""
    by_row: dict[int, list[tuple[str, str]]] = {}
    for request in harness_requests(task, num_shots):
        by_row.setdefault(request.doc_id, []).append(request.args)
    return [tuple(pairs) for pairs in by_row.values()]


def goldens(task: str) -> Mapping[str, dict[str, Any]]:
    """One hand-written row per language, from the golden prompts."""
    cases = json.loads((Path(__file__).parents[1] / "golden" / f"{task}.json").read_text("utf-8"))
    return {case["language"]: case["row"] for case in cases}
