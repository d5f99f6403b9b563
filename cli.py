"""The command line of yolo9000. Torch and other heavy packages are imported inside the commands."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, TextIO

import typer

from wordtree.cli import build_tree, tree_app
from wordtree.errors import YOLO9000Error
from yolo9000 import __version__
from yolo9000.calibrate_cli import calibrate
from yolo9000.evaluate_cli import evaluate
from yolo9000.train_cli import anchors, data_app, train_classifier, train_joint

_DEBUG = "YOLO9000_DEBUG"  # environment: 1 shows where an error came from

app = typer.Typer(
    name="yolo9000",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="[bold]Examples[/bold]\n\n"
    "[cyan]yolo9000 detect --demo --tree[/cyan]   photos that come with the package\n\n"
    "[cyan]yolo9000 detect photo.jpg --hier-threshold 0.8[/cyan]   surer, and so less specific, labels\n\n"
    "[cyan]yolo9000 detect *.jpg --json > found.jsonl[/cyan]   for other programs\n\n"
    "[cyan]yolo9000 train-joint -d coco:coco -c imagenet:imagenet[/cyan]   boxes and labels at once\n\n"
    "[cyan]yolo9000 tree path 'Siberian husky'[/cyan]   where a class stands in the tree",
)

_SEE, _MODELS = "Detect", "Models"
_TREE, _TRAIN = "Tree", "Train"


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"yolo9000 {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help=f"Show tracebacks of errors (also {_DEBUG}=1).")
    ] = False,
) -> None:
    """Detect 9,418 classes arranged in a tree: the breed where it is clear, [i]animal[/i] where it is not."""
    if debug:
        os.environ[_DEBUG] = "1"


@app.command(rich_help_panel=_SEE)
def detect(
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="Pictures: files, folders, glob patterns, URLs.", show_default=False),
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Take the photos that come with the package.")] = False,
    tree: Annotated[
        bool, typer.Option("--tree", "-t", help="Print each detection's path, step by step.")
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Lowest score.", show_default="the model's own, else 0.24"),
    ] = None,
    hier_threshold: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="How sure a label must be: high gives 'animal', low gives the breed."
        ),
    ] = 0.5,
    nms: Annotated[
        float, typer.Option(min=0, max=1, help="Overlap above which related boxes are one object.")
    ] = 0.45,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder for annotated pictures.", show_default="out; none with --json"
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="JSON Lines on standard output, one picture a line.")
    ] = False,
    draw_path: Annotated[
        bool, typer.Option("--draw-path", help="Write the path on the picture, too.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Model file, or a name: see `yolo9000 models`.",
            show_default="yolo9000-nano",
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", "-w", help="Darknet weights; with --cfg.")
    ] = None,
    cfg: Annotated[
        str | None, typer.Option("--cfg", "-c", help="Cfg of the weights, file or built-in.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Network input, a multiple of 32 pixels.", show_default="the cfg's")
    ] = None,
    decoder: Annotated[str, typer.Option(help="paper, or darknet: exactly as the C code does.")] = "paper",
    batch: Annotated[int, typer.Option(min=1, help="Pictures run together.")] = 1,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, ...", show_default="a GPU if there is one")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Never download weights (also YOLO9000_OFFLINE=1).")
    ] = False,
    mirror: Annotated[
        str | None,
        typer.Option(
            help="Address to download weights from.", show_default="YOLO9000_MIRROR, else their authors'"
        ),
    ] = None,
) -> None:
    """Find objects in pictures, and draw them.

    One picture that cannot be read is reported, the rest goes on, and the exit code is 1.
    """
    if not sources and not demo:
        from yolo9000.detect import no_sources

        typer.echo(no_sources(), err=True, nl=False)
        raise typer.Exit(2)
    from yolo9000.detect import DetectOptions, demo_photos, run_detect
    from yolo9000.model import YOLO9000

    detector = YOLO9000.load(
        model, weights=weights, cfg=cfg, device=device, offline=offline or None, mirror=mirror
    )
    options = DetectOptions(
        threshold=threshold,
        hier_threshold=hier_threshold,
        size=size,
        nms=nms,
        decoder=decoder,  # type: ignore[arg-type]  # checked by Decoder
        batch=batch,
        tree=tree,
        draw_path=draw_path,
        json=json,
        out=out or (None if json else Path("out")),
    )
    if run_detect(detector, (demo_photos() if demo else []) + (sources or []), options):
        raise typer.Exit(1)


@app.command(rich_help_panel=_MODELS)
def convert(
    source: Annotated[Path, typer.Argument(help="*.weights (with --cfg) or *.safetensors.")],
    target: Annotated[Path, typer.Argument(help="The other kind.")],
    cfg: Annotated[
        str | None, typer.Option("--cfg", "-c", help="Cfg of the weights, file or built-in.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the model's parameters as float16.")] = False,
) -> None:
    """Turn darknet's cfg and weights into one model file, or back.

    Example: [cyan]yolo9000 convert yolo9000.weights yolo9000.safetensors --cfg yolo9000[/cyan]
    """
    from yolo9000.convert import convert as run

    for path in run(source, target, cfg=cfg, half=half):
        print(path)


@app.command(rich_help_panel=_MODELS)
def models() -> None:
    """List the models that come with the package, and those that are downloaded on first use."""
    from rich.console import Console

    from yolo9000.checkpoint import read_metadata
    from yolo9000.model import packaged_models
    from yolo9000.report import print_models, print_published

    console = Console(highlight=False)
    print_models(console, {name: (path, read_metadata(path)) for name, path in packaged_models().items()})
    print_published(console)


app.command("train-joint", rich_help_panel=_TRAIN)(train_joint)
app.command("train-classifier", rich_help_panel=_TRAIN)(train_classifier)
app.command("anchors", rich_help_panel=_TRAIN)(anchors)
app.add_typer(data_app, name="data", rich_help_panel=_TRAIN)
app.command("evaluate", rich_help_panel=_MODELS)(evaluate)
app.command("calibrate", rich_help_panel=_MODELS)(calibrate)
app.command("build-tree", rich_help_panel=_TREE)(build_tree)
app.add_typer(tree_app, name="tree", rich_help_panel=_TREE)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning as one line, without the place in the code that gave it."""
    typer.secho(f"Warning: {message}", fg="yellow", err=True)


def main() -> None:
    """Run the command line; errors of ours become one red line and exit code 1."""
    warnings.showwarning = _show_warning
    try:
        app()
    except YOLO9000Error as error:
        if os.environ.get(_DEBUG) == "1":
            raise
        typer.secho(f"Error: {error}", fg="red", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
