"""A driver in its own process, to be killed: runs a fake study and prints every event as it becomes durable."""

import json
import sys
from pathlib import Path

from conformance.executor_suite import make_study, run

from afp_ray.execution import LocalExecutor
from afp_ray.records import LedgerEvent, StudyState


def tell(event: LedgerEvent, state: StudyState) -> None:
    """One line per event."""
    print(event.state, event.trial_id, flush=True)


def main(storage: str, fields: str) -> None:
    """Run the study of `fields` (JSON) under `storage`."""
    study = make_study(**json.loads(fields))
    run(study, Path(storage), LocalExecutor(), on_event=[tell])


if __name__ == "__main__":
    main(*sys.argv[1:])
