"""Classes apart by whether training had boxes of them, as the paper does for ImageNet DET (section 4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from wordtree import class_list
from wordtree.tree import WordTree
from yolo9000.datasets.labels import Label, map_labels
from yolo9000.errors import ConfigError
from yolo9000.evaluation.ap import Ints
from yolo9000.evaluation.hierarchy import related
from yolo9000.evaluation.scores import ClassScores, GroupScore


def boxed_nodes(tree: WordTree, lists: Sequence[str]) -> Ints:
    """Nodes of the classes that training had boxes of, ascending; classes that the tree lacks are left out.

    Args:
        tree: Where to find them.
        lists: Built-in class lists (`coco`, `voc`) or files, see `wordtree.class_list`.

    Raises:
        ConfigError: Not one of the classes is in the tree.
        FormatError: An unknown list, or a line of a file that is no class.
    """
    labels = [Label(entry.name, entry.wnid) for source in lists for entry in class_list(source)]
    found = map_labels(labels, tree)
    own = [
        node >= 0 and label.name not in found.fallbacks
        for label, node in zip(labels, found.nodes, strict=True)
    ]
    nodes = np.unique(found.nodes[np.array(own, np.bool_)])
    if not len(nodes):
        raise ConfigError(f"none of the classes of {', '.join(lists)} is in the tree of {len(tree)} nodes")
    return np.asarray(nodes, np.int64)


def boxed_groups(tree: WordTree, scores: ClassScores, lists: Sequence[str]) -> Iterator[GroupScore]:
    """Mean AP of all classes; of those with boxes: at, above or below a class that had some; of the others.

    Of the 200 classes of ImageNet DET 38 are COCO's own nodes and 57 are at, above or below one. The paper
    counts 44 and does not list them.

    Args:
        tree: The tree of the classes.
        scores: Their AP.
        lists: As for `boxed_nodes`.
    """
    known = boxed_nodes(tree, lists)
    nodes = np.array([score.node for score in scores.classes], np.int64)
    near = related(tree, nodes[:, None], known[None]).any(1)
    source = " and ".join(lists)
    yield GroupScore.of(scores, nodes, "all classes")
    yield GroupScore.of(scores, nodes[near], f"with boxes: at, above or below a class of {source}")
    yield GroupScore.of(
        scores, nodes[np.isin(nodes, known)], f"of these, at the very node of a class of {source}"
    )
    yield GroupScore.of(scores, nodes[~near], "without boxes")
