"""Distillation: a network learns what larger ones, or several, say of the same pictures (arXiv 1503.02531).

A label is one name, and says nothing of what a dog has in common with a wolf, or of the objects that nobody
drew a box on. Teachers answer everywhere, so photos without boxes teach boxes, too.

Letters: B images, A anchors per cell, H and W grid rows and columns, N tree nodes, K chosen anchors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolo9000.darknet.plan import plan_layers
from yolo9000.datasets.transforms import Size, sides
from yolo9000.decode import Decoder
from yolo9000.errors import ConfigError
from yolo9000.loss import JointLoss
from yolo9000.model import load_any
from yolo9000.network import Network
from yolo9000.tree_ops import TreeOps

# Anchors whose class paths are imitated: those whose objectness is above this, and the surest of them.
_SURE = 0.05
_MOST = 12  # an image of the batch


@dataclass(frozen=True)
class Lesson:
    """What teachers say of a batch of pictures; their mean.

    Attributes:
        boxes: [B,A,5,H,W] centre in the cell and objectness as probabilities, log sides over the prior.
        b: [K] image of the anchors that show something.
        a: [K] anchor.
        y: [K] row.
        x: [K] column.
        paths: [K,N] log of the absolute probability of every node there.
    """

    boxes: Tensor
    b: Tensor
    a: Tensor
    y: Tensor
    x: Tensor
    paths: Tensor


class Teachers(nn.Module):
    """Trained networks that answer, and do not change.

    Args:
        models: Model files, or names of models.
        student: The network that is to learn from them.
        boxes: It learns to find objects, too, not only to name whole pictures.

    Raises:
        ConfigError: A teacher's answers cannot be compared with the student's: other channels, another tree,
            classes that do not exclude one another; for boxes other anchors in pixels, cells that are not
            the student's or a whole number of times larger, a classifier.
        WeightsError: A model cannot be had.
    """

    def __init__(self, models: Sequence[str], student: Network, *, boxes: bool = True) -> None:
        super().__init__()
        self.networks = nn.ModuleList()
        self.stride = student.stride
        for model in models:
            network, _ = load_any(model)
            if problem := _difference(network, student, boxes):
                raise ConfigError(f"teachers: {model} {problem}")
            self.networks.append(network.fuse().requires_grad_(False))
        self.models = tuple(models)

    def check_maps(self, student: Network, sizes: Sequence[Size]) -> None:
        """Refuse inputs of which the teachers' cells do not cover the student's, one by one.

        Args:
            student: A detector.
            sizes: Of the inputs, pixels.

        Raises:
            ConfigError: A teacher's map is of another size, as its cells leave something over, or as
                convolutions have no padding.
            CfgError: A teacher cannot be run at a size.
        """
        for height, width in map(sides, sizes):
            rows, columns = _cells(student, height, width)
            for model, network in zip(self.models, self._each(), strict=True):
                factor = network.stride // student.stride
                down, across = (factor * side for side in _cells(network, height, width))
                if (rows, columns) != (down, across):
                    raise ConfigError(
                        f"teachers: {model} answers for {across} x {down} cells of an input of {width} x "
                        f"{height} pixels, the student for {columns} x {rows}. Give inputs (data.sizes) in "
                        f"multiples of {network.multiple} pixels, and both cfgs the same convolutions "
                        "without padding (pad=0)"
                    )

    def train(self, mode: bool = True) -> Teachers:
        """Teachers answer as in use, whatever the student does."""
        return super().train(False)

    @torch.no_grad()
    def classes(self, images: Tensor) -> Tensor:
        """Log of the absolute probability of every node for whole pictures [B,3,H,W]: [B,N]."""
        return _mean_paths(
            [
                network.ops.path_log_probs(
                    network.ops.log_softmax(network.class_logits(network.features(images)))
                )
                for network in self._each()
            ]
        )

    @torch.no_grad()
    def lesson(self, images: Tensor) -> Lesson:
        """What they see in pictures [B,3,H,W]."""
        features = [network.features(images) for network in self._each()]
        heads = [network.head for network in self._each() if network.head is not None]
        finer = [network.stride // self.stride for network in self._each()]
        boxes = torch.stack(
            [
                _refine(_answers(head.boxes(own)), factor)
                for head, own, factor in zip(heads, features, finer, strict=True)
            ]
        ).mean(0)
        objectness = boxes[:, :, 4]
        surest = objectness.flatten().topk(min(_MOST * len(images), objectness.numel())).indices
        surest = surest[objectness.flatten()[surest] >= _SURE]
        b, a, y, x = torch.unravel_index(surest, objectness.shape)
        paths = [
            head.ops.path_log_probs(
                head.ops.log_softmax(head.class_logits(own, b, a, y // factor, x // factor))
            )
            for head, own, factor in zip(heads, features, finer, strict=True)
        ]
        return Lesson(boxes, b, a, y, x, _mean_paths(paths))

    def _each(self) -> list[Network]:
        return [network for network in self.networks if isinstance(network, Network)]


class Imitation(nn.Module):
    """Loss terms by which a network approaches its teachers, in the form of those of `JointLoss`.

    Objectness at every anchor; boxes and classes in proportion to the objectness that the teachers see. The
    class term is the Kullback-Leibler divergence between the distributions over the tree's leaves: by the
    chain rule, that of every sibling group times the probability of arriving there.

    Args:
        teachers: Those to approach.
        labels: The loss of the student's labels, whose weights the terms take over.
        scale: Weight of all terms beside those of the labels.

    Raises:
        ConfigError: The classes do not exclude one another.
    """

    def __init__(self, teachers: Teachers, labels: JointLoss, scale: float = 1.0) -> None:
        super().__init__()
        if labels.independent:
            raise ConfigError("teachers need classes that exclude one another, but the cfg says softmax=0")
        self.teachers, self.head, self.rules, self.scale = teachers, labels.head, labels.rules, scale

    @property
    def weights(self) -> dict[str, float]:
        """Weight of every term."""
        rules = self.rules
        scales = {"object": 1.0, "box": rules.coord_scale, "class": rules.class_scale}
        return {f"teacher_{name}": self.scale * weight for name, weight in scales.items()}

    def forward(self, images: Tensor, features: Tensor) -> dict[str, Tensor]:
        """Unweighted terms; that of objectness has the rules' weights in it, which differ by anchor.

        Args:
            images: [B,3,H,W].
            features: [B,D,H,W] what the student's network makes of them.
        """
        head, rules = self.head, self.rules
        lesson = self.teachers.lesson(images)
        own = head.boxes(features).float()
        said = lesson.boxes.float()
        sure = said[:, :, 4]
        heard = torch.lerp(sure.new_tensor(rules.noobject_scale), sure.new_tensor(rules.object_scale), sure)
        objectness = F.binary_cross_entropy_with_logits(own[:, :, 4], sure, reduction="none")
        centre = F.binary_cross_entropy_with_logits(own[:, :, :2], said[:, :, :2], reduction="none").sum(2)
        shape = 0.5 * (own[:, :, 2:4] - said[:, :, 2:4]).square().sum(2)
        at = lesson.b, lesson.a, lesson.y, lesson.x
        divergence = tree_divergence(head.ops, lesson.paths, head.class_logits(features, *at))
        terms = {
            "teacher_object": (heard * objectness).sum(),
            "teacher_box": (sure * (centre + shape)).sum(),
            "teacher_class": (sure[at] * divergence).sum(),
        }
        return {name: term / len(images) for name, term in terms.items()}


def tree_divergence(ops: TreeOps, paths: Tensor, logits: Tensor) -> Tensor:
    """Kullback-Leibler divergence of a distribution over the leaves from the one that logits give.

    Args:
        ops: The tree's operations.
        paths: [K,N] log of the absolute probabilities that are to be reached.
        logits: [K,N].

    Returns:
        [K], 0 where both are the same.
    """
    above = F.pad(paths, (0, 1)).index_select(1, ops.parent)
    return (paths.exp() * (paths - above - ops.log_softmax(logits))).sum(1)


def _mean_paths(paths: list[Tensor]) -> Tensor:
    """The mean of distributions given by logs of their probabilities."""
    return paths[0] if len(paths) == 1 else torch.stack(paths).logsumexp(0) - math.log(len(paths))


def _answers(raw: Tensor) -> Tensor:
    """[B,A,5,H,W] raw values with probabilities for the logits of the centre and of the objectness."""
    raw = raw.float()
    return torch.cat((raw[:, :, :2].sigmoid(), raw[:, :, 2:4], raw[:, :, 4:].sigmoid()), 2)


def _refine(boxes: Tensor, factor: int) -> Tensor:
    """Answers of a coarse grid on one of `factor` times as many rows and columns.

    Args:
        boxes: [B,A,5,H,W] centre in the cell, log sides, objectness.
        factor: Cells of the finer grid in one of the coarse one, along each side.

    Returns:
        [B,A,5,H·factor,W·factor]: objectness is where the centre lies, 0 in its other cells.
    """
    if factor == 1:
        return boxes
    height, width = boxes.shape[-2:]
    fine = boxes.repeat_interleave(factor, 3).repeat_interleave(factor, 4)
    within = torch.arange(factor, device=boxes.device, dtype=boxes.dtype)
    column, row = within.repeat(width), within.repeat(height)[:, None]
    x, y = fine[:, :, 0] * factor, fine[:, :, 1] * factor
    here = (x.floor().clamp(max=factor - 1) == column) & (y.floor().clamp(max=factor - 1) == row)
    centre = torch.stack(((x - column).clamp(0, 1), (y - row).clamp(0, 1)), 2)
    return torch.cat((centre, fine[:, :, 2:4], (fine[:, :, 4] * here)[:, :, None]), 2)


def _cells(network: Network, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the map for an input of so many pixels."""
    _, rows, columns = plan_layers(network.cfg, height, width)[network.last].output
    return rows, columns


def _difference(teacher: Network, student: Network, boxes: bool) -> str:
    """Why the student cannot learn from this teacher, or nothing."""
    if teacher.cfg.channels != student.cfg.channels:
        return f"reads pictures of {teacher.cfg.channels} channels, the student of {student.cfg.channels}"
    if teacher.tree != student.tree:
        return (
            f"has another tree ({len(teacher.tree):,} nodes; the student's has {len(student.tree):,}): give "
            "both the same, for instance by `yolo9000 retree`"
        )
    if teacher.head is not None and Decoder(teacher.head).independent:
        return (
            "has classes that do not exclude one another (its cfg says softmax=0), as those of teachers must"
        )
    if not boxes or student.region is None:
        return ""
    if teacher.region is None:
        return "is a classifier; a detector learns from detectors, so train one from it first"
    same = "their anchors answer for different boxes: give both cfgs the same"
    factor, rest = divmod(teacher.stride, student.stride)
    grown = [side * factor for anchor in teacher.region.anchors for side in anchor]
    own = [side for anchor in student.region.anchors for side in anchor]
    if not rest and len(grown) == len(own) and all(map(math.isclose, grown, own)):
        return ""
    found, wanted = (_listed(region.anchors) for region in (teacher.region, student.region))
    if teacher.stride == student.stride:
        return f"has the anchors {found}, the student {wanted}; {same}"
    return (
        f"has the anchors {found} in cells of {teacher.stride} pixels, the student {wanted} in cells of "
        f"{student.stride}; {same} in pixels, and the teacher cells as large or some whole times larger"
    )


def _listed(anchors: Sequence[Sequence[float]]) -> str:
    return ", ".join(f"{width:g},{height:g}" for width, height in anchors)
