"""A trial that prints without end keeps the beginning and the end of what it said."""

import logging
import re
from pathlib import Path

import pytest

from afp_ray.execution import log_file
from afp_ray.execution.worker import output_to


def test_a_short_log_is_kept_whole_and_appended_to(tmp_path: Path) -> None:
    for number in range(3):
        with output_to(tmp_path / "log.txt"):
            print("attempt", number)
            logging.getLogger("afp_ray").warning("สวัสดี")
    lines = (tmp_path / "log.txt").read_text("utf-8").splitlines()
    assert lines[::2] == ["attempt 0", "attempt 1", "attempt 2"]
    assert all(line.endswith("WARNING afp_ray: สวัสดี") for line in lines[1::2])


def test_of_a_flood_the_beginning_and_the_end_stay(tmp_path: Path) -> None:  # row 32
    path, line = tmp_path / "log.txt", "x" * 999
    with output_to(path):
        print("the beginning")
        for number in range(30_000):
            print(line)
            if number % 1000 == 0:
                assert path.stat().st_size < log_file.MAX_BYTES + 2**17
        print("the end")
    content = path.read_text("utf-8")
    assert content.startswith("the beginning\n")
    assert content.endswith("the end\n")
    (left_out,) = re.findall(r"\n\[\.\.\. +(\d+) bytes left out \.\.\.\]\n", content)
    mark = len(log_file._MARK % 0)
    assert len(content) - mark + int(left_out) == 30_000 * 1000 + len("the beginning\n") + len("the end\n")


def test_two_workers_share_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    with log_file.open_log(path) as first, log_file.open_log(path) as second:
        for _ in range(12_000):
            first.write("a" * 999 + "\n")
            second.write("b" * 999 + "\n")
            assert path.stat().st_size < log_file.MAX_BYTES + 2**18
    assert set(path.read_text("utf-8").splitlines()[-1]) in ({"a"}, {"b"})


def test_one_huge_line_is_cut_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with log_file.open_log(tmp_path / "log.txt") as log:
        log.write("x" * (3 * log_file.MAX_BYTES) + "\n")
    assert (tmp_path / "log.txt").stat().st_size < log_file.MAX_BYTES
