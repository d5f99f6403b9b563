"""How far a long run is: a bar where somebody watches, a line now and then where nobody does."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from wordtree._terminal import Terminal

_SHORT = 10  # pictures; fewer need no bar
_INTERVAL = 30.0  # seconds between lines where standard error is no terminal


def titled(title: str, *columns: ProgressColumn) -> tuple[Progress, TaskID]:
    """A bar on standard error while that is a terminal, gone when done.

    Args:
        title: What stands before it, not read as markup.
        *columns: What stands behind it; by default a bar, the share and the time left.
    """
    console = Terminal(stderr=True)
    bar = Progress(
        TextColumn("{task.description}", markup=False), *(columns or Progress.get_default_columns()[1:]),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    return bar, bar.add_task(title, total=None)


class Rate(ProgressColumn):
    """Pictures a second."""

    def render(self, task: Task) -> Text:
        """The rate of the last while."""
        return Text(f"{task.speed:.1f}/s" if task.speed else "", "dim")


class Counter:
    """Counts pictures, and shows count, rate and time left.

    Args:
        total: How many there are; None where that is not known.
        console: The console that results go to; the bar stands below them where it is a terminal.
    """

    def __init__(self, total: int | None, console: Console | None = None) -> None:
        self._total, self._done = total, 0
        self._begun = self._said = time.monotonic()
        errors = Terminal(stderr=True)
        screen = console if console is not None and console.is_terminal else errors
        self._bar: Progress | None = None
        if screen.is_terminal and (total is None or total >= _SHORT):
            self._bar = Progress(
                TextColumn("{task.completed:,.0f}"),
                TextColumn("" if total is None else "of {task.total:,.0f}"),
                BarColumn(), Rate(), TimeRemainingColumn(),
                console=screen, transient=True, redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip
            self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def step(self) -> None:
        """One more picture is done."""
        self._done += 1
        if self._bar:
            self._bar.advance(self._task)
        elif not sys.stderr.isatty() and time.monotonic() - self._said >= _INTERVAL:
            self._said = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """Such as "1,200 of 5,000 pictures, 3.2/s, 19 min left"."""
        rate = self._done / max(time.monotonic() - self._begun, 1e-9)
        if self._total is None:
            return f"{self._done:,} pictures, {rate:.1f}/s"
        left = max(self._total - self._done, 0) / max(rate, 1e-9)
        span = (
            f"{left / 3600:.1f} h"
            if left >= 5400
            else f"{left / 60:.0f} min"
            if left >= 90
            else f"{left:.0f} s"
        )
        return f"{self._done:,} of {self._total:,} pictures, {rate:.1f}/s, {span} left"
