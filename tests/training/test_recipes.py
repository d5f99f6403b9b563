"""The recipe's settings, tried on small data in the real layouts; the page of all settings."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import MISSING, fields
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou
from typer.testing import CliRunner

import yolo9000
from toys import CLASSIFIED, linear
from yolo9000.cli import app
from yolo9000.config import TrainConfig, load_config
from yolo9000.datasets import read_records
from yolo9000.errors import DataError
from yolo9000.optim import learning_rate

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = Path(yolo9000.__file__).parent / "photos"
RECIPES = ROOT / "recipes"


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO 2017 and the full ImageNet as they are distributed, but for the number of photos."""
    root = tmp_path_factory.mktemp("real")
    photos = sorted(PHOTOS.glob("*.jpg"))
    for split in ("train2017", "val2017"):
        (root / "coco" / split).mkdir(parents=True)
        images, annotations = [], []
        for number, photo in enumerate(photos, 1):
            with Image.open(photo) as picture:
                small = picture.convert("RGB").resize((160, 120))
            small.save(root / "coco" / split / f"{number:012}.jpg")
            images.append({"id": number, "file_name": f"{number:012}.jpg", "width": 160, "height": 120})
            annotation = {"id": number, "image_id": number, "category_id": 18, "iscrowd": 0, "area": 4000}
            annotations.append(annotation | {"bbox": [20, 20, 100, 40]})
        content = {"images": images, "annotations": annotations, "categories": [{"id": 18, "name": "dog"}]}
        (root / "coco" / "annotations").mkdir(exist_ok=True)
        (root / "coco" / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    for wnid in ("n02109961", "n01614925", "n04254680"):
        folder = root / "imagenet" / "train" / wnid
        folder.mkdir(parents=True)
        for number, photo in enumerate(photos):
            with Image.open(photo) as picture:
                picture.convert("RGB").resize((96, 96)).save(folder / f"{wnid}_{number}.JPEG")
    return root


@pytest.mark.parametrize(
    ("stage", "model", "schedule"),
    [
        ("classifier224", "classifier9418.cfg", "1,600,000 steps"),
        ("classifier448", "classifier9418.cfg", "100,000 steps"),
        ("joint", "small.cfg", "500,200 steps"),
    ],
)
def test_dry_run_of_the_recipe(
    data: Path, layouts: Path, tmp_path: Path, stage: str, model: str, schedule: str
) -> None:
    """With a small network: the real one is tried by hand."""
    tree = (data / "small.cfg").read_text()
    (tmp_path / "small.cfg").write_text(tree)
    trunk = tree[: tree.rindex("[convolutional]")]
    (tmp_path / "classifier9418.cfg").write_text(trunk + linear(9418) + CLASSIFIED + "tree=9k.tree\n")
    arguments = ["--config", str(RECIPES / "yolo9000" / f"{stage}.yaml"), "--model", str(tmp_path / model)]
    arguments += ["-c", f"imagenet:{layouts / 'imagenet'}", "--dry-run", "--batch-size", "2", "--size", "64"]
    command = "train-classifier"
    if stage == "joint":
        command = "train-joint"
        arguments += ["-d", f"coco:{layouts / 'coco'}:train", "--val", f"coco:{layouts / 'coco'}:val"]
    done = CliRunner().invoke(app, [command, *arguments, "--out", str(tmp_path / "run"), "--device", "cpu"])
    assert done.exit_code == 0, done.exception
    assert schedule in done.output
    assert "9 classification" in done.output
    assert ("3 detection" in done.output) == (stage == "joint")
    assert not (tmp_path / "run").exists()


def test_the_joint_schedule_is_that_of_darknets_cfg() -> None:
    config = load_config(RECIPES / "yolo9000" / "joint.yaml")
    rates = [learning_rate(config.optim, step, config.max_steps) for step in (999, 399_000, 401_000, 451_000)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5])
    assert (config.batch_size, config.data.sizes) == (64, tuple(range(320, 609, 32)))


@pytest.mark.parametrize(
    "path", sorted(RECIPES.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_settings_of_all_recipes_are_known(path: Path) -> None:
    load_config(path)


def script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_all_settings_is_current() -> None:
    tables = script("scripts/settings_table.py")
    text = tables.PAGE.read_text(encoding="utf-8")
    source = tables.SOURCE.read_text(encoding="utf-8")
    assert tables.page(text, source) == text, "run python scripts/settings_table.py"
    rows = [line for line in tables.tables(source).split("\n") if line.startswith("| `")]
    groups = [field.default_factory for field in fields(TrainConfig) if field.default_factory is not MISSING]
    assert len(rows) == sum(len(fields(group)) for group in [TrainConfig, *groups]) - len(groups)
    assert not [row for row in rows if row.endswith("|  |")], "a setting without a meaning"
    changed = source.replace("batch_size: int = 64", "batch_size: int = 63")
    assert tables.page(text, changed) != text


def test_boxes_for_labelled_photos(tmp_path: Path) -> None:
    """A dog and an eagle get boxes where they are; with a limit that nothing reaches, neither does."""
    where = {"dog": (0.16, 0.38, 0.41, 0.95), "eagle": (0.13, 0.15, 0.84, 0.85)}
    for name in where:
        (tmp_path / "train" / name).mkdir(parents=True)
        shutil.copy(PHOTOS / f"{name}.jpg", tmp_path / "train" / name)
    boxes = script("recipes/nano/boxes.py")
    boxes.main([f"imagenet:{tmp_path}", "yolo9000-nano", str(tmp_path / "found.h5"), "--objectness", "0.1"])
    found = read_records(f"pack:{tmp_path / 'found.h5'}")
    assert found.kind == "detection"
    assert len(found.store) >= 1
    for index in range(len(found.store)):
        name = found.labels[int(found.label_ids[index])].name
        assert found.store.inner_name(index) == f"{name}/{name}.jpg"
        with Image.open(PHOTOS / f"{name}.jpg") as photo:
            sides = torch.tensor([*photo.size, *photo.size])
        box = torch.from_numpy(found.boxes[index : index + 1])
        assert float(box_iou(box, torch.tensor([where[name]]) * sides)) > 0.4
    with pytest.raises(DataError):
        boxes.main([f"imagenet:{tmp_path}", "yolo9000-nano", str(tmp_path / "none.h5"), "--objectness", "1"])


def test_views_agree_or_not() -> None:
    agreed = script("recipes/nano/boxes.py").agreed
    near = [[0.0, 0, 10, 10, 0.6], [0, 0, 10, 11, 0.8], [0, 1, 10, 10, 0.7]]
    far = [5.0, 5, 30, 30, 0.9]
    assert agreed(torch.tensor([*near, far])).tolist() == pytest.approx([0, 1 / 3, 10, 31 / 3, 0.7])
    assert agreed(torch.tensor([*near[:2], far, far])) is None
