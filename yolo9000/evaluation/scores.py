"""Average precision per class, at the data set's nodes and at cuts of the tree.

Letters: T truths, K predictions, C classes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from wordtree.tree import WordTree
from yolo9000.evaluation.ap import Curve, Predictions, Rule, Truths, class_curve, image_pairs
from yolo9000.evaluation.hierarchy import Cut, related


@dataclass(frozen=True)
class ClassScore:
    """Average precision of one class at the IoU threshold of the evaluation.

    Attributes:
        node: Its tree node.
        name: The node's name.
        wnid: The node's id.
        truths: Objects that must be found.
        predictions: Predictions that count as right or wrong.
        ap: Area under the whole curve (VOC since 2010), 0..1; NaN without objects.
        ap11: Mean precision at 11 recalls (VOC 2007), 0..1.
        recall: Share of the objects found at the lowest score.
        curve: Precision and recall, for plots.
    """

    node: int
    name: str
    wnid: str
    truths: int
    predictions: int
    ap: float
    ap11: float
    recall: float
    curve: Curve = field(repr=False, compare=False)

    @classmethod
    def of(cls, tree: WordTree, node: int, curve: Curve) -> ClassScore:
        """From a node's curve."""
        recall = float(curve.recall[-1]) if len(curve.recall) else 0.0
        return cls(
            node,
            tree.names[node],
            tree.wnids[node],
            curve.truths,
            len(curve.scores),
            curve.ap,
            curve.ap11,
            recall,
            curve,
        )

    @property
    def precision_101(self) -> list[float]:
        """The curve for plots: best precision at or beyond the recalls 0, 0.01, ..., 1."""
        return [float(value) for value in self.curve.sampled(101)]


@dataclass(frozen=True)
class ClassScores:
    """Average precision over a set of classes.

    Attributes:
        name: What the classes are, such as `mapped nodes` or `depth 3`.
        classes: Classes with objects, in order of their nodes.
        uncovered: Objects that stand above or beside a cut and are left out.
    """

    name: str
    classes: tuple[ClassScore, ...]
    uncovered: int = 0

    @property
    def map(self) -> float:
        """Mean all-point AP over classes with objects; NaN where there are none."""
        return _mean([score.ap for score in self.classes if score.truths])

    @property
    def map11(self) -> float:
        """Mean 11-point AP over classes with objects."""
        return _mean([score.ap11 for score in self.classes if score.truths])

    def subset(self, nodes: Collection[int], name: str) -> ClassScores:
        """Only some of the classes, such as those that training had boxes of."""
        return ClassScores(name, tuple(score for score in self.classes if score.node in nodes))


@dataclass(frozen=True)
class GroupScore:
    """Mean average precision over some of the classes, such as those that training had boxes of.

    Attributes:
        name: What they have in common.
        classes: Those of them with objects.
        truths: Their objects.
        map: Mean all-point AP; NaN without classes.
        map11: Mean 11-point AP.
    """

    name: str
    classes: int
    truths: int
    map: float
    map11: float

    @classmethod
    def of(cls, scores: ClassScores, nodes: Collection[int], name: str) -> GroupScore:
        """Of the classes at `nodes`."""
        part = scores.subset(nodes, name)
        return cls(name, len(part.classes), sum(score.truths for score in part.classes), part.map, part.map11)


def score_classes(
    tree: WordTree,
    predictions: Predictions,
    truths: Truths,
    iou: float,
    name: str,
    uncovered: int = 0,
    rule: Rule | None = None,
) -> ClassScores:
    """AP of every class that has objects; those of classes above and below it excuse (`as_relatives`)."""
    relatives = as_relatives(tree, truths)
    scores = []
    for node in np.unique(truths.classes[truths.counted]):
        own, objects = predictions[predictions.classes == node], truths[truths.classes == node]
        excusing = relatives[relatives.classes == node]
        scores.append(ClassScore.of(tree, int(node), class_curve(own, objects, iou, rule, excusing)))
    return ClassScores(name, tuple(scores), uncovered)


def as_relatives(tree: WordTree, truths: Truths) -> Truths:
    """Every object as one of each class of the data above or below its own, where it need not be found.

    A pug is a dog, so that `dog` is no false alarm there; and what is labelled `dog` may be a pug. Empty
    where no class stands below another.
    """
    classes = np.unique(truths.classes)
    near = related(tree, classes[:, None], classes[None]) & ~np.eye(len(classes), dtype=np.bool_)
    own, other = np.nonzero(near)
    which, pair = image_pairs(truths.classes, classes[own])
    moved = truths[which]
    return replace(moved, classes=classes[other[pair]], difficult=~moved.crowd)


def score_cut(
    tree: WordTree,
    cut: Cut,
    predictions: Predictions,
    truths: Truths,
    iou: float,
    rule: Rule | None = None,
) -> ClassScores:
    """AP with every object and prediction seen as its node of the cut.

    A prediction of a cut's node has the score objectness × P(that node). An object labelled above the cut may
    be any of the nodes below its label: there it excuses predictions and need not be found.
    """
    lifted = cut.lift(tree, truths.classes)
    inside = lifted >= 0
    moved = Truths(
        truths.boxes[inside],
        lifted[inside],
        truths.images[inside],
        truths.difficult[inside],
        truths.crowd[inside],
    )
    vague = truths[~inside & truths.counted]
    classes = np.unique(moved.classes)
    under = np.asarray(tree.is_ancestor(vague.classes[:, None], classes[None])).reshape(
        len(vague), len(classes)
    )
    which, below = np.nonzero(under)
    excusing = Truths.of(
        vague.boxes[which], classes[below], vague.images[which], np.ones(len(which), np.bool_)
    )
    joined = join_truths([moved, excusing])
    return score_classes(tree, predictions, joined, iou, cut.name, len(vague), rule)


def score_ancestors(
    tree: WordTree,
    cut: Cut,
    predictions: Predictions,
    truths: Truths,
    iou: float,
    rule: Rule | None = None,
) -> ClassScores:
    """AP of every class by its ancestor at the cut: is the boat at least found as a craft?

    The predictions of a class are those of its ancestor, with the score objectness × P(ancestor). Objects of
    other classes that may be the ancestor, too, excuse predictions and need not be found, so that classes of
    one ancestor are told apart. A class that stands above or beside the cut is scored by its own node.
    """
    scores = []
    for node in np.unique(truths.classes[truths.counted]):
        lifted = int(cut.lift(tree, [node])[0])
        target = node if lifted < 0 else lifted
        near = (truths.classes == target) | tree.is_ancestor(target, truths.classes)
        objects = truths[near | np.asarray(tree.is_ancestor(truths.classes, target))]
        objects = replace(objects, difficult=objects.difficult | (objects.classes != node) & ~objects.crowd)
        own = predictions[predictions.classes == target]
        scores.append(ClassScore.of(tree, int(node), class_curve(own, objects, iou, rule)))
    return ClassScores(f"each at its ancestor: {cut.name}", tuple(scores))


def join_truths(parts: Sequence[Truths]) -> Truths:
    """One `Truths` from several."""
    fields = ("boxes", "classes", "images", "difficult", "crowd")
    return Truths.of(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
