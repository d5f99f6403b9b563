"""The command `yolo9000 calibrate`. Torch is imported inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from yolo9000.commands.options import Size, Split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from yolo9000.calibrate import DepthTemperature


def calibrate(
    model: Annotated[str, typer.Argument(help="Model file or packaged model.", show_default=False)],
    data: Annotated[
        list[str],
        typer.Argument(help="Data that were not trained on: voc:DIR, imagenet:DIR, ...", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The calibrated model file.", show_default=False)],
    split: Split = "val",
    minimum: Annotated[
        int, typer.Option(min=1, help="Labelled steps that a depth needs for a temperature of its own.")
    ] = 50,
    size: Size = None,
    hier_threshold: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="How sure labels of the calibrated model are by default.",
            show_default="as before",
        ),
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the model's parameters as float16.")] = False,
) -> None:
    """Make a model as sure as it is right: one temperature a depth, divided into its class rows.

    Its own thresholds stay, and look at the new probabilities: labels of an overconfident model become
    vaguer. Figures in its metadata are dropped: they were measured before.

    Example: [cyan]yolo9000 calibrate model.safetensors voc:VOC2007 -o calibrated.safetensors[/cyan]
    """
    from wordtree._terminal import Terminal
    from yolo9000.calibrate import (
        apply_temperatures,
        check_suitable,
        collect_steps,
        fit_temperatures,
        join_steps,
    )
    from yolo9000.checkpoint import check_target, save_model, still_true
    from yolo9000.datasets import open_dataset
    from yolo9000.evaluation.options import EvaluateConfig
    from yolo9000.labelling import DEFAULT_HIER_THRESHOLD, own_number
    from yolo9000.model import load_any
    from yolo9000.report import print_left_out

    check_target(out)
    network, metadata = load_any(model)
    network.eval()
    config = EvaluateConfig(size=size or 0)
    sets = [open_dataset(spec, network.tree, split) for spec in data]
    for spec, dataset in zip(data, sets, strict=True):
        check_suitable(network, dataset)  # all, before the first is worked through
        print_left_out(Terminal(stderr=True), spec, dataset)
    steps = join_steps([collect_steps(network, dataset, config) for dataset in sets])
    found = fit_temperatures(steps, network.ops.levels, minimum)
    apply_temperatures(network, [row.temperature for row in found])
    extras = still_true(metadata)
    if hier_threshold is not None:
        extras["hier_threshold"] = f"{hier_threshold:g}"
    extras["temperatures"] = _temperatures(found, metadata.get("temperatures", ""))
    save_model(network, out, half=half, metadata=extras)
    Terminal().print(table(found))
    sure = own_number(extras, "hier_threshold", DEFAULT_HIER_THRESHOLD)
    print(f"labels are surer than {sure:g} by default, now by calibrated probabilities")
    print(f"wrote {out}")


def _temperatures(found: Sequence[DepthTemperature], before: str) -> str:
    """What the logits have been divided by in all, a number a depth; `before`: by earlier calibrations."""
    try:
        earlier = [float(value) for value in before.split()]
    except ValueError:
        earlier = []
    if len(earlier) != len(found):
        earlier = [1.0] * len(found)
    return " ".join(f"{row.temperature * value:.3g}" for row, value in zip(found, earlier, strict=True))


def table(found: Sequence[DepthTemperature]) -> Table:
    """What was fitted at each depth, as a table."""
    from rich.table import Table

    result = Table("depth", "labelled steps", "temperature", "-log P", "after", "error", "after")
    for row in found:
        numbers = (f"{value:.3f}" if value == value else "" for value in (*row.nll, *row.error))
        result.add_row(str(row.depth), f"{row.steps:,}", f"{row.temperature:.2f}", *numbers)
    return result
