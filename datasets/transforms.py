"""From a `Sample` to the network's input: random window, flip and colour, or the plain letterbox.

Legend: `H` and `W` height and width of the input in pixels, `M` boxes. What is random is decided first, as a
`Drawing` that knows where every part of the picture comes from; then it is drawn: here, by the loader's
processes, or on the training device (`yolo9000.datasets.bank`). Here geometry runs on uint8, once an image:
the visible part of the window is cut out and resized straight to its place; colour runs on the small result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from math import ceil, floor
from typing import Any, NamedTuple, TypeAlias

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

Size: TypeAlias = int | tuple[int, int]  # side of a square input, or height and width, pixels


def sides(size: Size) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else size


@dataclass(frozen=True, kw_only=True)
class Taught:
    """What a picture teaches.

    Attributes:
        boxes: float32 [M, 4] centre x, centre y, width, height as fractions of the input, inside it.
        nodes: int64 [M].
        label: Node of a classification image, -1 for a detection image.
        source: File of the image.
        tiles: float32 [R, 4] where a mosaic shows classification images, in the form of `boxes`.
        tile_nodes: int64 [R] their nodes.
    """

    boxes: Tensor
    nodes: Tensor
    label: int
    source: str
    tiles: Tensor
    tile_nodes: Tensor


@dataclass(frozen=True, kw_only=True)
class Example(Taught):
    """One image as the network sees it.

    Attributes:
        image: float32 [3, H, W] in 0..1, RGB.
    """

    image: Tensor


class Paste(NamedTuple):
    """Part of an image that fills a part of the picture, both XYXY in whole pixels.

    Attributes:
        image: uint8 [3, H, W].
        stored: Position in an `ImageBank`, where the image is from one.
        part: What is shown of it.
        area: Where in the picture, before a flip.
    """

    image: Tensor
    stored: int | None
    part: tuple[int, int, int, int]
    area: tuple[int, int, int, int]


class Colours(NamedTuple):
    """Shift of the hue in turns, factors on saturation and value; see `distort`."""

    hue: float
    saturation: float
    exposure: float


@dataclass(frozen=True, kw_only=True)
class Drawing(Taught):
    """One image as the network will see it, yet to be drawn on grey.

    Attributes:
        size: Height and width of the picture.
        pastes: What it shows; no two overlap.
        flip: Whether left and right are exchanged in the end. The boxes are where they are after that.
        colours: The change of its colours.
    """

    size: tuple[int, int]
    pastes: tuple[Paste, ...]
    flip: bool
    colours: Colours

    def draw(self) -> Example:
        """The picture."""
        canvas = torch.full((3, *self.size), GREY, dtype=torch.uint8)
        for image, _, (sx0, sy0, sx1, sy1), (cx0, cy0, cx1, cy1) in self.pastes:
            part = image.as_subclass(torch.Tensor)[:, sy0:sy1, sx0:sx1]
            canvas[:, cy0:cy1, cx0:cx1] = F.resize(part, [cy1 - cy0, cx1 - cx0], antialias=True)
        if self.flip:
            canvas = F.horizontal_flip(canvas)
        image = distort(canvas.to(torch.float32).mul_(1 / 255), *self.colours)
        taught = {each.name: getattr(self, each.name) for each in fields(Taught)}
        return Example(image=image, **taught)


class _Labels(NamedTuple):
    """Boxes (XYXY, pixels of the canvas) and their nodes."""

    boxes: NDArray[np.float32]
    nodes: NDArray[np.int64]

    @classmethod
    def none(cls) -> _Labels:
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))

    def flipped(self, width: int) -> _Labels:
        boxes = self.boxes.copy()
        boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
        return _Labels(boxes, self.nodes)

    def shifted(self, x: int, y: int) -> _Labels:
        return _Labels(self.boxes + np.asarray([x, y, x, y], np.float32), self.nodes)

    def tensors(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Boxes cxcywh as fractions of the canvas, and nodes."""
        boxes = xyxy_to_cxcywh(torch.from_numpy(self.boxes.astype(np.float32)))
        return boxes / torch.tensor([width, height] * 2), torch.from_numpy(self.nodes.copy())


def _taught(sample: Sample, size: tuple[int, int], boxes: _Labels, tiles: _Labels) -> dict[str, Any]:
    """The fields of `Taught`, of a picture of `sample` and maybe others."""
    (cxcywh, nodes), (places, tile_nodes) = boxes.tensors(*size), tiles.tensors(*size)
    return {
        "boxes": cxcywh,
        "nodes": nodes,
        "label": int(sample.nodes[0]) if sample.kind == "classification" else -1,
        "source": sample.source,
        "tiles": places,
        "tile_nodes": tile_nodes,
    }


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
    little; it is then fitted to the input and placed at random in the room left over, grey where
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
        for name, pair in (("scale", self.scale), ("crop", self.crop)):
            if pair is not None and len(pair) != 2:
                raise ConfigError(f"augmentation refused: {name}: expected two numbers, got {list(pair)}")
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
        size: Size,
        rng: np.random.Generator,
        more: Callable[[np.random.Generator], Sample] | None = None,
    ) -> Example:
        """Transform one image; arguments as those of `plan`."""
        return self.plan(sample, size, rng, more).draw()

    def plan(
        self,
        sample: Sample,
        size: Size,
        rng: np.random.Generator,
        more: Callable[[np.random.Generator], Sample] | None = None,
    ) -> Drawing:
        """Decide how one image is transformed. Of the images' pixels only the shape is looked at.

        Args:
            sample: The image with its labels.
            size: Side of a square input, or height and width, pixels.
            rng: All randomness comes from here.
            more: Gives further images for a mosaic, of either kind; None: no mosaic.
        """
        height, width = sides(size)
        canvas = _Canvas((0, 0, width, height))
        boxes, tiles = _Labels.none(), _Labels.none()
        if sample.kind == "classification" and self.crop is not None:
            self._place_crop(sample, canvas, rng)
        elif sample.kind == "detection" and more is not None and rng.random() < self.mosaic:
            boxes, tiles = self._place_mosaic([sample, *(more(rng) for _ in range(3))], canvas, rng)
        else:
            boxes, _ = self._place_window(sample, canvas, rng)
        flip = bool(rng.random() < self.flip)
        if flip:
            boxes, tiles = boxes.flipped(width), tiles.flipped(width)
        return Drawing(
            size=(height, width),
            pastes=tuple(canvas.pastes),
            flip=flip,
            colours=self._colours(rng),
            **_taught(sample, (height, width), boxes, tiles),
        )

    def _colours(self, rng: np.random.Generator) -> Colours:
        """A random change (image.c, random_distort_image)."""
        factors = [rng.uniform(1, s) ** rng.choice((-1, 1)) for s in (self.saturation, self.exposure)]
        return Colours(float(rng.uniform(-self.hue, self.hue)), float(factors[0]), float(factors[1]))

    def _window(self, sample: Sample, rng: np.random.Generator) -> tuple[float, float, float, float]:
        height, width = sample.image.shape[-2:]
        left, top, right, bottom = rng.uniform(-self.jitter, self.jitter, 4)
        return left * width, top * height, (1 - right) * width, (1 - bottom) * height

    def _place_window(
        self, sample: Sample, canvas: _Canvas, rng: np.random.Generator, *, cover: bool = False
    ) -> tuple[_Labels, _Labels]:
        """Draw a window of the image; its boxes, and where it shows a classification image."""
        x0, y0, x1, y1 = self._window(sample, rng)
        (width, height), (image_h, image_w) = canvas.sides, sample.image.shape[-2:]
        fit = max if cover else min
        ratio = fit(width / image_w, height / image_h) * float(rng.uniform(*self.scale))
        scale = (ratio * image_w / (x1 - x0), ratio * image_h / (y1 - y0))
        room_x, room_y = width - ratio * image_w, height - ratio * image_h
        shift = (rng.random() * room_x - scale[0] * x0, rng.random() * room_y - scale[1] * y0)
        placement = canvas.paste(sample, scale, shift)
        tile = _Labels.none()
        if sample.kind == "classification":
            tile = _Labels(np.asarray([placement.area], np.float32), sample.nodes.numpy())
        return _clip(_moved(sample, placement), placement, self.min_visible), tile

    def _place_mosaic(
        self, samples: list[Sample], canvas: _Canvas, rng: np.random.Generator
    ) -> tuple[_Labels, _Labels]:
        width, height = canvas.sides
        x, y = (int(rng.integers(side // 4, side - side // 4 + 1)) for side in canvas.sides)
        quarters = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
        found = []
        for index, quarter in zip(rng.permutation(4), quarters, strict=True):
            labels = self._place_window(samples[index], canvas.inside(quarter), rng, cover=True)
            found.append([part.shifted(*quarter[:2]) for part in labels])
        boxes, tiles = (
            _Labels(*map(np.concatenate, zip(*parts, strict=True))) for parts in zip(*found, strict=True)
        )
        return boxes, tiles

    def _place_crop(self, sample: Sample, canvas: _Canvas, rng: np.random.Generator) -> None:
        assert self.crop is not None
        height, width = sample.image.shape[-2:]
        area, aspect = rng.uniform(*self.crop), np.exp(rng.uniform(-1, 1) * np.log(4 / 3))
        w, h = width * min(1.0, (area * aspect) ** 0.5), height * min(1.0, (area / aspect) ** 0.5)
        x0, y0 = rng.random() * (width - w), rng.random() * (height - h)
        scale = (canvas.sides[0] / w, canvas.sides[1] / h)
        canvas.paste(sample, scale, (-x0 * scale[0], -y0 * scale[1]))


class EvalTransform:
    """The whole image, aspect kept, centred on grey: darknet's letterbox (image.c, letterbox_image).

    Ignored boxes are dropped as in training; nothing is random.
    """

    def __call__(
        self,
        sample: Sample,
        size: Size,
        rng: np.random.Generator | None = None,
        more: Callable[[np.random.Generator], Sample] | None = None,
    ) -> Example:
        """Transform one image to [3, H, W]; `rng` and `more` are not used."""
        image, fit = letterbox(sample.image.as_subclass(torch.Tensor), sides(size))
        height, width = sample.image.shape[-2:]
        (new_h, new_w), left, top = fit.resized, int(fit.left), int(fit.top)
        placement = _Placement(
            (new_w / width, new_h / height), (left, top), (left, top, left + new_w, top + new_h)
        )
        boxes = _clip(_moved(sample, placement), placement, 0.0)
        return Example(image=image, **_taught(sample, sides(size), boxes, _Labels.none()))


@dataclass
class _Canvas:
    """An area of a picture (XYXY in whole pixels), and what is pasted into the picture."""

    area: tuple[int, int, int, int]
    pastes: list[Paste] = field(default_factory=list)

    @property
    def sides(self) -> tuple[int, int]:
        """Width and height."""
        x0, y0, x1, y1 = self.area
        return x1 - x0, y1 - y0

    def inside(self, area: tuple[int, int, int, int]) -> _Canvas:
        """An area of the same picture."""
        return _Canvas(area, self.pastes)

    def paste(self, sample: Sample, scale: tuple[float, float], shift: tuple[float, float]) -> _Placement:
        """Put an image at x' = scale·x + shift, in whole pixels of both, and say where exactly it is."""
        spans = [
            _span(sample.image.shape[-1 - axis], self.sides[axis], scale[axis], shift[axis])
            for axis in (0, 1)
        ]
        (sx0, sx1, cx0, cx1), (sy0, sy1, cy0, cy1) = spans
        left, top = self.area[:2]
        area = (left + cx0, top + cy0, left + cx1, top + cy1)
        self.pastes.append(Paste(sample.image, sample.stored, (sx0, sy0, sx1, sy1), area))
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


def distort(
    image: Tensor, hue: float | Tensor, saturation: float | Tensor, exposure: float | Tensor
) -> Tensor:
    """Change hue, saturation and value in place (darknet: image.c, distort_image), by closed formulas.

    With V the largest and m the smallest channel, chroma C = V − m, and the hue angle h in sixths of a turn
    (red 0, green 2, blue 4), every channel is V − C · clamp(d − 1, 0, 1), d the distance of h from the
    channel's own angle around the circle: so the new channels follow from h + 6·hue, C · saturation (at
    most V) and V · exposure.

    Args:
        image: float32 [..., 3, H, W] in 0..1, RGB.
        hue: Shift in turns, −1/3 to 1/3 (beyond, the distance on the circle would have to be wrapped twice);
            one for all images, or [..., 1, 1].
        saturation: Factor, or factors as `hue`.
        exposure: Factor, or factors as `hue`; the result is cut off at 1.

    Returns:
        `image`.
    """
    red, green, blue = image.unbind(-3)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    from_green, from_blue = (blue - red).add_(chroma, alpha=2), (red - green).add_(chroma, alpha=4)
    angle = torch.where(red == value, green - blue, torch.where(green == value, from_green, from_blue))
    angle.div_(chroma.clamp(min=1e-6)).add_(6 * hue)  # -3 to 7
    chroma = torch.minimum(chroma.mul_(saturation), value)
    own = torch.arange(0.0, 6.0, 2.0, dtype=image.dtype, device=image.device).view(3, 1, 1)
    torch.sub(angle.unsqueeze(-3), own, out=image)
    image.abs_().sub_(3).abs_().sub_(2).clamp_(-1, 0)  # 1 - distance around the circle of 6, cut off
    image.mul_(chroma.unsqueeze(-3)).add_(value.unsqueeze(-3))
    return image.mul_(exposure.unsqueeze(-3) if isinstance(exposure, Tensor) else exposure).clamp_(0, 1)


__all__ = ["Drawing", "EvalTransform", "Example", "Paste", "Taught", "TrainTransform", "distort"]
