"""Records of the overlap of evaluation rows with training texts; light, so that every verb may know them."""

from typing import Literal

from afp_ray.config.base import StrictModel


class OverlapExample(StrictModel):
    """One evaluation text that training has too."""

    row: str
    """Id of the evaluation row."""
    field: str
    kind: Literal["exact", "contained"]
    text: str
    """Of the evaluation row."""
    training: str
    """The training text that has it."""


class Overlap(StrictModel):
    """How many rows of one task, language and split training has seen text of."""

    task: str
    language: str
    split: Literal["validation", "test"]
    rows: int
    exact: int
    """Rows with a text that is a whole training text, after normalisation."""
    contained: int
    """Further rows that share a run of 13 words (30 characters) with a training text."""
    suspect: int
    """Of both: rows whose every text stands in training, or that share such a run with it."""
    example: OverlapExample | None = None

    @property
    def found(self) -> int:
        """Rows with either."""
        return self.exact + self.contained


class OverlapReport(StrictModel):
    """The overlap of everything that is evaluated with everything that may be trained on."""

    training_texts: int
    heldout_removed: int = 0
    """Training pairs that every trial leaves out, for they share a sentence with a held-out pair of retrieval."""
    cells: tuple[Overlap, ...]

    @property
    def suspect(self) -> int:
        """Suspect evaluation rows, over all tasks, languages and splits."""
        return sum(cell.suspect for cell in self.cells)
