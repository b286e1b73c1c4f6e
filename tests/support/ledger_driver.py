"""A driver in its own process that does one thing for every line it is told, to be paused and replaced meanwhile."""

import sys
from pathlib import Path

from afp_ray.errors import AfpError
from afp_ray.ledger import Ledger
from afp_ray.records import LedgerEvent
from afp_ray.store import StudyPaths


def main(storage: str) -> None:
    """Open the study `s` under `storage`; then plan the trial of every line, and print how that went."""
    with Ledger.open(StudyPaths(Path(storage), "s")) as ledger:
        print("open", flush=True)
        for line in sys.stdin:
            what = {"role": "search", "arm": "afp", "seed": 1, "config": {"seed": 1}}
            try:
                ledger.append(LedgerEvent(time=1.0, trial_id=line.strip(), state="PLANNED", attempt=1, **what))
                print("written", flush=True)
            except AfpError as error:
                print(f"{type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
