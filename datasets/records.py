"""What a reader finds (`Records`, which knows no tree) and the data set that becomes of it (`TableDataset`).

Legend: `R` images, `T` labels of all images, `M` labels of one image.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import warnings
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import tv_tensors

from yolo9000.datasets.labels import Label, map_labels
from yolo9000.datasets.sample import Kind, Sample, ScoreRules, decode_image, joint_rules
from yolo9000.datasets.store import ConcatStore, Store
from yolo9000.errors import DataError
from yolo9000.image import MAX_PIXELS, SIDEWAYS, orientation, undecodable

if TYPE_CHECKING:
    from wordtree.tree import WordTree

EDGE = 1.0  # pixels that a box may stand out of its image: data sets round differently
_LOOKS = 8  # at images when a data set is opened, whether they have the stated size
_SHARE = 2.0  # a number of pixels that some box of any data set exceeds, and no share of an image's sides
_NAMES = 100_000  # that go into a fingerprint: of more images some, evenly spread; they take a second

OnError = Literal["raise", "skip"]


@dataclass(frozen=True)
class Records:
    """A data set as it is on disk, in flat arrays that forked workers share.

    Attributes:
        root: The folder or file it came from, for messages.
        kind: What the labels are.
        store: The encoded images, R of them.
        labels: The classes in the data set's own order.
        offsets: int64 [R + 1]; the labels of image i are `offsets[i]:offsets[i + 1]`.
        label_ids: int32 [T], positions in `labels`.
        boxes: float32 [T, 4] XYXY in pixels, or as shares of width and height; [0, 4] for classification.
        ignored: bool [T]: difficult objects or crowds, as `rules` says.
        issues: Annotations that were left out, each as file, annotation and reason; and in one note pictures
            of kinds that are not read here.
        normalised: bool [R]: the boxes of these images are shares (YOLO's and darknet's text files); left
            out: none is.
        rules: Whose rules boxes are scored by.
        stated: int32 [R, 2] width and height of the images as the annotations state them, which tell whether
            boxes were drawn before or after an image was turned by its EXIF orientation; 0, 0: not stated.
    """

    root: Path
    kind: Kind
    store: Store
    labels: tuple[Label, ...]
    offsets: NDArray[np.int64]
    label_ids: NDArray[np.int32]
    boxes: NDArray[np.float32]
    ignored: NDArray[np.bool_]
    issues: tuple[str, ...] = ()
    normalised: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    rules: ScoreRules = "voc"
    stated: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 2), np.int32))

    def __post_init__(self) -> None:
        if len(self.normalised) == 0:
            object.__setattr__(self, "normalised", np.zeros(len(self.store), np.bool_))
        if len(self.stated) == 0:
            object.__setattr__(self, "stated", np.zeros((len(self.store), 2), np.int32))

    @cached_property
    def fingerprint(self) -> str:
        """Changes with every label and box, and with the images' names below `root`; see `SampleDataset`."""
        digest = hashlib.sha256(repr((self.kind, self.rules, self.labels)).encode())
        arrays = (self.offsets, self.label_ids, self.boxes, self.ignored, self.normalised, self.stated)
        for values in arrays:
            digest.update(np.ascontiguousarray(values).tobytes())
        for image in range(0, len(self.store), max(1, len(self.store) // _NAMES)):
            digest.update(os.fsencode(self.store.inner_name(image)) + b"\0")
        return digest.hexdigest()

    def decode(self, image: int) -> torch.Tensor:
        """Pixels of one image, uint8 [3, H, W]; see `decode_image`."""
        width, height = self.stated[image].tolist()
        return decode_image(self.store.read(image), self.store.name(image), (width, height))

    def size(self, image: int) -> tuple[int, int]:
        """Width and height of one image in pixels, turned as `decode` does, out of its header.

        Raises:
            DataError: It cannot be read.
        """
        data, source = self.store.read(image), self.store.name(image)
        try:
            with Image.open(io.BytesIO(data)) as header:  # decodes nothing
                stated: tuple[int, int] = tuple(self.stated[image].tolist())
                width, height = header.size
                return (height, width) if orientation(header, stated) in SIDEWAYS else (width, height)
        except Exception as error:  # each of Pillow's plugins has its own kinds
            raise DataError(f"{source}: cannot be read as an image: {undecodable(error)}") from error

    def resized(self, image: int, width: int, height: int) -> str | None:
        """What is wrong with an image with boxes that has another size than their annotation states.

        Args:
            image: Number of the image.
            width: The width it has, in pixels.
            height: The height it has.
        """
        wide, high = self.stated[image].tolist()
        differs = wide > 0 < high and max(abs(wide - width), abs(high - height)) > EDGE
        if not differs or self.offsets[image] == self.offsets[image + 1]:
            return None
        return f"{self.store.name(image)}: stated to have {wide} × {high} pixels, has {width} × {height}"

    def warn_of_resized(self) -> None:
        """Warn where of a few images, evenly spread, one is `resized`."""
        count = len(self.store)
        looks = {count * look // _LOOKS for look in range(_LOOKS)} if self.stated.any() else set()
        for image in sorted(looks):
            with contextlib.suppress(DataError):  # told when it is wanted
                if found := self.resized(image, *self.size(image)):
                    advice = "boxes of such images are in the wrong places; `yolo9000 data check` lists them"
                    return warnings.warn(f"{found}: {advice}", stacklevel=3)

    def pixel_boxes(self, image: int, width: int, height: int) -> NDArray[np.float32]:
        """Boxes of one image, float32 [M, 4] XYXY in pixels, as they were written: not cut to the image.

        Args:
            image: Number of the image.
            width: Its width in pixels.
            height: Its height in pixels.
        """
        boxes = self.boxes[self.offsets[image] : self.offsets[image + 1]]
        sides = np.asarray([width, height, width, height], dtype=np.float32)
        return boxes * sides if self.normalised[image] else boxes


@dataclass
class RecordsBuilder:
    """Collects the labels of one image after the other.

    Attributes:
        root: See `Records`.
        kind: See `Records`.
        normalised: The boxes are shares of width and height, not pixels.
        rules: See `Records`.
    """

    root: Path
    kind: Kind
    normalised: bool = False
    rules: ScoreRules = "voc"
    issues: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    label_ids: list[int] = field(default_factory=list)
    boxes: list[Sequence[float]] = field(default_factory=list)
    ignored: list[bool] = field(default_factory=list)
    stated: list[tuple[int, int]] = field(default_factory=list)

    def image(self, width: object = 0, height: object = 0) -> None:
        """Begin the next image; with the width and height that its annotation states, if they are numbers."""
        self.counts.append(0)
        self.stated.append((_pixels(width), _pixels(height)))

    def box(self, label: int, box: Sequence[float], where: str, *, ignored: bool = False) -> None:
        """Add a box to the present image; one without area, or of no numbers, is left out and noted.

        Args:
            label: Position in the list of classes.
            box: XYXY in pixels, or in shares where they are `normalised`.
            where: File and annotation, for the note.
            ignored: See `Records`.
        """
        box = array("f", box).tolist()  # float32, as boxes are kept: what rounding makes flat has no area
        finite = all(map(isfinite, box))
        if not (finite and box[2] > box[0] and box[3] > box[1]):
            shown = ", ".join(f"{value:g}" for value in box)
            reason = "has no area" if finite else "is not of finite numbers"
            self.issues.append(f"{where}: box ({shown}) {reason}: left out")
            return
        self.counts[-1] += 1
        self.label_ids.append(label)
        self.boxes.append(box)
        self.ignored.append(ignored)

    def build(self, store: Store, labels: Sequence[Label]) -> Records:
        """The records of all images added so far.

        Raises:
            DataError: All boxes lie within two pixels of the corner: they are shares of the sides.
        """
        boxes = np.asarray(self.boxes, dtype=np.float32).reshape(-1, 4)
        if len(boxes) and not self.normalised and boxes.max() <= _SHARE:
            raise DataError(
                f"{self.root}: expected boxes in pixels, but no number in them is above {boxes.max():g}; are "
                "they shares of the images' sides? Multiply x by the width and y by the height"
            )
        return Records(
            self.root,
            self.kind,
            store,
            tuple(labels),
            np.cumsum([0, *self.counts], dtype=np.int64),
            np.asarray(self.label_ids, dtype=np.int32),
            boxes,
            np.asarray(self.ignored, dtype=np.bool_),
            tuple(self.issues),
            np.full(len(self.counts), self.normalised, dtype=np.bool_),
            self.rules,
            np.asarray(self.stated, dtype=np.int32).reshape(-1, 2),
        )


def _pixels(value: object) -> int:
    """A side as a file states it, in a number or text; 0 where that is none."""
    try:
        side = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return 0
    return int(side) if 0 < side <= MAX_PIXELS else 0


def classification_records(
    root: Path,
    store: Store,
    labels: Sequence[Label],
    label_ids: NDArray[np.int32],
    issues: Sequence[str] = (),
) -> Records:
    """Records of images with one label and no box each.

    Args:
        root: See `Records`.
        store: The images.
        labels: The classes.
        label_ids: int32 [R] class of each image.
        issues: See `Records`.
    """
    n = len(store)
    offsets = np.arange(n + 1, dtype=np.int64)
    no_boxes = np.zeros((0, 4), dtype=np.float32)
    return Records(
        root,
        "classification",
        store,
        tuple(labels),
        offsets,
        label_ids,
        no_boxes,
        np.zeros(n, np.bool_),
        tuple(issues),
    )


def concat_records(parts: Sequence[Records]) -> Records:
    """Records of several data sets of one kind, one after the other; equal classes become one.

    Raises:
        DataError: No parts, or both kinds.
    """
    if len(parts) == 1:
        return parts[0]
    if len({part.kind for part in parts}) != 1:
        raise DataError("expected data sets of one kind, detection or classification, to put together")
    labels = list(dict.fromkeys(label for part in parts for label in part.labels))
    position = {label: i for i, label in enumerate(labels)}
    ids = [np.asarray([position[label] for label in part.labels], np.int32)[part.label_ids] for part in parts]
    counts = np.concatenate([np.diff(part.offsets) for part in parts])
    return Records(
        parts[0].root,
        parts[0].kind,
        ConcatStore([part.store for part in parts]),
        tuple(labels),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.concatenate(ids),
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.ignored for part in parts]),
        tuple(issue for part in parts for issue in part.issues),
        np.concatenate([part.normalised for part in parts]),
        joint_rules(part.rules for part in parts),
        np.concatenate([part.stated for part in parts]),
    )


class TableDataset:
    """Records whose labels are nodes of a tree. Implements `SampleDataset`.

    A box whose label has no node is left out; a classification image whose label has none is left out of
    the data set. Both are counted in `unmatched`.

    Args:
        records: What a reader found.
        tree: The tree of the labels.
        map_file: Darknet map file of the boxes' classes (line i: node of class i) instead of matching them by
            id and name; labels of whole images are always matched.
        on_error: What an unreadable image does: `raise` a DataError, or `skip` to the next readable one
            with a warning.

    Attributes:
        fallbacks: Labels whose own synset the tree lacks -> the nearest ancestor that stands for them.
        reasons: Labels without a node -> why.

    Raises:
        DataError: No images, or not one label has a node in the tree.
    """

    def __init__(
        self,
        records: Records,
        tree: WordTree,
        *,
        map_file: str | Path | None = None,
        on_error: OnError = "raise",
    ) -> None:
        self.records, self.tree, self.on_error = records, tree, on_error
        self.kind, self.rules = records.kind, records.rules
        if len(records.store) == 0:
            raise DataError(f"{records.root}: holds no images")
        self._map_file = map_file if self.kind == "detection" else None
        mapping = map_labels(records.labels, tree, self._map_file)
        self.fallbacks, self.reasons = mapping.fallbacks, mapping.reasons
        self._nodes = mapping.nodes[records.label_ids] if records.labels else np.zeros(0, np.int64)
        if len(self._nodes) and self._nodes.max() < 0:
            names = ", ".join(label.name for label in records.labels[:5])
            names += ", ..." if len(records.labels) > 5 else ""
            map_file, command = "", "train-classifier"
            if self.kind == "detection":
                map_file, command = "a map file (line i: node of class i), ", "train"
            raise DataError(
                f"{records.root}: none of its {len(records.labels)} labels ({names}) is in the tree of "
                f"{len(tree)} nodes ({next(iter(self.reasons.values()))}); give {map_file}another tree, or "
                f"to `yolo9000 {command}` the names of these classes (--names)"
            )
        self._images = np.arange(len(records.store))
        if self.kind == "classification":
            self._images = self._images[self._nodes >= 0]

    @cached_property
    def unmatched(self) -> dict[str, int]:
        """Labels without a node -> number of annotations left out for it, most frequent first."""
        lost = np.bincount(self.records.label_ids[self._nodes < 0], minlength=len(self.records.labels))
        by_name: Counter[str] = Counter()  # several labels can have one name
        for i in lost.nonzero()[0]:
            by_name[self.records.labels[i].name] += int(lost[i])
        return dict(by_name.most_common())

    @property
    def fingerprint(self) -> str:
        """See `SampleDataset`; with a map file it changes with the nodes, too."""
        found = self.records.fingerprint
        if self._map_file is None:
            return found
        return hashlib.sha256(found.encode() + self._nodes.tobytes()).hexdigest()

    @property
    def issues(self) -> tuple[str, ...]:
        """What the reader left out, with file and reason."""
        return self.records.issues

    def __len__(self) -> int:
        return len(self._images)

    def source(self, index: int) -> str:
        """File of an image, for messages."""
        return self.records.store.name(int(self._images[index]))

    def _rows(self, index: int) -> NDArray[np.int64]:
        image = self._images[index]
        rows = np.arange(self.records.offsets[image], self.records.offsets[image + 1])
        return rows[self._nodes[rows] >= 0]

    def nodes(self, index: int) -> list[int]:
        """See `SampleDataset`."""
        rows = self._rows(index)
        return [int(node) for node in self._nodes[rows[~self.records.ignored[rows]]]]

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of a data set of {len(self)}")
        for step in range(len(self)):
            candidate = (index + step) % len(self)
            try:
                return self._load(candidate)
            except DataError as error:
                if self.on_error == "raise":
                    raise
                warnings.warn(f"skipped: {error}", RuntimeWarning, stacklevel=2)
        raise DataError(f"{self.records.root}: not one of its {len(self)} images can be read")

    def _load(self, index: int) -> Sample:
        source, rows, number = self.source(index), self._rows(index), int(self._images[index])
        image = self.records.decode(number)
        height, width = image.shape[-2:]
        boxes, keep = np.zeros((0, 4), np.float32), np.ones(len(rows), np.bool_)
        if self.kind == "detection":
            limit = np.asarray([width, height, width, height], dtype=np.float32)
            first = self.records.offsets[number]
            boxes = self.records.pixel_boxes(number, width, height)[rows - first].clip(0, limit)
            keep = (boxes[:, 2] > boxes[:, 0]) & (
                boxes[:, 3] > boxes[:, 1]
            )  # outside the image: data_check lists it
            boxes = boxes[keep]
        return make_sample(
            image, boxes, self._nodes[rows[keep]], self.kind, source, self.records.ignored[rows[keep]]
        )


def make_sample(
    image: torch.Tensor,
    boxes: NDArray[np.float32],
    nodes: NDArray[np.int64],
    kind: Kind,
    source: str,
    ignored: NDArray[np.bool_] | None = None,
) -> Sample:
    """A `Sample` from plain arrays.

    Args:
        image: uint8 [3, H, W].
        boxes: float32 [M, 4] XYXY in pixels.
        nodes: int64 [M].
        kind: See `Sample`.
        source: See `Sample`.
        ignored: bool [M]; None: none is.
    """
    size = (int(image.shape[-2]), int(image.shape[-1]))
    corners = tv_tensors.BoundingBoxes(torch.from_numpy(boxes).view(-1, 4), format="XYXY", canvas_size=size)
    flags = np.zeros(len(nodes), np.bool_) if ignored is None else ignored
    return Sample(
        tv_tensors.Image(image), corners, torch.from_numpy(nodes), kind, source, torch.from_numpy(flags)
    )
