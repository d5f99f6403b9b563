"""Where darknet looks for an image's boxes, and what it reads there, from the library itself."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from yolo9000.datasets import read_records

pytestmark = pytest.mark.reference


def truth(library: Any, image: Path) -> list[list[float]]:
    """Boxes of one image as `fill_truth_detection` finds them: x, y, width, height, class, sorted."""
    found = (ctypes.c_float * (5 * 30))()
    zero, one = ctypes.c_float(0), ctypes.c_float(1)
    library.fill_truth_detection(str(image).encode(), 30, found, 10, 0, zero, zero, one, one)
    rows = np.ctypeslib.as_array(found).reshape(-1, 5)
    return sorted(row.tolist() for row in rows if row[2] > 0)


@pytest.mark.parametrize(
    ("image", "boxes"),
    [
        ("images/a.jpg", "labels/a.txt"),
        ("images/train/a.JPEG", "labels/train/a.txt"),
        ("VOC2007/JPEGImages/a.png", "VOC2007/labels/a.txt"),
        ("raw/a.JPG", "labels/a.txt"),
        ("images2/images/a.jpg", "labels2/images/a.txt"),
        ("plain/a.jpg", "plain/a.txt"),
    ],
)
def test_boxes_are_those_that_darknet_reads(
    tmp_path: Path, libdarknet_path: Path, image: str, boxes: str
) -> None:
    for place in (image, boxes):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (50, 40)).save(tmp_path / image, format="JPEG")
    rng = np.random.default_rng(0)
    rows = [[*rng.uniform(0.3, 0.7, 2), *rng.uniform(0.05, 0.5, 2), c] for c in (0, 3, 9)]
    (tmp_path / boxes).write_text("".join(f"{c} {x} {y} {w} {h}\n" for x, y, w, h, c in rows))
    (tmp_path / "all.txt").write_text(f"{tmp_path / image}\n")
    records = read_records(f"darknet:{tmp_path / 'all.txt'}")
    corners = records.boxes
    ours = np.concatenate(
        [(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2], records.label_ids[:, None]],
        1,
    )
    theirs = truth(ctypes.CDLL(str(libdarknet_path)), tmp_path / image)
    assert np.allclose(sorted(ours.tolist()), theirs, atol=1e-6)
    assert len(theirs) == 3
