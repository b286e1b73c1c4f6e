"""Prints plans and statuses as text."""

import time
from pathlib import Path

from afp_ray.evaluation.overlap_records import OverlapReport
from services.output import say
from services.schemas import PlanAnswer, StudyStatus


def show_plan(answer: PlanAnswer, file: str) -> None:
    """A plan, as `afp plan` shows it."""
    say(f"study {answer.study}  ({file}, {answer.study_hash[:8]})")
    width = max(len(arm.arm) for arm in answer.arms)
    for arm in answer.arms:
        searched = (
            f"search {arm.search} trials over {', '.join(arm.searched_fields)}" if arm.search else "nothing to search"
        )
        say(f"  {arm.arm:<{width}}  {searched}; confirm {arm.confirm}; finished {arm.finished}")
    left = answer.trials - answer.finished
    say(f"  trials {answer.trials} at most   finished {answer.finished}   to run {max(0, left)}")
    if answer.hours is not None:
        low, high = answer.hours
        say(f"  cost   {low:.2g} to {high:.2g} trial-hours (from {answer.based_on} finished trials)")
    disk = f"checkpoints {_size(answer.disk_bytes)}, " if answer.disk_bytes is not None else ""
    say(f"  disk   {disk}free {_size(answer.free_bytes)}")
    for check in answer.checks:
        say(f"  ok     {check}")
    for report in answer.overlap:
        _show_overlap(report)
    for line in answer.notes:
        say(f"  note   {line}")
    say(f"nothing started. run: afp run {file}")


def show_status(status: StudyStatus) -> None:
    """A study, as `afp status` shows it."""
    counts = status.counts
    say(f"{status.name}  {status.state}  {counts['DONE']}/{status.trials} done  {counts['FAILED']} failed")
    if status.driver:
        say(f"driver   pid {status.driver.get('pid')} on {status.driver.get('host')}")
    if status.best_arm is not None:
        say(f"best     {status.best_arm}  {status.objective} {status.best_objective:.4f} on validation, so far")
    for arm in status.arms:
        best = f"{arm.best_objective:.4f}" if arm.best_objective is not None else "-"
        say(f"  {arm.arm:<24} done {arm.done:>3}  running {arm.running}  failed {arm.failed}  best {best}")
    for trial in status.running:
        share = f"{100 * trial.done / trial.total:.0f} %" if trial.total else ""
        say(f"  {trial.trial_id}  {trial.arm} seed {trial.seed}  {trial.stage} {share}")
    for line in status.failures:
        say(f"  failed {line}")
    say(f"spent    {status.gpu_hours:.3f} device-hours   folder {status.folder}")
    if status.state in ("dead", "interrupted", "budget", "error"):
        say(f"continue: afp resume {status.name}")


def show_studies(found: list[StudyStatus], folder: Path) -> None:
    """One line per study."""
    if not found:
        say(f"no study under {folder} yet; start with: afp demo")
    for status in found:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(status.opened_at)) if status.opened_at else "-"
        say(f"{status.name:<32} {status.state:<12} {status.counts['DONE']}/{status.trials} done  since {since}")


def _show_overlap(report: OverlapReport) -> None:
    """One line on what must not be, one a language on short sentences that stand in both by chance."""
    if report.heldout_removed:
        say(f"  ok     {report.heldout_removed} training pairs removed that share a sentence with held-out pairs")
    rows = sum(cell.rows for cell in report.cells)
    compared = f"{rows} evaluation rows against {report.training_texts} training texts"
    if not report.suspect:
        say(f"  ok     overlap: {compared}; none is in training as a whole or by a run of 13 words")
    for cell in report.cells:
        if cell.suspect:
            where = f"{cell.task}/{cell.language} {cell.split}"
            say(f"  OVERLAP {where}: {cell.suspect} of {cell.rows} rows are in training")
            if cell.example is not None:
                say(f"          {cell.example.row}, {cell.example.field}: {cell.example.text[:100]}")
                say(f"          training: {cell.example.training[:100]}")
    for language in dict.fromkeys(cell.language for cell in report.cells):
        own = [cell for cell in report.cells if cell.language == language]
        shown = []
        for task in dict.fromkeys(cell.task for cell in own):
            cells = [cell for cell in own if cell.task == task]
            if count := sum(cell.exact for cell in cells):
                shown.append(f"{task} {count}/{sum(cell.rows for cell in cells)}")
        if shown:
            say(f"         {language}: rows with one sentence that training has too: {', '.join(shown)}")


def _size(number: int) -> str:
    size = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
