"""Records of published tables: what a paper reports, beside ours on the same task, language and number of shots."""

from afp_ray.config.base import StrictModel


class PaperCell(StrictModel):
    """One cell of a published table, and ours of the same task, language and number of shots."""

    task: str
    """`mean` is the mean over the cells that the study scored, or over all of them where it scored none."""
    language: str
    shots: int | None
    paper: float
    """On our scale: accuracy, BLEU, ROUGE and shares in [0, 1]."""
    paper_vs_base: float | None = None
    """Null for the base itself and where the table has none."""
    ours: float | None = None
    """Null where the study has no such cell."""
    vs_base: float | None = None
    """Of ours, to the base of the study."""
    ci95: tuple[float, float] | None = None
    ci95_holm: tuple[float, float] | None = None
    """The interval that agrees with `p` where several were tested."""
    p: float | None = None
    """Of the difference, adjusted (Holm) where several were tested."""


class PaperRow(StrictModel):
    """One row of a published table beside the arm of ours that has the same method."""

    name: str
    arm: str | None
    """Null where no arm of ours has a cell of it."""
    cells: tuple[PaperCell, ...]
    mean: PaperCell
    num_pairs: int | None = None
    num_instructions: int | None = None
    """Translation pairs and instructions that the paper's row was trained on; null where the source does not say, and
    for an untrained model."""
    our_num_pairs: int | None = None
    our_num_instructions: int | None = None
    """The same of our arm; null where there is none, or it is not trained."""


class PaperClaim(StrictModel):
    """What a paper says of two methods in one sentence, and what our arms of these methods say."""

    text: str
    paper: float | None = None
    """Difference of the first to the second, on our scale; null where the paper gives no number."""
    arm: str | None = None
    other: str | None = None
    """Our arms, the nearest in amount of data; null where the study lacks one."""
    ours: float | None = None
    """Difference of `arm` to `other` over the cells of the table that both scored, or of the mean where it has none."""
    ci95: tuple[float, float] | None = None
    p: float | None = None


class PaperTable(StrictModel):
    """A published table of one model beside ours."""

    table: str
    title: str
    source: str
    note: str
    metric: str
    model: str
    """What the rows are most likely of; `confidence` (high, moderate, low) and `reason` say how sure that is."""
    confidence: str
    reason: str
    our_model: str
    is_same_model: bool
    is_known: bool = True
    """Whether anything tells which model the rows are of."""
    rows: tuple[PaperRow, ...]
    """Empty where a paper gives sentences and no table."""
    claims: tuple[PaperClaim, ...] = ()
