"""Rows of an evaluation are parsed and hashed once in a process, and again when their file changes."""

from pathlib import Path
from typing import Any

import pytest

from afp_ray.config import EvaluationConfig
from afp_ray.evaluation import check, questions
from afp_ray.evaluation.check import evaluation_fingerprint
from afp_ray.evaluation.questions import load_rows
from afp_ray.evaluation.tasks import TASKS


def write_rows(folder: Path, number: int) -> None:
    for part in ("dev", "test"):
        text = "".join(
            f"{part} {place} left .\tIt is {word} {place} .\t{word}\n"
            for place in range(number)
            for word in ("entailment", "neutral", "contradiction")
        )
        (folder / "xnli").mkdir(exist_ok=True)
        (folder / "xnli" / f"{part}-en.tsv").write_text(text, "utf-8")


def fingerprint(folder: Path, **fields: Any) -> str:
    config = EvaluationConfig(tasks=("xnli",), data_dir=str(folder), **fields)
    return evaluation_fingerprint(config, languages=("en",), pivot="en")


def test_rows_come_as_the_same_object_until_their_file_changes(tmp_path: Path) -> None:
    write_rows(tmp_path, 2)
    first = load_rows(TASKS["xnli"], str(tmp_path), "en")
    assert load_rows(TASKS["xnli"], str(tmp_path), "en") is first
    write_rows(tmp_path, 3)
    changed = load_rows(TASKS["xnli"], str(tmp_path), "en")
    assert len(changed.splits["test"]) == len(first.splits["test"]) + 3


def test_a_fingerprint_is_computed_once_for_the_same_rows_and_anew_for_changed_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    add = check._add

    def counted(whole: Any, name: str, *rest: Any) -> None:
        hashed.append(name)
        add(whole, name, *rest)

    monkeypatch.setattr(check, "_add", counted)
    write_rows(tmp_path, 2)
    first = fingerprint(tmp_path)
    assert [fingerprint(tmp_path), fingerprint(tmp_path)] == [first, first]
    assert hashed == ["xnli/en"]
    write_rows(tmp_path, 3)
    changed = fingerprint(tmp_path)
    assert changed != first
    write_rows(tmp_path, 2)
    assert fingerprint(tmp_path) == first
    assert len(hashed) == 3


def test_a_kept_fingerprint_is_that_of_a_fresh_process() -> None:
    config = EvaluationConfig(tasks=("xnli", "xcopa"), shots=(0, 2))
    found = [evaluation_fingerprint(config, languages=("en", "sw"), pivot="en") for _ in range(2)]
    check._digests.clear()
    questions._embedded_rows.cache_clear()
    assert {*found, evaluation_fingerprint(config, languages=("en", "sw"), pivot="en")} == {found[0]}


def test_fingerprints_of_many_evaluations_are_not_kept_for_ever(tmp_path: Path) -> None:
    write_rows(tmp_path, 2)
    for limit in range(1, 3 * check._MAX_DIGESTS):
        fingerprint(tmp_path, limit=limit)
    assert len(check._digests) == check._MAX_DIGESTS
