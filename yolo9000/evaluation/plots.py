"""Precision-recall curves and confusion at a cut as pictures; needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from wordtree._files import atomic_write
from yolo9000.errors import ConfigError
from yolo9000.evaluation.confusion import MISSED, Confusion
from yolo9000.evaluation.scores import ClassScores
from yolo9000.optional import optional

_COLUMNS, _CELL = 5, (2.4, 2.0)  # plots in a row, and the size of each in inches
_SQUARE = 0.28  # inches of a cell of a confusion matrix
_LARGEST = 60  # classes of a confusion matrix whose names can still be read
_DPI = 120


def save_curves(scores: ClassScores, path: str | Path) -> None:
    """Draw the precision-recall curve of every class into one PNG, whole or not at all.

    Args:
        scores: The classes.
        path: The file.

    Raises:
        ConfigError: matplotlib is not installed, or there is no class to draw.
    """
    if not scores.classes:
        raise ConfigError("no class has objects, so there is no curve to draw")
    columns = min(_COLUMNS, len(scores.classes))
    rows = -(-len(scores.classes) // columns)
    figure = _figure(columns * _CELL[0], rows * _CELL[1])
    axes = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).ravel()
    for plot, score in zip(axes, scores.classes, strict=False):
        plot.plot(score.curve.recall, score.curve.precision, linewidth=1)
        plot.fill_between(np.linspace(0, 1, 101), score.curve.sampled(101), alpha=0.2, linewidth=0)
        plot.set_title(f"{score.name}  {100 * score.ap:.1f}", fontsize=8)
        plot.set(xlim=(0, 1), ylim=(0, 1.02))
        plot.tick_params(labelsize=6)
    for plot in axes[len(scores.classes) :]:
        plot.set_visible(False)
    figure.supxlabel("recall", fontsize=8)
    figure.supylabel("precision (filled: best from there on)", fontsize=8)
    _save(figure, path)


def save_confusion(confusion: Confusion, path: str | Path) -> None:
    """Draw a confusion matrix as a PNG, every row as shares of its sum, whole or not at all.

    Other nodes than the data set's are drawn as one column, `others`; beyond 60 classes those of the longest
    rows are drawn.

    Args:
        confusion: The matrix.
        path: The file.

    Raises:
        ConfigError: matplotlib is not installed, or there is nothing to draw.
    """
    counts, rows, columns = _folded(confusion)
    if not counts.sum():
        raise ConfigError(
            f"nothing was labelled at the cut {confusion.name}, so there is no confusion to draw"
        )
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = _figure(2.5 + len(columns) * _SQUARE, 2.0 + len(rows) * _SQUARE)
    plot = figure.subplots()
    plot.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    for y, x in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[y, x] > 0.5 else "black"
        plot.text(x, y, str(counts[y, x]), ha="center", va="center", fontsize=5, color=colour)
    plot.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
    plot.set_yticks(range(len(rows)), rows, fontsize=7)
    plot.set_xlabel("label given", fontsize=8)
    plot.set_ylabel("object", fontsize=8)
    plot.set_title(f"cut: {confusion.name}", fontsize=9)
    _save(figure, path)


def _folded(confusion: Confusion) -> tuple[Any, list[str], list[str]]:
    """The matrix with few enough rows, and all nodes that are not the data set's as one column."""
    counts = np.asarray(confusion.counts, np.int64).reshape(len(confusion.rows), len(confusion.columns))
    boxes = confusion.columns[-1:] == (MISSED,)
    classes, tail = len(confusion.rows) - boxes, 1 + boxes
    keep = np.sort(np.argsort(-counts[:classes].sum(1), kind="stable")[:_LARGEST])
    others = counts[:, : len(confusion.columns) - tail].sum(1) - counts[:, keep].sum(1)
    shown = np.column_stack([counts[:, keep], others, counts[:, len(confusion.columns) - tail :]])
    kept_rows = [*keep.tolist(), *range(classes, len(confusion.rows))]
    names = [confusion.rows[i] for i in keep]
    columns = [*names, "others", *confusion.columns[len(confusion.columns) - tail :]]
    return shown[kept_rows], [confusion.rows[i] for i in kept_rows], columns


def _figure(width: float, height: float) -> Any:
    figure = optional("matplotlib.figure", "drawing", "matplotlib")
    return figure.Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: str | Path) -> None:
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=_DPI)
