"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MODEL = "Model"  # panel of the options that say what runs, and how

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Model file, or a name: see `yolo9000 models`.",
        show_default="yolo9000-nano",
        rich_help_panel=MODEL,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option("--weights", "-w", help="Darknet weights; with --cfg.", rich_help_panel=MODEL),
]
Cfg = Annotated[
    str | None,
    typer.Option("--cfg", "-c", help="Cfg of the weights, file or built-in.", rich_help_panel=MODEL),
]
Size = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Network input, a multiple of its stride (32 pixels).",
        show_default="the cfg's",
        rich_help_panel=MODEL,
    ),
]
Sizes = Annotated[
    list[int] | None,
    typer.Option(
        "--size",
        min=1,
        help="Network input, a multiple of its stride (32 pixels). Repeatable: pictures are looked at in "
        "all, which finds more and takes longer.",
        show_default="the model's, else the cfg's",
        rich_help_panel=MODEL,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1, ...", show_default="a GPU if there is one", rich_help_panel=MODEL),
]
Precision = Annotated[
    str,
    typer.Option(
        help="fp32; int8 for CPUs; bf16 or fp16 where the hardware has them.", rich_help_panel=MODEL
    ),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile", help="Generate code first: a minute a size, for many pictures.", rich_help_panel=MODEL
    ),
]
Offline = Annotated[
    bool,
    typer.Option(
        "--offline", help="Never download weights (also YOLO9000_OFFLINE=1).", rich_help_panel=MODEL
    ),
]
Mirror = Annotated[
    str | None,
    typer.Option(
        help="Address to download weights from.",
        show_default="YOLO9000_MIRROR, else their authors'",
        rich_help_panel=MODEL,
    ),
]
Split = Annotated[str, typer.Option(help="Split of data sets that name none.")]
