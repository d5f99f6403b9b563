"""Detection: AP at the data set's nodes, COCO's AP, AP and confusion at cuts of the tree, and the labels.

Letters: T truths, K predictions, C classes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from wordtree.tree import WordTree
from yolo9000.boxes import cxcywh_to_xyxy
from yolo9000.datasets import Sample, SampleDataset
from yolo9000.decode import Decoder, RawDetections
from yolo9000.errors import ConfigError, DataError
from yolo9000.evaluation.ap import Predictions, Truths, best_truth, match, match_imagenet
from yolo9000.evaluation.boxed import boxed_groups, boxed_nodes
from yolo9000.evaluation.coco import CocoScores, coco_scores
from yolo9000.evaluation.confusion import Confusion
from yolo9000.evaluation.credit import score_labels
from yolo9000.evaluation.hierarchy import Cut, LabelQuality
from yolo9000.evaluation.options import EvaluateConfig, resolve
from yolo9000.evaluation.predict import (
    Loaded,
    NodePredictor,
    Progress,
    chosen_images,
    inference,
    input_sizes,
    join_predictions,
    load_batches,
)
from yolo9000.evaluation.result import Result
from yolo9000.evaluation.scores import (
    ClassScores,
    GroupScore,
    as_relatives,
    join_truths,
    score_ancestors,
    score_classes,
    score_cut,
)
from yolo9000.network import Network
from yolo9000.quantized import features_of, folded
from yolo9000.suppress import suppress


@dataclass(frozen=True)
class DetectionResult(Result):
    """What a detector scores on a detection data set.

    Attributes:
        data: The data set, as it was described.
        images: Pictures evaluated.
        truths: Objects that must be found.
        excused: Difficult objects and crowds, which count neither way.
        unmatched: Labels of the data set without a node -> objects left out.
        size: (height, width) of the network input, pixels; of several the first.
        sizes: All of them.
        iou: Threshold of all but `coco`.
        rule: `voc` or `imagenet`: how `nodes` and `cuts` match predictions to objects.
        nodes: AP of the data set's classes at their mapped nodes.
        groups: Means over those of them that training had boxes of, and over the others, if asked for.
        coco: COCO's summary over the same classes.
        credited: AP of the labels that detections get, an ancestor credited by its depth (`credit`).
        strict: The same where an ancestor earns nothing.
        cuts: AP at each cut asked for.
        ancestors: AP of each class by its ancestor at each cut.
        confusion: What is taken for what at each cut, by the labels of confident detections.
        labels: Honesty of the labels of confident detections on labelled objects.
        seconds: Time of the whole evaluation.
    """

    kind: ClassVar[str] = "detection"

    data: str
    images: int
    truths: int
    excused: int
    unmatched: Mapping[str, int]
    size: tuple[int, int]
    sizes: tuple[tuple[int, int], ...]
    iou: float
    rule: str
    nodes: ClassScores
    groups: tuple[GroupScore, ...]
    coco: CocoScores
    credited: ClassScores
    strict: ClassScores
    cuts: tuple[ClassScores, ...]
    ancestors: tuple[ClassScores, ...]
    confusion: tuple[Confusion, ...]
    labels: LabelQuality
    seconds: float


def check_detector(network: Network) -> None:
    """Refuse a network that finds no boxes.

    Raises:
        ConfigError: It is a classifier.
    """
    if network.head is None:
        raise ConfigError("a classifier has no boxes to evaluate; give a detector, or classification data")


def evaluate_detection(
    network: Network,
    dataset: SampleDataset,
    config: EvaluateConfig | None = None,
    *,
    name: str = "",
    progress: Progress | None = None,
) -> DetectionResult:
    """Score a detector.

    Each class of the data set is scored at its node: at every anchor objectness × P(node), absolute
    probability, whatever label the walk down the tree would stop at (paper, section 4: ImageNet detection).

    Args:
        network: The detector; a fused copy of it runs.
        dataset: Detection samples whose labels are nodes of the network's tree.
        config: Thresholds and cuts.
        name: The data set's name for the result.
        progress: Called after each batch with the pictures just done and those in all.

    Raises:
        ConfigError: The network is a classifier, or the data set has no boxes or another tree.
        DataError: A picture cannot be read, or the data set is joined of some with different rules.
    """
    config = config or EvaluateConfig()
    check_detector(network)
    if dataset.kind != "detection" or len(dataset.tree) != len(network.tree):
        raise ConfigError(
            f"expected detection data on the network's tree of {len(network.tree)} nodes, got {dataset.kind} "
            f"data on a tree of {len(dataset.tree)}; open the data set with the network's tree"
        )
    config = resolve(config, dataset.rules, name)
    start = time.perf_counter()
    tree, iou = network.tree, config.iou
    cuts = [Cut.parse(tree, text) for text in config.cuts]
    lists = config.boxes or ()
    if lists:
        boxed_nodes(tree, lists)  # an unknown list is refused now, not after hours
    at_nodes, every, confident, truths = _run(
        folded(network, config.precision), dataset, config, cuts, progress
    )
    rule = match_imagenet if config.rule == "imagenet" else match
    nodes = score_classes(tree, at_nodes, truths, iou, "mapped nodes", rule=rule)
    return DetectionResult(
        data=name,
        images=len(chosen_images(len(dataset), config.limit)),
        truths=int(truths.counted.sum()),
        excused=int((~truths.counted).sum()),
        unmatched=dict(dataset.unmatched),
        size=(sizes := input_sizes(network, config))[0],
        sizes=tuple(sizes),
        iou=iou,
        rule="imagenet" if rule is match_imagenet else "voc",
        nodes=nodes,
        groups=tuple(boxed_groups(tree, nodes, lists)) if lists else (),
        coco=coco_scores(at_nodes, join_truths([truths, as_relatives(tree, truths)]), len(dataset)),
        credited=score_labels(tree, every, truths, iou, "labels, ancestors credited by depth"),
        strict=score_labels(tree, every, truths, iou, "labels, ancestors not credited", strict=True),
        cuts=tuple(score_cut(tree, cut, at_nodes, truths, iou, rule) for cut in cuts),
        ancestors=tuple(score_ancestors(tree, cut, at_nodes, truths, iou, rule) for cut in cuts),
        confusion=tuple(Confusion.of_detections(tree, cut, confident, truths, iou) for cut in cuts),
        labels=judge_labels(tree, confident, truths, iou),
        seconds=time.perf_counter() - start,
    )


def _run(
    network: Network,
    dataset: SampleDataset,
    config: EvaluateConfig,
    cuts: list[Cut],
    progress: Progress | None,
) -> tuple[Predictions, Predictions, Predictions, Truths]:
    """One pass: predictions at nodes, detections with their labels, the confident ones of them, truths."""
    head = network.head
    assert head is not None
    predictor = NodePredictor(head, scored_nodes(dataset, config, cuts), config)
    decoder = Decoder(head)
    at_nodes, every, confident, truths = [], [], [], []
    device = head.anchors.device
    with inference(device):
        for batch in load_batches(network, dataset, config, progress):
            features = [features_of(network, images.to(device)) for images in batch.views]
            at_nodes.append(predictor(features, batch))
            lowest = min(config.score, config.confident)
            found = decoder.decode_views(features, batch.fits, lowest, config.hier_threshold)
            every.append(_labelled(found, batch, network.tree, config, config.score))
            confident.append(_labelled(found, batch, network.tree, config, config.confident))
            truths += [
                sample_truths(sample, i, dataset.rules == "coco")
                for i, sample in zip(batch.indices, batch.samples, strict=True)
            ]
    return _concatenate(at_nodes), _concatenate(every), _concatenate(confident), join_truths(truths)


def scored_nodes(dataset: SampleDataset, config: EvaluateConfig, cuts: list[Cut]) -> NDArray[np.int64]:
    """Nodes whose AP is asked for, ascending: labels of the chosen pictures, and what they are at each cut.

    Raises:
        DataError: No object at all.
    """
    nodes = labelled_nodes(dataset, config)
    lifted = [cut.lift(dataset.tree, nodes) for cut in cuts]
    together = np.unique(np.concatenate([nodes, *lifted]))
    return np.asarray(together[together >= 0], np.int64)


def labelled_nodes(dataset: SampleDataset, config: EvaluateConfig, name: str = "") -> NDArray[np.int64]:
    """Nodes of the labels of the chosen pictures, ascending.

    Raises:
        DataError: No object at all.
    """
    chosen = chosen_images(len(dataset), config.limit)
    labels = {node for i in chosen for node in dataset.nodes(i)}
    if not labels:
        raise DataError(
            f"{name or 'the data set'}: not one labelled object to measure on in {len(chosen):,} of its "
            f"{len(dataset):,} pictures; is it the right split, or the limit too low?"
        )
    return np.array(sorted(labels), np.int64)


def judge_labels(tree: WordTree, labelled: Predictions, truths: Truths, iou: float) -> LabelQuality:
    """Compare the label of each confident detection with the object it overlaps most, whatever its class.

    Detections that overlap no labelled object enough are counted apart (in a data set of few classes most of
    them may be right); those on a difficult object or in a crowd are left out.
    """
    index, overlap = best_truth(labelled, truths)
    on_object = overlap >= iou
    counted = np.zeros(len(labelled), np.bool_)
    counted[on_object] = truths.counted[index[on_object]]
    missed = int((~on_object).sum())
    return LabelQuality.of(tree, labelled.classes[counted], truths.classes[index[counted]], missed)


def _labelled(
    found: list[RawDetections], batch: Loaded, tree: WordTree, config: EvaluateConfig, above: float
) -> Predictions:
    """Detections of a score above `above` as a user would get them, duplicates suppressed by the tree."""
    parts = []
    for raw, index, fit in zip(found, batch.indices, batch.fits[0], strict=True):
        row = (raw.scores > above).nonzero().squeeze(1)
        boxes, scores, nodes = raw.boxes[row], raw.scores[row], raw.nodes[row]
        keep = suppress(cxcywh_to_xyxy(boxes), scores, nodes, tree, config.nms)[: config.per_image]
        images = np.full(len(keep), index)
        parts.append((fit.unmap(boxes[keep]), nodes[keep].cpu().numpy(), images, scores[keep]))
    return join_predictions(parts)


def sample_truths(sample: Sample, index: int, crowds: bool) -> Truths:
    """The objects of image `index`; `crowds`: its ignored ones are crowds (COCO), else difficult (VOC)."""
    ignored = sample.ignored.numpy()
    boxes = sample.boxes.as_subclass(Tensor).double().numpy()
    none = np.zeros_like(ignored)
    difficult, crowd = (none, ignored) if crowds else (ignored, none)
    return Truths.of(boxes, sample.nodes.numpy(), np.full(len(ignored), index), difficult, crowd)


def _concatenate(parts: list[Predictions]) -> Predictions:
    fields = ("boxes", "classes", "images", "scores")
    return Predictions.of(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))
