"""Detections and models as tables and trees for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from wordtree.colour import node_colour
from wordtree.tree import WordTree
from yolo9000.results import Detections

if TYPE_CHECKING:
    from yolo9000.datasets import SampleDataset
    from yolo9000.datasets.check import DataReport

_COUNTED = 8  # labels named in the line of a frame
_NAMED = 10  # labels named that match no node
_LONG = 60  # characters of metadata that still fit into a table


def print_detections(
    console: Console, found: Detections, *, tree: bool = False, written: Path | None = None
) -> None:
    """Print what was found in one picture: a table or, with `tree`, each detection's path through the tree.

    A frame of a video takes one line, unless `tree` asks for more.

    Args:
        console: Where to print.
        found: The detections.
        tree: Print paths.
        written: The annotated picture, if one was written.
    """
    height, width = found.image_size
    count = f"{len(found)} detection{'' if len(found) == 1 else 's'}"
    heading = Text.assemble((found.source or "image", "bold"), f"  {width} × {height}  {count}")
    if found.frame is not None:
        heading = Text.assemble((found.source or "video", "bold"), f"  {found.time or 0.0:.2f} s  {count}")
        if not tree:
            heading.append(_counted(found))
    if written is not None and not found.frame:
        heading.append(f"  → {written}", "dim")
    console.print(heading, soft_wrap=True)
    if tree:
        for index in range(len(found)):
            console.print(_path_tree(found, index))
    elif len(found) and found.frame is None:
        console.print(_table(found))


def _counted(found: Detections) -> Text:
    """The labels of a frame, each once: with its score, or how often it occurs."""
    counts = Counter(found.nodes.tolist())
    text = Text()
    for node in list(counts)[:_COUNTED]:
        times = counts[node]
        number = f"{found.scores[found.nodes == node][0]:.2f}" if times == 1 else f"× {times}"
        text.append(f"  {found.tree.names[node]} {number}", _style(found.tree, node))
    if len(counts) > _COUNTED:
        text.append(f"  and {len(counts) - _COUNTED} more labels", "dim")
    return text


def _table(found: Detections) -> Table:
    table = Table("label", "score", "box: x1, y1, x2, y2", box=None, pad_edge=True, header_style="dim")
    table.columns[1].justify = "right"
    for detection in found:
        label = Text(detection.label, _style(found.tree, detection.node))
        table.add_row(label, f"{detection.score:.2f}", _corners(detection.box))
    return table


def _path_tree(found: Detections, index: int) -> RenderableType:
    """One detection: its label, then its path, a level deeper at every step, and dim the step not taken."""
    detection = found[index]
    heading = Text.assemble(
        ("● ", _style(found.tree, detection.node)),
        (detection.label, f"bold {_style(found.tree, detection.node)}"),
        f"  score {detection.score:.2f}  objectness {detection.objectness:.2f}",
        f"  box {_corners(detection.box)}",
    )
    root: Tree | None = None
    branch: Tree | None = None
    label_depth = len(detection.path) - 1
    at_limit = found.labelling is not None and found.labelling.depth == label_depth
    why = "deeper than asked for" if at_limit else "not sure enough"
    nodes = [int(node) for node in found.paths[index] if node >= 0]
    for depth, (name, probability) in enumerate(detection.full_path[: label_depth + 2]):
        text = Text.assemble((name, _style(found.tree, nodes[depth])), f"  {probability:.2f}")
        if depth == label_depth:
            text.stylize("bold")
        if depth > label_depth:
            text = Text(f"{name}  {probability:.2f}  {why}", "dim")
        branch = Tree(text, guide_style="dim") if branch is None else branch.add(text)
        root = root or branch
    assert root is not None
    return Group(heading, Padding(root, (0, 0, 0, 2)))


def _corners(box: tuple[float, float, float, float]) -> str:
    return ", ".join(f"{value:.0f}" for value in box)


def _style(tree: WordTree, node: int) -> str:
    return "rgb({},{},{})".format(*node_colour(tree, node))


def print_models(console: Console, models: Mapping[str, tuple[Path, Mapping[str, str]]]) -> None:
    """Print the packaged models with what their files say of them.

    Args:
        console: Where to print.
        models: File and metadata by name.
    """
    from yolo9000.checkpoint import RESERVED
    from yolo9000.darknet.cfg import Cfg

    for name, (path, metadata) in models.items():
        cfg = Cfg.parse(metadata["cfg"])
        facts = {
            "classes": f"{metadata['tree'].count(chr(10)) + 1:,}",
            "input": f"{cfg.width} × {cfg.height} pixels",
            "file": f"{path.stat().st_size / 1e6:.1f} MB, {path}",
            "seen in training": f"{int(metadata['seen']):,} images",
        }
        facts |= {
            key: value for key, value in metadata.items() if key not in RESERVED and len(value) <= _LONG
        }
        table = Table(title=name, title_justify="left", title_style="bold", box=None, show_header=False)
        table.add_column(style="dim")
        for key, value in facts.items():
            table.add_row(key.replace("_", " "), Text(value, overflow="fold"))
        console.print(table)


def print_published(console: Console) -> None:
    """Print the weights that their authors offer, and which of them are here already.

    Args:
        console: Where to print.
    """
    from yolo9000.darknet.cfg import Cfg
    from yolo9000.darknet.weights import file_sizes
    from yolo9000.hub import PUBLISHED, cached

    table = Table(
        "name", "classes and input", "download", "", title="published by the authors of YOLO9000",
        title_justify="left", title_style="bold", box=None, header_style="dim",
    )  # fmt: skip
    table.columns[0].no_wrap = True  # a name that is cut is none
    for name, entry in PUBLISHED.items():
        size = f"{file_sizes(Cfg.load(entry.cfg))[1] / 1e6:.0f} MB"
        path = cached(name)
        table.add_row(name, entry.about, size, Text(f"in {path}" if path else "on first use", style="dim"))
    console.print(table)


def print_left_out(console: Console, name: str, dataset: SampleDataset) -> None:
    """Say briefly what of a data set is not used; nothing where all is.

    Args:
        console: Where to print.
        name: The data set, as its user knows it.
        dataset: The data set.
    """
    unmatched, issues = dataset.unmatched, dataset.issues
    lines = []
    if unmatched:
        often = sorted(unmatched, key=lambda label: -unmatched[label])
        shown = ", ".join(f"{label} ({unmatched[label]})" for label in often[:_NAMED])
        more = f" and {len(often) - _NAMED:,} more" if len(often) > _NAMED else ""
        lines.append(f"labels that match no node and are left out: {shown}{more}")
    if issues:
        lines.append(f"left out by the reader: {len(issues):,}, first {issues[0]}")
    for line in lines:
        console.print(Text(f"{name}: {line}", "yellow"), soft_wrap=True)
    if lines:
        console.print(Text("`yolo9000 data check` lists all that is wrong", "yellow"))


def print_data_report(console: Console, report: DataReport, tree: WordTree, top: int = 15) -> None:
    """Print what a data set holds and what is wrong with it.

    Args:
        console: Where to print.
        report: From `yolo9000.datasets.check.data_check`.
        tree: The tree of its labels.
        top: How many of the most frequent nodes to list; 0: all.
    """
    boxes = (
        f"  {report.boxes:,} boxes, {report.ignored:,} ignored, {report.empty:,} images without"
        if report.kind == "detection"
        else ""
    )
    console.print(Text.assemble((report.spec, "bold"), f"  {report.images:,} {report.kind} images{boxes}"))
    table = Table("node", "labels", box=None, header_style="dim")
    table.columns[1].justify = "right"
    for node, count in list(report.counts.items())[: top or None]:
        table.add_row(Text(tree.names[node], _style(tree, node)), f"{count:,}")
    console.print(table)
    if len(report.counts) > top > 0:
        console.print(f"  and {len(report.counts) - top:,} more nodes", style="dim")
    for label, ancestor in report.fallbacks.items():
        console.print(Text(f"  {label}: not in the tree, stands at {ancestor}", "dim"))
    if not report.counts:
        what = "box" if report.kind == "detection" else "label"
        console.print(f"not one {what} to learn from", style="bold red")
    wrong = {
        "labels without a node": [
            f"{label}: {count} annotations; {report.reasons[label]}"
            for label, count in report.unmatched.items()
        ],
        "left out by the reader": report.degenerate,
        "boxes outside their image": report.outside,
        "images of another size than stated": report.resized,
        "unreadable images": report.unreadable,
    }
    for title, lines in wrong.items():
        if lines:
            console.print(f"{len(lines):,} {title}", style="bold red")
            for line in lines:
                console.print(Text(f"  {line}"), soft_wrap=True)
    console.print("nothing is wrong" if report.ok else "see above", style="green" if report.ok else "red")
