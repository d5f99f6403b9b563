"""Trees, paths and figures for the terminal, as rich renderables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from wordtree.builder import Build
from wordtree.tree import WordTree

_INNER, _LEAF, _TARGET, _FAINT, _COUNT = "bold", "green", "bold magenta", "dim", "cyan"
_BAR = 32  # characters of the longest bar of a histogram
_GROUPS_SHOWN = 8  # rows of the table of widest groups
_PATH_SHOWN = 4  # ancestors named in a table row; deeper ones are cut at the top
_WORDS_SHOWN = 2  # synonyms in a table row
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def drawing(tree: WordTree, node: int | str | None = None, *, depth: int = 2, width: int = 12) -> Tree:
    """A subtree as branches.

    Args:
        tree: The tree.
        node: Where to begin; the top group when left out.
        depth: Levels below the first one to show.
        width: Most children to show of one node.
    """
    if node is None:
        whole = f"{len(tree):,} {_plural('node', len(tree))}, {_leaves(int(tree.is_leaf.sum()))}"
        root = Tree(Text(whole, _FAINT), guide_style=_FAINT)
        below: Iterable[int] = tree.levels[0].tolist()
    else:
        index = tree.index(node)
        root = Tree(_label(tree, index), guide_style=_FAINT)
        below = tree.children(index).tolist()
    _grow(root, tree, list(below), depth - (node is None), width)
    return root


def _grow(branch: Tree, tree: WordTree, nodes: Sequence[int], depth: int, width: int) -> None:
    """Add nodes below a branch, and `depth` levels below them."""
    shown = nodes if len(nodes) <= width else nodes[: max(width - 1, 0)]
    for node in shown:
        twig = branch.add(_label(tree, node))
        children = tree.children(node).tolist()
        if depth > 0 and children:
            _grow(twig, tree, children, depth - 1, width)
    if hidden := nodes[len(shown) :]:
        count = int(sum(_leaf_count(tree, node) for node in hidden))
        branch.add(Text(f"... {len(hidden):,} more, {_leaves(count)}", _FAINT))


def path_table(tree: WordTree, node: int | str) -> Table:
    """The way from the top to a node: each step with the size of its sibling group and WordNet's gloss."""
    table = _table("depth", "", "id", "among", "gloss")
    table.columns[0].justify = table.columns[3].justify = "right"
    path = tree.path(node)
    for depth, index in enumerate(path):
        stem = "" if depth == 0 else "  " * (depth - 1) + "└─ "
        last = index == path[-1]
        name = Text.assemble(
            (stem, _FAINT), (tree.names[index], _TARGET if last else _name_style(tree, index))
        )
        siblings = f"{tree.group_size[tree.group[index]]:,}"
        table.add_row(str(depth), name, _id(tree, index), Text(siblings, _COUNT), _gloss(tree, index))
    return table


def found_table(tree: WordTree, nodes: Sequence[int], query: str = "") -> Table:
    """Nodes that a search found: name, id, leaves below, WordNet's other words for it, and the way to it."""
    table = _table("node", "id", "leaves", "also called", "below")
    table.columns[2].justify = "right"
    for node in nodes:
        name = Text(tree.names[node], _name_style(tree, node))
        words = Text(_other_words(tree, node, query), _FAINT)
        if query.strip():
            for text in (name, words):
                text.highlight_regex(f"(?i){re.escape(query.strip().replace('_', ' '))}", _TARGET)
        leaves = "leaf" if tree.is_leaf[node] else f"{_leaf_count(tree, node):,}"
        table.add_row(name, _id(tree, node), Text(leaves, _COUNT), words, _way(tree, node))
    return table


def _other_words(tree: WordTree, node: int, query: str) -> str:
    """WordNet's further words for a node, those like the query first, as many as fit a table."""
    from wordtree.wordnet import WordNet

    nouns = WordNet.packed()
    if tree.wnids[node] not in nouns:
        return ""
    words = [word for word in nouns.words(nouns.index(tree.wnids[node])) if word != tree.names[node]]
    words.sort(key=lambda word: query.strip().casefold() not in word.casefold())
    return ", ".join(words[:_WORDS_SHOWN])


def stats(tree: WordTree) -> RenderableType:
    """Counts, nodes by depth as bars, and the widest sibling groups."""
    return Group(_totals(tree), "", _depths(tree), "", _widest(tree))


def report(build: Build) -> Table:
    """What a derivation gave."""
    tree = build.tree
    table = _grid()
    share = 100 * build.by_rules / len(tree)
    for name, value, note in (
        ("classes", len(build.classes), ""),
        ("nodes", len(tree), ""),
        ("leaves", int(tree.is_leaf.sum()), ""),
        ("sibling groups", len(tree.group_start), f"the widest has {int(tree.group_size.max()):,}"),
        (
            "depth",
            tree.max_depth,
            f"{len(tree.levels[0]):,} at the top, depth 0",
        ),
        ("parents from the rules", build.by_rules, f"{share:.2f} %"),
        (
            "parents from choices",
            build.by_choice,
            f"by {len(build.choices)} choices" if build.choices else "",
        ),
    ):
        table.add_row(name, Text(f"{value:,}", _COUNT), Text(note, _FAINT))
    return table


def added(base: WordTree | None, tree: WordTree) -> RenderableType:
    """What a tree of one's own holds, or added to a base."""
    if base is None:
        return _totals(tree)
    new = [node for node, wnid in enumerate(tree.wnids) if base.node_of(wnid) is None]
    own = set(new)
    tops = [node for node in new if tree.parent[node] < 0 or tree.parent[node] not in own]
    table = _grid()
    for node in tops[:_GROUPS_SHOWN]:
        table.add_row("+", Text(tree.names[node], _INNER), _way(tree, node))
    if len(tops) > _GROUPS_SHOWN:
        table.add_row("", Text(f"and {len(tops) - _GROUPS_SHOWN:,} more", _FAINT), "")
    return Group(Text(f"{len(new):,} {_plural('node', len(new))} of your own", _COUNT), table)


def _totals(tree: WordTree) -> Table:
    table = _grid()
    leaves = int(tree.is_leaf.sum())
    names = ", ".join(tree.names[node] for node in tree.levels[0][:_PATH_SHOWN])
    more = ", ..." if len(tree.levels[0]) > _PATH_SHOWN else ""
    for name, value, note in (
        ("nodes", len(tree), ""),
        ("leaves", leaves, f"{100 * leaves / len(tree):.1f} %"),
        ("inner nodes", len(tree) - leaves, ""),
        ("sibling groups", len(tree.group_start), f"{tree.group_size.mean():.1f} nodes each on average"),
        ("top nodes", len(tree.levels[0]), names + more),
        ("depth", tree.max_depth, f"{tree.depth[tree.is_leaf].mean():.1f} at an average leaf"),
    ):
        table.add_row(name, Text(f"{value:,}", _COUNT), Text(note, _FAINT))
    return table


def _depths(tree: WordTree) -> Table:
    table = _table("depth", "nodes", "leaves", "")
    for column in table.columns[:3]:
        column.justify = "right"
    nodes = np.bincount(tree.depth)
    leaves = np.bincount(tree.depth[tree.is_leaf], minlength=len(nodes))
    scale = _BAR / int(nodes.max())
    for depth, (count, ends) in enumerate(zip(nodes.tolist(), leaves.tolist(), strict=True)):
        solid = round(ends * scale)  # whole characters, so that no gap shows between the two parts
        bar = Text.assemble((_bar(solid), _LEAF), (_bar(count * scale - solid), _COUNT))
        table.add_row(str(depth), f"{count:,}", f"{ends:,}", bar)
    table.columns[3].header = Text.assemble(("█ leaves  ", _LEAF), ("█ inner nodes", _COUNT))
    return table


def _bar(length: float) -> str:
    whole, eighths = divmod(max(round(length * 8), 0), 8)
    return "█" * whole + _EIGHTHS[eighths].strip()


def _widest(tree: WordTree) -> Table:
    table = _table("widest groups", "id", "nodes", "below")
    table.columns[2].justify = "right"
    for group in np.argsort(-tree.group_size, kind="stable")[:_GROUPS_SHOWN].tolist():
        parent = int(tree.group_parent[group])
        size = Text(f"{tree.group_size[group]:,}", _COUNT)
        if parent < 0:
            table.add_row(Text("(top)", _FAINT), "", size, "")
        else:
            table.add_row(Text(tree.names[parent], _INNER), _id(tree, parent), size, _way(tree, parent))
    return table


def _label(tree: WordTree, node: int) -> Text:
    label = Text.assemble((tree.names[node], _name_style(tree, node)), "  ", _id(tree, node))
    if not tree.is_leaf[node]:
        label.append(f"  {_leaves(_leaf_count(tree, node))}", _COUNT)
    return label


def _way(tree: WordTree, node: int) -> Text:
    names = [tree.names[above] for above in tree.path(node)[:-1]]
    cut = ["...", *names[-_PATH_SHOWN:]] if len(names) > _PATH_SHOWN else names
    return Text(" > ".join(cut), _FAINT)


def _id(tree: WordTree, node: int) -> Text:
    return Text(tree.wnids[node] if tree.wnids[node] != tree.names[node] else "", _FAINT)


def _name_style(tree: WordTree, node: int) -> str:
    return _LEAF if tree.is_leaf[node] else _INNER


def _leaf_count(tree: WordTree, node: int) -> int:
    return len(tree.leaves(node))


def _leaves(count: int) -> str:
    return f"{count:,} {_plural('leaf', count)}"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else {"leaf": "leaves"}.get(word, f"{word}s")


def _gloss(tree: WordTree, node: int) -> Text:
    return Text(_wordnet_gloss(tree.wnids[node]), _FAINT, overflow="ellipsis", no_wrap=True)


@cache
def _wordnet_gloss(wnid: str) -> str:
    from wordtree.wordnet import WordNet

    nouns = WordNet.packed()
    return nouns.gloss(nouns.index(wnid)) if wnid in nouns else ""


def _table(*headers: str) -> Table:
    table = Table(box=None, header_style=_FAINT, pad_edge=False, padding=(0, 2, 0, 0))
    for header in headers:
        table.add_column(header, no_wrap=header in ("", "depth", "node", "id", "among"))
    return table


def _grid() -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    return table
