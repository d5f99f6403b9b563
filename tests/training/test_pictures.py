"""What a run draws and logs: batches, curves, TensorBoard."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from toys import files_up_to
from wordtree.tree import WordTree
from yolo9000.config import TrainConfig
from yolo9000.datasets import Batch
from yolo9000.errors import ConfigError, TrainingError
from yolo9000.pictures import batch_truths, draw_batch, read_log, running_mean, save_batch, save_curves
from yolo9000.runlog import CsvLog
from yolo9000.train import train_joint

Settings = Callable[..., TrainConfig]
TREE = WordTree.load("yolo9000")


def batch(images: int = 3, size: int = 64) -> Batch:
    """One image with two boxes, one with a label, the others empty; all grey."""
    return Batch(
        images=torch.full((images, 3, size, size), 0.5),
        boxes=torch.tensor([[0.5, 0.5, 0.5, 0.25], [0.25, 0.75, 0.1, 0.1]]),
        nodes=torch.tensor([TREE.index("dog"), TREE.index("Siberian husky")]),
        image_index=torch.tensor([0, 0]),
        labels=torch.tensor([-1, TREE.index("bald eagle")] + [-1] * (images - 2)),
        sources=["a.jpg"] * images,
    )


def test_a_picture_that_does_not_fit_on_the_disk_is_told(tmp_path: Path) -> None:
    save_batch(batch(), TREE, tmp_path / "batch-1.jpg")
    size = (tmp_path / "batch-1.jpg").stat().st_size
    with files_up_to(size - 1), pytest.raises(OSError, match=r"batch-2\.jpg"):
        save_batch(batch(), TREE, tmp_path / "batch-2.jpg")
    assert [path.name for path in tmp_path.iterdir()] == ["batch-1.jpg"]


def test_truths_of_a_batch_are_boxes_in_pixels() -> None:
    boxes, label, empty = (batch_truths(batch(), i, TREE) for i in range(3))
    np.testing.assert_allclose(boxes.boxes, [[16, 24, 48, 40], [12.8, 44.8, 19.2, 51.2]], rtol=1e-5)
    assert [d.label for d in boxes] == ["dog", "Siberian husky"]
    np.testing.assert_array_equal(label.boxes, [[0, 0, 64, 64]])
    assert [d.label for d in label] == ["bald eagle"]
    assert len(empty) == 0


def test_tiles_of_a_mosaic_are_marked() -> None:
    tiled = replace(
        batch(),
        tiles=torch.tensor([[0.75, 0.25, 0.5, 0.5]]),
        tile_nodes=torch.tensor([TREE.index("bald eagle")]),
        tile_index=torch.tensor([2]),
    )
    found = batch_truths(tiled, 2, TREE)
    np.testing.assert_allclose(found.boxes, [[32, 0, 64, 32]])
    assert [d.label for d in found] == ["bald eagle"]
    assert len(batch_truths(tiled, 0, TREE)) == 2


@pytest.mark.parametrize(("images", "columns", "rows"), [(2, 2, 1), (3, 2, 2), (40, 4, 4)])
def test_the_sheet_shows_sixteen_images_at_most(images: int, columns: int, rows: int) -> None:
    sheet = draw_batch(batch(images), TREE)
    assert sheet.size == (columns * 416, rows * 416)
    pixels = np.asarray(sheet)
    assert len(np.unique(pixels[:416, :416].reshape(-1, 3), axis=0)) > 10  # boxes and plates
    if images == 3:
        third = pixels[416:, :416]
        assert (abs(third.astype(int) - 128) <= 1).all()  # nothing is drawn on an empty image


def test_running_mean() -> None:
    values = np.array([4.0, 2, 6, 0, 10])
    np.testing.assert_allclose(running_mean(values, 2), [4, 3, 4, 3, 5])
    np.testing.assert_allclose(running_mean(values, 1), values)
    assert len(running_mean(np.zeros(0), 3)) == 0


def test_curves_of_a_log_with_gaps(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with CsvLog(tmp_path / "metrics.csv") as log:
        assert not save_curves(log.path, tmp_path / "none.png")
        for step in range(1, 30):
            row = {"step": step, "lr": 0.1, "loss": 1 / step, "box_weighted": 2 / step}
            log.write(row | ({"val_map50": step / 50} if step % 10 == 0 else {}))
    table = read_log(log.path)
    assert np.isfinite(table["val_map50"]).sum() == 2
    assert save_curves(log.path, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (round(4.2 * 3 * 120), round(2.8 * 2 * 120))
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50


@pytest.mark.parametrize(
    "content",
    [
        b"a,b\n1,2\n",
        b"step;loss\n1;2\n",
        b"step,loss\n1,2,3\n",
        b"step,loss\n1,much\n",
        b'step,loss\n1,"2\n',
        b"\0\xff",
    ],
)
def test_what_is_no_log_is_left_alone(tmp_path: Path, content: bytes) -> None:
    log = tmp_path / "metrics.csv"
    log.write_bytes(content)
    with pytest.raises(TrainingError, match=r"metrics\.csv: expected the log of this run.*move it away"):
        CsvLog(log, 5)
    assert log.read_bytes() == content


def test_half_a_line_at_the_end_of_a_log_is_no_harm(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,loss,lr\n1,0.5,0.1\n2,0.4")
    with CsvLog(tmp_path / "metrics.csv", 2) as log:
        log.write({"step": 3, "loss": 0.3, "lr": 0.1})
    table = read_log(log.path)
    assert table["loss"].tolist() == [0.5, 0.4, 0.3]
    assert np.isnan(table["lr"]).tolist() == [False, True, False]


def test_a_run_leaves_pictures_curves_and_events(settings: Settings, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    changes = {"pictures": 2, "curves": True, "tensorboard": True}
    train_joint(settings(tmp_path, max_steps=3, **changes))
    assert sorted(path.name for path in tmp_path.glob("*.jpg")) == ["batch-1.jpg", "batch-2.jpg"]
    first = (tmp_path / "batch-1.jpg").read_bytes()
    train_joint(settings(tmp_path, max_steps=5, **changes), resume=True)
    assert (tmp_path / "batch-1.jpg").read_bytes() == first
    assert (tmp_path / "curves.png").exists()
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    table = read_log(tmp_path / "metrics.csv")
    scalars = events.Scalars("loss")
    assert [event.step for event in scalars] == [1, 2, 3, 4, 5]
    np.testing.assert_allclose([event.value for event in scalars], table["loss"], rtol=1e-4)


def test_without_tensorboard_the_message_says_what_to_install(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as where it is not installed
    with pytest.raises(ConfigError, match=r"pip install tensorboard"):
        train_joint(settings(tmp_path, max_steps=1, tensorboard=True))
