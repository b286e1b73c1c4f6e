"""What an arm trains on: amounts, lengths, truncation, samples, what its filter drops; and the rows as a file."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from afp_ray.config import StudyConfig
from afp_ray.data.quality.report import FilterReport, LanguageReport
from afp_ray.data.rows import Instruction, TranslationPair
from afp_ray.data.tokens import JOINT
from afp_ray.errors import ConfigError
from afp_ray.languages import language_row
from afp_ray.planning.recipe import draw, read, read_reports, recipe_of, trained_recipes, unread_files
from afp_ray.store import write_atomic
from afp_ray.trial.prepare import Candidates, DrawnRows
from services.schemas import (
    Amounts,
    BuildAnswer,
    DroppedExample,
    FilterAnswer,
    FilterLanguage,
    FilterReason,
    InspectAnswer,
    MixCell,
    SampleRow,
    SourceRead,
    Spread,
    TextLengths,
    Truncation,
)

NUM_SAMPLES = 10
_CHUNK = 2048
What = Literal["pairs", "prompts", "responses"]
Texts = dict[tuple[What, str], list[str]]


def inspect_answer(study: StudyConfig, *, arm: str | None = None) -> InspectAnswer:
    """Read and draw the rows of an arm as its first trial would, and measure them with the model's own tokenizer.

    Raises: UserError for an arm, a source or a tokenizer that cannot be read.
    """
    from afp_ray.models.load import load_tokenizer  # torch and transformers, which the other answers do not need

    recipe = recipe_of(study, arm)
    rows = read(recipe)
    drawn = draw(recipe, rows)
    config, data = recipe.config, recipe.config.data
    tokenizer = load_tokenizer(config.model)
    texts = _texts(drawn)
    order = (data.pivot, *data.languages)
    return InspectAnswer(
        study=study.name,
        arm=recipe.arm,
        other_arms=tuple(other.arm for other in trained_recipes(study) if other.arm != recipe.arm),
        seed=recipe.seed,
        model=config.model.name,
        max_length=config.training.max_length,
        pivot=data.pivot,
        languages=data.languages,
        searched=recipe.searched,
        sources=tuple(
            SourceRead(
                source=report.source,
                language=report.language,
                read=report.num_read,
                kept=report.num_kept,
                refused=dict(sorted(report.refused.items())),
            )
            for report in read_reports(config)
        ),
        unread=unread_files((config,)),
        held_out=rows.num_heldout,
        filtered=num_dropped(rows.report),
        pairs=len(drawn.pairs),
        instructions=len(drawn.instructions),
        amounts=tuple(_amounts(rows, drawn, order)),
        mix=tuple(_mix(drawn.instructions, order)),
        lengths=tuple(
            _lengths(what, code, texts[what, code], tokenizer)
            for what in ("pairs", "prompts", "responses")
            for code in order
            if (what, code) in texts
        ),
        truncation=tuple(_truncation(drawn, order, tokenizer, config.training.max_length)),
        samples=tuple(_samples(drawn)),
    )


def build_file(study: StudyConfig, output: str, *, arm: str | None = None, force: bool = False) -> BuildAnswer:
    """Write the drawn rows of an arm, one JSON object a line; the file appears whole or not at all.

    Raises: ConfigError when the file is there and `force` is not given, or its folder is not there.
    """
    path = Path(output).expanduser()
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(
            f"{output!r} cannot be a file", where="--output", allowed="a file in a folder that exists", fix="change it"
        )
    if path.exists() and not force:
        raise ConfigError(f"{output!r} is there already", where="--output", fix="give --force, or another name")
    recipe = recipe_of(study, arm)
    drawn = draw(recipe, read(recipe))
    lines = (json.dumps(row, ensure_ascii=False) for row in _json_rows(drawn))
    write_atomic(path, "".join(f"{line}\n" for line in lines))
    return BuildAnswer(file=str(path), arm=recipe.arm, pairs=len(drawn.pairs), instructions=len(drawn.instructions))


def _json_rows(drawn: DrawnRows) -> Iterator[dict[str, str]]:
    for pair in drawn.pairs:
        yield {
            "kind": "pair",
            "source_language": pair.source_language,
            "target_language": pair.target_language,
            "source": pair.source,
            "target": pair.target,
            "content_id": pair.content_id,
        }
    for row in drawn.instructions:
        yield {
            "kind": "instruction",
            "prompt_language": row.prompt_language,
            "response_language": row.response_language,
            "prompt": row.prompt,
            "response": row.response,
            "content_id": row.content_id,
        }


def _texts(drawn: DrawnRows) -> Texts:
    """Every drawn text by its place and language."""
    texts: Texts = {}
    for pair in drawn.pairs:
        texts.setdefault(("pairs", pair.source_language), []).append(pair.source)
        texts.setdefault(("pairs", pair.target_language), []).append(pair.target)
    for row in drawn.instructions:
        texts.setdefault(("prompts", row.prompt_language), []).append(row.prompt)
        texts.setdefault(("responses", row.response_language), []).append(row.response)
    return texts


def _amounts(rows: Candidates, drawn: DrawnRows, order: Sequence[str]) -> Iterator[Amounts]:
    pairs = Counter(pair.target_language for pair in rows.pairs)
    pairs_drawn = Counter(pair.target_language for pair in drawn.pairs)
    instructions = Counter(code for row in rows.instructions for code in row.prompts)
    prompts = Counter(row.prompt_language for row in drawn.instructions)
    responses = Counter(row.response_language for row in drawn.instructions)
    for code in order:
        yield Amounts(
            language=code,
            pairs=pairs[code],
            pairs_drawn=pairs_drawn[code],
            instructions=instructions[code],
            prompts_drawn=prompts[code],
            responses_drawn=responses[code],
        )


def _mix(instructions: Sequence[Instruction], order: Sequence[str]) -> Iterator[MixCell]:
    """Every combination of prompt and response language, those without rows included."""
    counts = Counter((row.prompt_language, row.response_language) for row in instructions)
    for prompt in order if instructions else ():
        for response in order:
            yield MixCell(prompt=prompt, response=response, rows=counts[prompt, response])


def _lengths(what: What, code: str, texts: Sequence[str], tokenizer: Any) -> TextLengths:
    tokens = [len(ids) for ids in _ids(texts, tokenizer, add_special_tokens=False)]
    has_words = bool(language_row(code).space)
    units = sum(len(text.split()) if has_words else len("".join(text.split())) for text in texts)
    return TextLengths(
        language=code,
        what=what,
        rows=len(texts),
        characters=spread([len(text) for text in texts]),
        tokens=spread(tokens),
        fertility=sum(tokens) / max(1, units),
        per="word" if has_words else "character",
    )


def spread(values: Sequence[int]) -> Spread:
    """Mean, median, 95th percentile and largest of one or more lengths."""
    middle, high = np.quantile(values, [0.5, 0.95])
    return Spread(mean=float(np.mean(values)), p50=float(middle), p95=float(high), max=max(values))


def _ids(texts: Sequence[str], tokenizer: Any, **options: Any) -> Iterator[Sequence[int]]:
    for first in range(0, len(texts), _CHUNK):
        yield from tokenizer(list(texts[first : first + _CHUNK]), verbose=False, **options)["input_ids"]


def _truncation(drawn: DrawnRows, order: Sequence[str], tokenizer: Any, limit: int) -> Iterator[Truncation]:
    """By language of the pair's side, then by language of the response: what training cuts off, as it counts it."""
    sides: dict[str, list[str]] = {}
    for pair in drawn.pairs:
        sides.setdefault(pair.source_language, []).append(pair.source)
        sides.setdefault(pair.target_language, []).append(pair.target)
    answers: dict[str, list[Instruction]] = {}
    for row in drawn.instructions:
        answers.setdefault(row.response_language, []).append(row)
    for code in order:
        if code in sides:
            lengths = [len(ids) for ids in _ids(sides[code], tokenizer)]
            cut = [max(0, length - limit) for length in lengths]
            yield Truncation(
                language=code,
                what="pairs",
                rows=len(lengths),
                rows_cut=sum(map(bool, cut)) / len(cut),
                rows_lost=0.0,
                tokens_lost=sum(cut) / max(1, sum(lengths)),
            )
    for code in order:
        if code in answers:
            yield _cut_instructions(code, answers[code], tokenizer, limit)


def _cut_instructions(code: str, rows: Sequence[Instruction], tokenizer: Any, limit: int) -> Truncation:
    prompts = [len(ids) for ids in _ids([row.prompt for row in rows], tokenizer)]
    wholes = [
        len(ids) + (1 if not len(ids) or ids[-1] != tokenizer.eos_token_id else 0)
        for ids in _ids([row.prompt + JOINT + row.response for row in rows], tokenizer)
    ]
    lost = [whole if prompt >= limit else max(0, whole - limit) for prompt, whole in zip(prompts, wholes, strict=True)]
    return Truncation(
        language=code,
        what="instructions",
        rows=len(rows),
        rows_cut=sum(map(bool, lost)) / len(rows),
        rows_lost=sum(prompt >= limit for prompt in prompts) / len(rows),
        tokens_lost=sum(lost) / max(1, sum(wholes)),
    )


def _samples(drawn: DrawnRows) -> Iterator[SampleRow]:
    """The first rows of each kind; the draw is in random order already."""
    num_pairs = min(len(drawn.pairs), max(NUM_SAMPLES // 2, NUM_SAMPLES - len(drawn.instructions)))
    pairs: Sequence[TranslationPair] = drawn.pairs[:num_pairs]
    for pair in pairs:
        yield SampleRow(
            kind="pair",
            source_language=pair.source_language,
            target_language=pair.target_language,
            source=pair.source,
            target=pair.target,
            content_id=pair.content_id,
        )
    for row in drawn.instructions[: NUM_SAMPLES - len(pairs)]:
        yield SampleRow(
            kind="instruction",
            source_language=row.prompt_language,
            target_language=row.response_language,
            source=row.prompt,
            target=row.response,
            content_id=row.content_id,
        )


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


def num_dropped(report: FilterReport | None) -> int | None:
    """Pairs and instructions that the filter took out; None where there is none."""
    if report is None:
        return None
    pairs = sum(row.num_read - row.num_kept for row in report.pairs.values())
    return pairs + report.num_instructions_read - report.num_instructions_kept


def _reasons(kind: Kind, language: str, row: LanguageReport) -> Iterator[FilterReason]:
    for reason, count in row.dropped.most_common():
        examples = tuple(DroppedExample(sides=sides) for sides in row.examples.get(reason, ()))
        yield FilterReason(language=language, kind=kind, reason=reason, dropped=count, examples=examples)
