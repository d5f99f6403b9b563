"""Our letterbox in mode "darknet" against the C library's own."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from yolo9000.image import letterbox, read_image

pytestmark = pytest.mark.reference


class CImage(ctypes.Structure):
    """darknet.h, image: planes of floats, [c, h, w]."""

    _fields_ = (
        ("w", ctypes.c_int),
        ("h", ctypes.c_int),
        ("c", ctypes.c_int),
        ("data", ctypes.POINTER(ctypes.c_float)),
    )


@pytest.fixture(scope="module")
def library(libdarknet_path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(libdarknet_path))
    library.make_image.restype = CImage
    library.letterbox_image.restype = CImage
    library.letterbox_image.argtypes = (CImage, ctypes.c_int, ctypes.c_int)
    library.free_image.argtypes = (CImage,)
    return library


def c_letterbox(library: ctypes.CDLL, image: Tensor, size: tuple[int, int]) -> Tensor:
    channels, height, width = image.shape
    given = library.make_image(width, height, channels)
    pixels = (image.float() / 255).contiguous().numpy()
    ctypes.memmove(given.data, pixels.ctypes.data, pixels.nbytes)
    boxed = library.letterbox_image(given, size[1], size[0])
    result = np.ctypeslib.as_array(boxed.data, (channels, *size)).copy()
    library.free_image(given)
    library.free_image(boxed)
    return torch.from_numpy(result)


PHOTOS = ["dog.jpg", "eagle.jpg", "giraffe.jpg", "horses.jpg", "kite.jpg", "person.jpg", "scream.jpg"]


@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize("size", [(416, 416), (544, 544), (320, 608)])
def test_photos(library: ctypes.CDLL, darknet_dir: Path, photo: str, size: tuple[int, int]) -> None:
    image = read_image(darknet_dir / "data" / photo)
    ours, _ = letterbox(image, size, "darknet")
    # The arithmetic is the same, so only the last bits may differ.
    torch.testing.assert_close(ours, c_letterbox(library, image, size), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "shape",
    [(1, 1), (1, 7), (7, 1), (2, 2), (2, 31), (31, 33), (33, 31), (32, 64), (95, 1), (640, 424), (3, 90)],
)
@pytest.mark.parametrize("size", [(32, 32), (96, 64), (64, 96), (320, 320)])
def test_odd_shapes(library: ctypes.CDLL, shape: tuple[int, int], size: tuple[int, int]) -> None:
    image = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (3, *shape), dtype=np.uint8))
    ours, fit = letterbox(image, size, "darknet")
    if min(fit.resized) == 1:
        # C divides by (out - 1) = 0 and reads outside the picture there: only ours is defined.
        assert ours.isfinite().all()
        return
    torch.testing.assert_close(ours, c_letterbox(library, image, size), rtol=0, atol=1e-5)
