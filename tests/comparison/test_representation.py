"""What arms did to representations: means beside base, by layer, and drawn in the axes of base."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricate import LANGUAGES, add_representation, fabricate, make_states

from afp_ray.comparison import compare
from afp_ray.comparison.representation import Change, changes
from afp_ray.comparison.table import base_of
from afp_ray.evaluation.projection import gather_states, read_states, write_states
from afp_ray.records import Comparison
from afp_ray.store import StudyPaths


def close(value: float) -> Any:
    """A number as it is written here, beside one that was computed."""
    return pytest.approx(value)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    paths = fabricate(tmp_path_factory.mktemp("runs"))
    add_representation(paths)
    return paths


@pytest.fixture(scope="module")
def table(finished: StudyPaths) -> Comparison:
    return compare(finished)


def test_rows_hold_every_measure_and_that_of_base(table: Comparison) -> None:
    rows = {(row.arm, row.language): row for row in table.representation}
    assert set(rows) == {(arm, code) for arm in ("base", "mcl", "afp") for code in ("", *LANGUAGES)}
    afp = rows["afp", ""]
    assert (afp.layer, afp.pooling) == (0, "mean")
    assert (afp.retrieval_from_pivot, afp.retrieval_to_pivot) == (close(0.6), close(0.4))
    assert (afp.anisotropy, afp.anisotropy_before) == (close(0.7), close(0.9))
    assert (afp.language_probe, afp.language_probe_before) == (close(0.8), close(1.0))
    assert afp.language_probe_chance == close(1 / 3)
    assert rows["base", ""].anisotropy_before is None


def test_results_of_before_are_still_read(tmp_path: Path) -> None:
    paths = fabricate(tmp_path)
    table = compare(paths)
    row = next(row for row in table.representation if (row.arm, row.language) == ("afp", ""))
    assert row.before is not None
    assert (row.anisotropy, row.language_probe) == (None, None)
    (mcl, afp) = changes(paths, table, base_of)
    assert {mcl.arm, afp.arm} == {"mcl", "afp"}
    assert afp.drawing is None
    assert afp.by_layer["alignment"][0][1] == pytest.approx(row.alignment)
    assert afp.by_layer["anisotropy"] == {0: (None, None), 1: (None, None)}


def test_changes_go_layer_by_layer(finished: StudyPaths, table: Comparison) -> None:
    afp = next(change for change in changes(finished, table, base_of) if change.arm == "afp")
    assert (afp.base, afp.layer, afp.pooling, afp.chance) == ("base", 0, "mean", close(1 / 3))
    assert afp.by_layer["language_probe"] == {
        0: (close(1.0), close(0.8)),
        1: (close(0.9), close(0.7)),
    }


def test_an_arm_is_drawn_in_the_axes_of_base(finished: StudyPaths, table: Comparison) -> None:
    found = {change.arm: change for change in changes(finished, table, base_of)}
    assert set(found) == {"mcl", "afp"}
    for arm, shift in (("mcl", 1.0), ("afp", 2.0)):
        drawing = found[arm].drawing
        assert drawing is not None
        assert list(drawing.before) == list(drawing.after) == ["en", "zh", "sw"]
        moved = np.concatenate([drawing.after[code] - drawing.before[code] for code in drawing.before])
        # In axes of its own an arm that moved as a whole would not have moved at all.
        assert moved == pytest.approx(np.tile([shift, 0.0], (24, 1)), abs=0.02)
        assert drawing.shares[0] > 0.99


def change(paths: StudyPaths, table: Comparison, arm: str) -> Change:
    return next(change for change in changes(paths, table, base_of) if change.arm == arm)


def test_what_cannot_be_drawn_is_left_out(tmp_path: Path) -> None:
    paths = fabricate(tmp_path)
    add_representation(paths)
    table = compare(paths)
    trials = {row.arm: paths.trial(row.trials[0]).representation_of("test") for row in table.arms}
    kept = read_states(trials["mcl"])
    assert kept is not None
    wider = {place: np.pad(values, ((0, 0), (0, 2))) for place, values in make_states(0, list(kept.languages)).items()}
    write_states(gather_states(wider, kept.languages, (0, "mean")), trials["mcl"])
    assert change(paths, table, "mcl").drawing is None  # another width than base
    elsewhere = {(7, "mean"): make_states(0, list(kept.languages))[0, "mean"]}
    write_states(gather_states(elsewhere, kept.languages, (7, "mean")), trials["afp"])
    assert change(paths, table, "afp").drawing is None  # a layer that base lacks
    trials["base"].write_bytes(b"broken")
    assert change(paths, table, "mcl").drawing is None


def test_a_study_without_a_base_has_no_changes(tmp_path: Path) -> None:
    paths = fabricate(tmp_path, methods=("mcl", "afp"))
    assert changes(paths, compare(paths), base_of) == []
