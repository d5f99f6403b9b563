"""Average precision in plain NumPy: which predictions are right, and the area under their curve.

Letters: T truths, K predictions, Q pairs of a prediction and a truth of one image, C classes.

The rules are those of the PASCAL VOC development kit (VOCevaldet.m, VOCap.m): predictions in order of falling
score; each looks at the truth of its class that it overlaps most; the first to claim a truth is right, later
ones are wrong; what claims a *difficult* object is neither. COCO's crowd regions, which VOC does not know,
excuse predictions that lie within them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Recalls are quotients of counts; this much below a threshold they are meant to be equal to it.
_ROUNDING = 1e-9
_TOLERANCE = 10  # pixels by which ImageNet DET widens a truth before it compares areas


@dataclass(frozen=True)
class Truths:
    """The objects of a data set.

    Attributes:
        boxes: [T, 4] x1, y1, x2, y2 in pixels.
        classes: [T] class of each, any integers (tree nodes, in this package).
        images: [T] number of the image each stands in.
        difficult: [T] objects that need not be found and may be (VOC).
        crowd: [T] regions of many objects: predictions within them are excused (COCO).
    """

    boxes: Floats
    classes: Ints
    images: Ints
    difficult: Bools
    crowd: Bools

    @classmethod
    def of(
        cls,
        boxes: ArrayLike,
        classes: ArrayLike,
        images: ArrayLike,
        difficult: ArrayLike | None = None,
        crowd: ArrayLike | None = None,
    ) -> Self:
        """From anything array-like; without `difficult` and `crowd` every object counts.

        Raises:
            ValueError: The lengths differ.
        """
        nodes = np.asarray(classes, np.int64).reshape(-1)
        none = np.zeros(len(nodes), np.bool_)
        return cls(
            _boxes(boxes, len(nodes)),
            nodes,
            _column(images, np.int64, len(nodes)),
            none if difficult is None else _column(difficult, np.bool_, len(nodes)),
            none if crowd is None else _column(crowd, np.bool_, len(nodes)),
        )

    @property
    def counted(self) -> Bools:
        """[T] True for objects that must be found."""
        return ~(self.difficult | self.crowd)

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, keep: NDArray[Any]) -> Truths:
        arrays = (self.boxes, self.classes, self.images, self.difficult, self.crowd)
        return Truths(*(array[keep] for array in arrays))


@dataclass(frozen=True)
class Predictions:
    """Scored boxes of a data set.

    Attributes:
        boxes: [K, 4] x1, y1, x2, y2 in pixels.
        classes: [K] class of each.
        images: [K] number of the image each stands in.
        scores: [K] the higher, the surer.
    """

    boxes: Floats
    classes: Ints
    images: Ints
    scores: Floats

    @classmethod
    def of(cls, boxes: ArrayLike, classes: ArrayLike, images: ArrayLike, scores: ArrayLike) -> Self:
        """From anything array-like.

        Raises:
            ValueError: The lengths differ.
        """
        nodes = np.asarray(classes, np.int64).reshape(-1)
        n = len(nodes)
        return cls(_boxes(boxes, n), nodes, _column(images, np.int64, n), _column(scores, np.float64, n))

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, keep: NDArray[Any]) -> Predictions:
        return Predictions(self.boxes[keep], self.classes[keep], self.images[keep], self.scores[keep])


@dataclass(frozen=True)
class Curve:
    """Precision and recall of one class after each prediction, in order of falling score.

    Attributes:
        truths: Objects that must be found.
        scores: [K] scores of the predictions that count as right or wrong.
        recall: [K] share of the objects found so far; does not fall.
        precision: [K] share of the predictions so far that are right.
    """

    truths: int
    scores: Floats
    recall: Floats
    precision: Floats

    @classmethod
    def of(cls, scores: Floats, credit: Floats, truths: int) -> Self:
        """From [K] scores in falling order and what each prediction is worth: 1 if right, 0 if wrong."""
        found = np.cumsum(credit, dtype=np.float64)
        return cls(truths, scores, found / max(truths, 1), found / np.arange(1, len(found) + 1))

    @property
    def ap(self) -> float:
        """Area under the curve, precision made to fall first (VOC since 2010); NaN without objects."""
        if not self.truths:
            return float("nan")
        return float(np.diff(self.recall, prepend=0.0) @ self._envelope())

    @property
    def ap11(self) -> float:
        """Mean precision at the recalls 0, 0.1, ..., 1 (VOC 2007)."""
        return self.interpolated(11)

    def interpolated(self, points: int) -> float:
        """Mean over evenly spaced recalls of the best precision from there on (COCO: 101 points)."""
        return float(self.sampled(points).mean()) if self.truths else float("nan")

    def sampled(self, points: int) -> Floats:
        """[points] best precision at or beyond the recalls 0 to 1, evenly spaced; 0 where never reached."""
        envelope = np.append(self._envelope(), 0.0)
        first = np.searchsorted(self.recall, np.linspace(0, 1, points) - _ROUNDING)
        return np.asarray(envelope[first], np.float64)

    def _envelope(self) -> Floats:
        """[K] the best precision here or at any higher recall."""
        return np.asarray(np.maximum.accumulate(self.precision[::-1])[::-1], np.float64)


# From predictions of one class in order of falling score, its truths and an IoU: [K] right, [K] excused.
Rule: TypeAlias = Callable[[Predictions, Truths, float], tuple[Bools, Bools]]


def class_curve(
    predictions: Predictions,
    truths: Truths,
    iou: float = 0.5,
    rule: Rule | None = None,
    excusing: Truths | None = None,
) -> Curve:
    """The curve of one class: all predictions and truths given are taken to be of that class.

    Args:
        predictions: K boxes; equal scores rank in the order given.
        truths: T boxes.
        iou: Overlap from which on a prediction claims a truth.
        rule: How predictions are judged; None: `match`, the VOC rules.
        excusing: Objects that need not be found, and excuse predictions that are not right by `truths`.
    """
    rule = rule or match
    predictions = predictions[np.argsort(-predictions.scores, kind="stable")]
    right, excused = rule(predictions, truths, iou)
    if excusing is not None:
        excused |= ~right & rule(predictions, excusing, iou)[1]
    kept = ~excused
    credit = right[kept].astype(np.float64)
    return Curve.of(predictions.scores[kept], credit, int(truths.counted.sum()))


def match(predictions: Predictions, truths: Truths, iou: float = 0.5) -> tuple[Bools, Bools]:
    """Judge the predictions of one class by the VOC rules.

    Args:
        predictions: K boxes in order of falling score.
        truths: T boxes of the same class.
        iou: Overlap from which on a prediction claims a truth.

    Returns:
        [K] which are right, and [K] which are excused (they claim a difficult object or lie in a crowd); the
        others are wrong.
    """
    claimed, overlap = best_truth(predictions, truths[~truths.crowd])
    claims = np.flatnonzero(overlap >= iou)
    difficult = truths.difficult[~truths.crowd]
    excused = np.zeros(len(predictions), np.bool_)
    excused[claims] = difficult[claimed[claims]]
    right = np.zeros(len(predictions), np.bool_)
    _, first = np.unique(claimed[claims], return_index=True)
    right[claims[first]] = True
    right &= ~excused
    _, within = best_truth(predictions, truths[truths.crowd], of_prediction=True)
    return right, excused | (~right & (within >= iou))


def match_imagenet(predictions: Predictions, truths: Truths, iou: float = 0.5) -> tuple[Bools, Bools]:
    """Judge the predictions of one class by the rules of ImageNet's detection challenge.

    A prediction claims the truth it overlaps most of those still *free* (as in COCO; VOC: of all). A truth of
    m × n pixels needs an IoU of min(iou, m·n / ((m + 10)(n + 10))), so that an error of 5 pixels on every
    side of a small object is allowed (ILSVRC development kit, readme, "DET evaluation"). Arguments and result
    as for `match`.
    """
    sides = truths.boxes[:, 2:] - truths.boxes[:, :2]
    needed = np.minimum(iou, sides.prod(1) / (sides + _TOLERANCE).prod(1))
    claimed = claim(predictions, truths, needed)
    excused = (claimed >= 0) & ~np.append(truths.counted, True)[claimed]
    return (claimed >= 0) & ~excused, excused


def claim(
    predictions: Predictions, truths: Truths, needed: float | Floats, *, by_overlap: bool = False
) -> Ints:
    """One to one: which truth of its image each prediction claims, whatever the classes.

    Args:
        predictions: K boxes in order of falling score.
        truths: T boxes.
        needed: IoU from which on a truth can be claimed, one for all or [T].
        by_overlap: The pairs that overlap most come first, instead of the predictions with the best scores.

    Returns:
        [K] index of the truth; −1: none was free.
    """
    p, t = image_pairs(predictions.images, truths.images)
    overlap = pair_overlap(predictions.boxes[p], truths.boxes[t])
    enough = overlap >= np.broadcast_to(needed, len(truths))[t]
    p, t, overlap = p[enough], t[enough], overlap[enough]
    order = np.lexsort((t, p, -overlap) if by_overlap else (t, -overlap, p))
    claimed, free = np.full(len(predictions), -1, np.int64), np.ones(len(truths), np.bool_)
    for prediction, truth in zip(p[order].tolist(), t[order].tolist(), strict=True):
        if claimed[prediction] < 0 and free[truth]:
            claimed[prediction], free[truth] = truth, False
    return claimed


def best_truth(
    predictions: Predictions, truths: Truths, *, of_prediction: bool = False
) -> tuple[Ints, Floats]:
    """For every prediction the truth of its image that it overlaps most, whatever the class.

    Args:
        predictions: K boxes.
        truths: T boxes.
        of_prediction: Measure intersection over the prediction's own area (COCO's rule for crowds) instead of
            IoU.

    Returns:
        [K] index of the truth (the first of several equal ones; −1 where the image has none), and [K] the
        overlap.
    """
    p, t = image_pairs(predictions.images, truths.images)
    overlap = pair_overlap(predictions.boxes[p], truths.boxes[t], of_first=of_prediction)
    order = np.lexsort((t, -overlap, p))
    owner, first = np.unique(p[order], return_index=True)
    index, best = np.full(len(predictions), -1, np.int64), np.zeros(len(predictions))
    index[owner] = t[order[first]]
    best[owner] = overlap[order[first]]
    return index, best


def image_pairs(first: Ints, second: Ints) -> tuple[Ints, Ints]:
    """All pairs (i, j) with `first[i] == second[j]`, each a [Q] index array; no loop over images."""
    order = np.argsort(second, kind="stable")
    ranked = second[order]
    start = np.searchsorted(ranked, first, side="left")
    counts = np.searchsorted(ranked, first, side="right") - start
    i = np.repeat(np.arange(len(first)), counts)
    within = np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts)
    return i, order[np.repeat(start, counts) + within]


def pair_overlap(first: Floats, second: Floats, *, of_first: bool = False) -> Floats:
    """IoU of box i with other i, both [Q, 4] xyxy; with `of_first`, over the area of the first alone."""
    low = np.maximum(first[:, :2], second[:, :2])
    high = np.minimum(first[:, 2:], second[:, 2:])
    inter = (high - low).clip(min=0).prod(1)
    area, other = ((box[:, 2:] - box[:, :2]).prod(1) for box in (first, second))
    union = area if of_first else area + other - inter
    return np.asarray(np.divide(inter, union, out=np.zeros_like(inter), where=union > 0), np.float64)


def _boxes(boxes: ArrayLike, length: int) -> Floats:
    array = np.asarray(boxes, np.float64).reshape(-1, 4)
    if len(array) != length:
        raise ValueError(f"expected {length} boxes, one for each class, got {len(array)}")
    return array


def _column(values: ArrayLike, dtype: Any, length: int) -> NDArray[Any]:
    array = np.asarray(values, dtype).reshape(-1)
    if len(array) != length:
        raise ValueError(f"expected {length} values, one for each class, got {len(array)}")
    return array
