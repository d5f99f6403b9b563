"""PASCAL VOC: one XML file an image (also ImageNet DET, whose names are WordNet ids)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from wordtree.textfile import is_file
from yolo9000.datasets.boxfiles import read_text
from yolo9000.datasets.labels import WNID, Label
from yolo9000.datasets.records import Records, RecordsBuilder
from yolo9000.datasets.store import FolderStore
from yolo9000.errors import DataError
from yolo9000.image import PICTURES

_FLAGGED = re.compile(r"(.*\S)\s+(-1|0|1)")  # a line of the list of one class

_Object = tuple[str, tuple[float, float, float, float], bool, str]  # name, corners, difficult, where


class Annotation(NamedTuple):
    """What the XML file of an image says.

    Attributes:
        suffix: File type of the image, `.jpg` where the file names none.
        width: Of the image, as it is written there.
        height: Likewise.
        objects: Name, corners, whether it is difficult, and where it stands in the file.
    """

    suffix: str = ".jpg"
    width: str | None = None
    height: str | None = None
    objects: Sequence[_Object] = ()


def read_voc(root: str | Path, split: str = "train") -> Records:
    """Read the images that `ImageSets/Main/{split}.txt` lists, with `Annotations/*.xml` and `JPEGImages/`.

    Objects marked `difficult` are kept as ignored. VOC's pixels count from 1 and its boxes include their last
    pixel; here a box covers xmin − 1 to xmax. One without area is left out and noted in `issues`. The
    classes are VOC's 20 in their order where these suffice, else the names in all `Annotations`, sorted: the
    same for every split.

    Args:
        root: A folder with these three folders, or one with the years in it (`VOC2007`, `VOC2012`, also below
            `VOCdevkit`): then all years that have the split are read, one after the other.
        split: `train`, `val`, `trainval`, `test` or any other list in `ImageSets/Main`.

    Raises:
        DataError: A file or folder is missing, or a file breaks the format; names file and line or object.
    """
    base = Path(root)
    names: list[str] = []
    annotations: list[Annotation] = []
    for year in _years(base, split):
        for image_id in image_ids(year / "ImageSets" / "Main" / f"{split}.txt"):
            if Path(image_id).is_absolute() or ".." in Path(image_id).parts:
                raise DataError(
                    f"{year}: ImageSets/Main/{split}.txt names {image_id!r}, outside of its folder"
                )
            annotation = read_annotation(year / "Annotations" / f"{image_id}.xml")
            picture = _picture(year / "JPEGImages", image_id, annotation.suffix)
            names.append(str(picture.relative_to(base)))
            annotations.append(annotation)
    labels = _labels(_names(annotations), base)
    position = {label.name: i for i, label in enumerate(labels)}
    builder = RecordsBuilder(base, "detection", rules="voc")
    for annotation in annotations:
        builder.image(annotation.width, annotation.height)
        for name, corners, difficult, where in annotation.objects:
            builder.box(position[name], corners, where, ignored=difficult)
    return builder.build(FolderStore(base, names), labels)


def _picture(folder: Path, image_id: str, suffix: str) -> Path:
    """The image's file, of the type that its XML names, or of another: photos are converted without it."""
    named = folder / f"{image_id}{suffix}"
    if is_file(named):
        return named
    others = (folder / f"{image_id}{other}" for kind in sorted(PICTURES) for other in (kind, kind.upper()))
    return next(filter(is_file, others), named)


def _places(base: Path) -> list[Path]:
    return [base, *sorted(base.glob("VOC[0-9]*")), *sorted(base.glob("VOCdevkit/VOC[0-9]*"))]


def _years(base: Path, split: str) -> list[Path]:
    candidates = _places(base)
    years = [folder for folder in candidates if (folder / "ImageSets" / "Main" / f"{split}.txt").is_file()]
    if years:
        return years
    lists = sorted({path.stem for folder in candidates for path in folder.glob("ImageSets/Main/*.txt")})
    raise DataError(
        f"{base}: expected ImageSets/Main/{split}.txt, here or in VOC2007, VOC2012, VOCdevkit/VOC2012; "
        f"lists found: {', '.join(lists[:20]) or 'none'}. Name one as in voc:DIR:val"
    )


def image_ids(path: Path) -> Iterator[str]:
    """Image ids of a list, one a line; an id may hold spaces.

    The lists of one class have a flag behind every id: 1, 0 (difficult), or −1 for images without it, which
    are left out.
    """
    text = read_text(path, "a list of image ids")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    flagged = [_FLAGGED.fullmatch(line) for line in lines]
    of_one_class = all(flagged)  # not so with ids such as `photo 1`, `photo 2`
    for line, match in zip(lines, flagged, strict=True):
        if not (match and of_one_class):
            yield line
        elif match[2] != "-1":
            yield match[1]


def _names(annotations: Iterable[Annotation]) -> set[str]:
    return {name for annotation in annotations for name, *_ in annotation.objects}


def _labels(names: set[str], base: Path) -> list[Label]:
    """VOC's 20 classes in their order where they suffice for all splits, else the names of all, sorted."""
    from wordtree import class_list

    voc = [Label(entry.name, entry.wnid) for entry in class_list("voc")]
    known = {label.name for label in voc}
    if names != known:  # not VOC itself, whose splits have all 20
        names = names | _names(_all_annotations(base))
    if names <= known:
        return voc
    return [Label(name, name if WNID.fullmatch(name) else "") for name in sorted(names)]


def _all_annotations(base: Path) -> Iterator[Annotation]:
    """Of all splits; files that cannot be read are refused where a list names them."""
    for place in _places(base):
        for path in (place / "Annotations").rglob("*.xml"):
            with contextlib.suppress(DataError):
                yield read_annotation(path)


def read_annotation(path: Path) -> Annotation:
    """Read an XML file, whatever its namespaces."""
    try:
        tree = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        line, _ = error.position
        raise DataError(f"{path}:{line}: no valid XML: {error}; is the file cut off?") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; the image list names it") from error
    except (ValueError, LookupError) as error:  # an encoding that is unknown, a name that no file can have
        raise DataError(f"{path}: no valid XML: {error}") from error
    for element in tree.iter():
        element.tag = element.tag.rpartition("}")[2]
    if tree.tag != "annotation":
        raise DataError(
            f"{path}: expected <annotation> as the root of the XML, got <{tree.tag[:80]}>; "
            "write the file in PASCAL VOC's form"
        )
    suffix = Path((tree.findtext("filename") or "").strip()).suffix
    suffix = suffix if suffix.lower() in PICTURES else ".jpg"
    objects = [_object(element, f"{path}: object {i}") for i, element in enumerate(tree.iter("object"), 1)]
    return Annotation(suffix, tree.findtext("size/width"), tree.findtext("size/height"), objects)


def _object(element: ElementTree.Element, where: str) -> _Object:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise DataError(f"{where}: has no <name>")
    values = [element.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
    xmin, ymin, xmax, ymax = _numbers(values, f"{where} ({name})")
    difficult = (element.findtext("difficult") or "0").strip().lower() in ("1", "true")
    return name, (xmin - 1, ymin - 1, xmax, ymax), difficult, f"{where} ({name})"


def _numbers(values: Sequence[str | None], where: str) -> list[float]:
    try:
        return [float(value or "") for value in values]
    except ValueError as error:
        raise DataError(
            f"{where}: expected <bndbox> with xmin, ymin, xmax, ymax in pixels, got {values}"
        ) from error
