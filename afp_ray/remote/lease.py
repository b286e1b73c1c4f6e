"""The lease of a study at a URL: one machine drives it at a time.

Object stores promise no lock. The lease is a file with a token that its holder writes again and again; whoever finds it
watches it by the own clock for longer than a renewal takes, so that clocks need not agree, and reads back what it wrote
before it believes that the study is its own. Two machines that start within the same second are told apart by that; a
store that shows old content for longer than `SETTLE_S` is not safe to share.
"""

import json
import os
import secrets
import socket
import time
from collections.abc import Callable
from typing import Any

from afp_ray.errors import StudyLockedError
from afp_ray.remote.place import Place

RENEW_S = 10.0
EXPIRY_S = 45.0
SETTLE_S = 1.0


class RemoteLease:
    """What `take` gives; `renew` it every `RENEW_S` seconds."""

    def __init__(self, place: Place, study: str) -> None:
        self._place, self._study = place, study
        self._file = f"{study}/lease.json"
        self._token = secrets.token_hex(8)

    @classmethod
    def take(cls, place: Place, study: str, *, sleep: Callable[[float], None] = time.sleep) -> "RemoteLease":
        """Take the lease, once nobody holds it any more.

        A machine that was lost leaves its lease behind: it is watched for `EXPIRY_S` seconds first.

        Raises: StudyLockedError when another machine drives the study; UnavailableError when the place refuses.
        """
        lease = cls(place, study)
        found, waited = lease._read(), 0.0
        while found is not None and waited < EXPIRY_S:
            sleep(SETTLE_S)
            waited += SETTLE_S
            now = lease._read()
            if now is not None and now != found:
                raise lease._held(now)
            found = now
        lease.renew(is_new=True)
        sleep(SETTLE_S)
        lease.check()
        return lease

    def renew(self, *, is_new: bool = False) -> None:
        """Write the lease again.

        Raises: StudyLockedError when another machine has taken it; nothing is written then.
        """
        if not is_new:
            self.check()
        content = {"token": self._token, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
        self._place.write(self._file, json.dumps(content).encode())

    def check(self) -> None:
        """Nothing while the lease is ours.

        Raises: StudyLockedError when it is not.
        """
        found = self._read()
        if found is None or found.get("token") != self._token:
            raise self._held(found or {})

    def release(self) -> None:
        """Give it back; one that was lost is left alone."""
        found = self._read()
        if found is not None and found.get("token") == self._token:
            self._place.remove(self._file)

    def holder(self) -> dict[str, Any] | None:
        """What the lease says of the machine that took it last; None when it was given back."""
        return self._read()

    def _read(self) -> dict[str, Any] | None:
        content = self._place.read(self._file)
        if content is None:
            return None
        try:
            found = json.loads(content)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _held(self, found: dict[str, Any]) -> StudyLockedError:
        return StudyLockedError(
            f"study {self._study} at {self._place.url} is already being driven by pid {found.get('pid', '?')} on "
            f"{found.get('host', '?')}"
        )
