"""Suppression of duplicate boxes that knows the tree.

`dog` and `animal` on one spot are one thing, `dog` and `person` are two. Greedy as everywhere (`do_nms_sort`
in darknet's box.c): boxes in order of priority, each one kept unless it overlaps a kept box whose label
conflicts with its own. Here whole blocks of boxes are decided at once; the result is that of the plain loop.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from wordtree.tree import WordTree
from yolo9000.errors import ConfigError

SuppressMode = Literal["tree", "class", "none"]

# Every level of depth makes up for this factor of score where a label meets its own ancestor. A score falls
# with every step down by the probability of the step, so without it the vaguer of two labels would always
# win.
DEPTH_FACTOR = 0.9
_BLOCK = 512  # boxes decided at a time
_PART = 128  # of them, how many are compared with all the others at a time
_PAIRS = 1 << 18  # comparisons at a time: float32 temporaries of 1 MiB stay in the second-level cache
_AREA, _ENTER, _LEAVE = 4, 5, 6  # planes after left, top, right, bottom


def suppress(
    boxes: Tensor,
    scores: Tensor,
    nodes: Tensor,
    tree: WordTree,
    iou: float = 0.45,
    mode: SuppressMode = "tree",
) -> Tensor:
    """Choose the boxes that describe different things.

    Two boxes conflict where they overlap by more than `iou` and their labels are the same or, in mode
    `"tree"`, one label is an ancestor of the other. Of two boxes with the same label the one with the higher
    score stays. Of a label and its ancestor the deeper one stays as long as its score is comparable: at least
    `DEPTH_FACTOR` (0.9) to the power of the levels between them, times the other score. So `dog` at 0.60 wins
    over `animal`, six levels up, at 0.80 (0.9^6 · 0.80 = 0.43), and `dog` at 0.30 loses. Ordering by score /
    0.9^depth gives this for all boxes at once.

    Args:
        boxes: [K, 4] xyxy, any unit.
        scores: [K].
        nodes: [K] label of each box, a node of `tree`.
        tree: The labels' tree.
        iou: Overlap above which two boxes can be the same thing (darknet: 0.45), in 0..1; at 1 every box
            stays.
        mode: `"tree"`, `"class"` (only equal labels conflict, as in darknet) or `"none"` (keep all).

    Returns:
        Indices of the kept boxes, [≤ K] long, highest score first.

    Raises:
        ConfigError: `mode` is none of the three, or `iou` is not in 0..1.
    """
    if mode not in get_args(SuppressMode):
        raise ConfigError(f"suppression mode is one of {', '.join(get_args(SuppressMode))}; got {mode!r}")
    if not 0 <= iou <= 1:
        raise ConfigError(f"the overlap for suppression is a fraction in 0..1; got {iou}")
    if mode == "none" or len(boxes) == 0:
        return scores.argsort(descending=True, stable=True)
    nodes = nodes.long()
    enter, leave, depth = _label_intervals(tree, mode, nodes)
    order = (scores.double() / DEPTH_FACTOR ** depth.double()).argsort(descending=True, stable=True)
    kept = order[_greedy(_planes(boxes, enter, leave)[:, order], iou)]
    return kept[scores[kept].argsort(descending=True, stable=True)]


def greedy(boxes: Tensor, iou: float) -> Tensor:
    """Indices of the boxes [K, 4] xyxy, in order of priority, that overlap none before them by `iou`."""
    if len(boxes) == 0:
        return torch.zeros(0, dtype=torch.long, device=boxes.device)
    same = boxes.new_zeros(len(boxes), dtype=torch.float32)
    return _greedy(_planes(boxes, same, same + 1), iou)


def _planes(boxes: Tensor, enter: Tensor, leave: Tensor) -> Tensor:
    """[7, K] what `_greedy` works with."""
    left, top, right, bottom = boxes.float().unbind(1)
    return torch.stack((left, top, right, bottom, (right - left) * (bottom - top), enter, leave))


def _greedy(planes: Tensor, iou: float) -> Tensor:
    """Indices of the boxes that greedy suppression keeps; `planes` [7, K] in order of priority."""
    kept, rest = [], torch.arange(planes.shape[1], device=planes.device)
    while len(rest):
        block, rest = rest[:_BLOCK], rest[_BLOCK:]
        block = block[_greedy_block(planes[:, block], iou)]
        kept.append(block)
        # By label: each part of what was kept meets only the boxes with labels in its stretch of the tree.
        by_label = block[planes[_ENTER, block].argsort()]
        for above in torch.split(by_label, _PART) if len(rest) else ():
            begin, end = planes[_ENTER, above[0]], planes[_LEAVE, above].max()
            near = (planes[_ENTER, rest] < end) & (planes[_LEAVE, rest] > begin)
            suppressed = [
                _conflicts(planes[:, above], planes[:, boxes], iou).any(0)
                for boxes in torch.split(rest[near], _PAIRS // len(above))
            ]
            rest = rest[~near.masked_scatter(near, torch.cat(suppressed))]
    return torch.cat(kept)


def _greedy_block(planes: Tensor, iou: float) -> Tensor:
    """[K] bool: greedy suppression of one block as a fixed point.

    Start with all kept, and again and again keep those that no kept box of higher priority conflicts with.
    After n rounds the first n boxes are final, in practice all of them after a few, and what no longer
    changes is the greedy result.
    """
    above = _conflicts(planes, planes, iou).triu_(diagonal=1).float()
    kept = above.new_ones(len(above))
    while True:
        again = (kept @ above == 0).float()
        if torch.equal(again, kept):
            return kept.bool()
        kept = again


def _conflicts(some: Tensor, others: Tensor, iou: float) -> Tensor:
    """[M, K] bool: which boxes overlap by more than `iou` and have related labels.

    Args:
        some: [7, M] left, top, right, bottom, area, and the interval of the label: labels are related exactly
            where their intervals overlap. Contiguous rows, or the arithmetic below is 20 times slower.
        others: [7, K].
        iou: Intersection over union.
    """
    left, top, right, bottom, area, enter, leave = some.unsqueeze(2).unbind(0)
    shared = torch.minimum(right, others[2]).sub_(torch.maximum(left, others[0])).clamp_(min=0)
    # One clamp is enough: a negative height makes the product negative, which is never above the limit.
    shared *= torch.minimum(bottom, others[3]).sub_(torch.maximum(top, others[1]))
    # shared / union > iou without the division: shared * (1 + iou) > iou * (area + area)
    overlap = shared.mul_(1 + iou) > iou * area + iou * others[_AREA]
    return overlap.bitwise_and_(torch.minimum(leave, others[_LEAVE]) > torch.maximum(enter, others[_ENTER]))


def _label_intervals(tree: WordTree, mode: SuppressMode, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Intervals that overlap exactly where labels conflict, and the depth that counts for priority; [K]."""
    if mode == "class":
        return nodes.float(), nodes.float() + 1, torch.zeros_like(nodes)
    tables = (np.asarray(values, dtype=np.float32) for values in (tree.enter, tree.leave, tree.depth))
    enter, leave, depth = (torch.from_numpy(table).to(nodes.device)[nodes] for table in tables)
    return enter, leave, depth
