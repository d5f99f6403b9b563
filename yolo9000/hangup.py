"""SIGTERM, and SIGHUP, which a process gets when its terminal is closed: nothing is left half done."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


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


@contextmanager
def unwound_by_signals() -> Iterator[None]:
    """Let SIGTERM (`timeout`, `docker stop`) and SIGHUP (a closed terminal) end the program as Ctrl-C does.

    What is open is left in order: streams of results and videos are finished, half-written files removed.
    """

    def end(number: int, _: FrameType | None) -> NoReturn:
        if number in hangup_signals():
            leave_terminal()
        sys.exit(128 + number)

    noted = (signal.SIGTERM, *hangup_signals())
    before = {number: signal.signal(number, end) for number in noted}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) == end:
                signal.signal(number, handler)
