"""What is taken for what, with all classes seen as their nodes at a cut of the tree.

Letters: T truths, K labelled predictions, C nodes of the cut that occur.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wordtree.tree import WordTree
from yolo9000.evaluation.ap import Ints, Predictions, Truths, best_truth, claim
from yolo9000.evaluation.hierarchy import Cut

ABOVE, MISSED, NOTHING = "above the cut", "missed", "nothing"


@dataclass(frozen=True)
class Confusion:
    """How often each class was given each label.

    Attributes:
        name: The cut.
        rows: Classes of the truths, in order of their nodes; for detections then `nothing`: labels where no
            object is, second boxes on one object included.
        columns: The same classes; then other nodes of the cut that were given; then `above the cut`: labels
            too vague to stand at or below it (or beside it); for detections then `missed`: objects that no
            label was given to.
        counts: Times, a list of one row after the other.
    """

    name: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @classmethod
    def of_labels(cls, tree: WordTree, cut: Cut, labels: Ints, truths: Ints) -> Self:
        """Of K labels whose truths are known, such as those of pictures; truths above the cut are out."""
        lifted, true = cut.lift(tree, labels), cut.lift(tree, truths)
        known = true >= 0
        return cls._count(tree, cut.name, true[known], lifted[known], boxes=False)

    @classmethod
    def of_detections(
        cls, tree: WordTree, cut: Cut, labelled: Predictions, truths: Truths, iou: float
    ) -> Self:
        """Of labelled boxes.

        Boxes and objects are paired one to one whatever their classes, the largest overlap first, from `iou`
        on. Pairs with an object that is difficult or stands above the cut, and boxes within crowds, are left
        out.

        Args:
            tree: The tree of labels and truths.
            cut: What all of them are seen at.
            labelled: K confident detections; `classes` are the labels.
            truths: T objects.
            iou: Overlap from which on a box and an object can be one thing.
        """
        objects = truths[~truths.crowd]
        claimed = claim(labelled, objects, iou, by_overlap=True)
        true, lifted = cut.lift(tree, objects.classes), cut.lift(tree, labelled.classes)
        counted = objects.counted & (true >= 0)
        paired = np.flatnonzero(claimed >= 0)
        pairs = paired[counted[claimed[paired]]]
        _, within = best_truth(labelled, truths[truths.crowd], of_prediction=True)
        nothing = (claimed < 0) & (within < iou)
        missed = counted.copy()
        missed[claimed[paired]] = False
        given = np.concatenate([lifted[pairs], lifted[nothing], np.full(missed.sum(), _MISSED)])
        expected = np.concatenate([true[claimed[pairs]], np.full(nothing.sum(), _NOTHING), true[missed]])
        return cls._count(tree, cut.name, expected, given, boxes=True)

    @classmethod
    def _count(cls, tree: WordTree, name: str, true: Ints, given: Ints, *, boxes: bool) -> Self:
        classes = np.unique(true[true >= 0])
        others = np.setdiff1d(given[given >= 0], classes)
        rows = [*classes, _NOTHING] if boxes else [*classes]
        columns = [*classes, *others, _ABOVE, _MISSED] if boxes else [*classes, *others, _ABOVE]
        words = {_ABOVE: ABOVE, _MISSED: MISSED}
        counts = np.zeros((len(rows), len(columns)), np.int64)
        np.add.at(counts, (_positions(rows, true), _positions(columns, given)), 1)
        return cls(
            name,
            tuple(NOTHING if node == _NOTHING else tree.names[node] for node in rows),
            tuple(words.get(int(node)) or tree.names[node] for node in columns),
            tuple(tuple(row) for row in counts.tolist()),
        )

    def most_frequent(self, limit: int) -> list[tuple[str, str, int]]:
        """The largest counts off the diagonal as (truth, label, times), `missed` and `nothing` left out."""
        entries = [
            (truth, label, count)
            for i, (truth, row) in enumerate(zip(self.rows, self.counts, strict=True))
            for j, (label, count) in enumerate(zip(self.columns, row, strict=True))
            if count and i != j and truth != NOTHING and label != MISSED
        ]
        return sorted(entries, key=lambda entry: -entry[2])[:limit]


_ABOVE, _MISSED, _NOTHING = -1, -2, -3  # beside nodes; the first is what `Cut.lift` says


def _positions(axis: list[int], nodes: NDArray[np.int64]) -> Ints:
    place = {int(node): i for i, node in enumerate(axis)}
    return np.fromiter((place[node] for node in nodes.tolist()), np.int64, len(nodes))
