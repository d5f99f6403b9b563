"""Measuring a model on a data set: `evaluate(model, "voc:DIR")`.

Detection data give average precision, classification data accuracy, and both how honest the depth of the
labels is. The parts are in `yolo9000.evaluation`: ap (curves), scores, credit, coco, detection;
classification; hierarchy (verdicts and cuts), confusion, boxed (classes with and without boxes), report.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from yolo9000.datasets import SampleDataset, open_dataset
from yolo9000.errors import ConfigError
from yolo9000.evaluation.classification import ClassificationResult, evaluate_classification
from yolo9000.evaluation.detection import (
    DetectionResult,
    check_detector,
    evaluate_detection,
    labelled_nodes,
)
from yolo9000.evaluation.options import EvaluateConfig, resolve
from yolo9000.evaluation.predict import Progress, input_sizes
from yolo9000.labelling import own_sizes
from yolo9000.network import Network

if TYPE_CHECKING:
    from yolo9000.model import YOLO9000


def evaluate(
    model: YOLO9000 | Network,
    data: str,
    config: EvaluateConfig | None = None,
    *,
    split: str = "val",
    map_file: str | Path | None = None,
    progress: Progress | None = None,
) -> DetectionResult | ClassificationResult:
    """Evaluate a model on a data set.

    Args:
        model: A model, or a network (which may be a classifier).
        data: A description such as `voc:DIR`, `coco:DIR:val` or `imagenet:DIR`; see
            `yolo9000.datasets.open_dataset`.
        config: Thresholds, sizes and cuts, as they are; without one, those of `EvaluateConfig` and a model's
            own thresholds and sizes.
        split: The split where the description names none.
        map_file: Darknet map file of the boxes' classes; see `open_dataset`.
        progress: Called after each batch with the pictures just done and those in all.

    Returns:
        A `DetectionResult` for data with boxes, a `ClassificationResult` for data without.

    Raises:
        ConfigError: The model is none, or cannot do what the data ask for.
        CfgError: Its input has not three channels.
        DataError: The data set is not what its format says.
    """
    from yolo9000.model import YOLO9000  # it imports much that evaluation does not need

    if not isinstance(model, Network | YOLO9000):
        raise ConfigError(
            f"expected a model or a network, found {model!r}. YOLO9000.load reads a model by its "
            "file or name."
        )
    if config is not None and not isinstance(config, EvaluateConfig):
        raise ConfigError(f"config must be an EvaluateConfig or None, found {config!r}.")
    network = model if isinstance(model, Network) else model.network
    network.check_colour()
    if config is None:
        config = EvaluateConfig()
        if not isinstance(model, Network):
            config = EvaluateConfig(
                confident=model.threshold,
                hier_threshold=model.hier_threshold,
                sizes=own_sizes(model.metadata),
            )
    dataset = open_dataset(data, network.tree, split, map_file=map_file)
    return evaluate_opened(network, dataset, data, config, progress=progress)


def check_opened(network: Network, dataset: SampleDataset, data: str, config: EvaluateConfig) -> None:
    """Refuse at once what `evaluate_opened` would refuse, perhaps hours later; the arguments are its own.

    Raises:
        ConfigError: The size does not fit the network, or it is a classifier and the data have boxes.
        DataError: The data set is joined of some that are scored by different rules, or has no labelled
            object.
    """
    input_sizes(network, config)
    if dataset.kind == "detection":
        check_detector(network)
        resolve(config, dataset.rules, data)
        labelled_nodes(dataset, config, data)


def evaluate_opened(
    network: Network,
    dataset: SampleDataset,
    data: str,
    config: EvaluateConfig,
    *,
    progress: Progress | None = None,
) -> DetectionResult | ClassificationResult:
    """`evaluate` on a data set that is open already; `data` is its description."""
    if dataset.kind == "classification":
        return evaluate_classification(network, dataset, config, name=data, progress=progress)
    return evaluate_detection(network, dataset, config, name=data, progress=progress)
