"""What the trials that a study still has to run will cost, from trials that were measured.

A trial costs its steps and the rest: loading, and one scoring for each split or rung. A step is taken from measured
trials of the same model whose loss has the same terms; where only other terms were measured, each row of a term costs
what fits all of them best. The rest is taken from trials of the same model and evaluation.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from afp_ray.config import StudyConfig, TrialConfig, canonical_json
from afp_ray.errors import DataError
from afp_ray.ledger import replay
from afp_ray.records import TrialRecord, TrialResult, TrialStatus
from afp_ray.search import resolve
from afp_ray.search.arms import check_points
from afp_ray.search.halving import longest, make_ladder
from afp_ray.search.plan import ArmPlan
from afp_ray.store import StudyPaths, TrialPaths, find_result, list_studies, read_study

MAX_MEASURED = 200
"""Results that are read; the newest studies first."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one trial, or a probe of one, cost.

    Attributes:
        config: the trial.
        step_s: worker-seconds of an optimizer step; None where nothing was trained.
        rest_s: seconds beside the steps, over all scorings.
        num_scorings: splits and rungs that were scored.
        peak_bytes: highest memory of tensors in the training; None where nobody measured it for this.
        reserved_bytes: highest memory of a GPU that the process held; None likewise, and without a GPU.
    """

    config: TrialConfig
    step_s: float | None
    rest_s: float
    num_scorings: int
    peak_bytes: int | None = None
    reserved_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds: the least, the likely and the most that measured trials speak for."""

    low: float
    mid: float
    high: float

    def __add__(self, other: "Span") -> "Span":
        return Span(self.low + other.low, self.mid + other.mid, self.high + other.high)

    def __mul__(self, factor: float) -> "Span":
        return Span(self.low * factor, self.mid * factor, self.high * factor)


NOTHING = Span(0.0, 0.0, 0.0)


def measured_trials(storage: Path, *, on_gpu: bool) -> list[Measured]:
    """What the trials of every study of the storage cost, those of the newest ledgers first.

    Args:
        storage: folder of the studies.
        on_gpu: take trials that ran on a GPU; else those that ran on a CPU.
    """
    found: list[Measured] = []
    for paths in sorted(list_studies(storage), key=lambda paths: -paths.ledger.stat().st_mtime):
        workers = _num_workers(paths)
        for record in replay(paths.ledger).trials:
            if len(found) >= MAX_MEASURED:
                return found
            if record.status in (TrialStatus.DONE, TrialStatus.PAUSED, TrialStatus.PRUNED):
                result = _result(paths.trial(record.trial_id), record)
                if result is None or result.environment.get("device", "").startswith("cuda") != on_gpu:
                    continue
                if (number := result.training.workers or workers) is not None:
                    found.append(_measured(result, record, workers=number))
    return found


def _num_workers(paths: StudyPaths) -> int | None:
    """Workers of a trial of a study; None where its file cannot be read."""
    try:
        return read_study(paths).runtime.num_workers
    except DataError:
        return None


def _result(paths: TrialPaths, record: TrialRecord) -> TrialResult | None:
    """What the trial gave, at its last rung where it went no further; None where it cannot be read."""
    file = paths.result if record.status is TrialStatus.DONE else paths.rung(max(0, len(record.rungs) - 1))
    return find_result(file)


def _measured(result: TrialResult, record: TrialRecord, *, workers: int) -> Measured:
    """What a trial of so many workers cost, all its attempts together."""
    steps, hours = result.training.steps, result.hours(workers)
    rest_hours = hours.evaluation + (hours.startup or 0.0)
    return Measured(
        config=TrialConfig.model_validate(result.config),
        step_s=3600 * hours.training / steps if steps else None,
        rest_s=3600 * rest_hours / workers,
        num_scorings=max(1, len(record.rungs) + (len(result.splits) if record.status is TrialStatus.DONE else 0)),
    )


class Costs:
    """Prices of trials, from measured ones.

    Args:
        measured: what is known; the more alike a trial is to be priced, the better.
        num_workers: data-parallel workers of a trial, which share its steps.
    """

    def __init__(self, measured: Sequence[Measured], *, num_workers: int = 1) -> None:
        self._measured, self._num_workers = measured, num_workers

    def steps(self, config: TrialConfig) -> Span | None:
        """Seconds of the whole training of a trial; None where no measured trial tells."""
        if config.training.max_steps == 0:
            return NOTHING
        known = [(one.step_s, one.config) for one in self._measured if one.step_s and one.config.model == config.model]
        alike = [seconds for seconds, other in known if step_key(other) == step_key(config)]
        if not alike:
            rows = config.rows_per_step
            same = [(seconds, other) for seconds, other in known if _terms(other) == _terms(config)]
            alike = [seconds / max(1, other.rows_per_step) * rows for seconds, other in same]
        if not alike:
            alike = _by_term(known, config)
        return _span(alike) * (config.training.max_steps / self._num_workers) if alike else None

    def scoring(self, config: TrialConfig, num_scorings: int) -> Span | None:
        """Seconds of a trial beside its steps; None where no measured trial tells."""
        asked = evaluation_key(config)
        known = [one for one in self._measured if evaluation_key(one.config) == asked]
        # Where trials of as many scorings are known, that the test split may be the larger one is in their price.
        same = [one for one in known if one.num_scorings == num_scorings]
        found = [one.rest_s for one in same] or [one.rest_s / one.num_scorings * num_scorings for one in known]
        return _span(found) if found else None

    def trial(self, config: TrialConfig, num_scorings: int) -> Span | None:
        """Seconds of a whole trial; None where no measured trial tells."""
        steps, rest = self.steps(config), self.scoring(config, num_scorings)
        return None if steps is None or rest is None else steps + rest


def _span(values: Sequence[float]) -> Span:
    # Of two, the smaller one is likelier: the first trial of a process also imports and tokenises.
    return Span(min(values), statistics.median_low(values), max(values))


def _terms(config: TrialConfig) -> tuple[bool, bool]:
    return config.loss.instruction_weight > 0, config.loss.contrastive_weight > 0


def step_key(config: TrialConfig) -> str:
    """Names what decides the work of a step, up to the texts themselves."""
    training = config.training.model_dump(mode="json", exclude={"max_steps", "learning_rate"})
    return canonical_json([_terms(config), training])


def evaluation_key(config: TrialConfig) -> str:
    """Names what decides the work of a scoring."""
    evaluation = config.evaluation.model_dump(mode="json")
    languages = [config.data.pivot, *config.evaluated_languages, *config.data.languages]
    return canonical_json([config.model.model_dump(mode="json"), evaluation, languages])


def _by_term(known: Sequence[tuple[float, TrialConfig]], config: TrialConfig) -> list[float]:
    """A step from those of other terms: seconds for each row of either term that fit them best, none below 0."""
    if not known:
        return []
    rows = [_rows(other) for _, other in known]
    seconds = [value for value, _ in known]
    aa, ab, bb = (sum(row[i] * row[j] for row in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    ay, by = (sum(row[i] * value for row, value in zip(rows, seconds, strict=True)) for i in (0, 1))
    determinant = aa * bb - ab * ab
    if determinant > 1e-9 * max(aa * bb, 1):
        price = ((bb * ay - ab * by) / determinant, (aa * by - ab * ay) / determinant)
    else:  # one mix of rows alone was measured: a row of either term is taken to cost the same
        total = sum(sum(row) for row in rows)
        price = (sum(seconds) / total, sum(seconds) / total)
    if price[0] < 0 or price[1] < 0:
        price = (max(0.0, ay / aa if aa else 0.0), 0.0) if price[1] < 0 else (0.0, max(0.0, by / bb if bb else 0.0))
    found = sum(one * count for one, count in zip(price, _rows(config), strict=True))
    return [found] if found > 0 else []


def _rows(config: TrialConfig) -> tuple[int, int]:
    """Instructions and pairs of a step."""
    has_instructions, has_pairs = _terms(config)
    return (
        config.training.batch_size if has_instructions else 0,
        config.training.num_pairs_per_step if has_pairs else 0,
    )


@dataclass(frozen=True, slots=True)
class ArmCost:
    """What an arm still has to run.

    Attributes:
        num_left: trials to train.
        seconds: of all of them and of its test scorings; None where no measured trial tells.
        trial_s: likely seconds of one trial, trained whole: of the search, else of the confirmation.
        whole_share: share of whole trainings that the search is expected to run; 1 without rungs.
    """

    num_left: int
    seconds: Span | None
    trial_s: float | None
    whole_share: float = 1.0


def arm_cost(study: StudyConfig, plan: ArmPlan, records: Iterable[TrialRecord], costs: Costs) -> ArmCost:
    """Price what an arm has left.

    Args:
        study: what is planned.
        plan: of the arm.
        records: trials of the study so far.
        costs: prices.
    """
    own = [record for record in records if record.arm == plan.arm.name and record.status is not TrialStatus.CANCELLED]
    configs = _points(study, plan)
    over = [record for record in own if record.status.is_terminal]
    tested = [record for record in over if "test" in record.splits or record.status is TrialStatus.FAILED]
    if not plan.arm.is_searched:
        left = len(set(plan.known_ids) - {record.trial_id for record in tested})
        one = _mean(costs.trial(config, 2) for config in configs)
        return ArmCost(left, NOTHING if left == 0 else (one * left if one else None), one.mid if one else None)
    searched = [record for record in own if record.role == "search"]
    num_open = plan.num_search - sum(record.status.is_terminal for record in searched)
    num_confirm = max(0, plan.num_confirm - sum(record.role == "confirm" for record in tested))
    num_test = max(0, plan.num_test - sum(record.role == "search" for record in tested if "test" in record.splits))
    share, num_scorings = _rungs_left(study, plan, searched, num_open)
    steps = _mean(costs.steps(config) for config in configs)
    scoring = _mean(costs.scoring(config, 1) for config in configs)
    confirm = _mean(costs.trial(config, 2) for config in configs)
    if steps is None or scoring is None or confirm is None:
        return ArmCost(max(0, num_open) + num_confirm, None, None)
    seconds = steps * share + scoring * num_scorings + confirm * num_confirm + scoring * num_test
    whole_share = share / num_open if num_open > 0 else 1.0
    return ArmCost(max(0, num_open) + num_confirm, seconds, (steps + scoring).mid, whole_share)


def _rungs_left(
    study: StudyConfig, plan: ArmPlan, searched: Sequence[TrialRecord], num_open: int
) -> tuple[float, float]:
    """Whole trainings that the search still costs, and its scorings; with rungs as many as halving expects."""
    ladder = make_ladder(study, plan.arm)
    if not ladder.amounts or num_open <= 0:
        return float(max(0, num_open)), float(max(0, num_open))
    whole = longest(plan.arm, study)
    total = sum(ladder.expected(plan.num_search))
    spent, scored = 0.0, 0
    for record in searched:
        scored += len(record.rungs) + (record.status is TrialStatus.DONE)
        reached = record.until.amount / whole if record.rungs and record.until else 0.0
        spent += 1.0 if record.status is TrialStatus.DONE else min(1.0, reached)
    return max(0.0, ladder.cost(plan.num_search, whole) - spent), float(max(0, total - scored))


def _points(study: StudyConfig, plan: ArmPlan) -> list[TrialConfig]:
    """Trials of the arm at the ends of its searched fields: what lies between costs about their mean."""
    return [resolve(plan.arm, point, study.seeds[0]) for point in check_points(plan.arm)]


def _mean(spans: Iterable[Span | None]) -> Span | None:
    found = list(spans)
    known = [span for span in found if span is not None]
    if not known or len(known) < len(found):
        return None
    low, mid, high = (math.fsum(values) / len(known) for values in zip(*map(astuple, known), strict=True))
    return Span(low, mid, high)


def spent_hours(paths: StudyPaths) -> float:
    """Device-hours that count against the budget of a study."""
    if not paths.ledger.is_file():
        return 0.0

    trials = replay(paths.ledger).trials
    return sum(trial.gpu_hours for trial in trials if trial.adopted_from is None)
