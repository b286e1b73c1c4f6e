"""What the quality filter of a study drops from the sources of an arm, per language, with reasons and examples."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from afp_ray.config import StudyConfig
from afp_ray.errors import ConfigError
from afp_ray.planning.recipe import read, recipe_of
from services.data_schemas import DroppedExample, FilterAnswer, FilterLanguage, FilterReason

if TYPE_CHECKING:
    from afp_ray.data.quality.report import FilterReport, LanguageReport

Kind = Literal["pair", "instruction"]


def filter_answer(study: StudyConfig, *, arm: str | None = None) -> FilterAnswer:
    """Filter everything that an arm may draw from, and count.

    Raises: ConfigError when the arm has no filter; UserError for sources that cannot be read.
    """
    recipe = recipe_of(study, arm)
    report = read(recipe).report
    if report is None:
        raise ConfigError(
            f"arm {recipe.arm} of {study.name} has no quality filter",
            where="data.filter",
            allowed="rules or similarity, or a data.keep_best",
            fix="try one: --set data.filter=rules",
        )
    sides: list[tuple[Kind, Mapping[str, LanguageReport]]] = [
        ("pair", report.pairs),
        ("instruction", report.instructions),
    ]
    return FilterAnswer(
        study=study.name,
        arm=recipe.arm,
        filter=recipe.config.data.filter,
        pivot=recipe.config.data.pivot,
        instructions_read=report.num_instructions_read,
        instructions_kept=report.num_instructions_kept,
        not_best=report.num_not_best,
        languages=tuple(
            FilterLanguage(language=code, kind=kind, read=row.num_read, kept=row.num_kept, is_judged=row.is_judged)
            for kind, rows in sides
            for code, row in rows.items()
        ),
        reasons=tuple(
            reason for kind, rows in sides for code, row in rows.items() for reason in _reasons(kind, code, row)
        ),
    )


def num_dropped(report: "FilterReport | None") -> int | None:
    """Pairs and instructions that the filter took out; None where there is none."""
    if report is None:
        return None
    pairs = sum(row.num_read - row.num_kept for row in report.pairs.values())
    return pairs + report.num_instructions_read - report.num_instructions_kept


def _reasons(kind: Kind, language: str, row: "LanguageReport") -> Iterator[FilterReason]:
    for reason, count in row.dropped.most_common():
        examples = tuple(DroppedExample(sides=sides) for sides in row.examples.get(reason, ()))
        yield FilterReason(language=language, kind=kind, reason=reason, dropped=count, examples=examples)
