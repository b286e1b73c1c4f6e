"""Prints what was scored: the comparison, the best configuration, requirements, and the table of `afp eval`."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.cells import cell_len
from rich.text import Text

from afp_ray.comparison.wording import in_words, sentence
from afp_ray.config import TrialConfig
from afp_ray.records import Best, Comparison, Requirement, Score, TrialResult
from afp_ray.records.confusion import ConfusionAnswer
from services.output import plain, say
from services.schemas import EvalAnswer, EvalCell, Reproduction
from services.views.blocks import task_grid
from services.views.grid import FAMILY, percent, plain_grid, scored, with_interval
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
from services.views.terminal import UNFOLDED, console, folded_text, say_folded, show_grid

_RAW = ("alignment", "uniformity")
"""Metrics that are no shares."""


def show_eval(answer: EvalAnswer) -> None:
    """Scores in percent with their standard error, and under them what they are read against."""
    for line in eval_lines(answer, console().width):
        say_folded(line)
    for warning in answer.warnings:
        say_folded(f"warning: {warning}")
    say_folded(f"{answer.trial_id}  {answer.seconds:.1f} s   {answer.folder}")


def show_confusion(answer: ConfusionAnswer) -> None:
    """Pass rates by model and kind of prompt, the mean before its languages."""
    say_folded(f"{answer.file}, languages by {answer.signature}")
    header = ["language", "answers", "skipped", "line pass rate, %", "word pass rate, %"]
    for model, kind in dict.fromkeys((row.model, row.kind) for row in answer.rows):
        rows = [
            [
                row.language or "mean",
                str(row.answers),
                str(row.skipped),
                percent(row.line_pass_rate),
                percent(row.word_pass_rate),
            ]
            for row in answer.rows
            if (row.model, row.kind) == (model, kind)
        ]
        show_grid(plain_grid(header, rows), f"{model}, {kind}")
    for note in answer.notes:
        say_folded(note)


def eval_lines(answer: EvalAnswer, width: int = UNFOLDED) -> list[str]:
    """The tables of all splits, as lines of at most `width` columns where numbers fit into that."""
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
        for block in _folded(rows, width):
            lines += [*aligned(block), ""]
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


def _folded(rows: Sequence[Sequence[str]], width: int) -> list[list[list[str]]]:
    """Rows as blocks that fit the width: the first column and some of the others."""
    widths = _widths(rows)
    blocks: list[list[int]] = [[0]]
    for column in range(1, len(widths)):
        if len(blocks[-1]) > 1 and sum(2 + widths[other] for other in (*blocks[-1], column)) - 2 > width:
            blocks.append([0])
        blocks[-1].append(column)
    return [[[row[column] for column in block] for row in rows] for block in blocks]


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """Of each column; what stands alone in its row takes the room of all."""
    columns = range(max(map(len, rows)))
    return [max(cell_len(row[column]) for row in rows if any(row[1:]) or column) for column in columns]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines whose columns begin at one place each, however long or wide a name is."""
    widths = _widths(rows)
    return [
        "  ".join(text + " " * (widths[column] - cell_len(text)) for column, text in enumerate(row)).rstrip()
        for row in rows
    ]


def show_comparison(comparison: Comparison, *, task: str | None = None, has_std: bool = False) -> None:
    """Ablation table, representation table and verdicts; or the table of one task alone."""
    terminal = console()
    if task is not None:
        title = f"{', '.join(comparison.studies)}: {task} on {comparison.split}, in %"
        show_grid(task_grid(comparison, task, has_std=has_std), title, terminal)
        say_folded(MARKS)
        return
    if comparison.headline is not None:
        terminal.print(
            *(
                Text(line, style="bold")
                for line in folded_text(plain(comparison.headline.text), terminal.width, indent=0)
            ),
            sep="\n",
        )
        say()
    title = f"{', '.join(comparison.studies)}: {measured(comparison)} in % on {comparison.split}, differences in points"
    show_grid(ablation_grid(comparison, has_std=has_std), title, terminal)
    say_folded(MARKS)
    if comparison.representation:
        title = "sentence representations on held-out pairs, before is base at the same layer"
        show_grid(representation_grid(comparison.representation), title, terminal)
    for title, grid in finding_grids(comparison):
        show_grid(grid, title, terminal)
    if comparison.cost_note:
        say_folded(f"costs are not compared: {comparison.cost_note}")
    for words, grid in published_lines(comparison, shared_only=True):
        say_folded(words)
        show_grid(grid, f"cells of both, in %; {LEGEND}", terminal)
    say("verdict")
    for line in comparison.verdicts:
        say_folded(f"  {line}")
    for warning in (line for line in comparison.warnings if line not in comparison.verdicts):
        say_folded(f"  warning: {warning}")


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
    say_folded(f"best     {best.study}: {best.arm}  {best.objective}  {score}")
    if best.vs_base is not None:
        say_folded(f"         {in_words(best.vs_base)}")
    say_folded(f"         {_recipe(best.config)}")
    if best.runner_up is not None:
        say_folded(f"         runner-up {best.runner_up.arm}: {best.runner_up.verdict}")
    if best.hours is not None:
        say_folded(f"         device-hours of one trial: {cost_words(best.hours)}")
    if best.cost_note:
        say_folded(f"         {best.cost_note}")
    if best.cheapest is not None:
        say_folded(f"         cheapest not significantly worse: {best.cheapest.arm}, {best.cheapest.verdict}")
    for warning in best.warnings:
        if warning not in (*said, *_above(best)):
            say_folded(f"         warning: {warning}")
    say(f"         reproduce: {best.reproduce}")


def _above(best: Best) -> list[str]:
    """Warnings that a line of the best configuration says already."""
    lines = [sentence(best.arm, best.vs_base)] if best.vs_base is not None else []
    if best.runner_up is not None:
        lines.append(f"the runner-up {best.runner_up.arm} is {best.runner_up.verdict}")
    return lines


def show_pareto(best: Best) -> None:
    """Every arm by score and cost, and the search trials of each arm that no other dominates."""
    show_grid(pareto_grid(best.pareto), f"{best.objective} on {best.split} against cost")
    say_folded(cost_legend(best.cost_note))
    for title, grid in front_grids(best.fronts):
        show_grid(grid, title)
    for front in best.fronts:
        if front.verdict:
            say_folded(f"{front.arm}: {front.verdict}")


def show_requirements(requirements: Sequence[Requirement]) -> None:
    """Whether each required statement holds."""
    for requirement in requirements:
        say_folded(f"{'ok' if requirement.ok else 'NOT MET':<8} {requirement.text}: {requirement.verdict}")


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
