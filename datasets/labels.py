"""From a data set's labels to nodes of a tree: by map file, WordNet id, name, or nearest ancestor."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from yolo9000.errors import DataError, FormatError, TreeError

if TYPE_CHECKING:
    from wordtree.tree import WordTree

# The six classes that COCO's own files spell otherwise than darknet's coco.names and VOC.
COCO_SPELLINGS = {
    "airplane": "aeroplane",
    "couch": "sofa",
    "dining table": "diningtable",
    "motorcycle": "motorbike",
    "potted plant": "pottedplant",
    "tv": "tvmonitor",
}
WNID = re.compile(r"n\d{8}")  # WordNet 3.0 noun synset: n and its 8-digit offset
_NAMED = re.compile(r"(n\d{8})(-.+)?")  # also with a name behind it, as Stanford Dogs calls its folders


@dataclass(frozen=True)
class Label:
    """A class as a data set names it.

    Attributes:
        name: Its name; for ImageNet folders the WordNet id again.
        wnid: Its WordNet id, or "" where the data set gives none.
    """

    name: str
    wnid: str = ""


@dataclass(frozen=True)
class LabelMap:
    """Where the labels of a data set stand in a tree.

    Attributes:
        nodes: int64 [labels], the node of each label, -1 where there is none.
        fallbacks: Labels whose own synset the tree lacks -> the nearest ancestor that stands for them.
        reasons: Labels without a node -> why.
    """

    nodes: NDArray[np.int64]
    fallbacks: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


def map_labels(labels: Sequence[Label], tree: WordTree, map_file: str | Path | None = None) -> LabelMap:
    """Find the node of every label.

    Tried in this order: the map file, where given; the label's WordNet id (its own, or the one that the
    built-in `coco` and `voc` lists know its name by); the name, and the other names those lists have for
    the same id (`sofa`, `couch`), among nodes that are not some *other* synset; the nearest WordNet
    ancestor of the id in the tree.

    Args:
        labels: The classes in the data set's own order.
        tree: Where to find them.
        map_file: Darknet's map form: line i is the node of class i, as an index, a WordNet id or a name.
            Where the classes have no names but their numbers, it may go on beyond the highest that occurs.

    Raises:
        FormatError: The map file has not one line a class, or a line names no node.
        DataError: The map file cannot be read.
    """
    if map_file is not None:
        numbered = all(label.name == str(i) for i, label in enumerate(labels))
        return LabelMap(_read_map(Path(map_file), len(labels), tree, more=numbered))
    by_wnid = {wnid: node for node, wnid in enumerate(tree.wnids)}
    nodes = np.full(len(labels), -1, dtype=np.int64)
    result = LabelMap(nodes)
    for i, label in enumerate(labels):
        if label.name in by_wnid and not tree.is_shared(label.name):
            wnid = label.wnid or label.name
        elif named := _NAMED.fullmatch(label.name):
            wnid = label.wnid or named[1]
        else:
            wnid = label.wnid or _known_wnids().get(_plain(label.name), "")
        found = by_wnid[wnid] if wnid in by_wnid else _by_name(label, wnid, tree)
        if isinstance(found, str):
            reason, found = found, _nearest(tree, wnid) if wnid else -1
            if found < 0:
                result.reasons.setdefault(label.name, reason)
            else:
                result.fallbacks[label.name] = found
        nodes[i] = found
    return result


def _by_name(label: Label, wnid: str, tree: WordTree) -> int | str:
    """The node that has the label's name, or another name of its synset; or why there is none."""
    aliases = [name for name, known in _known_wnids().items() if wnid and known == wnid]
    reasons: list[str] = []
    for name in dict.fromkeys([label.name, *aliases]):
        found = tree.named(name)
        if len(found) > 1:
            reasons.append(f"{name!r} may be {', '.join(tree.wnids[node] for node in found)}")
        elif found and wnid and WNID.fullmatch(tree.wnids[found[0]]):
            # A synset of the same name is another thing (crane the bird, crane the machine).
            reasons.append(f"the tree's {name!r} is {tree.wnids[found[0]]}, not {wnid}")
        elif found:
            return found[0]
    return reasons[0] if reasons else f"neither {label.name!r} nor an id of it is in the tree"


def _nearest(tree: WordTree, wnid: str) -> int:
    from wordtree import nearest_node

    if not any(WNID.fullmatch(known) for known in tree.wnids):
        return -1  # a taxonomy of its own: WordNet's ancestors are not in it
    try:
        node = nearest_node(tree, wnid)
    except TreeError:
        return -1
    return -1 if node is None else int(node)


@lru_cache(maxsize=1)
def _known_wnids() -> dict[str, str]:
    """Class names of COCO and VOC (lower case, spaces) -> WordNet ids."""
    from wordtree import class_list

    known = {_plain(entry.name): entry.wnid for name in ("coco", "voc") for entry in class_list(name)}
    return known | {ours: known[darknets] for ours, darknets in COCO_SPELLINGS.items()}


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", " ")


def _read_map(path: Path, expected: int, tree: WordTree, *, more: bool) -> NDArray[np.int64]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a map file: {error}") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if len(lines) < expected or (len(lines) > expected and not more):
        wanted = f"{expected} lines or more" if more else f"{expected} lines"
        raise FormatError(
            f"expected {wanted}, one a class of the data set in its order, got {len(lines)}.",
            path=path,
            remedy="Use the map that belongs to this data set and tree.",
        )
    return np.asarray(
        [_map_line(line.strip(), path, i + 1, tree) for i, line in enumerate(lines)], dtype=np.int64
    )[:expected]


def _map_line(text: str, path: Path, line: int, tree: WordTree) -> int:
    try:
        node = int(text) if re.fullmatch(r"-?\d+", text) else int(tree.index(text))
    except TreeError as error:
        raise FormatError(f"no node for {text!r}: {error}", path=path, line=line) from error
    if not 0 <= node < len(tree):
        raise FormatError(
            f"node {node} is not in the tree of {len(tree)} nodes (0 to {len(tree) - 1}).",
            path=path,
            line=line,
            remedy="Is the map made for another tree?",
        )
    return node
