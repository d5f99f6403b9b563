"""Plain YOLOv2, classifiers, what they start from and what starts from them; the dry run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from toys import CLASSIFIED, linear
from yolo9000.checkpoint import load_model, save_model
from yolo9000.cli import app
from yolo9000.config import TrainConfig, to_yaml
from yolo9000.darknet.cfg import Cfg
from yolo9000.darknet.weights import save_weights
from yolo9000.dryrun import Timing, _interpolate, dry_run
from yolo9000.errors import ConfigError, YOLO9000Error
from yolo9000.model import load_any
from yolo9000.network import Network
from yolo9000.train import detector_trainer, joint_trainer, train_classifier, train_detector, train_joint

Settings = Callable[..., TrainConfig]
SIX = ["dog", "bicycle", "truck", "bird", "person", "horse"]


@pytest.fixture(scope="module")
def cfgs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network with flat lists of 80, 20 and 6 classes, and as classifiers."""
    folder = tmp_path_factory.mktemp("cfgs")
    tree = (data / "small.cfg").read_text()
    trunk = tree[: tree.rindex("[convolutional]")]
    region = tree[tree.index("[region]") :].replace("tree=9k.tree\n", "").replace("tied=1\n", "")
    for classes in (80, 20, 6):
        text = trunk + linear(3 * (5 + classes)) + region.replace("classes=9418", f"classes={classes}")
        (folder / f"flat{classes}.cfg").write_text(text)
    for classes, label in ((9418, "tree=9k.tree\n"), (1000, "groups=1\n")):
        (folder / f"classifier{classes}.cfg").write_text(trunk + linear(classes) + CLASSIFIED + label)
    return folder


def voc(folder: Path, photo: Path) -> Path:
    """A VOC data set of one photo, with VOC's spellings."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    with Image.open(photo) as picture:
        picture.convert("RGB").save(folder / "JPEGImages" / "one.jpg")
        width, height = picture.size
    boxes = "".join(
        f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{20 + i}</xmin><ymin>30</ymin>"
        f"<xmax>{200 + i}</xmax><ymax>220</ymax></bndbox></object>"
        for i, name in enumerate(["aeroplane", "sofa", "tvmonitor", "dog"])
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    (folder / "Annotations" / "one.xml").write_text(
        f"<annotation><filename>one.jpg</filename>{size}{boxes}</annotation>"
    )
    (folder / "ImageSets" / "Main" / "train.txt").write_text("one\n")
    return folder


def test_plain_yolov2_learns_from_boxes_alone(settings: Settings, cfgs: Path, tmp_path: Path) -> None:
    config = settings(tmp_path, model=str(cfgs / "flat80.cfg"), data__classification=[], max_steps=30)
    model = train_detector(config)
    table = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    assert "image_class" not in table[0]
    loss = [float(row[table[0].index("loss")]) for row in table[1:]]
    assert sum(loss[-5:]) < 0.6 * sum(loss[:5])
    network, _ = load_model(model)
    assert network.tree.names[:2] == ("person", "bicycle")  # COCO's list


@pytest.mark.parametrize(
    ("classes", "expected"),
    [(20, ["aeroplane", "sofa", "tvmonitor", "dog"]), (80, ["aeroplane", "sofa", "tvmonitor", "dog"])],
)
def test_vocs_labels_are_found_in_its_own_list_and_in_cocos(
    settings: Settings, cfgs: Path, data: Path, tmp_path: Path, classes: int, expected: list[str]
) -> None:
    spec = f"voc:{voc(tmp_path / 'voc', data / 'coco' / 'train' / 'dog.jpg')}:train"
    changes = {"data__detection": [spec], "data__classification": [], "augment": {"jitter": 0.0, "flip": 0.0}}
    trainer = detector_trainer(settings(tmp_path / "run", model=str(cfgs / f"flat{classes}.cfg"), **changes))
    batch = next(iter(trainer.loader))
    assert {trainer.network.tree.names[node] for node in batch.nodes.tolist()} == set(expected)


def test_a_names_file_says_what_the_classes_are(settings: Settings, cfgs: Path, tmp_path: Path) -> None:
    names = tmp_path / "six.names"
    names.write_text("\n".join(SIX) + "\n")
    flat = {"model": str(cfgs / "flat6.cfg"), "data__classification": []}
    trainer = detector_trainer(settings(tmp_path / "run", names=str(names), **flat))
    assert list(trainer.network.tree.names) == SIX
    with pytest.raises(YOLO9000Error, match="none of its 6 labels"):
        detector_trainer(settings(tmp_path / "run", **flat))
    names.write_bytes(b"\xef\xbb\xbfdog\r\nbird\r\n")  # as Windows writes it
    trainer = detector_trainer(settings(tmp_path / "other", names=str(names), **flat))
    assert list(trainer.network.tree.names) == ["dog", "bird"]
    names.write_text("dog\n\ncat\n")
    with pytest.raises(YOLO9000Error, match=r"six\.names:2: a blank line"):
        detector_trainer(settings(tmp_path / "run", names=str(names), **flat))
    names.write_text("dog\ncat\ndog\n")
    with pytest.raises(YOLO9000Error, match=r"six\.names:3: 'dog' stands in line 1 already"):
        detector_trainer(settings(tmp_path / "run", names=str(names), **flat))
    with pytest.raises(YOLO9000Error, match=r"none\.names: no such file"):
        detector_trainer(settings(tmp_path / "run", names=str(tmp_path / "none.names"), **flat))


@pytest.mark.parametrize("model", ["flat80.cfg", "small.cfg"])
def test_a_network_is_fitted_to_the_names(
    model: str, settings: Settings, cfgs: Path, data: Path, tmp_path: Path
) -> None:
    """To fewer classes than it has, with own rows an anchor or tied ones."""
    (tmp_path / "data.yaml").write_text("train: images\nnames: {0: dog, 1: bird}\n")
    text = ((data if model == "small.cfg" else cfgs) / model).read_text()
    cfg = tmp_path / model
    cfg.write_text(text.replace("softmax=1\n", ""))  # which a tree does not need
    console = Console(record=True, width=300)
    changes = {"names": str(tmp_path / "data.yaml"), "data__classification": [], "max_steps": 1}
    trained = train_detector(settings(tmp_path / "run", model=str(cfg), **changes), console=console)
    network, _ = load_model(trained)
    assert list(network.tree.names) == ["dog", "bird"]
    assert network.region is not None
    assert network.region.classes == 2
    assert network.region.tied == network.region.softmax == (model == "small.cfg")
    assert network.region.tree is None, "that of other classes"
    assert "made for the 2 classes of" in console.export_text()
    (tmp_path / "data.yaml").write_text("train: images\nnames: [dog, dog]\n")
    with pytest.raises(YOLO9000Error, match="'dog' stands twice"):
        detector_trainer(settings(tmp_path / "other", model=str(cfg), **changes))
    (tmp_path / "data.yaml").write_text("train: images\n")
    with pytest.raises(YOLO9000Error, match="gives no names"):
        detector_trainer(settings(tmp_path / "other", model=str(cfg), **changes))
    (tmp_path / "own.data").write_text("classes=2\ntrain=train.txt\nnames=own.names\n")
    (tmp_path / "own.names").write_text("bird\ndog\n")
    changes["names"] = str(tmp_path / "own.data")
    trainer = detector_trainer(settings(tmp_path / "other", model=str(cfg), **changes))
    assert list(trainer.network.tree.names) == ["bird", "dog"]
    (tmp_path / "own.data").write_text("classes=2\n")
    with pytest.raises(YOLO9000Error, match=r"own\.data: gives no names"):
        detector_trainer(settings(tmp_path / "other", model=str(cfg), **changes))


def test_a_model_by_name_starts_a_training(settings: Settings, tmp_path: Path) -> None:
    trainer = joint_trainer(settings(tmp_path / "run", model="yolo9000-nano", weights="yolo9000-nano"))
    start, _ = load_any("yolo9000-nano")
    torch.testing.assert_close(trainer.network.state_dict(), start.state_dict())
    with pytest.raises(YOLO9000Error, match="no-such-model: cannot be read"):
        joint_trainer(settings(tmp_path / "other", weights="no-such-model"))


def test_a_classifier_takes_names_too(cfgs: Path, data: Path, tmp_path: Path) -> None:
    names = tmp_path / "six.names"
    names.write_text("\n".join(["n02109961", "n01614925", *SIX[:4]]))
    words = ["-m", cfgs / "flat6.cfg", "-c", f"imagenet:{data / 'imagenet'}", "--names", names, "--dry-run"]
    done = CliRunner().invoke(app, ["train-classifier", *map(str, words), "--size", "64", "--workers", "0"])
    assert done.exit_code == 0, done.output


def test_a_plain_model_starts_a_joint_training(settings: Settings, cfgs: Path, tmp_path: Path) -> None:
    """Backbone and box rows; what fitted is said. Its darknet weights do not fit, and that is said, too."""
    torch.manual_seed(3)
    plain = Network(Cfg.load(cfgs / "flat80.cfg"))
    save_model(plain, tmp_path / "plain.safetensors")
    console = Console(record=True, width=300)
    trainer = joint_trainer(settings(tmp_path / "run", weights=str(tmp_path / "plain.safetensors")), console)
    assert plain.head is not None
    assert trainer.network.head is not None
    torch.testing.assert_close(trainer.network.head.box_weight, plain.head.box_weight)
    torch.testing.assert_close(trainer.network.layers[5].state_dict(), plain.layers[5].state_dict())
    assert "copied 6 of 6 layers" in console.export_text()
    save_weights(plain, tmp_path / "plain.weights")
    with pytest.raises(YOLO9000Error, match="made for another cfg"):
        joint_trainer(settings(tmp_path / "run", weights=str(tmp_path / "plain.weights")))


@pytest.mark.parametrize("classes", [9418, 1000])
def test_classifiers_grow_from_224_to_448(
    settings: Settings, cfgs: Path, tmp_path: Path, classes: int
) -> None:
    """At a small scale: 64 pixels, then 96 from the first model; then a detector from its first layers."""
    common = {"model": str(cfgs / f"classifier{classes}.cfg"), "data__detection": []}
    first = train_classifier(settings(tmp_path / "a", max_steps=3, data__sizes=[64], **common))
    again = settings(tmp_path / "b", max_steps=3, data__sizes=[96], weights=str(first), **common)
    second = load_model(train_classifier(again))[0]
    assert second.tree.names[:1] == (("thing",) if classes == 9418 else ("kit fox",))
    save_weights(second, tmp_path / "trunk.conv.6", layers=6)
    detector = joint_trainer(settings(tmp_path / "c", weights=str(tmp_path / "trunk.conv.6")))
    kept, state = second.layers[5].state_dict(), detector.network.layers[5].state_dict()
    for name in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"):
        torch.testing.assert_close(state[name], kept[name])


@pytest.mark.parametrize(
    ("train", "changes", "message"),
    [
        (train_detector, {}, "use train-joint"),
        (train_detector, {"data__detection": [], "data__classification": []}, "--detection voc:DIR"),
        (train_classifier, {}, "--classification imagenet:DIR"),
        (train_joint, {"model": "darknet9000"}, "use train-classifier"),
    ],
)
def test_the_wrong_command_names_the_right_one(
    settings: Settings,
    tmp_path: Path,
    train: Callable[[TrainConfig], Path],
    changes: dict[str, object],
    message: str,
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(settings(tmp_path, **changes))


# ---------------------------------------------------------------------------------------------------- dry run


def test_dry_run_measures_and_writes_nothing(settings: Settings, tmp_path: Path) -> None:
    config = settings(tmp_path / "run", data__sizes=[96, 128, 160], max_steps=1000, data__workers=2)
    result = dry_run(joint_trainer(config), opened=1.5, steps=2)
    assert not (tmp_path / "run").exists()
    assert [timing.size for timing in result.timings] == [96, 160]
    assert result.memory > 100e6
    low, high = (timing.step for timing in result.timings)
    slowest = max(high, low, *(4 * timing.read / 2 for timing in result.timings))
    assert 1000 * min(low, high) <= result.seconds <= 1000 * slowest * 1.001
    text = str(result)
    assert "3 detection, 6 classification (opened in 1.5 s)" in text
    assert "4 images x 1 process x 1 accumulated = 4 images of 96 to 160 pixels" in text
    assert "1,000 steps = 333.3 epochs of 3 batches; adamw, cosine, lr 0.002" in text


def test_time_grows_with_the_area() -> None:
    timings = (Timing(100, 1.0, 0.0), Timing(300, 9.0, 0.0))
    assert [_interpolate(timings, size) for size in (100, 200, 300)] == pytest.approx([1, 4, 9])
    assert _interpolate(timings[:1], 100) == 1.0


@pytest.mark.parametrize(
    ("command", "model", "kinds"),
    [
        ("train", "flat80.cfg", ("detection",)),
        ("train-joint", "", ("detection", "classification")),
        ("train-classifier", "classifier9418.cfg", ("classification",)),
    ],
)
def test_every_command_has_a_dry_run(
    settings: Settings,
    cfgs: Path,
    data: Path,
    tmp_path: Path,
    command: str,
    model: str,
    kinds: tuple[str, ...],
) -> None:
    model = str(data / "small.cfg" if command == "train-joint" else cfgs / model)
    changes = {f"data__{kind}": [] for kind in ("detection", "classification") if kind not in kinds}
    config = settings(tmp_path / "run", model=model, max_steps=10, **changes)
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    done = CliRunner().invoke(app, [command, "--config", str(tmp_path / "run.yaml"), "--dry-run"])
    assert done.exit_code == 0, done.exception
    assert re.search(r"^whole run +\d", done.output, re.MULTILINE)
    assert not (tmp_path / "run").exists()
