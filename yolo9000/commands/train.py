"""The commands for training: `train`, `train-joint`, `train-classifier`, `anchors`.

Torch is imported inside them.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from yolo9000.config import TrainConfig
    from yolo9000.train import Trainer

# Options: parameter -> type, and the setting of `TrainConfig` that it is; None where it is none.
_OPTIONS: dict[str, tuple[Any, str | None]] = {
    "detection": (
        Annotated[
            list[str] | None,
            typer.Option(
                "--detection",
                "-d",
                help="Data with boxes: coco:DIR, voc:DIR, yolo:FILE.yaml, darknet:FILE.data, pack:FILE. "
                "Repeatable.",
            ),
        ],
        "data__detection",
    ),
    "classification": (
        Annotated[
            list[str] | None,
            typer.Option(
                "--classification",
                "-c",
                help="Labelled images: imagenet:DIR, imagenet-tar:DIR, tiny-imagenet:FILE, pack:FILE. "
                "Repeatable.",
            ),
        ],
        "data__classification",
    ),
    "model": (
        Annotated[
            str | None,
            typer.Option(
                "--model",
                "-m",
                help="Built-in cfg, .cfg file, or model file to go on from.",
                show_default="yolo9000; of train: yolov2",
            ),
        ],
        "model",
    ),
    "weights": (
        Annotated[
            str | None,
            typer.Option(
                "--weights",
                "-w",
                help="What to start from: darknet weights (whole or .conv.N), model file or name.",
            ),
        ],
        "weights",
    ),
    "teacher": (
        Annotated[
            list[str] | None,
            typer.Option(
                "--teacher",
                help="Trained model whose answers are learnt beside the labels. Repeatable.",
            ),
        ],
        "teachers",
    ),
    "names": (
        Annotated[
            str | None,
            typer.Option(
                "--names",
                help="Your classes, one a line, or a data.yaml or .data file.",
                show_default="VOC, COCO, ImageNet-1k",
            ),
        ],
        "names",
    ),
    "out": (
        Annotated[
            Path | None, typer.Option("--out", "-o", help="Folder of the run.", show_default="runs/train")
        ],
        "out",
    ),
    "resume": (
        Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")],
        None,
    ),
    "dry_run": (
        Annotated[
            bool,
            typer.Option("--dry-run", help="Try a few steps; print memory and time of the whole run."),
        ],
        None,
    ),
    "map_file": (
        Annotated[
            str | None,
            typer.Option("--map", help="Darknet map file of the boxes' classes: line i, node of class i."),
        ],
        "data__map",
    ),
    "ratio": (
        Annotated[
            float | None,
            typer.Option(
                min=0.01, help="Classification images to one detection image in a batch.", show_default="4"
            ),
        ],
        "data__ratio",
    ),
    "epochs": (
        Annotated[int | None, typer.Option(min=1, help="Passes over the data.", show_default="160")],
        "epochs",
    ),
    "max_steps": (
        Annotated[int | None, typer.Option(min=1, help="Stop after so many steps instead.")],
        "max_steps",
    ),
    "batch_size": (
        Annotated[
            int | None,
            typer.Option("--batch-size", "-b", min=1, help="Images a step.", show_default="64"),
        ],
        "batch_size",
    ),
    "lr": (
        Annotated[
            float | None,
            typer.Option(min=0, help="Learning rate after the burn-in.", show_default="0.001"),
        ],
        "optim__lr",
    ),
    "size": (
        Annotated[
            list[int] | None,
            typer.Option(help="Input size in pixels; repeat for multi-scale.", show_default="the cfg's"),
        ],
        "data__sizes",
    ),
    "val": (
        Annotated[
            list[str] | None,
            typer.Option(help="Data to measure on during the run, such as voc:DIR:val. Repeatable."),
        ],
        "val__data",
    ),
    "patience": (
        Annotated[
            int | None,
            typer.Option(min=0, help="Stop after so many measurements without a gain.", show_default="never"),
        ],
        "val__patience",
    ),
    "tensorboard": (
        Annotated[
            bool | None,
            typer.Option("--tensorboard", help="Write events for TensorBoard, too.", show_default="no"),
        ],
        "tensorboard",
    ),
    "workers": (
        Annotated[int | None, typer.Option(min=0, help="Loader processes.", show_default="2")],
        "data__workers",
    ),
    "cache": (
        Annotated[
            int | None,
            typer.Option(min=0, help="Keep images in memory, longest side so many pixels; 0: do not."),
        ],
        "data__cache",
    ),
    "device": (
        Annotated[str | None, typer.Option(help="auto, cpu or cuda.", show_default="auto")],
        "device",
    ),
    "devices": (
        Annotated[
            int | None, typer.Option(min=1, help="Processes on this machine, one a GPU.", show_default="1")
        ],
        "devices",
    ),
    "precision": (
        Annotated[str | None, typer.Option(help="auto, fp32 or bf16.", show_default="auto")],
        "precision",
    ),
    "seed": (
        Annotated[int | None, typer.Option(min=0, help="Of everything random.", show_default="0")],
        "seed",
    ),
    "config": (
        Annotated[Path | None, typer.Option(help="YAML file of settings; options here outweigh it.")],
        None,
    ),
    "assign": (
        Annotated[
            list[str] | None,
            typer.Option(
                "--set", metavar="KEY=VALUE", help="Any setting, such as optim.lr=0.01. Repeatable."
            ),
        ],
        None,
    ),
}

_Make = Callable[["TrainConfig"], "Trainer"]


def _command(*without: str, **defaults: Any) -> Callable[[_Make], Callable[..., None]]:
    """Turn a function that makes a trainer into a command with all options but some.

    Args:
        *without: Options that it lacks.
        **defaults: Settings that differ from those of `TrainConfig`.
    """
    options = {name: option for name, option in _OPTIONS.items() if name not in without}

    def decorate(make: _Make) -> Callable[..., None]:
        def run(**given: Any) -> None:
            from yolo9000.config import load_config

            if given["out"] is not None:
                given["out"] = str(given["out"])
            values = {setting: given[name] for name, (_, setting) in options.items() if setting}
            settings = load_config(given["config"], given["assign"] or [], defaults=defaults, **values)
            _run(make, settings, given["resume"], given["dry_run"])

        # Typer reads a command's options from its signature.
        parameters = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=False if name in ("resume", "dry_run") else None,
                annotation=annotation,
            )
            for name, (annotation, _) in options.items()
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {name: annotation for name, (annotation, _) in options.items()}
        run.__name__, run.__doc__ = make.__name__, make.__doc__
        return run

    return decorate


@_command("classification", "ratio", model="yolov2")
def train(settings: TrainConfig) -> Trainer:
    """Train a detector on boxes alone: plain YOLOv2 over a flat list of classes, or any other cfg.

    Example: [cyan]yolo9000 train -m yolov2-voc -d voc:VOC2007 -w darknet19_448.conv.23[/cyan]
    """
    from yolo9000.train import detector_trainer

    return detector_trainer(settings)


@_command("names")
def train_joint(settings: TrainConfig) -> Trainer:
    """Train a detector on boxes and on labelled images at once.

    Example: [cyan]yolo9000 train-joint -d coco:coco -c imagenet:imagenet -w darknet19_448.conv.23[/cyan]

    Writes settings, a CSV log, checkpoints and model.safetensors into --out. Interrupted, it goes on
    with --resume.
    """
    from yolo9000.train import joint_trainer

    return joint_trainer(settings)


@_command("detection", "map_file", "ratio")
def train_classifier(settings: TrainConfig) -> Trainer:
    """Train a classifier, the start of a detector: over the WordTree, or over a flat list of classes.

    With a detector's cfg its trunk and class rows are trained, on whole images.

    Example: [cyan]yolo9000 train-classifier -m darknet9000 -c imagenet:imagenet --size 224[/cyan]
    """
    from yolo9000.train import classifier_trainer

    return classifier_trainer(settings)


def _run(make: _Make, settings: TrainConfig, resume: bool, dry_run: bool) -> None:
    """Train, or only try it out; the first process prints the result."""
    from yolo9000.train import check_folder

    if not dry_run:
        check_folder(settings, resume)
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
    height: Annotated[
        int | None, typer.Option(min=32, help="Height of an input that is not square; --size is its width.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the starting points.")] = 0,
) -> None:
    """Find priors for a data set by k-means on the overlap of box shapes, ready to paste into a cfg.

    Example: [cyan]yolo9000 anchors voc:VOC2007 --count 5[/cyan]
    """
    import numpy as np

    from yolo9000.anchors import box_shapes, cluster_anchors
    from yolo9000.datasets import read_records

    cells = ((height or size) / 32, size / 32)
    shapes = np.concatenate([box_shapes(read_records(spec), *cells) for spec in detection])
    priors, score = cluster_anchors(shapes, count, seed=seed)
    typer.echo("anchors=" + ", ".join(f"{w:.2f},{h:.2f}" for w, h in priors))
    typer.echo(f"average IoU {score:.3f} over {len(shapes):,} boxes", err=True)
