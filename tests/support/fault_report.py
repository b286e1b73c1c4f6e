"""Writers of reports in processes of their own, to be killed in the midst of it."""

import json
import sys
from pathlib import Path

from fault_driver import REFUSED, suffer

import services.views.html  # noqa: F401  # seconds, which a nursery pays once
from afp_ray.errors import AfpError
from afp_ray.store import StudyPaths
from services.reports import write_reports


def main(storage: str, fault: str = "{}") -> int:
    """Write the reports of the study `demo`, on a machine with `fault` (JSON); see `fault_driver.suffer`."""
    suffer(json.loads(fault))
    try:
        write_reports(StudyPaths(Path(storage), "demo"))
    except AfpError as error:
        sys.stdout.write(f"{type(error).__name__}: {error}\n")
        return REFUSED
    return 0
