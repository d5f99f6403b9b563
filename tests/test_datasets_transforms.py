"""Boxes follow the image: a coloured rectangle is drawn, transformed, and found again where the box says."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from torch import Tensor

from yolo9000.boxes import cxcywh_to_xyxy
from yolo9000.datasets import EvalTransform, Example, Sample, TrainTransform
from yolo9000.datasets.records import make_sample
from yolo9000.datasets.transforms import Size, distort
from yolo9000.errors import ConfigError

SIZE = 128
PLAIN = {
    "hue": 0.0,
    "saturation": 1.0,
    "exposure": 1.0,
}  # no change of colour, so that rectangles are found by it
RED, GREEN = (255, 0, 0), (0, 255, 0)


def rectangle(
    box: tuple[int, int, int, int],
    size: tuple[int, int] = (150, 200),
    colour: tuple[int, int, int] = RED,
    node: int = 1,
) -> Sample:
    """A black image [3, H, W] with one filled rectangle and its box."""
    image = torch.zeros(3, *size, dtype=torch.uint8)
    x0, y0, x1, y1 = box
    image[:, y0:y1, x0:x1] = torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1)
    return make_sample(image, np.asarray([box], np.float32), np.asarray([node]), "detection", f"image {node}")


def classified(sample: Sample, node: int = 5) -> Sample:
    nothing = np.zeros((0, 4), np.float32)
    return make_sample(sample.image, nothing, np.asarray([node]), "classification", sample.source)


def extent(mask: Tensor) -> list[float]:
    """XYXY of the true pixels [S, S]; empty where there are none."""
    ys, xs = torch.nonzero(mask, as_tuple=True)
    return [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1] if len(xs) else []


def is_red(image: Tensor) -> Tensor:
    return (image[0] > 0.5) & (image[1] < 0.25) & (image[2] < 0.25)


def corners(example: Example) -> Tensor:
    return cxcywh_to_xyxy(example.boxes) * torch.tensor([*example.image.shape[:0:-1]] * 2)


def check_red(example: Example) -> bool:
    """The only box of node 1 is where the red pixels are; returns whether there is one."""
    found = corners(example)[example.nodes == 1]
    seen = extent(is_red(example.image))
    assert len(found) <= 1
    if len(found):
        assert (found[0] - torch.tensor(seen)).abs().max() <= 1.0
    return bool(len(found))


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("jitter", [0.0, 0.2, 0.4])
@pytest.mark.parametrize("size", [(150, 200), (200, 90), (300, 300), (20, 30)])
@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.4, 1.6)])
@pytest.mark.parametrize("to", [(SIZE, SIZE), (SIZE, 2 * SIZE), (2 * SIZE, SIZE)])
def test_boxes_follow_the_window(
    flip: float, jitter: float, size: tuple[int, int], scale: tuple[float, float], to: tuple[int, int]
) -> None:
    height, width = size
    box = (width // 4, height // 3, width // 2, height * 2 // 3)
    transform = TrainTransform(jitter=jitter, flip=flip, scale=scale, **PLAIN)
    kept = 0
    for seed in range(12):
        example = transform(rectangle(box, size), to, np.random.default_rng(seed))
        kept += check_red(example)
        assert example.image.shape == (3, *to)
        assert example.image.dtype == torch.float32
        assert 0 <= float(example.image.min()) <= float(example.image.max()) <= 1
        inside = cxcywh_to_xyxy(example.boxes)
        assert bool(((inside >= -1e-5) & (inside <= 1 + 1e-5)).all())
        assert example.label == -1
    assert kept >= 8


def test_window_varies_position_scale_and_shape() -> None:
    transform = TrainTransform(flip=0, **PLAIN)
    boxes = torch.stack(
        [transform(rectangle((50, 40, 150, 110)), SIZE, np.random.default_rng(i)).boxes[0] for i in range(60)]
    )
    assert float(boxes[:, 0].std()) > 0.04
    assert float(boxes[:, 2].max() / boxes[:, 2].min()) > 1.5
    shape = boxes[:, 2] / boxes[:, 3]
    assert float(shape.max() / shape.min()) > 1.5
    assert float(shape.log().mean().exp()) == pytest.approx(100 / 70, rel=0.15)


def test_grey_surrounds_the_window() -> None:
    white = rectangle((0, 0, 100, 50), (50, 100), (255, 255, 255))
    example = TrainTransform(jitter=0, flip=0, **PLAIN)(white, SIZE, np.random.default_rng(0))
    seen = example.image.mean(0) > 0.9
    assert extent(seen)[2] - extent(seen)[0] == SIZE
    assert extent(seen)[3] - extent(seen)[1] == SIZE // 2
    assert torch.allclose(example.image[:, ~seen], torch.tensor(127 / 255), atol=1e-4)


@pytest.mark.parametrize("to", [SIZE, (SIZE, 2 * SIZE), (2 * SIZE, SIZE)])
@pytest.mark.parametrize("seed", range(12))
def test_mosaic(seed: int, to: Size) -> None:
    others = [rectangle((20, 20, 180, 130), colour=GREEN, node=2) for _ in range(3)]
    rng = np.random.default_rng(seed)
    transform = TrainTransform(mosaic=1.0, flip=0.5, **PLAIN)
    example = transform(rectangle((20, 20, 180, 130)), to, rng, lambda _: others.pop())
    assert not others
    check_red(example)
    assert int((example.nodes == 2).sum()) >= 1
    for box in corners(example)[example.nodes == 2]:
        x0, y0, x1, y1 = (round(float(value)) for value in box)
        inside = example.image[:, y0 + 1 : y1 - 1, x0 + 1 : x1 - 1]
        assert bool((inside[1] > 0.5).all())
        assert bool((inside[0] < 0.5).all())


@pytest.mark.parametrize("seed", range(12))
def test_a_mosaic_says_where_classification_images_are(seed: int) -> None:
    """Their tile and its label, no boxes; what is green is in such a tile, and nothing else is."""
    others = [classified(rectangle((0, 0, 200, 150), colour=GREEN)) for _ in range(3)]
    transform = TrainTransform(mosaic=1.0, flip=0.5, **PLAIN)
    example = transform(
        rectangle((20, 20, 180, 130)), SIZE, np.random.default_rng(seed), lambda _: others.pop()
    )
    check_red(example)
    assert example.label == -1
    assert example.tile_nodes.tolist() == [5, 5, 5]
    assert example.tiles.dtype == torch.float32
    marked = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    centre, side = example.tiles[:, :2] * SIZE, example.tiles[:, 2:] * SIZE
    for x0, y0, x1, y1 in torch.cat((centre - side / 2, centre + side / 2), 1).round().int().tolist():
        assert 0 <= x0 < x1 <= SIZE
        assert 0 <= y0 < y1 <= SIZE
        marked[y0:y1, x0:x1] = True
    green = (example.image[1] > 0.6) & (example.image[0] < 0.4)
    assert not bool((green & ~marked).any())
    assert float((green & marked).sum() / marked.sum()) > 0.9


def test_the_image_asked_for_can_stand_in_any_quarter() -> None:
    sample, other = rectangle((20, 20, 180, 130)), rectangle((20, 20, 180, 130), colour=GREEN)
    rng, transform = np.random.default_rng(0), TrainTransform(mosaic=1.0)
    plans = [transform.plan(sample, SIZE, rng, lambda _: other) for _ in range(60)]
    shown = [[paste.image is sample.image for paste in plan.pastes] for plan in plans]
    assert all(sum(places) == 1 for places in shown)
    assert min(np.bincount([places.index(True) for places in shown], minlength=4)) > 5


def test_no_mosaic_for_classification_images() -> None:
    def never(rng: np.random.Generator) -> Sample:
        raise AssertionError

    sample = classified(rectangle((20, 20, 180, 130)))
    example = TrainTransform(mosaic=1.0)(sample, SIZE, np.random.default_rng(0), never)
    assert example.label == 5
    assert example.nodes.shape == (0,)
    assert example.boxes.shape == (0, 4)


@pytest.mark.parametrize("low", [0.3, 0.8])
def test_crop_shows_a_share_of_the_object(low: float) -> None:
    sample = classified(rectangle((50, 0, 150, 150)))  # the middle half of the width
    transform = TrainTransform(crop=(low, 1.0), **PLAIN)
    shares = []
    for seed in range(40):
        image = transform(sample, SIZE, np.random.default_rng(seed)).image
        assert not bool(((image - 127 / 255).abs() < 0.01).all(0).any())  # no grey: the crop fills the input
        shares.append(float(is_red(image).float().mean()))
    assert min(shares) >= 0.3
    assert np.mean(shares) == pytest.approx(0.5, abs=0.08 if low > 0.5 else 0.2)
    assert np.std(shares) > 0.01


def test_little_of_a_box_left_drops_it() -> None:
    sample = rectangle((0, 0, 40, 150))
    strict = TrainTransform(jitter=0.4, flip=0, min_visible=0.9, **PLAIN)
    lenient = TrainTransform(jitter=0.4, flip=0, min_visible=0.0, **PLAIN)
    counts = [
        sum(len(t(sample, SIZE, np.random.default_rng(i)).nodes) for i in range(50))
        for t in (strict, lenient)
    ]
    assert 5 < counts[0] < counts[1] <= 50


def test_ignored_and_thin_boxes_are_dropped() -> None:
    image = torch.zeros(3, 100, 100, dtype=torch.uint8)
    boxes = np.asarray([[10, 10, 60, 60], [20, 20, 70, 70], [30, 30, 30.5, 80]], np.float32)
    sample = make_sample(
        image, boxes, np.asarray([1, 2, 3]), "detection", "x", np.asarray([False, True, False])
    )
    rng = np.random.default_rng(0)
    assert TrainTransform(jitter=0.0)(sample, SIZE, rng).nodes.tolist() == [1]
    assert EvalTransform()(sample, SIZE).nodes.tolist() == [1]


def test_transform_leaves_the_sample_alone() -> None:
    sample = rectangle((50, 40, 150, 110))
    image, boxes = sample.image.clone(), sample.boxes.clone()
    TrainTransform()(sample, SIZE, np.random.default_rng(0))
    EvalTransform()(sample, SIZE)
    assert torch.equal(sample.image, image)
    assert torch.equal(sample.boxes, boxes)


def test_the_same_generator_gives_the_same_example() -> None:
    sample, transform = rectangle((50, 40, 150, 110)), TrainTransform()
    a, b, c = (
        transform(sample, size, np.random.default_rng(seed))
        for size, seed in ((SIZE, 1), ((SIZE, SIZE), 1), (SIZE, 2))
    )
    assert torch.equal(a.image, b.image)
    assert torch.equal(a.boxes, b.boxes)
    assert not torch.equal(a.image, c.image)


@pytest.mark.parametrize("size", [(150, 200), (200, 90), (128, 128), (1, 500)])
def test_letterbox(size: tuple[int, int]) -> None:
    height, width = size
    sample = rectangle((0, 0, width, height), size)
    example = EvalTransform()(sample, SIZE)
    if height > 1:
        assert check_red(example)
        assert check_red(EvalTransform()(sample, (SIZE, 3 * SIZE)))
    assert max(extent(is_red(example.image))[2:]) == SIZE
    centre = example.boxes[:, :2]
    assert bool(((centre - 0.5).abs() <= 0.5 / SIZE + 1e-6).all())


def reference_distort(rgb: tuple[float, ...], hue: float, saturation: float, exposure: float) -> list[float]:
    h, s, v = colorsys.rgb_to_hsv(*rgb)
    changed = colorsys.hsv_to_rgb((h + hue) % 1, min(s * saturation, 1), v)
    return [min(channel * exposure, 1) for channel in changed]


@pytest.mark.parametrize("hue", [-1 / 3, -0.1, 0.0, 0.07, 1 / 3])
@pytest.mark.parametrize(("saturation", "exposure"), [(1.0, 1.0), (1.5, 0.7), (0.6, 1.4)])
def test_distort_is_a_change_in_hsv(hue: float, saturation: float, exposure: float) -> None:
    rng = np.random.default_rng(3)
    colours = [*rng.random((60, 3)).tolist(), [0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5], [1, 0, 0], [0, 1, 0]]
    colours += [[0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1], [0.2, 0.2, 0.9]]
    image = torch.tensor(colours, dtype=torch.float32).T.reshape(3, -1, 1).contiguous()
    distort(image, hue, saturation, exposure)
    expected = [reference_distort(tuple(colour), hue, saturation, exposure) for colour in colours]
    assert torch.allclose(image[:, :, 0].T, torch.tensor(expected, dtype=torch.float32), atol=2e-5)


def test_colours_stay_in_the_stated_range() -> None:
    grey = torch.full((3, 64, 64), 100, dtype=torch.uint8)
    sample = make_sample(grey, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), "detection", "x")
    transform = TrainTransform(jitter=0, exposure=1.5)
    levels = [float(transform(sample, 64, np.random.default_rng(i)).image.mean()) for i in range(80)]
    assert 100 / 255 / 1.5 - 1e-3 <= min(levels) < 100 / 255 / 1.3
    assert 100 / 255 * 1.3 < max(levels) <= 100 / 255 * 1.5 + 1e-3


def test_wrong_settings_are_listed_together() -> None:
    with pytest.raises(ConfigError) as caught:
        TrainTransform(jitter=0.6, flip=2, saturation=0.5, crop=(0.9, 0.1))
    for name in ("jitter: expected 0 to 0.45, got 0.6", "flip", "saturation", "crop[0]"):
        assert name in str(caught.value)
    assert "mosaic" not in str(caught.value)
