"""What all benchmarks share: a table on the terminal, the same as JSON, and a picture.

python benchmarks/detect.py              print, and write benchmarks/results/detect.{json,png}
python benchmarks/detect.py --no-write   print only
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).resolve().parent / "results"
MIB = 2**20
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Report:
    """One question and its answer.

    Attributes:
        name: Of the files.
        question: What is measured, in one sentence.
        columns: Heads of the table; the first column names what was measured.
        machine: See `yolo9000.benchmark.machine`.
        settings: Threads, sizes, precision, rounds.
        rows: One list of cells a line.
        notes: What is missing and why, what was aimed at.
    """

    name: str
    question: str
    columns: Sequence[str]
    machine: dict[str, str]
    settings: dict[str, Any]
    rows: list[list[Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *cells: Any) -> None:
        self.rows.append(list(cells))

    def show(self, console: Console | None = None) -> None:
        console = console or Console(width=None if sys.stdout.isatty() else 140, highlight=False)
        caption = f"{_line(self.settings)}\n{_line(self.machine)}"
        table = Table(*self.columns, title=self.question, caption=caption)
        for column in table.columns[1:]:
            column.justify = "right"
        for row in self.rows:
            table.add_row(*map(_cell, row))
        console.print(table)
        for note in self.notes:
            console.print(f"- {note}")

    def save(self, draw: Callable[[Any, Report], None] | None = None) -> None:
        RESULTS.mkdir(exist_ok=True)
        about = {key: getattr(self, key) for key in self.__dataclass_fields__}
        (RESULTS / f"{self.name}.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
        if draw is None:
            return
        try:
            from matplotlib.figure import Figure
        except ModuleNotFoundError:
            print("no picture: pip install matplotlib", file=sys.stderr)
            return
        figure = Figure(figsize=(9, 4.5), layout="constrained")
        figure.suptitle(self.question, fontsize=11)
        draw(figure, self)
        figure.supxlabel(_line(self.machine), fontsize=6)
        figure.savefig(RESULTS / f"{self.name}.png", dpi=120)


def bars(column: int, unit: str = "", limit: float | None = None) -> Callable[[Any, Report], None]:
    """A picture with one bar a row: the numbers of one column, with a line at the aim."""

    def draw(figure: Any, report: Report) -> None:
        axes = figure.add_subplot()
        rows = [row for row in report.rows if isinstance(row[column], int | float)]
        labels = [" ".join(str(cell) for cell in row[:1]) for row in rows]
        drawn = axes.barh(labels[::-1], [row[column] for row in rows][::-1], color="#4878a8")
        axes.bar_label(drawn, fmt="%.3g", padding=3)
        if limit is not None:
            axes.axvline(limit, color="#b04030", linestyle="--", label=f"aim: {limit:g}")
            axes.legend()
        axes.set_xlabel(report.columns[column] + unit)
        axes.margins(x=0.12)

    return draw


def arguments(text: str, **options: tuple[Any, str]) -> argparse.Namespace:
    """The command line: `--no-write`, and numbers or flags by name with default and help."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("--no-write", action="store_true", help="print only")
    for name, (default, about) in options.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(default, bool):
            parser.add_argument(flag, action="store_true", help=about)
        else:
            parser.add_argument(flag, type=type(default), default=default, help=f"{about} [{default}]")
    return parser.parse_args()


def in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a module's function returns when it runs in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def added_peak(function: Callable[[], Any]) -> float | None:
    """MiB by which a call raises the peak of resident memory above what is resident before it.

    Linux only (None elsewhere): the peak is set back first. `ru_maxrss` would not do, a process inherits it.
    """
    if not CLEAR.exists():
        return None
    CLEAR.write_text("5")  # sets the peak to what is resident now
    before = resident("VmRSS")
    function()
    return resident("VmHWM") - before


def warm_up() -> None:
    """Let torch load the libraries that it loads with its first convolution and gradient."""
    import torch

    pixels = torch.rand(1, 3, 32, 32, requires_grad=True)
    torch.nn.functional.conv2d(pixels, torch.rand(8, 3, 3, 3)).sum().backward()


def resident(field: str) -> float:
    """A field of /proc/self/status in MiB: VmRSS (now) or VmHWM (peak)."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _line(about: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in about.items())
