"""Axes of drawings: closed forms, and a file that gives back what was written or nothing."""

from pathlib import Path

import numpy as np
import pytest

from afp_ray.evaluation.projection import SentenceStates, fit_axes, gather_states, read_states, write_states


@pytest.mark.parametrize("num_sentences", [4, 40], ids=["fewer sentences than directions", "more"])
def test_axes_are_those_along_which_a_cloud_is_widest(num_sentences: int) -> None:
    turn = np.linspace(0, 2 * np.pi, num_sentences, endpoint=False)
    states = np.full((num_sentences, 7), 3.0)
    states[:, 4] += 2 * np.cos(turn)
    states[:, 1] += -1 * np.sin(turn)
    axes = fit_axes(states)
    assert np.abs(axes.directions) == pytest.approx(np.eye(7)[[4, 1]], abs=1e-7)
    assert axes.directions[[0, 1], [4, 1]] == pytest.approx([1, 1])  # the sign is fixed
    assert axes.shares == pytest.approx((0.8, 0.2))  # 4 to 1
    assert axes.project(states) == pytest.approx(np.stack([2 * np.cos(turn), -np.sin(turn)], axis=1), abs=1e-6)


def test_one_direction_or_none_leaves_the_others_at_zero() -> None:
    line = fit_axes(np.outer([0.0, 1.0], [3.0, 4.0]))
    assert line.project(np.array([[3.0, 4.0]])) == pytest.approx(np.array([[2.5, 0.0]]))
    assert line.shares == pytest.approx((1.0, 0.0))
    point = fit_axes(np.ones((3, 2)))
    assert point.project(np.array([[9.0, 9.0]])).tolist() == [[0.0, 0.0]]
    assert point.shares == (0.0, 0.0)


def test_axes_of_one_model_are_applied_to_another_as_they_are() -> None:
    random = np.random.default_rng(0)
    base = random.normal(size=(30, 6))
    axes = fit_axes(base)
    moved = base + 0.5 * axes.directions[0] - 2 * axes.directions[1]
    assert axes.project(moved) - axes.project(base) == pytest.approx(np.tile([0.5, -2.0], (30, 1)))


def states_of_a_trial() -> SentenceStates:
    random = np.random.default_rng(0)
    states = {(layer, name): random.normal(size=(5, 4)) for layer in (0, 1) for name in ("mean", "last")}
    return gather_states(states, ["en", "zh", "en", "zh", "sw"], (1, "mean"))


def test_states_come_back_from_their_file(tmp_path: Path) -> None:
    written, path = states_of_a_trial(), tmp_path / "representation" / "test.safetensors"
    write_states(written, path)
    read = read_states(path)
    assert read is not None
    assert (read.languages, read.headline) == (written.languages, (1, "mean"))
    assert read.states.dtype == np.float16
    assert np.array_equal(read.states, written.states)
    assert set(read.axes) == set(written.axes) == {(0, "mean"), (0, "last"), (1, "mean"), (1, "last")}
    for key, axes in written.axes.items():
        assert read.axes[key].directions == pytest.approx(axes.directions, abs=1e-6)
        assert read.axes[key].shares == axes.shares
        assert read.points[key] == pytest.approx(written.points[key], abs=1e-6)
    # A state of 16 bits is drawn within a thousandth of where it was.
    assert read.axes[1, "mean"].project(read.states) == pytest.approx(written.points[1, "mean"], abs=5e-3)
    first = path.read_bytes()
    write_states(written, path)
    assert path.read_bytes() == first


def test_a_file_that_is_broken_or_of_another_format_gives_nothing(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "test.safetensors"
    assert read_states(path) is None
    write_states(states_of_a_trial(), path)
    content = path.read_bytes()
    for broken in (b"", content[:40], content[:-16], b"\xff" * 64):
        path.write_bytes(broken)
        assert read_states(path) is None
    save_file({"states": np.zeros((2, 2))}, path)
    assert read_states(path) is None
    save_file({"states": np.zeros((2, 2))}, path, metadata={"afp_ray": '{"format": 0}'})
    assert read_states(path) is None
    save_file({"states": np.zeros((2, 2))}, path, metadata={"afp_ray": '{"format": 1}'})
    assert read_states(path) is None
