"""Data of a few real photos, and settings of short runs on them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import yolo9000
from toys import conv, input_size, linear, region
from yolo9000.config import TrainConfig, from_mapping

PHOTOS = Path(yolo9000.__file__).parent / "photos"
# Boxes drawn by hand: name, x0, y0, x1, y1 in pixels.
OBJECTS = {
    "dog.jpg": [("dog", 130, 220, 314, 540), ("bicycle", 125, 135, 568, 420), ("truck", 467, 72, 693, 172)],
    "eagle.jpg": [("bird", 137, 85, 599, 450)],
    "person.jpg": [("person", 190, 100, 273, 375), ("dog", 64, 265, 204, 342), ("horse", 406, 139, 600, 344)],
}
NAMES = ["dog", "bicycle", "truck", "bird", "person", "horse"]
# ImageNet photos of the classification part: crops of the same animals, under synsets deeper than the boxes'
# labels.
CROPS = {"n02109961": ("dog.jpg", 0), "n01614925": ("eagle.jpg", 0)}  # Eskimo dog, bald eagle
SMALL = (
    input_size(160)
    + "".join(conv(filters, stride=2) for filters in (16, 32, 48, 64, 128))
    + conv(128)
    + linear(9433)
    + region(9418, "0.6,1.5, 1.5,1.2, 2.5,2.5", coords=4, softmax=1, tied=1, bias_match=1, rescore=1)
    + "object_scale=5\nnoobject_scale=1\nclass_scale=1\ncoord_scale=1\nthresh=.6\nrandom=0\ntree=9k.tree\n"
)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos as a COCO folder and crops of them as an ImageNet folder, with the small cfg beside them."""
    root = tmp_path_factory.mktemp("data")
    (root / "small.cfg").write_text(SMALL)
    images, annotations = [], []
    (root / "coco" / "train").mkdir(parents=True)
    (root / "coco" / "annotations").mkdir()
    for number, (name, objects) in enumerate(OBJECTS.items(), 1):
        photo = Image.open(PHOTOS / name)
        (root / "coco" / "train" / name).write_bytes((PHOTOS / name).read_bytes())
        images.append({"id": number, "file_name": name, "width": photo.width, "height": photo.height})
        for label, x0, y0, x1, y1 in objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": NAMES.index(label) + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "coco" / "annotations" / "instances_train.json").write_text(json.dumps(content))
    for wnid, (name, index) in CROPS.items():
        folder = root / "imagenet" / "train" / wnid
        folder.mkdir(parents=True)
        crop = Image.open(PHOTOS / name).crop(OBJECTS[name][index][1:])
        for copy in range(3):
            crop.rotate(5 * copy).save(folder / f"{copy}.JPEG")
    return root


Settings = Callable[..., TrainConfig]


@pytest.fixture(scope="session")
def settings(data: Path) -> Settings:
    """Settings of a short run into a folder; changes are named `data__workers=0`."""
    return functools.partial(make_settings, data)


@pytest.fixture(scope="session")
def objects() -> dict[str, list[tuple[str, int, int, int, int]]]:
    """What the photos show: name and corners in pixels."""
    return OBJECTS


def make_settings(data: Path, out: Path, **changes: object) -> TrainConfig:
    values: dict[str, object] = {
        "model": str(data / "small.cfg"),
        "out": str(out),
        "max_steps": 4,
        "batch_size": 4,
        "precision": "fp32",
        "device": "cpu",
        "ema": 0.9,
        "log_steps": 1,
        "pictures": 0,
        "curves": False,
        "data": {
            "detection": [f"coco:{data / 'coco'}"],
            "classification": [f"imagenet:{data / 'imagenet'}"],
            "ratio": 1.0,
            "cache": 320,
            "workers": 0,
        },
        "augment": {"jitter": 0.05, "flip": 0.0, "hue": 0.02, "saturation": 1.1, "exposure": 1.1},
        "optim": {
            "name": "adamw",
            "lr": 2e-3,
            "burn_in": 10,
            "burn_in_power": 1,
            "schedule": "cosine",
            "clip": 10.0,
        },
        "loss": {"prior_images": 0},
    }
    for key, value in changes.items():
        group, _, name = key.partition("__")
        if name:
            values[group][name] = value  # type: ignore[index]
        else:
            values[key] = value
    return from_mapping(TrainConfig, values)
