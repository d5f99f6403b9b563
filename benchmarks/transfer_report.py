"""The tables and the picture of benchmarks/transfer.py, from the results that are finished."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from rich.console import Console
from rich.table import Table

from wordtree._files import atomic_write
from yolo9000.optional import optional

# mAP in % on ImageNet DET: classes with boxes, and without (section 4, 44 and 156 of 200)
PAPER = (32.8, 16.0)
FORMAT = "yolo9000-transfer-2"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "transfer.md"
PICTURE = PAGE.parent / "images" / "transfer.png"
_TABLE = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- end of table -->)", re.DOTALL)
_LAST = 1 << 30  # place of arms that have no name of their own

Halves = dict[str, list[float]]  # seen, unseen and taught -> the value of every seed


@dataclass(frozen=True)
class Row:
    """One arm over its seeds.

    Attributes:
        arm: Its title.
        seeds: Which.
        values: By photos (`val`, `held out`), way (`node`, ...) and half (`seen`, `unseen`, `taught`) the
            mAP50 of every seed, %.
        seconds: Of training and measuring, every seed.
    """

    arm: str
    seeds: list[int]
    values: dict[str, dict[str, Halves]]
    seconds: list[float]

    def ratio(self, photos: str, way: str, half: str = "unseen") -> float | None:
        """Mean of the unseen over mean of the seen; None where nothing seen is found."""
        halves = self.values[photos][way]
        if not halves["seen"] or not halves[half] or fmean(halves["seen"]) == 0:
            return None
        return fmean(halves[half]) / fmean(halves["seen"])


def finished(out: Path, order: Sequence[str]) -> Iterator[Row]:
    """All arms with results, in the order given, others behind."""
    results = [json.loads(path.read_text()) for path in sorted((out / "results").glob("*.json"))]
    place = {arm: i for i, arm in enumerate(order)}
    names = sorted({r["arm"] for r in results}, key=lambda arm: (place.get(arm, _LAST), arm))
    for name in names:
        own = sorted((r for r in results if r["arm"] == name), key=lambda r: r["seed"])
        values = {
            photos: {
                way: {
                    half: [100 * v for r in own if (v := r["photos"][photos]["map50"][way][half]) is not None]
                    for half in halves
                }
                for way, halves in scores["map50"].items()
            }
            for photos, scores in own[0]["photos"].items()
        }
        yield Row(name, [r["seed"] for r in own], values, [sum(r["seconds"].values()) for r in own])


def span(values: list[float]) -> str:
    """Mean, and the range over seeds."""
    if not values:
        return "–"
    return (
        f"{fmean(values):.1f} ({min(values):.1f} to {max(values):.1f})"
        if len(values) > 1
        else f"{values[0]:.1f}"
    )


def shown(ratio: float | None) -> str:
    """A ratio."""
    return "–" if ratio is None else f"{ratio:.2f}"


def report(out: Path, order: Sequence[str], console: Console) -> None:
    """Print the table; write it as JSON and as a picture."""
    rows = list(finished(out, order))
    if not rows:
        console.print(f"nothing is finished in {out}")
        return
    for photos, ways in rows[0].values.items():
        table = Table(
            "arm",
            "scored at",
            "seen",
            "unseen",
            "ratio",
            "ratio, taught",
            title=f"mAP50 on VOC {photos}, %: mean (over seeds)",
        )
        for column in table.columns[2:]:
            column.justify = "right"
        for row in rows:
            for way in ways:
                halves = row.values[photos][way]
                ratios = (row.ratio(photos, way, half) for half in ("unseen", "taught"))
                cells = (span(halves["seen"]), span(halves["unseen"]), *map(shown, ratios))
                title = f"{row.arm}, {len(row.seeds)} seeds" if way == next(iter(ways)) else ""
                table.add_row(title, way, *cells)
            table.add_section()
        console.print(table)
    console.print(
        f"paper, ImageNet DET: {PAPER[0]} with boxes, {PAPER[1]} without, ratio {PAPER[1] / PAPER[0]:.2f}"
    )
    content = [
        {"arm": row.arm, "seeds": row.seeds, "map50": row.values, "seconds": row.seconds} for row in rows
    ]
    with atomic_write(out / "transfer.json", text=True) as stream:
        stream.write(json.dumps({"format": FORMAT, "arms": content}, indent=2) + "\n")
    draw(rows, out / "transfer.png")


def markdown(rows: Sequence[Row]) -> str:
    """One line an arm: both kinds of photos at the node, ratios at the ancestors."""
    first = rows[0].values["held out"]
    ancestors = [way for way in first if way != "node"]
    head = ["arm", "seeds", "held out: seen", "unseen", "ratio", "taught"]
    head += [f"ratio, {way}" for way in ancestors] + ["val: seen", "unseen", "ratio"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        held, val = row.values["held out"]["node"], row.values["val"]["node"]
        cells = [f"`{row.arm}`", str(len(row.seeds)), span(held["seen"]), span(held["unseen"])]
        cells += [shown(row.ratio("held out", "node", half)) for half in ("unseen", "taught")]
        cells += [shown(row.ratio("held out", way)) for way in ancestors]
        cells += [span(val["seen"]), span(val["unseen"]), shown(row.ratio("val", "node"))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write_page(out: Path, order: Sequence[str], page: Path = PAGE, picture: Path = PICTURE) -> None:
    """Put the table and the picture into the documentation."""
    text, count = _TABLE.subn(
        lambda _: markdown(list(finished(out, order))), page.read_text(encoding="utf-8")
    )
    assert count == 1, f"{page}: expected one place for the table"
    with atomic_write(page, text=True) as stream:
        stream.write(text)
    with atomic_write(picture) as stream:
        stream.write((out / "transfer.png").read_bytes())


def draw(rows: list[Row], path: Path) -> None:
    """Held-out photos, one plot a way: bars of the seen and unseen classes of every arm, lines over seeds."""
    photos = list(rows[0].values)[-1]
    ways = list(rows[0].values[photos])
    figure = optional("matplotlib.figure", "drawing", "matplotlib").Figure(
        figsize=(2 + 3.2 * len(ways), 1.6 + 0.5 * len(rows)), layout="constrained"
    )
    plots = np.atleast_1d(figure.subplots(1, len(ways), sharey=True))
    for plot, way in zip(plots, ways, strict=True):
        for half, shift, colour in (("seen", -0.2, "tab:blue"), ("unseen", 0.2, "tab:orange")):
            for y, row in enumerate(rows):
                values = row.values[photos][way][half] or [0.0]
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
        figure.savefig(stream, format="png", dpi=100)
