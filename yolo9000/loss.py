"""The training loss: named terms, weighted in one place.

Letters: B images, A anchors per cell, H and W grid rows and columns, D feature channels, N tree nodes, T
truths (boxes) of the batch, M matched anchors.

The terms are written so that their gradients with respect to the *raw* head output are darknet's deltas
(`region_layer.c`, forward_region_layer): the binary cross entropy with logits has the gradient sigma(t) -
target, half the squared error has the gradient t - target. All terms are sums over anchors divided by the
number of images in the batch.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolo9000.boxes import cxcywh_to_xyxy, paired_iou, shape_iou
from yolo9000.config import LossConfig
from yolo9000.darknet.cfg import RegionConfig
from yolo9000.decode import decode_boxes
from yolo9000.head import RegionHead


class Batch(Protocol):
    """What the criterion reads of a batch (see `yolo9000.datasets.Batch`)."""

    @property
    def boxes(self) -> Tensor:
        """[T,4] cxcywh, fractions of the network input."""

    @property
    def nodes(self) -> Tensor:
        """[T] tree node of every box."""

    @property
    def image_index(self) -> Tensor:
        """[T] image of every box."""

    @property
    def labels(self) -> Tensor:
        """[B] node of a classification image, -1 for a detection image."""


@dataclass(frozen=True)
class Matches:
    """Truths and the anchors that answer for them: indices [M] into batch, anchor, row, column and truths."""

    b: Tensor
    a: Tensor
    y: Tensor
    x: Tensor
    truth: Tensor

    def __len__(self) -> int:
        return len(self.b)


@dataclass(frozen=True)
class Rules:
    """`LossConfig` with every None answered by the cfg's [region] section."""

    object_scale: float
    noobject_scale: float
    coord_scale: float
    class_scale: float
    ignore_iou: float
    rescore: bool
    bias_match: bool

    @classmethod
    def resolve(cls, config: LossConfig, region: RegionConfig) -> Rules:
        """Take each rule from the configuration where it is set, else from the cfg."""

        def pick(own: float | None, cfg: float) -> float:
            return float(cfg if own is None else own)

        return cls(
            object_scale=pick(config.object_scale, region.object_scale),
            noobject_scale=pick(config.noobject_scale, region.noobject_scale),
            coord_scale=pick(config.coord_scale, region.coord_scale),
            class_scale=pick(config.class_scale, region.class_scale),
            ignore_iou=pick(config.ignore_iou, region.thresh),
            rescore=bool(pick(config.rescore, region.rescore)),
            bias_match=bool(pick(config.bias_match, region.bias_match)),
        )


class JointLoss(nn.Module):
    """The loss of joint training on detection and classification images.

    Detection images teach boxes, objectness and, at the anchors matched to an object, the class path down to
    the label and no further. Classification images teach the class path at one chosen anchor, whose
    objectness is lifted to the IoU it is assumed to have (paper, section 4: at least 0.3).

    Args:
        head: The head whose parameters turn features into boxes and class logits.
        region: The cfg's [region] section.
        config: Weights and rules; None values come from `region`.
    """

    def __init__(self, head: RegionHead, region: RegionConfig, config: LossConfig | None = None) -> None:
        super().__init__()
        self.head = head
        self.config = config or LossConfig()
        self.rules = Rules.resolve(self.config, region)

    @property
    def weights(self) -> dict[str, float]:
        """Weight of every term; `total` multiplies and adds them."""
        rules = self.rules
        return {
            "box": rules.coord_scale,
            "object": rules.object_scale,
            "noobject": rules.noobject_scale,
            "class": rules.class_scale,
            "prior": self.config.prior_scale,
            "image_class": self.config.classification_scale,
            "image_object": rules.object_scale,
        }

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum of the terms, a scalar."""
        weights = self.weights
        return torch.stack([weights[name] * term for name, term in terms.items()]).sum()

    def forward(self, features: Tensor, batch: Batch, seen: int = 1 << 30) -> dict[str, Tensor]:
        """Compute the unweighted terms.

        Args:
            features: [B,D,H,W] network features.
            batch: Truths and labels.
            seen: Images trained on before this batch; below `prior_images` every anchor is also pulled to
            its prior.

        Returns:
            Scalars by name; terms of a kind of image that the batch lacks are left out.
        """
        raw = self.head.boxes(features)  # [B,A,5,H,W]
        raw = raw.float() if raw.dtype in (torch.bfloat16, torch.float16) else raw
        is_class = batch.labels >= 0
        parts: list[dict[str, Tensor]] = []
        if not bool(is_class.all()):
            parts.append(self._detection(features, raw, batch, ~is_class, seen))
        if bool(is_class.any()):
            parts.append(self._classification(features, raw, batch.labels, is_class))
        terms: dict[str, Tensor] = {}
        for name, term in itertools.chain.from_iterable(part.items() for part in parts):
            terms[name] = terms[name] + term if name in terms else term
        return {name: term / len(features) for name, term in terms.items()}

    def _detection(
        self, features: Tensor, raw: Tensor, batch: Batch, images: Tensor, seen: int
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            predicted = all_boxes(raw, self.head.anchors)  # [B,A,H,W,4]
            matches = self._match(predicted, batch)
            overlap = best_iou(predicted, batch.boxes, batch.image_index)  # [B,A,H,W]
        matched = torch.zeros(overlap.shape, dtype=torch.bool, device=raw.device)
        matched[matches.b, matches.a, matches.y, matches.x] = True
        free = images[:, None, None, None] & ~matched
        background = free & (overlap <= self.rules.ignore_iou)
        terms = {
            "noobject": _sum_where(F.softplus(raw[:, :, 4]), background),
            "box": raw.new_zeros(()),
            "object": raw.new_zeros(()),
            "class": raw.new_zeros(()),
        }
        if seen < self.config.prior_images:
            terms["prior"] = self._prior(raw, free)
        if len(matches):
            terms |= self._objects(features, raw, predicted, batch, matches)
        return terms

    def _prior(self, raw: Tensor, free: Tensor) -> Tensor:
        """Every anchor without an object aims at the middle of its cell and its prior's shape."""
        centre = F.softplus(raw[:, :, :2]) - 0.5 * raw[:, :, :2]  # BCE with target 0.5
        shape = 0.5 * raw[:, :, 2:4].square()
        return _sum_where(centre.sum(2) + shape.sum(2), free)

    def _objects(
        self, features: Tensor, raw: Tensor, predicted: Tensor, batch: Batch, matches: Matches
    ) -> dict[str, Tensor]:
        m = matches
        own = raw[m.b, m.a, :, m.y, m.x]  # [M,5]
        truth = batch.boxes[m.truth].to(raw.dtype)  # [M,4]
        rows, columns = raw.shape[-2:]
        grid = truth.new_tensor((columns, rows))
        centre = truth[:, :2] * grid - torch.stack((m.x, m.y), 1)
        anchors = self.head.anchors[m.a].to(raw.dtype)
        shape = (truth[:, 2:] * grid / anchors).clamp(min=1e-6).log()
        small = 2 - truth[:, 2] * truth[:, 3]  # small boxes weigh more (region_layer.c)
        box = _bce(own[:, :2], centre).sum(1) + 0.5 * (own[:, 2:4] - shape).square().sum(1)
        if self.rules.rescore:
            target = paired_iou(cxcywh_to_xyxy(predicted[m.b, m.a, m.y, m.x]), cxcywh_to_xyxy(truth))
        else:
            target = torch.ones_like(small)
        nodes = batch.nodes[m.truth]
        return {
            "box": (small * box).sum(),
            "object": _bce(own[:, 4], target).sum(),
            "class": self.head.path_nll(features, m.b, m.a, m.y, m.x, nodes).sum(),
        }

    def _match(self, predicted: Tensor, batch: Batch) -> Matches:
        """Give every truth the anchor of its cell with the best shape; of several truths the last."""
        _, anchors, rows, columns, _ = predicted.shape
        truth, b = batch.boxes.to(predicted.dtype), batch.image_index
        valid = (truth[:, 2] > 0) & (truth[:, 3] > 0)
        x = (truth[:, 0] * columns).long().clamp(0, columns - 1)
        y = (truth[:, 1] * rows).long().clamp(0, rows - 1)
        if self.rules.bias_match:
            shapes = self.head.anchors.to(truth.dtype) / truth.new_tensor((columns, rows))  # [A,2]
            iou = shape_iou(truth[:, 2:], shapes)  # [T,A]
        else:
            shapes = predicted[b, :, y, x, 2:]  # [T,A,2]
            inter = torch.minimum(shapes, truth[:, None, 2:]).prod(2)
            iou = inter / (shapes.prod(2) + truth[:, None, 2:].prod(2) - inter)
        a = iou.argmax(1)
        slot = ((b * anchors + a) * rows + y) * columns + x
        order = torch.arange(len(truth), device=b.device)
        last = torch.full((predicted[..., 0].numel(),), -1, dtype=torch.long, device=b.device)
        last.scatter_reduce_(0, slot[valid], order[valid], "amax")
        keep = order[valid & (last[slot] == order)]
        return Matches(b[keep], a[keep], y[keep], x[keep], keep)

    def _classification(
        self, features: Tensor, raw: Tensor, labels: Tensor, images: Tensor
    ) -> dict[str, Tensor]:
        index = images.nonzero()[:, 0]
        nodes = labels[index]
        a, y, x = self._choose(features[index], raw[index], nodes)
        objectness = raw[index, a, 4, y, x]
        assumed = self.config.classification_iou
        terms = {"image_class": self.head.path_nll(features, index, a, y, x, nodes).sum()}
        if self.config.mode == "darknet":
            others = torch.zeros(raw[:, :, 4].shape, dtype=torch.bool, device=raw.device)
            others[index] = True
            others[index, a, y, x] = False
            terms["noobject"] = _sum_where(F.softplus(raw[:, :, 4]), others)
        elif assumed > 0:
            low = objectness.detach().sigmoid() < assumed
            terms["image_object"] = (_bce(objectness, torch.full_like(objectness, assumed)) * low).sum()
        return terms

    @torch.no_grad()
    def _choose(self, features: Tensor, raw: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The anchor (a, y, x) of each classification image that gets its class loss."""
        rule = self.config.classification_box
        if rule == "likeliest":
            value = self.head.path_log_probs(features, nodes)  # [B,A,H,W]
        elif rule == "objectness":
            value = raw[:, :, 4]
        else:
            value = raw[:, :, 2] + raw[:, :, 3] + self.head.anchors.log().sum(1)[:, None, None]
        _, rows, columns = value.shape[1:]
        best = value.flatten(1).argmax(1)
        return best // (rows * columns), best // columns % rows, best % columns


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
    images = len(predicted)
    counts = torch.bincount(image_index, minlength=images)
    most = int(counts.max()) if len(truths) else 0
    if most == 0:
        return predicted.new_zeros(predicted.shape[:-1])
    order = torch.argsort(image_index, stable=True)
    rank = torch.arange(len(truths), device=truths.device) - (counts.cumsum(0) - counts)[image_index[order]]
    padded = predicted.new_zeros((images, most, 4))
    padded[image_index[order], rank] = truths[order].to(padded.dtype)
    boxes = cxcywh_to_xyxy(predicted.flatten(1, 3))[:, :, None]  # [B,A*H*W,1,4]
    other = cxcywh_to_xyxy(padded)[:, None]  # [B,1,most,4]
    return paired_iou(boxes, other).amax(2).view(predicted.shape[:-1])


def _bce(logit: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logit, target, reduction="none")


def _sum_where(value: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, value, 0).sum()
