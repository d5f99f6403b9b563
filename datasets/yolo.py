"""YOLO's own layout: `data.yaml`, `images/`, and one text file of boxes an image in `labels/`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from wordtree._yaml import UniqueKeyTextLoader
from yolo9000.datasets.boxfiles import (
    absolute,
    join,
    read_box_files,
    read_image_list,
    read_text,
    shown,
    swap_folder,
)
from yolo9000.datasets.folders import SPLITS, visible_files, walk
from yolo9000.datasets.labels import Label
from yolo9000.datasets.records import Records
from yolo9000.errors import DataError, FormatError
from yolo9000.image import is_picture, is_unread, unread_note


def read_yolo(root: str | Path, split: str = "train") -> Records:
    """Read a split that a `data.yaml` describes (YOLOv5 and its successors, and exports in their form).

    `path` is the data set's folder, relative to the YAML file's folder or to the current one; without it, or
    where it is not there, the file's own folder is taken. `train`, `val`, `test` are each a folder (with all
    folders in it, also linked ones, but no hidden ones), a text file of image paths, or a list of these. An
    image's boxes are in the text file of its name below `labels` instead of `images`, or beside it; an image
    without one has no objects. `names` are the classes, as a list or by number. See `boxfiles` for the lines.

    Args:
        root: The YAML file, or the folder of `data.yaml`.
        split: `train`, `val` or `test`.

    Raises:
        FormatError: The YAML file or a line of boxes breaks its format; names file and line.
        DataError: Something that the YAML file names is not there; says where it was looked for.
    """
    path = _yaml_file(Path(root))
    content = _load(path)
    labels = _labels(content, path)
    folders = _folders(content.get("path"), path)
    images: list[str] = []
    notes: list[str] = []
    for entry in _entries(content, split, path):
        images += _images(entry, folders, path, notes)
    places = ((swap_folder(image), os.path.splitext(image)[0] + ".txt") for image in images)  # noqa: PTH122
    return read_box_files(
        path, folders[0], images, places, labels, notes, keypoints=_keypoints(content, path)
    )


def _yaml_file(root: Path) -> Path:
    if not root.is_dir():
        return root
    if (root / "data.yaml").is_file():
        return root / "data.yaml"
    found = [root / name for name in visible_files(root, ".yaml", ".yml")]
    if len(found) == 1:
        return found[0]
    names = ", ".join(path.name for path in found) or "none"
    raise DataError(f"{root}: expected data.yaml or one YAML file, found {names}; name it, as yolo:FILE.yaml")


def _load(path: Path) -> Mapping[str, Any]:
    """The file with every scalar as text: a class may be called `no`, `null` or `1.0`."""
    try:
        content = yaml.load(read_text(path, "a data.yaml"), Loader=UniqueKeyTextLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise FormatError(f"no valid YAML: {error.problem}.", path=path, line=line) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FormatError(f"no valid YAML: {error}.", path=path) from error
    if not isinstance(content, dict):
        raise FormatError(
            "expected a mapping with train, val and names.", path=path, remedy="Is this a data.yaml?"
        )
    return content


def yolo_names(path: Path) -> list[str]:
    """The class names that a `data.yaml` gives.

    Raises:
        FormatError: It gives none, or the file breaks its format.
    """
    labels = _labels(_load(path), path)
    if labels is None:
        raise FormatError("gives no names.", path=path, remedy="List them below `names:`, in order.")
    return [label.name for label in labels]


def _labels(content: Mapping[str, Any], path: Path) -> list[Label] | None:
    """The classes in their order; None where the file gives no names."""
    names, count = content.get("names"), content.get("nc")
    if not names:
        return None
    if isinstance(names, dict):
        wanted = [str(i) for i in range(len(names))]
        if sorted(names) != sorted(wanted):
            wrong = sorted(set(names).symmetric_difference(wanted))
            raise FormatError(
                f"names: expected numbers 0 to {len(names) - 1}, missing or too many: "
                f"{', '.join(wrong)[:80]}.",
                path=path,
            )
        names = [names[i] for i in wanted]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FormatError("names: expected a list of names, or names by number.", path=path)
    if count not in (None, "", str(len(names))):
        raise FormatError(
            f"nc is {count}, but there are {len(names)} names.", path=path, remedy="Correct one of them."
        )
    return [Label(name) for name in names]


def _keypoints(content: Mapping[str, Any], path: Path) -> int:
    """Columns after a box in pose data: `kpt_shape: [points, values of each]`."""
    shape = content.get("kpt_shape")
    if not shape:
        return 0
    if not (isinstance(shape, list) and len(shape) == 2 and all(str(n).isdecimal() for n in shape)):
        raise FormatError(f"kpt_shape: expected two whole numbers, got {str(shape)[:80]}.", path=path)
    return int(shape[0]) * int(shape[1])


def _folders(named: object, path: Path) -> list[Path]:
    """Folders from which the splits may count, best first."""
    own = absolute(path.parent)
    if not named or not isinstance(named, str):
        return [own, Path.cwd()]
    candidates = [absolute(own / named), absolute(Path.cwd() / named)]
    return [*(folder for folder in candidates if os.path.isdir(folder)), own]  # noqa: PTH112


def _entries(content: Mapping[str, Any], split: str, path: Path) -> list[str]:
    for name in SPLITS.get(split, (split,)):
        entry = content.get(name)
        entries: list[Any] = entry if isinstance(entry, list) else [entry]
        if entry and all(isinstance(one, str) for one in entries):
            return entries
        if entry:
            raise FormatError(f"{name}: expected a path or a list of paths.", path=path)
    known = ", ".join(key for key in ("train", "val", "valid", "test", "minival") if content.get(key))
    raise DataError(
        f"{path}: has no {split!r}; there are: {known or 'none'}. Name one of them, as yolo:{path.name}:val"
    )


def _images(entry: str, folders: list[Path], path: Path, notes: list[str]) -> list[str]:
    """Paths of an entry's images; of those that are not read a note is added."""
    place = _place(entry, folders, path)
    if place.is_file():
        base, lines = read_image_list(place, [place.parent, *folders, Path.cwd()])
        return [join(base, line) for line in lines]
    found, unread = [], []
    for folder, names in walk(place):
        found += [os.path.join(folder, name) for name in names if is_picture(name)]  # noqa: PTH118
        unread += [os.path.join(folder, name) for name in names if is_unread(name)]  # noqa: PTH118
    if unread:
        notes.append(unread_note(path, unread))
    if not found:
        what = notes[-1] if unread else "there are no images in this folder"
        raise DataError(f"{path}: {entry!r} is {place}: {what}")
    return sorted(found)


def _place(entry: str, folders: list[Path], path: Path) -> Path:
    """Where a split is. Exports often write `../train/images` for what is beside the YAML file."""
    tried = [folder / form for folder in folders for form in (entry, entry.removeprefix("../"))]
    for place in tried:
        if os.path.exists(place):  # noqa: PTH110  (also false for what can be no path)
            return absolute(place)
    raise DataError(
        f"{path}: {entry!r} is not there; looked for {shown(tried)}. Correct it, or `path`, in the file"
    )
