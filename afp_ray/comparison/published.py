"""Published tables as reference data, read and checked, and set beside the same cells of a study.

Values are kept as printed (percent or points); beside ours they are fractions, as ours are.
"""

import math
from collections.abc import Mapping, Sequence, Set
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from afp_ray.comparison.confirmed import ConfirmedArm
from afp_ray.comparison.metric import Metric, difference_under, mask
from afp_ray.config import StrictModel
from afp_ray.errors import ConfigError, DataError
from afp_ray.records import ArmRow, Difference, PaperCell, PaperClaim, PaperRow, PaperTable, TableCell

FOLDER = Path(__file__).parent / "published"
BASELINES = "baselines_0shot"
CellKey = tuple[str, str, int]
"""Task, language and number of shots."""
_Key = tuple[str, str, int | None]


class ReferenceRow(StrictModel):
    """One row of a published table."""

    methods: tuple[str, ...]
    """Our methods that it corresponds to, the nearest first; empty for a method that we do not have."""
    name: str = ""
    """What the row is where no method says it."""
    values: tuple[tuple[float, ...], ...] = Field(min_length=1)
    """By column, then by number of shots, as printed."""
    averages: dict[int | Literal["all"], Decimal] = {}
    """Printed averages: over the whole row (`all`) or over the columns at one number of shots."""
    misprints: dict[int | Literal["all"], str] = {}
    """Printed averages that are not the mean of their cells, and what the cells give."""
    num_pairs: int | None = None
    num_instructions: int | None = None
    """Translation pairs and instructions that it was trained on; null where the source does not say."""

    @property
    def label(self) -> str:
        """The row's name in a table."""
        return self.name or (self.methods[0] if self.methods else "?")


class ReferenceModel(StrictModel):
    """The rows of one model."""

    model: str | None
    """Hub id of the checkpoint that the rows are most likely of; null where nothing tells."""
    label: str
    confidence: Literal["high", "moderate", "low"]
    reason: str
    """Why the rows are taken to be this model's."""
    rows: tuple[ReferenceRow, ...] = Field(min_length=1)


class ReferenceClaim(StrictModel):
    """A published sentence: methods of which one is better than the other."""

    text: str
    better: tuple[str, ...] = Field(min_length=1)
    than: tuple[str, ...] = Field(min_length=1)
    """Our methods that it speaks of, the nearest first."""
    delta: Decimal | None = None
    """Printed difference in points: the mean over all cells of all models of the table."""
    num_pairs: int | None = None
    num_instructions: int | None = None
    """What the better one was trained on; null where the source does not say."""


class ReferenceTable(StrictModel):
    """One published table, or sentences where no table was published."""

    title: str
    source: str
    setting: Literal["bilingual", "multilingual"]
    languages: tuple[str, ...]
    metric: str
    note: str = ""
    shots: tuple[int, ...] = ()
    columns: tuple[str, ...] = ()
    """`task/language`; from English into the language, or `task_to_pivot/language` for the way back."""
    models: tuple[ReferenceModel, ...] = ()
    claims: tuple[ReferenceClaim, ...] = ()

    @model_validator(mode="after")
    def _rows_fill_the_table(self) -> Self:
        if not (self.claims or self.models) or bool(self.models) != bool(self.columns and self.shots):
            raise ValueError("a table has models, columns and shots, or claims alone")
        for model in self.models:
            for row in model.rows:
                if len(row.values) != len(self.columns) or any(len(part) != len(self.shots) for part in row.values):
                    raise ValueError(
                        f"row {row.label} of {model.label} does not have {len(self.columns)} columns of "
                        f"{len(self.shots)} values"
                    )
                for name, printed in row.averages.items():
                    agrees = is_rounded(self.mean_of(row, name), printed)
                    if agrees == (name in row.misprints):
                        raise ValueError(
                            f"average {name} of {row.label} of {model.label} is printed as {printed}, the mean of its "
                            f"cells is {self.mean_of(row, name)}; list it under `misprints` if it is so printed"
                        )
        for claim in self.claims:
            if claim.delta is not None and not is_rounded(mean := self._mean_difference(claim), claim.delta):
                raise ValueError(f"{claim.text!r} prints {claim.delta}, the mean difference of the cells is {mean}")
        return self

    def _mean_difference(self, claim: ReferenceClaim) -> Decimal:
        """Mean over the models of the difference that a claim speaks of, over all cells."""
        sides = [
            [self.mean_of(row, "all") for model in self.models for row in model.rows if set(row.methods) & set(methods)]
            for methods in (claim.better, claim.than)
        ]
        differences = [better - than for better, than in zip(*sides, strict=True)]
        return sum(differences, Decimal(0)) / len(differences)

    def mean_of(self, row: ReferenceRow, shots: int | Literal["all"]) -> Decimal:
        """Mean of the row's cells, of one number of shots or all, as exact as they are printed."""
        columns = range(len(self.shots)) if shots == "all" else [self.shots.index(shots)]
        cells = [Decimal(str(part[column])) for part in row.values for column in columns]
        return sum(cells, Decimal(0)) / len(cells)

    @property
    def keys(self) -> list[CellKey]:
        """Task, language and number of shots of every cell."""
        pairs = [column.partition("/") for column in self.columns]
        return [(task, language, shots) for task, _, language in pairs for shots in self.shots]

    def cells(self, row: ReferenceRow) -> dict[CellKey, float]:
        """The row's values as printed, by task, language and number of shots."""
        return dict(zip(self.keys, (value for part in row.values for value in part), strict=True))


def is_rounded(value: Decimal, printed: Decimal) -> bool:
    """Whether `printed` is `value` to its last digit; a five in the next place may go either way."""
    unit = Decimal(1).scaleb(int(printed.as_tuple().exponent))
    return abs(value - printed) <= unit / 2 or value.quantize(unit, ROUND_HALF_UP) == printed


def published_names() -> tuple[str, ...]:
    """Names of the tables that ship."""
    return tuple(sorted(file.stem for file in FOLDER.glob("*.yaml")))


def check_published(names: Sequence[str]) -> None:
    """Refuse names that are no published table.

    Raises: ConfigError naming the tables that there are.
    """
    for name in names:
        if name not in published_names():
            raise ConfigError(
                f"there is no published table {name[:80]!r}",
                where="published",
                allowed=", ".join(published_names()),
                fix="give one of these names",
            )


@cache
def load_published(name: str) -> ReferenceTable:
    """The published table called `name`.

    Raises: ConfigError for a name that is none; DataError when its file is not as it should be.
    """
    check_published([name])
    file = FOLDER / f"{name}.yaml"
    try:
        return ReferenceTable.model_validate(yaml.safe_load(file.read_text("utf-8")))
    except (ValidationError, yaml.YAMLError) as error:
        raise DataError(f"the published table cannot be read: {error}", where=str(file)) from error


def is_same_model(reference: str | None, ours: str) -> bool:
    """Whether our model, a hub id or a folder, bears the name of the published checkpoint."""
    last = [name.rstrip("/").rpartition("/")[2].casefold() for name in (reference or "", ours)]
    return bool(last[0]) and last[0] == last[1]


def baseline(model: str) -> Mapping[CellKey, float]:
    """Published scores of an untrained checkpoint, in [0, 1]; empty where there are none.

    Args:
        model: hub id, or a folder whose name is the checkpoint's.
    """
    table = load_published(BASELINES)
    for group in table.models:
        if is_same_model(group.model, model):
            return {key: value / 100 for key, value in table.cells(group.rows[0]).items()}
    return {}


def set_beside(
    names: Sequence[str],
    arms: Sequence[ConfirmedArm],
    rows: Sequence[ArmRow],
    bases: Sequence[ConfirmedArm | None],
    *,
    direction: str = "maximize",
) -> list[PaperTable]:
    """The published tables beside ours, one for each model of theirs.

    A model of which a table has untrained scores alone is left out, unless it is ours.

    Args:
        names: of the tables.
        arms, rows, bases: our arms, their rows of the ablation table, and the base of each; None for a base itself.
        direction: of the objective: among arms of one method, trained on amounts as near to the paper's, the best on
            validation is shown.
    Raises: ConfigError for a name that is no published table.
    """
    ours = sorted(
        zip(arms, rows, bases, strict=True),
        key=lambda item: (item[1].validation or 0.0) * (-1 if direction == "maximize" else 1),
    )
    tables = []
    models = [str(arm.config["model"]["name"]) for arm in arms]
    for name in dict.fromkeys(names):
        table = load_published(name)
        claims = tuple(_claim(table, claim, ours) for claim in table.claims)
        if not table.models:
            tables.append(_sentences(name, table, claims, our_model=models[0]))
        for group in table.models:
            same = next((model for model in models if is_same_model(group.model, model)), None)
            if same is None and all(set(row.methods) <= {"base"} for row in group.rows):
                continue
            tables.append(
                PaperTable(
                    table=name,
                    title=table.title,
                    source=table.source,
                    note=table.note,
                    metric=table.metric,
                    model=group.label,
                    confidence=group.confidence,
                    reason=group.reason,
                    our_model=same or models[0],
                    is_same_model=same is not None,
                    is_known=group.model is not None,
                    rows=_rows(table, group, ours),
                    claims=claims,
                )
            )
            claims = ()  # they are of the whole table
    return tables


_Ours = tuple[ConfirmedArm, ArmRow, ConfirmedArm | None]


def _rows(table: ReferenceTable, group: ReferenceModel, ours: Sequence[_Ours]) -> tuple[PaperRow, ...]:
    """Every row of a model; all their means are over the same cells, those that the study scored."""
    arms = [_arm_of(group, row, ours) for row in group.rows]
    keys = table.cells(group.rows[0])
    scored = {key for own in arms if own for cell in own[1].cells if (key := _key(cell)) in keys}
    return tuple(_row(table, group, row, own, scored) for row, own in zip(group.rows, arms, strict=True))


def _row(
    table: ReferenceTable, group: ReferenceModel, row: ReferenceRow, own: _Ours | None, scored: Set[_Key]
) -> PaperRow:
    base = next((other for other in group.rows if "base" in other.methods and other is not row), None)
    before = table.cells(base) if base else {}
    arm_row = own[1] if own else None
    our_cells = {_key(cell): cell for cell in arm_row.cells} if arm_row else {}
    cells = []
    for (task, language, shots), value in table.cells(row).items():
        cell = our_cells.get((task, language, shots))
        cells.append(
            PaperCell(
                task=task,
                language=language,
                shots=shots,
                paper=round(value / 100, 6),
                paper_vs_base=round((value - before[task, language, shots]) / 100, 6) if before else None,
                ours=cell.mean if cell else None,
                **_difference(cell.vs_base if cell else None),
            )
        )
    name = arm_row.arm if arm_row and any(cell.ours is not None for cell in cells) else None
    data = own[0].config["data"] if own and name and own[0].is_trained else {}
    return PaperRow(
        name=row.label,
        arm=name,
        cells=tuple(cells),
        mean=_mean(cells, own, scored),
        num_pairs=row.num_pairs,
        num_instructions=row.num_instructions,
        our_num_pairs=None if data.get("num_pairs") == "all" else data.get("num_pairs"),
        our_num_instructions=None if data.get("num_instructions") == "all" else data.get("num_instructions"),
    )


def _arm_of(group: ReferenceModel, row: ReferenceRow, ours: Sequence[_Ours]) -> _Ours | None:
    """Our arm of the nearest method: of the same model where there is one, then of the nearest amount of data."""
    return _nearest(row.methods, row, [item for item in ours if _is_of(group, item)]) or _nearest(
        row.methods, row, ours
    )


def _nearest(
    methods: Sequence[str], amounts: ReferenceRow | ReferenceClaim | None, ours: Sequence[_Ours]
) -> _Ours | None:
    """The arm of the first method that there is, trained on amounts nearest to these; the first of equally near.

    One that was trained on none of what the paper's was trained on is none of them.
    """
    for method in methods:
        arms = [(_distance(amounts, item[0].config["data"]), item) for item in ours if item[0].method == method]
        if near := [arm for arm in arms if arm[0] < math.inf]:
            return min(near, key=lambda arm: arm[0])[1]
    return None


def _is_of(group: ReferenceModel, item: _Ours) -> bool:
    return is_same_model(group.model, str(item[0].config["model"]["name"]))


def _distance(amounts: ReferenceRow | ReferenceClaim | None, data: Mapping[str, Any]) -> float:
    """By what factor ours are more or fewer, as a logarithm; none at all is as far from some as can be."""
    distance = 0.0
    for name in ("num_pairs", "num_instructions"):
        theirs, own = getattr(amounts, name, None), data[name]
        if theirs is not None and own not in (theirs, "all"):  # of all a configuration does not say how many
            distance += abs(math.log(own / theirs)) if own and theirs else math.inf
    return distance


def _claim(table: ReferenceTable, claim: ReferenceClaim, ours: Sequence[_Ours]) -> PaperClaim:
    paper = float(claim.delta) / 100 if claim.delta is not None else None
    better, than = _nearest(claim.better, claim, ours), _nearest(claim.than, None, ours)
    if better is None or than is None or not better[0].examples.same_as(than[0].examples):
        return PaperClaim(text=claim.text, paper=paper)
    delta = difference_under(_under(better[0], table.keys), better[0], than[0])
    return PaperClaim(
        text=claim.text,
        paper=paper,
        arm=better[1].arm,
        other=than[1].arm,
        ours=delta.delta if delta else None,
        ci95=delta.ci95 if delta else None,
        p=delta.p if delta else None,
    )


def _sentences(name: str, table: ReferenceTable, claims: tuple[PaperClaim, ...], *, our_model: str) -> PaperTable:
    """What a paper says without a table."""
    return PaperTable(
        table=name,
        title=table.title,
        source=table.source,
        note=table.note,
        metric=table.metric,
        model="",
        confidence="",
        reason="",
        our_model=our_model,
        is_same_model=False,
        is_known=False,
        rows=(),
        claims=claims,
    )


def _key(cell: TableCell) -> _Key:
    return cell.task, cell.language, cell.shots


def _mean(cells: Sequence[PaperCell], own: _Ours | None, scored: Set[_Key]) -> PaperCell:
    """The mean of a row over the cells that the study scored, be they of an arm beside it or not."""
    shared = [(cell, cell.ours) for cell in cells if cell.ours is not None]
    counted = [cell for cell in cells if (cell.task, cell.language, cell.shots) in scored] or cells
    deltas = [cell.paper_vs_base for cell in counted if cell.paper_vs_base is not None]
    return PaperCell(
        task="mean",
        language="",
        shots=None,
        paper=float(np.mean([cell.paper for cell in counted])),
        paper_vs_base=float(np.mean(deltas)) if deltas else None,
        ours=float(np.mean([value for _, value in shared])) if shared else None,
        **_difference(_mean_difference([cell for cell, _ in shared], own)),
    )


def _mean_difference(cells: Sequence[PaperCell], own: _Ours | None) -> Difference | None:
    """The difference of our arm to its base over the examples of these cells."""
    arm, _, base = own or (None, None, None)
    if arm is None or base is None or not cells:
        return None
    return difference_under(_under(arm, [(cell.task, cell.language, cell.shots) for cell in cells]), arm, base)


def _under(arm: ConfirmedArm, keys: Sequence[_Key]) -> NDArray[np.bool_]:
    """(N,) examples of these cells; those of the mean where there are no cells."""
    examples = arm.examples
    where = np.zeros(len(examples), dtype=bool) if keys else mask(Metric("mean"), examples, arm.pivot)
    for task, language, shots in keys:
        where |= (examples.task == task) & (examples.language == language) & (examples.shots == shots)
    return where


def _difference(delta: Difference | None) -> dict[str, Any]:
    if delta is None:
        return {}
    p = delta.p if delta.p_holm is None else delta.p_holm
    return {"vs_base": delta.delta, "ci95": delta.ci95, "ci95_holm": delta.ci95_holm, "p": p}
