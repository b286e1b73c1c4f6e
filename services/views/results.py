"""Prints what was scored: the comparison, the best configuration, requirements, and the table of `afp eval`."""

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.text import Text

from afp_ray.comparison.wording import in_words, sentence
from afp_ray.config import TrialConfig
from afp_ray.records import Best, Comparison, Requirement, Score, TrialResult
from services.output import say
from services.schemas import EvalAnswer, EvalCell, Reproduction
from services.views.grid import FAMILY, scored, with_interval
from services.views.published import LEGEND, published_lines
from services.views.tables import (
    MARKS,
    ablation_grid,
    cost_legend,
    cost_words,
    finding_grids,
    front_grids,
    measured,
    pareto_grid,
    representation_grid,
)
from services.views.terminal import console, to_terminal

_RAW = ("alignment", "uniformity")
"""Metrics that are no shares."""


def show_eval(answer: EvalAnswer) -> None:
    """Scores in percent with their standard error, and under them what they are read against."""
    for line in eval_lines(answer):
        say(line)
    for warning in answer.warnings:
        say(f"warning: {warning}")
    say(f"{answer.trial_id}  {answer.seconds:.1f} s   {answer.folder}")


def eval_lines(answer: EvalAnswer) -> list[str]:
    """The tables of all splits, as lines."""
    lines: list[str] = []
    for split in answer.splits:
        cells = [cell for cell in answer.cells if cell.split == split]
        languages = list(dict.fromkeys(cell.language for cell in cells))
        rows = [[split, *languages]]
        for task, shots, metric in dict.fromkeys((cell.task, cell.shots, cell.metric) for cell in cells):
            by_language = {
                cell.language: cell for cell in cells if (cell.task, cell.shots, cell.metric) == (task, shots, metric)
            }
            rows.append([f"{task}  {shots}-shot  {metric}"] + [""] * len(languages))
            rows += _block(answer, [by_language.get(language) for language in languages], metric)
        lines += [*aligned(rows), ""]
    if any(cell.published for cell in answer.cells):
        lines.append(
            "published: untrained checkpoints, lm-evaluation-harness, native prompts, 0 shots (baselines_0shot)"
        )
    if any(cell.vs_base for cell in answer.cells):
        lines.append(f"difference: points, paired; * p < 0.05 after Holm over the cells of the split; {FAMILY}")
    signed: dict[str, dict[str, None]] = {}
    for cell in answer.cells:
        if cell.signature:
            cell_name = f"{cell.task}/{cell.language}"
            signed.setdefault(f"{cell.metric}  {cell.signature}", {})[cell_name] = None
    lines += [f"{signature}  ({', '.join(cell_names)})" for signature, cell_names in signed.items()]
    return lines


def _block(answer: EvalAnswer, cells: Sequence[EvalCell | None], metric: str) -> list[list[str]]:
    """Rows of one task, number of shots and metric; a row without a value anywhere is left out."""
    base = str(answer.base_result.config["model"]["name"]) if answer.base_result is not None else ""

    def number(value: float | None) -> str:
        if value is None:
            return ""
        return f"{value:.3f}" if metric in _RAW else f"{100 * value:.1f}"

    def with_error(cell: EvalCell) -> str:
        error = f" ±{number(cell.standard_error)}" if cell.standard_error is not None else ""
        return number(cell.value) + error

    def deviation(cell: EvalCell) -> str:
        return f"±{number(cell.demo_deviation)}" if cell.demo_deviation is not None else ""

    rows: list[tuple[str, Callable[[EvalCell], str]]] = [
        (answer.model, with_error),
        ("over demonstrations", deviation),
        ("majority", lambda cell: number(cell.majority)),
        (base, lambda cell: number(cell.base)),
        ("difference", _difference),
    ]
    for name in dict.fromkeys(name for cell in cells if cell is not None for name in cell.published):
        rows.append((f"published {name}", lambda cell, name=name: number(cell.published.get(name))))  # type: ignore[misc]
    rows.append(("n", lambda cell: str(cell.n)))
    made = [[f"  {name}", *("" if cell is None else text(cell) for cell in cells)] for name, text in rows]
    return [row for row in made if any(row[1:])]


def _difference(cell: EvalCell) -> str:
    if cell.vs_base is None:
        return ""
    return with_interval(cell.vs_base) + ("*" if cell.vs_base.is_significant else "")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines whose columns begin at one place each, however long or wide a name is."""
    columns = range(max(map(len, rows)))
    widths = [max(_width(row[column]) for row in rows if any(row[1:]) or column) for column in columns]
    return [
        "  ".join(text + " " * (widths[column] - _width(text)) for column, text in enumerate(row)).rstrip()
        for row in rows
    ]


def _width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def show_comparison(comparison: Comparison) -> None:
    """Ablation table, representation table and verdicts."""
    terminal = console()
    if comparison.headline is not None:
        terminal.print(Text(comparison.headline.text, style="bold"))
        say()
    title = f"{', '.join(comparison.studies)}: {measured(comparison)} in % on {comparison.split}, differences in points"
    terminal.print(to_terminal(ablation_grid(comparison), title))
    say(MARKS)
    if comparison.representation:
        title = "sentence representations on held-out pairs, before is base at the same layer"
        terminal.print(to_terminal(representation_grid(comparison.representation), title))
    for title, grid in finding_grids(comparison):
        terminal.print(to_terminal(grid, title))
    for words, grid in published_lines(comparison, shared_only=True):
        say(words)
        terminal.print(to_terminal(grid, f"cells of both, in %; {LEGEND}"))
    say("verdict")
    for line in comparison.verdicts:
        say(f"  {line}")
    for warning in (line for line in comparison.warnings if line not in comparison.verdicts):
        say(f"  warning: {warning}")


def _recipe(config: TrialConfig) -> str:
    """The fields that this trial used; what its method leaves idle is not shown."""
    loss, data = config.loss, config.data
    if config.training.max_steps == 0:
        return "the model as it is, not trained"
    words = []
    if loss.contrastive_weight > 0:
        words += [f"temperature {loss.temperature:.4g}", f"layer {loss.layer}", f"pooling {loss.pooling}"]
        words += [f"pairs {data.num_pairs}"]
    if loss.instruction_weight > 0:
        words += [f"lambda {loss.instruction_weight:.4g}", f"instructions {data.num_instructions}"]
        words += [f"crossing {data.cross_probability:.4g}"]
    return "  ".join(words)


def show_best(best: Best, said: Sequence[str] = ()) -> None:
    """The best configuration in a few lines.

    Args:
        best: the configuration.
        said: lines that stand above already and are not repeated.
    """
    metric, ends = best.objective.split()[1], best.score.ci95
    interval = f" [{scored(ends[0], metric)}, {scored(ends[1], metric)}]" if ends else ""
    seeds = f"{best.score.n_seeds} seed{'s' if best.score.n_seeds != 1 else ''}"
    note = f", {best.score.note}" if best.score.note else ""
    score = f"{scored(best.score.mean, metric)}{interval} on {best.split}, {seeds}{note}"
    say(f"best     {best.study}: {best.arm}  {best.objective}  {score}")
    if best.vs_base is not None:
        say(f"         {in_words(best.vs_base)}")
    say(f"         {_recipe(best.config)}")
    if best.runner_up is not None:
        say(f"         runner-up {best.runner_up.arm}: {best.runner_up.verdict}")
    if best.hours is not None:
        say(f"         device-hours of one trial: {cost_words(best.hours)}")
    if best.cost_note:
        say(f"         {best.cost_note}")
    if best.cheapest is not None:
        say(f"         cheapest not significantly worse: {best.cheapest.arm}, {best.cheapest.verdict}")
    for warning in best.warnings:
        if warning not in (*said, *_above(best)):
            say(f"         warning: {warning}")
    say(f"         reproduce: {best.reproduce}")


def _above(best: Best) -> list[str]:
    """Warnings that a line of the best configuration says already."""
    lines = [sentence(best.arm, best.vs_base)] if best.vs_base is not None else []
    if best.runner_up is not None:
        lines.append(f"the runner-up {best.runner_up.arm} is {best.runner_up.verdict}")
    return lines


def show_pareto(best: Best) -> None:
    """Every arm by score and cost, and the search trials of each arm that no other dominates."""
    console().print(to_terminal(pareto_grid(best.pareto), f"{best.objective} on {best.split} against cost"))
    say(cost_legend(best.cost_note))
    for title, grid in front_grids(best.fronts):
        console().print(to_terminal(grid, title))
    for front in best.fronts:
        if front.verdict:
            say(f"{front.arm}: {front.verdict}")


def show_requirements(requirements: Sequence[Requirement]) -> None:
    """Whether each required statement holds."""
    for requirement in requirements:
        say(f"{'ok' if requirement.ok else 'NOT MET':<8} {requirement.text}: {requirement.verdict}")


def show_trial(result: TrialResult, storage: Path) -> None:
    """The scores of one trial, a line each, and its folder."""
    for score in result.scores:
        say(_score_line(score))
    for warning in result.warnings:
        say(f"warning: {warning}")
    say(f"{result.trial_id}  {result.seconds:.1f} s   {storage / 'trials' / result.trial_id}")


def show_reproduction(answer: Reproduction, tolerance: float) -> None:
    """The scores that differ by more than the tolerance, and the verdict."""
    for name, difference in answer.scores.items():
        if difference > tolerance:
            say(f"{name} differs by {difference:.4g}")
    verdict = "reproduced" if answer.reproduced else "NOT reproduced"
    largest = f"{len(answer.scores)} scores, largest difference {answer.largest_difference:.3g} of {tolerance:g}"
    say(f"{answer.trial_id}  {verdict}: {largest}")


def _score_line(score: Score) -> str:
    name = f"{score.task}/{score.shots}" if score.task != "retrieval" else score.task
    error = f" ±{score.standard_error:.4f}" if score.standard_error is not None else ""
    signature = f"  {score.signature}" if score.signature else ""
    value = f"{score.metric:<12} {score.value:.4f}{error}  n {score.n}"
    return f"{score.split:<10} {name:<14} {score.language:<3} {value}{signature}"
