"""ImageNet: one folder a synset, and Tiny ImageNet, unpacked or as a tar file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np

from yolo9000.datasets.folders import SPLITS, check_link, is_visible, walk
from yolo9000.datasets.labels import Label
from yolo9000.datasets.records import Records, RecordsBuilder, classification_records
from yolo9000.datasets.store import FolderStore, RangeStore, Store
from yolo9000.datasets.tars import end_note, lacks_end, tar_members
from yolo9000.errors import DataError
from yolo9000.image import is_picture, is_unread, unread_note


def read_imagenet(root: str | Path, split: str = "train") -> Records:
    """Read `{split}/nXXXXXXXX/*.JPEG`: every folder is a class, every image in it an example.

    Folder names are WordNet ids, or names of the tree's nodes for one's own data. Files of other types are
    passed over, pictures of kinds that are not read noted in `issues`. Order: by folder, then by file name.

    Args:
        root: Folder that holds the split's folder; a folder that directly holds the class folders does too.
        split: `train`, `val` (or `valid`).

    Raises:
        DataError: No such folder, or no images in it.
    """
    base = _split_folder(Path(root), split)
    folders = _subfolders(base)
    names: list[str] = []
    unread: list[str] = []
    empty: list[str] = []
    label_ids: list[int] = []
    for i, folder in enumerate(folders):
        found = sorted(entry.name for entry in os.scandir(base / folder))
        files = list(filter(is_picture, found))
        others = [f"{folder}/{name}" for name in found if is_unread(name)]
        unread += others
        empty += [] if files or others else [folder]
        names += [f"{folder}/{name}" for name in files]
        label_ids += [i] * len(files)
    notes = [unread_note(base, unread)] if unread else []
    if not names:
        raise DataError(
            f"{base}: expected folders nXXXXXXXX (WordNet ids) with images (*.JPEG) in them"
            + (f", or such folders in {split}/; " if base == Path(root) else "; ")
            + (notes[0] if notes else f"found {len(folders)} folders and no image")
        )
    if empty:
        notes.append(
            f"{base}: {len(empty):,} of its {len(folders):,} folders hold no images themselves, such as "
            f"{empty[0]}: left out; a class's images must lie right in its folder"
        )
    labels = [Label(folder) for folder in folders]
    return classification_records(
        base, FolderStore(base, names), labels, np.asarray(label_ids, dtype=np.int32), notes
    )


def _split_folder(root: Path, split: str) -> Path:
    """The folder of the class folders: the split's, or `root`, where a class may be called `train`."""
    named = (root / name for name in SPLITS.get(split, (split,)))
    return next((folder for folder in named if folder.is_dir() and _subfolders(folder)), root)


def _subfolders(base: Path) -> list[str]:
    try:
        entries = [entry for entry in os.scandir(base) if is_visible(entry.name)]
        folders = [entry.name for entry in entries if entry.is_dir()]
    except OSError as error:
        raise DataError(f"{base}: {error.strerror}; expected a folder of class folders") from error
    for entry in entries:
        check_link(entry.path)
    return sorted(folders)


class _Files:
    """Files of an unpacked folder or of a tar file, by path below `train/`'s parent."""

    def __init__(self, root: Path) -> None:
        self.root = root
        members = tar_members(root) if root.is_file() else []
        unended = root.is_file() and lacks_end(members, root)
        self.notes = [end_note(root.parent, [root.name])] if unended else []
        self._ranges = {str(PurePosixPath(name)): (start, size) for name, start, size in members}
        paths: Iterable[str] = self._ranges
        if not root.is_file():
            if not root.is_dir():
                raise DataError(f"{root}: no such folder or tar file; expected Tiny ImageNet")
            paths = (os.path.relpath(os.path.join(d, f), root) for d, fs in walk(root) for f in fs)  # noqa: PTH118
        self.paths = sorted(str(path) for path in map(PurePosixPath, paths) if is_visible(path.name))

    def store(self, paths: list[str]) -> Store:
        if not self._ranges:
            return FolderStore(self.root, paths)
        places = [self._ranges[path] for path in paths]
        return RangeStore(self.root, paths, [start for start, _ in places], [size for _, size in places])

    def text(self, path: str) -> str:
        try:
            return self.store([path]).read(0).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{self.root}:{path}: expected UTF-8 text: {error}") from error


def read_tiny_imagenet(root: str | Path, split: str = "train", *, boxes: bool = False) -> Records:
    """Read Tiny ImageNet: `train/nXXXXXXXX/images/*.JPEG` and `val/images/*.JPEG` with `val_annotations.txt`.

    Args:
        root: The unpacked folder (or the one above it), or an uncompressed tar file of it.
        split: `train`, `val` (or `valid`).
        boxes: Give the object's box from `nXXXXXXXX_boxes.txt` (one an image; x0, y0, x1, y1 inclusive
            pixels), as detection data, without the images that have none there; otherwise the images are
            classification data.

    Raises:
        DataError: The layout is another one, or a line of a box file breaks the format; names file and line.
    """
    if split not in ("train", *SPLITS["val"]):
        raise DataError(
            f"{root}: the splits of Tiny ImageNet that have labels are train and val, got {split!r}"
        )
    files = _Files(Path(root))
    found = sorted(_train_images(files) if split == "train" else _val_images(files))
    if not found:
        raise DataError(
            f"{root}: expected Tiny ImageNet's {split}/nXXXXXXXX/images/*.JPEG"
            f"{'' if split == 'train' else ' or val/val_annotations.txt'}; "
            f"found {len(files.paths)} other files"
        )
    table = _boxes(files, split) if boxes else {}
    notes = files.notes
    if boxes and (bare := [path for path, _ in found if PurePosixPath(path).name not in table]):
        note = f"{len(bare):,} of its {len(found):,} images have no row in a file of boxes, such as {bare[0]}"
        if len(bare) == len(found):
            raise DataError(f"{root}: {note}; tiny-imagenet: reads their labels alone")
        notes.append(f"{root}: {note}: left out")
        found = [(path, wnid) for path, wnid in found if PurePosixPath(path).name in table]
    wnids = sorted({wnid for _, wnid in found})
    position = {wnid: i for i, wnid in enumerate(wnids)}
    store = files.store([path for path, _ in found])
    labels = [Label(wnid, wnid) for wnid in wnids]
    ids = np.asarray([position[wnid] for _, wnid in found], dtype=np.int32)
    if not boxes:
        return classification_records(Path(root), store, labels, ids, notes)
    builder = RecordsBuilder(Path(root), "detection", rules="voc", issues=notes)
    for (path, _), label in zip(found, ids, strict=True):
        builder.image()
        for box, where in table[PurePosixPath(path).name]:
            builder.box(int(label), box, where)
    return builder.build(store, labels)


def _train_images(files: _Files) -> Iterable[tuple[str, str]]:
    for path in files.paths:
        parts = PurePosixPath(path).parts
        if len(parts) >= 4 and parts[-4] == "train" and parts[-2] == "images" and is_picture(parts[-1]):
            yield path, parts[-3]


def _val_images(files: _Files) -> Iterable[tuple[str, str]]:
    images = {
        PurePosixPath(p).name: p for p in files.paths if PurePosixPath(p).parts[-3:-1] == ("val", "images")
    }
    for name, columns, where in _rows(files, "val_annotations.txt", 6):
        if name not in images:
            raise DataError(f"{where}: image {name} is not in val/images")
        yield images[name], columns[0]


def _boxes(files: _Files, split: str) -> dict[str, list[tuple[tuple[float, ...], str]]]:
    suffix = "_boxes.txt" if split == "train" else "val_annotations.txt"
    table: dict[str, list[tuple[tuple[float, ...], str]]] = {}
    for name, columns, where in _rows(files, suffix, 5 if split == "train" else 6):
        try:
            x0, y0, x1, y1 = (float(column) for column in columns[-4:])
        except ValueError as error:
            raise DataError(f"{where}: expected x0, y0, x1, y1 as numbers, got {columns[-4:]}") from error
        # The last pixel belongs to the object: its right edge is one further.
        table.setdefault(name, []).append(((x0, y0, x1 + 1, y1 + 1), where))
    return table


def _rows(files: _Files, suffix: str, columns: int) -> Iterable[tuple[str, list[str], str]]:
    """Image name, the other columns, and file:line, of every row of the files whose name ends in `suffix`."""
    for path in files.paths:
        if not path.endswith(suffix):
            continue
        for number, line in enumerate(files.text(path).splitlines(), start=1):
            parts = line.split("\t") if "\t" in line else line.split()
            where = f"{files.root}:{path}:{number}"
            if len(parts) != columns:
                raise DataError(
                    f"{where}: expected {columns} columns separated by tabs, got {len(parts)}: {line!r}"
                )
            yield parts[0], parts[1:], where
