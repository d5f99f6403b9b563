"""Training on a few real photos: the loss falls, the objects are found again, runs resume exactly."""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

import yolo9000
from toys import CLASSIFIED, conv, files_up_to, input_size, linear, region
from wordtree.tree import WordTree
from yolo9000.cli import app
from yolo9000.config import TrainConfig, from_mapping, load_config, to_yaml
from yolo9000.convert import set_option
from yolo9000.darknet.cfg import Cfg
from yolo9000.datasets import Batch, Sample, TableDataset
from yolo9000.dryrun import dry_run
from yolo9000.errors import CfgError, ConfigError, DataError, TrainingError, YOLO9000Error
from yolo9000.network import Network
from yolo9000.optim import build_optimizer, learning_rate, weight_average
from yolo9000.prepare import pick_precision
from yolo9000.runlog import load_checkpoint, save_checkpoint
from yolo9000.tasks import ClassifierTask, cut_and_mix
from yolo9000.train import (
    JointTask,
    Step,
    Trainer,
    classifier_trainer,
    joint_trainer,
    train_classifier,
    train_joint,
)

PHOTOS = Path(yolo9000.__file__).parent / "photos"
Settings = Callable[..., TrainConfig]
Objects = dict[str, list[tuple[str, int, int, int, int]]]


def read_log(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="session")
def trained(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of joint training on the three photos and the crops."""
    out = tmp_path_factory.mktemp("run")
    train_joint(settings(out, max_steps=160))
    return out


def test_loss_falls_below_a_quarter_of_its_start(trained: Path) -> None:
    loss = [float(row["loss"]) for row in read_log(trained)]
    assert np.mean(loss[-5:]) < 0.25 * np.mean(loss[:5])


def test_weighted_terms_add_up_to_the_logged_loss(trained: Path) -> None:
    for row in read_log(trained)[::20]:
        parts = [float(value) for key, value in row.items() if key.endswith("_weighted") and value]
        assert sum(parts) == pytest.approx(float(row["loss"]), rel=1e-3)


@pytest.mark.parametrize("name", ["dog.jpg", "eagle.jpg", "person.jpg"])
def test_the_objects_are_found_again(trained: Path, objects: Objects, name: str) -> None:
    model = yolo9000.YOLO9000.load(trained / "model.safetensors", device="cpu")
    found = model.detect(PHOTOS / name, threshold=0.2)
    for label, *box in objects[name]:
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


@pytest.mark.parametrize("draw", ["loader", "device"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_programs_default_dtype_changes_nothing(
    settings: Settings, tmp_path: Path, dtype: torch.dtype, draw: str
) -> None:
    def run(name: str) -> tuple[bytes, str]:
        train_joint(settings(tmp_path / name, max_steps=1, data__draw=draw, loss__whole_scale=1.0))
        found = yolo9000.YOLO9000.load(device="cpu").detect(PHOTOS / "dog.jpg")
        return (tmp_path / name / "model.safetensors").read_bytes(), found.to_json()

    expected = run("float32")
    torch.set_default_dtype(dtype)
    try:
        assert run("other") == expected
    finally:
        torch.set_default_dtype(torch.float32)


SCRIPT = """
import sys
import torch
from yolo9000.config import load_config
from yolo9000.train import train_joint
torch.set_num_threads(1)
train_joint(load_config(sys.argv[1]), resume=sys.argv[2] == "resume")
"""


def start(config: Path, mode: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(config), mode],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def kill_when(run: subprocess.Popen[bytes], moment: Callable[[], bool]) -> None:
    """SIGKILL a run and its workers as soon as something is seen."""
    deadline = time.monotonic() + 240
    while not moment():
        assert run.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no progress"
        time.sleep(0.0005)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()


@pytest.mark.timeout(900)
def test_killed_and_resumed_runs_end_in_the_same_weights(settings: Settings, tmp_path: Path) -> None:
    """SIGKILL twice, workers and all: while a checkpoint is written, and at a random moment.

    Then bit-identical weights, and the same log.
    """
    changes = {"max_steps": 16, "checkpoint_steps": 1, "data__workers": 1}
    torch.set_num_threads(1)
    whole, cut = (settings(tmp_path / name, **changes) for name in ("whole", "cut"))
    (tmp_path / "cut.yaml").write_text(to_yaml(cut))
    out, log = tmp_path / "cut", tmp_path / "cut" / "metrics.csv"

    def rows() -> int:
        return len(log.read_text().splitlines()) - 1 if log.exists() else 0

    def writing() -> bool:
        return rows() >= 3 and any(out.glob(".last.ckpt.*"))

    kill_when(start(tmp_path / "cut.yaml", "fresh"), writing)
    assert (out / "last.ckpt").exists()
    cut_off = {path.name for path in out.glob(".last.ckpt.*")}
    seen, pause = rows(), time.monotonic() + random.random()
    kill_when(start(tmp_path / "cut.yaml", "resume"), lambda: rows() > seen and time.monotonic() > pause)
    assert not (out / "model.safetensors").exists()
    assert start(tmp_path / "cut.yaml", "resume").wait(240) == 0
    assert not cut_off & {path.name for path in out.iterdir()}, "a cut-off checkpoint was left behind"
    train_joint(whole)
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    assert read_log(out) == read_log(tmp_path / "whole")


@pytest.mark.parametrize(
    ("number", "changes"),
    [
        (signal.SIGINT, {}),
        (signal.SIGTERM, {}),
        (signal.SIGTERM, {"data__draw": "device", "data__cache": 160, "augment__mosaic": 0.5}),
    ],
)
def test_a_signal_lets_the_step_be_finished_and_saved(
    settings: Settings, tmp_path: Path, number: signal.Signals, changes: dict[str, Any]
) -> None:
    config = settings(tmp_path / "cut", max_steps=6, **changes)
    trainer = Trainer(config, JointTask)
    done = trainer.train_step

    def step(batches: list[Batch]) -> Step:
        if trainer.step == 2:
            os.kill(os.getpid(), number)
        return done(batches)

    trainer.train_step = step  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert [row["step"] for row in read_log(tmp_path / "cut")] == ["1", "2", "3"]
    assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)
    train_joint(config, resume=True)
    train_joint(settings(tmp_path / "whole", max_steps=6, **changes))
    files = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("cut", "whole")]
    assert files[0] == files[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_terminal_stops_a_run_with_its_workers(
    settings: Settings, tmp_path: Path, number: signal.Signals
) -> None:
    """Ctrl-C reaches every process of the group, at whatever moment; the step is finished and saved all the
    same."""
    config = settings(tmp_path / "run", max_steps=10_000, checkpoint_steps=10_000, data__workers=2)
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    log = tmp_path / "run" / "metrics.csv"
    run = start(tmp_path / "run.yaml", "fresh")
    deadline = time.monotonic() + 240
    while not log.exists() or len(log.read_text().splitlines()) < 3:
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(run.pid, number)
    assert run.wait(120) == -signal.SIGINT  # a KeyboardInterrupt that nobody catches
    assert (tmp_path / "run" / "last.ckpt").exists()
    trainer = Trainer(config, JointTask)
    trainer._load(tmp_path / "run" / "last.ckpt")
    assert trainer.step == int(read_log(tmp_path / "run")[-1]["step"])


def test_two_runs_do_not_write_into_one_folder(settings: Settings, tmp_path: Path) -> None:
    config = settings(tmp_path / "run", max_steps=10_000, checkpoint_steps=10_000)
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    run = start(tmp_path / "run.yaml", "fresh")
    kept = tmp_path / "run" / "config.yaml"
    deadline = time.monotonic() + 240
    while not kept.exists():
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(TrainingError, match=r"run: another run is writing into this folder; .*\(--out\)"):
        train_joint(config)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert train_joint(settings(tmp_path / "run", max_steps=1)).exists()


def test_number_of_workers_does_not_change_the_run(settings: Settings, tmp_path: Path) -> None:
    logs = []
    for workers in (0, 2):
        train_joint(settings(tmp_path / str(workers), max_steps=3, data__workers=workers))
        logs.append([row["loss"] for row in read_log(tmp_path / str(workers))])
    assert logs[0] == logs[1]


def test_drawn_by_the_device_a_run_is_nearly_the_same(settings: Settings, tmp_path: Path) -> None:
    """Only the filter differs; and the device draws the same whatever the number of workers."""
    losses = {}
    for name, draw, workers in (("loader", "loader", 0), ("device", "device", 0), ("workers", "device", 2)):
        out = tmp_path / name
        changes = {"data__cache": 200, "data__draw": draw, "data__workers": workers, "pictures": 1}
        train_joint(settings(out, max_steps=4, **changes))
        losses[name] = [float(row["loss"]) for row in read_log(out)]
        assert (out / "batch-1.jpg").exists()
    assert losses["workers"] == losses["device"]
    assert losses["device"] != losses["loader"]
    assert losses["device"] == pytest.approx(losses["loader"], rel=0.05)


@pytest.mark.parametrize(("draw", "height"), [("loader", 96), ("device", 96), ("loader", 90)])
def test_a_cfg_that_is_not_square(
    settings: Settings, tmp_path: Path, data: Path, draw: str, height: int
) -> None:
    """It is trained at its own width and height, as in darknet, mosaics too; with random=1 on squares."""
    text, shown = (data / "small.cfg").read_text().replace("height=160", f"height={height}"), io.StringIO()
    for number in (0, 1):
        (tmp_path / f"{number}.cfg").write_text(text.replace("random=0", f"random={number}"))
    changes = {"data__draw": draw, "data__cache": 160, "augment__mosaic": 0.5, "pictures": 1}
    own, squares = (
        functools.partial(settings, tmp_path / str(number), model=str(tmp_path / f"{number}.cfg"), **changes)
        for number in (0, 1)
    )
    trainer = Trainer(own(), JointTask, Console(file=shown))
    assert trainer.sampler.sizes == ((height, 160),)
    assert trainer.ready(next(iter(trainer.loader))).images.shape == (4, 3, height, 160)
    assert f"images of 160 x {height} pixels" in str(dry_run(trainer, steps=1))
    train_joint(own(max_steps=2, checkpoint_steps=1))
    train_joint(own(max_steps=3), resume=True)
    assert [row["step"] for row in read_log(tmp_path / "0")] == ["1", "2", "3"]
    assert "squares" not in shown.getvalue()
    trainer = Trainer(squares(), JointTask, Console(file=shown))
    assert trainer.sampler.sizes == (128, 160, 192, 224)
    assert "by its random=1 training is on squares" in " ".join(shown.getvalue().split())


def test_cut_and_mix_says_how_much_is_of_whom() -> None:
    torch.manual_seed(0)
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 20, 30).contiguous()
    shares = []
    for _ in range(50):
        mixed, share = cut_and_mix(images)
        assert mixed.mean((1, 2, 3)).tolist() == pytest.approx(
            [(1 - share) * own + share * (3 - own) for own in range(4)], abs=1e-5
        )
        shares.append(share)
    assert images.unique().tolist() == [0, 1, 2, 3]
    assert min(shares) < 0.1
    assert max(shares) > 0.5


def test_a_classifier_with_cutmix_resumes_exactly(settings: Settings, tmp_path: Path) -> None:
    changes = {"data__detection": [], "augment__cutmix": 0.7}
    train_classifier(settings(tmp_path / "plain", max_steps=6, data__detection=[]))
    train_classifier(settings(tmp_path / "whole", max_steps=6, **changes))
    trainer = Trainer(settings(tmp_path / "cut", max_steps=6, **changes), ClassifierTask)
    done = trainer.train_step

    def step(batches: list[Batch]) -> Step:
        if trainer.step == 2:  # in the middle of an epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return done(batches)

    trainer.train_step = step  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    train_classifier(settings(tmp_path / "cut", max_steps=6, **changes), resume=True)
    logs = {run: [row["loss"] for row in read_log(tmp_path / run)] for run in ("plain", "whole", "cut")}
    assert logs["whole"] == logs["cut"]
    assert logs["whole"] != logs["plain"]


def test_a_classifier_starts_a_detector(settings: Settings, tmp_path: Path) -> None:
    model = train_classifier(settings(tmp_path / "[/c]", data__detection=[], max_steps=6))
    loss = [float(row["loss"]) for row in read_log(tmp_path / "[/c]")]
    assert loss[-1] < loss[0]
    config = settings(tmp_path / "j", weights=str(model), max_steps=1)
    trainer = Trainer(config, JointTask)
    from yolo9000.checkpoint import load_model

    assert trainer.network.head is not None
    source = load_model(model)[0]
    assert source.head is not None
    torch.testing.assert_close(trainer.network.head.class_weight, source.head.class_weight)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(settings: Settings, tmp_path: Path) -> None:
    config = settings(
        tmp_path, max_steps=50, checkpoint_steps=1, optim__lr=1e30, optim__burn_in=3, optim__clip=0.0
    )
    with pytest.raises(TrainingError, match=r"not finite at step \d+: .*images: .*\.(jpg|JPEG)"):
        train_joint(config)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert all(
        bool(value.isfinite().all()) for value in state["network"].values() if value.is_floating_point()
    )


@pytest.mark.parametrize(
    ("part", "rows", "named"),
    [
        ("head.class_weight", 2, r"class, image_class \("),
        ("head.box_weight", 0, r"box, object \("),
    ],
)
def test_a_nan_names_the_terms_it_reaches(
    settings: Settings, tmp_path: Path, part: str, rows: int, named: str
) -> None:
    """Put into a checkpoint's weights; the checkpoint stays as it is."""
    train_joint(settings(tmp_path, max_steps=2))
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    state["network"][part][:, rows] = torch.nan
    torch.save(state, tmp_path / "last.ckpt")
    before = (tmp_path / "last.ckpt").read_bytes()
    with pytest.raises(TrainingError, match=rf"not finite at step 3: {named}.*images: .*\.(jpg|JPEG)"):
        train_joint(settings(tmp_path, max_steps=9, checkpoint_steps=1), resume=True)
    assert (tmp_path / "last.ckpt").read_bytes() == before
    assert [row["step"] for row in read_log(tmp_path)] == ["1", "2"]


def test_weights_that_are_not_finite_are_never_saved(settings: Settings, tmp_path: Path) -> None:
    """The loss of a step is fine, but its gradient is not: infinite momentum here."""
    train_joint(settings(tmp_path, max_steps=2))
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    state["optimizer"]["state"][0]["exp_avg"][0] = torch.inf
    torch.save(state, tmp_path / "last.ckpt")
    before = (tmp_path / "last.ckpt").read_bytes()
    with pytest.raises(TrainingError, match=r"not finite after step 3, first layers\.0\.conv\.weight"):
        train_joint(settings(tmp_path, max_steps=9, checkpoint_steps=1), resume=True)
    assert (tmp_path / "last.ckpt").read_bytes() == before


@pytest.mark.parametrize(("freeze", "stop"), [(3, None), (0, 2), (1, 2), (3, 1)])
def test_frozen_layers_stay_as_they_are(
    settings: Settings, tmp_path: Path, data: Path, freeze: int, stop: int | None
) -> None:
    """By the settings, or up to the layer with `stopbackward` in the cfg, whichever are more."""
    text = (data / "small.cfg").read_text()
    if stop is not None:
        text = set_option(text, stop, "stopbackward", "1")
    (tmp_path / "stop.cfg").write_text(set_option(text, 4, "learning_rate", ".1"))
    shown = Console(file=io.StringIO(), width=200)
    config = settings(tmp_path, model=str(tmp_path / "stop.cfg"), freeze=freeze, max_steps=2)
    trainer = Trainer(config, JointTask, shown)
    assert isinstance(shown.file, io.StringIO)
    printed = shown.file.getvalue()
    assert "passes over: line" in printed
    assert "learning_rate" in printed
    assert ("its first 3 layers are frozen" in printed) == (stop == 2)
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    trainer.fit()
    changed = {name for name, value in trainer.network.state_dict().items() if not value.equal(before[name])}
    assert not {name for name in changed if name.startswith(("layers.0.", "layers.1.", "layers.2."))}
    assert {"layers.3.conv.weight", "layers.3.bn.running_mean", "head.class_weight"} <= changed


def test_a_map_file_says_where_the_classes_stand(settings: Settings, tmp_path: Path) -> None:
    tree = WordTree.load("yolo9000")
    nodes = [tree.index("animal")] * 6
    (tmp_path / "classes.map").write_text("".join(f"{node}\n" for node in nodes))
    trainer = Trainer(settings(tmp_path / "run", data__map=str(tmp_path / "classes.map")), JointTask)
    batch = next(iter(trainer.loader))
    assert len(batch.nodes)
    assert set(batch.nodes.tolist()) == {tree.index("animal")}
    (tmp_path / "classes.map").write_text("1\n2\n")
    with pytest.raises(YOLO9000Error, match=r"classes\.map"):
        Trainer(settings(tmp_path / "run", data__map=str(tmp_path / "classes.map")), JointTask)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data__detection": [], "data__repeat": 0.5}, ["data.repeat has no effect: no photos with boxes"]),
        ({"data__classification": [], "data__balance": True}, ["data.balance has no effect: no labelled"]),
        ({"data__mosaic_classification": 0.5}, ["data.mosaic_classification has no effect: no mosaics"]),
        (
            {"data__detection": [], "data__map": "x", "augment__mosaic": 0.5},
            ["data.map has no effect: no photos", "augment.mosaic has no effect: no photos"],
        ),
        ({"augment__cutmix": 0.5}, ["augment.cutmix has no effect: a detector is trained"]),
        (
            {"data__classification": [], "augment__crop": [0.5, 1], "loss__whole_scale": 1.0},
            [
                "augment.crop has no effect: no labelled",
                "loss.whole_scale has no effect: training is not on both",
            ],
        ),
        ({"val": {"size": 33}}, ["val.size has no effect: nothing is measured (val.data)"]),
        ({"data__repeat": 0.5, "data__balance": True, "augment__mosaic": 0.5}, []),
    ],
)
def test_settings_that_do_nothing_are_told(
    settings: Settings, tmp_path: Path, changes: dict[str, Any], said: list[str]
) -> None:
    shown = Console(file=io.StringIO(), width=200)
    Trainer(settings(tmp_path, **changes), JointTask, shown)
    assert isinstance(shown.file, io.StringIO)
    printed = [line for line in shown.file.getvalue().splitlines() if "no effect" in line]
    assert len(printed) == len(said)
    assert all(line.startswith(start) for line, start in zip(printed, said, strict=True))


def test_what_is_left_out_is_told(settings: Settings, data: Path, tmp_path: Path) -> None:
    """At the start, briefly, of each kind of data and of what is measured on."""
    shutil.copytree(data / "coco", tmp_path / "coco")
    path = tmp_path / "coco" / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["categories"] += [{"id": 100 + i, "name": f"[gizmo]{i}"} for i in range(12)]
    box = {"image_id": 1, "bbox": [1, 1, 9, 9]}
    content["annotations"] += [{**box, "id": 100 + i, "category_id": 100 + i % 12} for i in range(13)]
    content["annotations"].append({**box, "id": 200, "category_id": 1, "bbox": [1, 1, 0, 9]})
    path.write_text(json.dumps(content))
    shown = Console(file=io.StringIO(), width=200)
    spec = f"coco:{tmp_path / 'coco'}"
    Trainer(
        settings(tmp_path / "r", data__detection=[spec], val={"data": [f"{spec}:train"]}), JointTask, shown
    )
    assert isinstance(shown.file, io.StringIO)
    printed = [line for line in shown.file.getvalue().splitlines() if "left out" in line or "check" in line]
    for name, lines in (("data.detection", printed[:3]), (f"{spec}:train", printed[3:])):
        labels, issues, pointer = lines
        assert labels.startswith(
            f"{name}: labels that match no node and are left out: [gizmo]0 (2), [gizmo]1 (1)"
        )
        assert labels.endswith("[gizmo]9 (1) and 2 more")
        assert issues.startswith(f"{name}: left out by the reader: 1, first {path}: annotation 200: box (")
        assert pointer == "`yolo9000 data check` lists all that is wrong"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_is_named(settings: Settings, data: Path, tmp_path: Path, workers: int) -> None:
    shutil.copytree(data / "coco", tmp_path / "coco")
    picture = tmp_path / "coco" / "train" / "eagle.jpg"
    picture.write_bytes(picture.read_bytes()[:900])
    changes = {"data__detection": [f"coco:{tmp_path / 'coco'}"], "data__workers": workers}
    with pytest.raises(
        DataError, match=rf"^{re.escape(str(picture))}: cannot be decoded as an image \(900 by"
    ) as error:
        train_joint(settings(tmp_path / "run", **changes))
    assert str(error.value).endswith("lists all such files")


def test_a_loader_process_that_was_ended_is_told(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(dataset: TableDataset, index: int) -> Sample:
        os.kill(os.getpid(), signal.SIGKILL)  # as the system does where memory runs out
        raise AssertionError

    monkeypatch.setattr(TableDataset, "__getitem__", killed)
    with pytest.raises(TrainingError, match=r"a process that loads pictures was ended .*--workers.*--resume"):
        train_joint(settings(tmp_path, data__workers=1, data__cache=0))


def test_a_folder_with_a_run_is_not_overwritten(settings: Settings, trained: Path) -> None:
    with pytest.raises(TrainingError, match="--resume"):
        joint_trainer(settings(trained)).fit()
    with pytest.raises(TrainingError, match="--resume"):  # before the data are opened
        train_joint(settings(trained, data__detection=["coco:gone"]))


def test_a_disk_that_fills_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    """It is told as such, and the checkpoint before is kept; torch speaks of a position in its file."""
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {"step": 1})
    with files_up_to(100_000), pytest.raises(OSError, match=f"File too large: '{path}'"):
        save_checkpoint(path, {str(i): torch.zeros(10_000) for i in range(5)})
    assert load_checkpoint(path)["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_resume_needs_a_checkpoint(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="nothing to resume"):
        joint_trainer(settings(tmp_path)).fit(resume=True)
    with pytest.raises(TrainingError, match="nothing to resume"):
        train_joint(settings(tmp_path, data__detection=["coco:gone"]), resume=True)
    with pytest.raises(TrainingError, match="nothing to resume"):
        app(["train", "-d", "coco:gone", "--out", str(tmp_path), "--resume"], standalone_mode=False)


def test_a_folder_that_cannot_be_written_is_refused_before_the_data_are_opened(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="is a file, expected a folder"):
        train_joint(settings(tmp_path / "file" / "run", data__detection=["coco:gone"]))
    with pytest.raises(OSError, match="/proc/runs/1"):
        train_joint(settings(Path("/proc/runs/1"), data__detection=["coco:gone"]))


def test_a_refused_run_leaves_no_folder(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone"):
        train_joint(settings(tmp_path / "runs" / "1", data__detection=["coco:gone"]))
    assert not (tmp_path / "runs").exists()


def test_the_last_step_of_an_epoch_is_shown_as_one_of_it(settings: Settings, tmp_path: Path) -> None:
    shown = io.StringIO()
    Trainer(settings(tmp_path, max_steps=0, epochs=2), JointTask, Console(file=shown, width=200)).fit()
    assert "epoch 2 loss" in shown.getvalue()
    assert "epoch 3" not in shown.getvalue()


def test_resume_of_a_run_that_is_done_says_so(settings: Settings, tmp_path: Path) -> None:
    train_joint(settings(tmp_path / "run", max_steps=2))
    shown = io.StringIO()
    trainer = Trainer(settings(tmp_path / "run", max_steps=1), JointTask, Console(file=shown, width=200))
    trainer.fit(resume=True)
    assert "step 2 is done, of 1: nothing is left to train" in shown.getvalue()


def test_resume_with_other_data_is_refused(settings: Settings, tmp_path: Path) -> None:
    train_joint(settings(tmp_path, max_steps=1))
    with pytest.raises(ConfigError, match="n_classification"):
        train_joint(settings(tmp_path, max_steps=2, data__classification=[]), resume=True)


def test_other_photos_of_the_same_number_are_noticed(settings: Settings, data: Path, tmp_path: Path) -> None:
    """Not the same ones in another folder; nor is anything said of a checkpoint that does not tell."""
    train_joint(settings(tmp_path / "run", max_steps=1))
    moved = shutil.copytree(data / "imagenet", tmp_path / "moved")
    again = settings(tmp_path / "run", max_steps=2, data__classification=[f"imagenet:{moved}"])
    train_joint(again, resume=True)
    first = next(moved.glob("train/*/0.JPEG"))
    first.rename(first.with_stem("9"))
    with pytest.raises(TrainingError, match=r"boxes of data\.classification are not those that the run had"):
        train_joint(again, resume=True)
    on_purpose = settings(
        tmp_path / "run", max_steps=3, data__classification=[f"imagenet:{moved}"], data__changed=True
    )
    train_joint(on_purpose, resume=True)
    first.with_stem("9").rename(first)
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    del state["data"]
    torch.save(state, tmp_path / "run" / "last.ckpt")
    train_joint(again, resume=True)


def test_another_map_file_is_noticed(settings: Settings, tmp_path: Path) -> None:
    nodes = [6912, 5177, 5235, 1, 2, 3]
    path = tmp_path / "classes.map"
    path.write_text("".join(f"{node}\n" for node in nodes))
    train_joint(settings(tmp_path / "run", max_steps=1, data__map=str(path)))
    again = settings(tmp_path / "run", max_steps=2, data__map=str(path))
    path.write_text("".join(f"{node}\n" for node in nodes[::-1]))
    with pytest.raises(TrainingError, match=r"boxes of data\.detection are not those that the run had"):
        train_joint(again, resume=True)
    path.write_text("".join(f"{node}\n" for node in nodes))
    train_joint(again, resume=True)


def test_other_photos_in_mosaics_are_noticed(settings: Settings, data: Path, tmp_path: Path) -> None:
    filling = shutil.copytree(data / "coco", tmp_path / "coco")
    changes = {"data__mosaic": [f"coco:{filling}"], "augment__mosaic": 0.5}
    train_joint(settings(tmp_path / "run", max_steps=1, **changes))
    path = filling / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"annotations": content["annotations"][1:]}))
    with pytest.raises(TrainingError, match=r"boxes of data\.mosaic are not those that the run had"):
        train_joint(settings(tmp_path / "run", max_steps=2, **changes), resume=True)


def test_photos_without_a_single_box_are_refused(settings: Settings, data: Path, tmp_path: Path) -> None:
    root = shutil.copytree(data / "coco", tmp_path / "coco")
    path = root / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"annotations": []}))
    with pytest.raises(DataError, match=r"coco: not one box to learn from"):
        joint_trainer(settings(tmp_path / "run", data__detection=[f"coco:{root}"]))
    both = [f"coco:{root}", f"coco:{data / 'coco'}"]  # photos of nothing beside others are fine
    assert joint_trainer(settings(tmp_path / "run", data__detection=both)).sampler.n_detection == 6


def test_resume_of_another_run_is_refused_but_settings_may_change(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "names").write_text("\n".join(["cat", "dog"]))
    plain = input_size(64) + conv(4, stride=2) * 5 + linear(14) + region(2, "1,1, 2,2", softmax=1)
    (tmp_path / "two.cfg").write_text(plain)
    (tmp_path / "wide.cfg").write_text(plain.replace("filters=4", "filters=8"))
    photos = tmp_path / "photos" / "train"
    for name in ("cat", "dog"):
        (photos / name).mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(photos / name / "0.png")
    values = {
        "model": str(tmp_path / "two.cfg"),
        "names": str(tmp_path / "names"),
        "data__detection": [],
        "data__classification": [f"imagenet:{photos.parent}"],
        "max_steps": 1,
    }

    def run(**changes: object) -> TrainConfig:
        return settings(tmp_path / "run", **values | changes)

    train_classifier(run())
    (tmp_path / "turned").write_text("dog\ncat\n")
    for changes, what in (
        ({"names": str(tmp_path / "turned")}, "tree"),
        ({"model": str(tmp_path / "wide.cfg")}, "model"),
        ({"optim__name": "sgd"}, "optim.name"),
        ({"freeze": 1}, "freeze"),
    ):
        with pytest.raises(TrainingError, match=f"belongs to a run with another {what}"):
            train_classifier(run(**changes), resume=True)
    trainer = classifier_trainer(run(max_steps=2, optim__weight_decay=0.3))
    trainer.fit(resume=True)
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [0.3, 0.0]


@pytest.fixture
def two_classes(settings: Settings, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Settings of a tiny classifier of two classes."""
    plain = input_size(64) + conv(4, stride=2) * 5 + linear(14) + region(2, "1,1, 2,2", softmax=1)
    (tmp_path / "two.cfg").write_text(plain)
    for name in ("class 0", "class 1"):
        (tmp_path / "photos" / "train" / name).mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(tmp_path / "photos" / "train" / name / "0.png")
    values = {
        "model": str(tmp_path / "two.cfg"),
        "data__detection": [],
        "data__classification": [f"imagenet:{tmp_path / 'photos'}"],
        "max_steps": 2,
    }
    return lambda **changes: settings(tmp_path / "run", **values | changes)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["network"], None, "network is NoneType, expected OrderedDict"),
        (
            ["network", "layers.0.conv.weight"],
            torch.zeros(2),
            r"weight is a tensor \[2\] of float32, expected",
        ),
        (["average", "n_averaged"], "gone", "average.n_averaged is missing"),
        (["optimizer", "state", 0, "exp_avg"], "gone", "optimizer.state.0.exp_avg is missing"),
        (
            ["optimizer", "state", 0, "exp_avg"],
            torch.zeros(3),
            r"optimizer.state.0.exp_avg is a tensor \[3\]",
        ),
        (["sampler", "epoch"], "2", "sampler.epoch is str, expected a whole number from 0"),
        (["sampler", "batch"], 99, "at batch 99 of an epoch of"),
        (["early", "best"], "gone", "early.best is missing"),
        (["rng"], torch.zeros(5056, dtype=torch.uint8), "rng is not the state of a random generator"),
        (["step"], -5, "step is -5, expected a whole number from 0"),
        (["run"], 4, "run is a whole number from 0, expected dict"),
    ],
)
def test_a_checkpoint_of_another_form_is_told_where(
    two_classes: Settings, tmp_path: Path, place: list[Any], value: object, message: str
) -> None:
    train_classifier(two_classes())
    path = tmp_path / "run" / "last.ckpt"
    state = torch.load(path, weights_only=True)
    inner = state
    for key in place[:-1]:
        inner = inner[key]
    if value == "gone":
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    torch.save(state, path)
    with pytest.raises(YOLO9000Error, match=message):
        train_classifier(two_classes(max_steps=3), resume=True)


def test_a_network_without_a_layer_to_train_is_refused(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "all.cfg").write_text(input_size(64) + conv(4, stride=2) + linear(1000) + CLASSIFIED)
    with pytest.raises(ConfigError, match=r"every layer of .*all\.cfg is frozen"):
        train_classifier(settings(tmp_path, model=str(tmp_path / "all.cfg"), data__detection=[], freeze=2))


def test_resume_needs_no_starting_weights_and_keeps_their_version(
    two_classes: Settings, tmp_path: Path
) -> None:
    from yolo9000.checkpoint import load_model
    from yolo9000.darknet.weights import save_weights

    network = Network(Cfg.load(tmp_path / "two.cfg"))
    network.weights_version = (0, 1, 0)
    start = tmp_path / "start.weights"
    save_weights(network, start)
    train_classifier(two_classes(weights=str(start)))
    start.unlink()
    model = train_classifier(two_classes(weights=str(start), max_steps=3), resume=True)
    assert load_model(model)[0].weights_version == (0, 1, 0)


def test_an_average_that_begins_later_begins_with_the_trained_weights(
    settings: Settings, tmp_path: Path
) -> None:
    model = train_joint(settings(tmp_path, max_steps=1, ema=0.0)).read_bytes()
    assert train_joint(settings(tmp_path, max_steps=1, ema=0.9), resume=True).read_bytes() == model


def saved(content: object) -> bytes:
    """What `torch.save` makes of it."""
    torch.save(content, file := io.BytesIO())
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"PK\x03\x04 not a checkpoint", "it does not end as one"),
        (b"garbage", "it does not end as one"),
        (b"", "it does not end as one"),
        (bytes(10_000), "it does not end as one"),
        (saved({"format": 1})[:-100], "it does not end as one"),
        (saved(Path()), "other content than tensors, numbers and texts"),
        (
            saved(torch.ones(99)).replace(bytes(torch.ones(9).numpy()), bytes(36), 1),
            "the checksum of .* is wrong",
        ),
    ],
)
def test_a_damaged_checkpoint_is_named(
    settings: Settings, tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "last.ckpt").write_bytes(content)
    with pytest.raises(
        TrainingError, match=rf"last\.ckpt: not a readable checkpoint: {reason}; was it changed"
    ):
        train_joint(settings(tmp_path), resume=True)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data__detection": []}, ConfigError, "--detection"),
        ({"data__detection": ["coco:/nowhere"]}, DataError, "/nowhere"),
        ({"data__sizes": [100]}, ConfigError, "multiple of 32"),
        ({"augment__jitter": 3.0}, ConfigError, "jitter"),
        ({"augment__scale": 1.0}, ConfigError, "scale: expected two numbers"),
        ({"augment__crop": [0.5]}, ConfigError, "crop: expected two numbers"),
        ({"device": "gpu0"}, ConfigError, "device 'gpu0'"),
        ({"optim__lr": float("nan")}, ConfigError, "optim.lr: expected a finite number, got nan"),
        ({"optim__lr": 10**400}, ConfigError, "optim.lr: expected a finite number"),
        ({"optim__lr": -1}, ConfigError, "optim.lr: expected at least 0, got -1"),
        ({"optim__momentum": 1}, ConfigError, "optim.momentum: expected 0 or more and less than 1"),
        ({"loss__coord_scale": -5}, ConfigError, "loss.coord_scale: expected 0 or more, got -5"),
    ],
)
def test_bad_settings_are_named(
    settings: Settings, tmp_path: Path, changes: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train_joint(settings(tmp_path, **changes))


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


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("seed=18446744073709551616", "seed: expected less than 2 to the 64th"),
        ("data.ratio=0", "data.ratio: expected more than 0, got 0"),
        (
            "optim.milestones=[60, 90]",
            r"optim.milestones: expected shares of a run, 0 to 1, got \(60.0, 90.0\)",
        ),
        ("loss.ignore_iou=2", "loss.ignore_iou: expected 0 to 1, got 2"),
        ("loss.prior_images=-1", "loss.prior_images: expected at least 0, got -1"),
        ("val.size=-32", "val.size: expected at least 0, got -32"),
    ],
)
def test_settings_out_of_range(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, [assignment])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment__flip": 2.0}, "flip: expected 0 to 1"),
        ({"data__sizes": [33]}, "size must be a multiple of 32 .* found 33"),
        ({"data__sizes": [64, 32], "batch_size": 1}, "batch_size: 1 picture of 32 x 32 pixels is too little"),
        ({"freeze": 100}, r"freeze: expected at most the 8 layers of .*small\.cfg, got 100"),
        ({"device": "tpu"}, "device 'tpu'"),
    ],
)
def test_settings_are_refused_before_data_are_read(
    settings: Settings, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Trainer(settings(tmp_path, data__detection=["coco:gone"], **changes), JointTask)


def test_a_size_that_leaves_a_layer_nothing_is_refused(
    settings: Settings, tmp_path: Path, data: Path
) -> None:
    text = (data / "small.cfg").read_text()
    text = text.replace("size=3\npad=1\nactivation=leaky\n[", "size=5\npad=0\nactivation=leaky\n[")
    (tmp_path / "x.cfg").write_text(text)
    config = settings(tmp_path, model=str(tmp_path / "x.cfg"), data__sizes=[160, 32])
    with pytest.raises(CfgError, match="layer 5 would have output 128 x -3 x -3"):
        Trainer(config, JointTask)


@pytest.mark.parametrize("value", ["[", "2024-99-99"])
def test_an_assignment_that_is_no_yaml_is_named(value: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--set out="):
        load_config(None, [f"out={value}"])
    (tmp_path / "run.yaml").write_text(f"out: {value}")
    with pytest.raises(ConfigError, match=r"run\.yaml: not readable as YAML"):
        load_config(tmp_path / "run.yaml")
    (tmp_path / "run.yaml").write_text(f"out: {value}", encoding="utf-16")
    with pytest.raises(ConfigError, match=r"run\.yaml: .* save it as UTF-8"):
        load_config(tmp_path / "run.yaml")


def test_a_group_of_settings_stands_once_and_may_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("optim:\n  lr: 0.5\nseed: 3\noptim:\n  clip: 1\n")
    with pytest.raises(ConfigError, match=r"(?s)run\.yaml: .*'optim' stands in line 1 already.*line 4"):
        load_config(path)
    path.write_text("optim:\n  # lr: 0.5\ndata:\nloss:\n")
    assert load_config(path, data__sizes=[64]) == load_config(None, data__sizes=[64])


def test_numbers_of_numpy_are_pythons_own() -> None:
    values = {"epochs": np.int64(3), "curves": np.bool_(False), "optim": {"lr": np.float32(0.5)}}
    assert to_yaml(from_mapping(TrainConfig, values)) == to_yaml(
        from_mapping(TrainConfig, {"epochs": 3, "curves": False, "optim": {"lr": 0.5}})
    )


def test_configuration_survives_yaml(settings: Settings, tmp_path: Path) -> None:
    config = settings(tmp_path)
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


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_parameters_may_get_their_first_gradient_later(name: str) -> None:
    """As class rows do that no box of the first batches teaches."""
    config = from_mapping(TrainConfig, {"optim": {"name": name, "lr": 0.1, "momentum": 0.5}}).optim
    module = torch.nn.ModuleList([torch.nn.Linear(2, 2, bias=False) for _ in range(2)])
    before = [layer.weight.detach().clone() for layer in module]
    optimizer = build_optimizer(module, config)
    for late in (False, True):
        for layer in module if late else module[:1]:
            layer.weight.grad = torch.ones(2, 2)
        optimizer.step()
    for layer, start in zip(module, before, strict=True):
        assert (layer.weight < start).all()
    if name == "sgd":  # steps of 1 and 1.5, and of 1, times 0.1; no weight decay to speak of
        moved = [(start - layer.weight).mean().item() for layer, start in zip(module, before, strict=True)]
        assert moved == pytest.approx([0.25, 0.1], abs=1e-3)


def test_the_weight_average_is_that_of_torch() -> None:
    torch.manual_seed(0)
    network = Network(Cfg.load("yolov2-tiny"))

    def update(averages: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        now = min(0.6, (1 + int(count)) / (10 + int(count)))
        for average, new in zip(averages, current, strict=True):
            average.lerp_(new, 1 - now) if average.is_floating_point() else average.copy_(new)

    ours, theirs = weight_average(network, 0.6), AveragedModel(network, multi_avg_fn=update, use_buffers=True)
    assert ours is not None
    assert weight_average(network, 0.0) is None
    for _ in range(20):
        for tensor in [*network.parameters(), *network.buffers()]:
            if tensor.is_floating_point():
                tensor.data.add_(torch.randn_like(tensor))
        ours.update()
        theirs.update_parameters(network)
    found, expected = ours.state_dict(), theirs.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-6)


def test_weight_decay_spares_biases_and_norms() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    groups = build_optimizer(module, TrainConfig().optim).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(1, 5e-4), (3, 0.0)]


def test_precision_is_what_is_asked_for() -> None:
    assert pick_precision(from_mapping(TrainConfig, {"precision": "fp32"})) == "32-true"
    assert pick_precision(from_mapping(TrainConfig, {"precision": "bf16"})) == "bf16-mixed"
