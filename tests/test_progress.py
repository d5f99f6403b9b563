"""How far a run is: what people see on a terminal, and in a log."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from yolo9000 import progress
from yolo9000.progress import Counter


class Clock:
    """A clock that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.mark.parametrize(
    ("total", "done", "seconds", "line"),
    [
        (5000, 1200, 600, "1,200 of 5,000 pictures, 2.0/s, 32 min left"),
        (100, 50, 50, "50 of 100 pictures, 1.0/s, 50 s left"),
        (100_000, 10, 10, "10 of 100,000 pictures, 1.0/s, 27.8 h left"),
        (None, 30, 10, "30 pictures, 3.0/s"),
        (10, 12, 4, "12 of 10 pictures, 3.0/s, 0 s left"),  # a video that says too little of itself
    ],
)
def test_line(
    monkeypatch: pytest.MonkeyPatch, total: int | None, done: int, seconds: float, line: str
) -> None:
    clock = Clock(monkeypatch)
    counter = Counter(total)
    for _ in range(done):
        counter.step()
    clock.now += seconds
    assert counter.line() == line


def test_a_line_every_half_minute_in_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    with Counter(100) as counter:
        for _ in range(100):
            clock.now += 1
            counter.step()
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split()[0] for line in err.splitlines()] == ["30", "60", "90"]


def test_a_bar_on_a_terminal() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    with Counter(20, console) as counter:
        for _ in range(20):
            counter.step()
            console.print("a result")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert text.count("a result") == 20
    assert "20 of 20" in text


def test_short_runs_need_no_bar() -> None:
    screen = io.StringIO()
    with Counter(3, Console(file=screen, force_terminal=True)) as counter:
        counter.step()
    assert screen.getvalue() == ""
