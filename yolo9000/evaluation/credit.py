"""Average precision of labels of any depth: an ancestor of the true class earns part of the credit.

Here predictions are what a user gets, boxes with the label at which the walk down the tree stopped, where
`scores.score_classes` looks at the probability of every class whatever the label.

Letters: T truths, K labelled predictions, Q pairs of a prediction and a truth of one image.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wordtree.tree import WordTree
from yolo9000.evaluation.ap import (
    Curve,
    Floats,
    Ints,
    Predictions,
    Truths,
    best_truth,
    image_pairs,
    pair_overlap,
)
from yolo9000.evaluation.hierarchy import related
from yolo9000.evaluation.scores import ClassScore, ClassScores


def label_credit(tree: WordTree, labels: Ints, truths: Ints) -> Floats:
    """[K] what each label is worth for its truth, 0..1.

    1 at the true node or below it; (d + 1) / (t + 1) at an ancestor of depth d of a truth of depth t (top:
    0), the share of the truth's path that the label gives; 0 on any other branch.
    """
    at_or_below = (labels == truths) | tree.is_ancestor(truths, labels)
    share = (tree.depth[labels] + 1) / (tree.depth[truths] + 1)
    return np.where(at_or_below, 1.0, np.where(tree.is_ancestor(labels, truths), share, 0.0))


def score_labels(
    tree: WordTree, labelled: Predictions, truths: Truths, iou: float, name: str, *, strict: bool = False
) -> ClassScores:
    """AP of every class with objects, from labelled predictions.

    In order of falling score each prediction looks at the truths of its image on its own branch, those at,
    above or below its label, and claims the one it overlaps most, if by at least `iou`. The first to claim a
    truth earns `label_credit`, later ones nothing; who claims a difficult object or lies in a crowd of its
    branch does not count. To the curve of a class belong the predictions that claimed its objects, and those
    that claimed nothing though their label is at, above or below the class: a false `animal` is a false
    alarm for `dog` and for `cat`. Precision is credit over predictions, recall credit over objects.

    Args:
        tree: The tree of labels and truths.
        labelled: K predictions; `classes` are the labels.
        truths: T objects.
        iou: Overlap from which on a prediction claims a truth.
        name: Of the result.
        strict: An ancestor earns nothing.
    """
    labelled = labelled[np.argsort(-labelled.scores, kind="stable")]
    claimed = _claims(tree, labelled, truths[~truths.crowd], iou)
    objects = truths[~truths.crowd]
    credit = np.zeros(len(labelled))
    found = np.flatnonzero(claimed >= 0)
    _, first = np.unique(claimed[found], return_index=True)
    found = found[first]
    credit[found] = label_credit(tree, labelled.classes[found], objects.classes[claimed[found]])
    if strict:
        credit[credit < 1] = 0
    kept = ~_excused(tree, labelled, truths, claimed, iou)
    claimed_class = np.where(claimed >= 0, np.append(objects.classes, -1)[claimed], -1)
    scores = []
    for node in np.unique(truths.classes[truths.counted]):
        own = claimed_class == node
        own |= (claimed < 0) & related(tree, labelled.classes, node)
        curve = Curve.of(
            labelled.scores[own & kept],
            credit[own & kept],
            int((truths.counted & (truths.classes == node)).sum()),
        )
        scores.append(ClassScore.of(tree, int(node), curve))
    return ClassScores(name, tuple(scores))


def _claims(tree: WordTree, labelled: Predictions, objects: Truths, iou: float) -> Ints:
    """[K] the object on its branch that each prediction overlaps most, taken or not; −1: none by `iou`."""
    p, t = image_pairs(labelled.images, objects.images)
    on_branch = related(tree, labelled.classes[p], objects.classes[t])
    p, t = p[on_branch], t[on_branch]
    overlap = pair_overlap(labelled.boxes[p], objects.boxes[t])
    order = np.lexsort((t, -overlap, p))
    owner, best = np.unique(p[order], return_index=True)
    best = order[best]
    enough = overlap[best] >= iou
    claimed = np.full(len(labelled), -1, np.int64)
    claimed[owner[enough]] = t[best[enough]]
    return claimed


def _excused(
    tree: WordTree, labelled: Predictions, truths: Truths, claimed: Ints, iou: float
) -> NDArray[np.bool_]:
    """[K] predictions on difficult objects, and those of no object that lie in a crowd of their branch."""
    objects, crowds = truths[~truths.crowd], truths[truths.crowd]
    excused = np.append(objects.difficult, False)[claimed] & (claimed >= 0)
    for node in np.unique(crowds.classes):
        on_branch = np.flatnonzero((claimed < 0) & related(tree, labelled.classes, node))
        _, within = best_truth(labelled[on_branch], crowds[crowds.classes == node], of_prediction=True)
        excused[on_branch] |= within >= iou
    return excused
