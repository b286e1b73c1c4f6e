"""Events of a made-up ledger."""

from typing import Any

from afp_ray.records import LedgerEvent


def event(state: str, trial_id: str = "t1", attempt: int = 1, **fields: Any) -> LedgerEvent:
    if state == "PLANNED":
        fields = {"role": "search", "arm": "afp", "seed": 1, "config": {"seed": 1}, "params": {"a": 0.1}, **fields}
    return LedgerEvent(time=100.0 + attempt, trial_id=trial_id, state=state, attempt=attempt, **fields)
