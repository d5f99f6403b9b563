"""The command `yolo9000 evaluate`. Torch is imported inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from yolo9000.commands.options import Cfg, Device, Model, Precision, Sizes, Split, Weights

if TYPE_CHECKING:
    from yolo9000.evaluation.classification import ClassificationResult
    from yolo9000.evaluation.detection import DetectionResult
    from yolo9000.network import Network


def _own_threshold(about: str, otherwise: float) -> Any:
    """An option whose default a model file can bring."""
    return typer.Option(min=0, max=1, help=about, show_default=f"the model's own, else {otherwise:g}")


def evaluate(
    data: Annotated[
        list[str],
        typer.Argument(
            help="Data sets: voc:DIR, coco:DIR, imagenet-det:DIR, imagenet:DIR, pack:FILE, ...; a split: "
            "voc:DIR:test.",
            show_default=False,
        ),
    ],
    model: Model = None,
    weights: Weights = None,
    cfg: Cfg = None,
    map_file: Annotated[
        Path | None,
        typer.Option("--map", help="Darknet map file of the boxes' classes: line i, node of class i."),
    ] = None,
    split: Split = "val",
    size: Sizes = None,
    cut: Annotated[
        list[str] | None,
        typer.Option(
            help="Also AP and confusion at a cut of the tree: a depth, or nodes such as animal,n04524313; a "
            "name with a comma in quotes: '\"chair, folding\",bed'. Repeatable."
        ),
    ] = None,
    boxes: Annotated[
        list[str] | None,
        typer.Option(
            help="Classes that training had boxes of, averaged apart: coco, voc, or a class list file. "
            "Repeatable.",
            show_default="coco for imagenet-det",
        ),
    ] = None,
    iou: Annotated[float, typer.Option(min=0, max=1, help="Overlap that counts as found.")] = 0.5,
    confident: Annotated[float | None, _own_threshold("Score above which labels are judged.", 0.24)] = None,
    hier_threshold: Annotated[
        float | None, _own_threshold("How sure a label must be, as in detect.", 0.5)
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Only so many pictures, evenly spread; 0: all.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Pictures run together.")] = 16,
    device: Device = None,
    precision: Precision = "fp32",
    per_class: Annotated[bool, typer.Option(help="Show the table of classes.")] = True,
    json: Annotated[
        bool, typer.Option("--json", help="JSON Lines on standard output, one data set a line.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for results as JSON.", show_default=False)
    ] = None,
    plots: Annotated[
        bool,
        typer.Option(
            "--plots", help="Precision-recall curves and confusion as PNG in --out; needs matplotlib."
        ),
    ] = False,
) -> None:
    """Measure a model: average precision, accuracy at every depth, honesty of labels.

    Example: [cyan]yolo9000 evaluate voc:VOC2007:test coco:coco imagenet:imagenet --cut 6[/cyan]

    docs/evaluation.md explains every figure.
    """
    from dataclasses import replace

    from wordtree._files import try_folder
    from wordtree._terminal import Terminal
    from yolo9000.datasets import open_dataset
    from yolo9000.errors import ConfigError
    from yolo9000.evaluate import check_opened, evaluate_opened
    from yolo9000.evaluation.options import EvaluateConfig
    from yolo9000.labelling import own_number, own_sizes
    from yolo9000.optional import optional
    from yolo9000.report import print_left_out

    if plots and out is None:
        raise ConfigError("--plots needs a folder for the pictures: add --out DIR")
    if plots:
        optional("matplotlib", "--plots")
    config = EvaluateConfig(
        batch_size=batch,
        precision=precision,  # type: ignore[arg-type]  # checked there
        limit=limit,
        iou=iou,
        cuts=tuple(cut or ()),
        boxes=None if boxes is None else tuple(boxes),
    )
    if out is not None:
        try_folder(out)  # before hours of measuring, not after
    network, metadata = _load(model, weights, cfg, device)
    if confident is None:
        confident = own_number(metadata, "threshold", config.confident)
    if hier_threshold is None:
        hier_threshold = own_number(metadata, "hier_threshold", config.hier_threshold)
    sizes = own_sizes(metadata) if size is None else tuple(size)
    config = replace(config, confident=confident, hier_threshold=hier_threshold, sizes=sizes)
    network.check_colour()
    opened = [
        open_dataset(spec, network.tree, split, map_file=map_file) for spec in data
    ]  # all, before hours
    for spec, dataset in zip(data, opened, strict=True):
        check_opened(network, dataset, spec, config)
        print_left_out(Terminal(stderr=True), spec, dataset)
    for number, (spec, dataset) in enumerate(zip(data, opened, strict=True), start=1):
        with _Bar(spec) as bar:
            result = evaluate_opened(network, dataset, spec, config, progress=bar.update)
        _show(result, json=json, per_class=per_class)
        if out is not None:
            _write(result, out / f"{number:02d}-{_slug(spec)}", plots)


def _load(
    model: str | None, weights: Path | None, cfg: str | None, device: str | None
) -> tuple[Network, dict[str, str]]:
    """A network, which unlike a `YOLO9000` may be a classifier, and its file's metadata."""
    from yolo9000.checkpoint import load_darknet
    from yolo9000.errors import ConfigError
    from yolo9000.model import DEFAULT_MODEL, load_any, pick_device

    if (weights is None) != (cfg is None) or (weights is not None and model is not None):
        raise ConfigError("expected --model alone, or --weights together with --cfg")
    chosen = pick_device(device)
    metadata: dict[str, str] = {}
    if weights is not None and cfg is not None:
        network = load_darknet(cfg, weights)
    else:
        network, metadata = load_any(model or DEFAULT_MODEL)
    return network.to(chosen), metadata


def _show(result: DetectionResult | ClassificationResult, *, json: bool, per_class: bool) -> None:
    from wordtree._terminal import Terminal
    from yolo9000.evaluation.report import tables

    if json:
        print(result.to_json(indent=None))
        return
    console = Terminal(markup=False)  # names may hold brackets
    for table in tables(result, per_class=per_class):
        console.print(table)
    console.print(f"{result.images / result.seconds:.1f} pictures a second, reading included\n")


def _write(result: DetectionResult | ClassificationResult, stem: Path, plots: bool) -> None:
    from yolo9000.evaluation.detection import DetectionResult
    from yolo9000.evaluation.plots import save_confusion, save_curves

    result.save(stem.with_name(f"{stem.name}.json"))
    if not plots:
        return
    if isinstance(result, DetectionResult):
        save_curves(result.nodes, stem.with_name(f"{stem.name}-curves.png"))
        confusions = result.confusion
    else:
        confusions = result.whole.confusion
    for number, confusion in enumerate(confusions, start=1):
        if any(map(any, confusion.counts)):
            save_confusion(confusion, stem.with_name(f"{stem.name}-confusion-{number}.png"))


def _slug(spec: str) -> str:
    """A file name from a data set's description: its format, the last part of its path, and the split."""
    name, _, place = spec.partition(":")
    return f"{name}-{Path(place).name}".replace(":", "-")


class _Bar:
    """Progress on standard error, gone when done."""

    def __init__(self, title: str) -> None:
        from yolo9000.progress import titled

        self.progress, self.task = titled(title)

    def __enter__(self) -> _Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def update(self, done: int, total: int) -> None:
        self.progress.update(self.task, advance=done, total=total)
