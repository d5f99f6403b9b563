"""The commands for data: `data check` and `pack`. Torch is imported inside them."""

from __future__ import annotations

import json as json_text
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wordtree.errors import YOLO9000Error
from yolo9000.commands.options import Split

if TYPE_CHECKING:
    from wordtree.tree import WordTree
    from yolo9000.datasets.check import DataReport

data_app = typer.Typer(no_args_is_help=True, help="Check data sets.")


@data_app.command()
def check(
    spec: Annotated[
        list[str],
        typer.Argument(
            help="Data sets: coco:DIR, voc:DIR, yolo:data.yaml, darknet:FILE.data, imagenet:DIR, ..."
        ),
    ],
    tree: Annotated[str, typer.Option(help="Tree of the labels.")] = "yolo9000",
    split: Split = "train",
    map_file: Annotated[
        str | None,
        typer.Option("--map", help="Darknet map file of the boxes' classes: line i, node of class i."),
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="Show so many of the most frequent nodes; 0: all.")] = 15,
    json: Annotated[
        bool, typer.Option("--json", help="JSON Lines on standard output, one data set a line, all nodes.")
    ] = False,
) -> None:
    """Read every image and box once, and list all that is wrong. The exit code is 1 when anything is.

    Formats: coco, voc, yolo, darknet, imagenet-det, tiny-imagenet-boxes (boxes); imagenet, imagenet-tar,
    tiny-imagenet, darknet-classifier (labels); pack (either). docs/data.md shows their layouts.

    Example: [cyan]yolo9000 data check coco:coco:val yolo:data.yaml imagenet-tar:fall11[/cyan]
    """
    from wordtree import load_tree
    from wordtree._terminal import Terminal, complain
    from yolo9000.datasets.check import data_check
    from yolo9000.report import print_data_report

    labels, good = load_tree(tree), True
    for one in spec:
        try:
            with _progress(one) as progress:
                report = data_check(one, labels, split, map_file=map_file, progress=progress)
        except YOLO9000Error as error:
            if len(spec) == 1:
                raise
            complain(error)
            good = False
            continue
        if json:
            typer.echo(json_text.dumps(_plain(report, labels)))
        else:
            print_data_report(Terminal(), report, labels, top)
        good &= report.ok
    if not good:
        raise typer.Exit(1)


def _plain(report: DataReport, tree: WordTree) -> dict[str, object]:
    """The report with its nodes by id and name."""
    counts = [
        {"node": node, "wnid": tree.wnids[node], "name": tree.names[node], "labels": count}
        for node, count in report.counts.items()
    ]
    return {**report.to_dict(), "counts": counts}


def pack(
    spec: Annotated[
        list[str],
        typer.Argument(
            help="A data set, or several of one kind: coco:DIR, yolo:data.yaml, imagenet-tar:DIR, ..."
        ),
    ],
    target: Annotated[Path, typer.Argument(help="The HDF5 file to write.")],
    split: Split = "train",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a finished file.")] = False,
) -> None:
    """Pack data into one HDF5 file: encoded images as they are, boxes, labels. An interrupted pack goes on.

    The file serves every tree, and is read as pack:FILE. Until it is complete it is called FILE.partial.

    Example: [cyan]yolo9000 pack imagenet-tar:fall11 imagenet.h5[/cyan]
    """
    from yolo9000.datasets import is_spec, read_records
    from yolo9000.datasets import pack as write_pack
    from yolo9000.datasets.records import concat_records
    from yolo9000.errors import DataError

    if is_spec(str(target)):
        raise DataError(
            f"{target}: expected the file to write, got one more data set; add a name, as data.h5"
        )
    records = concat_records([read_records(one, split) for one in spec])
    with _progress(str(target)) as progress:
        write_pack(records, target, overwrite=overwrite, progress=progress)
    images = sum(records.store.size(i) for i in range(len(records.store)))
    size = target.stat().st_size
    typer.echo(
        f"{target}: {len(records.store):,} images, {size / 1e6:,.1f} MB, "
        f"{size / max(images, 1):.4f} times the size of the originals"
    )


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error while it is a terminal; told of images done and images in all."""
    from yolo9000.progress import titled

    bar, task = titled(what)
    with bar:
        yield lambda done, total: bar.update(task, completed=done, total=total)
