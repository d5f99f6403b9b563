"""The training loss: named terms, weighted in one place.

Letters: B images, A anchors per cell, H and W grid rows and columns, D feature channels, N tree nodes, T
truths (boxes) of the batch, M matched anchors.

The terms are written so that their gradients with respect to the *raw* head output are darknet's deltas
(`region_layer.c`, forward_region_layer): the binary cross entropy with logits has the gradient sigma(t) -
target, half the squared error has the gradient t - target. All terms are sums over anchors divided by the
number of images in the batch (darknet divides when it updates the weights).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolo9000.boxes import cxcywh_to_xyxy, paired_giou, paired_iou
from yolo9000.config import LossConfig
from yolo9000.darknet.cfg import RegionConfig
from yolo9000.decode import decode_boxes
from yolo9000.errors import ConfigError
from yolo9000.head import BOX_CHANNELS, RegionHead
from yolo9000.matching import (
    Matches,
    Truths,
    all_boxes,
    best_iou,
    darknet_list,
    inner_cells,
    last_of_each,
    match,
    touched_cells,
)


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

    @property
    def tiles(self) -> Tensor:
        """[R,4] cxcywh, parts of detection images that show classification images."""

    @property
    def tile_nodes(self) -> Tensor:
        """[R] node of each."""

    @property
    def tile_index(self) -> Tensor:
        """[R] image of each."""


@dataclass(frozen=True)
class Rules:
    """`LossConfig` with every None answered by the cfg's [region] section."""

    object_scale: float
    noobject_scale: float
    coord_scale: float
    class_scale: float
    image_class_scale: float
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
            image_class_scale=pick(config.classification_scale, pick(config.class_scale, region.class_scale)),
            ignore_iou=pick(config.ignore_iou, region.thresh),
            rescore=bool(pick(config.rescore, region.rescore)),
            bias_match=bool(pick(config.bias_match, region.bias_match)),
        )


class _Labelled(NamedTuple):
    """Anchors (image, anchor, row, column) that a path is taught at, and the node at its end; [K] each."""

    b: Tensor
    a: Tensor
    y: Tensor
    x: Tensor
    nodes: Tensor


class JointLoss(nn.Module):
    """The loss of joint training on detection and classification images.

    Detection images teach boxes, objectness and, at the anchors matched to an object, the class path down to
    the label and no further. Classification images teach the class path at one chosen anchor, whose
    objectness is lifted to the IoU it is assumed to have (paper, section 4: at least 0.3).

    `LossConfig.mode` is "paper" or "darknet". In mode "darknet" the gradients are the deltas of
    `forward_region_layer` in region_layer.c. The two differ in this only:

    - Classification image, which anchor: "paper" takes the one with the highest objectness, "darknet" the one
      with the highest objectness x P(label). (`classification_box` chooses another rule in both.) The
      paper's own words are "likeliest", the highest P(label); but then the class is learned where it is
      easiest to tell, and unknown at the objects that are found (docs/transfer.md).
    - Classification image, objectness: "paper" lifts that of the chosen anchor to `classification_iou` where
      it is below, and leaves all others alone. "darknet" pushes all others to 0 with `noobject_scale` and
      leaves the chosen one alone: the code computes the paper's 0.3 rule, then overwrites it with 0.
    - Several truths on one anchor: the last one sets box and objectness in both. Its class path is the only
      one in "paper"; in "darknet" the sibling groups that it does not pass keep the deltas of the truth
      before it, so the anchor learns `dog` and, below `vehicle`, the path to `car` of the truth before.
    - Many truths: "darknet" reads the first 30 of an image, and none from the first with x = 0 on.

    Both modes differ from the C code where that has no usable meaning: truths without area are left out (C:
    infinite deltas; its loader drops sides below 0.001), a centre on the border belongs to the cell at the
    border (C writes into another cell), and classification images work with plain class lists too (C reads
    outside of its memory). `coords` other than 4, `background` and `map` are not for training here.

    Plain class lists with softmax=0 are independent sigmoids: all truths of an anchor are its classes.

    Departures from both, off by default: with `match_iou` a truth has further anchors of its cell; with
    `box="giou"` the box term is 1 - generalised IoU; with `whole_scale` classification images also teach the
    class path at their averaged features, as a classifier does.

    Mosaics can hold classification images in their tiles (`data.mosaic_classification`). A tile is treated as
    such an image of its own, whose grid is its cells; the background terms of the others leave it out.

    With `smoothing` the class terms are cross entropies with a softer target: in each sibling group on the
    path, that share of it is spread evenly over the siblings. It does not change which anchor is chosen.

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
        # As in the decoder: without a tree and without a softmax every class is a sigmoid of its own.
        self.independent = head.ops.groups == 1 and region.tree is None and not region.softmax
        if self.independent and self.config.smoothing:
            raise ConfigError("loss.smoothing needs a softmax, but the cfg says softmax=0")

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
            "image_class": rules.image_class_scale,
            "image_object": rules.object_scale,
            "image_whole": self.config.whole_scale,
        }

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum of the terms, a scalar."""
        return weighted_sum(terms, self.weights)

    def forward(self, features: Tensor, batch: Batch, seen: int = 1 << 30) -> dict[str, Tensor]:
        """Compute the unweighted terms.

        Args:
            features: [B,D,H,W] network features.
            batch: Truths and labels.
            seen: Images trained on before this batch. Where they and this batch are fewer than
                `prior_images`, every anchor is also pulled to its prior (darknet counts a batch before it
                trains on it: network.c, train_network_datum).

        Returns:
            Scalars by name; terms of a kind of image that the batch lacks are left out.
        """
        raw = self.head.boxes(features)  # [B,A,5,H,W]
        raw = raw.float() if raw.dtype in (torch.bfloat16, torch.float16) else raw
        is_class = batch.labels >= 0
        parts: list[dict[str, Tensor]] = []
        labelled: dict[str, _Labelled] = {}
        if not bool(is_class.all()):
            parts.append(self._detection(features, raw, batch, ~is_class, seen, labelled))
        if len(regions := _regions(batch)):
            parts.append(self._classification(features, raw, regions, labelled))
        if labelled:
            parts.append(self._paths(features, labelled))
        terms: dict[str, Tensor] = {}
        for name, term in itertools.chain.from_iterable(part.items() for part in parts):
            terms[name] = terms[name] + term if name in terms else term
        return {name: term / len(features) for name, term in terms.items()}

    def _paths(self, features: Tensor, labelled: dict[str, _Labelled]) -> dict[str, Tensor]:
        """Class terms of all labelled anchors at once: one gradient of the class rows' size, not two."""
        every = _Labelled(*(torch.cat(parts) for parts in zip(*labelled.values(), strict=True)))
        nll = self.head.path_nll(features, *every, self.config.smoothing)
        parts = torch.split(nll, [len(each.nodes) for each in labelled.values()])
        return {name: part.sum() for name, part in zip(labelled, parts, strict=True)}

    def _detection(
        self,
        features: Tensor,
        raw: Tensor,
        batch: Batch,
        images: Tensor,
        seen: int,
        labelled: dict[str, _Labelled],
    ) -> dict[str, Tensor]:
        """Terms of detection images but for paths; the anchors with a path are added to `labelled`."""
        truths = Truths(batch.boxes, batch.nodes, batch.image_index)
        if self.config.mode == "darknet":
            truths = darknet_list(truths, len(raw))
        with torch.no_grad():
            predicted = all_boxes(raw, self.head.anchors)  # [B,A,H,W,4]
            matches = match(
                predicted,
                truths,
                self.head.anchors,
                by_prior=self.rules.bias_match,
                also=self.config.match_iou,
            )
            overlap = best_iou(predicted, truths.boxes, truths.image_index)  # [B,A,H,W]
        matched = torch.zeros(overlap.shape, dtype=torch.bool, device=raw.device)
        matched[matches.b, matches.a, matches.y, matches.x] = True
        free = images[:, None, None, None] & ~matched
        if len(batch.tile_nodes):  # what they show has no boxes, so nothing there is known to be background
            tiles = touched_cells(batch.tiles, overlap.shape[-2:])
            free &= ~_any_of(tiles, batch.tile_index, len(raw))[:, None]
        background = free & (overlap <= self.rules.ignore_iou)
        terms = {
            "noobject": _sum_where(F.softplus(raw[:, :, 4]), background),
            "box": raw.new_zeros(()),
            "object": raw.new_zeros(()),
            "class": raw.new_zeros(()),
        }
        if seen + len(raw) < self.config.prior_images:
            terms["prior"] = self._prior(raw, free)
        if len(matches):
            terms |= self._objects(raw, predicted, truths, matches[matches.last])
            if self.independent:
                terms["class"] = self._sigmoids(features, truths, matches)
            else:
                m = matches[matches.last]
                labelled["class"] = _Labelled(m.b, m.a, m.y, m.x, truths.nodes[m.truth])
                if self.config.mode == "darknet" and len(m) < len(matches):
                    terms["class"] = self._groups_left(features, truths, matches)
        return terms

    def _prior(self, raw: Tensor, free: Tensor) -> Tensor:
        """Every anchor without an object aims at the middle of its cell and its prior's shape."""
        centre = F.softplus(raw[:, :, :2]) - 0.5 * raw[:, :, :2]  # BCE with target 0.5
        shape = 0.5 * raw[:, :, 2:4].square()
        return _sum_where(centre.sum(2) + shape.sum(2), free)

    def _objects(self, raw: Tensor, predicted: Tensor, truths: Truths, m: Matches) -> dict[str, Tensor]:
        """Box and objectness of the matched anchors; in `m` every anchor once."""
        own = raw[m.b, m.a, :, m.y, m.x]  # [M,5]
        truth = truths.boxes[m.truth].to(raw.dtype)  # [M,4]
        rows, columns = raw.shape[-2:]
        grid = truth.new_tensor((columns, rows))
        anchors = self.head.anchors[m.a].to(raw.dtype)
        if self.config.box == "giou":
            boxes = decode_boxes(own[:, :4], anchors, m.x.to(raw.dtype), m.y.to(raw.dtype), (rows, columns))
            box = 1 - paired_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(truth))
        else:
            centre = truth[:, :2] * grid - torch.stack((m.x, m.y), 1)
            shape = (truth[:, 2:] * grid / anchors).clamp(min=1e-6).log()
            box = _bce(own[:, :2], centre).sum(1) + 0.5 * (own[:, 2:4] - shape).square().sum(1)
        small = 2 - truth[:, 2] * truth[:, 3]  # small boxes weigh more (region_layer.c)
        if self.rules.rescore:
            target = paired_iou(cxcywh_to_xyxy(predicted[m.b, m.a, m.y, m.x]), cxcywh_to_xyxy(truth))
        else:
            target = torch.ones_like(small)
        return {"box": (small * box).sum(), "object": _bce(own[:, 4], target).sum()}

    def _sigmoids(self, features: Tensor, truths: Truths, matches: Matches) -> Tensor:
        """Class term of the matched anchors where every class is a sigmoid of its own."""
        m, before = matches[matches.last], matches[~matches.last]
        logits = self.head.class_logits(features, m.b, m.a, m.y, m.x).to(_precise(features))
        target = F.one_hot(truths.nodes[m.truth], logits.shape[1]).to(logits.dtype)
        anchor = (before.slot[:, None] == m.slot).long().argmax(1)
        target[anchor, truths.nodes[before.truth]] = 1
        return _bce(logits, target).sum()

    def _groups_left(self, features: Tensor, truths: Truths, matches: Matches) -> Tensor:
        """What of the path of an earlier truth no later one on its anchor overwrites in darknet.

        delta_region_class in region_layer.c writes the sibling groups on the path of each truth, one truth
        after the other.
        """
        ops = self.head.ops
        paths = ops.path[truths.nodes[matches.truth]]  # [M,L]
        present = paths >= 0
        key = matches.slot[:, None] * ops.groups + ops.group[paths.clamp(min=0)]
        left = torch.zeros_like(present)
        left[present] = last_of_each(key[present])
        left[matches.last] = False
        m, paths, left = matches[left.any(1)], paths[left.any(1)], left[left.any(1)]
        conditional = ops.log_softmax(self.head.class_logits(features, m.b, m.a, m.y, m.x))
        return -_sum_where(conditional.gather(1, paths.clamp(min=0)), left)

    def _classification(
        self,
        features: Tensor,
        raw: Tensor,
        regions: Truths,
        labelled: dict[str, _Labelled],
    ) -> dict[str, Tensor]:
        """Terms of classification images, whole ones and those in mosaics, likewise."""
        index, nodes = regions.image_index, regions.nodes
        own = features[index]
        cells = inner_cells(regions.boxes, features.shape[-2:])  # [R,H,W]
        a, y, x = self._choose(own, raw[index], nodes, cells)
        objectness = raw[index, a, 4, y, x]
        assumed = self.config.classification_iou
        terms = {"image_class": raw.new_zeros(())}
        if self.independent:
            logits = self.head.class_logits(features, index, a, y, x).to(_precise(features))
            terms["image_class"] = _bce(logits, F.one_hot(nodes, logits.shape[1]).to(logits.dtype)).sum()
        else:
            labelled["image_class"] = _Labelled(index, a, y, x, nodes)
        if self.config.whole_scale:
            share = cells.float() / cells.sum((1, 2), keepdim=True)
            terms["image_whole"] = self._whole((own * share[:, None]).sum((2, 3), keepdim=True), nodes)
        if self.config.mode == "darknet":
            others = _any_of(cells, index, len(raw))[:, None].repeat(1, raw.shape[1], 1, 1)
            others[index, a, y, x] = False
            terms["noobject"] = _sum_where(F.softplus(raw[:, :, 4]), others)
        elif assumed > 0:
            low = objectness.detach().sigmoid() < assumed
            terms["image_object"] = (_bce(objectness, torch.full_like(objectness, assumed)) * low).sum()
        return terms

    def _whole(self, features: Tensor, nodes: Tensor) -> Tensor:
        """Class term of classification images as wholes, of their mean features [R,D,1,1]."""
        if not self.independent:
            return self.head.whole_nll(features, nodes, self.config.smoothing).sum()
        logits = self.head.classify(features).to(_precise(features))
        return _bce(logits, F.one_hot(nodes, logits.shape[1]).to(logits.dtype)).sum()

    @torch.no_grad()
    def _choose(
        self, features: Tensor, raw: Tensor, nodes: Tensor, cells: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The anchor (a, y, x), in one of its cells, that gets the class loss of a classification image."""
        rule = self.config.classification_box or ("score" if self.config.mode == "darknet" else "objectness")
        if rule in ("likeliest", "score"):
            value = self._label_log_probs(features, nodes)  # [B,A,H,W]
            if rule == "score":
                value = value + F.logsigmoid(raw[:, :, 4])
        elif rule == "objectness":
            value = raw[:, :, 4]
        else:
            value = raw[:, :, 2] + raw[:, :, 3] + self.head.anchors.log().sum(1)[:, None, None]
        _, rows, columns = value.shape[1:]
        best = value.masked_fill(~cells[:, None], -torch.inf).flatten(1).argmax(1)
        return best // (rows * columns), best // columns % rows, best % columns

    def _label_log_probs(self, features: Tensor, nodes: Tensor) -> Tensor:
        """Log P(label) at every anchor of every image: [B,A,H,W]."""
        if not self.independent:
            return self.head.path_log_probs(features, nodes)
        dense = self.head.dense(features)  # [B,A,5+N,H,W]
        image = torch.arange(len(nodes), device=nodes.device)
        return F.logsigmoid(dense[image, :, BOX_CHANNELS + nodes])


def _regions(batch: Batch) -> Truths:
    """Where the batch shows classification images: whole ones first."""
    index = (batch.labels >= 0).nonzero()[:, 0]
    whole = batch.tiles.new_tensor([0.5, 0.5, 1.0, 1.0]).expand(len(index), 4)
    return Truths(
        torch.cat((whole, batch.tiles)),
        torch.cat((batch.labels[index], batch.tile_nodes)),
        torch.cat((index, batch.tile_index)),
    )


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The terms, each by the weight of its name, added up: a scalar."""
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()


def _any_of(cells: Tensor, image_index: Tensor, images: int) -> Tensor:
    """[B,H,W] cells that belong to a region of their image, from [R,H,W]."""
    count = torch.zeros((images, *cells.shape[1:]), dtype=torch.long, device=cells.device)
    return count.index_add_(0, image_index, cells.long()) > 0


def _bce(logit: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logit, target, reduction="none")


def _sum_where(value: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, value, 0).sum()


def _precise(features: Tensor) -> torch.dtype:
    """The type in which losses are computed: float32 at least."""
    return torch.promote_types(features.dtype, torch.float32)
