"""Prints what `afp data` answers as tables."""

import json
import re
from collections.abc import Iterator

from services.output import say
from services.schemas import FilterAnswer, InspectAnswer, SampleRow, Spread
from services.task_prompts import PromptRow, TaskPrompts
from services.views.grid import percent, plain_grid
from services.views.terminal import say_folded, show_grid

_SHOWN = 88
_FOLDERS = re.compile(r"\S*/")


def show_inspection(answer: InspectAnswer) -> None:
    """What an arm trains on, as `afp data inspect` shows it."""
    amounts = f"{answer.pairs} pairs, {answer.instructions} instructions"
    say_folded(f"study {answer.study}  arm {answer.arm}  seed {answer.seed}  {amounts}")
    if answer.other_arms:
        say_folded(f"other arms (--arm): {', '.join(answer.other_arms)}")
    if answer.searched:
        values = ", ".join(f"{name} = {value}" for name, value in answer.searched.items())
        say_folded(f"searched, here at the first value of its space: {values}")
    _show_sources(answer)
    _show_amounts(answer)
    _show_mix(answer)
    _show_lengths(answer)
    say_folded(f"{len(answer.samples)} rows of the draw")
    for row in answer.samples:
        _show_sample(row)


def _show_sources(answer: InspectAnswer) -> None:
    rows = [
        [
            _FOLDERS.sub("", row.source),
            row.language or "all",
            str(row.read),
            str(row.kept),
            ", ".join(f"{count} {reason}" for reason, count in row.refused.items()) or "-",
        ]
        for row in answer.sources
    ]
    _print(["source", "language", "read", "kept", "refused"], rows, "what the sources gave")
    for files in answer.unread:
        say_folded(files.text)
    if answer.held_out:
        say_folded(f"removed {answer.held_out} pairs, for they share a sentence with the held-out pairs of retrieval")
    if answer.filtered is not None:
        say_folded(f"removed {answer.filtered} rows by the quality filter (afp data filter shows which)")


def _show_amounts(answer: InspectAnswer) -> None:
    rows = [
        [
            row.language,
            "-" if row.language == answer.pivot else str(row.pairs),
            "-" if row.language == answer.pivot else str(row.pairs_drawn),
            str(row.instructions),
            str(row.prompts_drawn),
            str(row.responses_drawn),
        ]
        for row in answer.amounts
    ]
    header = ["language", "pairs", "drawn", "instructions", "prompts drawn", "responses drawn"]
    _print(header, rows, f"rows by language, pairs with {answer.pivot}")


def _show_mix(answer: InspectAnswer) -> None:
    if not answer.mix:
        return
    languages = list(dict.fromkeys(cell.prompt for cell in answer.mix))
    counts = {(cell.prompt, cell.response): cell.rows for cell in answer.mix}
    rows = [[prompt, *(str(counts[prompt, response] or "-") for response in languages)] for prompt in languages]
    _print(["prompt \\ response", *languages], rows, "instructions by language of the prompt and of the response")


def _show_lengths(answer: InspectAnswer) -> None:
    rows = [
        [
            f"{row.what} {row.language}",
            str(row.rows),
            _spread(row.characters),
            _spread(row.tokens),
            f"{row.fertility:.2f} a {row.per}",
        ]
        for row in answer.lengths
    ]
    title = f"lengths as mean, median, 95th percentile and largest, in tokens of {answer.model}"
    _print(["texts", "rows", "characters", "tokens", "fertility"], rows, title)
    cut = [
        [
            f"{row.what} {row.language}",
            str(row.rows),
            f"{percent(row.rows_cut)} %",
            f"{percent(row.rows_lost)} %",
            f"{percent(row.tokens_lost)} %",
        ]
        for row in answer.truncation
    ]
    title = f"truncation at training.max_length {answer.max_length}, instructions by language of the response"
    _print(["texts", "rows", "rows cut", "rows left out", "tokens lost"], cut, title)


def _spread(spread: Spread) -> str:
    return f"{spread.mean:.1f}  {spread.p50:.0f}  {spread.p95:.0f}  {spread.max}"


def _show_sample(row: SampleRow) -> None:
    say_folded(f"  {row.kind:<11} {row.source_language} -> {row.target_language}")
    say_folded(f"      {_short(row.source)}")
    say_folded(f"      {_short(row.target)}")


def show_filter(answer: FilterAnswer) -> None:
    """What the quality filter drops, as `afp data filter` shows it."""
    say_folded(f"study {answer.study}  arm {answer.arm}  data.filter {answer.filter}")
    rows = [
        [
            f"{row.kind}s {row.language}",
            str(row.read),
            str(row.kept),
            f"{percent((row.read - row.kept) / row.read if row.read else 0.0)} %",
            ", ".join(
                f"{reason.dropped} {reason.reason}"
                for reason in answer.reasons
                if (reason.kind, reason.language) == (row.kind, row.language)
            )
            or "-",
        ]
        for row in answer.languages
    ]
    _print(["rows", "read", "kept", "dropped", "why"], rows, "what the filter does, by language")
    if answer.instructions_read:
        gone = answer.instructions_read - answer.instructions_kept
        best = f", {answer.not_best} of them not among the best" if answer.not_best else ""
        say_folded(f"{gone} of {answer.instructions_read} instructions dropped with all their languages{best}")
    unjudged = [
        f"{row.kind}s {row.language}" for row in answer.languages if not row.is_judged and row.language != answer.pivot
    ]
    if unjudged:
        say_folded(f"too few rows to tell misaligned ones: {', '.join(unjudged)}")
    for reason in answer.reasons:
        for example in reason.examples[:1]:
            say_folded(f"  {reason.kind} {reason.language}: {reason.reason}")
            for name, text in example.sides.items():
                say_folded(f"      {name}: {_short(text)}")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"


def _print(header: list[str], rows: list[list[str]], title: str) -> None:
    if rows:
        show_grid(plain_grid(header, rows), title)


def show_prompts(answer: TaskPrompts) -> None:
    """The rows of a task with every space and line end, as `afp task show` shows them."""
    say_folded(f"{answer.task} in {answer.language}, {answer.split}: {len(answer.rows)} prompts; quoted as in JSON")
    for row in answer.rows:
        draw = f", {row.shots} demonstrations of draw {row.demo_seed}" if row.shots else ""
        content = f", content {row.content_id}" if row.content_id != row.id else ""
        say()
        say(f"{row.name}  {row.id}{content}{draw}")
        for label, text in _prompt_lines(row):
            say(f"  {label:<10} {text}")


def _prompt_lines(row: PromptRow) -> Iterator[tuple[str, str]]:
    """Labels and quoted texts; one prompt that all choices follow is shown once."""
    if row.prompt is not None:
        yield "prompt", _quoted(row.prompt)
        yield "reference", _quoted(row.reference or "")
        return
    contexts = {context for context, _ in row.choices}
    if len(contexts) == 1:
        yield "prompt", _quoted(contexts.pop())
    for index, (context, continuation) in enumerate(row.choices):
        text = (
            _quoted(continuation)
            if len({context for context, _ in row.choices}) == 1
            else (f"{_quoted(context)} then {_quoted(continuation)}")
        )
        yield f"choice {index}", f"{text}{'   right' if index == row.gold else ''}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
