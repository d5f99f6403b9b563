"""What makes arrays and texts a WordTree, and errors that say which node does not fit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wordtree.errors import FormatError, TreeError

Ints = NDArray[np.int32]

# What no text format of ours can carry: line ends, controls, halves of surrogate pairs, non-characters.
UNWRITABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


class NodeError(TreeError):
    """A tree that is none, because of one node.

    Args:
        node: Index of the node at fault, in the order given: file readers find the line by it.
        problem: What was expected, what came, what to do.
        first: Another node that it cannot stand beside.
    """

    def __init__(self, node: int, problem: str, first: int | None = None) -> None:
        self.node, self.first = node, first
        super().__init__(problem)

    def __reduce__(self) -> tuple[Any, ...]:
        return NodeError, (self.node, str(self), self.first)

    def in_file(self, path: str | Path | None, lines: Sequence[int | None]) -> FormatError:
        """The same error with its place in a file, and that of `first`; lines: [N], None where not known."""
        first = None if self.first is None else lines[self.first]
        remedy = None if first is None else f"The first is in line {first}."
        return FormatError(str(self), path=path, line=lines[self.node], remedy=remedy)


def check_line(text: str, path: str | Path, line: int) -> None:
    """Refuse control characters in a line of a list.

    Raises:
        FormatError: There are some: tabs, or line ends of another kind than the file's.
    """
    if found := UNWRITABLE.search(text):
        what = f"{found[0]!r} in {text[:80]!r}."
        raise FormatError(what, path=path, line=line, remedy="Expected one name and no control characters.")


def check_parent(parent: ArrayLike, wnids: Sequence[str]) -> Ints:
    """The parent array of a tree, checked: parents before children, siblings side by side.

    Raises:
        NodeError: The first node that breaks the rules.
        TreeError: An array of another shape or of no whole numbers, or an empty one.
    """
    array = np.array(parent, ndmin=1)
    if array.size and array.dtype.kind not in "iu":
        raise TreeError(f"expected parents as whole numbers, −1 for a top node, got {array.dtype}.")
    array = array.astype(np.int64)
    if array.ndim != 1 or len(array) != len(wnids):
        raise TreeError(f"expected one parent for each of the {len(wnids):,} ids, got shape {array.shape}.")
    if not len(array):
        raise TreeError("a tree needs at least one node, got none.")
    bad = np.flatnonzero((array < -1) | (array >= np.arange(len(array))))
    if len(bad):
        raise NodeError(int(bad[0]), _parent_problem(int(bad[0]), int(array[bad[0]]), wnids))
    starts = np.flatnonzero(np.concatenate(([True], array[1:] != array[:-1])))
    _, first = np.unique(array[starts], return_index=True)
    if len(first) != len(starts):
        again = starts[np.setdiff1d(np.arange(len(starts)), first)[0]]
        raise NodeError(int(again), _scattered_problem(int(again), int(array[again]), array, wnids))
    return array.astype(np.int32)


def _parent_problem(node: int, parent: int, wnids: Sequence[str]) -> str:
    where = f"node {node} ({wnids[node]!r})"
    if parent < -1 or parent >= len(wnids):
        return f"{where} has parent {parent}; expected −1 (top node) or an index below {node}."
    if parent == node:
        return f"{where} is its own parent: a cycle. Use −1 for a top node."
    return f"{where} stands before its parent {parent} ({wnids[parent]!r}); move the parent above it."


def _scattered_problem(node: int, parent: int, array: NDArray[np.int64], wnids: Sequence[str]) -> str:
    earlier = int(np.flatnonzero(array == parent)[0])
    whose = "the top nodes" if parent < 0 else f"the children of node {parent} ({wnids[parent]!r})"
    return (
        f"node {node} ({wnids[node]!r}) stands apart from its siblings: {whose} begin at node {earlier}. "
        "The children of one node must be contiguous; move them together."
    )


def as_texts(what: str, values: Iterable[str]) -> tuple[str, ...]:
    """The ids or names of a tree.

    Raises:
        NodeError: The first that is no text.
    """
    texts = tuple(values)
    for node, text in enumerate(texts):
        if not isinstance(text, str):
            raise NodeError(node, f"node {node} has the {what} {text!r}; expected text: make it str.")
    return texts


def check_texts(wnids: Sequence[str], names: Sequence[str]) -> None:
    """Check ids (unique, without white space) and names (one line each).

    Raises:
        NodeError: The first id or name that breaks the rules.
    """
    if len(names) != len(wnids):
        raise TreeError(f"expected {len(wnids):,} names, one for each id, got {len(names):,}.")
    if len("\n".join(wnids).split()) != len(wnids) or UNWRITABLE.search("".join(wnids)):
        bad = next(i for i, w in enumerate(wnids) if w.split() != [w] or UNWRITABLE.search(w))
        raise NodeError(bad, f"node {bad} has the id {wnids[bad]!r}; expected one word of text.")
    if len(set(wnids)) != len(wnids):
        seen: dict[str, int] = {}
        for i, wnid in enumerate(wnids):
            if (first := seen.setdefault(wnid, i)) != i:
                what = f"nodes {first} and {i} have the same id {wnid!r}; ids must be unique."
                raise NodeError(i, what, first)
    if not all(map(str.strip, names)) or UNWRITABLE.search("".join(names)):
        bad = next(i for i, n in enumerate(names) if not n.strip() or UNWRITABLE.search(n))
        what = f"node {bad} ({wnids[bad]!r}) has the name {names[bad]!r}"
        raise NodeError(bad, f"{what}; expected one line of text.")
