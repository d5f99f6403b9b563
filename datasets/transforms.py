"""From a `Sample` to the network's input: random window, flip and colour, or the plain letterbox.

Legend: `S` side of the square input in pixels, `M` boxes. Geometry runs on uint8, once an image: the
visible part of the window is cut out and resized straight to its place; colour runs on the small result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from yolo9000.boxes import xyxy_to_cxcywh
from yolo9000.datasets.sample import Sample
from yolo9000.errors import ConfigError
from yolo9000.letterbox import letterbox

GREY = 127  # fill around the image: darknet's 0.5 (image.c, letterbox_image)
MIN_SIDE = 1.0  # pixels of the input; a thinner box carries nothing to learn


@dataclass(frozen=True)
class Example:
    """One image as the network sees it.

    Attributes:
        image: float32 [3, S, S] in 0..1, RGB.
        boxes: float32 [M, 4] centre x, centre y, width, height as fractions of the input, inside it.
        nodes: int64 [M].
        label: Node of a classification image, -1 for a detection image.
        source: File of the image.
        tiles: float32 [R, 4] where a mosaic shows classification images, in the form of `boxes`.
        tile_nodes: int64 [R] their nodes.
    """

    image: Tensor
    boxes: Tensor
    nodes: Tensor
    label: int
    source: str
    tiles: Tensor
    tile_nodes: Tensor


class _Labels(NamedTuple):
    """Boxes (XYXY, pixels of the canvas) and their nodes."""

    boxes: NDArray[np.float32]
    nodes: NDArray[np.int64]

    @classmethod
    def none(cls) -> _Labels:
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))

    def flipped(self, size: int) -> _Labels:
        boxes = self.boxes.copy()
        boxes[:, [0, 2]] = size - boxes[:, [2, 0]]
        return _Labels(boxes, self.nodes)

    def shifted(self, x: int, y: int) -> _Labels:
        return _Labels(self.boxes + np.asarray([x, y, x, y], np.float32), self.nodes)

    def tensors(self, size: int) -> tuple[Tensor, Tensor]:
        """Boxes cxcywh as fractions of the canvas, and nodes."""
        boxes = torch.from_numpy(self.boxes.astype(np.float32))
        return xyxy_to_cxcywh(boxes) / size, torch.from_numpy(self.nodes.copy())


@dataclass(frozen=True)
class _Placement:
    """Where a part of an image lies on the canvas: x' = scale_x · x + shift_x, and the pixels it covers."""

    scale: tuple[float, float]
    shift: tuple[float, float]
    area: tuple[int, int, int, int]  # XYXY on the canvas


class TrainTransform:
    """Random changes after the paper, section 3 (darknet: data.c, load_data_region).

    A window is drawn whose four edges lie up to `jitter` of the image's sides inside or outside the image.
    As in darknet it is stretched to the proportions of the whole image, so that objects change their shape a
    little; it is then fitted to the square input and placed at random in the room left over, grey where
    there is no image. Boxes follow; one of which less than `min_visible` of its area is left in the
    picture, or that is thinner than a pixel, is dropped, and so are ignored ones. Classification images
    take the same path, so that objects vary in size, unless `crop` is given.

    Args:
        jitter: Largest move of the window's edges, as a share of the image's sides.
        hue: Largest shift of the hue, in turns.
        saturation: Largest factor on the saturation, or on its inverse.
        exposure: Largest factor on the value, or on its inverse.
        flip: Probability of a left-right flip.
        mosaic: Probability that a detection image becomes one of four, each filling a quarter around a random
            centre. What else a mosaic shows may be classification images, of which no box is known: their
            places and nodes are the `tiles` of the example.
        scale: Range of a further factor on the window's size on the input: (0.5, 1) also shows it at half
            size.
        crop: For classification, the range of the area of a random crop, as a share of the image, with its
            aspect between 3:4 and 4:3 of the image's, stretched over the whole input; None: the same path as
            detection.
        min_visible: Least share of a box's area that must remain for the box to stay.

    Raises:
        ConfigError: A value is out of its range; all of them are listed.
    """

    def __init__(
        self,
        *,
        jitter: float = 0.2,
        hue: float = 0.1,
        saturation: float = 1.5,
        exposure: float = 1.5,
        flip: float = 0.5,
        mosaic: float = 0.0,
        scale: tuple[float, float] = (1.0, 1.0),
        crop: tuple[float, float] | None = None,
        min_visible: float = 0.25,
    ) -> None:
        self.jitter, self.hue, self.saturation, self.exposure = jitter, hue, saturation, exposure
        self.flip, self.mosaic, self.scale, self.crop, self.min_visible = (
            flip,
            mosaic,
            scale,
            crop,
            min_visible,
        )
        self._check()

    def _check(self) -> None:
        ranges = {
            "jitter": (self.jitter, 0, 0.45),
            "hue": (self.hue, 0, 1 / 3),
            "saturation": (self.saturation, 1, 10),
            "exposure": (self.exposure, 1, 10),
            "flip": (self.flip, 0, 1),
            "mosaic": (self.mosaic, 0, 1),
            "min_visible": (self.min_visible, 0, 1),
            "scale[0]": (self.scale[0], 0.05, self.scale[1]),
            "scale[1]": (self.scale[1], self.scale[0], 4),
        }
        if self.crop is not None:
            ranges["crop[0]"] = (self.crop[0], 0.01, self.crop[1])
            ranges["crop[1]"] = (self.crop[1], self.crop[0], 1)
        wrong = [f"{k}: expected {a} to {b}, got {v}" for k, (v, a, b) in ranges.items() if not a <= v <= b]
        if wrong:
            raise ConfigError("augmentation refused:\n" + "\n".join(f"  - {line}" for line in wrong))

    def __call__(
        self,
        sample: Sample,
        size: int,
        rng: np.random.Generator,
        more: Callable[[np.random.Generator], Sample] | None = None,
    ) -> Example:
        """Transform one image.

        Args:
            sample: The image with its labels.
            size: Side of the input, S.
            rng: All randomness comes from here.
            more: Gives further images for a mosaic, of either kind; None: no mosaic.
        """
        canvas = torch.full((3, size, size), GREY, dtype=torch.uint8)
        boxes, tiles = _Labels.none(), _Labels.none()
        if sample.kind == "classification" and self.crop is not None:
            self._place_crop(sample, canvas, rng)
        elif sample.kind == "detection" and more is not None and rng.random() < self.mosaic:
            boxes, tiles = self._place_mosaic([sample, *(more(rng) for _ in range(3))], canvas, rng)
        else:
            boxes, _ = self._place_window(sample, canvas, rng)
        if rng.random() < self.flip:
            canvas = F.horizontal_flip(canvas)
            boxes, tiles = boxes.flipped(size), tiles.flipped(size)
        image = canvas.to(torch.float32).mul_(1 / 255)
        distort(image, *self._colour(rng))
        return _example(image, boxes, tiles, sample, size)

    def _colour(self, rng: np.random.Generator) -> tuple[float, float, float]:
        """Shift of the hue and factors on saturation and value (image.c, random_distort_image)."""
        factors = [rng.uniform(1, s) ** rng.choice((-1, 1)) for s in (self.saturation, self.exposure)]
        return float(rng.uniform(-self.hue, self.hue)), float(factors[0]), float(factors[1])

    def _window(self, sample: Sample, rng: np.random.Generator) -> tuple[float, float, float, float]:
        height, width = sample.image.shape[-2:]
        left, top, right, bottom = rng.uniform(-self.jitter, self.jitter, 4)
        return left * width, top * height, (1 - right) * width, (1 - bottom) * height

    def _place_window(
        self, sample: Sample, canvas: Tensor, rng: np.random.Generator, *, cover: bool = False
    ) -> tuple[_Labels, _Labels]:
        """Draw a window of the image; its boxes, and where it shows a classification image."""
        x0, y0, x1, y1 = self._window(sample, rng)
        (height, width), (image_h, image_w) = canvas.shape[-2:], sample.image.shape[-2:]
        fit = max if cover else min
        ratio = fit(width / image_w, height / image_h) * float(rng.uniform(*self.scale))
        scale = (ratio * image_w / (x1 - x0), ratio * image_h / (y1 - y0))
        room_x, room_y = width - ratio * image_w, height - ratio * image_h
        shift = (rng.random() * room_x - scale[0] * x0, rng.random() * room_y - scale[1] * y0)
        placement = _paste(sample.image, canvas, scale, shift)
        tile = _Labels.none()
        if sample.kind == "classification":
            tile = _Labels(np.asarray([placement.area], np.float32), sample.nodes.numpy())
        return _clip(_moved(sample, placement), placement, self.min_visible), tile

    def _place_mosaic(
        self, samples: list[Sample], canvas: Tensor, rng: np.random.Generator
    ) -> tuple[_Labels, _Labels]:
        size = canvas.shape[-1]
        x, y = (int(value) for value in rng.integers(size // 4, size - size // 4 + 1, 2))
        quarters = ((0, 0, x, y), (x, 0, size, y), (0, y, x, size), (x, y, size, size))
        found = []
        for sample, (x0, y0, x1, y1) in zip(samples, quarters, strict=True):
            labels = self._place_window(sample, canvas[:, y0:y1, x0:x1], rng, cover=True)
            found.append([part.shifted(x0, y0) for part in labels])
        boxes, tiles = (
            _Labels(*map(np.concatenate, zip(*parts, strict=True))) for parts in zip(*found, strict=True)
        )
        return boxes, tiles

    def _place_crop(self, sample: Sample, canvas: Tensor, rng: np.random.Generator) -> None:
        assert self.crop is not None
        height, width = sample.image.shape[-2:]
        area, aspect = rng.uniform(*self.crop), np.exp(rng.uniform(-1, 1) * np.log(4 / 3))
        w, h = width * min(1.0, (area * aspect) ** 0.5), height * min(1.0, (area / aspect) ** 0.5)
        x0, y0 = rng.random() * (width - w), rng.random() * (height - h)
        scale = (canvas.shape[-1] / w, canvas.shape[-2] / h)
        _paste(sample.image, canvas, scale, (-x0 * scale[0], -y0 * scale[1]))


class EvalTransform:
    """The whole image, aspect kept, centred on grey: darknet's letterbox (image.c, letterbox_image).

    Ignored boxes are dropped as in training; nothing is random.
    """

    def __call__(
        self,
        sample: Sample,
        size: int,
        rng: np.random.Generator | None = None,
        more: Callable[[np.random.Generator], Sample] | None = None,
    ) -> Example:
        """Transform one image to [3, `size`, `size`]; `rng` and `more` are not used."""
        image, fit = letterbox(sample.image.as_subclass(torch.Tensor), (size, size))
        height, width = sample.image.shape[-2:]
        (new_h, new_w), left, top = fit.resized, int(fit.left), int(fit.top)
        placement = _Placement(
            (new_w / width, new_h / height), (left, top), (left, top, left + new_w, top + new_h)
        )
        return _example(image, _clip(_moved(sample, placement), placement, 0.0), _Labels.none(), sample, size)


def _paste(
    image: Tensor, canvas: Tensor, scale: tuple[float, float], shift: tuple[float, float]
) -> _Placement:
    """Draw `image` at x' = scale·x + shift, in whole pixels of both, and say where exactly."""
    spans = [
        _span(image.shape[-1 - axis], canvas.shape[-1 - axis], scale[axis], shift[axis]) for axis in (0, 1)
    ]
    (sx0, sx1, cx0, cx1), (sy0, sy1, cy0, cy1) = spans
    part = image.as_subclass(torch.Tensor)[:, sy0:sy1, sx0:sx1]
    canvas[:, cy0:cy1, cx0:cx1] = F.resize(part, [cy1 - cy0, cx1 - cx0], antialias=True)
    exact = ((cx1 - cx0) / (sx1 - sx0), (cy1 - cy0) / (sy1 - sy0))
    return _Placement(exact, (cx0 - exact[0] * sx0, cy0 - exact[1] * sy0), (cx0, cy0, cx1, cy1))


def _span(source: int, target: int, scale: float, shift: float) -> tuple[int, int, int, int]:
    """Whole pixels [s0, s1) of the source, and [t0, t1) of the target that they fill; at least one each."""
    s0 = min(max(floor(-shift / scale), 0), source - 1)
    s1 = max(min(ceil((target - shift) / scale), source), s0 + 1)
    t0 = min(max(round(scale * s0 + shift), 0), target - 1)
    t1 = max(min(round(scale * s1 + shift), target), t0 + 1)
    return s0, s1, t0, t1


def _moved(sample: Sample, placement: _Placement) -> _Labels:
    """Boxes (not cut) and nodes of a sample, without ignored ones."""
    if sample.kind == "classification":
        return _Labels.none()
    keep = ~sample.ignored.numpy()
    boxes = sample.boxes.as_subclass(torch.Tensor).numpy()[keep]
    moved = boxes * np.tile(placement.scale, 2) + np.tile(placement.shift, 2)
    return _Labels(moved.astype(np.float32), sample.nodes.numpy()[keep])


def _clip(labels: _Labels, placement: _Placement, min_visible: float) -> _Labels:
    """Cut boxes to the placed area; drop those of which too little is left."""
    boxes = labels.boxes
    x0, y0, x1, y1 = placement.area
    low, high = np.asarray([x0, y0, x0, y0], np.float32), np.asarray([x1, y1, x1, y1], np.float32)
    cut = boxes.clip(low, high)
    sides, whole = cut[:, 2:] - cut[:, :2], boxes[:, 2:] - boxes[:, :2]
    visible = sides.prod(axis=1) >= min_visible * whole.prod(axis=1)
    keep = visible & (sides >= MIN_SIDE).all(axis=1)
    return _Labels(cut[keep], labels.nodes[keep])


def _example(image: Tensor, boxes: _Labels, tiles: _Labels, sample: Sample, size: int) -> Example:
    label = int(sample.nodes[0]) if sample.kind == "classification" else -1
    return Example(image, *boxes.tensors(size), label, sample.source, *tiles.tensors(size))


def distort(image: Tensor, hue: float, saturation: float, exposure: float) -> Tensor:
    """Change hue, saturation and value in place (darknet: image.c, distort_image), by closed formulas.

    With V the largest and m the smallest channel, chroma C = V − m, and the hue angle h in sixths of a turn
    (red 0, green 2, blue 4), every channel is V − C · clamp(d − 1, 0, 1), d the distance of h from the
    channel's own angle around the circle: so the new channels follow from h + 6·hue, C · saturation (at
    most V) and V · exposure.

    Args:
        image: float32 [3, H, W] in 0..1, RGB, contiguous.
        hue: Shift in turns, −1/3 to 1/3 (beyond, the distance on the circle would have to be wrapped twice).
        saturation: Factor.
        exposure: Factor; the result is cut off at 1.

    Returns:
        `image`.
    """
    red, green, blue = image
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    from_green, from_blue = (blue - red).add_(chroma, alpha=2), (red - green).add_(chroma, alpha=4)
    angle = torch.where(red == value, green - blue, torch.where(green == value, from_green, from_blue))
    angle.div_(chroma.clamp(min=1e-6)).add_(6 * hue)  # -3 to 7
    chroma = torch.minimum(chroma.mul_(saturation), value)
    torch.sub(angle, torch.tensor([0.0, 2.0, 4.0]).view(3, 1, 1), out=image)
    image.abs_().sub_(3).abs_().sub_(2).clamp_(-1, 0)  # 1 - distance around the circle of 6, cut off
    image.mul_(chroma).add_(value)
    return image.mul_(exposure).clamp_(0, 1)


__all__ = ["EvalTransform", "Example", "TrainTransform", "distort"]
