"""Detection and classification data: readers, packing, transforms and the joint sampler."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from yolo9000.datasets.bank import ImageBank, Plan, collate_plans
from yolo9000.datasets.batch import Batch, Key, collate
from yolo9000.datasets.cache import CachedDataset, ConcatDataset
from yolo9000.datasets.check import DataReport, data_check
from yolo9000.datasets.coco import read_coco
from yolo9000.datasets.darknet import read_darknet, read_darknet_classifier
from yolo9000.datasets.imagenet import read_imagenet, read_tiny_imagenet
from yolo9000.datasets.imagenet_det import read_imagenet_det
from yolo9000.datasets.imagenet_tar import read_imagenet_tar
from yolo9000.datasets.joint import JointDataset, JointSampler, balance_weights, repeat_weights
from yolo9000.datasets.pack import pack, read_pack
from yolo9000.datasets.records import OnError, Records, TableDataset
from yolo9000.datasets.sample import Kind, Sample, SampleDataset
from yolo9000.datasets.transforms import EvalTransform, Example, TrainTransform
from yolo9000.datasets.voc import read_voc
from yolo9000.datasets.yolo import read_yolo
from yolo9000.errors import DataError

if TYPE_CHECKING:
    from wordtree.tree import WordTree

_READERS = {
    "coco": read_coco,
    "voc": read_voc,
    "yolo": read_yolo,
    "darknet": read_darknet,
    "darknet-classifier": read_darknet_classifier,
    "imagenet": read_imagenet,
    "imagenet-tar": read_imagenet_tar,
    "imagenet-det": read_imagenet_det,
    "tiny-imagenet": read_tiny_imagenet,
    "tiny-imagenet-boxes": lambda root, split: read_tiny_imagenet(root, split, boxes=True),
    "pack": read_pack,
}


def open_dataset(
    spec: str,
    tree: WordTree,
    split: str = "train",
    *,
    map_file: str | Path | None = None,
    cache: int = 0,
    on_error: OnError = "raise",
) -> SampleDataset:
    """Open a data set by its description.

    Args:
        spec: `FORMAT:PATH` or `FORMAT:PATH:SPLIT`. Formats with boxes: coco, voc, yolo, darknet,
            imagenet-det, tiny-imagenet-boxes; with one label an image: imagenet, imagenet-tar, tiny-imagenet,
            darknet-classifier; with either: pack.
        tree: The tree of the labels.
        split: The split where the description names none.
        map_file: Darknet map file of the boxes' classes (line i: the node of class i) instead of matching
            them by id and name; labels of whole images are always matched.
        cache: Longest side in pixels of decoded images kept in memory; 0: read from disk every time.
        on_error: What an unreadable image does: `raise` an error, or `skip` to the next with a warning.

    Returns:
        The data set; `unmatched` lists the labels that the tree lacks. A warning says where images are not of
        the size that their annotations state.

    Raises:
        DataError: Unknown format, missing files, or not one label in the tree.
    """
    records = read_records(spec, split)
    dataset: SampleDataset = TableDataset(records, tree, map_file=map_file, on_error=on_error)
    records.warn_of_resized()
    return CachedDataset(dataset, cache) if cache else dataset


def open_datasets(
    specs: Sequence[str],
    tree: WordTree,
    split: str = "train",
    *,
    map_file: str | Path | None = None,
    cache: int = 0,
    on_error: OnError = "raise",
    kind: Kind | None = None,
) -> SampleDataset | None:
    """Open several data sets of one kind as one; None where there are none.

    Args:
        specs: Their descriptions.
        tree: This and what follows: see `open_dataset`.
        split: Likewise.
        map_file: Likewise.
        cache: Likewise.
        on_error: Likewise.
        kind: The kind that all must be of; None: that of the first.

    Raises:
        DataError: As `open_dataset`; or one is of another kind.
    """
    parts: list[SampleDataset] = []
    for spec in specs:
        part = open_dataset(spec, tree, split, map_file=map_file, cache=cache, on_error=on_error)
        kind = kind or part.kind
        if part.kind != kind:
            raise DataError(f"{spec}: expected {kind} data, got a {part.kind} data set")
        parts.append(part)
    return (parts[0] if len(parts) == 1 else ConcatDataset(parts)) if parts else None


def is_spec(text: str) -> bool:
    """Whether a text has the form of a data set's description, `FORMAT:PATH`."""
    name, _, place = text.partition(":")
    return name in _READERS and bool(place)


def read_records(spec: str, split: str = "train") -> Records:
    """What a data set holds, before its labels are looked for in a tree. Arguments as for `open_dataset`."""
    if not isinstance(spec, str) or not is_spec(spec):
        raise DataError(
            f"{spec!r}: expected FORMAT:PATH or FORMAT:PATH:SPLIT with FORMAT one of {', '.join(_READERS)}; "
            "such as coco:data/coco:val"
        )
    name, _, place = spec.partition(":")
    path, colon, tail = place.rpartition(":")
    drive = re.search(r"[/\\]", tail)  # the colon is that of C:\photos
    if colon and not drive and not Path(place).exists():
        return _READERS[name](path, tail or split)
    return _READERS[name](place, split)


__all__ = [
    "Batch",
    "CachedDataset",
    "ConcatDataset",
    "DataReport",
    "EvalTransform",
    "Example",
    "ImageBank",
    "JointDataset",
    "JointSampler",
    "Key",
    "Kind",
    "Plan",
    "Records",
    "Sample",
    "SampleDataset",
    "TableDataset",
    "TrainTransform",
    "balance_weights",
    "collate",
    "collate_plans",
    "data_check",
    "is_spec",
    "open_dataset",
    "open_datasets",
    "pack",
    "read_records",
    "repeat_weights",
]
