"""The append-only event log of a study, the lease that keeps it to one writer, and its replay into state.

One event is one JSON line. A line counts once its newline is on disk: a torn last line is cut when the ledger is
opened for writing, and passed over when it is read, so reading needs no lock and may happen while a driver writes.
"""

from afp_ray.ledger.agreement import study_hash
from afp_ray.ledger.lease import holder
from afp_ray.ledger.log import Ledger, mend
from afp_ray.ledger.state import CLOSED, OPENED, Replayer, follow, replay

__all__ = [
    "CLOSED",
    "OPENED",
    "Ledger",
    "Replayer",
    "follow",
    "holder",
    "mend",
    "replay",
    "study_hash",
]
