"""What a batch teaches a network: tasks, from images to named loss terms.

Letters: B images of a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolo9000.config import TrainConfig
from yolo9000.datasets import Batch
from yolo9000.distill import Imitation, Teachers, tree_divergence
from yolo9000.errors import ConfigError
from yolo9000.loss import JointLoss
from yolo9000.network import Network
from yolo9000.prepare import input_sizes


class JointTask(nn.Module):
    """Boxes, objectness and class paths from detection images; class paths from classification images."""

    def __init__(self, network: Network, config: TrainConfig) -> None:
        super().__init__()
        if network.head is None or network.region is None:
            raise ConfigError(
                f"{config.model} has no [region] layer, so it has no boxes to train; name a detector's cfg, "
                "or use train-classifier"
            )
        self.network = network
        self.loss = JointLoss(network.head, network.region, config.loss)
        self.imitation: Imitation | None = None
        if config.teachers:
            teachers = Teachers(config.teachers, network)
            teachers.check_maps(network, input_sizes(config, network))
            self.imitation = Imitation(teachers, self.loss, config.loss.teacher_scale)

    @property
    def weights(self) -> dict[str, float]:
        """Weight of every loss term."""
        return self.loss.weights | ({} if self.imitation is None else self.imitation.weights)

    def forward(self, batch: Batch, seen: int) -> dict[str, Tensor]:
        """Unweighted loss terms of the batch."""
        features = self.network.features(batch.images)
        terms: dict[str, Tensor] = self.loss(features, batch, seen)
        if self.imitation is not None:
            terms |= self.imitation(batch.images, features)
        return terms


class ClassifierTask(nn.Module):
    """The class path of the whole image: hierarchical softmax over the pooled features (paper, section 4)."""

    def __init__(self, network: Network, config: TrainConfig) -> None:
        super().__init__()
        self.network = network
        self.smoothing, self.cutmix = config.loss.smoothing, config.augment.cutmix
        self.teachers = Teachers(config.teachers, network, boxes=False) if config.teachers else None
        self.weights = {"image_class": 1.0}  # of every loss term
        if self.teachers is not None:
            self.weights["teacher_class"] = config.loss.teacher_scale

    def forward(self, batch: Batch, seen: int) -> dict[str, Tensor]:
        """The mean negative log probability of the labels, and the divergence from what teachers say."""
        images, other = batch.images, 0.0
        if self.cutmix and float(torch.rand((), dtype=torch.float32)) < self.cutmix:
            images, other = cut_and_mix(images)
        features = self.network.features(images)
        loss = self._loss(features, batch.labels)
        if other:
            loss = (1 - other) * loss + other * self._loss(features, batch.labels.flip(0))
        terms = {"image_class": loss}
        if self.teachers is not None:
            said, logits = self.teachers.classes(images), self.network.class_logits(features)
            terms["teacher_class"] = tree_divergence(self.network.ops, said, logits).mean()
        return terms

    def _loss(self, features: Tensor, nodes: Tensor) -> Tensor:
        network = self.network
        if network.head is None:
            logits = network.class_logits(features)
            return network.ops.path_nll(logits, nodes, self.smoothing).mean()
        return network.head.whole_nll(features, nodes, self.smoothing).mean()


def cut_and_mix(images: Tensor) -> tuple[Tensor, float]:
    """Put a rectangle of each image's partner in its place (CutMix, arXiv 1905.04899).

    Partners are first and last of the batch, second and last but one, and so on; the rectangle is the same
    for all, its share of the picture uniform before it is cut off at the border.

    Args:
        images: [B, 3, H, W].

    Returns:
        The new images, and the rectangle's share of them.
    """
    height, width = images.shape[-2:]
    share, across, down = torch.rand(3, dtype=torch.float32).tolist()
    half_h, half_w = height * share**0.5 / 2, width * share**0.5 / 2
    top, bottom = max(0, round(down * height - half_h)), min(height, round(down * height + half_h))
    left, right = max(0, round(across * width - half_w)), min(width, round(across * width + half_w))
    mixed = images.clone(memory_format=torch.preserve_format)
    mixed[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
    return mixed, (bottom - top) * (right - left) / (height * width)
