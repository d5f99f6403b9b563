"""Two processes (gloo, CPU) against one with the same images.

What is equal: losses to 1 part in 10,000 and the weights' changes to 1 in 1,000, both float32; sums over
images are taken in another order. Batch norm included, whose statistics are those of all processes.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from yolo9000.checkpoint import save_model
from yolo9000.config import TrainConfig, to_yaml
from yolo9000.darknet.cfg import Cfg
from yolo9000.network import Network
from yolo9000.runlog import sole_run
from yolo9000.train import train_joint

Settings = Callable[..., TrainConfig]
# Plain SGD at one rate: Adam's first steps have the size of the rate whatever the gradient, and turn rounding
# into differences.
SGD = {"name": "sgd", "lr": 1e-3, "burn_in": 0, "schedule": "constant", "clip": 10.0, "accumulate": 2}


def launch(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def read_log(out: Path) -> list[dict[str, float]]:
    with (out / "metrics.csv").open(newline="") as stream:
        return [{k: float(v or "nan") for k, v in row.items()} for row in csv.DictReader(stream)]


def compare(one: Path, two: Path, start: dict[str, Tensor]) -> None:
    """Logs and models of two runs from the same start."""
    logs = read_log(one), read_log(two)
    assert len(logs[0]) == len(logs[1]) > 0
    for first, second in zip(*logs, strict=True):
        assert second == pytest.approx(first, rel=1e-4, abs=1e-5, nan_ok=True)
    models = [load_file(out / "model.safetensors") for out in (one, two)]
    moved = apart = 0.0
    for name, value in start.items():
        if value.is_floating_point():
            moved += float((models[0][name] - value).double().square().sum())
            apart += float((models[0][name] - models[1][name]).double().square().sum())
    assert moved > 0
    assert apart**0.5 < 1e-3 * moved**0.5


def test_torchrun_gives_what_one_process_gives(data: Path, settings: Settings, tmp_path: Path) -> None:
    """By the documented command; two images of each kind in a step, one or two of them in each process."""
    torch.set_num_threads(1)
    torch.manual_seed(5)
    network = Network(Cfg.load(data / "small.cfg"))
    save_model(network, tmp_path / "start.safetensors")
    # The first two batches are images that every anchor is pulled to its prior by.
    common = {
        "model": str(tmp_path / "start.safetensors"),
        "max_steps": 3,
        "optim": SGD,
        "loss__prior_images": 9,
    }
    train_joint(settings(tmp_path / "one", batch_size=4, **common))
    half = settings(tmp_path / "two", batch_size=2, **common)
    (tmp_path / "half.yaml").write_text(to_yaml(half))
    command = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    launch([*command, "-m", "yolo9000", "train-joint", "--config", str(tmp_path / "half.yaml")])
    compare(tmp_path / "one", tmp_path / "two", network.state_dict())


def free_port() -> int:
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


SCRIPT = """
import dataclasses, sys
from pathlib import Path
import torch
from yolo9000.config import load_config
from yolo9000.distributed import global_batch_norm
from yolo9000.errors import TrainingError, YOLO9000Error
from yolo9000.train import train_joint
from yolo9000.validation import Validator

torch.set_num_threads(1)
folder = Path(sys.argv[1])
config = load_config(folder / "half.yaml")
train_joint(dataclasses.replace(config, out=str(folder / "whole")))
cut = dataclasses.replace(config, out=str(folder / "cut"))
train_joint(dataclasses.replace(cut, max_steps=2))
train_joint(cut, resume=True)

rank = torch.distributed.get_rank()
for run, model in (("nan", folder / "nan.safetensors"), ("taken", config.model)):
    try:
        train_joint(dataclasses.replace(config, model=str(model), out=str(folder / run)))
    except TrainingError as error:
        (folder / f"{run}{rank}.txt").write_text(str(error))

def fail(*_):
    raise YOLO9000Error("a picture cannot be read")

Validator.measure = fail
val = dataclasses.replace(config.val, data=(config.data.detection[0] + ":train",), steps=1)
for run, place in (("blocked", ".lock"), ("unsaved", "config.yaml")):  # a folder where a file should be
    (folder / run / place).mkdir(parents=True, exist_ok=True)
for run in ("unmeasured", "blocked", "unsaved"):
    try:
        given = config.val if run == "unsaved" else val
        train_joint(dataclasses.replace(config, val=given, out=str(folder / run)))
    except (YOLO9000Error, OSError) as error:
        (folder / f"{run}{rank}.txt").write_text(str(error))

case = torch.load(folder / "norm.pt")
x = case["x"].split(case["parts"])[rank].clone().requires_grad_()
weight, bias = (case[name].clone().requires_grad_() for name in ("weight", "bias"))
y, mean, variance, count = global_batch_norm(x, weight, bias, 1e-5)
(y * case["grad"].split(case["parts"])[rank]).sum().backward()
found = {"y": y.detach(), "x": x.grad, "weight": weight.grad, "bias": bias.grad}
torch.save(found | {"mean": mean, "variance": variance, "count": count}, folder / f"norm{rank}.pt")
"""


@pytest.fixture(scope="module")
def pair(data: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what two processes did, which Fabric started itself (`devices: 2`)."""
    folder = tmp_path_factory.mktemp("pair")
    torch.manual_seed(5)
    network = Network(Cfg.load(data / "small.cfg"))
    save_model(network, folder / "start.safetensors")
    assert network.head is not None
    with torch.no_grad():
        network.head.class_weight[:, network.tree.index("Eskimo dog")] = torch.nan
    save_model(network, folder / "nan.safetensors")
    common = {"model": str(folder / "start.safetensors"), "max_steps": 3, "optim": SGD, "devices": 2}
    (folder / "half.yaml").write_text(to_yaml(settings(folder / "unused", batch_size=1, **common)))
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    case = {"x": 3 + draw(5, 4, 3, 2), "grad": draw(5, 4, 3, 2), "weight": draw(4), "bias": draw(4)}
    torch.save(case | {"parts": [2, 3]}, folder / "norm.pt")
    (folder / "script.py").write_text(SCRIPT)
    with sole_run(folder / "taken"):
        launch([str(folder / "script.py"), str(folder)])
    return folder


def test_a_process_may_have_one_kind_of_image_alone(pair: Path, settings: Settings, tmp_path: Path) -> None:
    """One image a process: one has all boxes, the other all labels. Nothing hangs, and the sum is right."""
    torch.set_num_threads(1)
    start = str(pair / "start.safetensors")
    train_joint(settings(tmp_path, model=start, batch_size=2, max_steps=3, optim=SGD))
    compare(tmp_path, pair / "whole", load_file(start))


def test_two_processes_resume_exactly(pair: Path) -> None:
    models = [(pair / run / "model.safetensors").read_bytes() for run in ("whole", "cut")]
    assert models[0] == models[1]
    assert (pair / "whole/metrics.csv").read_text() == (pair / "cut/metrics.csv").read_text()


def test_all_processes_stop_where_one_has_a_loss_that_is_not_finite(pair: Path) -> None:
    """The label with the broken row is in one process's images; the message names those of both."""
    messages = [(pair / f"nan{rank}.txt").read_text() for rank in (0, 1)]
    assert messages[0] == messages[1]
    assert "not finite at step" in messages[0]
    assert "image_class" in messages[0].split("(")[0]
    assert ".jpg" in messages[0]
    assert ".JPEG" in messages[0]
    assert not (pair / "nan" / "last.ckpt").exists()


@pytest.mark.parametrize(
    ("run", "reason"),
    [("unmeasured", "a picture cannot be read"), ("blocked", ".lock"), ("unsaved", "config.yaml")],
)
def test_all_processes_say_why_the_first_stopped(pair: Path, run: str, reason: str) -> None:
    messages = [(pair / f"{run}{rank}.txt").read_text() for rank in (0, 1)]
    assert messages[0] == messages[1]
    assert reason in messages[0]


def test_all_processes_say_that_another_run_has_the_folder(pair: Path) -> None:
    messages = [(pair / f"taken{rank}.txt").read_text() for rank in (0, 1)]
    assert messages[0] == messages[1]
    assert "taken: another run is writing into this folder" in messages[0]


def test_batch_norm_over_two_processes_is_that_of_all_images(pair: Path) -> None:
    """Values, gradients and statistics in double precision, of parts of 2 and 3 images."""
    case = torch.load(pair / "norm.pt")
    parts = [torch.load(pair / f"norm{rank}.pt") for rank in (0, 1)]
    x, weight, bias = (case[name].clone().requires_grad_() for name in ("x", "weight", "bias"))
    y = F.batch_norm(x, None, None, weight, bias, training=True, eps=1e-5)
    (y * case["grad"]).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(torch.cat([part["y"] for part in parts]), y.detach())
    torch.testing.assert_close(torch.cat([part["x"] for part in parts]), x.grad)
    torch.testing.assert_close(parts[0]["weight"] + parts[1]["weight"], weight.grad)
    torch.testing.assert_close(parts[0]["bias"] + parts[1]["bias"], bias.grad)
    for part in parts:
        torch.testing.assert_close(part["mean"], x.detach().mean((0, 2, 3)))
        torch.testing.assert_close(part["variance"], x.detach().var((0, 2, 3), correction=0))
        assert int(part["count"]) == 5 * 3 * 2
