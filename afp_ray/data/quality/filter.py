"""Filters the rows that a trial may draw from, as its configuration asks: one entry for pairs and instructions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from afp_ray.config import DataConfig
from afp_ray.data.quality.best import keep_best, read_scores
from afp_ray.data.quality.instructions import filter_instructions
from afp_ray.data.quality.pairs import filter_pairs
from afp_ray.data.quality.report import FilterReport
from afp_ray.data.quality.similarity import Embed
from afp_ray.data.rows import ParallelInstruction, TranslationPair

Rate = Callable[[Sequence[ParallelInstruction]], Sequence[float]]
"""A score of each instruction; higher is better."""


@dataclass(frozen=True, slots=True)
class FilteredRows:
    """What a trial may draw from once it is filtered.

    Attributes:
        pairs, instructions: the rows that are left; the very objects given where nothing was to be done.
        report: what was dropped and why; None where nothing was to be done.
    """

    pairs: Sequence[TranslationPair]
    instructions: Sequence[ParallelInstruction]
    report: FilterReport | None


def apply_filter(
    pairs: Sequence[TranslationPair],
    instructions: Sequence[ParallelInstruction],
    config: DataConfig,
    *,
    embed: Embed | None = None,
    rate: Rate | None = None,
) -> FilteredRows:
    """Filter the rows as `data.filter` asks and keep the instructions that `data.keep_best` asks.

    Args:
        pairs, instructions: every row read.
        config: `filter`, `filter_limits`, `keep_best`, `instruction_scores`, `pivot`.
        embed: states of texts by the untrained model; needed by `filter: similarity`.
        rate: scores of instructions by the untrained model; needed by `keep_best` without `instruction_scores`.
    Raises: DataError when the filter leaves nothing of a language, or scores are missing or wrong.
    """
    if config.filter == "none" and config.keep_best is None:
        return FilteredRows(pairs, instructions, None)
    report = FilterReport()
    if config.filter != "none":
        used = embed if config.filter == "similarity" else None
        assert config.filter == "rules" or used is not None, "filter: similarity needs the states of a model"
        pairs, report = filter_pairs(pairs, config.filter_limits, embed=used)
        instructions, of_instructions = filter_instructions(
            instructions, config.filter_limits, pivot=config.pivot, embed=used
        )
        report.instructions = of_instructions.instructions
        report.num_instructions_read = of_instructions.num_instructions_read
        report.num_instructions_kept = of_instructions.num_instructions_kept
    if config.keep_best is not None:
        instructions = _best(instructions, config, report, rate)
    return FilteredRows(pairs, instructions, report)


def _best(
    rows: Sequence[ParallelInstruction], config: DataConfig, report: FilterReport, rate: Rate | None
) -> Sequence[ParallelInstruction]:
    assert config.keep_best is not None
    if config.instruction_scores is not None:
        best = keep_best(rows, read_scores(config.instruction_scores), config.keep_best)
    else:
        assert rate is not None, "keep_best without instruction_scores needs a model that rates instructions"
        best = keep_best(rows, list(rate(rows)), config.keep_best)
    report.num_instructions_read = report.num_instructions_read or len(rows)
    report.num_not_best = len(rows) - len(best)
    report.num_instructions_kept = len(best)
    return best
