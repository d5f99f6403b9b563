"""Temperatures: fitted where the truth is known, and divided into the class rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from toys import BREEDS, CLASSIFIED, conv, input_size, linear, region
from wordtree.tree import WordTree
from yolo9000.calibrate import Steps, apply_temperatures, collect_steps, fit_temperatures, join_steps
from yolo9000.checkpoint import load_model, save_model
from yolo9000.cli import app
from yolo9000.darknet.cfg import Cfg
from yolo9000.datasets import open_dataset
from yolo9000.errors import ConfigError, DataError, WeightsError
from yolo9000.evaluation.options import EvaluateConfig
from yolo9000.letterbox import letterbox
from yolo9000.network import Network
from yolo9000.tree_ops import TreeOps

TOP = input_size(32) + conv(4, norm=0, stride=32)
DETECTOR = TOP + linear(28) + region(9, "1,1, 2,2", coords=4, softmax=1)
CLASSIFIER = TOP + linear(9) + CLASSIFIED
TRUE = torch.tensor([2.0, 3.0, 0.5])  # temperature of each depth that made the labels


def drawn(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [K, N] and labels drawn from the softmax of logits / TRUE, walking down to a leaf."""
    rng = torch.Generator().manual_seed(0)
    ops = TreeOps(BREEDS)
    logits = torch.randn(count, len(BREEDS), generator=rng, dtype=torch.float64) * 4
    probs = ops.path_log_probs(ops.log_softmax(logits / TRUE[ops.depth])).exp()
    leaves = torch.from_numpy(np.flatnonzero(BREEDS.is_leaf))
    return logits, leaves[torch.multinomial(probs[:, leaves], 1, generator=rng)[:, 0]]


def test_temperatures_that_made_the_labels_are_found() -> None:
    ops = TreeOps(BREEDS)
    found = fit_temperatures(Steps.of(ops, *drawn(20_000)), ops.levels)
    assert [round(row.temperature / true, 1) for row, true in zip(found, TRUE.tolist(), strict=True)] == [
        1.0,
        1.0,
        1.0,
    ]
    for row in found:
        assert row.nll[1] < row.nll[0]
        assert row.error[1] < 0.02 < row.error[0]


def test_loss_is_that_of_the_tree() -> None:
    ops = TreeOps(BREEDS)
    logits, nodes = drawn(50)
    steps = Steps.of(ops, logits, nodes)
    conditional = ops.log_softmax(logits)
    for depth in range(ops.levels):
        values = [
            -float(conditional[row, node])
            for row, path in enumerate(ops.path[nodes].tolist())
            for node in path[depth : depth + 1]
            if node >= 0 and ops.group_size[ops.group[node]] > 1
        ]
        assert len(steps.at(depth).start) == len(values)
        assert steps.at(depth).nll() == pytest.approx(np.mean(values))


def test_joined_steps_are_those_of_all_rows() -> None:
    ops = TreeOps(BREEDS)
    logits, nodes = drawn(30)
    parts = [Steps.of(ops, logits[i : i + 10], nodes[i : i + 10]) for i in range(0, 30, 10)]
    joined, whole = join_steps(parts), Steps.of(ops, logits, nodes)
    for name in ("logits", "start", "target", "depth"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))


def test_depths_with_few_labels_take_the_temperature_above() -> None:
    ops = TreeOps(BREEDS)
    logits, nodes = drawn(2_000)
    up = torch.tensor(BREEDS.parent)[nodes]
    nodes[5:] = up[5:]  # only five labels reach the leaves' depth
    found = fit_temperatures(Steps.of(ops, logits, nodes), ops.levels, minimum=50)
    assert found[2].temperature == found[1].temperature != found[0].temperature
    assert found[2].steps <= 5


def test_depths_with_hardly_a_mistake_stay_near_the_temperature_above() -> None:
    """Their labels would become the more probable the lower the temperature, which is no evidence."""
    ops = TreeOps(BREEDS)
    logits, nodes = drawn(2_000)
    depth = torch.as_tensor(ops.depth)[nodes]
    for margin, share in ((100.0, 0.99), (30.0, 0.5)):
        surer = logits.clone()
        surer[torch.arange(len(nodes)), nodes] += margin * (depth == 2)
        found = fit_temperatures(Steps.of(ops, surer, nodes), ops.levels)
        assert found[1].temperature == pytest.approx(3, rel=0.1)
        assert found[2].steps > 100
        assert share < found[2].temperature / found[1].temperature < 1.001


def test_nothing_to_calibrate_on() -> None:
    ops = TreeOps(BREEDS)
    empty = Steps.of(ops, torch.zeros(0, 9), torch.zeros(0, dtype=torch.long))
    with pytest.raises(DataError, match="nothing to calibrate on"):
        fit_temperatures(empty, ops.levels)
    with pytest.raises(DataError, match="nothing to calibrate on"):
        fit_temperatures(join_steps([]), ops.levels)


@pytest.mark.parametrize("cfg", [DETECTOR, CLASSIFIER])
def test_rows_divided_are_logits_divided(cfg: str) -> None:
    torch.manual_seed(0)
    network = Network(Cfg.parse(cfg), BREEDS)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    images = torch.rand(3, 3, 64, 64)
    before = network.class_logits(network.features(images))
    apply_temperatures(network, TRUE.tolist())
    after = network.class_logits(network.features(images))
    torch.testing.assert_close(after, before / TRUE[network.ops.depth])


@pytest.mark.parametrize("wrong", [[1.0], [1.0, 1.0, 0.0], [1.0, -1.0, 1.0], []])
def test_wrong_temperatures_are_refused(wrong: list[float]) -> None:
    with pytest.raises(ConfigError, match="expected 3 temperatures above 0"):
        apply_temperatures(Network(Cfg.parse(DETECTOR), BREEDS), wrong)


def _dataset(root: Path, boxes: list[tuple[int, float, float, float, float]], side: int = 96) -> str:
    """A COCO folder with one picture of noise; boxes are (class, x, y, width, height) in pixels."""
    (root / "annotations").mkdir(parents=True)
    (root / "val").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "val" / "noise.png")
    content = {
        "images": [{"id": 1, "file_name": "noise.png"}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(BREEDS.names)],
        "annotations": [
            {"id": i + 1, "image_id": 1, "category_id": node, "bbox": box, "iscrowd": 0}
            for i, (node, *box) in enumerate(boxes)
        ],
    }
    (root / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return f"coco:{root}"


def test_boxes_are_read_at_the_surest_anchor_that_overlaps_them(tmp_path: Path) -> None:
    """A 3 x 3 grid of priors of one cell: the object lies in the middle one, and no other overlaps it."""
    torch.manual_seed(1)
    network = Network(Cfg.parse(DETECTOR), BREEDS).eval()
    head = network.head
    assert head is not None
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
        head.box_weight.zero_()
        head.box_bias.zero_()  # every box is its prior, in the middle of its cell
        head.box_bias[1, 4] = 5.0  # the larger prior is surer, but overlaps by a quarter only
    config = EvaluateConfig(size=96)
    dataset = open_dataset(
        _dataset(tmp_path, [(5, 32.0, 32.0, 32.0, 32.0), (8, 0.0, 0.0, 4.0, 4.0)]), BREEDS, "val"
    )
    steps = collect_steps(network, dataset, config)
    with torch.no_grad():
        image, _ = letterbox(dataset[0].image.as_subclass(torch.Tensor), (96, 96))
        features = network.fuse().features(image[None])
        one = torch.tensor([1])
        logits = head.class_logits(features, one * 0, one * 0, one, one)
    expected = Steps.of(network.ops, logits, torch.tensor([5]))
    np.testing.assert_allclose(steps.logits, expected.logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(steps.target, expected.target)


def test_classes_that_do_not_compete_have_no_temperature(tmp_path: Path) -> None:
    flat = WordTree.flat(BREEDS.names)
    network = Network(Cfg.parse(DETECTOR.replace("softmax=1", "softmax=0")), flat)
    dataset = open_dataset(_dataset(tmp_path, [(5, 32.0, 32.0, 32.0, 32.0)]), flat, "val")
    with pytest.raises(ConfigError, match="a sigmoid of its own"):
        collect_steps(network, dataset)


def test_damaged_class_rows_are_not_calibrated(tmp_path: Path) -> None:
    network = Network(Cfg.parse(DETECTOR), BREEDS)
    network.state_dict()["head.class_weight"][0, 1] = torch.nan
    dataset = open_dataset(_dataset(tmp_path, [(5, 32.0, 32.0, 32.0, 32.0)]), BREEDS, "val")
    with pytest.raises(WeightsError, match="NaN"):
        collect_steps(network, dataset)


def test_unsuitable_data_are_refused_before_the_first_are_worked_through(tmp_path: Path) -> None:
    save_model(Network(Cfg.parse(CLASSIFIER), BREEDS), tmp_path / "model.safetensors")
    (tmp_path / "photos" / "val" / "pug").mkdir(parents=True)
    (tmp_path / "photos" / "val" / "pug" / "unreadable.jpg").write_text("")
    sets = [f"imagenet:{tmp_path / 'photos'}", _dataset(tmp_path / "boxes", [(5, 32.0, 32.0, 32.0, 32.0)])]
    with pytest.raises(ConfigError, match="a classifier has no boxes to calibrate on"):
        app(
            [
                "calibrate",
                str(tmp_path / "model.safetensors"),
                *sets,
                "-o",
                str(tmp_path / "new.safetensors"),
            ],
            standalone_mode=False,
        )


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(2)
    network = Network(Cfg.parse(DETECTOR), BREEDS)
    about = {"threshold": "0.3", "hier_threshold": "0.7", "licence": "MIT", "VOC mAP50": "0.5"}
    save_model(network, tmp_path / "model.safetensors", metadata=about)
    spec = _dataset(tmp_path / "data", [(5, 32.0, 32.0, 32.0, 32.0)])
    arguments = ["calibrate", str(tmp_path / "model.safetensors"), spec, "--size", "96", "--minimum", "1"]
    app([*arguments, "-o", str(tmp_path / "new.safetensors")], standalone_mode=False)
    printed = capsys.readouterr().out
    assert "temperature" in printed
    assert "labels are surer than 0.7 by default" in printed
    new, metadata = load_model(tmp_path / "new.safetensors")
    kept = {key: metadata.get(key) for key in about}
    assert kept == about | {"VOC mAP50": None}, "measured with other probabilities"
    temperatures = [float(value) for value in metadata["temperatures"].split()]
    apply_temperatures(network, temperatures)
    assert new.head is not None
    assert network.head is not None
    torch.testing.assert_close(new.head.class_weight, network.head.class_weight, rtol=1e-2, atol=1e-6)

    arguments[1] = str(tmp_path / "new.safetensors")
    again = ["--half", "--hier-threshold", "0.5", "-o", str(tmp_path / "again.safetensors")]
    app([*arguments, *again], standalone_mode=False)
    metadata = load_model(tmp_path / "again.safetensors")[1]
    assert (metadata["threshold"], metadata["hier_threshold"]) == ("0.3", "0.5")
    second = [float(value) for value in metadata["temperatures"].split()]
    # One step a depth: the temperatures are 1 or the end of their range, again.
    assert second == pytest.approx([value**2 for value in temperatures], rel=0.02)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("new", "again")]
    assert sizes[1] < sizes[0]
