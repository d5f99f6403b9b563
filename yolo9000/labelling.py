"""Choosing labels: how deep, where in the tree, how sure; from what the network said, and without it.

`YOLO9000.detect` and `Detections.relabel` both end here, with the same numbers, so that stored results give
at any depth what detection itself would give there.

Letters: K candidates, L steps of the longest path, N tree nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from wordtree.tree import WordTree
from yolo9000.decode import DecoderMode
from yolo9000.errors import ConfigError
from yolo9000.settings import number, switch, whole
from yolo9000.suppress import suppress

Threshold: TypeAlias = float | Mapping[str, float]
EVERYWHERE = "*"  # key of a threshold mapping: all nodes that no other key covers
DEFAULT_THRESHOLD = 0.24  # score; what darknet's `detector test` is run with for YOLO9000
DEFAULT_HIER_THRESHOLD = 0.5  # probability; darknet's -hier
DEFAULT_NMS = 0.45  # intersection over union; darknet's -nms


def own_number(metadata: Mapping[str, str], name: str, default: float) -> float:
    """A model's own default of a share, as its metadata have it; `default` for what is none in 0..1."""
    try:
        value = float(metadata.get(name, default))
    except ValueError:
        return default
    return value if 0 <= value <= 1 else default


def own_sizes(metadata: Mapping[str, str]) -> tuple[int, ...]:
    """A model's own sides of the network input in which pictures are looked at; empty where it names none."""
    sides = metadata.get("sizes", "").split()
    return tuple(map(int, sides)) if all(side.isascii() and side.isdigit() for side in sides) else ()


@dataclass(frozen=True, eq=False)
class Candidates:
    """Everything in one picture that could become a detection, at whatever depth.

    Attributes:
        boxes: [K, 4] float32 x1, y1, x2, y2 in pixels of the picture, not clipped to it.
        objectness: [K] float32, 0..1.
        paths: [K, L] int64 nodes from the top to a leaf, −1 after the leaf.
        path_probs: [K, L] float32 probability of each node given its parent.
    """

    boxes: NDArray[np.float32]
    objectness: NDArray[np.float32]
    paths: NDArray[np.int64]
    path_probs: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.objectness)


@dataclass(frozen=True)
class Labelling:
    """How labels are chosen.

    A threshold is a number, or numbers for parts of the tree: `{"animal": 0.1, "*": 0.3}`, where the deepest
    key at or above a node holds for it and `"*"` (else the default) for all others.

    Attributes:
        threshold: Detections with a score above it are given, 0..1. It looks at the label that
            `hier_threshold` gives: `depth` and `leaves` choose other words for the same boxes, none is lost
            because its deeper label is less probable.
        hier_threshold: Go down the path as long as the next node's absolute probability is above this; the
            top node is always given. By default `default_hier_threshold`, or no limit where `depth` or
            `leaves` is given.
        depth: Go down to this depth (0 is the top), or to the leaf where the path ends earlier. Together with
            `hier_threshold`, whichever stops first.
        leaves: Go down to the leaf.
        under: Keep only labels at or below one of these nodes (names, ids); empty: all.
        not_under: Drop labels at or below one of these nodes.
        nms: Overlap (intersection over union, 0..1) above which boxes with related labels are one object.
        decoder: "paper": score = objectness × P(label). "darknet": its C code's way, see
            `yolo9000.decode.Decoder`.
        default_hier_threshold: `hier_threshold` wherever none is given: the model's own. Beside `depth` or
            `leaves` it decides which boxes there are.

    Raises:
        ConfigError: A value out of range or of a wrong type, or rules that exclude each other.
    """

    threshold: Threshold = DEFAULT_THRESHOLD
    hier_threshold: Threshold | None = None
    depth: int | None = None
    leaves: bool = False
    under: tuple[str, ...] = ()
    not_under: tuple[str, ...] = ()
    nms: float = DEFAULT_NMS
    decoder: DecoderMode = "paper"
    default_hier_threshold: float = DEFAULT_HIER_THRESHOLD

    def __post_init__(self) -> None:
        hier = self.hier_threshold
        plain = {
            "threshold": _fractions("threshold", self.threshold),
            "hier_threshold": None if hier is None else _fractions("hier_threshold", hier),
            "depth": None if self.depth is None else whole("depth", self.depth),
            "leaves": switch("leaves", self.leaves),
            "under": _nodes("under", self.under),
            "not_under": _nodes("not_under", self.not_under),
            "nms": _fraction("nms", self.nms),
            "default_hier_threshold": _fraction("default_hier_threshold", self.default_hier_threshold),
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        if self.depth is not None and self.depth < 0:
            raise ConfigError(f"depth must be 0 (the top) or more, found {self.depth}.")
        if self.leaves and (self.hier_threshold is not None or self.depth is not None):
            raise ConfigError("leaves=True goes with neither hier_threshold nor depth: give one rule.")
        if self.decoder not in get_args(DecoderMode):
            known = ", ".join(get_args(DecoderMode))
            raise ConfigError(f"the decoder is one of {known}; got {self.decoder!r}")
        if self.hier_threshold is None and self.depth is None and not self.leaves:
            object.__setattr__(self, "hier_threshold", self.default_hier_threshold)

    @property
    def lowest_threshold(self) -> float:
        """The lowest score that can be given anywhere in the tree."""
        if not isinstance(self.threshold, Mapping):
            return self.threshold
        return min({EVERYWHERE: DEFAULT_THRESHOLD, **self.threshold}.values())

    @property
    def sure(self) -> Labelling:
        """The rule that decides which boxes there are: without `depth` and `leaves`."""
        return self if self.depth is None and not self.leaves else replace(self, depth=None, leaves=False)

    def for_tree(self, tree: WordTree) -> Labelling:
        """The same rules with nodes named by their keys (see `WordTree.key`).

        Raises:
            TreeError: A node that the tree does not have, or a name that several nodes have.
            ConfigError: `depth` ends above every node of `under`, or `not_under` leaves none of it.
        """
        deepest = [int(tree.depth[tree.index(node)]) for node in self.under]
        if deepest and self.depth is not None and self.depth < min(deepest):
            raise ConfigError(
                f"labels of depth {self.depth} lie above {', '.join(self.under)}: nothing could be found. "
                f"Use a depth of {min(deepest)} or more."
            )
        if self.not_under and not _allowed(self, tree).any():
            where = f"under {', '.join(self.under)}" if self.under else "in the tree"
            raise ConfigError(
                f"not_under {', '.join(self.not_under)} leaves no label {where}: nothing could be found."
            )
        return replace(
            self,
            threshold=_by_key(self.threshold, tree),
            hier_threshold=None if self.hier_threshold is None else _by_key(self.hier_threshold, tree),
            under=tuple(tree.key(tree.index(node)) for node in self.under),
            not_under=tuple(tree.key(tree.index(node)) for node in self.not_under),
        )

    def changed(
        self,
        *,
        threshold: Threshold | None = None,
        hier_threshold: Threshold | None = None,
        depth: int | None = None,
        leaves: bool = False,
        under: Iterable[str] | None = None,
        not_under: Iterable[str] | None = None,
        nms: float | None = None,
    ) -> Labelling:
        """The same rules with some of them changed; what is left out stays.

        `hier_threshold`, `depth` and `leaves` are one rule: any of them replaces all three.
        """
        given: dict[str, Any] = {
            "threshold": threshold,
            "under": under,
            "not_under": not_under,
            "nms": nms,
        }
        given = {name: value for name, value in given.items() if value is not None}
        if isinstance(threshold, Mapping):
            old = self.threshold
            old = old.get(EVERYWHERE, DEFAULT_THRESHOLD) if isinstance(old, Mapping) else old
            given["threshold"] = {EVERYWHERE: old, **threshold}
        if hier_threshold is not None or depth is not None or leaves:
            given |= {"hier_threshold": hier_threshold, "depth": depth, "leaves": leaves}
        return replace(self, **given)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, ready for JSON."""
        return {
            "threshold": _plain(self.threshold),
            "hier_threshold": _plain(self.hier_threshold),
            "depth": self.depth,
            "leaves": self.leaves,
            "under": list(self.under),
            "not_under": list(self.not_under),
            "nms": self.nms,
            "decoder": self.decoder,
            "default_hier_threshold": self.default_hier_threshold,
        }


def choose(
    found: Candidates, rule: Labelling, tree: WordTree
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Label candidates, leave out those below the threshold or outside the wanted subtrees, and duplicates.

    Args:
        found: The candidates.
        rule: How to choose, with nodes of `tree` (see `Labelling.for_tree`).
        tree: The tree of the paths.

    Returns:
        For each detection, highest score first: which candidate it is, its node, and its score.
    """
    nodes, scores = labels(found, rule, tree)
    sure, sureness = (nodes, scores) if rule.sure is rule else labels(found, rule.sure, tree)
    pick = np.flatnonzero(permitted(nodes, sure, sureness, rule, tree))
    kept = suppress(
        torch.from_numpy(np.ascontiguousarray(found.boxes[pick])),
        torch.from_numpy(sureness[pick]),
        torch.from_numpy(sure[pick]),
        tree,
        rule.nms,
        # darknet suppresses within each class alone (do_nms_sort in box.c)
        "class" if rule.decoder == "darknet" else "tree",
    ).numpy()
    pick = pick[kept]
    pick = pick[np.argsort(-scores[pick], kind="stable")]
    return pick, nodes[pick], scores[pick]


def labels(
    found: Candidates, rule: Labelling, tree: WordTree
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The node [K] and score [K] of every candidate; see `Labelling`."""
    if not len(found):
        return np.empty(0, np.int64), np.empty(0, np.float32)
    absolute = np.cumprod(found.path_probs.astype(np.float64), axis=1)
    # hierarchy_top_prediction in tree.c multiplies absolute probabilities again
    product = np.cumprod(absolute, axis=1) if rule.decoder == "darknet" else absolute
    last = (found.paths >= 0).sum(axis=1) - 1
    if rule.hier_threshold is not None:
        limit = _limits(rule.hier_threshold, rule.default_hier_threshold, tree)[found.paths]
        sure = (product > limit) & (found.paths >= 0)
        last = np.clip(np.cumprod(sure, axis=1).sum(axis=1) - 1, 0, last)
    if rule.depth is not None:
        last = np.minimum(last, min(rule.depth, found.paths.shape[1]))  # of any size, a C integer is not
    rows = np.arange(len(found))
    scores = found.objectness.astype(np.float64)
    if rule.decoder == "paper":
        scores = scores * absolute[rows, last]
    return found.paths[rows, last], scores.astype(np.float32)


def permitted(
    nodes: NDArray[np.int64],
    sure: NDArray[np.int64],
    sureness: NDArray[np.float32],
    rule: Labelling,
    tree: WordTree,
) -> NDArray[np.bool_]:
    """[K] whether a candidate is above the threshold and its label in the wanted subtrees.

    Args:
        nodes: [K] its label.
        sure: [K] the label that `rule.sure` gives; the threshold is that of this node.
        sureness: [K] the score of that one.
        rule: Thresholds and subtrees.
        tree: The tree of both.
    """
    limit = _limits(rule.threshold, DEFAULT_THRESHOLD, tree)[sure]
    return np.asarray((sureness > limit) & _allowed(rule, tree)[nodes])


def are_paths(tree: WordTree, paths: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[K] whether each row of [K, L] starts at the top, goes from parent to child, and ends at a leaf."""
    if paths.shape[1] == 0:
        return np.zeros(len(paths), bool)
    valid = paths >= 0
    before = np.concatenate((np.full((len(paths), 1), -1), paths[:, :-1]), axis=1)
    linked = (tree.parent[paths] == before) | ~valid
    last = paths[np.arange(len(paths)), np.maximum(valid.sum(axis=1) - 1, 0)]
    contiguous = (valid[:, :-1] >= valid[:, 1:]).all(axis=1)
    return np.asarray(valid[:, 0] & contiguous & linked.all(axis=1) & tree.is_leaf[last])


def _limits(threshold: Threshold, default: float, tree: WordTree) -> NDArray[np.float64]:
    """[N] the threshold that holds at each node."""
    if not isinstance(threshold, Mapping):
        return np.full(len(tree), threshold)
    limits = np.full(len(tree), threshold.get(EVERYWHERE, default))
    nodes = {tree.index(key): value for key, value in threshold.items() if key != EVERYWHERE}
    for node in sorted(nodes, key=lambda node: int(tree.depth[node])):
        limits[tree.subtree(node)] = nodes[node]
    return limits


def _allowed(rule: Labelling, tree: WordTree) -> NDArray[np.bool_]:
    """[N] whether a label may be given."""
    allowed = np.full(len(tree), not rule.under)
    for node in rule.under:
        allowed[tree.subtree(node)] = True
    for node in rule.not_under:
        allowed[tree.subtree(node)] = False
    return allowed


def _by_key(threshold: Threshold, tree: WordTree) -> Threshold:
    if not isinstance(threshold, Mapping):
        return threshold
    return {
        key if key == EVERYWHERE else tree.key(tree.index(key)): value for key, value in threshold.items()
    }


def _plain(threshold: Threshold | None) -> float | dict[str, float] | None:
    return dict(threshold) if isinstance(threshold, Mapping) else threshold


def _fractions(name: str, threshold: Threshold) -> Threshold:
    if not isinstance(threshold, Mapping):
        return _fraction(name, threshold)
    return {node: _fraction(f"{name} of {node}", value) for node, value in threshold.items()}


def _fraction(name: str, value: object) -> float:
    value = number(name, value)
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} must lie in 0..1, found {value}.")
    return value


def _nodes(name: str, nodes: object) -> tuple[str, ...]:
    if isinstance(nodes, bytes) or not isinstance(nodes, Iterable):
        raise ConfigError(f"{name} must be the name or id of a node, or a list of them, found {nodes!r}.")
    return (nodes,) if isinstance(nodes, str) else tuple(nodes)
