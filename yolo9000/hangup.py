"""SIGHUP, which a process gets when its terminal is closed: work is finished all the same."""

from __future__ import annotations

import os
import signal
import sys


def hangup_signals() -> tuple[int, ...]:
    """SIGHUP; nothing where the system has none (Windows), or it is ignored (`nohup`)."""
    if sys.platform == "win32":
        return ()
    else:  # an else for type checkers
        return () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)


def leave_terminal() -> None:
    """After a hangup, ignore further ones (kernel and shell send one each), and print into nothing."""
    for number in hangup_signals():
        signal.signal(number, signal.SIG_IGN)
    for stream in (1, 2):
        try:
            os.write(stream, b"")
        except OSError:  # a terminal that is gone
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, stream)
            os.close(nothing)
