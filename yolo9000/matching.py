"""Which anchor answers for which truth.

Letters: B images, A anchors per cell, H and W grid rows and columns, T truths (boxes) of the batch, M matched
truths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from yolo9000.boxes import cxcywh_to_xyxy, paired_iou, shape_iou
from yolo9000.decode import decode_boxes

MAX_TRUTHS = 30  # of one image that darknet's layer reads (region_layer.c, forward_region_layer)


@dataclass(frozen=True)
class Truths:
    """Boxes that a batch teaches.

    Attributes:
        boxes: [T,4] cxcywh, fractions of the network input.
        nodes: [T] tree node of every box.
        image_index: [T] image of every box.
    """

    boxes: Tensor
    nodes: Tensor
    image_index: Tensor

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, chosen: Tensor) -> Truths:
        return Truths(self.boxes[chosen], self.nodes[chosen], self.image_index[chosen])


@dataclass(frozen=True)
class Matches:
    """Truths and the anchors that answer for them, in the order of the truths, further ones first; all [M].

    Attributes:
        b: Image.
        a: Anchor of the cell.
        y: Grid row.
        x: Grid column.
        truth: Index of the truth.
        slot: Number of the anchor among all of the batch; truths can share one.
        last: Whether no later truth has the same anchor: that one sets its box and objectness.
    """

    b: Tensor
    a: Tensor
    y: Tensor
    x: Tensor
    truth: Tensor
    slot: Tensor
    last: Tensor

    def __len__(self) -> int:
        return len(self.b)

    def __getitem__(self, chosen: Tensor) -> Matches:
        fields = (self.b, self.a, self.y, self.x, self.truth, self.slot, self.last)
        return Matches(*(field[chosen] for field in fields))


def match(
    predicted: Tensor, truths: Truths, anchors: Tensor, *, by_prior: bool, also: float = 1.0
) -> Matches:
    """Give every truth the anchor of its cell whose shape overlaps its own most (paper, section 2).

    Truths without area have no anchor. A centre on or outside the border belongs to the cell at the border.
    With `also` below 1 a truth can have further anchors; they come first, so that a truth whose best anchor
    it is has the last word on it.

    Args:
        predicted: [B,A,H,W,4] cxcywh, fractions of the network input.
        truths: The truths.
        anchors: [A,2] width and height of the priors, grid cells.
        by_prior: Compare with the priors' shapes (`bias_match`), else with the predicted ones.
        also: Overlap of shapes from which the cell's other anchors answer for a truth, too.
    """
    _, count, rows, columns, _ = predicted.shape
    boxes, b = truths.boxes.to(predicted.dtype), truths.image_index
    x = (boxes[:, 0] * columns).long().clamp(0, columns - 1)
    y = (boxes[:, 1] * rows).long().clamp(0, rows - 1)
    if by_prior:
        iou = shape_iou(boxes[:, 2:], anchors.to(boxes.dtype) / boxes.new_tensor((columns, rows)))  # [T,A]
    else:
        shapes, own = predicted[b, :, y, x, 2:], boxes[:, None, 2:]  # [T,A,2], [T,1,2]
        shared = torch.minimum(shapes, own).prod(2)
        iou = shared / (shapes.prod(2) + own.prod(2) - shared)
    a = iou.argmax(1)
    truth = ((boxes[:, 2] > 0) & (boxes[:, 3] > 0)).nonzero()[:, 0]
    a = a[truth]
    if also < 1:
        further = iou[truth] >= also
        further[torch.arange(len(truth), device=truth.device), a] = False
        rank, anchor = further.nonzero().unbind(1)
        truth, a = torch.cat((truth[rank], truth)), torch.cat((anchor, a))
    b, y, x = b[truth], y[truth], x[truth]
    slot = ((b * count + a) * rows + y) * columns + x
    return Matches(b, a, y, x, truth, slot, last_of_each(slot))


def last_of_each(key: Tensor) -> Tensor:
    """Whether an element is the last with its key: [K] bool for [K] long."""
    key, order = key.sort(stable=True)
    last = torch.ones_like(key, dtype=torch.bool)
    last[:-1] = key[1:] != key[:-1]
    return torch.empty_like(last).scatter(0, order, last)


def rank_in_image(image_index: Tensor, images: int) -> Tensor:
    """Position of every truth among those of its image: [T] for [T]."""
    counts = torch.bincount(image_index, minlength=images)
    by_image, order = image_index.sort(stable=True)
    first = (counts.cumsum(0) - counts)[by_image]
    place = torch.arange(len(order), device=order.device)
    return torch.empty_like(order).scatter(0, order, place - first)


def darknet_list(truths: Truths, images: int) -> Truths:
    """The truths that the C code reads: of every image 30, and none from the first with x = 0 on."""
    rank = rank_in_image(truths.image_index, images)
    ended = truths.boxes[:, 0] == 0
    length = rank.new_full((images,), MAX_TRUTHS)
    length = length.scatter_reduce(0, truths.image_index[ended], rank[ended], "amin")
    return truths[rank < length[truths.image_index]]


def inner_cells(boxes: Tensor, grid: Sequence[int]) -> Tensor:
    """Cells whose middle lies in a box, and at least the one that the box's own middle lies in.

    Args:
        boxes: [R,4] cxcywh, fractions of the network input.
        grid: Rows H and columns W.

    Returns:
        [R,H,W] bool.
    """
    return _cells(
        boxes,
        grid,
        lambda cell, middle, side: (
            ((cell + 0.5 - middle).abs() <= side / 2) | (cell == middle.floor().clamp(0, len(cell) - 1))
        ),
    )


def touched_cells(boxes: Tensor, grid: Sequence[int]) -> Tensor:
    """Cells of which a box covers any part: [R,H,W] bool. Arguments as those of `inner_cells`."""
    return _cells(boxes, grid, lambda cell, middle, side: (cell + 0.5 - middle).abs() < (side + 1) / 2)


def _cells(boxes: Tensor, grid: Sequence[int], holds: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """Cells [R,H,W] that `holds` is true of, by row and by column: cells [H or W], middles, sides [R,1]."""
    rows, columns = (
        holds(
            torch.arange(cells, dtype=boxes.dtype, device=boxes.device),
            boxes[:, axis, None] * cells,
            boxes[:, 2 + axis, None] * cells,
        )
        for axis, cells in ((1, grid[0]), (0, grid[1]))
    )
    return rows[:, :, None] & columns[:, None, :]


def all_boxes(raw: Tensor, anchors: Tensor) -> Tensor:
    """Boxes of all anchors.

    Args:
        raw: [B,A,5,H,W] tx, ty, tw, th, to.
        anchors: [A,2] width and height in grid cells.

    Returns:
        [B,A,H,W,4] cxcywh, fractions of the network input.
    """
    grid = raw.shape[-2:]
    row, column = (torch.arange(n, device=raw.device, dtype=raw.dtype) for n in grid)
    row, column = torch.meshgrid(row, column, indexing="ij")
    return decode_boxes(raw[:, :, :4].movedim(2, -1), anchors[:, None, None].to(raw.dtype), column, row, grid)


def best_iou(predicted: Tensor, truths: Tensor, image_index: Tensor) -> Tensor:
    """The best IoU of every predicted box with any truth of its own image.

    Args:
        predicted: [B,A,H,W,4] cxcywh.
        truths: [T,4] cxcywh.
        image_index: [T] image of every truth.

    Returns:
        [B,A,H,W], 0 where the image has no truth.
    """
    if not len(truths):
        return predicted.new_zeros(predicted.shape[:-1])
    rank = rank_in_image(image_index, len(predicted))
    padded = predicted.new_zeros((len(predicted), int(rank.max()) + 1, 4))
    padded[image_index, rank] = truths.to(padded.dtype)
    boxes = cxcywh_to_xyxy(predicted.flatten(1, 3))[:, :, None]  # [B,A*H*W,1,4]
    other = cxcywh_to_xyxy(padded)[:, None]  # [B,1,most,4]
    return paired_iou(boxes, other).amax(2).view(predicted.shape[:-1])
