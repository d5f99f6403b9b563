"""The commands `yolo9000 tree draw` and `yolo9000 retree`: trees together with data, results or models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wordtree.cli import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wordtree.tree import WordTree

_KINDS = (".svg", ".png", ".html")


def draw(
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: *.svg, *.png or *.html.")],
    tree: Source = "yolo9000",
    under: Annotated[
        str | None, typer.Option(help="Node to begin with.", show_default="the whole tree", metavar="NODE")
    ] = None,
    depth: Annotated[
        int | None,
        typer.Option("--depth", "-d", min=0, help="Levels to open below it.", show_default="as many as fit"),
    ] = None,
    lines: Annotated[int, typer.Option(min=1, help="Height of a picture, in lines of text.")] = 150,
    counts: Annotated[
        list[str] | None,
        typer.Option(
            help="Show how many labels a data set has at or below each node: coco:DIR, voc:DIR:test, ... "
            "Repeatable.",
            metavar="DATA",
        ),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            help="Show the highest score of each node in results of detect: JSON Lines.", metavar="FILE"
        ),
    ] = None,
) -> None:
    """Draw a tree: as a picture, or as a page that folds and searches.

    yolo9000 tree draw --under dog -o dog.svg
    yolo9000 tree draw --scores out/detections.jsonl -o seen.html
    """
    from wordtree._files import atomic_write
    from wordtree.errors import YOLO9000Error
    from wordtree.formats import load_tree
    from wordtree.page import to_html
    from wordtree.picture import lay_out, to_png, to_svg

    kind = out.suffix.lower()
    if kind not in _KINDS:
        raise typer.BadParameter(f"expected {', '.join(_KINDS)}, got {out.name!r}.", param_hint="--out")
    if counts and scores is not None:
        raise typer.BadParameter("--counts and --scores exclude each other; give one of them.")
    loaded = load_tree(tree)
    values: NDArray[Any] | None = None
    if counts:
        values = _counts(counts, loaded)
    elif scores is not None:
        values = _scores(scores, loaded)
    if kind == ".html":
        unit = "score" if scores else "count"
        data = to_html(loaded, under, depth=depth, values=values, unit=unit).encode()
    else:
        picture = lay_out(loaded, under, depth=depth, lines=lines, values=values)
        data = to_svg(picture).encode() if kind == ".svg" else to_png(picture)
    try:
        with atomic_write(out) as stream:
            stream.write(data)
    except OSError as error:
        raise YOLO9000Error(f"{out}: cannot be written: {error.strerror or error}.") from error
    typer.echo(f"wrote {out}")


def _counts(specs: list[str], tree: WordTree) -> NDArray[np.int64]:
    """[N] labels at or below each node."""
    import numpy as np

    from yolo9000.datasets import open_dataset

    counts = np.zeros(len(tree), np.int64)
    for spec in specs:
        dataset = open_dataset(spec, tree)
        for index in range(len(dataset)):
            np.add.at(counts, np.asarray(dataset.nodes(index), np.int64), 1)
    for level in tree.levels[:0:-1]:
        np.add.at(counts, tree.parent[level], counts[level])
    return counts


def _scores(path: Path, tree: WordTree) -> NDArray[np.float64]:
    """[N] objectness × P(node), the highest of any detection whose label is at or below the node."""
    import numpy as np

    from yolo9000.detect import stored

    scores = np.zeros(len(tree))
    for found in stored(str(path), tree):
        absolute = np.cumprod(found.path_probs.astype(np.float64), axis=1) * found.objectness[:, None]
        steps = np.arange(found.paths.shape[1])
        shown = (found.paths >= 0) & (steps <= tree.depth[found.nodes][:, None])
        np.maximum.at(scores, found.paths[shown], absolute[shown])
    return scores


def retree(
    model: Annotated[str, typer.Argument(help="Model file, *.safetensors, or the name of a model.")],
    tree: Annotated[
        str,
        typer.Option(
            "--tree",
            "-t",
            help="The new tree: a file, a built-in one, or that of another model file.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model file to write.", show_default=False)],
    half: Annotated[bool, typer.Option("--half", help="Store the model's parameters as float16.")] = False,
) -> None:
    """Give a trained model another tree. Nodes with the same id keep their weights, new ones start from zero.

    yolo9000 retree model.safetensors --tree new.tree -o new.safetensors
    """
    from wordtree.formats import load_tree
    from yolo9000.retree import retree_file

    typer.echo(str(retree_file(model, load_tree(tree), out, half=half)))
    typer.echo(f"wrote {out}")
