"""Several Ray nodes on this machine: where trials land, and what becomes of them when their node is taken away."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SUPPORT = Path(__file__).parent.parent / "support"
pytestmark = [pytest.mark.ray, pytest.mark.slow]

Scenario = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def nodes() -> Iterator[subprocess.Popen[str]]:
    """A cluster of several nodes in its own process; its file says what can be asked of it."""
    path = os.pathsep.join([str(SUPPORT), str(SUPPORT.parents[1])])
    process = subprocess.Popen(
        [sys.executable, str(SUPPORT / "ray_nodes.py")],
        env={**{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.communicate()


@pytest.fixture
def scenario(nodes: subprocess.Popen[str], tmp_path: Path) -> Scenario:
    """Runs a scenario by name."""

    def run(name: str) -> dict[str, Any]:
        assert nodes.stdin and nodes.stdout
        nodes.stdin.write(json.dumps([name, str(tmp_path)]) + "\n")
        nodes.stdin.flush()
        answer: dict[str, Any] = json.loads(nodes.stdout.readline())
        assert answer["closed"] == "complete"
        assert {trial["status"] for trial in answer["trials"]} == {"DONE"}
        return answer

    return run


def test_trials_are_placed_on_every_node(scenario: Scenario) -> None:
    answer = scenario("spread")
    assert len(answer["places"]) == 4
    assert {place["node"] for place in answer["places"]} == set(answer["nodes"])
    assert [trial["attempt"] for trial in answer["trials"]] == [1] * 4


def test_a_group_spans_nodes(scenario: Scenario) -> None:
    answer = scenario("group")
    assert sorted(place["rank"] for place in answer["places"]) == [0, 1]
    assert {place["node"] for place in answer["places"]} == set(answer["nodes"])


def test_a_trial_whose_node_is_removed_is_run_on_another(scenario: Scenario) -> None:
    answer = scenario("removed")
    assert [trial["attempt"] for trial in answer["trials"]] == [2]
    (failure,) = answer["failures"]
    assert failure["failure_class"] == "INFRA"
    first, second = answer["places"]
    assert first["node"] != second["node"]


def test_a_notice_lets_the_trial_save_its_state_and_go_on_elsewhere(scenario: Scenario) -> None:
    answer = scenario("drained")
    assert [trial["attempt"] for trial in answer["trials"]] == [2]
    (failure,) = answer["failures"]
    assert failure["failure_class"] == "PREEMPTED"
    first, second = answer["places"]
    assert first["node"] != second["node"], "Ray places nothing on a node that is being drained"
    assert answer["spans"] == [[0, 5], [5, 20]], "the second attempt goes on where the first was told to stop"


def test_a_trial_that_outstays_its_notice_is_ended(scenario: Scenario) -> None:
    answer = scenario("outstayed")
    (failure,) = answer["failures"]
    assert failure["failure_class"] == "PREEMPTED"
    assert "had not saved its state after 1 s" in failure["message"]
    first, second = answer["places"]
    assert first["node"] != second["node"]


def test_a_node_that_goes_right_after_its_notice_costs_no_retry(scenario: Scenario) -> None:
    answer = scenario("taken")
    (failure,) = answer["failures"]
    assert failure["failure_class"] == "PREEMPTED"


def test_a_notice_to_one_node_of_a_group_moves_the_group(scenario: Scenario) -> None:
    answer = scenario("group_drained")
    (failure,) = answer["failures"]
    assert failure["failure_class"] == "PREEMPTED"
    before, after = ({place["node"] for place in answer["places"][start : start + 2]} for start in (0, 2))
    assert len(before & after) == 1, "the node that stays is used again, the other is not"


def test_two_trials_share_a_gpu(scenario: Scenario) -> None:
    answer = scenario("shared_gpu")
    assert Counter(tuple(place["gpus"]) for place in answer["places"]) == {(0,): 2, (1,): 2}
