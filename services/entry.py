"""The first thing of the command `afp` that runs: Ctrl-C ends it in one line, also while the rest is imported."""

import os
import signal
from typing import NoReturn


def command() -> NoReturn:
    """Import the command line and run it."""
    # A process that was started to ignore Ctrl-C (`nohup`, `&` in a script) goes on ignoring it.
    is_heeded = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    if is_heeded:
        signal.signal(signal.SIGINT, lambda *_: _interrupted())
    from services.cli import command as run

    try:
        if is_heeded:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    except KeyboardInterrupt:
        _interrupted()


def _interrupted() -> NoReturn:
    os.write(2, b"interrupted\n")
    os._exit(130)
