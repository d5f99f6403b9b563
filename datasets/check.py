"""A data set read from end to end: what it holds, and all that is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from yolo9000.datasets.records import EDGE, TableDataset
from yolo9000.datasets.sample import Kind
from yolo9000.errors import DataError

if TYPE_CHECKING:
    from wordtree.tree import WordTree


@dataclass
class DataReport:
    """What `data_check` found.

    Attributes:
        spec: The data set as it was named.
        kind: Detection or classification.
        images: Images of the data set.
        boxes: Boxes that are trained on.
        ignored: Boxes marked as difficult or crowd.
        empty: Detection images without a box.
        counts: Node -> labels on it, most frequent first.
        fallbacks: Labels whose synset the tree lacks -> the ancestor that stands for them.
        unmatched: Labels without a node -> annotations left out.
        reasons: Labels without a node -> why.
        degenerate: What the reader left out, as it noted them: boxes without area or otherwise unusable,
            pictures of kinds that are not read here.
        outside: Boxes that stand out of their image by more than a pixel.
        resized: Images with boxes whose width and height are not those that their annotation states.
        unreadable: Images that cannot be decoded.
    """

    spec: str
    kind: Kind
    images: int
    boxes: int = 0
    ignored: int = 0
    empty: int = 0
    counts: dict[int, int] = field(default_factory=dict)
    fallbacks: dict[str, int] = field(default_factory=dict)
    unmatched: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    degenerate: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Something is labelled, and nothing is unmatched, degenerate, outside, resized or unreadable."""
        wrong = self.unmatched or self.degenerate or self.outside or self.resized or self.unreadable
        return bool(self.counts) and not wrong

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        return {**asdict(self), "ok": self.ok}


def data_check(
    spec: str,
    tree: WordTree,
    split: str = "train",
    *,
    map_file: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DataReport:
    """Read a whole data set, every image decoded, and report.

    Args:
        spec: See `open_dataset`.
        tree: See `open_dataset`.
        split: See `open_dataset`.
        map_file: See `open_dataset`.
        progress: Called with images done and images in all.

    Raises:
        DataError: The data set cannot be opened at all.
    """
    from yolo9000.datasets import read_records

    records = read_records(spec, split)
    dataset = TableDataset(records, tree, map_file=map_file)
    report = DataReport(
        spec,
        dataset.kind,
        len(records.store),
        ignored=int(records.ignored.sum()),
        fallbacks=dataset.fallbacks,
        unmatched=dataset.unmatched,
        reasons=dataset.reasons,
        degenerate=list(records.issues),
    )
    _count(dataset, report)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(_problems(dataset), range(len(records.store)))
        for i, (unreadable, outside, resized) in enumerate(found):
            report.unreadable += unreadable
            report.outside += outside
            report.resized += resized
            if progress is not None:
                progress(i + 1, len(records.store))
    return report


def _count(dataset: TableDataset, report: DataReport) -> None:
    counts = np.zeros(len(dataset.tree), dtype=np.int64)
    for i in range(len(dataset)):
        nodes = dataset.nodes(i)
        np.add.at(counts, nodes, 1)
        report.empty += not nodes
    report.boxes = int(counts.sum()) if dataset.kind == "detection" else 0
    order = np.argsort(-counts, kind="stable")
    report.counts = {int(node): int(counts[node]) for node in order if counts[node]}


def _problems(dataset: TableDataset) -> Callable[[int], tuple[list[str], list[str], list[str]]]:
    """From the number of an image to what is wrong with it: unreadable, boxes outside, resized."""
    records = dataset.records

    def problems(image: int) -> tuple[list[str], list[str], list[str]]:
        source = records.store.name(image)
        try:
            height, width = records.decode(image).shape[-2:]
        except DataError as error:
            return [str(error)], [], []
        if records.kind == "classification":
            return [], [], []
        rows = slice(records.offsets[image], records.offsets[image + 1])
        outside, resized = [], []
        if found := records.resized(image, width, height):
            resized.append(
                f"{found}; its boxes are used as pixels of the image as it is: if it was resized, they are "
                "in the wrong places"
            )
        for number, box in enumerate(records.pixel_boxes(image, width, height), start=1):
            if box.min() < -EDGE or box[2] > width + EDGE or box[3] > height + EDGE:
                name = records.labels[records.label_ids[rows][number - 1]].name
                shown = ", ".join(f"{value:g}" for value in box)
                outside.append(
                    f"{source}: box {number} ({name}: {shown}) is outside the image of {width} × {height}"
                )
        return [], outside, resized

    return problems
