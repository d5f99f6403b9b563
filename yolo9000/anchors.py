"""Priors by k-means over box shapes with the distance 1 - IoU (paper, section 2: dimension clusters)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from yolo9000.datasets import Records
from yolo9000.errors import DataError


def box_shapes(records: Records, height: float = 1.0, width: float = 1.0) -> NDArray[np.float64]:
    """Widths and heights [T,2] of a data set's boxes in the network input, which letterboxes the images.

    Args:
        records: What `yolo9000.datasets.read_records` gives; ignored boxes are left out.
        height: Of the network input, in any unit.
        width: Of the network input, in the same unit.

    Raises:
        DataError: An image cannot be read, or the data set is one of whole images.
    """
    if records.kind == "classification":
        raise DataError(f"{records.root}: holds labels of whole images; priors are found for data with boxes")
    shapes = []
    for index in range(len(records.store)):
        keep = ~records.ignored[records.offsets[index] : records.offsets[index + 1]]
        if keep.any():
            image_w, image_h = records.size(index)
            boxes = records.pixel_boxes(index, image_w, image_h)[keep]
            corners = boxes.reshape(-1, 2, 2).clip(0, (image_w, image_h))  # as training sees them
            sides = corners[:, 1] - corners[:, 0]
            shapes.append(sides[(sides > 0).all(1)] * min(width / image_w, height / image_h))
    return np.concatenate(shapes).astype(np.float64) if shapes else np.zeros((0, 2))


def cluster_anchors(
    shapes: ArrayLike, count: int, *, seed: int = 0, restarts: int = 5
) -> tuple[NDArray[np.float64], float]:
    """Find the priors that cover a set of box shapes best.

    Args:
        shapes: [T,2] widths and heights, in any unit.
        count: Number of priors.
        seed: Of the starting points.
        restarts: Runs from different starting points; the best one is returned.

    Returns:
        The priors [count,2] in the unit of `shapes`, smallest area first, and the mean over the boxes of the
        IoU with their best prior, both centred on one point.

    Raises:
        DataError: No shapes, fewer different ones than priors, or shapes that are not positive.
    """
    boxes = np.asarray(shapes, dtype=np.float64).reshape(-1, 2)
    if not np.isfinite(boxes).all() or (boxes <= 0).any():
        raise DataError(
            "box shapes must be positive and finite; `yolo9000 data check` lists the degenerate boxes"
        )
    if not len(boxes):
        raise DataError("not one box to find priors for; `yolo9000 data check` says what the data hold")
    if count < 1 or len(np.unique(boxes, axis=0)) < count:
        raise DataError(
            f"{count} priors asked for, but there are {len(np.unique(boxes, axis=0))} different box shapes; "
            "ask for fewer (--count)"
        )
    generator = np.random.default_rng(seed)
    results = [_lloyd(boxes, _spread(boxes, count, generator)) for _ in range(restarts)]
    centres, score = max(results, key=lambda result: result[1])
    return centres[np.argsort(centres.prod(1))], score


def shape_overlap(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of every shape [T,2] with every other [K,2], centred on one point: [T,K]."""
    inter = np.minimum(boxes[:, None], others).prod(2)
    return np.asarray(inter / (boxes.prod(1)[:, None] + others.prod(1) - inter))


def _spread(boxes: NDArray[np.float64], count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Starting points far from each other (k-means++ with the distance 1 - IoU)."""
    chosen = [boxes[generator.integers(len(boxes))]]
    while len(chosen) < count:
        distance = 1 - shape_overlap(boxes, np.array(chosen)).max(1)
        weights = np.square(distance.clip(0))
        chosen.append(boxes[generator.choice(len(boxes), p=weights / weights.sum())])
    return np.array(chosen)


def _lloyd(boxes: NDArray[np.float64], centres: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Assign and average until no box changes its prior; a prior without boxes stays where it was."""
    owner = np.full(len(boxes), -1)
    for _ in range(300):
        overlap = shape_overlap(boxes, centres)
        nearest = overlap.argmax(1)
        if (nearest == owner).all():
            break
        owner = nearest
        counts = np.bincount(owner, minlength=len(centres))
        sums = np.stack([np.bincount(owner, boxes[:, i], len(centres)) for i in (0, 1)], 1)
        centres = np.where(counts[:, None] > 0, sums / counts.clip(1)[:, None], centres)
    return centres, float(shape_overlap(boxes, centres).max(1).mean())
