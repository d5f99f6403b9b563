"""The transfer benchmark: what is withheld, exactly, and a whole run on a few coloured pictures."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from toys import conv, input_size, linear, region
from wordtree.tree import WordTree
from yolo9000.datasets import read_records
from yolo9000.errors import ConfigError

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
SMALL = (
    input_size(64)
    + "".join(conv(filters, stride=2) for filters in (8, 8, 16, 16, 16))
    + linear(9428)
    + region(9418, "0.6,1.5, 1.5,1.2", coords=4, softmax=1, tied=1, bias_match=1, rescore=1, thresh=0.6)
    + "random=0\ntree=9k.tree\n"
)


@pytest.fixture(scope="module")
def transfer() -> Iterator[ModuleType]:
    """The script as a module."""
    sys.path.insert(0, str(BENCHMARKS))
    yield import_module("transfer")
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def tree() -> WordTree:
    return WordTree.load("yolo9000")


def photo(path: Path, colour: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((64, 64, 3), colour, np.uint8)
    pixels[16:48, 16:48] = (255 - colour, colour, 128)
    Image.fromarray(pixels).save(path, format="JPEG")


def coco(root: Path, pictures: dict[str, list[tuple[str, int]]]) -> None:
    """A training part; objects are (category, crowd)."""
    names = sorted({name for objects in pictures.values() for name, _ in objects})
    images, annotations = [], []
    for i, (picture, objects) in enumerate(pictures.items()):
        photo(root / "train" / picture, 40 * i)
        images.append({"id": i, "file_name": picture})
        annotations += [
            {"image_id": i, "category_id": names.index(name), "bbox": [16, 16, 32, 32], "iscrowd": crowd}
            for name, crowd in objects
        ]
    content = {
        "images": images,
        "annotations": [{"id": i, **annotation} for i, annotation in enumerate(annotations, 1)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
    }
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))


def voc(root: Path, splits: dict[str, list[tuple[str, int]]]) -> None:
    """One picture for each (name, difficult)."""
    (root / "Annotations").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for split, objects in splits.items():
        ids = [f"{split}{i}" for i in range(len(objects))]
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(ids))
        for i, (name, difficult) in enumerate(objects):
            photo(root / "JPEGImages" / f"{ids[i]}.jpg", 30 * i)
            (root / "Annotations" / f"{ids[i]}.xml").write_text(
                f"<annotation><object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
                "<xmin>17</xmin><ymin>17</ymin><xmax>48</xmax><ymax>48</ymax></bndbox></object></annotation>"
            )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    coco(
        root / "coco-mini",
        {
            "person.jpg": [("person", 0)],
            "dog.jpg": [("person", 0), ("dog", 0)],
            "crowd.jpg": [("cow", 1)],
            "pug.jpg": [("n02110958", 0)],  # a breed: below the withheld dog
            "animal.jpg": [("n00015388", 0)],  # may be a dog
            "bear.jpg": [("bear", 0), ("car", 0)],
            "empty.jpg": [],
        },
    )
    voc(
        root / "voc-mini",
        {
            "train": [("person", 0), ("sheep", 1), ("car", 0), ("chair", 0)],
            "val": [("dog", 0), ("car", 0), ("person", 0), ("boat", 0)],
        },
    )
    for i, wnid in enumerate(("n02110958", "n02958343", "n02121620")):  # pug, car, cat
        photo(root / "imagenet-mini" / "train" / wnid / "0.JPEG", 60 * i)
    (root / "small.cfg").write_text(SMALL)
    return root


def kept(records: Any) -> list[str]:
    return [Path(records.store.inner_name(i)).name for i in range(len(records.store))]


def test_what_is_withheld(transfer: ModuleType, tree: WordTree, data: Path, tmp_path: Path) -> None:
    console = Console(record=True, width=200, quiet=False, file=(tmp_path / "said").open("w"))
    part = import_module("transfer_data")
    specs = part.prepare_detection(data, tmp_path, transfer.WITHHELD, tree, console)
    coco, voc = (read_records(spec) for spec in specs)
    assert kept(coco) == ["person.jpg", "bear.jpg", "empty.jpg"]
    assert kept(voc) == ["train0.jpg", "train2.jpg", "train3.jpg"]
    source = read_records(f"coco:{data / 'coco-mini'}", "train")
    assert [coco.labels[i].name for i in coco.label_ids] == ["person", "bear", "car"]
    assert coco.store.read(1) == source.store.read(5)
    specs, counts = part.find_classification(data, transfer.WITHHELD, tree, console)
    assert specs == [f"imagenet:{data / 'imagenet-mini'}"]
    assert [counts[tree.index(wnid)] for wnid in ("n02121620", "n02084071", "n01503061")] == [1, 1, 0]
    text = console.export_text()
    assert "coco: 7 images with boxes, 4 left out, 3 stay" in text
    assert "bird 0, boat 0, bottle 0, cat 1, cow 0, dog 1, horse 0" in text
    with pytest.raises(ConfigError, match=r"coco\.h5 was made from other data or for other withheld"):
        part.prepare_detection(data, tmp_path, ["person"], tree, console)
    with pytest.raises(ConfigError, match="VOC has no class lion; its classes: aeroplane"):
        part.withheld_nodes(tree, ["lion"])


def test_photos_that_are_left_out_can_be_labelled(transfer: ModuleType, data: Path, tmp_path: Path) -> None:
    """Without their boxes; half of VOC's, so that the other half can be measured on."""
    console = Console(record=True, width=200, file=(tmp_path / "said").open("w"))
    given = [str(data), "--out", str(tmp_path), "--model", str(data / "small.cfg"), "--label-left-out", "3"]
    found = transfer.prepare(transfer.plan_of(transfer.parse(given)), console)
    folder = tmp_path / "data" / "labelled"
    assert found.classification == [f"imagenet:{data / 'imagenet-mini'}", *[f"imagenet:{folder}"] * 3]
    photos = {str(path.relative_to(folder)) for path in folder.rglob("*.jpg")}
    tree, part = WordTree.load("yolo9000"), import_module("transfer_data")
    dog, cow, sheep = (tree.wnids[i] for i in part.withheld_nodes(tree, ["dog", "cow", "sheep"]))
    assert photos == {f"{dog}/coco-1.jpg", f"{cow}/coco-2.jpg", f"{dog}/coco-3.jpg", f"{sheep}/voc-1.jpg"}
    source = read_records(f"coco:{data / 'coco-mini'}", "train")
    assert (folder / dog / "coco-3.jpg").read_bytes() == source.store.read(3)
    assert "without their boxes: bird 0, boat 0, bottle 0, cat 0, cow 1, dog 2" in console.export_text()
    held = read_records(found.held_out)
    assert len(held.store) == 4  # val alone: the only training photo that was left out is labelled
    plain = transfer.prepare(transfer.plan_of(transfer.parse(given[:-2])), console)
    assert len(read_records(plain.held_out).store) == 5


def run(transfer: ModuleType, data: Path, out: Path, *arguments: str) -> tuple[int, str]:
    console = Console(record=True, width=160, file=(data / "said").open("w"))
    common = ["--model", str(data / "small.cfg"), "--batch-size", "4", "--device", "cpu", "--size", "64"]
    common += ["--measure-size", "64"]
    code = transfer.main([str(data), "--out", str(out), *common, *arguments], console)
    return code, console.export_text()


@pytest.mark.slow
def test_a_whole_run(transfer: ModuleType, data: Path, tmp_path: Path) -> None:
    """Two arms, then one that is interrupted after its training, then a variant, each with its own result."""
    few = ["--steps", "2", "--classifier-steps", "1", "--set", "data.workers=0"]
    code, text = run(transfer, data, tmp_path, "--seeds", "0", *few)
    assert code == 0, text
    results = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "results").iterdir()}
    assert len(results) == 2
    first = results["joint+data.workers=0-seed0"]["photos"]
    assert set(first["val"]["map50"]) == {"node", "ancestor at 4", "ancestor at 6"}
    assert {name for name, score in first["val"]["classes"].items() if score["unseen"]} == {"dog", "vessel"}
    assert first["val"]["objects"] == 4
    assert first["held out"]["images"] > first["val"]["images"]
    assert (tmp_path / "runs" / "classifier" / "model.safetensors").exists()
    summary = json.loads((tmp_path / "transfer.json").read_text())
    assert [row["arm"] for row in summary["arms"]] == ["detection data.workers=0", "joint data.workers=0"]
    assert [row["seeds"] for row in summary["arms"]] == [[0], [0]]
    with Image.open(tmp_path / "transfer.png") as image:
        assert image.width > 400

    # Finished arms are not trained again, and a trained arm without a result is only measured.
    model = tmp_path / "runs" / "joint+data.workers=0-seed0" / "model.safetensors"
    before = model.stat().st_mtime_ns
    (tmp_path / "results" / "joint+data.workers=0-seed0.json").unlink()
    code, text = run(transfer, data, tmp_path, "--seeds", "0", "--arm", "joint", *few)
    assert code == 0, text
    again = json.loads((tmp_path / "results" / "joint+data.workers=0-seed0.json").read_text())
    assert model.stat().st_mtime_ns == before
    assert again["photos"] == first
    assert "paper, ImageNet DET: 32.8 with boxes, 16.0 without, ratio 0.49" in text

    code, text = run(transfer, data, tmp_path, "--seeds", "0", "--arm", "joint", "--steps", "3", *few[2:])
    assert code == 1
    assert "measured with" in text


def test_the_experiment_keeps_its_own_settings(transfer: ModuleType, data: Path, tmp_path: Path) -> None:
    code, text = run(transfer, data, tmp_path, "--set", "data.mosaic=[tiny-imagenet-boxes:x]")
    assert code == 1
    assert "the experiment decides data.detection" in text
    code, text = run(transfer, data, tmp_path, "--report")
    assert code == 0
    assert "nothing is finished" in text


def test_the_table(transfer: ModuleType, tmp_path: Path) -> None:
    report = import_module("transfer_report")
    for arm, seed, unseen in (
        ("joint", 0, 0.10),
        ("joint", 1, 0.20),
        ("detection", 0, None),
        ("mine", 0, 0.3),
    ):
        path = tmp_path / "results" / f"{arm}{seed}.json"
        path.parent.mkdir(exist_ok=True)
        halves = {"seen": 0.3, "unseen": unseen, "taught": 0.3}
        photos = {name: {"map50": {"node": halves}} for name in ("val", "held out")}
        content = {"arm": arm, "seed": seed, "photos": photos, "seconds": {"training": 5, "measuring": 2}}
        path.write_text(json.dumps(content))
    rows = {row.arm: row for row in report.finished(tmp_path, ["detection", "joint"])}
    assert list(rows) == ["detection", "joint", "mine"]
    assert rows["joint"].seeds == [0, 1]
    assert rows["joint"].ratio("val", "node") == pytest.approx(0.5)
    assert rows["joint"].ratio("val", "node", "taught") == pytest.approx(1.0)
    assert rows["detection"].ratio("val", "node") is None
    assert report.span(rows["joint"].values["val"]["node"]["unseen"]) == "15.0 (10.0 to 20.0)"
    assert report.span([]) == "–"
    console = Console(record=True, width=100, file=(tmp_path / "said").open("w"))
    report.report(tmp_path, ["detection", "joint"], console)
    assert "0.50" in console.export_text()
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table -->\nold\n<!-- end of table -->\nafter\n")
    report.write_page(tmp_path, ["detection", "joint"], page, tmp_path / "copy.png")
    text = page.read_text()
    assert "old" not in text
    assert "| `joint` | 2 | 30.0 (30.0 to 30.0) | 15.0 (10.0 to 20.0) | 0.50 | 1.00 |" in text
    assert text.startswith("before\n<!-- table -->\n| arm | seeds |")
    assert text.endswith("<!-- end of table -->\nafter\n")
    assert (tmp_path / "copy.png").stat().st_size > 1000


def test_every_arm_is_a_valid_setting(transfer: ModuleType, data: Path, tmp_path: Path) -> None:
    options = transfer.parse([str(data), "--out", str(tmp_path), "--arm", "all"])
    plan = transfer.plan_of(options)
    configs = {
        name: transfer.arm_config(plan, name, [], 3, transfer.Data(["d"], ["c"], "h", {}))
        for name in transfer.chosen(options)
    }
    assert set(configs) == set(transfer.ARMS)
    assert configs["detection"].data.classification == ()
    assert configs["joint"].data.classification == ("c",)
    assert (configs["joint"].loss.classification_box, configs["joint"].loss.classification_iou) == (
        "likeliest",
        0.3,
    )
    assert configs["joint"].weights == str(tmp_path / "runs" / "classifier" / "model.safetensors")
    assert configs["scratch"].weights is None
    differing = [config.loss for config in configs.values() if config.loss != configs["joint"].loss]
    assert len(differing) == 11


def test_boxes_that_a_model_drew_fill_tiles_in_every_arm(
    transfer: ModuleType, data: Path, tmp_path: Path
) -> None:
    options = transfer.parse([str(data), "--out", str(tmp_path), "--boxes", "pack:a.h5", "pack:b.h5"])
    plan = transfer.plan_of(options)
    config = transfer.arm_config(plan, "objects", [], 0, transfer.Data(["d"], ["c"], "h", {}))
    assert config.data.mosaic == ("pack:a.h5", "pack:b.h5")
    assert config.data.detection == ("d",)
