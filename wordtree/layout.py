"""From parent ids in any order to the layout of a WordTree: parents first, siblings side by side."""

from __future__ import annotations

import re
from collections.abc import Sequence

from wordtree._checks import NodeError, check_texts
from wordtree.errors import TreeError
from wordtree.tree import WordTree


def unique_ids(names: Sequence[str]) -> list[str]:
    """Ids from names: `_` for white space, `-2`, `-3`, ... appended where two would be equal."""
    taken: set[str] = set()
    result = []
    for name in names:
        base = candidate = re.sub(r"\s+", "_", name.strip())
        number = 2
        while candidate in taken:
            candidate, number = f"{base}-{number}", number + 1
        taken.add(candidate)
        result.append(candidate)
    return result


def depth_first(children: Sequence[Sequence[int]], top: Sequence[int]) -> list[int]:
    """Nodes in layout order: a group, then the groups below its first member, below its second, ...

    Args:
        children: For each node its children, in order.
        top: The top nodes, in order.
    """
    order = list(top)
    waiting = list(reversed(top))
    while waiting:
        below = children[waiting.pop()]
        order += below
        waiting.extend(reversed(below))
    return order


def arrange(
    wnids: Sequence[str], parents: Sequence[str | None], names: Sequence[str] | None = None
) -> WordTree:
    """Build a tree from parent ids; see `WordTree.from_edges`."""
    if len(parents) != len(wnids):
        raise TreeError(f"expected one parent for each of the {len(wnids):,} ids, got {len(parents):,}.")
    texts = wnids if names is None else names
    check_texts(wnids, texts)
    position = {wnid: i for i, wnid in enumerate(wnids)}
    for node, above in enumerate(parents):
        if above is not None and above not in position:
            what = f"the parent {above!r} of {wnids[node]!r} is no node of the tree"
            raise NodeError(node, f"{what}; add it as a node, without a parent where it is a top node.")
    parent = [-1 if p is None else position[p] for p in parents]
    if _is_layout(parent):
        return WordTree(parent, wnids, texts)
    return _rearranged(parent, wnids, texts)


def _rearranged(parent: list[int], wnids: Sequence[str], names: Sequence[str]) -> WordTree:
    children: list[list[int]] = [[] for _ in wnids]
    top: list[int] = []
    for node, above in enumerate(parent):
        (top if above < 0 else children[above]).append(node)
    order = depth_first(children, top)
    if len(order) < len(wnids):
        raise _cycle(parent, set(order), wnids)
    place = [0] * len(wnids)
    for new, old in enumerate(order):
        place[old] = new
    moved = [-1 if parent[old] < 0 else place[parent[old]] for old in order]
    return WordTree(moved, [wnids[old] for old in order], [names[old] for old in order])


def _is_layout(parent: Sequence[int]) -> bool:
    closed: set[int] = set()
    last = None
    for node, above in enumerate(parent):
        if above >= node or (above != last and above in closed):
            return False
        closed.add(above)
        last = above
    return True


def _cycle(parent: Sequence[int], reached: set[int], wnids: Sequence[str]) -> NodeError:
    node = next(i for i in range(len(parent)) if i not in reached)
    seen: dict[int, None] = {}
    while node not in seen:
        seen[node] = None
        node = parent[node]
    steps = list(seen)
    loop = [*steps[steps.index(node) :], node]
    shown = " < ".join(repr(wnids[i]) for i in loop[:8]) + (" < ..." if len(loop) > 8 else "")
    problem = f"a cycle, each node the ancestor of the others: {shown}. Give one of them another parent."
    return NodeError(node, problem)
