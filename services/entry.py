"""The first thing of the command `afp` that runs: Ctrl-C ends it in one line, also while the rest is imported."""

import os
import signal
from typing import NoReturn


def command() -> NoReturn:
    """Import the command line and run it."""
    signal.signal(signal.SIGINT, lambda *_: _interrupted())
    from services.cli import command as run

    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    except KeyboardInterrupt:
        _interrupted()


def _interrupted() -> NoReturn:
    os.write(2, b"interrupted\n")
    os._exit(130)
