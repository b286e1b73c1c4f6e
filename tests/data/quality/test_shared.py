"""Noise planted in real TICO-19 text: at least 95 % of it goes and at least 98 % of the clean rows stay."""

import os
from pathlib import Path

import numpy as np
import pytest

from afp_ray.config import DataConfig, SourceConfig
from afp_ray.config.data import FilterLimits
from afp_ray.data import sources
from afp_ray.data.quality.misalignment import cut
from afp_ray.data.quality.pairs import filter_pairs
from afp_ray.data.rows import TranslationPair

pytestmark = [pytest.mark.shared_data, pytest.mark.slow]
BESIDE = Path(__file__).resolve().parents[4] / "shared" / "data"
LANGUAGES = ("zh", "hi", "id", "ru", "sw", "ar")


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, TranslationPair]]:
    """Pairs by language and line."""
    folder = Path(os.environ.get("AFP_DATA_DIR") or BESIDE)
    if not folder.is_dir():
        pytest.skip(f"real data is not at hand: AFP_DATA_DIR is unset and {BESIDE} does not exist")
    source = SourceConfig(kind="tico19", path=str(folder / "tico19" / "tico19-test_all.tar.xz"))
    pairs = sources.load_pairs(DataConfig(sources=(source,), languages=LANGUAGES, num_instructions=0))
    by_language: dict[str, dict[str, TranslationPair]] = {language: {} for language in LANGUAGES}
    for pair in pairs:
        by_language[pair.target_language][pair.content_id] = pair
    return by_language


@pytest.mark.parametrize("language", LANGUAGES)
def test_planted_noise_goes_and_clean_rows_stay(rows: dict[str, dict[str, TranslationPair]], language: str) -> None:
    """A tenth of the rows is noise: swapped lines, lines of another language, cut-off and copied ones."""
    rng = np.random.default_rng(0)
    clean = list(rows[language].values())
    sides = [[pair.source, pair.target] for pair in clean]
    order = rng.permutation(len(clean)).tolist()
    count = len(clean) // 40
    swapped, wrong, cut_off, copied = (order[begin * count : (begin + 1) * count] for begin in range(4))
    for index, other in zip(swapped, swapped[1:] + swapped[:1], strict=True):
        sides[index][1] = clean[other].target
    for index in wrong:
        other_language = rng.choice([code for code in LANGUAGES if code != language])
        sides[index][1] = rows[other_language].get(clean[index].content_id, clean[index - 1]).target
    for index in cut_off:
        sides[index][1] = cut(clean[index].target, rng.uniform(0.2, 0.5))
    for number, index in enumerate(copied):
        sides[index] = [clean[index].source] * 2 if number % 2 else [clean[index].target] * 2
    noisy = [TranslationPair(*side, "en", language, pair.content_id) for side, pair in zip(sides, clean, strict=True)]

    kept = set(filter_pairs(noisy, FilterLimits())[0].indices.tolist())

    noise = {*swapped, *wrong, *cut_off, *copied}
    removed = 1 - len(kept & noise) / len(noise)
    stayed = len(kept - noise) / (len(clean) - len(noise))
    assert removed >= 0.95, (language, removed)
    assert stayed >= 0.98, (language, stayed)
