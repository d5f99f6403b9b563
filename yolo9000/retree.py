"""Another tree for a trained model: nodes that stay keep their weights."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Hashable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wordtree.tree import WordTree
from yolo9000.checkpoint import check_target, save_model, still_true
from yolo9000.convert import with_classes
from yolo9000.model import load_any
from yolo9000.network import Network

_NAMED = 8  # nodes that a line of the report names


@dataclass(frozen=True)
class Change:
    """What became of the nodes; names as in the trees.

    Attributes:
        stayed: Nodes of both trees, with the same parent.
        moved: Nodes of both trees with another parent: their weights were trained among other siblings.
        came: Nodes of the new tree alone.
        went: Nodes of the old tree alone.
    """

    stayed: Sequence[str]
    moved: Sequence[str]
    came: Sequence[str]
    went: Sequence[str]

    def __str__(self) -> str:
        notes = {
            "stayed": "keep their weights",
            "moved": "keep their weights, trained among other siblings",
            "came": "start from zero, equal among themselves",
            "went": "are gone",
        }
        lines = []
        for kind, note in notes.items():
            names: Sequence[str] = getattr(self, kind)
            listed = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
            shown = f": {listed}" if names and kind != "stayed" else ""
            lines.append(f"{kind:>6}  {len(names):>6,}  {note}{shown}")
        return "\n".join(lines)


@torch.no_grad()
def retree(network: Network, tree: WordTree) -> tuple[Network, Change]:
    """The same network over another tree. Nodes are the same where their ids are.

    Ids that are made of a name of several nodes (`jaguar`, `jaguar-2`) depend on the nodes' order: these are
    the same where their name and the node above are.

    Weights of a node that stays are copied; a new node's are zero, so a sibling group of new nodes starts
    with equal probabilities. Boxes, objectness and everything before them stay.

    Args:
        network: The network; it stays as it is.
        tree: The new tree.

    Returns:
        The new network, and what became of the nodes.

    Raises:
        CfgError: So many nodes are above the limits of a network.
    """
    result = Network(with_classes(network.cfg, len(tree)), tree)
    old, new = _keys(network.tree, tree)
    known = {key: node for node, key in enumerate(old)}
    rows = torch.tensor([known.get(key, -1) for key in new])
    by_class = _class_tensors(network)
    target = result.state_dict()
    for name, tensor in network.state_dict().items():
        axis = by_class.get(name)
        target[name].copy_(tensor if axis is None else _chosen(tensor, rows, axis))
    result.batchnorm, result.seen = network.batchnorm, network.seen
    result.weights_version = network.weights_version
    return result.eval(), _compare(network.tree, tree, rows.tolist())


def retree_file(
    source: str | os.PathLike[str], tree: WordTree, target: Path, *, half: bool = False
) -> Change:
    """`retree` from model to model file; the source as in `YOLO9000.load`.

    Of the metadata the thresholds, the sizes and the licence are kept: figures were measured with the old
    tree.

    Raises:
        WeightsError: The source is no model of ours.
    """
    check_target(target)
    network, metadata = load_any(source)
    result, change = retree(network, tree)
    save_model(result, target, half=half, metadata=still_true(metadata))
    return change


def _class_tensors(network: Network) -> dict[str, int]:
    """Names of the tensors that have a row for each node, and the axis of those rows."""
    if network.head is not None:
        return {"head.class_weight": 1, "head.class_bias": 1}
    prefix = f"layers.{network.last}."
    return {
        name: 0 for name, tensor in network.state_dict().items() if name.startswith(prefix) and tensor.dim()
    }


def _chosen(tensor: Tensor, rows: Tensor, axis: int) -> Tensor:
    """The rows of those numbers along an axis, zero for −1."""
    picked = tensor.index_select(axis, rows.clamp(min=0))
    shape = [1] * tensor.dim()
    shape[axis] = len(rows)
    return picked.masked_fill((rows < 0).view(shape), 0)


def _keys(*trees: WordTree) -> list[list[Hashable]]:
    """What the nodes of each tree are known by: the id; see `retree` for those made of a name of several."""
    made = [[_made_of(*texts) for texts in zip(tree.wnids, tree.names, strict=True)] for tree in trees]
    shared = {name for names in made for name, times in Counter(names).items() if times > 1}
    return [_keys_of(tree, names, shared) for tree, names in zip(trees, made, strict=True)]


def _keys_of(tree: WordTree, made: Sequence[str | None], shared: Set[str | None]) -> list[Hashable]:
    keys: list[Hashable] = []
    times = Counter[Hashable]()  # in a plain list, several may have the same name in the same place
    for wnid, name, above in zip(tree.wnids, made, tree.parent.tolist(), strict=True):
        if name is None or name not in shared:
            keys.append(wnid)
            continue
        place = name, None if above < 0 else keys[above]
        times[place] += 1
        keys.append((place, times[place]))
    return keys


def _made_of(wnid: str, name: str) -> str | None:
    """The name, as it stands in an id that is made of it (`layout.unique_ids`), else None."""
    text = "_".join(name.split())
    return text if text in (wnid, re.sub(r"-\d+$", "", wnid)) else None


def _compare(old: WordTree, new: WordTree, rows: Sequence[int]) -> Change:
    """What became of the nodes; `rows` [N]: which old node each new one is, −1 for none."""
    stayed, moved, came = list[str](), list[str](), list[str]()
    for name, above, before in zip(new.names, new.parent.tolist(), rows, strict=True):
        if before < 0:
            came.append(name)
        else:
            parent = int(old.parent[before])
            same = above < 0 if parent < 0 else above >= 0 and rows[above] == parent
            (stayed if same else moved).append(name)
    kept = set(rows)
    return Change(stayed, moved, came, [name for node, name in enumerate(old.names) if node not in kept])
