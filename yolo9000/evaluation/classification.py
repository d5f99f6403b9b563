"""Classification: top-1 and top-5 among a data set's classes, accuracy at every depth, honesty of labels.

Letters: B images of a batch, R images of the data set, N tree nodes, C classes of the data set, L levels.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wordtree.tree import WordTree
from yolo9000.datasets import SampleDataset
from yolo9000.decode import choose_level
from yolo9000.errors import ConfigError
from yolo9000.evaluation.confusion import Confusion
from yolo9000.evaluation.hierarchy import Cut, LabelQuality, path_matrix, related
from yolo9000.evaluation.options import EvaluateConfig
from yolo9000.evaluation.predict import Progress, chosen_images, inference, input_sizes, load_batches
from yolo9000.evaluation.result import Result
from yolo9000.head import RegionHead
from yolo9000.network import Network
from yolo9000.quantized import features_of, folded
from yolo9000.tree_ops import TreeOps

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class DepthAccuracy:
    """How often the likeliest path is right down to one depth.

    Attributes:
        depth: 0 is the top group.
        images: Pictures whose label stands at this depth or deeper.
        accuracy: Share of them whose likeliest path runs through the label's ancestor (or the label) there.
    """

    depth: int
    images: int
    accuracy: float


@dataclass(frozen=True)
class AccuracyScores:
    """Accuracy of one way to classify a picture, all 0..1.

    Attributes:
        top1: The label is the likeliest of the data set's classes (absolute probabilities of their nodes);
            classes above and below it do not compete.
        top5: It is among the five likeliest.
        node: The likeliest path through the whole tree, all N nodes competing, runs through the label.
        depths: The same for the label's ancestors.
        labels: Verdicts on the labels that the walk with a threshold gives.
        confusion: What these labels take for what at each cut asked for.
    """

    top1: float
    top5: float
    node: float
    depths: tuple[DepthAccuracy, ...]
    labels: LabelQuality
    confusion: tuple[Confusion, ...]


@dataclass(frozen=True)
class ClassificationResult(Result):
    """What a network scores on a classification data set.

    Attributes:
        data: The data set, as it was described.
        images: Pictures evaluated.
        classes: C, different labels among them.
        unmatched: Labels of the data set without a node -> pictures left out.
        size: (height, width) of the network input, pixels; of several the first.
        sizes: All of them; logits are the means over them.
        whole: The picture as a whole: class logits of the averaged features.
        best_anchor: As a detection: the class probabilities at the anchor of highest objectness; None for a
            classifier.
        seconds: Time of the whole evaluation.
    """

    kind: ClassVar[str] = "classification"

    data: str
    images: int
    classes: int
    unmatched: Mapping[str, int]
    size: tuple[int, int]
    sizes: tuple[tuple[int, int], ...]
    whole: AccuracyScores
    best_anchor: AccuracyScores | None
    seconds: float


def evaluate_classification(
    network: Network,
    dataset: SampleDataset,
    config: EvaluateConfig | None = None,
    *,
    name: str = "",
    progress: Progress | None = None,
) -> ClassificationResult:
    """Score a detector or classifier on pictures with one label each, letterboxed whole.

    Args:
        network: The network; a fused copy of it runs.
        dataset: Classification samples whose labels are nodes of the network's tree.
        config: Size, batch and thresholds.
        name: The data set's name for the result.
        progress: Called after each batch with the pictures just done and those in all.

    Raises:
        ConfigError: The data set has boxes, or another tree.
        DataError: A picture cannot be read.
    """
    config = config or EvaluateConfig()
    if dataset.kind != "classification" or len(dataset.tree) != len(network.tree):
        raise ConfigError(
            f"expected classification data on the network's tree of {len(network.tree)} nodes, got "
            f"{dataset.kind} data on a tree of {len(dataset.tree)}; open the data set with the network's tree"
        )
    start = time.perf_counter()
    truths = np.array([dataset.nodes(i)[0] for i in chosen_images(len(dataset), config.limit)], np.int64)
    classes = np.unique(truths)
    whole, best = _Tally(network, truths, config), _Tally(network, truths, config)
    _run(folded(network, config.precision), dataset, config, whole, best, progress)
    return ClassificationResult(
        data=name,
        images=len(truths),
        classes=len(classes),
        unmatched=dict(dataset.unmatched),
        size=(sizes := input_sizes(network, config))[0],
        sizes=tuple(sizes),
        whole=whole.scores(),
        best_anchor=None if network.head is None else best.scores(),
        seconds=time.perf_counter() - start,
    )


def _run(
    network: Network,
    dataset: SampleDataset,
    config: EvaluateConfig,
    whole: _Tally,
    best: _Tally,
    progress: Progress | None,
) -> None:
    device = next(network.parameters()).device
    with inference(device):
        for batch in load_batches(network, dataset, config, progress):
            features = [features_of(network, images.to(device)) for images in batch.views]
            whole.add(torch.stack([network.class_logits(view) for view in features]).mean(0))
            if network.head is not None:
                anchors = [best_anchor_logits(network.head, view) for view in features]
                best.add(*(torch.stack(values).mean(0) for values in zip(*anchors, strict=True)))


def best_anchor_logits(head: RegionHead, features: Tensor) -> tuple[Tensor, Tensor]:
    """Class logits [B, N] at every picture's anchor of highest objectness, and that objectness [B].

    Args:
        head: The head.
        features: [B, D, H, W].
    """
    height, width = features.shape[-2:]
    objectness, place = head.boxes(features)[:, :, 4].flatten(1).max(1)
    a, cell = place // (height * width), place % (height * width)
    b = torch.arange(len(features), device=features.device)
    return head.class_logits(features, b, a, cell // width, cell % width), objectness.float().sigmoid()


class _Tally:
    """Collects, batch by batch, what the scores need of the logits: a few numbers a picture instead of N."""

    def __init__(self, network: Network, truths: Ints, config: EvaluateConfig) -> None:
        self.ops: TreeOps = network.ops
        self.tree: WordTree = network.tree
        self.truths, self.classes, self.config = truths, np.unique(truths), config
        self.added = 0
        self.cuts = [Cut.parse(network.tree, text) for text in config.cuts]
        self.ranked: list[Ints] = []
        self.paths: list[Ints] = []
        self.nodes: list[Ints] = []
        self.sure: list[NDArray[np.bool_]] = []

    def add(self, logits: Tensor, objectness: Tensor | None = None) -> None:
        """Take logits [B, N] of the next pictures and, where a detector gave them, the objectness [B]."""
        conditional = self.ops.log_softmax(logits)
        at_classes = self.ops.path_log_probs(conditional)[:, torch.from_numpy(self.classes).to(logits.device)]
        at_classes = at_classes.masked_fill(self._relatives(len(logits)).to(logits.device), -torch.inf)
        best = at_classes.topk(min(5, len(self.classes))).indices
        self.ranked.append(self.classes[best.cpu().numpy()])
        paths, log_probs = self.ops.descend(conditional)
        log_absolute = log_probs.cumsum(1)
        level = choose_level(log_absolute, paths, self.config.hier_threshold)[:, None]
        self.paths.append(paths.cpu().numpy())
        self.nodes.append(paths.gather(1, level)[:, 0].cpu().numpy())
        if objectness is None:
            objectness = log_absolute.new_full((len(logits),), torch.inf)
        score = objectness * log_absolute.gather(1, level)[:, 0].exp()
        self.sure.append((score > self.config.confident).cpu().numpy())

    def _relatives(self, count: int) -> Tensor:
        """[B, C] classes above or below the label of each of the next pictures: they do not compete with it.

        P(dog) is never less than P(pug), so that a dog would always come before a pug.
        """
        labels = self.truths[self.added : self.added + count, None]
        self.added += count
        return torch.from_numpy(related(self.tree, labels, self.classes) & (labels != self.classes))

    def scores(self) -> AccuracyScores:
        """The scores of the pictures, once all are added."""
        truths = self.truths
        ranked, paths, nodes = (np.concatenate(parts) for parts in (self.ranked, self.paths, self.nodes))
        sure = np.concatenate(self.sure)
        hits = ranked == truths[:, None]
        return AccuracyScores(
            top1=float(hits[:, 0].mean()),
            top5=float(hits.any(1).mean()),
            node=float((paths == truths[:, None]).any(1).mean()),
            depths=depth_accuracy(self.tree, paths, truths),
            labels=LabelQuality.of(self.tree, nodes[sure], truths[sure], int((~sure).sum())),
            confusion=tuple(
                Confusion.of_labels(self.tree, cut, nodes[sure], truths[sure]) for cut in self.cuts
            ),
        )


def depth_accuracy(tree: WordTree, paths: Ints, truths: Ints) -> tuple[DepthAccuracy, ...]:
    """Accuracy of the likeliest paths at every depth that some truth reaches.

    Args:
        tree: The tree.
        paths: [R, L] likeliest path of each picture, −1 below its leaf.
        truths: [R] label of each picture.
    """
    true = path_matrix(tree, truths)
    rows = []
    for depth in range(int(tree.depth[truths].max()) + 1):
        reached = true[:, depth] >= 0
        right = paths[reached, depth] == true[reached, depth]
        rows.append(DepthAccuracy(depth, int(reached.sum()), float(right.mean())))
    return tuple(rows)
