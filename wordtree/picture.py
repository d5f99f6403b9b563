"""A tree as a picture, top nodes left and leaves right: SVG to zoom into and print, PNG to paste.

Large trees are folded: the largest subtrees are opened first, as many as the picture has lines for, and a
folded node says how much is below it. `wordtree.page` makes a page in which everything can be opened.
"""

from __future__ import annotations

import heapq
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordtree.colour import Colour, node_colour
from wordtree.errors import TreeError
from wordtree.font import font_for
from wordtree.tree import WordTree

LINES = 150  # of a picture, unless another number is asked for: about three screens
_LINE, _FONT = 20, 13  # pixels: height of a line, of its letters
_MARGIN, _GAP, _DOT = 16, 44, 4  # pixels: around everything, between columns, radius of a node
_WIDER = 1.12  # browsers' sans serif letters compared with those that are measured here
_SCALE = 2  # pixels of a PNG for one of the layout: sharp on dense screens
MAX_PIXELS = 120_000_000  # of a PNG; more takes gigabytes to draw
_INK, _FAINT, _LINK = "#1c1c1c", "#767676", "#b9b9b9"


@dataclass(frozen=True)
class Placed:
    """A node in a picture.

    Attributes:
        node: Its index.
        x, y: Where its dot is, pixels.
        end: Where its text ends, pixels.
        parent: Position of its parent in the list of placed nodes, −1 without one.
        note: What stands behind the name: what is folded below, a value.
        faint: Whether it has no value where others have.
        folded: Whether something is below it that is not shown.
    """

    node: int
    x: float
    y: float
    end: float
    parent: int
    note: str
    faint: bool
    folded: bool


@dataclass(frozen=True)
class Picture:
    """A tree laid out.

    Attributes:
        tree: The tree.
        nodes: What is shown, parents before their children.
        width, height: Pixels.
    """

    tree: WordTree
    nodes: Sequence[Placed]
    width: float
    height: float


def lay_out(
    tree: WordTree,
    under: int | str | None = None,
    *,
    depth: int | None = None,
    lines: int = LINES,
    values: NDArray[Any] | None = None,
) -> Picture:
    """Place a tree, or what is below one node.

    Args:
        tree: The tree.
        under: Where to begin; the whole tree when left out.
        depth: Levels below the first one to open; as many as fit when left out.
        lines: The picture's height in lines of text; with `depth` there is no limit.
        values: [N] a number for each node, such as counts, written behind the name; 0 makes it faint.

    Raises:
        TreeError: No such node, or a number below what makes sense.
    """
    if lines < 1 or (depth is not None and depth < 0):
        raise TreeError(f"expected at least one line and a depth from 0, got {lines} and {depth}.")
    top = tree.levels[0].tolist() if under is None else [tree.index(under)]
    opened = opened_to(tree, top, depth) if depth is not None else open_nodes(tree, top, lines)
    order, parents, rows = _walk(tree, top, opened)
    notes = [_note(tree, node, node in opened, values) for node in order]
    base = int(tree.depth[top[0]])
    columns = _columns([int(tree.depth[node]) - base for node in order], tree, order, notes)
    placed = [
        Placed(
            node=node,
            x=columns[int(tree.depth[node]) - base],
            y=_MARGIN + (rows[k] + 0.5) * _LINE,
            end=columns[int(tree.depth[node]) - base] + 2 * _DOT + _text_width(tree.names[node], notes[k]),
            parent=parents[k],
            note=notes[k],
            faint=values is not None and not values[node],
            folded=node not in opened and not tree.is_leaf[node],
        )
        for k, node in enumerate(order)
    ]
    return Picture(tree, placed, columns[-1] + _MARGIN, 2 * _MARGIN + (max(rows) + 1) * _LINE)


def opened_to(tree: WordTree, top: Sequence[int], depth: int) -> set[int]:
    """Open all nodes of so many levels."""
    limit = int(tree.depth[top[0]]) + depth
    nodes = [tree.subtree(node) for node in top]
    return {
        int(node) for part in nodes for node in part if not tree.is_leaf[node] and tree.depth[node] < limit
    }


def open_nodes(tree: WordTree, top: Sequence[int], lines: int) -> set[int]:
    """Open the node with the most below it, again and again, while the lines suffice."""
    opened: set[int] = set()
    room = lines - len(top)
    waiting = [(-int(tree.subtree_size[node]), node) for node in top if not tree.is_leaf[node]]
    heapq.heapify(waiting)
    while waiting:
        _, node = heapq.heappop(waiting)
        children = tree.children(node).tolist()
        if len(children) - 1 > room:
            continue
        room -= len(children) - 1  # the node's own line becomes that of one child
        opened.add(node)
        for child in children:
            if not tree.is_leaf[child]:
                heapq.heappush(waiting, (-int(tree.subtree_size[child]), child))
    return opened


def _walk(tree: WordTree, top: Sequence[int], opened: set[int]) -> tuple[list[int], list[int], list[float]]:
    """Nodes depth-first, the position of each one's parent, and the line each stands in."""
    order: list[int] = []
    parents: list[int] = []
    waiting = [(node, -1) for node in reversed(top)]
    while waiting:
        node, parent = waiting.pop()
        order.append(node)
        parents.append(parent)
        if node in opened:
            waiting += [(child, len(order) - 1) for child in reversed(tree.children(node).tolist())]
    rows = [0.0] * len(order)
    ends: dict[int, list[float]] = {}
    line = sum(node not in opened for node in order)
    for k in range(len(order) - 1, -1, -1):  # children before their parents, the last line first
        if order[k] in opened:
            rows[k] = (min(ends[k]) + max(ends[k])) / 2
        else:
            line -= 1
            rows[k] = float(line)
        ends.setdefault(parents[k], []).append(rows[k])
    return order, parents, rows


def _columns(
    depths: Sequence[int], tree: WordTree, order: Sequence[int], notes: Sequence[str]
) -> list[float]:
    """Left edge of each depth's column, and the right edge of the last one."""
    widths = np.zeros(max(depths) + 1)
    for depth, node, note in zip(depths, order, notes, strict=True):
        widths[depth] = max(widths[depth], _text_width(tree.names[node], note))
    edges = _MARGIN + _DOT + np.concatenate(([0.0], np.cumsum(widths + _GAP)))
    return [float(edge) for edge in edges]


def _text_width(name: str, note: str) -> float:
    return float(font_for(name, _FONT).getlength(f"{name} {note}".rstrip())) * _WIDER


def _note(tree: WordTree, node: int, is_open: bool, values: NDArray[Any] | None) -> str:
    parts = []
    if values is not None and values[node]:
        value = values[node]
        parts.append(f"{value:.2f}" if np.issubdtype(values.dtype, np.floating) else f"{value:,}")
    if not is_open and not tree.is_leaf[node]:
        parts.append(f"+{int(tree.subtree_size[node]) - 1:,}")
    return "  ".join(parts)


# ------------------------------------------------------------------------------------------ forms


def to_svg(picture: Picture) -> str:
    """The picture as SVG; nodes show their id when they are pointed at."""
    links, dots = [], []
    for item in picture.nodes:
        if item.parent >= 0:
            start = picture.nodes[item.parent]
            links.append(f'<path d="{_curve(start, item)}"/>')
        dots.append(_svg_node(picture.tree, item))
    size = f'width="{picture.width:.0f}" height="{picture.height:.0f}"'
    box = f'viewBox="0 0 {picture.width:.0f} {picture.height:.0f}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {box} font-family="Helvetica, Arial, sans-serif"'
            f' font-size="{_FONT}">',
            '<rect width="100%" height="100%" fill="white"/>',
            f'<g fill="none" stroke="{_LINK}">',
            *links,
            "</g>",
            *dots,
            "</svg>\n",
        ]
    )


def _curve(start: Placed, end: Placed) -> str:
    middle = end.x - _GAP / 2 - _DOT
    begin = middle - _GAP / 2
    return (
        f"M{min(start.end, begin):.0f} {start.y:.0f}H{begin:.0f}"
        f"C{middle:.0f} {start.y:.0f} {middle:.0f} {end.y:.0f} {end.x:.0f} {end.y:.0f}"
    )


def _svg_node(tree: WordTree, item: Placed) -> str:
    colour = "#{:02x}{:02x}{:02x}".format(*node_colour(tree, item.node))
    fill = colour if item.folded or tree.is_leaf[item.node] else "white"
    name = escape(tree.names[item.node])
    note = f' <tspan fill="{_FAINT}" font-size="{_FONT - 2}">{escape(item.note)}</tspan>' if item.note else ""
    weight = ' font-weight="bold"' if item.folded else ""
    circle = f'<circle cx="{item.x:.0f}" cy="{item.y:.0f}" r="{_DOT}"'
    return (
        f"<g><title>{escape(tree.wnids[item.node])}</title>"
        f'{circle} fill="{fill}" stroke="{colour}" stroke-width="2"/>'
        f'<text x="{item.x + 2 * _DOT:.0f}" y="{item.y + _FONT * 0.35:.1f}"'
        f' fill="{_FAINT if item.faint else _INK}" stroke="white" stroke-width="4" paint-order="stroke"'
        f"{weight}>{name}{note}</text></g>"
    )


def to_png(picture: Picture) -> bytes:
    """The picture as PNG, two pixels for each of the SVG.

    Raises:
        TreeError: It would be too large to draw.
    """
    from PIL import Image, ImageDraw

    width, height = (round(side * _SCALE) for side in (picture.width, picture.height))
    if width * height > MAX_PIXELS:
        raise TreeError(
            f"a PNG of {width:,} × {height:,} pixels would be too large: use .svg or .html, or show less "
            "(--under, --depth, --lines)."
        )
    canvas = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(canvas)
    for item in picture.nodes:
        if item.parent >= 0:
            pen.line(_polyline(picture.nodes[item.parent], item), fill=_LINK, width=_SCALE, joint="curve")
    for item in picture.nodes:
        _draw_node(pen, picture.tree, item)
    data = io.BytesIO()
    canvas.save(data, "PNG")
    return data.getvalue()


def _polyline(start: Placed, end: Placed, pieces: int = 16) -> list[tuple[float, float]]:
    """The curve of `_curve`, a Bézier's, in straight pieces."""
    middle = end.x - _GAP / 2 - _DOT
    points = ((middle - _GAP / 2, start.y), (middle, start.y), (middle, end.y), (end.x, end.y))
    result = [(min(start.end, points[0][0]) * _SCALE, start.y * _SCALE)]
    for t in np.linspace(0, 1, pieces + 1):
        weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
        x, y = (sum(w * point[axis] for w, point in zip(weights, points, strict=True)) for axis in (0, 1))
        result.append((float(x) * _SCALE, float(y) * _SCALE))
    return result


def _draw_node(pen: Any, tree: WordTree, item: Placed) -> None:
    colour: Colour = node_colour(tree, item.node)
    halo = {"stroke_width": 2 * _SCALE, "stroke_fill": "white"}
    x, y, radius = item.x * _SCALE, item.y * _SCALE, _DOT * _SCALE
    fill = colour if item.folded or tree.is_leaf[item.node] else "white"
    name = tree.names[item.node]
    font, small = font_for(name, _FONT * _SCALE), font_for(item.note, (_FONT - 2) * _SCALE)
    left = x + 2 * radius
    ink = _FAINT if item.faint else _INK
    pen.text((left, y), name, fill=ink, font=font, anchor="lm", **halo)
    if item.folded:
        pen.text((left, y), name, fill=ink, font=font, anchor="lm", stroke_width=0.6, stroke_fill=ink)
    if item.note:
        behind = left + font.getlength(name + " ")
        pen.text((behind, y), item.note, fill=_FAINT, font=small, anchor="lm", **halo)
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill, outline=colour, width=2 * _SCALE)
