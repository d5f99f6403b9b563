"""How fast on a GPU: pictures a second, as a share of the matrix rate and beside the paper's 40 a second?

    python benchmarks/gpu.py [--detection coco:DIR] [--classification imagenet:DIR]
    python benchmarks/gpu.py --device cpu --quick      a dry run where there is no GPU

From letterboxed pixels on the device to candidates on it, 20 anchors a picture, random weights. The matrix
rate is measured in the same run: products of large matrices in the same number format. With data, a training
step as well: pictures a second, and the share of the time in which the step waits for the loader.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from functools import partial
from typing import Any

import torch
from _models import detector
from _report import Report, arguments, bars
from rich.console import Console

from yolo9000.benchmark import alternate, machine
from yolo9000.config import DataConfig, TrainConfig
from yolo9000.engine import Engine
from yolo9000.train import joint_trainer

PAPER_FPS, PAPER_SIZE = 40.0, 544  # Titan X, paper, table 3
MODES = (("fp32", False), ("bf16", False), ("bf16", True))
ANCHORS = 20  # a picture
WARM_STEPS, STEPS = 20, 100


def matrix_rate(dtype: torch.dtype, device: str, side: int) -> float:
    """Multiplications and additions a second of a square product, measured.

    In float32 with TF32 where cuDNN's convolutions have it.
    """
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    one = torch.randn(side, side, device=device).to(dtype)
    times = alternate({"product": lambda: one @ one}, 10, device=device)
    torch.backends.cuda.matmul.allow_tf32 = before
    return 2 * side**3 / sorted(times["product"])[5]


@torch.inference_mode()
def detection(report: Report, options: Any) -> None:
    """A line for every mode, batch and size."""
    batches, sizes, compiled_sizes = (
        [int(number) for number in text.split(",") if number]
        for text in (options.batches, options.sizes, options.compiled_sizes)
    )
    if options.quick:
        batches, sizes = [1], [96]
    side = 512 if options.quick else 8192
    network = detector(9418).to(options.device)
    for precision, compile in MODES:
        engine = Engine(network, precision, compile=compile and not options.quick)  # type: ignore[arg-type]
        rate = matrix_rate(engine.dtype, options.device, side)
        for size, batch in itertools.product(compiled_sizes if engine.compiled else sizes, batches):
            pixels = torch.rand(batch, 3, size, size, device=options.device)
            objectness = engine.boxes(engine.features(pixels))[:, :, 4].sigmoid().flatten()
            least = objectness.sort(descending=True).values
            threshold = float(least[min(ANCHORS * batch, len(least) - 1)])

            once = partial(_once, engine, pixels, threshold)
            for share in (0.25, 0.5, 0.9, 1.0):  # compiles, for every power of two of anchors
                _once(engine, pixels, float(least[int(share * ANCHORS * batch)]))
            before = _compilations()
            times = alternate({"once": once}, options.rounds, device=options.device)["once"]
            # Other numbers of anchors, as other photos have: nothing may be compiled for them.
            for share in (0.3, 0.55, 0.95):
                _once(engine, pixels, float(least[int(share * ANCHORS * batch)]))
            again = _compilations() - before
            rate_of_images = batch / sorted(times)[options.rounds // 2]
            last = network.describe(size, size).rows[network.last].bflops
            flops = 1e9 * (network.describe(size, size).bflops - last)
            multiple = rate_of_images / PAPER_FPS if size == PAPER_SIZE else None
            mode = precision + (" compiled" if compile else "")
            report.add(mode, size, batch, rate_of_images, flops * rate_of_images / rate, multiple, again)


def _once(engine: Engine, pixels: torch.Tensor, threshold: float) -> None:
    engine.candidates(engine.features(pixels), threshold)


def training(report: Report, options: Any) -> None:
    """Pictures a second, and how long the steps waited for data."""
    if not options.detection:
        report.notes.append("training left out: name data with --detection and --classification")
        return
    with tempfile.TemporaryDirectory() as folder:
        classification = (options.classification,) if options.classification else ()
        data = DataConfig(
            detection=(options.detection,),
            classification=classification,
            sizes=(options.train_size,),
            workers=options.workers,
            cache=options.cache,
            draw="device" if options.cache else "loader",
        )
        config = TrainConfig(
            out=folder,
            batch_size=options.batch,
            data=data,
            device=options.device,
            max_steps=10_000,
            pictures=0,
        )
        trainer = joint_trainer(config, Console(quiet=True))
        trainer.train_mode()
        batches, waited, start = trainer._batches(), 0.0, 0.0
        for step in range(WARM_STEPS + STEPS):
            if step == WARM_STEPS:
                _wait(options.device)
                waited, start = 0.0, time.perf_counter()
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            trainer.train_step([batch])
        _wait(options.device)
        seconds = time.perf_counter() - start
    report.notes.append(
        f"training, {options.batch} pictures a step at {options.train_size} pixels, {options.workers} loader "
        f"processes, pictures drawn by {'the device' if options.cache else 'the loader'}: "
        f"{STEPS * options.batch / seconds:.0f} pictures a second; "
        f"{waited / seconds:.1%} of the time waits for data"
    )


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _compilations() -> int:
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def main() -> None:
    options = arguments(
        __doc__ or "",
        device=("cuda", "where to run"),
        rounds=(30, "repetitions"),
        quick=(False, "one tiny size, nothing compiled"),
        detection=("", "detection data to train on, such as coco:DIR"),
        classification=("", "classification data to train on, such as imagenet:DIR"),
        sizes=("416,544,608", "inputs of detection in pixels"),
        compiled_sizes=("416,544,608", "those that are compiled as well, which takes a while"),
        batches=("1,8,64", "pictures at once"),
        batch=(64, "pictures in a training step"),
        train_size=(416, "input of training in pixels"),
        cache=(
            480,
            "training draws its pictures on the device, from images of this longest side; 0: the loader does",
        ),
        workers=(8, "processes of the loader"),
    )
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here: nothing was measured (--device cpu --quick is a dry run)")
    report = Report(
        "gpu",
        "YOLO9000 on a GPU: pixels to candidates",
        ["mode", "size", "batch", "pictures/s", "share of matrix rate", "times the paper", "compiled again"],
        machine(),
        {"device": options.device, "classes": 9418, "anchors": ANCHORS, "rounds": options.rounds},
    )
    detection(report, options)
    training(report, options)
    report.show()
    if not options.no_write:
        report.save(bars(3))


if __name__ == "__main__":
    main()
