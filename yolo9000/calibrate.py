"""Step probabilities that mean what they say: one temperature for every depth of the tree.

A network that has seen its training photos often is surer than it is right. Dividing the logits of a sibling
group by a temperature above 1 makes its probabilities more even and changes no order within the group
(temperature scaling, Guo et al. 2017, here once a depth). The temperatures are fitted on photos that were not
trained on, and then divided into the class rows: the model runs as before and needs nothing new.

Letters: K labelled anchors, R logits of the sibling groups on the labels' paths, P such groups, N tree nodes,
L depths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yolo9000.boxes import box_iou
from yolo9000.darknet.layers import Convolution
from yolo9000.datasets import SampleDataset
from yolo9000.decode import Decoder
from yolo9000.errors import ConfigError, DataError
from yolo9000.evaluation.classification import best_anchor_logits
from yolo9000.evaluation.options import EvaluateConfig
from yolo9000.evaluation.predict import Loaded, Progress, inference, load_batches
from yolo9000.head import RegionHead
from yolo9000.matching import all_boxes
from yolo9000.network import Network
from yolo9000.tree_ops import TreeOps

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

_RANGE = (0.2, 20.0)  # temperatures that are looked at
_HALVINGS = 60  # golden-section steps: the interval of log temperatures shrinks below 1e-11
_SPREAD = 0.5  # standard deviation of the change of a log temperature from depth to depth, without data
_BINS = 15  # of the expected calibration error (Guo et al. 2017)


@dataclass(frozen=True)
class Steps:
    """Logits of the sibling groups on the paths of labels, end to end; groups of one node are left out.

    Attributes:
        logits: [R].
        start: [P] position in [0, R) of each group.
        target: [P] position in [0, R) of the label's node in each group.
        depth: [P] depth of each group, 0 at the top.
    """

    logits: Floats
    start: Ints
    target: Ints
    depth: Ints

    @classmethod
    def of(cls, ops: TreeOps, logits: Tensor, nodes: Tensor) -> Steps:
        """From class logits [K, N] and the label of each row, nodes [K]."""
        columns = ops.path_columns(nodes)
        owner = torch.repeat_interleave(columns.lengths)
        values = logits[owner, columns.column].double().cpu().numpy()
        size = columns.segment.bincount(minlength=len(columns.row)).cpu().numpy()
        start = np.cumsum(size) - size
        depth = ops.depth[columns.column[columns.target]].cpu().numpy()
        steps = cls(values, start, columns.target.cpu().numpy(), depth)
        return steps[size > 1]  # the probability in a group of one is 1 whatever the logit

    def __getitem__(self, keep: NDArray[np.bool_]) -> Steps:
        """The steps whose groups are chosen, keep: [P]."""
        size = np.diff(self.start, append=len(self.logits))[keep]
        new = np.cumsum(size) - size
        moved = self.start[keep] - new
        values = self.logits[np.repeat(moved, size) + np.arange(int(size.sum()))]
        return Steps(values, new, self.target[keep] - moved, self.depth[keep])

    def at(self, depth: int) -> Steps:
        """The steps of one depth."""
        return self[self.depth == depth]

    def log_probs(self, temperature: float = 1.0) -> Floats:
        """Log probability of every logit within its group, [R]."""
        scaled = self.logits / temperature
        size = np.diff(self.start, append=len(self.logits))
        highest = np.maximum.reduceat(scaled, self.start)
        shifted = scaled - np.repeat(highest, size)
        total = np.log(np.add.reduceat(np.exp(shifted), self.start))
        return np.asarray(shifted - np.repeat(total, size))

    def nll(self, temperature: float = 1.0) -> float:
        """Mean negative log probability of the labels' steps; NaN without steps."""
        if not len(self.start):
            return float("nan")
        return float(-self.log_probs(temperature)[self.target].mean())

    def calibration_error(self, temperature: float = 1.0) -> float:
        """Expected calibration error: the likeliest child's probability against how often it is right.

        In 15 bins of equal width, weighted by their steps; NaN without steps.
        """
        if not len(self.start):
            return float("nan")
        log_probs = self.log_probs(temperature)
        best = np.maximum.reduceat(log_probs, self.start)
        right = log_probs[self.target] >= best
        sure = np.exp(best)
        bins = np.minimum((sure * _BINS).astype(np.int64), _BINS - 1)
        apart = np.bincount(bins, sure - right, _BINS)
        return float(np.abs(apart).sum() / len(sure))


def join_steps(parts: Sequence[Steps]) -> Steps:
    """The steps of several data sets or batches as one."""
    before = np.cumsum([0, *(len(part.logits) for part in parts)])[: len(parts)]
    start = [part.start + offset for part, offset in zip(parts, before, strict=True)]
    target = [part.target + offset for part, offset in zip(parts, before, strict=True)]
    none = np.zeros(0, np.int64)
    return Steps(
        np.concatenate([np.zeros(0), *(part.logits for part in parts)]),
        np.concatenate([none, *start]),
        np.concatenate([none, *target]),
        np.concatenate([none, *(part.depth for part in parts)]),
    )


@dataclass(frozen=True)
class DepthTemperature:
    """What was found at one depth.

    Attributes:
        depth: 0 is the top group.
        steps: Labelled steps that it was fitted on.
        temperature: What logits are divided by.
        nll: Mean negative log probability of the right child before and after.
        error: Expected calibration error before and after.
    """

    depth: int
    steps: int
    temperature: float
    nll: tuple[float, float]
    error: tuple[float, float]


def collect_steps(
    network: Network,
    dataset: SampleDataset,
    config: EvaluateConfig | None = None,
    progress: Progress | None = None,
) -> Steps:
    """Logits on the labels' paths at the anchors that would report the labelled objects.

    For a box: the anchor of highest objectness among those that overlap it with an IoU of at least
    `config.iou`; a box that no anchor overlaps so much says nothing. For a classification image: the anchor
    of highest objectness; of a classifier, the whole image.

    Args:
        network: The network; a fused copy of it runs.
        dataset: Samples that were not trained on, labels nodes of the network's tree.
        config: Size, batch and overlap.
        progress: Called after each batch.

    Raises:
        ConfigError: Several sizes, boxes for a classifier, data on another tree, or classes that do not
            compete.
        CfgError: The network's input has not three channels.
        WeightsError: A weight is no number.
    """
    config = config or EvaluateConfig()
    if config.sizes:
        raise ConfigError(f"temperatures are those of one size; give size instead of sizes {config.sizes}")
    check_suitable(network, dataset)
    pick = _pick_boxes if dataset.kind == "detection" else _pick_images
    fused = network.fuse()
    device = next(fused.parameters()).device
    parts = []
    with inference(device):
        for batch in load_batches(fused, dataset, config, progress):
            logits, nodes = pick(fused, fused.features(batch.views[0].to(device)), batch, config.iou)
            parts.append(Steps.of(fused.ops, logits, nodes.to(device)))
    return join_steps(parts)


def check_suitable(network: Network, dataset: SampleDataset) -> None:
    """Refuse at once what `collect_steps` would refuse; its arguments and errors."""
    network.check_colour()
    network.check_values()
    if len(dataset.tree) != len(network.tree):
        raise ConfigError(
            f"expected data on the network's tree of {len(network.tree)} nodes, got a tree of "
            f"{len(dataset.tree)}; open the data set with the network's tree"
        )
    if dataset.kind == "detection" and network.head is None:
        raise ConfigError("a classifier has no boxes to calibrate on; give classification data")
    if network.head is not None and Decoder(network.head).independent:
        raise ConfigError(
            "every class of this model is a sigmoid of its own (softmax=0 in the cfg): expected classes that "
            "compete, whose probabilities a temperature can even out"
        )


def _pick_images(network: Network, features: Tensor, batch: Loaded, iou: float) -> tuple[Tensor, Tensor]:
    nodes = torch.cat([sample.nodes for sample in batch.samples])
    if network.head is None:
        return network.class_logits(features), nodes
    return best_anchor_logits(network.head, features)[0], nodes


def _pick_boxes(network: Network, features: Tensor, batch: Loaded, iou: float) -> tuple[Tensor, Tensor]:
    head = network.head
    assert head is not None
    raw = head.boxes(features).float()
    boxes, objectness = all_boxes(raw, head.anchors), raw[:, :, 4]
    places, nodes = [], []
    for image, (sample, fit) in enumerate(zip(batch.samples, batch.fits[0], strict=True)):
        keep = ~sample.ignored
        truths = sample.boxes.as_subclass(Tensor)[keep].to(raw.device)
        overlap = box_iou(truths, fit.unmap(boxes[image].flatten(0, 2)))  # [T, A·H·W]
        score = objectness[image].flatten().expand_as(overlap).masked_fill(overlap < iou, -torch.inf)
        best, place = score.max(1)
        found = best > -torch.inf
        places.append(image * score.shape[1] + place[found])
        nodes.append(sample.nodes[keep].to(raw.device)[found])
    return _logits_at(head, features, torch.cat(places), objectness.shape), torch.cat(nodes)


def _logits_at(head: RegionHead, features: Tensor, place: Tensor, shape: Sequence[int]) -> Tensor:
    """Class logits at places in a flat [B, A, H, W]."""
    b, a, y, x = torch.unravel_index(place, tuple(shape))
    return head.class_logits(features, b, a, y, x)


def fit_temperatures(steps: Steps, levels: int, minimum: int = 50) -> tuple[DepthTemperature, ...]:
    """The temperature of every depth that makes the labels most probable.

    It has a prior, a normal distribution of its logarithm around that of the depth above: where hardly a
    label is mistaken, every lower temperature makes them a little more probable, and that is no evidence.

    Args:
        steps: From `collect_steps`, of one or more data sets.
        levels: L, depths of the tree.
        minimum: A depth with fewer labelled steps takes over the temperature of the depth above it (1 at the
            top).

    Raises:
        DataError: No step at all.
    """
    if not len(steps.start):
        raise DataError(
            "nothing to calibrate on: no anchor overlaps a labelled object enough, or no node on the labels' "
            "paths has siblings. Give more data, or a model that finds its objects"
        )
    found: list[DepthTemperature] = []
    for depth in range(levels):
        here = steps.at(depth)
        count = len(here.start)
        above = found[-1].temperature if found else 1.0
        temperature = above if count < minimum else _fit(here, above)
        error = (here.calibration_error(), here.calibration_error(temperature))
        found.append(DepthTemperature(depth, count, temperature, (here.nll(), here.nll(temperature)), error))
    return tuple(found)


def _fit(steps: Steps, above: float) -> float:
    """The likeliest temperature of one depth, given that of the depth above."""

    def loss(temperature: float) -> float:
        change = math.log(temperature / above) / _SPREAD
        return len(steps.start) * steps.nll(temperature) + change**2 / 2

    return _minimise(loss)


def _minimise(value: Callable[[float], float]) -> float:
    """The temperature of the lowest value. The NLL is convex in 1/T, so it has one valley in log T."""
    low, high = np.log(_RANGE)
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(_HALVINGS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if value(float(np.exp(left))) < value(float(np.exp(right))):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


@torch.no_grad()
def apply_temperatures(network: Network, temperatures: Iterable[float]) -> None:
    """Divide the class rows of every depth by its temperature: the logits come out divided.

    Args:
        network: Detector or classifier, changed in place.
        temperatures: One a depth of the tree, top first, each above 0.

    Raises:
        ConfigError: Another number of temperatures, one that is not above 0, or a classifier whose last layer
            is no linear one.
    """
    values = np.asarray(list(temperatures), np.float64)
    if len(values) != network.ops.levels or not (values > 0).all():
        raise ConfigError(
            f"expected {network.ops.levels} temperatures above 0, one a depth, got {values.tolist()}"
        )
    if not network.plans[network.last].is_linear_1x1:
        raise ConfigError("only a linear 1 x 1 last convolution can be calibrated, as in darknet19.cfg")
    scale = torch.from_numpy(1 / values)[network.ops.depth.cpu()]
    if network.head is not None:
        weight, bias = network.head.class_weight, network.head.class_bias
        scale = scale.to(weight)
        weight.mul_(scale[:, None])
        bias.mul_(scale)
        return
    last = network.layers[network.last]
    assert isinstance(last, Convolution)
    scale = scale.to(last.conv.weight)
    last.conv.weight.mul_(scale[:, None, None, None])
    if last.conv.bias is not None:
        last.conv.bias.mul_(scale)
