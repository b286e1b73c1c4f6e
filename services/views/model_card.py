"""The card of an exported model: README.md with the header that model hubs read, scores, data, recipe and licence."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from afp_ray.records import ArmRow, ScoreSummary, TrialResult
from afp_ray.redaction import redact
from services.views.formats import escape_markdown, grid_markdown
from services.views.grid import Grid, interval, percent, plain_grid, scored

_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
Cell = tuple[str, str]
"""Task and language."""


@dataclass(frozen=True, slots=True)
class Card:
    """What a card tells.

    Attributes:
        name: of the model.
        study: its study; None where it ran without one.
        result: of the trial.
        split: that the scores are of.
        scores: with their intervals, by task and language.
        changed: fields of the configuration that have not their default, by dotted name.
        licence: identifier of the licence; "" where it is not known.
        arm: the row of the trial's arm in its study's table; None where there is none.
        headline: of the study.
    """

    name: str
    study: str | None
    result: TrialResult
    split: str
    scores: Mapping[Cell, ScoreSummary]
    changed: Mapping[str, Any]
    licence: str = ""
    arm: ArmRow | None = None
    headline: str = ""


def model_card(card: Card) -> str:
    """The card as Markdown with a YAML header."""
    parts = [
        _header(card),
        f"# {escape_markdown(card.name)}",
        _introduction(card),
        *(["## Against the base model", _against_base(card.arm)] if card.arm is not None else []),
        "## Scores",
        f"In % on {card.split}, with 95 % intervals over examples; of this one seed, over all numbers of shots.",
        grid_markdown(_score_grid(card)),
        *_retrieval(card),
        "## Data",
        _data(card.result),
        "## Recipe",
        "Fields that differ from the defaults of afp_ray:",
        grid_markdown(plain_grid(["field", "value"], [[name, _value(value)] for name, value in card.changed.items()])),
        "## Use",
        _use(card),
        "## Licence",
        _licence(card),
        "## Run again",
        f"`afp reproduce {card.result.trial_id}` in the storage of the study trains it again and compares every score.",
    ]
    return redact("\n\n".join(parts) + "\n")


def _header(card: Card) -> str:
    """YAML; every value is JSON, which is YAML too."""
    config = card.result.config
    fields: dict[str, Any] = {
        "language": _languages(config),
        "license": card.licence or "other",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["afp_ray", "cross-lingual-alignment", str(config["method"])],
    }
    if not card.licence:
        fields["license_name"] = "see-base-model"
    if is_hub_id(config["model"]["name"]):
        fields["base_model"] = config["model"]["name"]
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items()]
    results = [json.dumps(_result(card, cell, summary)) for cell, summary in card.scores.items()]
    if results:
        lines += [
            "model-index:",
            f"- name: {json.dumps(card.name)}",
            "  results:",
            *(f"  - {line}" for line in results),
        ]
    return "\n".join(["---", *lines, "---"])


def is_hub_id(name: str) -> bool:
    """Whether a model's name is an id of a hub rather than a folder."""
    return bool(_HUB_ID.fullmatch(name))


def _result(card: Card, cell: Cell, summary: ScoreSummary) -> dict[str, Any]:
    task, language = cell
    return {
        "task": {"type": "text-generation"},
        "dataset": {"name": f"{task} ({language})", "type": task, "config": language, "split": card.split},
        "metrics": [{"type": _metric_of(card.result, task), "value": round(summary.mean, 4)}],
    }


def _metric_of(result: TrialResult, task: str) -> str:
    return next(score.metric for score in result.scores if score.task == task and score.is_main)


def _languages(config: Mapping[str, Any]) -> list[str]:
    spoken = [config["data"]["pivot"], *config["data"]["languages"], *(config["evaluation"]["languages"] or ())]
    return list(dict.fromkeys(spoken))


def _introduction(card: Card) -> str:
    config = card.result.config
    base = f"`{config['model']['name']}`"
    where = f", arm `{card.arm.arm}` of the study `{card.study}`" if card.arm is not None else ""
    if config["training"]["max_steps"] == 0:
        return f"The model {base} as it is, scored by afp_ray{where}."
    text = f"{base}, trained with the method `{config['method']}` of afp_ray{where}, seed {config['seed']}."
    lora = config["training"].get("lora")
    if lora:
        text += f" Trained as LoRA adapters of rank {lora['rank']}, **merged** into these weights: peft is not needed."
    return f"{text}\n\n> {escape_markdown(card.headline)}" if card.headline else text


def _against_base(arm: ArmRow) -> str:
    """The differences of the arm, which speaks of all seeds."""
    rows = []
    for name, cell in (("tasks, other languages", arm.mean), ("tasks, pivot language", arm.pivot_mean)):
        delta = cell.vs_base if cell is not None else None
        if cell is not None:
            shown = interval(delta.shown) if delta is not None else "-"
            points = f"{100 * delta.delta:+.1f}" if delta is not None else "-"
            rows.append([name, percent(cell.mean), points, shown])
    seeds = f"Mean over {arm.n_seeds} seed{'s' if arm.n_seeds != 1 else ''}: {arm.verdict}."
    return f"{escape_markdown(seeds)}\n\n{grid_markdown(plain_grid(['', 'mean, %', 'points', 'interval'], rows))}"


def _score_grid(card: Card) -> Grid:
    tasks = list(dict.fromkeys(task for task, _ in card.scores))
    languages = list(dict.fromkeys(language for _, language in card.scores))
    rows = [
        [f"{task} ({_metric_of(card.result, task)})", *(_cell(card.scores.get((task, code))) for code in languages)]
        for task in tasks
    ]
    return plain_grid(["task", *languages], rows)


def _cell(summary: ScoreSummary | None) -> str:
    if summary is None:
        return "-"
    ends = f" [{percent(summary.ci95[0])}, {percent(summary.ci95[1])}]" if summary.ci95 is not None else ""
    return percent(summary.mean) + ends


def _retrieval(card: Card) -> list[str]:
    """Sentence representations on held-out pairs; nothing where they were not measured."""
    scores = [score for score in card.result.scores if score.task == "retrieval" and score.split == card.split]
    if not scores:
        return []
    languages = list(dict.fromkeys(score.language for score in scores))
    by_key = {(score.metric, score.language): score.value for score in scores}
    metrics = list(dict.fromkeys(score.metric for score in scores))
    rows = [
        [name, *(scored(by_key[name, code], name) for code in languages if (name, code) in by_key)] for name in metrics
    ]
    return ["Sentence representations on held-out pairs:", grid_markdown(plain_grid(["", *languages], rows))]


def _data(result: TrialResult) -> str:
    data, evaluation = result.config["data"], result.config["evaluation"]
    lines = []
    if result.config["training"]["max_steps"] > 0:
        kinds = ", ".join(dict.fromkeys(str(source["kind"]) for source in data["sources"]))
        lines.append(
            f"- trained on {kinds}: {data['num_pairs']} translation pairs and {data['num_instructions']} instructions, "
            f"pivot {data['pivot']}, with {', '.join(data['languages'])}; content "
            f"{result.fingerprints.get('data', '')[:16]}"
        )
    rows = "the embedded rows" if evaluation["data_dir"] is None else "the original files"
    digest = result.fingerprints.get("evaluation", "")[:16]
    tasks = ", ".join([*evaluation["tasks"], *evaluation.get("own_tasks", ())]) or "no task"
    lines.append(f"- scored on {tasks} ({rows}); content {digest}")
    return "\n".join(lines)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _use(card: Card) -> str:
    versions = ", ".join(
        f"{name} {card.result.environment[name]}" for name in _VERSIONS if name in card.result.environment
    )
    return (
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER")\n'
        'tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")\n```\n\n'
        f"Weights are float32. Trained with {versions or 'afp_ray'}."
    )


_VERSIONS: Sequence[str] = ("afp_ray", "torch", "transformers")


def _licence(card: Card) -> str:
    base = card.result.config["model"]["name"]
    own = f"`{card.licence}`, " if card.licence else "Not stated: "
    return f"{own}that of the base model `{base}`; the licences of the training data hold beside it."
