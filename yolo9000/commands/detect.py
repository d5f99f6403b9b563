"""The commands `yolo9000 detect` and `yolo9000 relabel`. Torch is imported inside."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from yolo9000.commands.options import (
    MODEL,
    Cfg,
    Compile,
    Device,
    Mirror,
    Model,
    Offline,
    Precision,
    Sizes,
    Weights,
)

if TYPE_CHECKING:
    from wordtree.tree import WordTree
    from yolo9000.detect import Show

SAVE_HELP = "pictures, jsonl, csv, coco, yolo, crops; repeatable."  # as in yolo9000.outputs
_LABELS, _OUTPUT = "Labels", "Output"
_KEPT = "of relabel: as detected"

HierThreshold = Annotated[
    list[str] | None,
    typer.Option(
        help="How sure a label must be: high gives 'animal', low gives the breed. For a part of the tree: "
        "dog=0.2. Repeatable.",
        metavar="P|NODE=P",
        show_default=f"the model's own, else 0.5; no limit with --depth or --leaves; {_KEPT}",
        rich_help_panel=_LABELS,
    ),
]
Depth = Annotated[
    int | None,
    typer.Option(
        min=0, help="Labels at most this deep; 0 is the top.", rich_help_panel=_LABELS, show_default=False
    ),
]
Leaves = Annotated[
    bool, typer.Option("--leaves", help="Always the most specific label.", rich_help_panel=_LABELS)
]
Under = Annotated[
    list[str] | None,
    typer.Option(
        help="Only labels at or below this node. Repeatable.", metavar="NODE", rich_help_panel=_LABELS
    ),
]
NotUnder = Annotated[
    list[str] | None,
    typer.Option(
        help="No labels at or below this node. Repeatable.", metavar="NODE", rich_help_panel=_LABELS
    ),
]
Threshold = Annotated[
    list[str] | None,
    typer.Option(
        help="Lowest score. For a part of the tree: animal=0.1. Repeatable.",
        metavar="SCORE|NODE=SCORE",
        show_default=f"the model's own, else 0.24; {_KEPT}",
        rich_help_panel=_LABELS,
    ),
]
Nms = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, help="Overlap above which related boxes are one object.", show_default=f"0.45; {_KEPT}",
        rich_help_panel=_LABELS,
    ),
]  # fmt: skip
TreeFlag = Annotated[
    bool,
    typer.Option("--tree", "-t", help="Print each detection's path, step by step.", rich_help_panel=_OUTPUT),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="JSON Lines on standard output, one picture a line.", rich_help_panel=_OUTPUT
    ),
]
Save = Annotated[
    list[str] | None,
    typer.Option("--save", "-s", help=SAVE_HELP, metavar="KIND", show_default=False, rich_help_panel=_OUTPUT),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", help="Folder for what is saved.", show_default="out", rich_help_panel=_OUTPUT
    ),
]
DrawPath = Annotated[
    bool, typer.Option("--draw-path", help="Write the path on pictures, too.", rich_help_panel=_OUTPUT)
]


def detect(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Pictures and videos: files, folders, glob patterns, URLs, a list (list.txt), "
            "- (standard input), pipes, 0 (a camera).",
            show_default=False,
        ),
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Take the photos that come with the package.")] = False,
    threshold: Threshold = None,
    hier_threshold: HierThreshold = None,
    depth: Depth = None,
    leaves: Leaves = False,
    under: Under = None,
    not_under: NotUnder = None,
    nms: Nms = None,
    tree: TreeFlag = False,
    json: Json = False,
    save: Save = None,
    out: Out = None,
    draw_path: DrawPath = False,
    model: Model = None,
    weights: Weights = None,
    cfg: Cfg = None,
    size: Sizes = None,
    decoder: Annotated[
        str, typer.Option(help="paper, or darknet: exactly as the C code does.", rich_help_panel=MODEL)
    ] = "paper",
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Pictures run together.",
            show_default="8 on a GPU, else 4; cameras and pipes 1",
            rich_help_panel=MODEL,
        ),
    ] = None,
    device: Device = None,
    precision: Precision = "fp32",
    compile: Compile = False,
    offline: Offline = False,
    mirror: Mirror = None,
) -> None:
    """Find objects in pictures and videos, and draw them.

    Annotated pictures go to out/, unless --json or --save asks for something else. One picture that cannot be
    read is reported, the rest goes on, and the exit code is 1.
    """
    if not sources and not demo:
        typer.echo(_no_sources(), err=True, nl=False)
        raise typer.Exit(2)
    labels = _labels(threshold, hier_threshold, depth, leaves, under, not_under, nms)
    from yolo9000.detect import run_detect
    from yolo9000.model import YOLO9000
    from yolo9000.sources import demo_photos

    detector = YOLO9000.load(
        model,
        weights=weights,
        cfg=cfg,
        device=device,
        precision=precision,  # type: ignore[arg-type]  # checked by Engine
        compile=compile,
        offline=offline or None,
        mirror=mirror,
    )
    options = labels | {"sizes": size, "decoder": decoder}
    show = _show(tree, json, save, out, draw_path, () if json else ("pictures",))
    everything = (demo_photos() if demo else []) + (sources or [])
    failures = run_detect(detector, everything, show, options, batch)
    if failures:
        raise typer.Exit(1)


def relabel(
    results: Annotated[
        str,
        typer.Argument(help="JSON Lines that `detect --json` or `--save jsonl` wrote; - for standard input."),
    ],
    threshold: Threshold = None,
    hier_threshold: HierThreshold = None,
    depth: Depth = None,
    leaves: Leaves = False,
    under: Under = None,
    not_under: NotUnder = None,
    nms: Nms = None,
    tree: TreeFlag = False,
    json: Json = False,
    save: Save = None,
    out: Out = None,
    draw_path: DrawPath = False,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="Model that made the results, or its tree (file or name).",
            rich_help_panel=MODEL,
        ),
    ] = "yolo9000",
) -> None:
    """Choose labels at another depth for stored results, without running the network again.

    The labels are those that `detect` would give with the same options. What is left out stays as it was in
    detection; the threshold can only be raised.
    """
    options = _labels(threshold, hier_threshold, depth, leaves, under, not_under, nms)
    from yolo9000.detect import run_relabel

    show = _show(tree, json, save, out, draw_path, ())
    failures = run_relabel(results, _tree_of(model), show, options)
    if failures:
        raise typer.Exit(1)


def _no_sources() -> str:
    """What to say to somebody who names no picture."""
    name = Path(sys.argv[0]).name or "yolo9000"
    return (
        "No pictures given. Try the photos that come with the package:\n\n"
        f"    {name} detect --demo --tree\n\n"
        "or your own files, folders, patterns, videos and URLs:\n\n"
        f"    {name} detect photo.jpg holiday/ 'scans/*.png' clip.mp4 https://example.org/cat.jpg\n"
    )


def _labels(
    threshold: list[str] | None,
    hier_threshold: list[str] | None,
    depth: int | None,
    leaves: bool,
    under: list[str] | None,
    not_under: list[str] | None,
    nms: float | None,
) -> dict[str, Any]:
    """The options that were given, as `YOLO9000.detect` and `Detections.relabel` take them."""
    options: dict[str, Any] = {
        "threshold": _fractions("--threshold", threshold),
        "hier_threshold": _fractions("--hier-threshold", hier_threshold),
        "depth": depth,
        "leaves": leaves or None,
        "under": under or None,
        "not_under": not_under or None,
        "nms": nms,
    }
    return {name: value for name, value in options.items() if value is not None}


def _fractions(option: str, given: list[str] | None) -> float | Mapping[str, float] | None:
    """0.3 as a number; animal=0.1, perhaps beside 0.3, as a mapping."""
    values: dict[str, float] = {}
    for text in given or []:
        node, equals, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1 or (equals and not node.strip()):
            raise typer.BadParameter(
                f"expected a number in 0..1, or NODE=number, got {text!r}.", param_hint=option
            )
        values[node.strip() or "*"] = value
    if values.keys() == {"*"}:
        return values["*"]
    return values or None


def _show(
    tree: bool,
    json: bool,
    save: list[str] | None,
    out: Path | None,
    draw_path: bool,
    default: tuple[str, ...],
) -> Show:
    from yolo9000.detect import Show

    kinds = [kind.strip() for text in save or [] for kind in text.split(",")]
    if not kinds and (out is not None or draw_path):
        kinds = ["pictures"]
    return Show(tree=tree, draw_path=draw_path, json=json, save=kinds or default, out=out or Path("out"))


def _tree_of(source: str) -> WordTree:
    """The tree of a model, by file or name, or a tree, by file or name."""
    from wordtree.formats import load_tree
    from yolo9000.export.program import is_program, program_tree
    from yolo9000.model import packaged_models

    if is_program(source):
        return program_tree(source)
    return load_tree(packaged_models().get(source, source))
