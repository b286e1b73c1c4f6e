"""Walks the cells of an evaluation, and lets the next one be rendered and tokenised while the present one is scored."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from typing import Any

from afp_ray.evaluation.ahead import Ahead
from afp_ray.evaluation.choice_scores import ChoiceScoring


class CellsAhead:
    """The cells of units that are scored one after another.

    A device that computes on its own leaves the host idle, and waits while the host renders and tokenises. So once a
    cell of choices was scored, a thread makes the next one, also that of the next unit. It begins when the present cell
    is handed out, and it never runs beside a cell that writes texts: a tokenizer serves one thread at a time.

    Args:
        units: in their order, each with its scoring, and the task and language that it has cells of.
        executor: of one thread, which is not started before there is something to make ahead.
    """

    def __init__(self, units: Sequence[tuple[Any, str, str]], executor: Executor) -> None:
        self._units, self._executor = units, executor
        self._coming: dict[int, Ahead[Any]] = {}

    def of(self, index: int) -> Iterator[Any]:
        """The cells of one unit; an error in making one is raised where it would have come."""
        scoring = self._units[index][0]
        cells: Iterator[Any] = self._coming.pop(index) if index in self._coming else self._made_when_asked(index)
        while (cell := next(cells, None)) is not None:
            if isinstance(scoring, ChoiceScoring) and scoring.looks_ahead():
                if not isinstance(cells, Ahead):
                    cells = Ahead(map(scoring.look_ahead, cells), self._executor)
                self._begin(index + 1)
            yield cell

    def _begin(self, index: int) -> None:
        """Let the first cell of a unit be made, behind what is being made already."""
        if index >= len(self._units) or index in self._coming:
            return
        scoring = self._units[index][0]
        if isinstance(scoring, ChoiceScoring):
            self._coming[index] = Ahead(map(scoring.look_ahead, self._made_when_asked(index)), self._executor)

    def _made_when_asked(self, index: int) -> Iterator[Any]:
        scoring, name, language = self._units[index]
        yield from scoring.cells(name, language)
