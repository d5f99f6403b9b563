"""ImageNet's detection challenge: its folders, its rule for small objects, its map file, its three means."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from toys import colour_finder
from wordtree import class_list
from wordtree.tree import WordTree
from yolo9000.datasets import open_dataset, pack, read_records
from yolo9000.errors import DataError, FormatError
from yolo9000.evaluate import evaluate
from yolo9000.evaluation.ap import Predictions, Truths, class_curve, match_imagenet
from yolo9000.evaluation.detection import DetectionResult
from yolo9000.evaluation.options import EvaluateConfig
from yolo9000.network import Network

# animal ─┬─ dog ── husky     vehicle ── car, bus
#         └─ fox
WNIDS = [
    "n00015388",
    "n04524313",
    "n02084071",
    "n02118333",
    "n02958343",
    "n02924116",
    "n02110185",
    "n02085620",
]
NAMES = ["animal", "vehicle", "dog", "fox", "car", "bus", "husky", "Chihuahua"]
TREE = WordTree([-1, -1, 0, 0, 1, 1, 2, 2], WNIDS, NAMES)
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def xml(objects: list[tuple[str, int, int]], side: int = 64) -> str:
    """An annotation in DET's form: pixels from 0, the last one included."""
    parts = [
        f"<object><name>{name}</name><bndbox><xmin>{x}</xmin><xmax>{x + side - 1}</xmax>"
        f"<ymin>{y}</ymin><ymax>{y + side - 1}</ymax></bndbox></object>"
        for name, x, y in objects
    ]
    return f"<annotation><folder>val</folder><filename>x</filename>{''.join(parts)}</annotation>"


def write(
    root: Path,
    pictures: list[tuple[dict[tuple[int, int], Any], list[tuple[str, int, int]]]],
    split: str = "val",
) -> Path:
    """An ILSVRC folder; cells and objects in cells of 64 pixels."""
    base = root / "ILSVRC"
    annotations, images = base / "Annotations" / "DET" / split, base / "Data" / "DET" / split
    lists = base / "ImageSets" / "DET"
    for folder in (annotations, images, lists):
        folder.mkdir(parents=True, exist_ok=True)
    names = [f"ILSVRC2012_val_{i:08d}" for i in range(1, len(pictures) + 1)]
    for name, (cells, objects) in zip(names, pictures, strict=True):
        pixels = np.zeros((256, 256, 3), np.uint8)
        for (x, y), colour in cells.items():
            pixels[64 * y : 64 * y + 64, 64 * x : 64 * x + 64] = colour
        Image.fromarray(pixels).save(images / f"{name}.JPEG", format="PNG")
        (annotations / f"{name}.xml").write_text(xml([(n, 64 * x, 64 * y) for n, x, y in objects]))
    (lists / f"{split}.txt").write_text("".join(f"{name} {i}\n" for i, name in enumerate(names, 1)))
    return root


@pytest.fixture
def network() -> Network:
    """Red is a husky, green a fox, blue a car."""
    return colour_finder(TREE, ("husky", "fox", "car"))


DOG, FOX, CAR, BUS = "n02084071", "n02118333", "n02958343", "n02924116"


# --------------------------------------------------------------------------------------------------- reader


def test_reader(tmp_path: Path) -> None:
    write(tmp_path, [({}, [(DOG, 0, 0), (CAR, 2, 1)]), ({}, []), ({}, [(FOX, 1, 1)])])
    for place in (tmp_path, tmp_path / "ILSVRC"):
        data = open_dataset(f"imagenet-det:{place}:val", TREE)
        assert [data.nodes(i) for i in range(len(data))] == [[2, 4], [], [3]]
        assert data[0].boxes.tolist() == [[0, 0, 64, 64], [128, 64, 192, 128]]
    labels = read_records(f"imagenet-det:{tmp_path}", "val").labels
    assert [label.name for label in labels] == [entry.wnid for entry in class_list("imagenet-det")]


def test_reader_without_a_list_and_without_an_annotation(tmp_path: Path) -> None:
    write(tmp_path, [({}, [(DOG, 0, 0)]), ({}, [(FOX, 0, 0)])], split="train")
    base = tmp_path / "ILSVRC"
    listed = base / "ImageSets" / "DET" / "train.txt"
    (base / "Annotations" / "DET" / "train" / "ILSVRC2012_val_00000002.xml").unlink()
    assert [len(open_dataset(f"imagenet-det:{tmp_path}:train", TREE).nodes(i)) for i in range(2)] == [1, 0]
    listed.unlink()
    for kind, suffix in (("Annotations", "xml"), ("Data", "JPEG")):  # the folders of the training part
        folder = base / kind / "DET" / "train"
        (folder / "n02084071").mkdir()
        name = f"ILSVRC2012_val_00000001.{suffix}"
        (folder / name).rename(folder / "n02084071" / name)
    data = open_dataset(f"imagenet-det:{tmp_path}:train", TREE)
    assert len(data) == 1
    assert data[0].source.endswith("train/n02084071/ILSVRC2012_val_00000001.JPEG")


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected ILSVRC/Annotations/DET/val with"):
        read_records(f"imagenet-det:{tmp_path}", "val")
    write(tmp_path, [({}, [(DOG, 0, 0)])])
    listed = tmp_path / "ILSVRC" / "ImageSets" / "DET" / "val.txt"
    listed.write_text("../../secret 1\n")
    with pytest.raises(DataError, match="outside of its folder"):
        read_records(f"imagenet-det:{tmp_path}", "val")
    listed.write_text("")
    with pytest.raises(DataError, match=r"val\.txt: names no image"):
        read_records(f"imagenet-det:{tmp_path}", "val")


# ----------------------------------------------------------------------------------------------------- rule


def slow_imagenet(predictions: Predictions, truths: Truths) -> list[bool]:
    """The kit's text, one prediction after the other."""
    taken, right = set(), []
    for k in range(len(predictions)):
        best, overlap = None, 0.0
        for t in set(range(len(truths))) - taken:
            a, b = predictions.boxes[k], truths.boxes[t]
            width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            if truths.images[t] != predictions.images[k] or width <= 0 or height <= 0:
                continue
            m, n = b[2] - b[0], b[3] - b[1]
            iou = width * height / ((a[2] - a[0]) * (a[3] - a[1]) + m * n - width * height)
            if iou >= min(0.5, m * n / ((m + 10) * (n + 10))) and iou > overlap:
                best, overlap = t, iou
        right.append(best is not None)
        taken.add(best)
    return right


corner = st.integers(0, 30)
box = st.tuples(corner, corner, st.integers(3, 40), st.integers(3, 40)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
rows = st.lists(st.tuples(box, st.integers(0, 1)), max_size=12)


@settings(max_examples=100, deadline=None)
@given(rows, rows)
def test_the_rule_against_a_slow_one(predicted: list[Any], true: list[Any]) -> None:
    predictions, truths = (
        kind.of(*([row[i] for row in values] if i != 2 else [0] * len(values) for i in (0, 2, 1)), *extra)
        for kind, values, extra in (
            (Predictions, predicted, [np.linspace(1, 0, len(predicted))]),
            (Truths, true, []),
        )
    )
    right, excused = match_imagenet(predictions, truths)
    assert right.tolist() == slow_imagenet(predictions, truths)
    assert not excused.any()


def test_an_error_of_five_pixels_around_a_small_object_is_allowed() -> None:
    small = Truths.of([(20, 20, 30, 30)], [0], [0])
    around = Predictions.of([(15, 15, 35, 35)], [0], [0], [0.9])
    further = Predictions.of([(14, 15, 35, 35)], [0], [0], [0.9])
    assert class_curve(around, small, rule=match_imagenet).ap == 1.0
    assert class_curve(further, small, rule=match_imagenet).ap == 0.0
    assert class_curve(around, small).ap == 0.0  # IoU 1/4: wrong by VOC's rules


@pytest.mark.parametrize("seed", range(3))
def test_large_objects_against_pycocotools(seed: int) -> None:
    """COCO's matching is the same where no object is small: overlapping truths, duplicates, false alarms."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 60, (19, 2))  # 19: no recall falls on one of the 101, where rounding would decide
    truths = Truths.of(np.hstack((low, low + rng.uniform(40, 90, (19, 2)))), [1] * 19, rng.integers(0, 4, 19))
    source = rng.integers(0, 19, 50)
    boxes = truths.boxes[source] + rng.normal(0, 8, (50, 4))
    predictions = Predictions.of(boxes, [1] * 50, truths.images[source], rng.permutation(50) / 50)
    coco = COCO()
    wide = [[*b[:2], *(b[2:] - b[:2])] for b in truths.boxes]
    coco.dataset = {
        "images": [{"id": i} for i in range(4)],
        "categories": [{"id": 1}],
        "annotations": [
            {"id": i + 1, "image_id": int(image), "category_id": 1, "bbox": b, "area": 1.0, "iscrowd": 0}
            for i, (b, image) in enumerate(zip(wide, truths.images, strict=True))
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        columns = (
            predictions.images,
            boxes[:, :2],
            boxes[:, 2:] - boxes[:, :2],
            predictions.scores,
            [1] * 50,
        )
        evaluation = COCOeval(coco, coco.loadRes(np.column_stack(columns)), "bbox")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    theirs = evaluation.eval["precision"][0, :, 0, 0, -1].mean()
    ours = class_curve(predictions, truths, rule=match_imagenet)
    assert 0.2 < theirs < 0.99
    assert ours.interpolated(101) == pytest.approx(theirs, abs=1e-6)


# ----------------------------------------------------------------------------------------------- evaluation


def test_three_means(network: Network, tmp_path: Path) -> None:
    """Dog and car are COCO's, the fox is not. The second fox looks more like a car than the car does."""
    write(
        tmp_path,
        [
            ({(0, 0): RED, (2, 1): (0, 0, 200)}, [(DOG, 0, 0), (CAR, 2, 1)]),
            ({(1, 1): GREEN, (3, 3): BLUE}, [(FOX, 1, 1), (FOX, 3, 3)]),
        ],
    )
    result = evaluate(network, f"imagenet-det:{tmp_path}", EvaluateConfig(score=0.01))
    assert isinstance(result, DetectionResult)
    assert result.rule == "imagenet"
    assert {score.name: score.ap for score in result.nodes.classes} == {"dog": 1.0, "fox": 0.5, "car": 0.5}
    every, boxed, same, unseen = result.groups
    assert (every.classes, boxed.classes, same.classes, unseen.classes) == (3, 2, 2, 1)
    assert (every.map, boxed.map, unseen.map) == pytest.approx((2 / 3, 0.75, 0.5))
    path = pack(read_records(f"imagenet-det:{tmp_path}", "val"), tmp_path / "x.h5")
    packed = evaluate(network, f"pack:{path}", EvaluateConfig(score=0.01))
    assert isinstance(packed, DetectionResult)
    assert (packed.rule, packed.groups) == (result.rule, result.groups)
    content = json.loads(result.to_json())
    assert [group["name"] for group in content["groups"]][3] == "without boxes"
    other = evaluate(network, f"imagenet-det:{tmp_path}", EvaluateConfig(boxes=(), rule="voc"))
    assert isinstance(other, DetectionResult)
    assert (other.groups, other.rule) == ((), "voc")


def test_a_map_file_moves_the_classes(network: Network, tmp_path: Path) -> None:
    """By the map a fox is a car: blue cells are found, at objectness x P(car)."""
    write(tmp_path, [({(0, 0): BLUE}, [(FOX, 0, 0)])])
    order = [entry.wnid for entry in class_list("imagenet-det")]
    nodes = [NAMES.index("animal")] * 200
    nodes[order.index(FOX)] = NAMES.index("car")
    (tmp_path / "toy.map").write_text("".join(f"{node}\n" for node in nodes))
    result = evaluate(network, f"imagenet-det:{tmp_path}", map_file=tmp_path / "toy.map")
    assert isinstance(result, DetectionResult)
    assert {score.name: score.ap for score in result.nodes.classes} == {"car": 1.0}
    (tmp_path / "short.map").write_text("4\n")
    with pytest.raises(FormatError, match="200"):
        evaluate(network, f"imagenet-det:{tmp_path}", map_file=tmp_path / "short.map")
