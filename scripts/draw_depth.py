"""Draw docs/images/depth.svg: where the walk down the tree stops, by each rule, on one example.

The path is that of the published tree; the probabilities are an example. The labels are chosen by the code
that detection runs.

    python scripts/draw_depth.py
"""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np

from wordtree.colour import node_colour
from wordtree.tree import WordTree
from yolo9000.labelling import Candidates, Labelling, labels

TARGET = Path(__file__).resolve().parents[1] / "docs" / "images" / "depth.svg"
LEAF = "Siberian husky"
UNSURE = {
    "mammal": 0.97,
    "carnivore": 0.95,
    "canine": 0.93,
    "dog": 0.94,
    "working dog": 0.6,
    "sled dog": 0.75,
}
SURE, BREED = 0.99, 0.6  # of all other steps; of the leaf
RULES = {
    "--hier-threshold 0.8": Labelling(hier_threshold=0.8),
    "--hier-threshold 0.5 (default)": Labelling(),
    "--hier-threshold 0.3": Labelling(hier_threshold=0.3),
    "--depth 4": Labelling(depth=4),
    "--leaves": Labelling(leaves=True),
}
LIMITS = (0.8, 0.5, 0.3)
ROW, TOP, LEFT, BAR, NOTES = (
    26,
    70,
    170,
    300,
    560,
)  # pixels: height of a step, header, and where columns begin
WIDTH = 900


def example(tree: WordTree) -> Candidates:
    """One candidate: the path to the leaf with its probabilities."""
    path = tree.path(LEAF)
    steps = [BREED if tree.names[node] == LEAF else UNSURE.get(tree.names[node], SURE) for node in path]
    return Candidates(
        boxes=np.array([[0, 0, 1, 1]], np.float32),
        objectness=np.ones(1, np.float32),
        paths=np.array([path], np.int64),
        path_probs=np.array([steps], np.float32),
    )


def draw() -> str:
    """The picture as SVG."""
    tree = WordTree.load("yolo9000")
    found = example(tree)
    absolute = np.cumprod(found.path_probs[0].astype(float))
    stops: dict[int, list[str]] = {}
    for option, rule in RULES.items():
        stops.setdefault(int(labels(found, rule, tree)[0][0]), []).append(option)
    height = TOP + ROW * len(absolute) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
        f' viewBox="0 0 {WIDTH} {height}"'
        ' font-family="Helvetica, Arial, sans-serif" font-size="14" fill="#1c1c1c">',
        '<rect width="100%" height="100%" fill="white"/>',
        _text(14, 28, "the likeliest path, from the top of the tree to a leaf", weight="bold"),
        _text(LEFT, 54, "probability of the node", fill="#767676"),
        _text(NOTES, 54, "label with this option", fill="#767676"),
    ]
    for limit in LIMITS:
        x = LEFT + BAR * limit
        parts.append(f'<path d="M{x:.1f} {TOP - 4}V{height - 16}" stroke="#b9b9b9" stroke-dasharray="4 4"/>')
        parts.append(_text(x, height - 4, f"{limit:g}", fill="#767676", anchor="middle"))
    for step, node in enumerate(found.paths[0].tolist()):
        parts += _step(
            tree, node, step, float(found.path_probs[0, step]), float(absolute[step]), stops.get(node, [])
        )
    return "\n".join([*parts, "</svg>\n"])


def _step(
    tree: WordTree, node: int, step: int, given: float, absolute: float, options: list[str]
) -> list[str]:
    middle = TOP + ROW * step + ROW / 2
    colour = "#{:02x}{:02x}{:02x}".format(*node_colour(tree, node))
    weight = "bold" if options else "normal"
    parts = [
        _text(14, middle + 5, tree.names[node], weight=weight),
        f'<rect x="{LEFT}" y="{middle - 8}" width="{BAR * absolute:.1f}" height="16" fill="{colour}"'
        ' opacity="0.75"/>',
        _text(LEFT + 6, middle + 5, f"{absolute:.2f}"),
        _text(LEFT + BAR * absolute + 6, middle + 5, f"× {given:.2f}", fill="#767676", size=11),
    ]
    if options:
        parts.append(f'<path d="M{LEFT + BAR * absolute + 46:.1f} {middle}H{NOTES - 8}" stroke="#1c1c1c"/>')
        parts.append(_text(NOTES, middle + 5, ",  ".join(options), family="monospace", size=13))
    return parts


def _text(
    x: float,
    y: float,
    text: str,
    *,
    fill: str = "#1c1c1c",
    weight: str = "normal",
    anchor: str = "start",
    size: int = 14,
    family: str = "",
) -> str:
    extra = f' font-family="{family}"' if family else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}" font-weight="{weight}" text-anchor="{anchor}"'
        f' font-size="{size}"{extra}>{escape(text)}</text>'
    )


if __name__ == "__main__":
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(draw(), encoding="utf-8")
    print(TARGET)
