"""Where a model may be sure: sibling groups that training said something about, and those that it did not.

A softmax over siblings of which training showed few photos is as confident as any other, and as wrong
as a guess: a person becomes a *groom* because few other kinds were ever named. Such groups are made
uniform, so that the walk down the tree stops above them, at what was learnt.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from wordtree.tree import WordTree
from yolo9000.datasets import SampleDataset
from yolo9000.errors import ConfigError
from yolo9000.network import Network


def label_counts(tree: WordTree, datasets: Iterable[SampleDataset]) -> NDArray[np.int64]:
    """How many labels stand at each node, int64 [N]; ignored boxes do not count.

    Args:
        tree: The tree that the data sets' labels are nodes of.
        datasets: What was trained on.
    """
    counts = np.zeros(len(tree), np.int64)
    for dataset in datasets:
        for index in range(len(dataset)):
            np.add.at(counts, dataset.nodes(index), 1)
    return counts


def group_labels(tree: WordTree, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many labels taught each sibling group, int64 [G]: those at its nodes and below them.

    Args:
        tree: N nodes, G sibling groups.
        counts: [N] labels at each node.
    """
    total = counts.astype(np.int64).copy()
    for node in range(len(tree) - 1, -1, -1):  # children stand after their parents
        if tree.parent[node] >= 0:
            total[tree.parent[node]] += total[node]
    return np.bincount(tree.group, weights=total, minlength=len(tree.group_start)).astype(np.int64)


@torch.no_grad()
def forget_untaught(network: Network, counts: NDArray[np.int64], minimum: int, share: float = 0.25) -> int:
    """Make the sibling groups uniform that too few labels taught; the top group stays.

    Too few are fewer than `minimum`, or fewer than `share` of the labels that stand at the parent itself:
    where 1,306 boxes say `person` and 63 photos say which kind, the kinds are not known.

    The order of detections of one class does not change (all lose the same factor), the labels do: they stop
    above what was not learnt. A group of one node stays as it is: its softmax is 1 whatever its logit.

    Args:
        network: A detector, changed in place.
        counts: [N] labels at each node, see `label_counts`.
        minimum: Fewest labels that a group must have been taught by.
        share: Fewest of them as a share of the labels at the group's parent.

    Returns:
        The number of groups that became uniform.

    Raises:
        ConfigError: The network is a classifier, or the counts belong to another tree.
    """
    if network.head is None:
        raise ConfigError("expected a detector, found a classifier without [region]")
    if counts.shape != (len(network.tree),):
        raise ConfigError(f"expected {len(network.tree)} counts, one a node, found {counts.shape}")
    parent = network.tree.group_parent
    at_parent = np.where(parent >= 0, counts[parent], 0)
    untaught = group_labels(network.tree, counts) < np.maximum(minimum, share * at_parent)
    untaught[network.tree.group[0]] = False
    rows = torch.from_numpy(np.flatnonzero(untaught[network.tree.group])).to(network.head.class_weight.device)
    network.head.class_weight.index_fill_(1, rows, 0.0)
    network.head.class_bias.index_fill_(1, rows, 0.0)
    return int((untaught & (network.tree.group_size > 1)).sum())
