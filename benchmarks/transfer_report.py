"""The table and the picture of benchmarks/transfer.py, from the results that are finished."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from rich.console import Console
from rich.table import Table

from wordtree._files import atomic_write
from yolo9000.optional import optional

PAPER = (
    16.0,
    32.8,
)  # mAP in % on ImageNet DET: classes without boxes, and with (section 4, 156 and 44 of 200)
FORMAT = "yolo9000-transfer-1"
_LAST = 1 << 30  # place of arms that have no name of their own


@dataclass(frozen=True)
class Row:
    """One arm over its seeds.

    Attributes:
        arm: Its title.
        seeds: Which.
        values: By way (`node`, ...) and half (`seen`, `unseen`) the mAP50 of every seed, %.
    """

    arm: str
    seeds: list[int]
    values: dict[str, dict[str, list[float]]]

    def ratio(self, way: str) -> float | None:
        """Mean of the unseen over mean of the seen; None where nothing seen is found."""
        halves = self.values[way]
        if not halves["seen"] or not halves["unseen"] or fmean(halves["seen"]) == 0:
            return None
        return fmean(halves["unseen"]) / fmean(halves["seen"])


def finished(out: Path, order: Sequence[str]) -> Iterator[Row]:
    """All arms with results, in the order given, others behind."""
    results = [json.loads(path.read_text()) for path in sorted((out / "results").glob("*.json"))]
    place = {arm: i for i, arm in enumerate(order)}
    names = sorted({r["arm"] for r in results}, key=lambda arm: (place.get(arm, _LAST), arm))
    for name in names:
        own = sorted((r for r in results if r["arm"] == name), key=lambda r: r["seed"])
        values = {
            way: {
                half: [100 * r["map50"][way][half] for r in own if r["map50"][way][half] is not None]
                for half in halves
            }
            for way, halves in own[0]["map50"].items()
        }
        yield Row(name, [r["seed"] for r in own], values)


def span(values: list[float]) -> str:
    """Mean, and the range over seeds."""
    if not values:
        return "–"
    return (
        f"{fmean(values):.1f} ({min(values):.1f} to {max(values):.1f})"
        if len(values) > 1
        else f"{values[0]:.1f}"
    )


def report(out: Path, order: Sequence[str], console: Console) -> None:
    """Print the table; write it as JSON and as a picture."""
    rows = list(finished(out, order))
    if not rows:
        console.print(f"nothing is finished in {out}")
        return
    ways = list(rows[0].values)
    table = Table(
        "arm", "scored at", "seen", "unseen", "ratio", title="mAP50 on VOC val, %: mean (over seeds)"
    )
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows:
        for way in ways:
            ratio, halves = row.ratio(way), row.values[way]
            cells = (span(halves["seen"]), span(halves["unseen"]), "–" if ratio is None else f"{ratio:.2f}")
            table.add_row(f"{row.arm}, {len(row.seeds)} seeds" if way == ways[0] else "", way, *cells)
        table.add_section()
    console.print(table)
    console.print(
        f"paper, ImageNet DET: {PAPER[1]} with boxes, {PAPER[0]} without, ratio {PAPER[0] / PAPER[1]:.2f}"
    )
    content = [
        {
            "arm": row.arm,
            "seeds": row.seeds,
            "map50": row.values,
            "ratio": {way: row.ratio(way) for way in ways},
        }
        for row in rows
    ]
    with atomic_write(out / "transfer.json", text=True) as stream:
        stream.write(json.dumps({"format": FORMAT, "arms": content}, indent=2) + "\n")
    draw(rows, ways, out / "transfer.png")


def draw(rows: list[Row], ways: list[str], path: Path) -> None:
    """One plot a way: bars of the seen and unseen classes of every arm, lines from worst to best seed."""
    figure = optional("matplotlib.figure", "drawing", "matplotlib").Figure(
        figsize=(2 + 3.2 * len(ways), 1.6 + 0.5 * len(rows)), layout="constrained"
    )
    plots = np.atleast_1d(figure.subplots(1, len(ways), sharey=True))
    for plot, way in zip(plots, ways, strict=True):
        for half, shift, colour in (("seen", -0.2, "tab:blue"), ("unseen", 0.2, "tab:orange")):
            for y, row in enumerate(rows):
                values = row.values[way][half] or [0.0]
                label = half if y == 0 else None
                plot.barh(y + shift, fmean(values), 0.38, color=colour, label=label)
                plot.plot([min(values), max(values)], [y + shift] * 2, color="black", linewidth=1)
        plot.set_xlim(left=0)
        plot.set_title(way, fontsize=9)
        plot.set_xlabel("mAP50, %", fontsize=8)
        plot.set_yticks(range(len(rows)), [row.arm for row in rows], fontsize=8)
    plots[0].invert_yaxis()
    plots[0].legend(fontsize=8)
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=120)
