"""How often intervals hold the truth, null effects are claimed and planted ones found, by simulated studies.

A simulated study has contents of different hardness, the same in every language; what an arm gains differs by content;
every training run moves the whole arm a little, and single answers besides. Base is one run without training noise.
`python -m benchmarks.coverage` runs every setting; `--replications N` and `--kind` make it shorter. The kinds `score`
and `ends` go through true scores up to 1 and differences between such scores: where intervals are hardest.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from afp_ray.comparison import totals
from afp_ray.comparison.confirmed import ConfirmedArm, Examples
from afp_ray.comparison.wording import Measured, adjust
from afp_ray.evaluation.text_metrics import bleu_of_totals
from afp_ray.records import Difference
from afp_ray.statistics import Interval, PairedDifference, paired_difference, score_interval

Floats = NDArray[np.float64]
SPREAD_OF_GAINS = 0.5
"""Standard deviation over contents of what an arm gains, on the latent scale on which hardness has 1."""
SPREAD_OF_ANSWERS = 0.5
"""Likewise of what a run does to single answers."""
KINDS = ("accuracy", "rate", "bleu", "score", "ends")
SCORES = (0.5, 0.9, 0.95, 0.98, 1.0)
"""True scores of single arms."""
PAIRS = ((0.5, 0.5), (0.95, 0.95), (0.98, 0.98), (0.9, 0.8), (0.98, 0.95), (1.0, 0.97), (0.97, 1.0), (0.99, 0.6))
"""True scores of an arm and of base."""


@dataclass(frozen=True)
class Setting:
    """One kind of simulated study.

    Attributes:
        kind: accuracy (right half of the time), rate (nine in ten), BLEU of sentence totals, ends (two arms of given
            true
            scores), or score (one arm, no difference).
        contents, languages, seeds: sizes; a content has one row in each language.
        seed_spread: standard deviation of a training run's effect on the whole arm, latent.
        gain: mean gain of the arm, latent; 0 is no effect.
        resamples: of the permutation test.
        scores: true scores of the arm and of base, for `score` and `ends`.
    """

    kind: str = "accuracy"
    contents: int = 100
    languages: int = 3
    seeds: int = 3
    seed_spread: float = 0.0
    gain: float = 0.3
    resamples: int = 500
    scores: tuple[float, float] = (0.5, 0.5)


@dataclass(frozen=True)
class Coverage:
    """What came out of a setting.

    Attributes:
        setting: what was simulated.
        replications: number of studies.
        covered: share of the 95 % intervals that hold the true difference.
        error: Monte-Carlo standard error of `covered`.
        claimed: share of the studies with p < 0.05.
        truth: the true difference.
        width: mean width of the intervals.
    """

    setting: Setting
    replications: int
    covered: float
    error: float
    claimed: float
    truth: float
    width: float


def latent(
    random: np.random.Generator, setting: Setting, *, arms: int = 1, contents: int | None = None
) -> tuple[Floats, Floats]:
    """Scores on the latent scale: (A, S, C, L) of the arms and (1, C, L) of base, all with one marginal at no gain."""
    count, shape = contents or setting.contents, setting.languages
    hardness = random.normal(0, 1, (1, count, 1)) + random.normal(0, 0.5, (1, count, shape))
    gains = random.normal(0.0 if has_scores(setting) else setting.gain, SPREAD_OF_GAINS, (arms, 1, count, 1))
    runs = random.normal(0, setting.seed_spread, (arms, setting.seeds, 1, 1))
    answers = random.normal(0, SPREAD_OF_ANSWERS, (arms, setting.seeds, count, shape))
    spread = math.sqrt(SPREAD_OF_GAINS**2 + setting.seed_spread**2 + SPREAD_OF_ANSWERS**2)
    return hardness + gains + runs + answers, hardness + random.normal(0, spread, (1, count, shape))


def has_scores(setting: Setting) -> bool:
    """Whether true scores are given."""
    return setting.kind in ("score", "ends")


def right(setting: Setting, arm: Floats, base: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which answers are right, from latent scores."""
    if not has_scores(setting):
        return arm > threshold(setting), base > threshold(setting)
    spread = math.sqrt(1.25 + SPREAD_OF_GAINS**2 + setting.seed_spread**2 + SPREAD_OF_ANSWERS**2)
    at = [spread * NormalDist().inv_cdf(score) if score < 1 else math.inf for score in setting.scores]
    return arm + at[0] > 0, base + at[1] > 0


def threshold(setting: Setting) -> float:
    """Latent score above which an answer of a choice or a rate is right."""
    return -1.8 if setting.kind == "rate" else 0.0


def true_difference(setting: Setting) -> float:
    """Expected score of the arm minus that of base, or of the arm alone, over contents and runs."""
    if has_scores(setting):
        return setting.scores[0] - (setting.scores[1] if setting.kind == "ends" else 0.0)
    if setting.kind != "bleu":
        spread = math.sqrt(1.25 + SPREAD_OF_GAINS**2 + setting.seed_spread**2 + SPREAD_OF_ANSWERS**2)
        at = threshold(setting)
        return math.erf((setting.gain - at) / spread / math.sqrt(2)) / 2 - math.erf(-at / spread / math.sqrt(2)) / 2
    if setting.gain == 0 and setting.seed_spread == 0:
        return 0.0
    random = np.random.default_rng(99)
    differences = []
    for _ in range(40 if setting.seed_spread else 1):
        wide = Setting(**{**asdict(setting), "seeds": 8, "languages": 1})
        arm, base = latent(random, wide, contents=20_000)
        scores = [bleu_of_totals(sentence_totals(random, side).sum(axis=(1, 2))) for side in (arm[0], base)]
        differences.append(scores[0].mean() - scores[1].mean())
    return float(np.mean(differences))


def sentence_totals(random: np.random.Generator, skill: Floats) -> Floats:
    """(S, C, L, 10) totals of BLEU of sentences of 8 to 20 words; the higher the skill, the more n-grams match."""
    length = random.integers(8, 21, skill.shape)
    right = 1 / (1 + np.exp(-0.7 * skill - 0.6))
    counts = [length - order for order in range(4)]
    matches = [random.binomial(count, right ** (1 + 0.6 * order)) for order, count in enumerate(counts)]
    return np.stack([length, length, *matches, *counts], axis=-1).astype(float)


def labels(setting: Setting) -> tuple[list[str], list[str]]:
    """Content and language of each of the C x L examples, in the order of the flattened scores."""
    contents = [f"content {row}" for row in range(setting.contents) for _ in range(setting.languages)]
    return contents, [f"language {index}" for index in range(setting.languages)] * setting.contents


def compared(random: np.random.Generator, setting: Setting, *, arms: int = 1, seed: int = 0) -> list[PairedDifference]:
    """Each arm against the one base of a simulated study."""
    contents, languages = labels(setting)
    scores, base = latent(random, setting, arms=arms)
    if setting.kind == "bleu":
        sides = [_arm(sentence_totals(random, side), contents, languages) for side in (base, *scores)]
        where = np.ones(len(contents), dtype=bool)
        return [totals.difference(arm, sides[0], where, sign=1, resamples=setting.resamples) for arm in sides[1:]]
    values, theirs = right(setting, scores, base)
    return [
        paired_difference(
            own.reshape(setting.seeds, -1),
            theirs.reshape(1, -1),
            contents,
            languages=languages,
            is_share=True,
            resamples=setting.resamples,
            seed=seed,
        )
        for own in values
    ]


def one_study(random: np.random.Generator, setting: Setting, *, seed: int) -> tuple[Interval, float]:
    """The interval of a simulated study, and the p-value of its difference."""
    if setting.kind != "score":
        comparison = compared(random, setting, seed=seed)[0]
        return comparison.interval, comparison.p
    contents, languages = labels(setting)
    values, _ = right(setting, *latent(random, setting))
    own = values[0].reshape(setting.seeds, -1)
    return score_interval(own, contents, languages=languages, is_share=True), 1.0


def _arm(sums: Floats, contents: Sequence[str], languages: Sequence[str]) -> ConfirmedArm:
    count = len(contents)
    columns = [np.array(["translation"] * count), np.array(languages), np.zeros(count, dtype=int)]
    columns += [np.arange(count), np.array(contents), np.array(["bleu"] * count)]
    flat = sums.reshape(len(sums), count, -1)
    return ConfirmedArm("study", "arm", (), (), np.zeros((len(sums), count)), Examples(*columns), Path(), flat)


def coverage(setting: Setting, *, replications: int, seed: int = 0) -> Coverage:
    """Simulate a setting many times over."""
    random, truth = np.random.default_rng(seed), true_difference(setting)
    hits, claims, width = 0, 0, 0.0
    for number in range(replications):
        interval, p = one_study(random, setting, seed=number)
        hits += interval.low - 1e-9 <= truth <= interval.high + 1e-9
        claims += p < 0.05
        width += interval.high - interval.low
    share = hits / replications
    error = math.sqrt(share * (1 - share) / replications)
    return Coverage(setting, replications, share, error, claims / replications, truth, width / replications)


def family_error(setting: Setting, *, arms: int, replications: int, seed: int = 0) -> tuple[float, float]:
    """Of studies with several arms, the share in which some arm's null effect is claimed after Holm (of arms without an
    effect), and that in which the intervals that agree with Holm all hold the truth.
    """
    random, truth = np.random.default_rng(seed), true_difference(setting)
    wrong, held = 0, 0
    for number in range(replications):
        pairs = compared(random, setting, arms=arms, seed=number)
        shown = adjust([Measured(Difference(delta=pair.estimate.value, p=pair.p), pair) for pair in pairs])
        wrong += any(difference is not None and difference.is_significant for difference in shown)
        held += all(
            difference is not None and difference.shown and difference.shown[0] <= truth <= difference.shown[1]
            for difference in shown
        )
    return wrong / replications, held / replications


def settings(kind: str) -> list[Setting]:
    """Everything that is reported of a kind."""
    if kind in ("score", "ends"):
        scores = PAIRS if kind == "ends" else [(score, score) for score in SCORES]
        return [
            Setting(kind, contents, languages, seeds, spread, resamples=300, scores=pair)
            for contents in (20, 40, 100, 500)
            for seeds in (1, 2, 3, 5)
            for spread in ((0.0, 0.1) if seeds > 1 else (0.0,))
            for languages in (1, 3)
            for pair in scores
        ]
    sizes, spreads = ((40, 100, 500), (0.0, 0.1)) if kind == "accuracy" else ((40, 200), (0.0, 0.1))
    return [
        Setting(kind=kind, contents=contents, seeds=seeds, seed_spread=spread)
        for contents in sizes
        for seeds in ((1, 2, 3, 5) if kind == "accuracy" else (1, 3))
        for spread in (spreads if seeds > 1 else (0.0, spreads[-1]))
    ]


def report(kind: str, replications: int) -> Iterator[dict[str, Any]]:
    """One line for each setting of a kind."""
    for setting in settings(kind):
        planted = coverage(setting, replications=replications)
        line = {**asdict(planted.setting), "covered": planted.covered, "error": round(planted.error, 4)}
        line |= {"truth": planted.truth, "width": planted.width, "found": planted.claimed}
        if not has_scores(setting):
            null = coverage(replace(setting, gain=0.0), replications=replications, seed=1)
            line |= {"covered_null": null.covered, "claimed_null": null.claimed}
        yield line
    if kind in ("score", "ends"):
        return
    family = Setting(kind=kind, gain=0.0, seed_spread=0.05)
    wrong, held = family_error(family, arms=4, replications=replications)
    _, planted_held = family_error(replace(family, gain=0.3), arms=4, replications=replications)
    yield {"kind": kind, "arms": 4, "family_error": wrong, "family_covered": held, "planted_covered": planted_held}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the settings and print a line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replications", type=int, default=1000)
    parser.add_argument("--kind", choices=KINDS, action="append")
    options = parser.parse_args(arguments)
    for kind in options.kind or KINDS:
        for line in report(kind, options.replications):
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
