"""Measuring during a run: best model, early stop, and the state of both in checkpoints."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from toys import BREEDS, CLASSIFIED, colour_finder, conv, input_size, linear
from wordtree.tree import WordTree
from yolo9000.checkpoint import load_model
from yolo9000.config import TrainConfig, ValConfig
from yolo9000.darknet.cfg import Cfg
from yolo9000.errors import ConfigError, DataError
from yolo9000.evaluate import evaluate
from yolo9000.evaluation.detection import DetectionResult
from yolo9000.network import Network
from yolo9000.train import classifier_trainer, joint_trainer, train_classifier, train_joint
from yolo9000.validation import EarlyStop, Validator

Settings = Callable[..., TrainConfig]


def read_log(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def val(data: Path) -> dict[str, object]:
    return {"data": [f"coco:{data / 'coco'}:train", f"imagenet:{data / 'imagenet'}:train"], "steps": 2}


def test_metrics_are_logged_and_the_best_model_kept(
    settings: Settings, val: dict[str, object], data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "[/x]"  # which is no markup for the terminal
    final = train_joint(settings(out, val=val, max_steps=5, log_steps=100))
    rows = read_log(out)
    assert [int(row["step"]) for row in rows] == [2, 4, 5]  # every second step, and the last
    assert all(0 <= float(row["val_top1"]) <= 1 for row in rows)
    best = max(rows, key=lambda row: float(row["val_map50"]))
    network, about = load_model(out / "best.safetensors")
    assert about["step"] == best["step"]
    assert float(about["val_map50"]) == pytest.approx(float(best["val_map50"]), abs=1e-5)
    for model, row in ((network, best), (load_model(final)[0], rows[-1])):
        again = evaluate(model, f"coco:{data / 'coco'}:train")
        assert isinstance(again, DetectionResult)
        assert again.nodes.map == pytest.approx(float(row["val_map50"]), abs=1e-5)


def test_a_run_without_gain_stops_and_stays_stopped(
    settings: Settings, val: dict[str, object], tmp_path: Path
) -> None:
    """With a rate of 0 nothing is learnt."""
    val |= {"patience": 2, "steps": 1}
    config = settings(
        tmp_path, val=val, max_steps=50, optim__lr=0.0, augment={"jitter": 0.0}, ema=0.0, freeze=6
    )
    model = train_joint(config).read_bytes()
    assert [int(row["step"]) for row in read_log(tmp_path)] == [1, 2, 3]
    assert train_joint(config, resume=True).read_bytes() == model
    assert [int(row["step"]) for row in read_log(tmp_path)] == [1, 2, 3]
    longer = settings(tmp_path, val=val | {"patience": 4}, max_steps=50, optim__lr=0.0, ema=0.0, freeze=6)
    train_joint(longer, resume=True)
    assert len(read_log(tmp_path)) == 5


def test_measuring_changes_nothing_and_resumes_exactly(
    settings: Settings, val: dict[str, object], tmp_path: Path
) -> None:
    val["patience"] = 3
    plain = train_joint(settings(tmp_path / "plain", max_steps=5)).read_bytes()
    whole = train_joint(settings(tmp_path / "whole", val=val, max_steps=5))
    train_joint(settings(tmp_path / "cut", val=val, max_steps=3, optim__schedule="constant"))
    assert whole.read_bytes() == plain
    train_joint(settings(tmp_path / "cut", val=val, max_steps=5, optim__schedule="constant"), resume=True)
    train_joint(settings(tmp_path / "uncut", val=val, max_steps=5, optim__schedule="constant"))
    rows, others = read_log(tmp_path / "cut"), read_log(tmp_path / "uncut")
    # The shorter run measured its last step, 3, too.
    assert [row["val_map50"] for row in rows if row["step"] != "3"] == [
        row["val_map50"] for row in others if row["step"] != "3"
    ]
    files = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("cut", "uncut")]
    assert files[0] == files[1]


def test_a_classifier_is_measured_by_its_accuracy(settings: Settings, data: Path, tmp_path: Path) -> None:
    only = {"data": [f"imagenet:{data / 'imagenet'}:train"], "size": 64}
    train_classifier(settings(tmp_path, data__detection=[], val=only, max_steps=2))
    assert "val_map50" not in read_log(tmp_path)[0]
    # Without val.steps: once an epoch, here of two batches.
    assert [bool(row["val_top1"]) for row in read_log(tmp_path)] == [False, True]


@pytest.mark.parametrize(("whole", "top1"), [(False, 1.0), (True, 0.5)])
def test_a_detector_is_measured_by_its_anchors(whole: bool, top1: float, tmp_path: Path) -> None:
    """A red cell is the surest of a picture that is blue on average."""
    picture = Image.new("RGB", (128, 128), (0, 0, 120))
    for label in ("bus", "husky"):
        folder = tmp_path / "val" / BREEDS.wnids[BREEDS.index(label)]
        folder.mkdir(parents=True)
        picture.save(folder / "a.png")
        picture.paste((255, 0, 0), (32, 32, 64, 64))
    network = colour_finder(BREEDS, ("husky", "tabby", "bus"))
    measured = Validator(ValConfig(data=(f"imagenet:{tmp_path}",)), network, whole=whole).measure(network)
    assert measured == {"val_top1": top1}


def test_who_trains_decides_how_pictures_are_named(settings: Settings, tmp_path: Path) -> None:
    assert not joint_trainer(settings(tmp_path)).validator.whole
    assert classifier_trainer(settings(tmp_path, data__detection=[])).validator.whole


def test_a_map_of_the_boxes_classes_is_not_that_of_labels(
    val: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    network = Network(Cfg.load(str(data / "small.cfg")))
    tree = network.tree
    nodes = [tree.index(name) for name in ("dog", "bicycle", "truck", "bird", "person", "n02374451")]
    (tmp_path / "classes.map").write_text("\n".join(map(str, nodes)))
    sets = Validator(ValConfig(**val), network, map_file=str(tmp_path / "classes.map")).sets
    ids = {tree.wnids[node] for _, labels in sets[1:] for node in labels.nodes(0)}
    assert ids == {"n01614925"}
    assert {node for index in range(3) for node in sets[0][1].nodes(index)} == set(nodes)


def test_boxes_for_a_classifier_are_refused_at_once(data: Path) -> None:
    cfg = Cfg.parse(input_size(64) + conv(8) + linear(2) + CLASSIFIED)
    network = Network(cfg, WordTree.flat(["dog", "bird"]))
    with pytest.raises(ConfigError, match="a classifier has no boxes to evaluate"):
        Validator(ValConfig(data=(f"coco:{data / 'coco'}:train",)), network)


@pytest.mark.parametrize(("line", "limit"), [("", 0), ("0 .5 .5 .2 .2", 1)])
def test_boxes_to_measure_on_are_missed_at_once(
    settings: Settings, tmp_path: Path, line: str, limit: int
) -> None:
    """Those of the pictures that the limit leaves."""
    for name, text in (("a", ""), ("b", line)):
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / f"{name}.png")
        (tmp_path / "labels" / f"{name}.txt").write_text(text)
    (tmp_path / "data.yaml").write_text("val: images\nnames: [dog]\n")
    val = {"data": [f"yolo:{tmp_path / 'data.yaml'}"], "limit": limit}
    with pytest.raises(
        DataError, match=r"data\.yaml: not one labelled object to measure on in [12] of its 2"
    ):
        joint_trainer(settings(tmp_path / "run", val=val))


def test_early_stop_counts_from_the_best() -> None:
    stop = EarlyStop(patience=2)
    assert [stop.update(i, {"val_top1": v}) for i, v in enumerate([0.2, 0.2, 0.3, 0.1], 1)] == [
        True, False, True, False,
    ]  # fmt: skip
    assert not stop.stopped
    copy = EarlyStop(patience=2)
    copy.load_state_dict(stop.state_dict())
    assert not copy.update(5, {"val_top1": float("nan"), "val_map50": 0.25})
    assert copy.stopped
    assert (copy.best, copy.best_step) == (0.3, 3)
    never = EarlyStop(patience=0)
    never.update(1, {"val_top1": 1.0})
    never.update(2, {"val_top1": 0.0})
    assert not never.stopped


def test_patience_needs_something_to_measure(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"val\.patience: nothing is measured"):
        settings(tmp_path, val={"patience": 3})
