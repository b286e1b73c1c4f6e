"""Reports and tables whose writer dies or whose disk refuses: each file is the old one or the new one, never a part."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fabricate import fabricate
from fault_driver import KILLED, REFUSED, Nursery, nursery

from afp_ray.store import StudyPaths

OLD = b"what was written before"


@pytest.fixture(scope="module")
def writers() -> Iterator[Nursery]:
    with nursery("fault_report") as opened:
        yield opened


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    return fabricate(tmp_path_factory.mktemp("runs"))


def files_of(paths: StudyPaths) -> list[Path]:
    return [paths.report, *(paths.comparison(suffix) for suffix in ("md", "tex", "csv", "json"))]


@pytest.mark.parametrize(("fault", "step"), [("die_before", 2), ("refuse", 5)])
def test_every_file_is_whole_wherever_its_writer_ends(
    fault: str, step: int, study: StudyPaths, writers: Nursery
) -> None:
    code, output = writers.drive(study.storage)
    assert code == 0, output
    new = {file: file.read_bytes() for file in files_of(study)}
    num_new, number, code = [], 0, KILLED
    while code != 0:
        for file in files_of(study):
            file.write_bytes(OLD)
        asked = {"die_before": number} if fault == "die_before" else {"refuse": "ENOSPC", "from": number}
        code, output = writers.drive(study.storage, asked)
        assert code in (0, KILLED) if fault == "die_before" else code in (0, REFUSED), output
        assert code != REFUSED or ("No space left on device" in output and "bytes)" in output)
        found = {file: file.read_bytes() for file in files_of(study)}
        assert all(content in (OLD, new[file]) for file, content in found.items())
        num_new.append(sum(content != OLD for content in found.values()))
        number += step
    assert num_new == sorted(num_new)
    assert num_new[0] == 0 and num_new[-1] == 5 and len(set(num_new)) > 2
