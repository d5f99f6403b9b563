"""Darknet's data sets: a `.data` file that names lists of images, or such a list by itself."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from yolo9000.darknet.cfg import search_folders
from yolo9000.datasets.boxfiles import (
    OWN_FOLDER,
    join,
    read_box_files,
    read_image_list,
    read_text,
    shown,
    swap_folder,
)
from yolo9000.datasets.labels import WNID, Label
from yolo9000.datasets.records import Records, classification_records
from yolo9000.datasets.store import FolderStore
from yolo9000.errors import DataError, FormatError

# What data.c (fill_truth_region) replaces in an image's path, one after the other, each where it is first.
_SUBSTITUTIONS = (("images", "labels"), ("JPEGImages", "labels"), ("raw", "labels"))
ENDINGS = (".data", ".dataset")  # of files of keys; darknet's `cfg/` holds both
_SPLITS = {"val": ("valid", "val"), "valid": ("valid", "val")}  # other names that a split goes by


def read_darknet(root: str | Path, split: str = "train") -> Records:
    """Read images with boxes, as `darknet detector train FILE.data` does.

    Relative paths, also those in the list, count from the folder of the `.data` file, one of the two above it
    (darknet's own is usually `cfg/` or `data/` below the folder that it runs in), or the current folder. An
    image's boxes are in the text file that darknet looks for: `images`, `JPEGImages` or `raw` in its path
    become `labels`, the suffix `.txt`; also beside the image. An image without one has no objects. See
    `boxfiles` for the lines.

    Args:
        root: A file `*.data` or `*.dataset` with `train`, `valid`, `names`, and perhaps `labels` (WordNet ids
            beside the names); or a list of images, whose classes then have no names: give a map file.
        split: `train`, `valid` (or `val`), or another key of the `.data` file; not used for a list.

    Raises:
        FormatError: A file breaks its format; names file and line.
        DataError: A file is not there; says where it was looked for.
    """
    path = Path(root)
    options, bases = _options(path), search_folders(path)
    labels = _labels(options, bases, path) or None
    base, lines = read_image_list(_list_file(options, split, bases, path), bases)
    images = [join(base, line) for line in lines]
    return read_box_files(path, bases[0], images, (_box_places(base, line) for line in lines), labels)


def read_darknet_classifier(root: str | Path, split: str = "train") -> Records:
    """Read images with one class each, as `darknet classifier train FILE.data` does.

    An image's class is the line of the file `labels` that occurs in its path.

    Args:
        root: A file `*.data` or `*.dataset` with `train`, `valid`, `labels`, and perhaps `names`.
        split: As for `read_darknet`.

    Raises:
        FormatError: A file breaks its format; names file and line.
        DataError: A file is not there, or no label occurs in a path.
    """
    path = Path(root)
    options, bases = _options(path), search_folders(path)
    if "labels" not in options:
        raise DataError(
            f"{path}: expected a .data file with `labels`, the texts by which a path tells the class of its "
            "image; for images with boxes say darknet: instead of darknet-classifier:"
        )
    texts = _column(options, "labels", bases, path)
    source = _list_file(options, split, bases, path)
    base, lines = read_image_list(source, bases)
    ids = np.fromiter(_classes(lines, texts, source), np.int32, len(lines))
    store = FolderStore(base, lines)
    return classification_records(path, store, _labels(options, bases, path), ids)


def darknet_names(path: Path) -> list[str]:
    """The class names that a `.data` file gives.

    Raises:
        FormatError: It gives none, or a file breaks its format.
        DataError: Their file is not there; says where it was looked for.
    """
    options = _options(path)
    if not options.get("names"):
        raise FormatError("gives no names.", path=path, remedy="Name their file: names = FILE")
    return _column(options, "names", search_folders(path), path)


def _options(path: Path) -> dict[str, str]:
    """Keys and values of a `.data` file, the first of each key as in darknet; none for a list of images."""
    options: dict[str, str] = {}
    if path.suffix not in ENDINGS:
        return options
    for number, line in enumerate(read_text(path, "a .data file").splitlines(), start=1):
        if not line.strip() or line.lstrip()[0] in "#;":
            continue
        key, equals, value = line.partition("=")
        if not equals or not key.strip():
            raise FormatError(
                f"expected `key = value`, got {line[:80]!r}.",
                path=path,
                line=number,
                remedy="A list of images must not be called *.data.",
            )
        options.setdefault(key.strip(), value.strip())
    return options


def _file(options: Mapping[str, str], key: str, bases: Sequence[Path], path: Path) -> Path:
    written = options[key]
    tried = [base / form for form in (written, written.removeprefix(OWN_FOLDER)) for base in bases]
    for place in tried:
        if os.path.isfile(place):  # noqa: PTH113  (also false for what can be no path)
            return place
    raise DataError(f"{path}: {key} = {written}: no such file; looked for {shown(tried)}")


def _list_file(options: Mapping[str, str], split: str, bases: Sequence[Path], path: Path) -> Path:
    if path.suffix not in ENDINGS:
        return path
    for key in _SPLITS.get(split, (split,)):
        if options.get(key):
            return _file(options, key, bases, path)
    raise DataError(f"{path}: has no {split!r}; its keys: {', '.join(options) or 'none'}")


def _column(options: Mapping[str, str], key: str, bases: Sequence[Path], path: Path) -> list[str]:
    """Lines of the file that a key names, as many as there are `classes`."""
    source = _file(options, key, bases, path)
    lines = [line.strip() for line in read_text(source, "a list of classes").splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    count = options.get("classes", str(len(lines)))
    if not count.isdecimal() or not 0 < int(count) <= len(lines):
        raise FormatError(
            f"classes = {count}, but {source} has {len(lines)} lines.",
            path=path,
            remedy="Correct one of them.",
        )
    return lines[: int(count)]


def _labels(options: Mapping[str, str], bases: Sequence[Path], path: Path) -> list[Label]:
    """The classes: names, and WordNet ids where `labels` gives them; empty where there is neither."""
    columns = [_column(options, key, bases, path) for key in ("names", "labels") if options.get(key)]
    names, ids = (columns[0], columns[-1]) if columns else ([], [])
    if len(names) != len(ids):
        raise FormatError(f"names has {len(names)} lines, labels {len(ids)}.", path=path)
    return [Label(name, text if WNID.fullmatch(text) else "") for name, text in zip(names, ids, strict=True)]


def _box_places(base: Path, written: str) -> list[str]:
    """Where the boxes of an image may be, darknet's own place first."""
    stem = os.path.splitext(written)[0]  # noqa: PTH122
    beside = join(base, stem + ".txt")
    for old, new in _SUBSTITUTIONS:
        stem = stem.replace(old, new, 1)
    return list(dict.fromkeys([join(base, stem + ".txt"), swap_folder(join(base, written)), beside]))


def _classes(paths: Sequence[str], texts: Sequence[str], source: Path) -> Iterator[int]:
    """Class of each path: the text that it holds, the last one in it where it holds several."""
    position = {text: i for i, text in enumerate(texts)}
    for number, path in enumerate(paths, start=1):
        parts = re.split(r"[/._-]", path)
        found = next((position[part] for part in reversed(parts) if part in position), None)
        if found is None:  # a text with such signs in it, or within a word
            within = [(path.rfind(text), len(text), i) for i, text in enumerate(texts) if text]
            place, _, found = max(within, default=(-1, 0, None))
            found = None if place < 0 else found
        if found is None:
            raise FormatError(
                f"no label occurs in the path {path!r}.",
                path=source,
                line=number,
                remedy="Do the file `labels` and this list belong together?",
            )
        yield found
