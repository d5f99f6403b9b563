"""Copying what two networks share: from a classifier into the detector that is built on it, for example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from yolo9000.darknet.layers import Convolution
from yolo9000.darknet.plan import LayerPlan

if TYPE_CHECKING:
    from yolo9000.network import Network


@dataclass(frozen=True)
class BackboneCopy:
    """What `Network.load_backbone` took over.

    Attributes:
        layers: Leading layers that are the same in both networks.
        of: Layers before the last convolution of the receiving network.
        parameters: Values copied, running statistics included.
        classes, boxes: Whether the class rows, and the box rows, of the head were copied.
        reason: Why layers or rows were left out; empty when everything was copied.
    """

    layers: int
    of: int
    parameters: int
    classes: bool
    boxes: bool
    reason: str

    def __str__(self) -> str:
        rows = [name for name, copied in (("class", self.classes), ("box", self.boxes)) if copied]
        head = f"{' and '.join(rows) or 'no head'} rows"
        text = f"copied {self.layers} of {self.of} layers ({self.parameters:,} values) and {head}"
        return text + (f"; {self.reason}" if self.reason else "")


@torch.no_grad()
def copy_backbone(source: Network, target: Network) -> BackboneCopy:
    """Copy the leading layers that two networks share, and the rows of the last layer that mean the same.

    Class rows are copied when all layers before the head are the same and the trees are equal: a classifier's
    rows, where its last convolution is a plain 1 x 1 one, go to every anchor, a detector's mean over its
    anchors goes to such a classifier, and between detectors with the same anchors each anchor's rows go to
    the same anchor. Box rows are copied between detectors with the same layers and anchors, whatever their
    classes: where an object is, a plain YOLOv2 knows as well as one over a tree.

    Args:
        source: The network to copy from; it stays as it is.
        target: The network to change.

    Returns:
        What was copied, and why not more.
    """
    layers, copied, reason = _copy_layers(source, target)
    classes = boxes = False
    if not reason:
        reasons = [_head_difference(source, target), _anchor_difference(source, target)]
        if not reasons[0]:
            copied += _copy_classes(source, target)
            classes = True
        if not reasons[1] and target.head is not None and source.head is not None:
            copied += _copy(source.head.box_weight, target.head.box_weight)
            copied += _copy(source.head.box_bias, target.head.box_bias)
            boxes = True
        reason = "; ".join(reason for reason in reasons if reason)
    if layers:
        # The statistics that came along are those of the source's formula.
        target.batchnorm = source.batchnorm
    return BackboneCopy(layers, target.last, copied, classes, boxes, reason)


def _copy_layers(source: Network, target: Network) -> tuple[int, int, str]:
    """Layers and values copied, and the first difference in front of the target's last convolution."""
    copied = 0
    for index in range(target.last):
        if index >= source.last:
            return (
                index,
                copied,
                f"the other network has only {source.last} layers before its last convolution",
            )
        if difference := _layer_difference(source, target, index):
            return index, copied, difference
        copied += _copy_layer(source.layers[index], target.layers[index])
    if source.last != target.last:
        return target.last, copied, f"the other network has {source.last - target.last} more layers"
    return target.last, copied, ""


def _layer_difference(source: Network, target: Network, index: int) -> str:
    ours, theirs = target.plans[index], source.plans[index]
    if _signature(ours) != _signature(theirs):
        return f"layer {index} is {_words(ours)} here, {_words(theirs)} there"
    layers = [network.layers[index] for network in (source, target)]
    if len({layer.bn is None for layer in layers if isinstance(layer, Convolution)}) > 1:
        return f"layer {index} is fused in one of the networks"
    return ""


def _copy_layer(source: nn.Module, target: nn.Module) -> int:
    values = source.state_dict()
    return sum(_copy(values[name], tensor) for name, tensor in target.state_dict().items())


def _signature(plan: LayerPlan) -> tuple[object, ...]:
    """What must agree for weights to mean the same; input sizes need not."""
    return (
        plan.type,
        plan.kernel,
        plan.step,
        plan.padding,
        plan.groups,
        plan.batch_normalize,
        plan.activation,
        plan.sources,
        plan.factors,
        plan.input[0],
        plan.output[0],
    )


def _words(plan: LayerPlan) -> str:
    if plan.type == "convolutional":
        norm = ", batch norm" if plan.batch_normalize else ""
        kernel = f"{plan.kernel} x {plan.kernel} / {plan.step}"
        return f"a {kernel} convolution {plan.input[0]} -> {plan.output[0]}, {plan.activation}{norm}"
    options = "".join(f" {key}={value}" for key, value in plan.section.options.items())
    return f"[{plan.type}]{options}, {plan.input[0]} -> {plan.output[0]} channels"


def _head_difference(source: Network, target: Network) -> str:
    if source.tree != target.tree:
        return f"the trees differ ({len(target.tree):,} nodes here, {len(source.tree):,} there)"
    if all(network.plans[network.last].is_linear_1x1 for network in (source, target)):
        return ""
    return _layer_difference(source, target, target.last)


def _anchor_difference(source: Network, target: Network) -> str:
    if source.region is None or target.region is None:
        return "" if target.region is None else "a classifier has no box rows"
    return "" if source.region.anchors == target.region.anchors else "the anchors differ"


def _copy_classes(source: Network, target: Network) -> int:
    if target.head is None and source.head is None:
        return _copy_layer(source.layers[source.last], target.layers[target.last])
    weight, bias = _class_rows(source)  # [A or 1, N, D], [A or 1, N]
    if target.head is None:
        last = target.layers[target.last]
        assert isinstance(last, Convolution)
        assert last.conv.bias is not None
        return _copy(weight.mean(0)[..., None, None], last.conv.weight) + _copy(bias.mean(0), last.conv.bias)
    head = target.head
    if len(weight) != len(head.class_weight) or (len(weight) > 1 and _anchor_difference(source, target)):
        weight, bias = weight.mean(0, keepdim=True), bias.mean(0, keepdim=True)
    return _copy(weight, head.class_weight) + _copy(bias, head.class_bias)


def _class_rows(network: Network) -> tuple[Tensor, Tensor]:
    if network.head is not None:
        return network.head.class_weight, network.head.class_bias
    last = network.layers[network.last]
    assert isinstance(last, Convolution)
    assert last.conv.bias is not None
    return last.conv.weight.flatten(1).unsqueeze(0), last.conv.bias.unsqueeze(0)


def _copy(source: Tensor, target: Tensor) -> int:
    """Copy with broadcasting; the number of values written."""
    target.copy_(source.expand_as(target))
    return target.numel()
