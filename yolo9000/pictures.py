"""Pictures of a run: batches as the network sees them, and curves of the log."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from wordtree._files import atomic_write
from wordtree.tree import WordTree
from yolo9000.boxes import cxcywh_to_xyxy
from yolo9000.datasets import Batch
from yolo9000.draw import annotate
from yolo9000.results import Detections

_SHOWN = 16  # images of a batch
_CELL = 416  # pixels, side of one of them
_SMOOTH = 0.05  # length of the running mean that is drawn over the curves, as a share of the rows
_METRICS = ("val_", "lr")  # how columns begin that are no loss terms


def draw_batch(batch: Batch, tree: WordTree) -> Image.Image:
    """The images of a batch in a square, with their boxes and labels; 16 of them at most.

    Classification images carry their label on a frame around all, also those in mosaics.
    """
    count = min(len(batch), _SHOWN)
    columns = math.ceil(math.sqrt(count))
    sheet = Image.new("RGB", (columns * _CELL, -(-count // columns) * _CELL), (255, 255, 255))
    for index in range(count):
        picture = batch.images[index].float().clamp(0, 1).mul(255).round().byte()
        marked = annotate(picture, batch_truths(batch, index, tree), show_score=False)
        place = (index % columns * _CELL, index // columns * _CELL)
        sheet.paste(ImageOps.contain(marked, (_CELL, _CELL)), place)
    return sheet


def batch_truths(batch: Batch, index: int, tree: WordTree) -> Detections:
    """What image `index` of a batch is said to show, in the form that is drawn."""
    size = (int(batch.images.shape[-2]), int(batch.images.shape[-1]))
    if int(batch.labels[index]) >= 0:
        nodes = batch.labels[index : index + 1].numpy()
        boxes = np.array([[0, 0, size[1], size[0]]], np.float32)
    else:
        own, tiles = batch.image_index == index, batch.tile_index == index
        nodes = torch.cat((batch.nodes[own], batch.tile_nodes[tiles])).numpy()
        corners = cxcywh_to_xyxy(torch.cat((batch.boxes[own], batch.tiles[tiles])))
        boxes = (corners * torch.tensor([size[1], size[0], size[1], size[0]])).numpy()
    paths = np.full((len(nodes), int(tree.max_depth) + 1), -1, np.int64)
    for row, node in zip(paths, nodes, strict=True):
        path = _to_a_leaf(tree, int(node))
        row[: len(path)] = path
    sure = np.ones(len(nodes), np.float32)
    return Detections(
        boxes=boxes.astype(np.float32),
        scores=sure,
        objectness=sure,
        nodes=nodes.astype(np.int64),
        paths=paths,
        path_probs=(paths >= 0).astype(np.float32),
        tree=tree,
        image_size=size,
    )


def _to_a_leaf(tree: WordTree, node: int) -> list[int]:
    """The path from the top through `node` to some leaf: detections carry whole paths."""
    path = [int(step) for step in tree.path(node)]
    while len(children := tree.children(path[-1])):
        path.append(int(children[0]))
    return path


def save_batch(batch: Batch, tree: WordTree, path: Path) -> None:
    """Write `draw_batch` as a JPEG file."""
    data = io.BytesIO()  # into a file Pillow writes by itself, and notices no full disk
    draw_batch(batch, tree).save(data, "JPEG", quality=90)
    with atomic_write(path) as stream:
        stream.write(data.getvalue())


def save_curves(log: Path, target: Path) -> bool:
    """Draw every loss term (weighted), the whole loss, the learning rate and the metrics of a CSV log.

    Args:
        log: `metrics.csv` of a run.
        target: The PNG file to write.

    Returns:
        False where matplotlib is not installed, or the log holds nothing yet.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    table = read_log(log)
    if "step" not in table:
        return False
    names = [name for name in table if name == "loss" or name.endswith("_weighted")]
    names += [name for name in table if name.startswith(_METRICS)]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.8 * rows), layout="constrained")
    for place, name in enumerate(names, 1):
        axes = figure.add_subplot(rows, columns, place)
        _draw_curve(axes, name, table["step"], table[name])
    with atomic_write(target) as stream:
        figure.savefig(stream, format="png", dpi=120)
    return True


def _draw_curve(axes: object, name: str, steps: NDArray[np.float64], values: NDArray[np.float64]) -> None:
    known = np.isfinite(values)
    steps, values = steps[known], values[known]
    draw = axes.plot  # type: ignore[attr-defined]
    if name.startswith(_METRICS):
        draw(steps, values, marker="o" if len(steps) < 50 and name != "lr" else "", markersize=3)
    else:
        draw(steps, values, alpha=0.35, linewidth=0.8)
        draw(steps, running_mean(values, max(1, round(_SMOOTH * len(values)))), color="C0", linewidth=1.6)
    axes.set_title(name.removesuffix("_weighted"), fontsize=10)  # type: ignore[attr-defined]
    axes.set_xlabel("step", fontsize=8)  # type: ignore[attr-defined]
    axes.tick_params(labelsize=8)  # type: ignore[attr-defined]
    axes.grid(alpha=0.3)  # type: ignore[attr-defined]
    axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[attr-defined]
    axes.set_ylim(0, 1.06 * float(values.max(initial=0)) or 1)  # type: ignore[attr-defined]


def running_mean(values: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """The mean of the last `length` values at every place, of fewer at the beginning."""
    total = np.cumsum(np.concatenate(([0.0], values)))
    ends = np.arange(1, len(values) + 1)
    starts = (ends - length).clip(0)
    return np.asarray((total[ends] - total[starts]) / (ends - starts), np.float64)


def read_log(path: Path) -> dict[str, NDArray[np.float64]]:
    """The columns of a CSV log; NaN where a row has no value."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows: Sequence[dict[str, str]] = list(csv.DictReader(stream))
    if not rows:
        return {}
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}
