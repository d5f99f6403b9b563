"""COCO instances JSON (also LVIS and anybody's own in that form)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wordtree.textfile import is_file
from yolo9000.datasets.boxfiles import PROBE, shown
from yolo9000.datasets.folders import SPLITS
from yolo9000.datasets.labels import Label
from yolo9000.datasets.records import Records, RecordsBuilder
from yolo9000.datasets.store import FolderStore
from yolo9000.errors import DataError

_LARGEST = 2**53  # whole numbers beyond this are no pixels, and no floats either
# 0.0 and 1.0: tables that know no whole numbers beside missing ones, such as those of pandas
_FLAGS = dict.fromkeys(("0", "0.0", "false", "none", ""), False) | dict.fromkeys(("1", "1.0", "true"), True)
YEARS = ("", "2017", "2014")  # suffixes of COCO's folders and files, `train2017`


def read_coco(root: str | Path, split: str = "train") -> Records:
    """Read `annotations/instances_{split}.json` and the folder `{split}/` beside `annotations/`.

    The real COCO's names with a year (`instances_train2017.json`, `train2017/`) are found for the plain
    split name too, and `{split}/_annotations.coco.json` among its images, as Roboflow writes it. Crowd
    regions (`iscrowd`) are kept and marked as ignored. Boxes, COCO's [x, y, width, height], become corners;
    one without area is left out and noted in `issues`. Segmentations are not read.

    Args:
        root: The data set's folder, or the JSON file itself, whose images are looked for beside it and
            above.
        split: `train`, `val`, or a full name such as `train2017`.

    Raises:
        DataError: A file or folder is missing, or an entry breaks the format; names the file and the entry.
    """
    path, folders = _find(Path(root), split)
    content = _load(path)
    categories = _entries(content, "categories", ("id", "name"), path)
    pictures = _entries(content, "images", ("id", "file_name"), path)
    position = {category["id"]: i for i, category in enumerate(categories)}
    if len(position) != len(categories):
        i, twice = next((i, c) for i, c in enumerate(categories) if position[c["id"]] != i)
        other = categories[position[twice["id"]]]
        raise DataError(
            f"{path}: categories[{i}]: {twice['name']!r} and {other['name']!r} share the id {twice['id']}; "
            "give each its own"
        )
    by_image: dict[Any, list[Mapping[str, Any]]] = {picture["id"]: [] for picture in pictures}
    if len(by_image) != len(pictures):
        ((twice, times),) = Counter(picture["id"] for picture in pictures).most_common(1)
        raise DataError(f"{path}: images: {times} of them share the id {twice!r}; give each its own")
    for annotation in _entries(content, "annotations", ("id", "image_id", "category_id", "bbox"), path):
        if annotation["image_id"] not in by_image:
            raise DataError(
                f"{path}: annotation {annotation['id']}: no image has the id {annotation['image_id']!r}"
            )
        by_image[annotation["image_id"]].append(annotation)
    builder = RecordsBuilder(path, "detection", rules="coco")
    for picture in pictures:
        builder.image(picture.get("width"), picture.get("height"))
        for annotation in by_image[picture["id"]]:
            _add(builder, annotation, position, path)
    labels = [Label(str(c["name"]), str(c.get("wnid") or "")) for c in categories]
    names = [str(picture["file_name"]).replace("\\", "/") for picture in pictures]
    return builder.build(FolderStore(_images(path, folders, names), names), labels)


def _add(
    builder: RecordsBuilder, annotation: Mapping[str, Any], position: Mapping[Any, int], path: Path
) -> None:
    where = f"{path}: annotation {annotation['id']}"
    box = annotation["bbox"]
    if not (isinstance(box, Sequence) and len(box) == 4 and all(map(_is_number, box))):
        raise DataError(f"{where}: bbox: expected [x, y, width, height] in pixels, got {box!r}")
    if annotation["category_id"] not in position:
        raise DataError(f"{where}: category_id {annotation['category_id']!r} is not among the categories")
    x, y, width, height = box
    corners = (x, y, x + width, y + height)
    crowd = str(annotation.get("iscrowd", 0)).lower()
    if crowd not in _FLAGS:
        raise DataError(f"{where}: iscrowd: expected 0 or 1, got {annotation['iscrowd']!r}")
    builder.box(position[annotation["category_id"]], corners, where, ignored=_FLAGS[crowd])


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < _LARGEST)


def _find(root: Path, split: str) -> tuple[Path, list[Path]]:
    """The JSON file, and the folders that its images may be in."""
    if root.is_file():
        beside, above = root.parent, root.parent.parent
        named = above / root.stem.removeprefix("instances_")
        return root, [named, beside / "images", beside, beside / "data", above / "images", above]
    for name in (split + year for year in YEARS):
        path = root / "annotations" / f"instances_{name}.json"
        if path.is_file():
            return path, [root / name, root / "images" / name, root / "images", root, path.parent]
    for name in SPLITS.get(split, (split,)):
        path = root / name / "_annotations.coco.json"
        if path.is_file():
            return path, [root / name]
    found = ", ".join(sorted(p.name for p in (root / "annotations").glob("*.json"))) or "none"
    raise DataError(
        f"{root}: expected annotations/instances_{split}.json (or with 2017, 2014) or "
        f"{split}/_annotations.coco.json; found in annotations: {found}. Name the split as in coco:DIR:val"
    )


def _images(path: Path, folders: Sequence[Path], names: Sequence[str]) -> Path:
    """The first folder below which the images are as they are named: some writers name `images/a.jpg`."""
    for folder in folders:
        if not names or any(is_file(folder / name) for name in names[:PROBE]):
            return folder
    raise DataError(
        f"{path}: no image {names[0]!r}, nor any of the next, in {shown(folders)}; move the images, or the "
        "JSON file, there"
    )


def _load(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: no valid JSON: {error.msg}; is the file cut off?") from error
    except (OSError, ValueError, RecursionError) as error:  # no UTF-8, endless numbers, nested too deep
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(
            f"{path}: expected an object with images, annotations and categories, got {type(content)}"
        )
    return content


def _entries(
    content: Mapping[str, Any], key: str, required: Sequence[str], path: Path
) -> list[Mapping[str, Any]]:
    entries = content.get(key)
    if not isinstance(entries, list):
        raise DataError(
            f"{path}: expected a list {key!r}; is this a COCO instances file? Found: {sorted(content)}"
        )
    return list(_checked(entries, key, required, path))


def _checked(
    entries: list[Any], key: str, required: Sequence[str], path: Path
) -> Iterator[Mapping[str, Any]]:
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(f"{path}: {key}[{i}]: expected an object, got {entry!r}")
        if "file_name" in required and "file_name" not in entry and isinstance(entry.get("coco_url"), str):
            entry["file_name"] = "/".join(entry["coco_url"].split("/")[-2:])  # LVIS: train2017/9.jpg
        for name in required:
            if name not in entry:
                raise DataError(f"{path}: {key}[{i}] (id {entry.get('id', 'missing')}): has no {name!r}")
            if name != "bbox" and not isinstance(entry[name], str | int | float):
                raise DataError(
                    f"{path}: {key}[{i}]: {name}: expected a number or text, got {str(entry[name])[:80]}"
                )
        yield entry
