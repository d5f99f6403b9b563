"""What a network finds in one picture at several sizes, as one.

Boxes that overlap are one object: their mean counts, of box, objectness and class logits, each weighed by its
objectness. Like weighted boxes fusion (arXiv 1910.13302), but before anything is named: so the whole path
through the tree is that of all sizes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from yolo9000.boxes import box_iou
from yolo9000.suppress import greedy

FUSION_IOU = 0.55  # overlap from which on boxes are one object, as in weighted boxes fusion


class Clusters(NamedTuple):
    """C clusters of K boxes, highest objectness first.

    Attributes:
        member: [K] cluster of each box, −1 for none.
        share: [K] weight of each box in its cluster; they add up to 1.
        boxes: [C, 4] weighted means.
        objectness: [C] mean over the views of the highest one in each; 0 where a view has none.
    """

    member: Tensor
    share: Tensor
    boxes: Tensor
    objectness: Tensor


def cluster(boxes: Tensor, objectness: Tensor, view: Tensor, views: int, threshold: float) -> Clusters:
    """Which boxes of one picture are the same object.

    Greedy: the box of highest objectness takes all that overlap it by more than `FUSION_IOU`, then the best
    of those that are left, and so on.

    Args:
        boxes: [K, 4] xyxy.
        objectness: [K].
        view: [K] which view each is of, 0..views−1.
        views: How many there are.
        threshold: Clusters of an objectness above it are kept.
    """
    if len(boxes) == 0:
        return Clusters(view, objectness, boxes, objectness)
    order = objectness.argsort(descending=True, stable=True)
    leaders = order[greedy(boxes[order], FUSION_IOU)]
    overlap = box_iou(boxes, boxes[leaders])
    near = overlap > FUSION_IOU
    # The first, which has the highest objectness; on the edge `greedy` may have rounded otherwise.
    member = torch.where(near.any(1), near.float().argmax(1), overlap.argmax(1))
    member[leaders] = torch.arange(len(leaders), device=boxes.device)  # also of boxes without area
    best = objectness.new_zeros(len(leaders) * views)
    best.scatter_reduce_(0, member * views + view, objectness, "amax")
    mean = best.view(-1, views).sum(1) / views
    total = torch.zeros_like(mean).index_add_(0, member, objectness)
    share = objectness / total[member].clamp(min=torch.finfo(total.dtype).tiny)
    means = boxes.new_zeros(len(leaders), 4).index_add_(0, member, boxes * share[:, None])
    sorted_mean, kept = mean.sort(descending=True, stable=True)
    kept = kept[sorted_mean > threshold]
    place = torch.full_like(leaders, -1)
    place[kept] = torch.arange(len(kept), device=boxes.device)
    return Clusters(place[member], share, means[kept], mean[kept])
