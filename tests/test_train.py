"""Training on a few real photos: the loss falls, the objects are found again, runs resume exactly."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import yolo9000
from wordtree.tree import WordTree
from yolo9000.config import TrainConfig, from_mapping, load_config, to_yaml
from yolo9000.errors import ConfigError, DataError, TrainingError, YOLO9000Error
from yolo9000.train import (
    JointTask,
    Trainer,
    build_optimizer,
    learning_rate,
    pick_precision,
    train_classifier,
    train_joint,
)

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


def conv(filters: int, size: int = 3, stride: int = 1) -> str:
    head = f"[convolutional]\nbatch_normalize=1\nfilters={filters}\nsize={size}\nstride={stride}\n"
    return head + "pad=1\nactivation=leaky\n"


SMALL = (
    "[net]\nwidth=160\nheight=160\nchannels=3\n"
    + conv(16, stride=2)
    + conv(32, stride=2)
    + conv(48, stride=2)
    + conv(64, stride=2)
    + conv(128, stride=2)
    + conv(128)
    + "[convolutional]\nfilters=9433\nsize=1\nstride=1\npad=1\nactivation=linear\n"
    + "[region]\nanchors=0.6,1.5, 1.5,1.2, 2.5,2.5\nnum=3\nclasses=9418\ncoords=4\nsoftmax=1\ntied=1\n"
    + "bias_match=1\nrescore=1\nobject_scale=5\nnoobject_scale=1\nclass_scale=1\ncoord_scale=1\n"
    + "thresh=.6\nrandom=0\ntree=9k.tree\n"
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


def settings(data: Path, out: Path, **changes: object) -> TrainConfig:
    values: dict[str, object] = {
        "model": str(data / "small.cfg"),
        "out": str(out),
        "max_steps": 4,
        "batch_size": 4,
        "precision": "fp32",
        "device": "cpu",
        "ema": 0.9,
        "log_steps": 1,
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


def read_log(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="session")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of joint training on the three photos and the crops."""
    out = tmp_path_factory.mktemp("run")
    train_joint(settings(data, out, max_steps=160))
    return out


def test_loss_falls_below_a_quarter_of_its_start(trained: Path) -> None:
    loss = [float(row["loss"]) for row in read_log(trained)]
    assert np.mean(loss[-5:]) < 0.25 * np.mean(loss[:5])


def test_weighted_terms_add_up_to_the_logged_loss(trained: Path) -> None:
    for row in read_log(trained)[::20]:
        parts = [float(value) for key, value in row.items() if key.endswith("_weighted") and value]
        assert sum(parts) == pytest.approx(float(row["loss"]), rel=1e-3)


@pytest.mark.parametrize("name", OBJECTS)
def test_the_objects_are_found_again(trained: Path, name: str) -> None:
    model = yolo9000.YOLO9000.load(trained / "model.safetensors", device="cpu")
    found = model.detect(PHOTOS / name, threshold=0.2)
    for label, *box in OBJECTS[name]:
        node = model.tree.index(yolo9000_wnid(label))
        best = max((iou(d.box, box) for d in found if node in model.tree.path(d.node)), default=0)
        assert best > 0.5, f"{label} in {name}: {list(found)}"


def test_the_crops_teach_what_the_boxes_do_not_say(trained: Path) -> None:
    """No box says 'bald eagle'; the classification crops do, and the detection's path leads there."""
    model = yolo9000.YOLO9000.load(trained / "model.safetensors", device="cpu")
    found = max(model.detect(PHOTOS / "eagle.jpg", threshold=0.2), key=lambda d: d.objectness)
    assert "bald eagle" in [name for name, _ in found.full_path]


def yolo9000_wnid(name: str) -> str:
    from wordtree import class_list

    return next(entry.wnid for entry in class_list("coco") if entry.name == name)


def iou(one: tuple[float, ...], two: list[float]) -> float:
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    inter = max(width, 0) * max(height, 0)
    return inter / ((one[2] - one[0]) * (one[3] - one[1]) + (two[2] - two[0]) * (two[3] - two[1]) - inter)


SCRIPT = """
import sys
from yolo9000.config import load_config
from yolo9000.train import train_joint
train_joint(load_config(sys.argv[1]), resume=sys.argv[2] == "resume")
"""


def test_killed_and_resumed_runs_end_in_the_same_weights(data: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle, workers and all; then --resume: bit-identical weights and the same log."""
    changes = {"max_steps": 12, "checkpoint_steps": 1, "data__workers": 1}
    torch.set_num_threads(1)
    (tmp_path / "whole.yaml").write_text(to_yaml(settings(data, tmp_path / "whole", **changes)))
    (tmp_path / "cut.yaml").write_text(to_yaml(settings(data, tmp_path / "cut", **changes)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(config: str, mode: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path / config), mode],
            env=environment,
            start_new_session=True,
        )

    cut = start("cut.yaml", "fresh")
    log = tmp_path / "cut" / "metrics.csv"
    deadline = time.monotonic() + 120
    while (not log.exists() or len(log.read_text().splitlines()) < 5) and cut.poll() is None:
        assert time.monotonic() < deadline, "no progress"
        time.sleep(0.02)
    assert cut.poll() is None, "the run ended before it could be killed"
    os.killpg(cut.pid, signal.SIGKILL)
    cut.wait()
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    assert start("cut.yaml", "resume").wait(240) == 0
    assert start("whole.yaml", "fresh").wait(240) == 0
    assert (tmp_path / "cut/model.safetensors").read_bytes() == (
        tmp_path / "whole/model.safetensors"
    ).read_bytes()
    assert read_log(tmp_path / "cut") == read_log(tmp_path / "whole")


def test_number_of_workers_does_not_change_the_run(data: Path, tmp_path: Path) -> None:
    logs = []
    for workers in (0, 2):
        train_joint(settings(data, tmp_path / str(workers), max_steps=3, data__workers=workers))
        logs.append([row["loss"] for row in read_log(tmp_path / str(workers))])
    assert logs[0] == logs[1]


def test_a_classifier_starts_a_detector(data: Path, tmp_path: Path) -> None:
    model = train_classifier(settings(data, tmp_path / "c", data__detection=[], max_steps=6))
    loss = [float(row["loss"]) for row in read_log(tmp_path / "c")]
    assert loss[-1] < loss[0]
    config = settings(data, tmp_path / "j", weights=str(model), max_steps=1)
    trainer = Trainer(config, JointTask)
    from yolo9000.checkpoint import load_model

    assert trainer.network.head is not None
    source = load_model(model)[0]
    assert source.head is not None
    torch.testing.assert_close(trainer.network.head.class_weight, source.head.class_weight)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(data: Path, tmp_path: Path) -> None:
    config = settings(
        data, tmp_path, max_steps=50, checkpoint_steps=1, optim__lr=1e30, optim__burn_in=3, optim__clip=0.0
    )
    with pytest.raises(TrainingError, match=r"not finite at step \d+: .*images: .*\.(jpg|JPEG)"):
        train_joint(config)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert all(
        bool(value.isfinite().all()) for value in state["network"].values() if value.is_floating_point()
    )


def test_a_map_file_says_where_the_classes_stand(data: Path, tmp_path: Path) -> None:
    tree = WordTree.load("yolo9000")
    nodes = [tree.index("animal")] * len(NAMES)
    (tmp_path / "classes.map").write_text("".join(f"{node}\n" for node in nodes))
    trainer = Trainer(settings(data, tmp_path / "run", data__map=str(tmp_path / "classes.map")), JointTask)
    batch = next(iter(trainer.loader))
    assert len(batch.nodes)
    assert set(batch.nodes.tolist()) == {tree.index("animal")}
    (tmp_path / "classes.map").write_text("1\n2\n")
    with pytest.raises(YOLO9000Error, match=r"classes\.map"):
        Trainer(settings(data, tmp_path / "run", data__map=str(tmp_path / "classes.map")), JointTask)


def test_a_folder_with_a_run_is_not_overwritten(data: Path, trained: Path) -> None:
    with pytest.raises(TrainingError, match="--resume"):
        train_joint(settings(data, trained))


def test_resume_needs_a_checkpoint(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="nothing to resume"):
        train_joint(settings(data, tmp_path), resume=True)


def test_resume_with_other_data_is_refused(data: Path, tmp_path: Path) -> None:
    train_joint(settings(data, tmp_path, max_steps=1))
    with pytest.raises(ConfigError, match="n_classification"):
        train_joint(settings(data, tmp_path, max_steps=2, data__classification=[]), resume=True)


def test_a_damaged_checkpoint_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(TrainingError, match=r"last\.ckpt: not a readable checkpoint"):
        train_joint(settings(data, tmp_path), resume=True)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data__detection": []}, ConfigError, "--detection"),
        ({"data__detection": ["coco:/nowhere"]}, DataError, "/nowhere"),
        ({"data__sizes": [100]}, ConfigError, "multiples of 32"),
        ({"augment__jitter": 3.0}, ConfigError, "jitter"),
    ],
)
def test_bad_settings_are_named(
    data: Path, tmp_path: Path, changes: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train_joint(settings(data, tmp_path, **changes))


def test_unknown_and_wrong_keys_are_refused_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("batch: 3\nepochs: many\noptim:\n  lr: fast\n  schedule: linear\nloss: 5\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    for part in (
        "batch: unknown key",
        "epochs: expected int",
        "optim.lr",
        "optim.schedule: expected one of",
        "loss: expected",
    ):
        assert part in str(caught.value)


def test_configuration_survives_yaml(data: Path, tmp_path: Path) -> None:
    config = settings(data, tmp_path)
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "run.yaml") == config
    changed = load_config(tmp_path / "run.yaml", ["optim.lr=1e-2", "data.sizes=[64, 96]"], batch_size=9)
    assert (changed.optim.lr, changed.data.sizes, changed.batch_size) == (0.01, (64, 96), 9)


def test_learning_rate_follows_the_schedules() -> None:
    steps = from_mapping(TrainConfig, {"optim": {"lr": 1.0, "burn_in": 10}}).optim
    assert learning_rate(steps, 4, 160) == pytest.approx(0.5**4)
    assert [learning_rate(steps, s, 160) for s in (59, 60, 89, 90)] == pytest.approx([1, 0.1, 0.1, 0.01])
    poly = from_mapping(TrainConfig, {"optim": {"lr": 0.1, "burn_in": 0, "schedule": "poly"}}).optim
    assert learning_rate(poly, 50, 100) == pytest.approx(0.1 * 0.5**4)
    cosine = from_mapping(TrainConfig, {"optim": {"lr": 1.0, "burn_in": 0, "schedule": "cosine"}}).optim
    assert learning_rate(cosine, 100, 100) == pytest.approx(0.01)


def test_weight_decay_spares_biases_and_norms() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    groups = build_optimizer(module, TrainConfig().optim).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(1, 5e-4), (3, 0.0)]


def test_precision_is_what_is_asked_for() -> None:
    assert pick_precision(from_mapping(TrainConfig, {"precision": "fp32"})) == "32-true"
    assert pick_precision(from_mapping(TrainConfig, {"precision": "bf16"})) == "bf16-mixed"
