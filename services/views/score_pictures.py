"""Pictures of scores: retrieval before and after, differences to base by arm, task and language, score against cost."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from afp_ray.records import ArmRow, Comparison, Difference, RepresentationRow, TableCell, signed_points
from services.views.axes import Scale, around, frame, round_step, short, signed
from services.views.grid import interval, percent
from services.views.pictures import Box, Circle, Line, Mark, Picture, Text, arm_colours, file_name, real_minus

WIDTH = 540.0
"""Of a picture that has another one beside it, in pixels."""
_ROW = 24.0
_STRIP = 10
"""Languages side by side in a heat map; further ones stand below."""


def colours_of(comparison: Comparison) -> dict[str, str]:
    """The colour of every arm, in all pictures of a study."""
    return arm_colours((arm.arm, arm.is_base) for arm in comparison.arms)


def retrieval_picture(comparison: Comparison) -> Picture | None:
    """How many translations are found before and after, by arm; a speck per language. None where none was measured."""
    rows = [row for row in comparison.representation if not row.language and row.before is not None]
    if not rows:
        return None
    colours = colours_of(comparison)
    left, right = label_width(row.arm for row in rows), WIDTH - 116
    x = Scale(0, 100, left, right)
    top = 14.0
    bottom = top + len(rows) * _ROW + 8
    marks: list[Mark] = [Box(left, top, right - left, bottom - top, "frame")]
    for tick in (0, 25, 50, 75, 100):
        marks += [Line(x(tick), top, x(tick), bottom, "axis"), Text(x(tick), bottom + 17, str(tick), "quiet", "middle")]
    for index, row in enumerate(rows):
        own = [each for each in comparison.representation if each.arm == row.arm and each.language]
        marks += _retrieval_row(row, own, x, top + 16 + index * _ROW, colours[row.arm])
    marks.append(Text((left + right) / 2, bottom + 35, "translations found (retrieval@1), %", "quiet", "middle"))
    told = "; ".join(f"{row.arm} {percent(_before(row))} before, {percent(row.retrieval_at_1)} after" for row in rows)
    return Picture(
        "retrieval",
        "Are translations closer together?",
        "Held-out sentences: from base (grey) to after training, filled where the difference is significant, with the "
        "interval; faint: each language.",
        f"Share of held-out sentences whose translation is the nearest one, in %: {told}",
        WIDTH,
        bottom + 44,
        tuple(marks),
    )


def _before(row: RepresentationRow) -> float:
    assert row.before is not None
    return row.before[0]


def _retrieval_row(
    row: RepresentationRow, languages: Sequence[RepresentationRow], x: Scale, y: float, colour: str
) -> list[Mark]:
    before, after = x(100 * _before(row)), x(100 * row.retrieval_at_1)
    marks: list[Mark] = [Text(8, y + 4, row.arm, "strong")]
    for each in languages:
        title = f"{row.arm}, {each.language}: {percent(each.retrieval_at_1)} %"
        marks.append(Circle(x(100 * each.retrieval_at_1), y, 3.5, "speck", colour, title))
    words = f"{row.arm}: {percent(_before(row))} % before, {percent(row.retrieval_at_1)} % after"
    ends, delta = row.retrieval_ci95, row.retrieval_difference
    kind = "open" if delta and not delta.is_significant else "full"
    return [
        *marks,
        Line(before, y, after, y, "arrow", colour),
        *([Line(x(100 * ends[0]), y, x(100 * ends[1]), y, "range")] if ends else []),
        Circle(before, y, 5, "open", "soft", words),
        Circle(after, y, 5, kind, colour, words),
        Text(x.end + 10, y + 4, f"{percent(_before(row))} → {percent(row.retrieval_at_1)}"),
    ]


def summary_picture(comparison: Comparison) -> Picture | None:
    """The mean difference of each arm to base, and that in the pivot language; None where there is no base."""
    arms = [arm for arm in comparison.arms if not arm.is_base]
    groups = [
        ("mean of tasks, other languages", [(arm.arm, _difference(arm.mean)) for arm in arms]),
        ("pivot language", [(arm.arm, _difference(arm.pivot_mean)) for arm in arms]),
    ]
    return _forest(
        "tasks",
        "Do the tasks gain, and what does it cost the pivot?",
        "Difference to base, in points, with its interval; filled where it is significant after Holm.",
        groups,
        colours_of(comparison),
        unit="points against base",
    )


def forest_pictures(comparison: Comparison) -> list[Picture]:
    """For each arm its difference to base by task and language, all to one scale."""
    colours = colours_of(comparison)
    arms = [arm for arm in comparison.arms if any(cell.vs_base for cell in arm.cells)]
    reach = _reach([cell.vs_base for arm in arms for cell in arm.cells])
    pictures = []
    for arm in arms:
        groups = [("all tasks", [("other languages", _difference(arm.mean)), ("pivot", _difference(arm.pivot_mean))])]
        for task in dict.fromkeys(cell.task for cell in arm.cells):
            cells = [cell for cell in arm.cells if cell.task == task]
            several = len({cell.shots for cell in cells}) > 1
            groups.append((task, [(_cell_name(cell, several), cell.vs_base) for cell in cells]))
        drawn = _forest(
            file_name("forest", arm.arm),
            arm.arm,
            "",
            groups,
            colours,
            unit=f"{arm.arm} - base, points",
            colour=colours[arm.arm],
            reach=reach,
        )
        pictures += [drawn] if drawn else []
    return pictures


def _cell_name(cell: TableCell, has_shots: bool) -> str:
    return f"{cell.language}, {cell.shots}-shot" if has_shots else cell.language


def _difference(cell: TableCell | None) -> Difference | None:
    return cell.vs_base if cell else None


def _reach(differences: Sequence[Difference | None]) -> float:
    """Points on each side of 0 that hold every difference, and of the intervals what does not dwarf them."""
    deltas = [abs(100 * delta.delta) for delta in differences if delta]
    ends = [abs(100 * end) for delta in differences if delta for end in delta.shown or ()]
    widest = max(ends, default=1.0)
    return max(1.0, min(widest, 3 * max(deltas, default=1.0))) * 1.06


def _forest(
    name: str,
    title: str,
    note: str,
    groups: Sequence[tuple[str, Sequence[tuple[str, Difference | None]]]],
    colours: Mapping[str, str],
    *,
    unit: str,
    colour: str | None = None,
    reach: float | None = None,
) -> Picture | None:
    """Differences with intervals in groups of rows; in one colour, or each in that of the arm it is named after."""
    shown = [(head, [(label, delta) for label, delta in rows if delta]) for head, rows in groups]
    shown = [(head, rows) for head, rows in shown if rows]
    if not shown:
        return None
    reach = reach or _reach([delta for _, rows in shown for _, delta in rows])
    left, right = label_width(label for _, rows in shown for label, _ in rows), WIDTH - 150
    x = Scale(-reach, reach, left, right)
    marks: list[Mark] = []
    y = 4.0
    for head, rows in shown:
        marks.append(Text(8, y + 18, head, "quiet"))
        y += 22
        for label, delta in rows:
            assert delta is not None
            marks += _forest_row(label, delta, x, y + 11, colour or colours.get(label, "mark"))
            y += 20
        y += 4
    bottom = y
    back: list[Mark] = [Box(left, 4, right - left, bottom - 4, "frame")]
    step = round_step(reach / 3)
    for number in range(-4, 5):
        if abs(number * step) <= reach:
            at = x(number * step)
            back += [
                Line(at, 4, at, bottom, "axis" if number else "zero"),
                Text(at, bottom + 17, signed(number * step), "quiet", "middle"),
            ]
    back.append(Text((left + right) / 2, bottom + 35, real_minus(unit), "quiet", "middle"))
    told = "; ".join(
        f"{head}: " + ", ".join(f"{label} {_told(delta)}" for label, delta in rows if delta) for head, rows in shown
    )
    return Picture(name, title, note, real_minus(f"{unit}. {told}"), WIDTH, bottom + 44, (*back, *marks))


def _forest_row(label: str, delta: Difference, x: Scale, y: float, colour: str) -> list[Mark]:
    words = real_minus(f"{label}: {_told(delta)}")
    marks: list[Mark] = [Text(8, y + 4, label)]
    if delta.shown:
        low, high = (min(max(100 * end, x.low), x.high) for end in delta.shown)
        marks.append(Line(x(low), y, x(high), y, "whisker", colour))
    middle = min(max(100 * delta.delta, x.low), x.high)
    marks.append(Circle(x(middle), y, 5, "full" if delta.is_significant else "open", colour, words))
    text = signed_points(delta.delta) + (f" {interval(delta.shown)}" if delta.shown else "")
    return [*marks, Text(x.end + 10, y + 4, real_minus(text))]


def _told(delta: Difference) -> str:
    words = signed_points(delta.delta) + (f" {interval(delta.shown)}" if delta.shown else "")
    return f"{words}{', significant' if delta.is_significant else ''}"


def label_width(labels: Iterable[str]) -> float:
    """Pixels that the longest of some labels needs."""
    longest = max((len(label) for label in labels), default=4)
    return min(200.0, max(52.0, 20 + 7.4 * longest))


def heat_pictures(comparison: Comparison) -> list[Picture]:
    """For each arm a map of its differences to base, tasks down and languages across, all in one range of colours."""
    arms = [arm for arm in comparison.arms if any(cell.vs_base for cell in arm.cells)]
    most = max((abs(cell.vs_base.delta) for arm in arms for cell in arm.cells if cell.vs_base), default=0.0)
    return [_heat(arm, most) for arm in arms]


def _heat(arm: ArmRow, most: float) -> Picture:
    cells = {(_row_name(cell, arm), cell.language): cell for cell in arm.cells if cell.vs_base}
    rows = list(dict.fromkeys(row for row, _ in cells))
    languages = list(dict.fromkeys(language for _, language in cells))
    left = label_width(rows)
    num_strips = -(-len(languages) // _STRIP)
    size = -(-len(languages) // num_strips)
    strips = [languages[start : start + size] for start in range(0, len(languages), size)]
    wide = (WIDTH - left - 8) / max(len(strips[0]), 5)
    marks: list[Mark] = []
    y = 4.0
    for strip in strips:
        marks += [Text(left + (i + 0.5) * wide, y + 14, code, "quiet", "middle") for i, code in enumerate(strip)]
        y += 22
        for row in rows:
            marks.append(Text(8, y + 19, row))
            for index, language in enumerate(strip):
                if cell := cells.get((row, language)):
                    marks += _heat_cell(cell, left + index * wide, y, wide, most)
            y += 30
        y += 6
    told = "; ".join(
        f"{row}: "
        + ", ".join(f"{code} {_told(delta)}" for code in languages if (delta := _difference(cells.get((row, code)))))
        for row in rows
    )
    label = real_minus(f"{arm.arm} - base in points by task and language. {told}")
    return Picture(file_name("heat", arm.arm), arm.arm, "", label, WIDTH, y + 2, tuple(marks))


def _row_name(cell: TableCell, arm: ArmRow) -> str:
    several = len({each.shots for each in arm.cells if each.task == cell.task}) > 1
    return f"{cell.task}, {cell.shots}-shot" if several else cell.task


def _heat_cell(cell: TableCell, x: float, y: float, width: float, most: float) -> list[Mark]:
    delta = cell.vs_base
    assert delta is not None
    strength = 0.55 * abs(delta.delta) / most if most else 0.0
    title = real_minus(f"{cell.task}, {cell.language}: {_told(delta)}")
    colour = "more" if delta.delta > 0 else "less"
    return [
        Box(x, y, width - 2, 28, "frame"),
        Box(x, y, width - 2, 28, "shade", colour, strength, title),
        Text(
            x + width / 2 - 1,
            y + 18,
            real_minus(signed_points(delta.delta)),
            "strong" if delta.is_significant else "words",
            "middle",
        ),
    ]


def cost_picture(comparison: Comparison) -> Picture | None:
    """Score against the device-hours of one training, arm by arm; None where there is a single arm."""
    points = [point for point in comparison.pareto if point.score is not None]
    if len(points) < 2:
        return None
    colours = colours_of(comparison)
    hours = [point.hours.training if point.hours else point.gpu_hours for point in points]
    is_short = max(hours) < 1
    costs = [60 * hour if is_short else hour for hour in hours]
    x = Scale(-0.04 * max(*costs, 1e-9), 1.12 * max(*costs, 1e-9), 52, WIDTH - 20)
    low, high = around([100 * point.score for point in points], 0.2)
    y = Scale(low, high, 244, 20)
    x_ticks = [(tick, short(tick)) for tick in x.ticks(6) if tick >= 0]
    marks = frame(x, y, x_words=f"device-{'minutes' if is_short else 'hours'} of one training", x_ticks=x_ticks)
    marks.append(Text(8, 13, "mean score, %", "quiet"))
    front = sorted((cost, point.score) for cost, point in zip(costs, points, strict=True) if point.is_on_front)
    for (cost, score), (dearer, better) in pairwise(front):
        marks += [Line(x(cost), y(100 * score), x(dearer), y(100 * score), "zero")]
        marks += [Line(x(dearer), y(100 * score), x(dearer), y(100 * better), "zero")]
    for cost, point in zip(costs, points, strict=True):
        title = f"{point.arm}: {percent(point.score)} %, {short(cost)} device-{'minutes' if is_short else 'hours'}"
        kind = "full" if point.is_on_front else "open"
        marks.append(Circle(x(cost), y(100 * point.score), 6, kind, colours[point.arm], title))
        marks.append(Text(x(cost) + 10, y(100 * point.score) - 7, point.arm, "strong"))
    told = "; ".join(
        f"{point.arm} {percent(point.score)} % for {cost:.3g}" for cost, point in zip(costs, points, strict=True)
    )
    note = (
        f"{comparison.cost_note[0].upper()}{comparison.cost_note[1:]}."
        if comparison.cost_note
        else "Filled, and joined: nothing is as good and as cheap."
    )
    label = f"Mean score against device-{'minutes' if is_short else 'hours'} of one training: {told}"
    return Picture("cost", "Score against cost", note, label, WIDTH, 288, tuple(marks))
