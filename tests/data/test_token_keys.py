"""Names of drawn rows: equal exactly where the rows are, for every field of the configuration."""

import itertools
import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from afp_ray.config import DataConfig, SourceConfig
from afp_ray.config.data import FilterLimits
from afp_ray.data import sources, token_keys
from afp_ray.data.mixing import draw_instructions, draw_pairs
from afp_ray.data.token_keys import recipe_keys

BASE: dict[str, Any] = {"languages": ("zh", "th"), "num_pairs": 40, "num_instructions": 40}
PAIRS, INSTRUCTIONS = {"pairs"}, {"instructions"}
# field -> (another value, what is drawn otherwise); `tsv` stands for a file of pairs.
FIELDS: dict[str, tuple[Any, set[str]]] = {
    "sources": ("tsv", PAIRS),
    "pivot": ("sw", PAIRS | INSTRUCTIONS),
    "languages": (("th", "zh"), PAIRS | INSTRUCTIONS),
    "language_names": ({"zh": {"name": "Mandarin"}}, PAIRS | INSTRUCTIONS),
    "num_pairs": (41, PAIRS),
    "num_instructions": (41, INSTRUCTIONS),
    "cross_probability": (0.25, INSTRUCTIONS),
    "direction_probability": (0.25, INSTRUCTIONS),
    "crossing": ("any", INSTRUCTIONS),
    "translation_share": (0.25, INSTRUCTIONS),
    "language_temperature": (2.0, PAIRS),
    "instruction_folds": (2, INSTRUCTIONS),
    "filter": ("rules", PAIRS | INSTRUCTIONS),
    "filter_limits": (FilterLimits(near_duplicate=0.5), set()),
    "keep_best": (9, INSTRUCTIONS),
    "instruction_scores": ("scores.jsonl", set()),
    "seed": (7, PAIRS | INSTRUCTIONS),
}
LIMITS: dict[str, Any] = {
    "max_length_ratio": 2.0,
    "min_script_share": 0.9,
    "min_language_confidence": None,
    "max_noise_probability": 0.4,
    "min_similarity": 0.5,
    "near_duplicate": 0.5,
}
COLUMNS = {"source": "en", "target": "{target}"}
SOURCES: dict[str, Any] = {
    "kind": {"kind": "tsv", "columns": None},
    "path": None,
    "columns": {"columns": {"source": "english", "target": "{target}"}},
    "subset": {"kind": "datasets", "subset": "x"},
    "split": {"kind": "datasets", "split": "validation"},
}


def changes(one: DataConfig, other: DataConfig, **options: Any) -> set[str]:
    """What `other` draws otherwise than `one`, by the keys."""
    first, second = (recipe_keys(config, **{"seed": 0} | options) for config in (one, other))
    return {name for name in ("pairs", "instructions") if getattr(first, name) != getattr(second, name)}


@pytest.fixture
def tsv(tmp_path: Path) -> SourceConfig:
    for code in ("zh", "th"):
        (tmp_path / f"en-{code}.tsv").write_text("the boat\t船\n" if code == "zh" else "the boat\tเรือ\n")
    return SourceConfig(kind="tsv", path=str(tmp_path / "{source}-{target}.tsv"))


def test_every_field_is_decided() -> None:
    assert set(FIELDS) == set(DataConfig.model_fields), "decide what the new field of DataConfig draws otherwise"
    assert set(LIMITS) == set(FilterLimits.model_fields), "decide which recipes read the new limit"
    assert set(SOURCES) == set(SourceConfig.model_fields), "decide whether the new field of SourceConfig changes rows"


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_changes_the_names_of_what_it_draws(field: str, tsv: SourceConfig) -> None:
    value, expected = FIELDS[field]
    changed = {field: (SourceConfig(), tsv) if value == "tsv" else value}
    assert changes(DataConfig(**BASE), DataConfig(**BASE | changed)) == expected
    # Translation tasks are made from the drawn pairs.
    tasks = BASE | {"translation_share": 0.5}
    also = INSTRUCTIONS if "pairs" in expected else set()
    assert changes(DataConfig(**tasks), DataConfig(**tasks | changed)) == expected | also


@pytest.mark.parametrize("limit", LIMITS)
def test_limits_count_where_a_filter_reads_them(limit: str) -> None:
    limits = FilterLimits(**{limit: LIMITS[limit]})
    for name, is_read in (("none", False), ("rules", limit != "min_similarity"), ("similarity", True)):
        config = DataConfig(**BASE, filter=name)
        expected = PAIRS | INSTRUCTIONS if is_read else set()
        assert changes(config, config.model_copy(update={"filter_limits": limits})) == expected


@pytest.mark.parametrize("field", SOURCES)
def test_a_source_counts_by_its_content_and_not_by_its_place(field: str, tmp_path: Path, tsv: SourceConfig) -> None:
    assert tsv.path is not None
    if field == "path":
        folder = tmp_path / "elsewhere"
        folder.mkdir()
        for file in tmp_path.glob("*.tsv"):
            shutil.copy(file, folder)
        moved = SourceConfig(kind="tsv", path=str(folder / "{source}-{target}.tsv"))
        one, other = (DataConfig(**BASE, sources=(source, SourceConfig())) for source in (tsv, moved))
        assert changes(one, other) == set()
        before = recipe_keys(one, seed=0)
        (tmp_path / "en-zh.tsv").write_text("the red boat\t红船\n")
        after = recipe_keys(one, seed=0)
        assert before.pairs != after.pairs
        assert before.instructions == after.instructions
        return
    found = token_keys._without_paths  # what enters the key; a data set of a hub is not fetched here
    base = {"kind": "datasets", "path": "x", "columns": COLUMNS}
    assert found([SourceConfig(**base)]) != found([SourceConfig(**base | SOURCES[field])])


def test_the_seed_counts_wherever_it_was_written() -> None:
    config, own = DataConfig(**BASE), DataConfig(**BASE, seed=3)
    assert recipe_keys(config, seed=3) == recipe_keys(own, seed=0) == recipe_keys(own, seed=1)
    assert recipe_keys(config, seed=3) != recipe_keys(config, seed=0)


def test_the_model_counts_where_it_scores_rows() -> None:
    for fields, expected in (
        ({}, set()),
        ({"filter": "rules"}, set()),
        ({"filter": "similarity"}, PAIRS | INSTRUCTIONS),
        ({"keep_best": 9}, INSTRUCTIONS),
    ):
        config = DataConfig(**BASE, **fields)
        one, other = (recipe_keys(config, seed=0, model=name) for name in ("a", "b"))
        assert {name for name in ("pairs", "instructions") if getattr(one, name) != getattr(other, name)} == expected


def test_scores_count_by_the_content_of_their_file(tmp_path: Path) -> None:
    configs = []
    for name, score in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        (tmp_path / name).write_text(json.dumps({"id": "x", "score": score}))
        configs.append(DataConfig(**BASE, keep_best=9, instruction_scores=str(tmp_path / name)))
    assert changes(configs[0], configs[1]) == set()
    assert changes(configs[0], configs[2]) == INSTRUCTIONS
    assert changes(configs[0], configs[0].model_copy(update={"instruction_scores": None})) == INSTRUCTIONS
    assert recipe_keys(configs[0], seed=0, model="a") == recipe_keys(configs[0], seed=0, model="b")


def test_heldout_pairs_count_where_pairs_are_drawn() -> None:
    for share, expected in ((0.0, PAIRS), (0.5, PAIRS | INSTRUCTIONS)):
        config = DataConfig(**BASE, translation_share=share)
        one, other = (recipe_keys(config, seed=0, heldout=held) for held in (None, {"num_pairs": 100}))
        assert {name for name in ("pairs", "instructions") if getattr(one, name) != getattr(other, name)} == expected


def test_code_that_changes_scores_changes_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    before = recipe_keys(DataConfig(**BASE), seed=0)
    monkeypatch.setattr(token_keys, "SCORE_VERSION", -1)
    after = recipe_keys(DataConfig(**BASE), seed=0)
    assert before.pairs != after.pairs
    assert before.instructions != after.instructions


def test_nothing_drawn_has_one_name(tsv: SourceConfig) -> None:
    empty = {"num_pairs": 0, "num_instructions": 0}
    one, other = DataConfig(**BASE | empty), DataConfig(sources=(tsv,), languages=("sw",), seed=4, **empty)
    assert recipe_keys(one, seed=0) == recipe_keys(other, seed=1)


def test_rows_are_equal_exactly_where_their_names_are() -> None:
    """Over a grid of recipes with many idle fields; a name that tells equal rows apart would tokenise them twice."""
    config = DataConfig(**BASE)
    some_pairs, some_rows = sources.load_pairs(config)[::20], sources.load_instructions(config)[::20]
    by_key: dict[str, set[str]] = defaultdict(set)
    by_rows: dict[str, set[str]] = defaultdict(set)
    grid: dict[str, tuple[Any, ...]] = {
        "languages": (("zh",), ("zh", "th")),
        "translation_share": (0.0, 0.25, 1.0),
        "cross_probability": (0.0, 0.6),
        "crossing": ("pivot", "any"),
        "direction_probability": (0.2, 0.9),
        "language_temperature": (None, 1.0),
        "instruction_folds": (1, 2, "languages"),
    }
    for values in itertools.product(*grid.values()):
        config = DataConfig(**BASE | dict(zip(grid, values, strict=True)))
        keys = recipe_keys(config, seed=0)
        candidates = [pair for pair in some_pairs if pair.target_language in config.languages]
        if len(config.languages) > 1:  # amounts that differ, so that the temperature has something to do
            candidates = [pair for n, pair in enumerate(candidates) if pair.target_language == "zh" or n % 2]
        pairs = draw_pairs(candidates, num_pairs=config.num_pairs, seed=0, temperature=config.language_temperature)
        rows = draw_instructions(some_rows, pairs, config, seed=0)
        for key, drawn in ((keys.pairs, repr(pairs)), (keys.instructions, repr(rows))):
            by_key[key].add(drawn)
            by_rows[drawn].add(key)
    assert all(len(drawn) == 1 for drawn in by_key.values())
    assert all(len(keys) == 1 for keys in by_rows.values())
