"""From head output to detections: boxes, the gate on objectness, and the walk down the tree.

Letters: B batch, A anchors per cell, D feature channels, H and W grid, N tree nodes, K anchors above the
threshold, L levels, M anchors that an exported network keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeAlias, get_args

import torch
from torch import Tensor

from yolo9000.errors import ConfigError, WeightsError
from yolo9000.fusion import cluster
from yolo9000.head import BOX_CHANNELS, RegionHead, gather_vectors
from yolo9000.letterbox import Letterbox

DecoderMode = Literal["paper", "darknet"]
Walk: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# Natural log of the largest factor on a prior: e^20 is far outside any image, and keeps untrained networks
# finite.
_MAX_LOG_FACTOR = 20.0
# Class logits held at a time, 64 MiB of float32: a flood of anchors is decoded in slices.
_MAX_LOGITS = 1 << 24
# Of several views: anchors of this objectness take part in the mean, for low thresholds those of a quarter of
# it. Above four times as much a threshold changes no box and no score.
_GATE = 0.05


@dataclass(frozen=True)
class RawDetections:
    """Detections of one image in network coordinates, before duplicate suppression; parallel tensors.

    Attributes:
        boxes: [K, 4] cxcywh, fractions of the network input (not clipped).
        objectness: [K] σ(to).
        nodes: [K] label chosen by the decoder.
        scores: [K] the decoder's score of that label.
        paths: [K, L] the likeliest path from the top group to a leaf, long, padded with −1 below the leaf;
            every label is on its path. Where the classes were given or the tree is flat: the path to the
            label.
        path_probs: [K, L] P(node | parent) of each step, 1 in the padding, so any depth can be chosen
            afterwards.
    """

    boxes: Tensor
    objectness: Tensor
    nodes: Tensor
    scores: Tensor
    paths: Tensor
    path_probs: Tensor

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Kept:
    """What an exported network keeps of a batch: M anchors an image, in any order.

    Attributes:
        boxes: [B, M, 4] cxcywh, fractions of the network input.
        objectness: [B, M] σ(to); 0 in rows that stand for no anchor.
        logits: [B, M, N] class logits; may be None where there are paths.
        paths: [B, M, L] likeliest paths, as from `TreeOps.descend`; None: find them from the logits.
        path_probs: [B, M, L] P(node | parent) of each step, 1 in the padding.
    """

    boxes: Tensor
    objectness: Tensor
    logits: Tensor | None = None
    paths: Tensor | None = None
    path_probs: Tensor | None = None


@dataclass(frozen=True)
class _Candidates:
    """Anchors that passed the gate, sorted by image and then by objectness.

    Attributes:
        place: Where their classes are found, tensors [K] that begin with the image: image, anchor, row,
            column; or image, position among the kept.
        objectness: [K].
        boxes: [K, 4], see `RawDetections`.
    """

    place: tuple[Tensor, ...]
    objectness: Tensor
    boxes: Tensor

    @property
    def image(self) -> Tensor:
        return self.place[0]

    def rows(self, pick: Tensor) -> _Candidates:
        """Some of them, by number or mask."""
        return _Candidates(tuple(part[pick] for part in self.place), self.objectness[pick], self.boxes[pick])

    def of(self, image: int) -> _Candidates:
        """Those of one image."""
        return self.rows(self.image == image)

    def split(self, size: int) -> list[_Candidates]:
        fields = (self.objectness, self.boxes, *self.place)
        parts = zip(*(torch.split(f, size) for f in fields), strict=True)
        return [_Candidates(tuple(place), objectness, boxes) for objectness, boxes, *place in parts]


class _Labels(NamedTuple):
    """What the candidates are: one row a label, which is candidate number `pick`."""

    pick: Tensor
    nodes: Tensor
    scores: Tensor
    paths: Tensor
    path_probs: Tensor


class _Classes(Protocol):
    """Where class logits come from."""

    def logits(self, at: _Candidates) -> Tensor:
        """[K, N] of K candidates."""

    def descend(self, at: _Candidates) -> tuple[Tensor, Tensor]:
        """Likeliest path and its log-probabilities, [K, L] each, see `TreeOps.descend`."""


@dataclass(frozen=True)
class _Gated:
    """Classes from the head's rows, computed only where and as far as they are asked for: the fast path."""

    head: RegionHead
    features: Tensor  # [B, D, H, W]
    walk: Walk | None

    def logits(self, at: _Candidates) -> Tensor:
        image, anchor, row, column = at.place
        return self.head.class_logits(self.features, image, anchor, row, column)

    def descend(self, at: _Candidates) -> tuple[Tensor, Tensor]:
        image, anchor, row, column = at.place
        if self.walk is None:
            return self.head.descend(self.features, image, anchor, row, column)
        return self.walk(gather_vectors(self.features, image, row, column), anchor)


@dataclass(frozen=True)
class _Dense:
    """Classes out of the whole output of the last convolution: the reference."""

    head: RegionHead
    region: Tensor  # [B, A, 5 + N, H, W]

    def logits(self, at: _Candidates) -> Tensor:
        image, anchor, row, column = at.place
        return self.region[image, anchor, BOX_CHANNELS:, row, column]

    def descend(self, at: _Candidates) -> tuple[Tensor, Tensor]:
        return self.head.ops.descend(self.logits(at))


@dataclass(frozen=True)
class _Rows:
    """Class logits that are there already: one row [N] a candidate, by the second part of its place."""

    head: RegionHead
    rows: Tensor  # [K, N]

    def logits(self, at: _Candidates) -> Tensor:
        return self.rows[at.place[1]]

    def descend(self, at: _Candidates) -> tuple[Tensor, Tensor]:
        return self.head.ops.descend(self.logits(at))


@dataclass(frozen=True)
class _Exported:
    """Classes out of what an exported network kept."""

    head: RegionHead
    kept: Kept

    def logits(self, at: _Candidates) -> Tensor:
        assert self.kept.logits is not None
        return self.kept.logits[at.place]

    def descend(self, at: _Candidates) -> tuple[Tensor, Tensor]:
        if self.kept.paths is None or self.kept.path_probs is None:
            return self.head.ops.descend(self.logits(at))
        return self.kept.paths[at.place], self.kept.path_probs[at.place].log()


class Decoder:
    """Turns feature maps into detections.

    Both modes walk from the top group down, taking the likeliest child at every split, and stop where a
    product of probabilities would no longer be above `hier_threshold`; the best node of the top group is
    given even where it is not above it.

    - `"paper"`: the product is P(child), the conditional probabilities multiplied once (paper, section 4).
      The score is objectness × P(label).
    - `"darknet"`: what the C code does (`hierarchy_predictions`, then `hierarchy_top_prediction` in tree.c):
      the product is that of the *absolute* probabilities of all nodes from the top to the child, so it stops
      earlier. The score is the objectness.

    Where classes are given, or the tree is flat (a plain class list, no `tree=` in the cfg), there is no
    walk: every class with objectness × P(class) above the threshold is a detection, so one anchor can give
    several. Both modes agree there. That is also what darknet does for a plain list and for a tree with a
    `map`.

    Only detections whose score is above the threshold are returned. A score is never above the objectness, so
    class logits are computed only where the objectness is above the threshold: exactly what the dense head
    would give.

    Args:
        head: The head whose features are decoded.
        mode: `"paper"` or `"darknet"`.
        max_candidates: Anchors per image that get class logits, those of highest objectness first; a bound on
            time and memory where the threshold is next to 0. The 867 anchors of YOLO9000 at 544 px all fit.
        walk: From feature vectors [K, D] and their anchors [K] to the likeliest paths; by default the head's
            own: `descend` on a CPU, `descend_fixed` elsewhere.

    Raises:
        ConfigError: Unknown mode, or a limit below 1.
    """

    def __init__(
        self,
        head: RegionHead,
        mode: DecoderMode = "paper",
        *,
        max_candidates: int = 3000,
        walk: Walk | None = None,
    ) -> None:
        if mode not in get_args(DecoderMode):
            raise ConfigError(f"the decoder is one of {', '.join(get_args(DecoderMode))}; got {mode!r}")
        if max_candidates < 1:
            raise ConfigError(
                f"at least one candidate an image is needed; got max_candidates={max_candidates}"
            )
        self.head = head
        self.mode: DecoderMode = mode
        self.max_candidates = max_candidates
        self.walk = walk
        self.flat = head.ops.groups == 1 and head.region.tree is None
        # softmax=0 without a tree: the sigmoid of every class on its own (forward_region_layer in
        # region_layer.c)
        self.independent = self.flat and not head.region.softmax

    @torch.no_grad()
    def decode(
        self,
        features: Tensor,
        threshold: float = 0.24,
        hier_threshold: float = 0.5,
        *,
        classes: Sequence[int] | None = None,
        raw: Tensor | None = None,
    ) -> list[RawDetections]:
        """Detections of every image of a batch.

        Args:
            features: [B, D, H, W].
            threshold: Detections with a score above it are returned (darknet: 0.24).
            hier_threshold: How sure the walk down the tree must stay (darknet: 0.5); 0 goes to a leaf, 1
                stays at the top.
            classes: Nodes that count as classes, such as the 80 of COCO in a tree of 9,418. None: walk.
            raw: [B, A, 5, H, W] what `RegionHead.boxes` gives, where it is known already.

        Returns:
            One `RawDetections` per image, highest objectness first.

        Raises:
            WeightsError: What the network gives are no numbers.
        """
        raw = self.head.boxes(features) if raw is None else raw
        walk = self.walk
        if walk is None and features.device.type != "cpu":
            walk = self.head.descend_fixed
        source = _Gated(self.head, features, walk)
        return self._decode(raw, source, threshold, hier_threshold, classes)

    @torch.no_grad()
    def decode_views(
        self,
        features: Sequence[Tensor],
        fits: Sequence[Sequence[Letterbox]],
        threshold: float = 0.24,
        hier_threshold: float = 0.5,
        *,
        classes: Sequence[int] | None = None,
    ) -> list[RawDetections]:
        """Detections of every image of a batch out of several views of it, as one: see `yolo9000.fusion`.

        Args:
            features: [B, D, H, W] of each view; H and W may differ.
            fits: Where the B images lie in each view.
            threshold: As in `decode`, for the means over the views.
            hier_threshold: As in `decode`.
            classes: As in `decode`.

        Returns:
            As `decode`; boxes are fractions of the first view's input. Of one view what `decode` gives.
        """
        if (views := len(features)) == 1:
            return self.decode(features[0], threshold, hier_threshold, classes=classes)
        # What is no object in one view counts as objectness 0, where it is in truth below this.
        gate, limit = min(threshold / 4, _GATE), max(1, self.max_candidates // views)
        seen = [self._gate(self.head.boxes(part).float(), gate, limit) for part in features]
        found = []
        for image, fit in enumerate(fits[0]):
            parts = [at.of(image) for at in seen]
            boxes = torch.cat([fits[v][image].unmap(at.boxes, clip=False) for v, at in enumerate(parts)])
            counts = [len(at.boxes) for at in parts]
            view = torch.arange(views).repeat_interleave(torch.tensor(counts)).to(boxes.device)
            one = cluster(boxes, torch.cat([at.objectness for at in parts]), view, views, threshold)
            rows = boxes.new_zeros(len(one.boxes), self.head.ops.nodes)
            member_of, share_of = (torch.split(values, counts) for values in (one.member, one.share))
            for part, at, member, share in zip(features, parts, member_of, share_of, strict=True):
                source, kept = _Gated(self.head, part, None), (member >= 0).nonzero()[:, 0]
                for pick in torch.split(kept, self._slice):
                    logits = source.logits(at.rows(pick)).float() * share[pick, None]
                    rows.index_add_(0, member[pick], logits)
            number = torch.arange(len(rows), device=rows.device)
            at = _Candidates((torch.zeros_like(number), number), one.objectness, fit.map(one.boxes))
            found += self._label(at, _Rows(self.head, rows), 1, threshold, hier_threshold, classes)
        return found

    @torch.no_grad()
    def decode_dense(
        self,
        region: Tensor,
        threshold: float = 0.24,
        hier_threshold: float = 0.5,
        *,
        classes: Sequence[int] | None = None,
    ) -> list[RawDetections]:
        """`decode` from the raw output of the last convolution, as an exported network gives it.

        Args:
            region: [B, A · (5 + N), H, W], or [B, A, 5 + N, H, W] as from `RegionHead.dense`.
            threshold: As in `decode`.
            hier_threshold: As in `decode`.
            classes: As in `decode`.
        """
        region = region.reshape(len(region), self.head.num_anchors, -1, *region.shape[-2:])
        raw = region[:, :, :BOX_CHANNELS]
        return self._decode(raw, _Dense(self.head, region), threshold, hier_threshold, classes)

    @torch.no_grad()
    def decode_kept(
        self,
        kept: Kept,
        threshold: float = 0.24,
        hier_threshold: float = 0.5,
        *,
        classes: Sequence[int] | None = None,
    ) -> list[RawDetections]:
        """`decode` from the anchors that an exported network kept.

        Args:
            kept: What it gave.
            threshold: As in `decode`.
            hier_threshold: As in `decode`.
            classes: As in `decode`; needs the logits.
        """
        check_finite(kept.objectness, kept.boxes)
        place = _above(kept.objectness, threshold, self.max_candidates)
        at = _Candidates(place, kept.objectness[place], kept.boxes[place])
        return self._label(
            at, _Exported(self.head, kept), len(kept.boxes), threshold, hier_threshold, classes
        )

    def _decode(
        self,
        raw: Tensor,
        source: _Classes,
        threshold: float,
        hier_threshold: float,
        classes: Sequence[int] | None,
    ) -> list[RawDetections]:
        at = self._gate(raw.float(), threshold)
        return self._label(at, source, len(raw), threshold, hier_threshold, classes)

    def _label(
        self,
        at: _Candidates,
        source: _Classes,
        images: int,
        threshold: float,
        hier_threshold: float,
        classes: Sequence[int] | None,
    ) -> list[RawDetections]:
        if classes is None and not self.flat:
            labels = self._walk(at, source, hier_threshold)
        else:
            labels = self._classes(at, source, threshold, classes)
        found = labels.scores > threshold
        pick, nodes, scores, paths, path_probs = (field[found] for field in labels)
        fields = (at.boxes[pick], at.objectness[pick], nodes, scores, paths, path_probs)
        counts = at.image[pick].bincount(minlength=images).tolist()
        return [
            RawDetections(*parts) for parts in zip(*(torch.split(f, counts) for f in fields), strict=True)
        ]

    def _gate(self, raw: Tensor, threshold: float, limit: int | None = None) -> _Candidates:
        """Anchors [B, A, 5, H, W] with objectness above the threshold, at most `max_candidates` an image."""
        check_finite(raw)
        height, width = raw.shape[-2:]
        objectness = raw[:, :, 4].sigmoid().flatten(1)
        image, index = _above(objectness, threshold, limit or self.max_candidates)
        cell = index % (height * width)
        anchor, row, column = index // (height * width), cell // width, cell % width
        priors = self.head.anchors[anchor]
        boxes = decode_boxes(raw[image, anchor, :4, row, column], priors, column, row, (height, width))
        return _Candidates((image, anchor, row, column), objectness[image, index], boxes)

    def _walk(self, at: _Candidates, source: _Classes, hier_threshold: float) -> _Labels:
        """One label for every candidate."""
        walks = [source.descend(part) for part in at.split(self._slice)]
        paths, log_probs = (torch.cat(parts) for parts in zip(*walks, strict=True))
        check_finite(log_probs)
        log_absolute = log_probs.cumsum(1)
        product = log_absolute if self.mode == "paper" else log_absolute.cumsum(1)
        level = choose_level(product, paths, hier_threshold)[:, None]
        scores = at.objectness
        if self.mode == "paper":
            scores = scores * log_absolute.gather(1, level).squeeze(1).exp()
        pick = torch.arange(len(paths), device=paths.device)
        return _Labels(pick, paths.gather(1, level).squeeze(1), scores, paths, log_probs.exp())

    def _classes(
        self, at: _Candidates, source: _Classes, threshold: float, classes: Sequence[int] | None
    ) -> _Labels:
        """Every class above the threshold at every candidate."""
        ops = self.head.ops
        wanted = torch.as_tensor(range(ops.nodes) if classes is None else classes, device=at.image.device)
        labels: list[_Labels] = []
        for number, part in enumerate(at.split(self._slice)):
            logits = source.logits(part)
            conditional = logits.float().sigmoid().log() if self.independent else ops.log_softmax(logits)
            probs = ops.path_log_probs(conditional)[:, wanted].exp()
            scores = part.objectness[:, None] * probs
            check_finite(scores)
            pick, which = (scores > threshold).nonzero(as_tuple=True)
            nodes = wanted[which]
            paths = ops.path[nodes]
            steps = conditional[pick[:, None], paths.clamp(min=0)].where(paths >= 0, 0.0).exp()
            labels.append(_Labels(pick + number * self._slice, nodes, scores[pick, which], paths, steps))
        return _Labels(*(torch.cat(parts) for parts in zip(*labels, strict=True)))

    @property
    def _slice(self) -> int:
        return max(1, _MAX_LOGITS // self.head.ops.nodes)


def check_finite(*values: Tensor) -> None:
    """Refuse what is no number: compared with a threshold it would pass for a picture without objects.

    Raises:
        WeightsError: A value is NaN or infinity.
    """
    if not all(bool(tensor.isfinite().all()) for tensor in values):
        raise WeightsError(
            "the network's output holds NaN or infinity: its weights are damaged, its training diverged, or "
            "(with fp16) its numbers overflow. Take another copy or an earlier checkpoint, or fp32."
        )


def _above(objectness: Tensor, threshold: float, limit: int) -> tuple[Tensor, Tensor]:
    """Image and position [K] of what is above the threshold in [B, M], best first, at most `limit` a row."""
    best, index = objectness.topk(min(limit, objectness.shape[1]))
    image, rank = (best > threshold).nonzero(as_tuple=True)
    return image, index[image, rank]


def decode_boxes(raw: Tensor, priors: Tensor, column: Tensor, row: Tensor, grid: Sequence[int]) -> Tensor:
    """Boxes from raw outputs.

    Paper, section 2, "Direct location prediction", and `get_region_box` in region_layer.c: bx = (σ(tx) + cx)
    / W, by = (σ(ty) + cy) / H, bw = pw · e^tw / W, bh = ph · e^th / H.

    Args:
        raw: [..., 4] tx, ty, tw, th.
        priors: [..., 2] width pw and height ph of each prior, grid cells.
        column: [...] grid column cx of each cell.
        row: [...] grid row cy of each cell.
        grid: Height H and width W of the grid.

    Returns:
        [..., 4] cxcywh, fractions of the network input. Differentiable.
    """
    height, width = grid
    size = torch.tensor((width, height), dtype=raw.dtype, device=raw.device)
    centre = (raw[..., :2].sigmoid() + torch.stack((column, row), -1)) / size
    return torch.cat((centre, priors * raw[..., 2:4].clamp(max=_MAX_LOG_FACTOR).exp() / size), -1)


def choose_level(log_products: Tensor, paths: Tensor, hier_threshold: float) -> Tensor:
    """Level of the label on every path: the deepest whose product, like all above it, is over the threshold.

    Args:
        log_products: [K, L] log of the product of probabilities up to each step.
        paths: [K, L] nodes, padded with −1.
        hier_threshold: A probability.

    Returns:
        [K] long, 0 (the top group) where not even the first step is over the threshold.
    """
    sure = (log_products.exp() > hier_threshold) & (paths >= 0)
    return (sure.long().cumprod(1).sum(1) - 1).clamp(min=0)
