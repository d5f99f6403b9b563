"""Right, vague, overconfident or wrong: judging labels of any depth against truths of any depth.

Letters: K labels, L levels of the tree, N nodes.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wordtree.tree import WordTree
from yolo9000.errors import ConfigError

Ints = NDArray[np.int64]

VERDICTS = ("exact", "finer", "unspecific", "overconfident", "wrong")


def path_matrix(tree: WordTree, nodes: ArrayLike) -> Ints:
    """Paths of K nodes as rows, [K, L]: top first, −1 below the node."""
    current = np.asarray(nodes, np.int64).reshape(-1)
    paths = np.full((len(current), tree.max_depth + 1), -1, np.int64)
    rows = np.arange(len(current))
    while len(rows):
        paths[rows, tree.depth[current]] = current
        above = tree.parent[current].astype(np.int64)
        rows, current = rows[above >= 0], above[above >= 0]
    return paths


def common_levels(tree: WordTree, first: ArrayLike, second: ArrayLike) -> Ints:
    """[K] how many nodes from the top the paths of `first[i]` and `second[i]` share; 0: not even one."""
    a, b = path_matrix(tree, first), path_matrix(tree, second)
    return np.asarray(((a == b) & (a >= 0)).sum(1), np.int64)


def related(tree: WordTree, first: Ints, second: Ints | int) -> NDArray[np.bool_]:
    """Whether one of two nodes is the other, or above it; shapes broadcast."""
    above = np.asarray(tree.is_ancestor(first, second)) | tree.is_ancestor(second, first)
    return np.asarray(above | (np.asarray(first) == second), np.bool_)


def judge(tree: WordTree, labels: ArrayLike, truths: ArrayLike) -> Ints:
    """Compare each label with its truth.

    Args:
        tree: The tree of both.
        labels: [K] nodes given.
        truths: [K] nodes that are true.

    Returns:
        [K] positions in `VERDICTS`: *exact*: the true node; *finer*: below it, right as far as the truth
        goes; *unspecific*: above it, right and vague; *overconfident*: on another branch, where an ancestor
        (the place where the branches part, or above) would have been right; *wrong*: under another top node.
    """
    given, true = np.asarray(labels, np.int64).reshape(-1), np.asarray(truths, np.int64).reshape(-1)
    common = common_levels(tree, given, true)
    is_above, is_below = common == tree.depth[given] + 1, common == tree.depth[true] + 1
    conditions = [is_above & is_below, is_below, is_above, common > 0]
    return np.asarray(np.select(conditions, [0, 1, 2, 3], 4), np.int64)


@dataclass(frozen=True)
class LabelQuality:
    """How honest the depth of the labels is.

    The verdicts (see `judge`) count labels whose truth is known. An *overconfident* label is one where less
    would have been right: `cat` for a dog, where `mammal` was true.

    Attributes:
        exact: Labels that are the true node.
        finer: Labels below it.
        unspecific: Labels above it.
        overconfident: Labels on another branch of the same top node.
        wrong: Labels under another top node.
        overconfident_leaves: How many of `overconfident` are leaves.
        depth: Mean depth of the labels (top: 0); NaN without labels.
        truth_depth: Mean depth of their truths.
        precision: Mean share of the label's path that lies on the truth's (hierarchical precision,
            Kiritchenko et al. 2006, here averaged over labels; what is finer than the truth counts neither
            way).
        recall: Mean share of the truth's path that the label's covers.
        unmatched: Confident detections on no labelled object, or pictures without a confident detection.
    """

    exact: int
    finer: int
    unspecific: int
    overconfident: int
    wrong: int
    overconfident_leaves: int
    depth: float
    truth_depth: float
    precision: float
    recall: float
    unmatched: int = 0

    @classmethod
    def of(cls, tree: WordTree, labels: ArrayLike, truths: ArrayLike, unmatched: int = 0) -> Self:
        """Judge and count K labels and their truths."""
        given, true = np.asarray(labels, np.int64).reshape(-1), np.asarray(truths, np.int64).reshape(-1)
        verdicts = judge(tree, given, true)
        counts = np.bincount(verdicts, minlength=len(VERDICTS)).tolist()
        common = common_levels(tree, given, true)
        length, true_length = tree.depth[given] + 1, tree.depth[true] + 1
        length = np.where(verdicts == VERDICTS.index("finer"), true_length, length)
        too_far = verdicts == VERDICTS.index("overconfident")
        return cls(
            **dict(zip(VERDICTS, counts, strict=True)),
            overconfident_leaves=int((too_far & tree.is_leaf[given]).sum()),
            depth=_mean(tree.depth[given]),
            truth_depth=_mean(tree.depth[true]),
            precision=_mean(common / length),
            recall=_mean(common / true_length),
            unmatched=unmatched,
        )

    @property
    def labels(self) -> int:
        """Labels judged."""
        return self.exact + self.finer + self.unspecific + self.overconfident + self.wrong

    def share(self, verdict: str) -> float:
        """Share of the judged labels with that verdict, one of `VERDICTS`; NaN without labels."""
        return float(getattr(self, verdict)) / self.labels if self.labels else float("nan")

    @property
    def honest(self) -> float:
        """Share of labels that say nothing false: exact, finer or unspecific."""
        return self.share("exact") + self.share("finer") + self.share("unspecific")


@dataclass(frozen=True)
class Cut:
    """A line through the tree: nodes of which none is above another.

    What lies below the line is seen as its node of the cut.

    Attributes:
        name: For tables, such as `depth 3`.
        nodes: [C] nodes of the cut, ascending.
    """

    name: str
    nodes: Ints

    @classmethod
    def at_depth(cls, tree: WordTree, depth: int) -> Self:
        """The nodes of one depth (top: 0), and the leaves above it.

        Raises:
            ConfigError: A negative depth.
        """
        if depth < 0:
            raise ConfigError(f"a cut's depth is 0 (the top nodes) or more, got {depth}")
        inside = (tree.depth == depth) | ((tree.depth < depth) & tree.is_leaf)
        return cls(f"depth {depth}", np.flatnonzero(inside))

    @classmethod
    def through(cls, tree: WordTree, nodes: Sequence[int | str], name: str = "") -> Self:
        """Nodes of one's choice, by index, WordNet id or name.

        Raises:
            ConfigError: One node is above another.
            TreeError: No such node, or several of that name.
        """
        chosen = np.unique(np.asarray([tree.index(node) for node in nodes], np.int64))
        if not len(chosen):
            raise ConfigError(f"the cut {name!r} names no node; give a depth, or nodes separated by commas")
        for node in chosen:
            if below := [int(other) for other in chosen if tree.is_ancestor(int(node), int(other))]:
                raise ConfigError(
                    f"no cut: {tree.names[node]!r} ({tree.wnids[node]}) is above {tree.names[below[0]]!r} "
                    f"({tree.wnids[below[0]]}); keep one of the two"
                )
        return cls(
            name or ", ".join(tree.names[node] for node in chosen[:3]) + (" ..." if len(chosen) > 3 else ""),
            chosen,
        )

    @classmethod
    def parse(cls, tree: WordTree, text: str) -> Self:
        """A depth (`3`), or nodes separated by commas as in CSV (`animal,conveyance`, `"chair, x",bed`)."""
        text = text.strip()
        if text.removeprefix("-").isdigit():
            return cls.at_depth(tree, int(text))
        parts = itertools.chain(*csv.reader(text.splitlines(), skipinitialspace=True))
        return cls.through(tree, [part.strip() for part in parts if part.strip()], text)

    def lift(self, tree: WordTree, nodes: ArrayLike) -> Ints:
        """[K] the node of the cut at or above each node, −1 for what lies above or beside the cut."""
        inside = np.zeros(len(tree), np.bool_)
        inside[self.nodes] = True
        paths = path_matrix(tree, nodes)
        hit = inside[paths] & (paths >= 0)
        lifted = paths[np.arange(len(paths)), hit.argmax(1)] if paths.size else paths[:, 0]
        return np.where(hit.any(1), lifted, -1)


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else float("nan")
