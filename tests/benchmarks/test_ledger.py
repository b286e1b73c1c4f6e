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
    promised |= {f"service.{name}_40_s": 10.0 for name in ("comparison", "report", "trials")}
    beside = {"ledger.plain_write_s", "ledger.status_without_snapshot_s", "ledger.best_first_s"}
    assert set(found) == {*promised, *beside, "service.peak_mb"}
    assert (found["service.peak_mb"]["peer"], found["service.peak_mb"]["ours"] > 50) == (500.0, True)
    for name, promise in promised.items():
        assert (found[name]["peer"], found[name]["equal"]) == (promise, True)
