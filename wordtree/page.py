"""A tree as one web page: it folds, searches, and shows values; it holds everything and loads nothing."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordtree.colour import node_colour
from wordtree.picture import open_nodes, opened_to
from wordtree.tree import WordTree

_TEMPLATE = Path(__file__).parent / "data" / "tree.html"
_OPENED = 40  # lines that the page shows at first


def to_html(
    tree: WordTree,
    under: int | str | None = None,
    *,
    depth: int | None = None,
    values: NDArray[Any] | None = None,
    unit: str = "count",
    title: str | None = None,
) -> str:
    """A page of a tree, or of what is below one node.

    `page.html#find=dog` opens it at a node.

    Args:
        tree: The tree.
        under: Where to begin; the whole tree when left out.
        depth: Levels below the first one that are open at first; about a screen's when left out.
        values: [N] a number for each node, shown as a bar; 0 makes it faint.
        unit: What the values are: "count" or "score".
        title: Heading; by default what is shown.

    Raises:
        TreeError: No such node.
    """
    nodes = np.arange(len(tree)) if under is None else tree.subtree(under)
    place = np.full(len(tree) + 1, -1)  # the last one answers for parent −1
    place[nodes] = np.arange(len(nodes))
    top = tree.levels[0].tolist() if under is None else [tree.index(under)]
    opened = open_nodes(tree, top, _OPENED) if depth is None else opened_to(tree, top, depth)
    data = {
        "parents": place[tree.parent[nodes]].tolist(),
        "names": [tree.names[node] for node in nodes],
        "ids": [tree.wnids[node] for node in nodes],
        "glosses": _glosses(tree, nodes.tolist()),
        "colours": ["#{:02x}{:02x}{:02x}".format(*node_colour(tree, int(node))) for node in nodes],
        "values": None if values is None else np.asarray(values)[nodes].tolist(),
        "unit": None if values is None else unit,
        "opened": sorted(int(place[node]) for node in opened),
    }
    heading = title or ("WordTree" if under is None else tree.names[tree.index(under)])
    # No "<" in the data: no name can end the script that holds it.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    before, _, after = _TEMPLATE.read_text(encoding="utf-8").partition("{{data}}")
    heading = escape(heading)
    return before.replace("{{title}}", heading) + text + after.replace("{{title}}", heading)


def _glosses(tree: WordTree, nodes: list[int]) -> list[str]:
    """WordNet's definitions of the nodes that it knows."""
    from wordtree.wordnet import WordNet

    nouns = WordNet.packed()
    wnids = [tree.wnids[node] for node in nodes]
    return [nouns.gloss(nouns.index(wnid)) if wnid in nouns else "" for wnid in wnids]
