"""Named places at which a test can kill the process: `AFP_FAILPOINT=after_done`, or `after_done:3` on pass three."""

import os

from afp_ray.errors import ConfigError

_NAME, _, _PASSES = os.environ.get("AFP_FAILPOINT", "").partition(":")
if _PASSES and not _PASSES.isdigit():
    raise ConfigError(
        f"AFP_FAILPOINT={os.environ['AFP_FAILPOINT']!r} is no point",
        where="environment",
        allowed="NAME or NAME:PASS",
        fix="unset it",
    )
_left = int(_PASSES or 1)

NAMES = (
    "after_planned",
    "after_running",
    "after_result_before_commit",
    "after_paused",
    "after_pruned",
    "after_done",
    "after_failed",
    "after_confirmed_before_cleanup",
)


def failpoint(name: str) -> None:
    """End the process here, as a kill would, when `AFP_FAILPOINT` asks for it."""
    global _left
    if name == _NAME:
        _left -= 1
        if _left == 0:
            os._exit(9)
