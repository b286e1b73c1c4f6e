"""Pictures of a search: the objective trial by trial, against every searched field, and which field mattered."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from afp_ray.config import StudyConfig
from afp_ray.records import FieldImportance, StudyState, TrialRecord
from services.views.axes import Scale, around, frame, short
from services.views.grid import percent
from services.views.pictures import Box, Circle, Line, Mark, Picture, Text, file_name
from services.views.score_pictures import WIDTH, label_width
from services.views.training_pictures import legend

_MAX_TRIALS = 1500
"""The last so many are drawn."""
Scored = tuple[int, TrialRecord, float]
"""Number of the trial from 1, its record, and its objective."""


def search_pictures(
    study: StudyConfig, state: StudyState, importances: Sequence[FieldImportance], colours: Mapping[str, str]
) -> list[Picture]:
    """History, every searched field against the objective, and importances; nothing where nothing was searched."""
    scored: list[Scored] = [
        (number, trial, trial.objective)
        for number, trial in enumerate(state.trials, start=1)
        if trial.objective is not None and trial.arm in colours
    ][-_MAX_TRIALS:]
    searched = [each for each in scored if each[1].params]
    if not searched:
        return []
    fields = list(dict.fromkeys(name for _, trial, _ in searched for name in trial.params))
    pictures = [_history(study, scored, colours)]
    pictures += [_field(study, name, searched, colours) for name in fields]
    return [*pictures, *([_importance(importances, colours)] if importances else [])]


def _shown(study: StudyConfig, value: float) -> float:
    """An objective as it is drawn: shares in percent, all else as it is."""
    return value if study.objective.metric in ("alignment", "uniformity") else 100 * value


def _unit(study: StudyConfig) -> str:
    percent_sign = "" if study.objective.metric in ("alignment", "uniformity") else ", %"
    return f"{study.objective.metric} on {study.objective.split}{percent_sign}"


def _vertical(study: StudyConfig, scored: Sequence[Scored]) -> Scale:
    low, high = around([_shown(study, value) for *_, value in scored], 0.1)
    return Scale(low, high, 232, 34)


def _dot(study: StudyConfig, x: float, y: Scale, each: Scored, colour: str) -> Circle:
    _, trial, value = each
    fields = ", ".join(f"{name} {_text(setting)}" for name, setting in trial.params.items())
    told = (
        f"{trial.arm} {trial.trial_id[:8]}, {trial.role}: {short(_shown(study, value))}{'; ' if fields else ''}{fields}"
    )
    return Circle(x, y(_shown(study, value)), 4.5, "full" if trial.params else "open", colour, told)


def _history(study: StudyConfig, scored: Sequence[Scored], colours: Mapping[str, str]) -> Picture:
    first, last = scored[0][0], scored[-1][0]
    x, y = Scale(first - 0.5, last + 0.5, 52, WIDTH - 12), _vertical(study, scored)
    ticks = [(tick, str(round(tick))) for tick in x.ticks(8) if tick == round(tick) and tick >= 1]
    marks = frame(x, y, x_words="trial, in the order in which they were planned", x_ticks=ticks)
    sign = 1 if study.objective.direction == "maximize" else -1
    best: list[tuple[int, float]] = []
    for number, _, value in scored:
        best.append((number, value if not best else sign * max(sign * best[-1][1], sign * value)))
    for (left, before), (right, after) in pairwise(best):
        a, b = y(_shown(study, before)), y(_shown(study, after))
        marks += [Line(x(left), a, x(right), a, "zero")] + ([Line(x(right), a, x(right), b, "zero")] if a != b else [])
    marks += legend(list(dict.fromkeys(trial.arm for _, trial, _ in scored)), colours)
    marks += [_dot(study, x(each[0]), y, each, colours[each[1].arm]) for each in scored]
    label = (
        f"{_unit(study)} of {len(scored)} trials, from {short(_shown(study, scored[0][2]))}; best "
        f"{short(_shown(study, best[-1][1]))}; the table of trials has every number"
    )
    note = f"{_unit(study)}; filled: trials of the search, open: trials that confirm; dashed: the best so far."
    return Picture("history", "Search history", note, label, WIDTH, 272, tuple(marks))


def _field(study: StudyConfig, name: str, searched: Sequence[Scored], colours: Mapping[str, str]) -> Picture:
    own = [each for each in searched if name in each[1].params]
    values = [each[1].params[name] for each in own]
    spec = study.tune.get(name)
    is_range = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    is_range = is_range and not hasattr(spec, "choices")
    y = _vertical(study, own)
    if is_range:
        is_log = bool(getattr(spec, "log", False)) and min(values) > 0
        low, high = _ends(spec, values)
        margin = (high / low) ** 0.04 if is_log else 0.05 * ((high - low) or 1.0)
        low, high = (low / margin, high * margin) if is_log else (low - margin, high + margin)
        x = Scale(low, high, 52, WIDTH - 12, is_log=is_log)
        whole = all(isinstance(value, int) for value in values)
        ticks = [(tick, short(tick)) for tick in x.ticks(6) if not whole or tick == round(tick)]
        at = [x(value) for value in values]
    else:
        kinds = sorted(set(values), key=lambda value: (str(type(value)), value))
        x = Scale(-0.5, len(kinds) - 0.5, 52, WIDTH - 12)
        ticks = [(float(index), _text(kind)) for index, kind in enumerate(kinds)]
        at = _beside([kinds.index(value) for value in values], x)
    marks = frame(x, y, x_words=name, x_ticks=ticks)
    marks += legend(list(dict.fromkeys(trial.arm for _, trial, _ in own)), colours)
    marks += [_dot(study, pixel, y, each, colours[each[1].arm]) for pixel, each in zip(at, own, strict=True)]
    label = f"{_unit(study)} against {name}: {len(own)} trials; the table of trials has every number"
    return Picture(
        file_name("field", name),
        name,
        f"{_unit(study)}; filled: search, open: confirmation.",
        label,
        WIDTH,
        272,
        tuple(marks),
    )


def _ends(spec: object, values: Sequence[Any]) -> tuple[float, float]:
    """The range that was searched, and whatever was tried outside it."""
    low, high = getattr(spec, "low", min(values)), getattr(spec, "high", max(values))
    return float(min(low, *values)), float(max(high, *values))


def _beside(kinds: Sequence[int], x: Scale) -> list[float]:
    """Pixels of trials by their choice, side by side around its middle in the order of the trials."""
    width = 0.5 * abs(x(1) - x(0))
    seen: dict[int, int] = {}
    total = {kind: kinds.count(kind) for kind in set(kinds)}
    pixels = []
    for kind in kinds:
        number = seen.get(kind, 0)
        seen[kind] = number + 1
        pixels.append(x(kind) + width * ((number + 0.5) / total[kind] - 0.5))
    return pixels


def _importance(importances: Sequence[FieldImportance], colours: Mapping[str, str]) -> Picture:
    rows = sorted(importances, key=lambda row: (row.arm, -row.share))
    left = label_width([f"{row.arm}: {row.field}" for row in rows])
    x = Scale(0, 100, left, WIDTH - 100)
    bottom = 8.0 + 24 * len(rows)
    marks: list[Mark] = [Box(left, 4, x.end - left, bottom - 4, "frame")]
    for tick in (0, 25, 50, 75, 100):
        marks += [Line(x(tick), 4, x(tick), bottom, "axis"), Text(x(tick), bottom + 17, str(tick), "quiet", "middle")]
    for index, row in enumerate(rows):
        y, colour = 18.0 + 24 * index, colours.get(row.arm, "mark")
        title = f"{row.arm}: {row.field} {percent(row.share)} %"
        marks.append(Text(8, y + 4, f"{row.arm}: {row.field}"))
        marks.append(Box(left, y - 6, x(100 * row.share) - left, 12, "bar", colour, title=title))
        marks.append(Line(x(100 * row.ci95[0]), y, x(100 * row.ci95[1]), y, "range"))
        words = f"{percent(row.share)} %" + (" *" if row.p < 0.05 else "")
        marks.append(Text(x.end + 10, y + 4, words, "strong" if row.p < 0.05 else "words"))
    told = "; ".join(f"{row.arm} {row.field} {percent(row.share)} %" for row in rows)
    note = "Share in telling the best tenth of the trials from all, with its interval; * where it is significant."
    label = f"Importance of the searched fields: {told}"
    return Picture("importance", "Which field mattered?", note, label, WIDTH, bottom + 28, tuple(marks))


def _text(value: object) -> str:
    return short(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
