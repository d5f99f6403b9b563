"""Colours that follow the tree, so that relatives look related."""

from __future__ import annotations

import colorsys
from typing import TypeAlias

from wordtree.tree import WordTree

Colour: TypeAlias = tuple[int, int, int]

# Saturation and value: neighbours in the tree have nearly one hue, and are told apart by these.
_SHADES = ((0.8, 0.95), (0.5, 1.0), (0.8, 0.72), (0.45, 0.8))
_SPREAD = 0.618  # golden ratio: steps of this size spread evenly over the shades


def node_colour(tree: WordTree, node: int) -> Colour:
    """Colour of a node: relatives have related hues, and near ones other shades of them.

    The hue is the middle of the node's subtree in depth-first order, once around the circle.
    """
    middle = (int(tree.enter[node]) + int(tree.leave[node])) / 2
    saturation, value = _SHADES[int(node * _SPREAD % 1 * len(_SHADES))]
    red, green, blue = colorsys.hsv_to_rgb(middle / len(tree), saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)
