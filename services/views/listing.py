"""Tasks, methods and languages as lines of the terminal, folded to its width."""

import shutil
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from services.output import say

if TYPE_CHECKING:
    from services.beginning import Begun
    from services.listing import LanguageRow, MethodRow, TaskRow

_NUM_WORDS = 6


def show_tasks(rows: "Sequence[TaskRow]") -> None:
    """One block a task: the languages with rows, or the files that were looked for."""
    place = rows[0].data_dir or "the embedded corpus (--data-dir DIR looks at original files)"
    say(f"rows found in {place}")
    for row in rows:
        kind = f"{row.kind}, {row.package}" if row.package else row.kind
        if row.rows:
            sums = sorted({sum(splits.values()) for splits in row.rows.values()})
            amount = f"{sums[0]:,} rows" if len(sums) == 1 else f"{sums[0]:,} to {sums[-1]:,} rows"
            languages = f"{len(row.rows)} language{'s' if len(row.rows) > 1 else ''}"
            _fold(row.name, f"{kind}, {languages} with {amount}: {' '.join(row.rows)}")
        else:
            _fold(row.name, f"{kind}, no rows found; looks for {row.layout}")
        for code, problem in row.problems.items():
            _fold("", f"{code} cannot be read: {problem}")


def show_methods(rows: "Sequence[MethodRow]") -> None:
    """One block a method: what it is, and what it reads."""
    for row in rows:
        reads = [name for name, does in (("pairs", row.reads_pairs), ("instructions", row.reads_instructions)) if does]
        what = f"trains on {' and '.join(reads)}" if row.is_trained else "untrained"
        _fold(row.name, f"{row.summary + '; ' if row.summary else ''}{what}; fields pinned: {len(row.pins)}")
    say("afp methods --json has the pinned fields")


def show_languages(rows: "Sequence[LanguageRow]") -> None:
    """One line a language."""
    for row in rows:
        lacks = _NUM_WORDS - len(row.words)
        words = "all prompt words" if not lacks else f"prompt words {' '.join(row.words) or 'none'}"
        space = "" if row.has_word_space else ", no space between words"
        _fold(row.code, f"{row.code3}  {row.name}, {row.script}{space}; {words}")


def show_begun(begun: "Begun") -> None:
    """What was seen, chosen and left out, and what to do next."""
    for name, lines in (("saw", begun.saw), ("chose", begun.chose)):
        for index, line in enumerate(lines):
            _fold(name if not index else "", line)
    for index, (name, why) in enumerate(begun.left_out.items()):
        _fold("left out" if not index else "", f"{name}: {why}")
    _fold("wrote", f"{begun.study}, and {begun.schema_file} for your editor")
    if begun.problem:
        _fold("but", f"afp plan will refuse it: {begun.problem}")
    _fold("next", f"afp plan {begun.study}; then afp run {begun.study}")


def _fold(name: str, text: str) -> None:
    width = max(40, shutil.get_terminal_size((100, 24)).columns)
    for line in textwrap.wrap(text, width, initial_indent=f"{name:<16}", subsequent_indent=" " * 16):
        say(line)
