"""The benchmark of the ledger runs at a toy size, and its quick answers equal its slow ones."""

import json

import pytest

from benchmarks import ledger


def test_the_ledger_benchmark_runs_at_a_toy_size(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AFP_CACHE", "set by the benchmark, and back again after the test")
    assert ledger.main(["--tiny", "--rounds", "1"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    found = {row["name"]: row for row in rows}
    promised = {"ledger.commit_s": 0.005, "ledger.status_s": 0.2, "ledger.best_s": 0.1}
    beside = {"ledger.plain_write_s", "ledger.status_without_snapshot_s", "ledger.best_first_s"}
    assert set(found) == {*promised, *beside}
    for name, promise in promised.items():
        assert (found[name]["peer"], found[name]["equal"]) == (promise, True)
