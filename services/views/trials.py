"""Prints finished trials: one by itself, two beside each other, and single examples with their answers."""

import json
import time
from collections.abc import Sequence
from typing import Any

from afp_ray.records import Answer, AnsweredExample, Score, TrialExamples
from services.output import say
from services.trial_answers import ScorePair, TrialDiff, TrialSheet
from services.views.grid import FAMILY, Grid, interval, mark, plain_grid, scored, signed_difference
from services.views.terminal import say_folded, show_grid

MAX_PROMPT = 600
"""Characters of a prompt that are shown; its end is what the answer follows."""


def show_trial_sheet(sheet: TrialSheet) -> None:
    """What a trial is, cost and scored, and where it lies."""
    say(f"trial       {sheet.trial_id}  {_name(sheet)}")
    for label, text in _lines(sheet):
        say_folded(f"{label:<11} {text}")
    title = f"configuration: the {len(sheet.changed)} fields that have not their default"
    _print(title, _config_grid(sheet))
    for split in dict.fromkeys(score.split for score in sheet.scores):
        _print(f"scores on {split} in %, ± standard error", _score_grid([s for s in sheet.scores if s.split == split]))
    for score in sheet.missing:
        say_folded(f"missing     {score.task}/{score.language} on {score.split}: {score.problem}")
    for warning in sheet.warnings:
        say_folded(f"warning     {warning}")


def _name(sheet: TrialSheet) -> str:
    """Arm, seed, study and status in a few words."""
    arm = f"{sheet.arm} seed {sheet.seed} of {sheet.study}" if sheet.study else f"seed {sheet.seed}, without a study"
    return f"{arm}  {sheet.status}"


def _lines(sheet: TrialSheet) -> list[tuple[str, str]]:
    lines = [("folder", sheet.folder)]
    if sheet.failure is not None:
        lines.append(("failed", f"{sheet.failure.failure_class}: {sheet.failure.message}"))
    if sheet.note:
        lines.append(("note", sheet.note))
    lines.append(("checkpoint", sheet.checkpoint or _without_checkpoint(sheet)))
    if sheet.mlflow_run_id:
        lines.append(("mlflow run", sheet.mlflow_run_id))
    if sheet.objective is not None:
        lines.append(("objective", f"{sheet.objective:.4f} on validation"))
    if len(sheet.seeds) > 1:
        others = (f"{seed.seed} {seed.trial_id[:6]}" for seed in sheet.seeds)
        lines.append(("seeds", ", ".join(others)))
    lines += [("time", words) for words in [_times(sheet)] if words]
    lines += [("training", words) for words in [_training(sheet)] if words]
    return lines


def _without_checkpoint(sheet: TrialSheet) -> str:
    if sheet.config["training"]["max_steps"] == 0:
        return f"none: the model is {sheet.config['model']['name']} as it is"
    return "none is left (runtime.keep_checkpoints says which stay)" if sheet.status == "DONE" else "none yet"


def _times(sheet: TrialSheet) -> str:
    parts = []
    if sheet.started_at is not None:
        parts.append(f"began {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(sheet.started_at))}")
    if sheet.seconds is not None:
        parts.append(f"took {_duration(sheet.seconds)}")
    if sheet.attempt > 1:
        parts.append(f"attempt {sheet.attempt}")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if seconds < 60:
        return f"{seconds:.1f} s"
    return (
        f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02}"
    )


def _training(sheet: TrialSheet) -> str:
    ran = sheet.training
    if ran is None or ran.steps == 0:
        return ""
    parts = [f"{ran.steps} steps", f"{ran.tokens:,} tokens", _duration(ran.seconds)]
    losses = {"contrastive loss": ran.contrastive_loss, "instruction loss": ran.instruction_loss}
    parts += [f"{name} {value:.4g}" for name, value in losses.items() if value is not None]
    if ran.gradient_cosine is not None:
        parts.append(f"cosine of gradients {ran.gradient_cosine:+.3f}")
    return ", ".join(parts)


def _config_grid(sheet: TrialSheet) -> Grid:
    rows = [
        [name, _value(value) + (" (searched)" if name in sheet.params else "")] for name, value in sheet.changed.items()
    ]
    return plain_grid(["field", "value"], rows)


def _value(value: Any) -> str:
    """A value of a configuration as a study file spells it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _score_grid(scores: Sequence[Score]) -> Grid:
    """Rows of task, shots and metric by columns of languages."""
    languages = list(dict.fromkeys(score.language for score in scores))
    by_key = {(score.task, score.shots, score.metric, score.language): score for score in scores}
    rows = []
    for task, shots, metric in dict.fromkeys((score.task, score.shots, score.metric) for score in scores):
        cells = [by_key.get((task, shots, metric, language)) for language in languages]
        rows.append([_score_name(task, shots, metric), *("-" if cell is None else _with_error(cell) for cell in cells)])
    return plain_grid(["task", *languages], rows)


def _score_name(task: str, shots: int, metric: str, *, language: str = "") -> str:
    """A score in few words: accuracy at 0 shots goes without saying, and a metric of representations names itself."""
    named = metric if task == "retrieval" else task
    parts = [f"{named}/{language}" if language else named]
    parts += [f"{shots}-shot"] if shots else []
    parts += [metric] if task != "retrieval" and metric != "accuracy" else []
    return " ".join(parts)


def _with_error(score: Score) -> str:
    error = f" ±{scored(score.standard_error, score.metric)}" if score.standard_error is not None else ""
    return scored(score.value, score.metric) + error


def show_trial_diff(diff: TrialDiff) -> None:
    """The fields, scores and costs in which two trials differ, side by side."""
    for letter, sheet in (("A", diff.a), ("B", diff.b)):
        say(f"{letter}  {sheet.trial_id}  {_name(sheet)}")
    if diff.config:
        _print("configuration: what differs", _side_by_side(diff.config))
    else:
        say("configuration: nothing differs")
    for split in dict.fromkeys(pair.split for pair in diff.scores):
        _print(
            f"scores on {split} in %, differences in points", _pair_grid([p for p in diff.scores if p.split == split])
        )
    if any(pair.difference and pair.difference.p is not None for pair in diff.scores):
        say_folded(f"paired over examples; † p < 0.05 after Holm over the scores of the split, ‡ p < 0.01; {FAMILY}")
    if diff.equal_scores or not diff.scores:
        say(f"{diff.equal_scores} score{'s are' if diff.equal_scores != 1 else ' is'} equal")
    if diff.other:
        _print("also differ", _side_by_side(diff.other))
    for line in diff.notes:
        say_folded(f"note  {line}")


def _side_by_side(fields: dict[str, tuple[Any, Any]]) -> Grid:
    return plain_grid(["field", "A", "B"], [[name, _value(a), _value(b)] for name, (a, b) in fields.items()])


def _pair_grid(pairs: Sequence[ScorePair]) -> Grid:
    rows = []
    for pair in pairs:
        a, b = ("-" if value is None else scored(value, pair.metric) for value in (pair.a, pair.b))
        delta = pair.difference
        size = signed_difference(pair.a, pair.b, pair.metric) + mark(delta)
        name = _score_name(pair.task, pair.shots, pair.metric, language=pair.language)
        rows.append([name, a, b, size, interval(delta.shown if delta else None)])
    return plain_grid(["score", "A", "B", "B - A", "interval"], rows)


def show_trial_examples(answer: TrialExamples, *, is_flipped: bool) -> None:
    """Examples with their texts, the right answer, and what both trials answered."""
    if answer.other_id is not None:
        say_folded(
            f"{answer.trial_name} ({answer.trial_id}) against {answer.other_name} ({answer.other_id}) on {answer.split}"
        )
        rows = [[c.task, c.language, str(c.compared), str(c.gained), str(c.lost)] for c in answer.cells]
        _print("answers that changed", plain_grid(["task", "language", "examples", "gained", "lost"], rows))
    else:
        say(f"{answer.trial_name} ({answer.trial_id}) on {answer.split}; no base to compare with")
    for number, example in enumerate(answer.examples, 1):
        say()
        for line in _example_lines(number, example, answer):
            say(line)
    say()
    what = "changed" if is_flipped else "examples"
    if answer.answered:
        shown = f"{len(answer.examples)} of {answer.answered} {what}"
        say_folded(f"{shown}; * is the right choice; more with --limit, fewer with --task and --language")
    else:
        say("no answer changed" if is_flipped else "no example")
    for line in answer.notes:
        say_folded(f"note  {line}")


def _example_lines(number: int, example: AnsweredExample, answer: TrialExamples) -> list[str]:
    change = "gained" if example.change > 0 else "lost" if example.change < 0 else "same"
    shots = f"  {example.shots}-shot, draw {example.demo_seed}" if example.shots else ""
    head = f"{number}  {example.task}/{example.language}  {example.example_id}{shots}"
    lines = [head + (f"  {change}" if example.other is not None else "")]
    if example.prompt:
        cut = example.prompt if len(example.prompt) <= MAX_PROMPT else f"... {example.prompt[-MAX_PROMPT:]}"
        lines += [f"   {line}" for line in cut.splitlines()]
    sides = [(answer.other_name, example.other), (answer.trial_name, example.trial)]
    answers = [(name, given) for name, given in sides if given is not None]
    if example.gold is not None:
        return lines + _choice_lines(example, answers)
    width = max(len("reference"), *(len(name) for name, _ in answers))
    lines.append(f"   {'reference':<{width}}  {example.reference}")
    return lines + [
        f"   {name:<{width}}  {given.text}  ({example.metric} {given.value:.3f})" for name, given in answers
    ]


def _choice_lines(example: AnsweredExample, answers: Sequence[tuple[str, Answer]]) -> list[str]:
    """One line a choice: whether it is right, and who chose it."""
    lines = []
    for index in range(max(len(example.choices), len(example.trial.log_likelihoods))):
        text = example.choices[index].strip() if index < len(example.choices) else f"choice {index + 1}"
        by = [name for name, given in answers if given.predicted == index]
        lines.append(f"   {'*' if index == example.gold else ' '} {text}" + (f"   <- {', '.join(by)}" if by else ""))
    return lines


def _print(title: str, grid: Grid) -> None:
    show_grid(grid, title)
