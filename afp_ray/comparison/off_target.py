"""How often the arms of a study answer in the language that they were asked in, where texts were generated."""

from collections import defaultdict

import numpy as np

from afp_ray.records import Comparison
from afp_ray.store import StudyPaths, find_result

METRIC = "target_language_rate"


def target_rates(paths: StudyPaths, comparison: Comparison) -> dict[str, dict[str, float]]:
    """Share of answers in the asked language, by arm and language: mean over tasks, shots and seeds, in [0, 1].

    Arms that generated nothing are left out; so are languages for which no rate was measured.
    """
    rates: dict[str, dict[str, float]] = {}
    for arm in comparison.arms:
        values: dict[str, list[float]] = defaultdict(list)
        for trial in arm.trials:
            result = find_result(paths.trial(trial).result)
            for score in result.scores if result else ():
                if score.metric == METRIC and score.split == comparison.split:
                    values[score.language].append(score.value)
        if values:
            rates[arm.arm] = {language: float(np.mean(own)) for language, own in sorted(values.items())}
    return rates
