"""Boxes: conversions and overlaps.

The format is in the names; the unit (pixels, fractions of an image, grid cells) is the caller's. `xyxy` is
(left, top, right, bottom) with right >= left and bottom >= top; `cxcywh` is (centre x, centre y, width,
height). The last axis holds the four numbers. M and K count boxes.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Smallest union of two boxes: makes the overlap of two empty boxes 0 instead of 0 / 0.
_TINY = torch.finfo(torch.float32).tiny


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Convert [..., 4] boxes from (centre x, centre y, width, height) to corners."""
    centre, half = boxes[..., :2], 0.5 * boxes[..., 2:]
    return torch.cat((centre - half, centre + half), -1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Convert [..., 4] boxes from corners to (centre x, centre y, width, height)."""
    first, last = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((first + last) / 2, last - first), -1)


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of every pair, 0 where both boxes are empty.

    Args:
        boxes: [M, 4] xyxy.
        others: [K, 4] xyxy.

    Returns:
        [M, K] in 0..1.
    """
    return _iou(boxes[:, None], others[None])


def paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes that stand in the same place, differentiable.

    Args:
        boxes: [..., 4] xyxy.
        others: [..., 4] xyxy, of a shape that broadcasts with `boxes`.

    Returns:
        [...] in 0..1.
    """
    return _iou(boxes, others)


def paired_giou(boxes: Tensor, others: Tensor) -> Tensor:
    """Generalised IoU (arXiv 1902.09630) of boxes that stand in the same place, differentiable.

    IoU less the share of the smallest box around both that neither covers, so boxes that do not touch attract
    each other, too.

    Args:
        boxes: [..., 4] xyxy.
        others: [..., 4] xyxy, of a shape that broadcasts with `boxes`.

    Returns:
        [...] in -1..1.
    """
    shared, union = _shared_and_union(boxes, others)
    around = torch.maximum(boxes[..., 2:], others[..., 2:]) - torch.minimum(boxes[..., :2], others[..., :2])
    area = around.prod(-1).clamp(min=_TINY)
    return shared / union - (area - union) / area


def shape_iou(sizes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of every pair of box shapes laid on the same centre.

    This is how a truth is compared with the priors (paper, section 2, "Dimension Clusters"; `bias_match` in
    region_layer.c).

    Args:
        sizes: [M, 2] width and height.
        others: [K, 2] width and height in the same unit.

    Returns:
        [M, K] in 0..1, 0 where both shapes are empty.
    """
    shared = torch.minimum(sizes[:, None], others[None]).prod(-1)
    return shared / (sizes.prod(-1)[:, None] + others.prod(-1)[None] - shared).clamp(min=_TINY)


def _iou(boxes: Tensor, others: Tensor) -> Tensor:
    shared, union = _shared_and_union(boxes, others)
    return shared / union


def _shared_and_union(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    corner = torch.maximum(boxes[..., :2], others[..., :2])
    shared = (torch.minimum(boxes[..., 2:], others[..., 2:]) - corner).clamp(min=0).prod(-1)
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(-1), (others[..., 2:] - others[..., :2]).prod(-1)
    return shared, (areas[0] + areas[1] - shared).clamp(min=_TINY)
