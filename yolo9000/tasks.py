"""What a batch teaches a network: tasks, from images to named loss terms.

Letters: B images of a batch.
"""

from __future__ import annotations

from torch import Tensor, nn

from yolo9000.config import TrainConfig
from yolo9000.datasets import Batch
from yolo9000.errors import ConfigError
from yolo9000.loss import JointLoss
from yolo9000.network import Network


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

    @property
    def weights(self) -> dict[str, float]:
        """Weight of every loss term."""
        return self.loss.weights

    def forward(self, batch: Batch, seen: int) -> dict[str, Tensor]:
        """Unweighted loss terms of the batch."""
        terms: dict[str, Tensor] = self.loss(self.network.features(batch.images), batch, seen)
        return terms

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum."""
        return self.loss.total(terms)


class ClassifierTask(nn.Module):
    """The class path of the whole image: hierarchical softmax over the pooled features (paper, section 4)."""

    def __init__(self, network: Network, config: TrainConfig) -> None:
        super().__init__()
        self.network = network
        self.smoothing = config.loss.smoothing

    @property
    def weights(self) -> dict[str, float]:
        """Weight of every loss term."""
        return {"image_class": 1.0}

    def forward(self, batch: Batch, seen: int) -> dict[str, Tensor]:
        """The mean negative log probability of the labels."""
        network, nodes = self.network, batch.labels
        features = network.features(batch.images)
        if network.head is None:
            loss = network.ops.path_nll(network.class_logits(features), nodes, self.smoothing)
        else:
            loss = network.head.whole_nll(features, nodes, self.smoothing)
        return {"image_class": loss.mean()}

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The only term."""
        return terms["image_class"]
