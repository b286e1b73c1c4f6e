"""Prints plans and statuses as text."""

import math
import time
from collections.abc import Sequence
from pathlib import Path

from afp_ray.records.plans import (
    OverlapExample,
    OverlapReport,
    PlanCost,
    PlannedArm,
    PlannedEffect,
    PlannedMemory,
    StudyPlan,
)
from services.output import say
from services.schemas import StudyStatus
from services.views.terminal import say_folded

LAG_S = 60.0
"""Seconds that a projector may be behind without a word."""


def show_plan(answer: StudyPlan, file: str) -> None:
    """A plan, as `afp plan` shows it."""
    say_folded(f"study {answer.study}  ({file}, {answer.study_hash[:8]})")
    width = max(len(arm.arm) for arm in answer.arms)
    for arm in answer.arms:
        searched = (
            f"search {arm.search} trials over {', '.join(arm.searched_fields)}" if arm.search else "nothing to search"
        )
        say_folded(f"  {arm.arm:<{width}}  {searched}; confirm {arm.confirm}; finished {arm.finished}{_arm_cost(arm)}")
    left = answer.trials - answer.finished
    say_folded(f"  trials {answer.trials} at most   finished {answer.finished}   to run {max(0, left)}")
    if answer.finished_otherwise:
        number = f"{answer.finished_otherwise} finished trial{'s' if answer.finished_otherwise != 1 else ''}"
        say_folded(f"  other  {number} of that name ran otherwise (fields or files), and count for nothing")
    if answer.differs:
        say_folded(f"  DIFFERS from the {answer.study} that ran: {'; '.join(answer.differs)}")
        say_folded("         afp run ends with 2: rename the study, undo the change, or take it with --allow-drift")
    if answer.cost is not None:
        _show_cost(answer.cost, unit="GPU-hours" if answer.on_gpu else "device-hours")
    if answer.effects:
        _show_effects(answer.effects)
    for memory in answer.memory:
        _show_memory(memory)
    disk = f"checkpoints {_size(answer.disk_bytes)}, " if answer.disk_bytes is not None else ""
    say_folded(f"  disk   {disk}free {_size(answer.free_bytes)}")
    for check in answer.checks:
        say_folded(f"  ok     {check}")
    for arm in answer.arms:
        if arm.problem is not None:
            say_folded(f"  FAIL   arm {arm.arm}, the others can run: {arm.problem.replace(chr(10), '; ')}")
    for warning in answer.warnings:
        say_folded(f"  WARN   {warning}")
    for files in answer.unread:
        say_folded(f"  note   {files.text}")
    for report in answer.overlap:
        _show_overlap(report)
    for line in answer.notes:
        say_folded(f"  note   {line}")
    say(f"nothing started. run: afp run {file}")


def _arm_cost(arm: PlannedArm) -> str:
    if arm.hours is None or arm.trial_s is None or not arm.left:
        return ""
    rungs = f", {arm.whole_share:.0%} of the search trained" if arm.whole_share < 1 else ""
    return f"; to run {arm.left}, {_hours(arm.hours)} ({_hours(arm.trial_s / 3600)} each{rungs})"


def _show_cost(cost: PlanCost, *, unit: str) -> None:
    if cost.trial_hours[2] == 0:
        say_folded(f"  cost   nothing is left to run; {cost.spent_hours:.3g} {unit} were spent")
        return
    low, likely, high = cost.trial_hours
    behind = f"{cost.measured} finished trials" if cost.source == "trials" else f"{cost.measured} probes run now"
    say_folded(f"  cost   {_hours(likely)} of trials ({_hours(low)} to {_hours(high)}), from {behind}")
    at_once = f", {_hours(cost.wall_hours)} with {cost.concurrency} at a time" if cost.wall_hours is not None else ""
    spent = f", {cost.spent_hours:.3g} spent so far" if cost.spent_hours else ""
    money = f", about {cost.money:,.2f} at that price" if cost.money is not None else ""
    say_folded(f"         {cost.device_hours:.3g} {unit}{money}{spent}{at_once}")
    if cost.stopped_by and cost.stops_at is not None:
        say_folded(f"  CUT    {cost.stopped_by} ends it after about {cost.stops_at:.0%} of that")


def _show_effects(effects: Sequence[PlannedEffect]) -> None:
    """What difference to base the study is likely to find, arm by arm where they differ."""
    first = effects[0]
    shown = {effect.arm: f"{100 * effect.effect:.1f}" for effect in effects}
    if len(set(shown.values())) == 1:
        words = f"{shown[first.arm]} points" + (" for every arm" if len(shown) > 1 else "")
    else:
        words = f"{', '.join(f'{arm} {points}' for arm, points in shown.items())} points"
    seeds = f"{first.seeds} seed{'s' if first.seeds != 1 else ''}"
    say_folded(f"  effect {words}: the smallest difference to base that is found {100 * first.power:.0f} times in 100")
    over = f"{first.contents} contents in {first.tasks} task{'s' if first.tasks != 1 else ''}, {seeds}"
    runs = "not known" if first.seed_deviation is None else f"{100 * first.seed_deviation:.1f} points"
    say_folded(f"         over {over}, Holm over {len(effects)}; deviation over seeds {runs}; {first.source}")


def _show_memory(memory: PlannedMemory) -> None:
    """Peak of the batch, what fits, and how many trials the card holds."""
    room = f"a card of {_size(memory.card_bytes)} ({memory.card})"
    say_folded(
        f"  memory {', '.join(memory.arms)}: {_size(memory.reserved_bytes)} held by one trial of the probe, of {room}"
    )
    if memory.computed_bytes is not None:
        least = f"{_size(memory.measured_bytes)} measured, " if memory.measured_bytes is not None else ""
        word = "fits" if memory.fits else "DOES NOT FIT"
        say_folded(
            f"         a step: {least}{_size(memory.computed_bytes)} if every text has training.max_length; that {word}"
        )
        largest = {
            "micro_batch_size": memory.micro_batch_size,
            "pair_chunk_size": memory.pair_chunk_size,
        }
        told = [f"runtime.{name} {size}" for name, size in largest.items() if size is not None]
        say_folded(f"         largest passes that fit then: {', '.join(told) or 'none, not even of one row'}")
    if memory.trials_per_card > 1:
        share = math.floor(100 / memory.trials_per_card) / 100
        alone = f"a step of one trial alone takes {_hours(memory.step_s / 3600)}; " if memory.step_s else ""
        say_folded(
            f"         {memory.trials_per_card} trials fit a card at a time (runtime.gpus_per_worker: {share:g});"
        )
        say_folded(f"         {alone}whether several are faster together was not measured")


def _hours(hours: float) -> str:
    """A duration in the unit that suits it."""
    if hours < 1 / 60:
        return f"{3600 * hours:.2g} s"
    return f"{60 * hours:.2g} min" if hours < 1 else f"{hours:.3g} h"


def show_status(status: StudyStatus) -> None:
    """A study, as `afp status` shows it."""
    counts = status.counts
    say_folded(f"{status.name}  {status.state}  {counts['DONE']} of {status.expected} done  {counts['FAILED']} failed")
    if status.driver:
        say_folded(f"driver   pid {status.driver.get('pid')} on {status.driver.get('host')}")
    if status.best_arm is not None:
        so_far = "" if status.state == "complete" else ", so far"
        say_folded(f"best     {status.best_arm}  {status.objective} {status.best_objective:.4f} on validation{so_far}")
    for arm in status.arms:
        best = f"{arm.best_objective:.4f}" if arm.best_objective is not None else "-"
        say_folded(f"  {arm.arm:<24} done {arm.done:>3}  running {arm.running}  failed {arm.failed}  best {best}")
    for trial in status.running:
        share = f"{100 * trial.done / trial.total:.0f} %" if trial.total else ""
        say_folded(f"  {trial.trial_id}  {trial.arm} seed {trial.seed}  {trial.stage} {share}")
    for line in status.notes:
        say_folded(f"note     {line}")
    for line in status.failures:
        say_folded(f"  failed {line}")
    if line := _lag_line(status):
        say_folded(f"tracking {line}")
    say_folded(f"spent    {status.gpu_hours:.3f} device-hours   folder {status.folder}")
    if status.state in ("dead", "interrupted", "budget", "error"):
        say(f"continue: afp resume {status.name}")


def _lag_line(status: StudyStatus) -> str:
    """How far MLflow is behind, where a projector at work will not show it in a moment anyway."""
    lag = status.tracking
    if lag is None:
        return ""
    age = max(0.0, time.time() - lag.since) if lag.since else 0.0
    if lag.reason is None and status.state == "running" and age < LAG_S:
        return ""
    since = f" since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(lag.since))}" if lag.since else ""
    count = f"{lag.events} events of {lag.trials} trials behind{since}"
    return f"{count if lag.events else 'behind'}{f': {lag.reason}' if lag.reason else ''}; afp sync {status.name}"


def show_studies(studies: list[StudyStatus], folder: Path) -> None:
    """One line per study."""
    if not studies:
        say_folded(f"no study under {folder} yet; start with: afp demo")
    for status in studies:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(status.opened_at)) if status.opened_at else "-"
        say_folded(
            f"{status.name:<32} {status.state:<12} {status.counts['DONE']} of {status.expected} done  since {since}"
        )


def _show_overlap(report: OverlapReport) -> None:
    """One line on what must not be, one a language on short sentences that stand in both by chance."""
    if report.heldout_removed:
        say_folded(
            f"  ok     {report.heldout_removed} training pairs removed that share a sentence with held-out pairs"
        )
    rows = sum(cell.rows for cell in report.cells)
    compared = f"{rows} evaluation rows against {report.training_texts} training texts"
    if not report.suspect:
        say_folded(f"  ok     overlap: {compared}; none is in training as a whole or by a run of {_limits(report)}")
    for cell in report.cells:
        if cell.suspect:
            where = f"{cell.task}/{cell.language} {cell.split}"
            limit = f"by a run of {cell.run_limit} {cell.run_unit}"
            say_folded(f"  OVERLAP {where}: {cell.suspect} of {cell.rows} rows are in training as a whole or {limit}")
            if cell.example is not None:
                _show_example(cell.example, cell.run_unit)
    for language in dict.fromkeys(cell.language for cell in report.cells):
        of_language = [cell for cell in report.cells if cell.language == language]
        counts = []
        for task in dict.fromkeys(cell.task for cell in of_language):
            cells = [cell for cell in of_language if cell.task == task]
            if count := sum(cell.exact for cell in cells):
                counts.append(f"{task} {count}/{sum(cell.rows for cell in cells)}")
        if counts:
            say_folded(f"         {language}: rows with one sentence that training has too: {', '.join(counts)}")


def _limits(report: OverlapReport) -> str:
    """Lengths of the runs that count, with the languages of each but that of words."""
    by_limit: dict[str, list[str]] = {}
    for cell in report.cells:
        languages = by_limit.setdefault(f"{cell.run_limit} {cell.run_unit}", [])
        languages += [cell.language] if cell.language not in languages else []
    if len(by_limit) <= 1:
        return next(iter(by_limit), "13 words")
    return ", ".join(f"{limit} ({' '.join(languages)})" for limit, languages in by_limit.items())


def _show_example(example: OverlapExample, unit: str) -> None:
    """What both sides share, and around it where it stands."""
    if example.run is None:
        say_folded(f"          {example.row}, {example.field}, is in training as it is: {example.text[:100]}")
        return
    say_folded(f"          both have {example.run_length} {unit}: {example.run[:200]}")
    say_folded(f"          {example.row}, {example.field}: {_around(example.text, example.run)}")
    say_folded(f"          training: {_around(example.training, example.run)}")


def _around(text: str, run: str) -> str:
    """Up to 100 characters of a text, from a little before the run on where it is seen as it stands there."""
    begin = text.casefold().find(run.partition(" ")[0] if " " in run else run[:8])
    start = max(0, begin - 20)
    return f"{'... ' if start else ''}{text[start : start + 100]}"


def _size(number: int) -> str:
    size = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
