"""The WordTree: an immutable class hierarchy held in one parent array.

Legend: `N` nodes, `G` sibling groups, `K` queries.

    index   0    1    2    3    4    5    6          parent       [-1, -1, 0, 0, 3, 3, 3]
    group   0    0    1    1    2    2    2          group_start  [0, 2, 4]
                                                     group_size   [2, 2, 3]
    0 animal ─┬─ 2 cat                               group_parent [-1, 0, 3]
              └─ 3 dog ─┬─ 4 husky
    1 vehicle           ├─ 5 pug                     Parents stand before their children, and the children of
                        └─ 6 beagle                  one node stand side by side: a softmax group is a slice.
"""

from __future__ import annotations

import hashlib
import operator
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wordtree._checks import Ints, NodeError, as_texts, check_parent, check_texts
from wordtree.errors import TreeError

if TYPE_CHECKING:
    import networkx as nx

Bools = NDArray[np.bool_]

_MOST_CANDIDATES = 12  # lines of an "ambiguous name" message; a screenful


class WordTree:
    """An immutable tree (or forest) of classes.

    Args:
        parent: [N] index of each node's parent, −1 for a top node. A parent's index is below its children's,
            and the children of one node are contiguous.
        wnids: [N] unique ids without white space: WordNet ids such as `n02084071`, or ids of your own.
        names: [N] what people read (white space around them is dropped); the ids when left out. Names may
            repeat.

    Raises:
        TreeError: The arrays do not describe such a tree; the message names the node and the remedy.
    """

    parent: Ints
    wnids: tuple[str, ...]
    names: tuple[str, ...]

    def __init__(self, parent: ArrayLike, wnids: Sequence[str], names: Sequence[str] | None = None) -> None:
        ids = as_texts("id", wnids)
        texts = ids if names is None else tuple([name.strip() for name in as_texts("name", names)])
        array = check_parent(parent, ids)
        check_texts(ids, texts)
        array.flags.writeable = False
        self.__dict__.update(parent=array, wnids=ids, names=texts)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a WordTree is immutable: cannot set {name!r}; build a new tree instead")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a WordTree is immutable: cannot delete {name!r}")

    def __len__(self) -> int:
        return len(self.wnids)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, WordTree):
            return NotImplemented
        same_texts = self.wnids == other.wnids and self.names == other.names
        return same_texts and bool(np.array_equal(self.parent, other.parent))

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.parent.tobytes(), self.wnids, self.names))

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that tell trees apart: of the SHA-256 of the `.tree` file."""
        from wordtree.formats import darknet_text

        return hashlib.sha256(darknet_text(self).encode()).hexdigest()[:16]

    def __reduce__(self) -> tuple[Any, ...]:
        return WordTree, (np.asarray(self.parent), self.wnids, self.names)

    def __repr__(self) -> str:
        nodes, leaves, groups = len(self), int(self.is_leaf.sum()), len(self.group_start)
        return f"<WordTree: {nodes:,} nodes, {leaves:,} leaves, {groups:,} groups, depth {self.max_depth}>"

    # ------------------------------------------------------------------------------- derived arrays

    @cached_property
    def group_start(self) -> Ints:
        """[G] First node of each sibling group; groups are numbered in file order."""
        first = np.flatnonzero(np.concatenate(([True], self.parent[1:] != self.parent[:-1])))
        return _frozen(first)

    @cached_property
    def group_size(self) -> Ints:
        """[G] Number of siblings in each group."""
        return _frozen(np.diff(np.append(self.group_start, len(self))))

    @cached_property
    def group_parent(self) -> Ints:
        """[G] The node whose children a group holds, −1 for the top group."""
        return _frozen(self.parent[self.group_start])

    @cached_property
    def group(self) -> Ints:
        """[N] Sibling group of each node."""
        return _frozen(np.repeat(np.arange(len(self.group_size)), self.group_size))

    @cached_property
    def child_group(self) -> Ints:
        """[N] Group that a node's children form, −1 for leaves."""
        result = np.full(len(self), -1, np.int32)
        inner = self.group_parent >= 0
        result[self.group_parent[inner]] = np.flatnonzero(inner)
        return _frozen(result)

    @cached_property
    def is_leaf(self) -> Bools:
        """[N] True for nodes without children."""
        result = np.asarray(self.child_group < 0)
        result.flags.writeable = False
        return result

    @cached_property
    def depth(self) -> Ints:
        """[N] Number of ancestors; 0 for a top node."""
        depth = (self.parent >= 0).astype(np.int32)
        jump = self.parent.copy()  # ancestor 2^k levels up after k rounds: log2(depth) rounds in all
        while (jump >= 0).any():
            above = jump >= 0
            depth[above] += depth[jump[above]]
            jump[above] = jump[jump[above]]
        return _frozen(depth)

    @cached_property
    def max_depth(self) -> int:
        """Largest depth of a node; 0 for a flat class list."""
        return int(self.depth.max())

    @cached_property
    def levels(self) -> tuple[Ints, ...]:
        """Nodes of each depth, top first, ascending: the order for passes from the top or from the bottom."""
        order = np.argsort(self.depth, kind="stable")
        ends = np.cumsum(np.bincount(self.depth))[:-1]
        return tuple(_frozen(level) for level in np.split(order, ends))

    @cached_property
    def subtree_size(self) -> Ints:
        """[N] Number of nodes in each node's subtree, itself included."""
        size = np.ones(len(self), np.int64)
        for level in self.levels[:0:-1]:
            np.add.at(size, self.parent[level], size[level])
        return _frozen(size)

    @cached_property
    def enter(self) -> Ints:
        """[N] Place in a depth-first walk: b is in the subtree of a ⇔ `enter[a] <= enter[b] < leave[a]`."""
        before = np.cumsum(self.subtree_size) - self.subtree_size
        enter = before - before[self.group_start[self.group]]  # sizes of the elder siblings' subtrees
        for level in self.levels[1:]:
            enter[level] += enter[self.parent[level]] + 1
        return _frozen(enter)

    @cached_property
    def leave(self) -> Ints:
        """[N] End of the subtree in the depth-first walk (exclusive)."""
        return _frozen(self.enter + self.subtree_size)

    @cached_property
    def _walk(self) -> Ints:
        """[N] Nodes in depth-first order: the inverse of `enter`."""
        return _frozen(np.argsort(self.enter))

    # ------------------------------------------------------------------------------------ relations

    def path(self, node: int | str) -> tuple[int, ...]:
        """Nodes from the top down to `node`, both included."""
        index = self.index(node)
        steps = [index]
        while (index := int(self.parent[index])) >= 0:
            steps.append(index)
        return tuple(reversed(steps))

    def ancestors(self, node: int | str) -> Ints:
        """Nodes above `node`, top first; empty for a top node."""
        return np.array(self.path(node)[:-1], np.int32)

    def children(self, node: int | str) -> Ints:
        """Children of `node`, ascending; empty for a leaf."""
        group = self.child_group[self.index(node)]
        if group < 0:
            return np.empty(0, np.int32)
        start = self.group_start[group]
        return np.arange(start, start + self.group_size[group], dtype=np.int32)

    def subtree(self, node: int | str) -> Ints:
        """`node` and everything below it, ascending."""
        index = self.index(node)
        return np.sort(self._walk[self.enter[index] : self.leave[index]])

    def leaves(self, node: int | str | None = None) -> Ints:
        """Leaves at or below `node` (of the whole tree when left out), ascending."""
        nodes = np.arange(len(self), dtype=np.int32) if node is None else self.subtree(node)
        return np.asarray(nodes[self.is_leaf[nodes]])

    @overload
    def is_ancestor(self, a: int, b: int) -> bool: ...
    @overload
    def is_ancestor(self, a: ArrayLike, b: ArrayLike) -> bool | Bools: ...
    def is_ancestor(self, a: ArrayLike, b: ArrayLike) -> bool | Bools:
        """Whether `a` is above `b`; no node is its own ancestor (as with `ancestors`).

        Args:
            a: Node indices.
            b: Node indices of a shape that broadcasts with `a`.

        Returns:
            A bool for two ints, else an array of the broadcast shape.
        """
        left, right = self.enter[np.asarray(a)], self.enter[np.asarray(b)]
        result = np.asarray((left < right) & (right < self.leave[np.asarray(a)]))
        return bool(result) if result.ndim == 0 else result

    def lowest_common_ancestor(self, a: int | str, b: int | str) -> int | None:
        """Deepest node at or above both, or None where they stand under different top nodes."""
        common = [x for x, y in zip(self.path(a), self.path(b), strict=False) if x == y]
        return common[-1] if common else None

    # --------------------------------------------------------------------------------------- lookup

    @cached_property
    def _by_wnid(self) -> dict[str, int]:
        return {wnid: i for i, wnid in enumerate(self.wnids)}

    @cached_property
    def _by_name(self) -> Mapping[str, list[int]]:
        table: dict[str, list[int]] = {}
        for i, name in enumerate(self.names):
            table.setdefault(_fold(name), []).append(i)
        return table

    def node_of(self, wnid: str) -> int | None:
        """The node with this id, or None."""
        return self._by_wnid.get(wnid)

    def named(self, name: str) -> tuple[int, ...]:
        """All nodes of that name (case and `_`/space ignored), ascending; empty when there is none."""
        return tuple(self._by_name.get(_fold(name), ()))

    def is_shared(self, wnid: str) -> bool:
        """Whether an id is made of a name that several nodes have (`jaguar`, `jaguar-2`): says no more."""
        return sum("_".join(self.names[node].split()) == wnid for node in self.named(wnid)) > 1

    def key(self, node: int) -> str:
        """The text by which `index` finds a node: its id, or its index where the id is shared."""
        wnid = self.wnids[node]
        return str(node) if self.is_shared(wnid) else wnid

    def index(self, key: int | str) -> int:
        """Find one node.

        Args:
            key: An index, a wnid, a name (case ignored, `_` the same as a space), or an index as text.
                A wnid that is also the name of several nodes counts as their name.

        Raises:
            TreeError: No such node (with suggestions), or several of that name (with their keys and paths),
                or a key of another type.
        """
        if not isinstance(key, str):
            try:
                return self._checked(operator.index(key))
            except TypeError:
                raise TreeError(f"expected the id, name or index of a node, found {key!r}.") from None
        if (node := self.node_of(key)) is not None and not self.is_shared(key):
            return node
        nodes = self.named(key)
        if len(nodes) == 1:
            return nodes[0]
        if nodes:
            raise TreeError(self._ambiguous(key, nodes))
        if re.fullmatch(r"\d{1,9}", key):
            return self._checked(int(key))
        raise TreeError(self._unknown(key))

    def _checked(self, index: int) -> int:
        if 0 <= index < len(self):
            return index
        raise TreeError(f"no node {index}: this tree has {len(self):,} nodes, numbered 0 to {len(self) - 1}.")

    def _ambiguous(self, key: str, nodes: Sequence[int]) -> str:
        lines = []
        for node in nodes[:_MOST_CANDIDATES]:
            lines.append(f"  {self.key(node)}  {' > '.join(self.names[i] for i in self.path(node))}")
        if len(nodes) > _MOST_CANDIDATES:
            lines.append(f"  and {len(nodes) - _MOST_CANDIDATES} more")
        handle = "id or number" if any(self.is_shared(self.wnids[node]) for node in nodes) else "id"
        return f"{len(nodes)} nodes are called {key!r}; say which by its {handle}:\n" + "\n".join(lines)

    def _unknown(self, key: str) -> str:
        from wordtree.lookup import suggestions

        return f"no node {key!r} in this tree of {len(self):,} nodes." + suggestions(self, key)

    # ---------------------------------------------------------------------------------- other forms

    @classmethod
    def flat(cls, names: Sequence[str]) -> WordTree:
        """A plain class list as one sibling group: the flat softmax of YOLOv2.

        The ids are the names with `_` for white space, numbered where two would be equal.
        """
        from wordtree.layout import unique_ids

        return cls(np.full(len(names), -1), unique_ids(names), names)

    @classmethod
    def from_edges(
        cls, wnids: Sequence[str], parents: Sequence[str | None], names: Sequence[str] | None = None
    ) -> WordTree:
        """A tree from each node's parent id (None for top nodes), given in any order.

        An order that is a valid layout already is kept; otherwise groups are laid out depth-first, siblings
        in the order given.

        Raises:
            TreeError: An unknown parent, a duplicate id, a cycle.
        """
        from wordtree.layout import arrange

        return arrange(wnids, parents, names)

    def to_networkx(self) -> nx.DiGraph[str]:
        """A directed graph, edges from parent to child, keyed by wnid, each node with its `name`."""
        import networkx as nx

        graph: nx.DiGraph[str] = nx.DiGraph()
        graph.add_nodes_from((w, {"name": n}) for w, n in zip(self.wnids, self.names, strict=True))
        edges = zip(self.parent.tolist(), self.wnids, strict=True)
        graph.add_edges_from((self.wnids[p], child) for p, child in edges if p >= 0)
        return graph

    @classmethod
    def from_networkx(cls, graph: nx.DiGraph[Any]) -> WordTree:
        """The reverse of `to_networkx`; node order gives sibling order.

        Names are the attribute `name`, else `label` (yEd's), else the node itself.

        Raises:
            TreeError: The graph is undirected, or no forest (a node with two parents, a cycle).
        """
        if not graph.is_directed():
            raise TreeError("expected edges directed from parent to child, got an undirected graph.")
        parents: list[str | None] = []
        for node in graph:
            above = list(graph.predecessors(node))
            if len(above) > 1:
                several = f"{node!r} has {len(above)} parents ({above[0]!r}, {above[1]!r}, ...)"
                raise NodeError(len(parents), f"{several}; a tree's node has one: keep one edge.")
            parents.append(str(above[0]) if above else None)
        names = [str(data.get("name") or data.get("label") or node) for node, data in graph.nodes(data=True)]
        return cls.from_edges([str(node) for node in graph], parents, names)

    @classmethod
    def load(cls, source: str | Path) -> WordTree:
        """A built-in tree (`yolo9000`, `coco`, `voc`, `imagenet-det`, ...) or a tree file.

        Args:
            source: A built-in name, or a path: `.tree` (darknet; `.names` beside it gives the names),
                `.json`, `.graphml`, `.csv` or `.yaml`; or a model file, `.safetensors`, with its tree inside.
                `yolo9000` is stored; the other built-in trees are derived.

        Raises:
            FormatError: A file that cannot be read as a tree, with file and line.
        """
        from wordtree.formats import load_tree

        return load_tree(source)

    def save(self, path: str | Path) -> None:
        """Write the tree in the format of the file's ending; a `.tree` gets `.names` and `.labels` too."""
        from wordtree.formats import save_tree

        save_tree(self, path)


def _frozen(array: NDArray[Any]) -> Ints:
    result = np.ascontiguousarray(array, dtype=np.int32)
    if result is array:
        result = result.view()
    result.flags.writeable = False
    return result


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).replace("_", " ").strip().casefold()
