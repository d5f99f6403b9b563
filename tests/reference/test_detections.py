"""Detections of whole pictures, from pixels to the list after suppression, against libdarknet's.

Random weights, scaled so that dozens of anchors are sure of something; plain class lists, where the library's
CPU code is right. No list is frozen: each is asked of the library.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from yolo9000.darknet.cfg import Cfg
from yolo9000.darknet.weights import save_weights
from yolo9000.image import read_image
from yolo9000.model import YOLO9000
from yolo9000.network import Network
from yolo9000.results import Detections

pytestmark = pytest.mark.reference

# Input height, width; the last are no multiples of the stride.
LIGHT = [("yolov2-tiny", (192, 160)), ("yolov2-tiny-voc", (160, 192)), ("yolov2-tiny", (175, 190))]
HEAVY = [("yolov2", (160, 160)), ("yolov2-voc", (160, 192))]
PHOTOS = ["dog", "eagle", "giraffe", "horses", "kite", "person", "scream"]
THRESHOLDS = [0.1, 0.24, 0.5]
NMS = 0.45
TOLERANCE = 1e-3  # of scores, and of corners as fractions of the picture
Rows = NDArray[np.float64]  # [K, 6] class, x1, y1, x2, y2 (fractions of the picture), score


def theirs(net: Any, picture: tuple[int, int], threshold: float, nms: float = NMS) -> Rows:
    """The library's list for a picture (H, W); corners clipped as `draw_detections` does.

    A box that lies wholly in the grey around the picture is in the library's list, but nothing of it is seen:
    it is left out, as we do.
    """
    found = net.boxes(picture[1], picture[0], threshold=threshold, nms=nms)
    rows = []
    for one in found:
        x, y, w, h = one.box
        box = np.clip([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 0, 1)
        if (box[2:] > box[:2]).all():
            rows += [[i, *box, one.probabilities[i]] for i in np.flatnonzero(one.probabilities)]
    return np.array(rows, dtype=np.float64).reshape(-1, 6)


def ours(found: Detections) -> Rows:
    height, width = found.image_size
    boxes = found.boxes / np.array([width, height, width, height])
    return np.column_stack([found.nodes, boxes, found.scores]).astype(np.float64).reshape(-1, 6)


def difference(one: Rows, other: Rows) -> float:
    """The largest difference of scores and corners of rows that belong together; inf: not the same list."""
    apart = np.abs(one[:, None] - other[None]).max(2, initial=0)  # [K,M]; another class is at least 1 apart
    if one.shape != other.shape or len(one) == 0:
        return 0.0 if one.shape == other.shape else np.inf
    nearest = apart.argmin(1)
    return float(apart.min(1).max()) if len(set(nearest)) == len(one) else np.inf


@pytest.fixture
def sure_model(
    darknet_dir: Path,
    randomise: Callable[[Network, int], Network],
    resized_cfg: Callable[..., Path],
    tmp_path: Path,
) -> Callable[[str, tuple[int, int]], tuple[YOLO9000, Path, Path]]:
    """A function that makes our model of a published cfg at another size, and its files for the library."""

    def make(name: str, size: tuple[int, int]) -> tuple[YOLO9000, Path, Path]:
        cfg, weights = darknet_dir / "cfg" / f"{name}.cfg", tmp_path / "random.weights"
        network = randomise(Network(Cfg.load(cfg)), 1)
        assert network.head is not None
        with torch.no_grad():
            network.head.class_weight *= 8  # the best class of many anchors gets most of the softmax
            network.head.box_weight[:, 4] *= 2  # objectness from nearly 0 to nearly 1
            network.head.box_weight[:, 2:4] *= 0.5  # boxes within a few times their prior
        save_weights(network, weights)
        resized = resized_cfg(cfg, height=size[0], width=size[1])
        return YOLO9000.load(weights=weights, cfg=resized, device="cpu"), resized, weights

    return make


@pytest.mark.parametrize(
    ("name", "size"), [*LIGHT, *(pytest.param(*heavy, marks=pytest.mark.slow) for heavy in HEAVY)]
)
def test_lists_equal_the_librarys(
    name: str, size: tuple[int, int], darknet_dir: Path, libdarknet: Any, sure_model: Any
) -> None:
    """From the same decoded pixels."""
    model, cfg, weights = sure_model(name, size)
    with libdarknet.load(cfg, weights) as net:
        for photo in PHOTOS:
            picture = read_image(darknet_dir / "data" / f"{photo}.jpg")
            boxed = libdarknet.letterbox(picture.numpy().astype(np.float32) / 255, size[1], size[0])
            net.predict(boxed[None])
            for threshold in THRESHOLDS:
                expected = theirs(net, picture.shape[1:], threshold)
                found = model.detect(picture, threshold=threshold, nms=NMS, decoder="darknet")
                assert difference(ours(found), expected) < TOLERANCE, f"{photo} at {threshold}"
                assert len(expected) >= (5 if threshold == 0.5 else 24)
            assert len(theirs(net, picture.shape[1:], 0.1, nms=1.0)) > len(
                theirs(net, picture.shape[1:], 0.1)
            )


def test_lists_from_files_equal_the_librarys(darknet_dir: Path, libdarknet: Any, sure_model: Any) -> None:
    """Decoding, too: Debian's library loads through OpenCV and libjpeg, as we do, and gets the same bytes.

    A library built without OpenCV decodes with stb_image, whose pixels can differ.
    """
    name, size = LIGHT[0]
    model, cfg, weights = sure_model(name, size)
    with libdarknet.load(cfg, weights) as net:
        for photo in PHOTOS:
            path = darknet_dir / "data" / f"{photo}.jpg"
            decoded = libdarknet.load_image(path)
            np.testing.assert_allclose(read_image(path).numpy() / 255, decoded, rtol=0, atol=1 / 255 + 1e-6)
            net.predict(libdarknet.letterbox(decoded, size[1], size[0])[None])
            expected = theirs(net, decoded.shape[1:], 0.24)
            found = model.detect(path, threshold=0.24, nms=NMS, decoder="darknet")
            assert difference(ours(found), expected) < TOLERANCE, photo


def test_other_pixels_give_other_lists(darknet_dir: Path, sure_model: Any) -> None:
    """These random networks do look at the picture: our own, antialiased resize is told from darknet's."""
    name, size = LIGHT[0]
    model, _, _ = sure_model(name, size)
    assert model.letterbox == "darknet"
    path = darknet_dir / "data" / "dog.jpg"
    exact = ours(model.detect(path, threshold=0.1, decoder="darknet"))
    model.letterbox = "torch"
    smooth = ours(model.detect(path, threshold=0.1, decoder="darknet"))
    assert difference(exact, smooth) > 10 * TOLERANCE
