"""The command line of yolo9000. Torch and other heavy packages are imported inside the commands."""

from __future__ import annotations

import io
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, NoReturn, TextIO

import typer

from wordtree.cli import build_tree, tree_app
from wordtree.errors import YOLO9000Error
from yolo9000 import __version__
from yolo9000.commands.benchmark import benchmark
from yolo9000.commands.calibrate import calibrate
from yolo9000.commands.data import data_app, pack
from yolo9000.commands.detect import detect, relabel
from yolo9000.commands.evaluate import evaluate
from yolo9000.commands.export import export
from yolo9000.commands.train import anchors, train, train_classifier, train_joint
from yolo9000.commands.tree import draw, retree
from yolo9000.hangup import unwound_by_signals
from yolo9000.memory import keep_freed_memory

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
    "[cyan]yolo9000 relabel found.jsonl --depth 5[/cyan]   other labels, without the network\n\n"
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


@app.command(rich_help_panel=_MODELS)
def convert(
    source: Annotated[Path, typer.Argument(help="Darknet weights (with --cfg), or *.safetensors.")],
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
    from wordtree._terminal import Terminal
    from yolo9000.checkpoint import read_metadata
    from yolo9000.model import packaged_models
    from yolo9000.report import print_models, print_published

    console = Terminal()
    print_models(console, {name: (path, read_metadata(path)) for name, path in packaged_models().items()})
    print_published(console)


app.command("detect", rich_help_panel=_SEE)(detect)
app.command("relabel", rich_help_panel=_SEE)(relabel)
app.command("train", rich_help_panel=_TRAIN)(train)
app.command("train-joint", rich_help_panel=_TRAIN)(train_joint)
app.command("train-classifier", rich_help_panel=_TRAIN)(train_classifier)
app.command("anchors", rich_help_panel=_TRAIN)(anchors)
app.add_typer(data_app, name="data", rich_help_panel=_TRAIN)
app.command("pack", rich_help_panel=_TRAIN)(pack)
app.command("evaluate", rich_help_panel=_MODELS)(evaluate)
app.command("benchmark", rich_help_panel=_MODELS)(benchmark)
app.command("export", rich_help_panel=_MODELS)(export)
app.command("calibrate", rich_help_panel=_MODELS)(calibrate)
app.command("build-tree", rich_help_panel=_TREE)(build_tree)
tree_app.command("draw")(draw)
app.add_typer(tree_app, name="tree", rich_help_panel=_TREE)
app.command("retree", rich_help_panel=_TREE)(retree)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning as one line, without the place in the code that gave it."""
    from wordtree._terminal import complain

    complain(message, "Warning", "yellow")


def main() -> None:
    """Run the command line; errors of ours and of files become one red line and exit code 1."""
    warnings.showwarning = _show_warning
    if isinstance(sys.stdout, io.TextIOWrapper):  # names and signs that a terminal lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    keep_freed_memory()
    try:
        with unwound_by_signals():
            app()
    except YOLO9000Error as error:
        _fail(str(error), error)
    except OSError as error:
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        _fail(f"{where}{error.strerror or error}", error)


def _fail(message: str, error: Exception) -> NoReturn:
    if os.environ.get(_DEBUG) == "1":
        raise error
    from wordtree._terminal import complain

    complain(message)
    sys.exit(1)


if __name__ == "__main__":
    main()
