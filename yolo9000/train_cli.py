"""The commands for training: `train`, `train-joint`, `train-classifier`, `anchors`.

Torch is imported inside them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from yolo9000.config import TrainConfig
    from yolo9000.train import Trainer

Config = Annotated[
    Path | None, typer.Option("--config", help="YAML file of settings; options here go before it.")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as optim.lr=0.01. Repeatable."),
]
Detection = Annotated[
    list[str] | None,
    typer.Option(
        "--detection",
        "-d",
        help="Data with boxes: coco:DIR, voc:DIR, yolo:FILE.yaml, darknet:FILE.data, pack:FILE. Repeatable.",
    ),
]
Classification = Annotated[
    list[str] | None,
    typer.Option(
        "--classification",
        "-c",
        help="Labelled images: imagenet:DIR, imagenet-tar:DIR, tiny-imagenet:FILE, pack:FILE. Repeatable.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="Built-in cfg, .cfg file, or model file to go on from.", show_default="yolo9000"
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights", "-w", help="What to start from: darknet weights (whole or .conv.N) or a model file."
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder of the run.", show_default="runs/train")
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Passes over the data.", show_default="160")]
Steps = Annotated[int | None, typer.Option("--max-steps", min=1, help="Stop after so many steps instead.")]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", "-b", min=1, help="Images a step.", show_default="64")
]
Rate = Annotated[
    float | None, typer.Option("--lr", min=0, help="Learning rate after the burn-in.", show_default="0.001")
]
Sizes = Annotated[
    list[int] | None,
    typer.Option("--size", help="Input size in pixels; repeat for multi-scale.", show_default="the cfg's"),
]
Workers = Annotated[int | None, typer.Option(min=0, help="Loader processes.", show_default="2")]
Cache = Annotated[
    int | None, typer.Option(min=0, help="Keep images in memory, longest side so many pixels; 0: do not.")
]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.", show_default="auto")]
Precision = Annotated[str | None, typer.Option(help="auto, fp32 or bf16.", show_default="auto")]
Seed = Annotated[int | None, typer.Option(min=0, help="Of everything random.", show_default="0")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")]
Names = Annotated[
    str | None,
    typer.Option("--names", help="File of class names, one a line.", show_default="VOC, COCO"),
]
MapFile = Annotated[
    str | None,
    typer.Option("--map", help="Darknet map file of the boxes' classes: line i, node of class i."),
]
Devices = Annotated[
    int | None, typer.Option(min=1, help="Processes on this machine, one a GPU.", show_default="1")
]
Val = Annotated[
    list[str] | None,
    typer.Option("--val", help="Data to measure on during the run, such as voc:DIR:val. Repeatable."),
]
Patience = Annotated[
    int | None,
    typer.Option(min=0, help="Stop after so many measurements without a gain.", show_default="never"),
]
TensorBoard = Annotated[
    bool | None, typer.Option("--tensorboard", help="Write events for TensorBoard, too.", show_default="no")
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Try a few steps; print memory and time of the whole run."),
]


def train(
    detection: Detection = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Built-in cfg, .cfg file, or model file to go on from.",
            show_default="yolov2",
        ),
    ] = None,
    weights: Weights = None,
    names: Names = None,
    out: Out = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    map_file: MapFile = None,
    epochs: Epochs = None,
    max_steps: Steps = None,
    batch_size: BatchSize = None,
    lr: Rate = None,
    size: Sizes = None,
    val: Val = None,
    patience: Patience = None,
    tensorboard: TensorBoard = None,
    workers: Workers = None,
    cache: Cache = None,
    device: Device = None,
    devices: Devices = None,
    precision: Precision = None,
    seed: Seed = None,
    config: Config = None,
    assign: Assignments = None,
) -> None:
    """Train a detector on boxes alone: plain YOLOv2 over a flat list of classes, or any other cfg.

    Example: [cyan]yolo9000 train -m yolov2-voc -d voc:VOC2007 -w darknet19_448.conv.23[/cyan]
    """
    settings = _settings(
        config,
        assign,
        defaults={"model": "yolov2"},
        data__detection=detection,
        data__map=map_file,
        model=model,
        weights=weights,
        names=names,
        out=out,
        epochs=epochs,
        max_steps=max_steps,
        batch_size=batch_size,
        optim__lr=lr,
        data__sizes=size,
        val__data=val,
        val__patience=patience,
        tensorboard=tensorboard,
        data__workers=workers,
        data__cache=cache,
        device=device,
        devices=devices,
        precision=precision,
        seed=seed,
    )
    from yolo9000.train import detector_trainer

    _run(detector_trainer, settings, resume, dry_run)


def train_joint(
    detection: Detection = None,
    classification: Classification = None,
    model: Model = None,
    weights: Weights = None,
    out: Out = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    map_file: MapFile = None,
    ratio: Annotated[
        float | None,
        typer.Option(
            min=0.01, help="Classification images to one detection image in a batch.", show_default="4"
        ),
    ] = None,
    epochs: Epochs = None,
    max_steps: Steps = None,
    batch_size: BatchSize = None,
    lr: Rate = None,
    size: Sizes = None,
    val: Val = None,
    patience: Patience = None,
    tensorboard: TensorBoard = None,
    workers: Workers = None,
    cache: Cache = None,
    device: Device = None,
    devices: Devices = None,
    precision: Precision = None,
    seed: Seed = None,
    config: Config = None,
    assign: Assignments = None,
) -> None:
    """Train a detector on boxes and on labelled images at once.

    Example: [cyan]yolo9000 train-joint -d coco:coco -c imagenet:imagenet -w darknet19_448.conv.23[/cyan]

    Writes settings, a CSV log, checkpoints and model.safetensors into --out. Interrupted, it goes on
    with --resume.
    """
    settings = _settings(
        config,
        assign,
        data__detection=detection,
        data__classification=classification,
        data__ratio=ratio,
        data__map=map_file,
        model=model,
        weights=weights,
        out=out,
        epochs=epochs,
        max_steps=max_steps,
        batch_size=batch_size,
        optim__lr=lr,
        data__sizes=size,
        val__data=val,
        val__patience=patience,
        tensorboard=tensorboard,
        data__workers=workers,
        data__cache=cache,
        device=device,
        devices=devices,
        precision=precision,
        seed=seed,
    )
    from yolo9000.train import joint_trainer

    _run(joint_trainer, settings, resume, dry_run)


def train_classifier(
    classification: Classification = None,
    model: Model = None,
    weights: Weights = None,
    out: Out = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    epochs: Epochs = None,
    max_steps: Steps = None,
    batch_size: BatchSize = None,
    lr: Rate = None,
    size: Sizes = None,
    val: Val = None,
    patience: Patience = None,
    tensorboard: TensorBoard = None,
    workers: Workers = None,
    cache: Cache = None,
    device: Device = None,
    devices: Devices = None,
    precision: Precision = None,
    seed: Seed = None,
    config: Config = None,
    assign: Assignments = None,
) -> None:
    """Train a classifier, the start of a detector: over the WordTree, or over a flat list of classes.

    With a detector's cfg its trunk and class rows are trained, on whole images.

    Example: [cyan]yolo9000 train-classifier -m darknet9000 -c imagenet:imagenet --size 224[/cyan]
    """
    settings = _settings(
        config,
        assign,
        data__classification=classification,
        model=model,
        weights=weights,
        out=out,
        epochs=epochs,
        max_steps=max_steps,
        batch_size=batch_size,
        optim__lr=lr,
        data__sizes=size,
        val__data=val,
        val__patience=patience,
        tensorboard=tensorboard,
        data__workers=workers,
        data__cache=cache,
        device=device,
        devices=devices,
        precision=precision,
        seed=seed,
    )
    from yolo9000.train import classifier_trainer

    _run(classifier_trainer, settings, resume, dry_run)


def _settings(
    config: Path | None,
    assign: list[str] | None,
    *,
    defaults: dict[str, Any] | None = None,
    out: Path | None,
    **values: Any,
) -> TrainConfig:
    from yolo9000.config import load_config

    folder = None if out is None else str(out)
    return load_config(config, assign or [], defaults=defaults, out=folder, **values)


def _run(make: Callable[[TrainConfig], Trainer], settings: TrainConfig, resume: bool, dry_run: bool) -> None:
    """Train, or only try it out; the first process prints the result."""
    start = time.perf_counter()
    trainer = make(settings)
    if dry_run:
        from yolo9000.dryrun import dry_run as try_out

        result: object = try_out(trainer, time.perf_counter() - start)
    else:
        result = trainer.fit(resume)
    if trainer.fabric.is_global_zero:
        typer.echo(result)


def anchors(
    detection: Annotated[
        list[str], typer.Argument(help="Data with boxes: coco:DIR, voc:DIR, yolo:FILE.yaml, ...")
    ],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Number of priors.")] = 5,
    size: Annotated[
        int, typer.Option(min=32, help="Input size the priors are for, pixels; 32 are a cell.")
    ] = 416,
    seed: Annotated[int, typer.Option(min=0, help="Of the starting points.")] = 0,
) -> None:
    """Find priors for a data set by k-means on the overlap of box shapes, ready to paste into a cfg.

    Example: [cyan]yolo9000 anchors voc:VOC2007 --count 5[/cyan]
    """
    import numpy as np

    from yolo9000.anchors import box_shapes, cluster_anchors
    from yolo9000.datasets import read_records

    shapes = np.concatenate([box_shapes(read_records(spec)) for spec in detection])
    priors, score = cluster_anchors(shapes * (size / 32), count, seed=seed)
    typer.echo("anchors=" + ", ".join(f"{w:.2f},{h:.2f}" for w, h in priors))
    typer.echo(f"average IoU {score:.3f} over {len(shapes):,} boxes", err=True)
