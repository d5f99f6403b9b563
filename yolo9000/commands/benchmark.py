"""The command `yolo9000 benchmark`. Torch is imported inside."""

from __future__ import annotations

from typing import Annotated

import typer

from yolo9000.commands.options import MODEL, Compile, Device, Model, Precision, Size, Weights


def benchmark(
    photo: Annotated[
        str | None, typer.Argument(help="A picture.", show_default="one that comes with the package")
    ] = None,
    model: Model = None,
    weights: Weights = None,
    cfg: Annotated[
        str | None,
        typer.Option(
            "--cfg",
            "-c",
            help="Cfg of the weights, file or built-in; alone: random weights.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    size: Size = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures run together.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="How often; medians are given.")] = 10,
    anchors: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Decode so many anchors a picture, whatever their score.",
            show_default="those above the model's threshold; 20 with random weights",
        ),
    ] = None,
    device: Device = None,
    precision: Precision = "fp32",
    compile: Compile = False,
    json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Time detection on this machine, stage by stage.

    Example: [cyan]yolo9000 benchmark --cfg yolo9000 --size 544[/cyan]
    """
    import json as json_module

    from wordtree._terminal import Terminal
    from yolo9000.benchmark import benchmark as run
    from yolo9000.darknet.cfg import Cfg
    from yolo9000.model import YOLO9000
    from yolo9000.network import Network
    from yolo9000.sources import demo_photos

    if cfg is not None and model is None and weights is None:
        anchors = anchors or 20
        detector = YOLO9000(
            Network(Cfg.load(cfg)),
            device=device,
            precision=precision,  # type: ignore[arg-type]  # checked by Engine
            compile=compile,
        )
    else:
        detector = YOLO9000.load(
            model,
            weights=weights,
            cfg=cfg,
            device=device,
            precision=precision,  # type: ignore[arg-type]
            compile=compile,
        )
    source = photo or demo_photos()[0]
    times = run(detector, source, size=size, batch=batch, rounds=rounds, anchors=anchors)
    if json:
        print(json_module.dumps(times.to_dict()))
    else:
        times.show(Terminal(markup=False))
