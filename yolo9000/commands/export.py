"""The command `yolo9000 export`. Torch is imported inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yolo9000.commands.options import Cfg, Mirror, Offline, Size, Weights


def export(
    model: Annotated[
        str | None,
        typer.Argument(help="Model file, or a name: see `yolo9000 models`.", show_default="yolo9000-nano"),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="*.onnx, *.pt2 (torch.export) or *.torchscript.")
    ] = Path("model.onnx"),
    weights: Weights = None,
    cfg: Cfg = None,
    top: Annotated[
        int | None,
        typer.Option(
            min=1, help="Anchors kept of a picture, in equal parts from each prior.", show_default="300"
        ),
    ] = None,
    dense: Annotated[
        bool, typer.Option("--dense", help="Every anchor and class instead, as darknet's last layer gives.")
    ] = False,
    size: Size = None,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Leave batch, height and width free. Not for TorchScript.")
    ] = False,
    device: Annotated[
        str, typer.Option(help="Where a TorchScript or torch.export program will run; ONNX runs anywhere.")
    ] = "cpu",
    offline: Offline = False,
    mirror: Mirror = None,
) -> None:
    """Write a model for other runtimes, with its tree, names and settings inside.

    `yolo9000 detect --model model.onnx` runs it. What goes in and comes out: docs/export.md.

    Example: [cyan]yolo9000 export yolo9000-nano -o nano.onnx --size 416[/cyan]
    """
    from yolo9000.export.write import ExportOptions
    from yolo9000.export.write import export as run
    from yolo9000.model import YOLO9000

    detector = YOLO9000.load(
        model, weights=weights, cfg=cfg, device=device, offline=offline or None, mirror=mirror
    )
    print(run(detector, out, ExportOptions(dense=dense, top=top, size=size, dynamic=dynamic)))
