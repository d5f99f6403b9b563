"""What is exported: images in, a fixed number of anchors out, or the whole output of the last convolution.

Letters: B batch, A anchors per cell, D feature channels, H and W grid, N tree nodes, L levels, k anchors kept
of each prior, M = A · k.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolo9000.decode import decode_boxes
from yolo9000.head import RegionHead
from yolo9000.network import Network


class DenseGraph(nn.Module):
    """The output of the last convolution, as darknet computes it.

    Args:
        network: A detector in evaluation mode; fused runs faster.
    """

    outputs = ("region",)

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, h, w] RGB in 0..1 to [B, A · (5 + N), H, W], raw."""
        return self.network(images)  # type: ignore[no-any-return]


class GatedGraph(nn.Module):
    """The anchors of highest objectness with their classes, in shapes that do not depend on the picture.

    Of each prior's H · W anchors the k best are kept, so one matrix product a prior gives their classes. That
    costs as much as the best k of all priors together would, whose rows of the class weights would have to be
    chosen by prior, and keeps at least those.

    Args:
        network: A detector in evaluation mode; fused runs faster.
        per_prior: k.
        pad: Allow grids of fewer than k cells: the rest is filled with anchors of objectness 0.
    """

    def __init__(self, network: Network, per_prior: int, *, pad: bool = False) -> None:
        super().__init__()
        assert network.head is not None
        self.network = network
        self.per_prior = per_prior
        self.pad = pad
        self.walks = network.head.ops.groups > 1 or network.head.region.tree is not None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what `forward` returns."""
        return ("boxes", "objectness", "logits", *(("paths", "path_probs") if self.walks else ()))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the network and keep k anchors of each prior.

        Args:
            images: [B, 3, h, w] RGB in 0..1.

        Returns:
            Boxes [B, M, 4] (cxcywh, fractions of the network input), objectness [B, M], class logits
            [B, M, N]; with a tree also the likeliest path to a leaf [B, M, L] and its steps' probabilities
            [B, M, L], see `yolo9000.decode.Kept`.
        """
        head = self.network.head
        assert head is not None
        features = self.network.features(images)
        raw = head.boxes(features)
        objectness = raw[:, :, 4].sigmoid().flatten(2)  # [B, A, H·W]
        if self.pad:
            objectness = F.pad(objectness, (0, self.per_prior))
        kept, cell = objectness.topk(self.per_prior, dim=2)  # [B, A, k]
        if self.pad:
            cell = cell.clamp(max=features.shape[2] * features.shape[3] - 1)
        boxes = _boxes(head, raw).gather(2, cell[..., None].expand(-1, -1, -1, 4))
        logits = _class_logits(head, features, cell)
        found = (boxes.flatten(1, 2), kept.flatten(1, 2), logits)
        if not self.walks:
            return found
        paths, log_probs = head.ops.descend(logits.flatten(0, 1))
        shape = (-1, logits.shape[1], head.ops.levels)
        return *found, paths.reshape(shape), log_probs.exp().reshape(shape)


def _boxes(head: RegionHead, raw: Tensor) -> Tensor:
    """[B, A, H·W, 4] of all anchors, from the raw output [B, A, 5, H, W]."""
    height, width = raw.shape[3], raw.shape[4]
    row = torch.arange(height, device=raw.device)[:, None].expand(-1, width)
    column = torch.arange(width, device=raw.device).expand(height, -1)
    numbers = raw[:, :, :4].permute(0, 1, 3, 4, 2)
    return decode_boxes(numbers, head.anchors[:, None, None], column, row, (height, width)).flatten(2, 3)


def _class_logits(head: RegionHead, features: Tensor, cell: Tensor) -> Tensor:
    """[B, A · k, N] of the cells [B, A, k]: each prior's cells by its own class rows."""
    vectors = features.flatten(2).transpose(1, 2)  # [B, H·W, D]
    places = cell.flatten(1)[..., None].expand(-1, -1, vectors.shape[2])
    kept = vectors.gather(1, places)  # [B, A · k, D]
    if head.tied:
        return kept @ head.class_weight[0].t() + head.class_bias[0]
    by_prior = kept.reshape(-1, *cell.shape[1:], vectors.shape[2])
    logits: Tensor = by_prior @ head.class_weight.transpose(1, 2) + head.class_bias[:, None]
    return logits.flatten(1, 2)
