"""What YOLO's and darknet's data sets share: lists of image paths, and one text file of boxes an image.

A line of a box file is `class x y width height`: the class counts from 0, the box's centre and sides are
shares of the image's width and height. Segments, `class x1 y1 x2 y2 x3 y3 ...`, become the box around them.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from yolo9000.datasets.labels import Label
from yolo9000.datasets.records import Records, RecordsBuilder
from yolo9000.datasets.store import FolderStore
from yolo9000.errors import DataError, FormatError

PROBE = 20  # images of a list that are looked for, to learn from where its relative paths count
OWN_FOLDER = "data/"  # what CVAT calls the folder of the files that it exports, wherever they lie in the end
_FARTHEST = 2.0  # a share beyond this is no box drawn over the edge, but a number of pixels
_CLASSES = 100_000  # more classes than that (WordNet has 82,115 nouns) are no class numbers

_Box = tuple[float, float, float, float]


def read_text(path: str | Path, what: str) -> str:
    """A text file, with or without byte order mark.

    Args:
        path: The file.
        what: What it should be, for the message.

    Raises:
        DataError: It cannot be read, or is in an encoding of more than a byte a character, such as UTF-16.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig", errors="surrogateescape")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as {what}: {error}") from error
    if "\0" in text:
        raise DataError(f"{path}: expected {what}, got bytes that are no UTF-8 text; save it as UTF-8")
    return text


def read_image_list(path: Path, bases: Sequence[Path]) -> tuple[Path, list[str]]:
    """Read a list of image paths, one a line.

    Args:
        path: The list.
        bases: Absolute folders from which relative paths may count; the first one below which images are is
            taken.

    Returns:
        That folder, and the paths as they are written, or without `OWN_FOLDER`; see `join`.

    Raises:
        DataError: The list is empty, or not one of its first images is there.
    """
    lines = [line.strip() for line in read_text(path, "a list of image paths").splitlines()]
    lines = [line.replace("\\", "/") for line in lines if line]
    if not lines:
        raise DataError(f"{path}: is empty; expected the path of an image on every line")
    for forms in (lines, [line.removeprefix(OWN_FOLDER) for line in lines]):
        for base in bases:
            if any(os.path.exists(os.path.join(base, line)) for line in forms[:PROBE]):  # noqa: PTH110, PTH118
                return base, forms
    tried = "" if os.path.isabs(lines[0]) else f", looked for from {shown(bases)}"  # noqa: PTH117
    raise DataError(
        f"{path}:1: no image {lines[0]!r}{tried}, nor any of the next lines'; "
        "was the list written on another machine? Correct the paths in it"
    )


def join(base: Path, path: str) -> str:
    """A path that counts from `base`, without `.` and `..`."""
    return os.path.normpath(os.path.join(base, path))  # noqa: PTH118  (ten times quicker than Path)


def absolute(path: Path) -> Path:
    """The path from the root of the file system, without `.` and `..`; links stay."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def shown(paths: Iterable[object]) -> str:
    """Paths for a message, each once."""
    return ", ".join(dict.fromkeys(map(str, paths)))


def swap_folder(image: str) -> str:
    """Where YOLO keeps an image's boxes: the last folder `images` of its path is `labels`, the file .txt."""
    head, images, tail = os.path.splitext(image)[0].rpartition("/images/")  # noqa: PTH122
    return f"{head}{images and '/labels/'}{tail}.txt"


def read_box_files(
    root: Path,
    folder: Path,
    images: Sequence[str],
    box_files: Iterable[Sequence[str]],
    labels: Sequence[Label] | None,
    notes: Sequence[str] = (),
    *,
    keypoints: int = 0,
) -> Records:
    """Read the box files of many images. An image without one has no objects.

    Args:
        root: The data set, for messages.
        folder: Absolute; names of the images are relative to it, or, where it does not hold them all, to the
            nearest that does.
        images: Their absolute paths.
        box_files: For each image where its box file may be, best first.
        labels: The classes; None: they have no names, and are called by their numbers.
        notes: What was left out before; see `Records.issues`.
        keypoints: Further columns after a box, of pose data; they are not read.

    Raises:
        FormatError: A line breaks the format; names file and line.
        DataError: Not one image has a box file, or a file cannot be read.
    """
    builder = RecordsBuilder(root, "detection", normalised=True, rules="voc", issues=list(notes))
    classes, highest, found = len(labels) if labels is not None else _CLASSES, -1, 0
    first: Sequence[str] = ()
    for places in box_files:
        builder.image()
        first = first or places
        path, text = _first_text(places)
        found += bool(path)
        for number, line in enumerate(text.splitlines(), start=1):
            if columns := line.split():
                category, box = _parse(columns, classes, keypoints, path, number)
                highest = max(highest, category)
                builder.box(category, box, f"{path}:{number}")
    if not found:
        raise DataError(
            f"{root}: not one of its {len(images)} images has a file of boxes; looked for {shown(first)}. "
            "Put them into a folder `labels` beside `images`, of the same names but for .txt"
        )
    known = labels if labels is not None else [Label(str(i)) for i in range(highest + 1)]
    with contextlib.suppress(ValueError):  # they are on several drives of Windows
        folder = Path(os.path.commonpath([folder, *set(map(os.path.dirname, images))]))
    prefix = os.path.join(folder, "")  # noqa: PTH118
    return builder.build(FolderStore(folder, (image.removeprefix(prefix) for image in images)), known)


def _first_text(places: Sequence[str]) -> tuple[str, str]:
    """The first of the files that exists, and its text; two times "" where none does."""
    for place in places:
        try:
            with open(place, encoding="utf-8-sig") as stream:  # noqa: PTH123  (quicker than Path)
                return place, stream.read()
        except (FileNotFoundError, NotADirectoryError):
            if os.path.islink(place):  # noqa: PTH114
                raise DataError(f"{place}: a link to a file of boxes that is not there") from None
        except (OSError, ValueError) as error:
            raise DataError(f"{place}: cannot be read as a text file of boxes: {error}") from error
    return "", ""


def _parse(columns: list[str], classes: int, keypoints: int, path: str, line: int) -> tuple[int, _Box]:
    """Class and corners (XYXY, shares) of one line."""
    category, text = _category(columns[0], classes, path, line), " ".join(columns)[:80]
    try:
        values = [float(column) for column in columns[1:]]
    except ValueError as error:
        raise FormatError(f"expected numbers, got {text!r}.", path=path, line=line) from error
    if any(abs(value) > _FARTHEST for value in values[: 4 if keypoints else None]):
        raise FormatError(
            f"expected shares of the image's sides, 0 to 1, got {text!r}.",
            path=path,
            line=line,
            remedy="Are these pixels? Divide x and width by the image's width, y and height by its height.",
        )
    if len(values) in (4, 4 + keypoints):
        x, y, width, height = values[:4]
        return category, (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    if len(values) >= 6 and len(values) % 2 == 0 and not keypoints:
        xs, ys = values[::2], values[1::2]
        return category, (min(xs), min(ys), max(xs), max(ys))
    raise FormatError(
        "expected class, x, y, width, height, or class and the x, y of at least three corners; got "
        f"{len(columns)} columns: {text!r}.",
        path=path,
        line=line,
        remedy="A confidence at the end (of predictions) must be cut off." if len(values) == 5 else None,
    )


def _category(text: str, classes: int, path: str, line: int) -> int:
    category = int(text) if re.fullmatch(r"[+-]?[0-9]{1,9}", text) else _whole(text)
    if category is None:
        raise FormatError(f"expected the number of a class, got {text[:40]!r}.", path=path, line=line)
    if not 0 <= category < classes:
        raise FormatError(
            f"class {category}: there are {classes} classes, 0 to {classes - 1}.",
            path=path,
            line=line,
            remedy="Do the classes count from 1, or belong to other names?",
        )
    return category


def _whole(text: str) -> int | None:
    """Whole numbers written with a decimal point, as NumPy saves them; None for anything else."""
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value.is_integer() else None
