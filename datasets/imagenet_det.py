"""ImageNet's detection challenge (DET): VOC's XML in other folders; names are WordNet ids, 200 classes."""

from __future__ import annotations

import os
from pathlib import Path

from yolo9000.datasets.folders import has_suffix, walk
from yolo9000.datasets.labels import Label
from yolo9000.datasets.records import Records, RecordsBuilder
from yolo9000.datasets.store import FolderStore
from yolo9000.datasets.voc import Annotation, image_ids, read_annotation
from yolo9000.errors import DataError


def read_imagenet_det(root: str | Path, split: str = "val") -> Records:
    """Read `ILSVRC/Annotations/DET/{split}/**/*.xml` and the images beside them in `ILSVRC/Data/DET/{split}`.

    `ILSVRC/ImageSets/DET/{split}.txt`, where it exists, says which images and in which order; those of them
    that have no XML file hold no object. Without it all XML files are read, sorted by path. The classes are
    the challenge's 200 in the order of darknet's `inet9k.map` (the built-in list `imagenet-det`); an object
    of another name becomes a class behind them. DET's pixels count from 0 and its boxes include their last
    pixel: a box covers xmin to xmax + 1.

    Args:
        root: The folder with `ILSVRC` (or `ILSVRC2015`, ...) in it, or that folder itself.
        split: `val` or `train`.

    Raises:
        DataError: A folder or file is missing, or a file breaks the format; names file and object.
    """
    base = _base(Path(root), split)
    annotations = base / "Annotations" / "DET" / split
    names, found = [], []
    for image_id, path in _annotations(base, annotations, split):
        names.append(f"Data/DET/{split}/{image_id}.JPEG")
        found.append(read_annotation(path) if path.exists() else Annotation())
    labels = _labels({name for annotation in found for name, *_ in annotation.objects})
    position = {label.name: i for i, label in enumerate(labels)}
    builder = RecordsBuilder(base, "detection", rules="imagenet-det")
    for annotation in found:
        builder.image(annotation.width, annotation.height)
        for name, (x0, y0, x1, y1), difficult, where in annotation.objects:
            # read_annotation counts from 1, as VOC does
            builder.box(position[name], (x0 + 1, y0 + 1, x1 + 1, y1 + 1), where, ignored=difficult)
    return builder.build(FolderStore(base, names), labels)


def _base(root: Path, split: str) -> Path:
    for folder in (root, *sorted(root.glob("ILSVRC*"))):
        if (folder / "Annotations" / "DET" / split).is_dir():
            return folder
    raise DataError(
        f"{root}: expected ILSVRC/Annotations/DET/{split} with *.xml and ILSVRC/Data/DET/{split} with *.JPEG,"
        " as ImageNet's DET archive unpacks; name the folder with ILSVRC in it, and the split: "
        "imagenet-det:DIR:val"
    )


def _annotations(base: Path, annotations: Path, split: str) -> list[tuple[str, Path]]:
    """Image ids relative to the split's folder, and where the XML file of each is or would be."""
    listed = base / "ImageSets" / "DET" / f"{split}.txt"
    files: dict[str, Path] = {}
    if listed.is_file():
        # a second column, where there is one, numbers the images
        ids = [line.split()[0].removeprefix(f"{split}/") for line in image_ids(listed)]
    else:
        paths = (Path(d, name) for d, names in walk(annotations) for name in names)
        found = [path for path in paths if has_suffix(path.name, ".xml")]
        files = {os.fspath(path.relative_to(annotations).with_suffix("")): path for path in found}
        ids = sorted(files)
    if not ids:
        raise DataError(f"{listed if listed.is_file() else annotations}: names no image")
    for image_id in ids:
        if Path(image_id).is_absolute() or ".." in Path(image_id).parts:
            raise DataError(f"{listed}: names {image_id!r}, outside of its folder")
    return [(image_id, files.get(image_id, annotations / f"{image_id}.xml")) for image_id in ids]


def _labels(names: set[str]) -> list[Label]:
    from wordtree import class_list

    known = [entry.wnid for entry in class_list("imagenet-det")]
    return [Label(wnid) for wnid in [*known, *sorted(names - set(known))]]
