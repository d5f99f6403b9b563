"""What detection writes into a folder: annotated pictures and videos, crops, and files for other programs.

    pictures   dog.jpg, clip.mp4              boxes and labels drawn
    jsonl      detections.jsonl               everything, one picture a line; `yolo9000 relabel` reads it
    csv        detections.csv                 one detection a line
    coco       coco.json, coco_images.json    COCO's results format; the images and categories it refers to
    yolo       labels/dog.txt, classes.txt    a line a box: node, centre x, y, width, height in 0..1
    crops      crops/dog/dog-1.jpg            what is in each box, by label

An interrupted run leaves what it has written so far. Files of earlier runs stay, but for those of the same
name; among labels and crops that is warned of.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

from PIL import Image
from torch import Tensor

from wordtree._files import atomic_write, make_folder
from wordtree.tree import WordTree
from yolo9000.adapters import COLUMNS, rows
from yolo9000.draw import annotate
from yolo9000.errors import ConfigError, ImageError, YOLO9000Error
from yolo9000.naming import Names, OutputFolder, ending_of, file_of, folder_name, frame_name
from yolo9000.results import Detections
from yolo9000.video import VideoWriter

T = TypeVar("T")

NEED_IMAGES = frozenset({"pictures", "crops"})
_JPEG_QUALITY = 92


class _Sink(Protocol):
    """One kind of output."""

    def write(self, name: str, image: Tensor | None, found: Detections) -> Path | None:
        """Add a picture or frame; `name` is unique within the run, and that of a video for its frames."""

    def close(self) -> None:
        """Finish the files."""


class Outputs:
    """Writes detections in several forms at once; a context manager.

    Args:
        folder: Where to write.
        kinds: Of `KINDS`, one or several.
        sources: Files that are read meanwhile, and so must not be overwritten.
        more: Others may come: pictures that are in the folder already get no new content.
        show_path: Write the path on pictures, too.

    Raises:
        ConfigError: An unknown kind, or one that would overwrite a source.
        YOLO9000Error: Something cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        kinds: str | Iterable[str] = ("pictures",),
        *,
        sources: Sequence[str] = (),
        more: bool = False,
        show_path: bool = False,
    ) -> None:
        kinds = (kinds,) if isinstance(kinds, str) else tuple(dict.fromkeys(kinds))
        if unknown := [kind or repr(kind) for kind in kinds if kind not in KINDS]:
            raise ConfigError(f"cannot save {', '.join(unknown)}: known are {', '.join(KINDS)}.")
        self.kinds = kinds
        self._folder = where = OutputFolder(Path(folder), sources, more=more)
        self._names = Names(where, drawn="pictures" in kinds)
        self._sinks: dict[str, _Sink] = {
            kind: _Pictures(where, show_path) if kind == "pictures" else KINDS[kind](where) for kind in kinds
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as stack:  # close all, whatever happens in one
            for sink in self._sinks.values():
                stack.callback(sink.close)

    def unwritten(self, source: T) -> T | ImageError:
        """The same source, or, where it is a file that this run has written, an error to stand in its place.

        The folder of the outputs may be searched for sources meanwhile.
        """
        if isinstance(source, str) and self._folder.is_written(source):
            return ImageError(
                f"{source}: is an output of this run, and is left out. Choose a folder with --out that no "
                "sources come from."
            )
        return source

    def write(self, image: Tensor | None, found: Detections) -> Path | None:
        """Write one picture or frame.

        Args:
            image: [3, H, W] uint8; None where only detections are known: pictures and crops are left out.
            found: Its detections.

        Returns:
            The annotated picture or video, if one is written.
        """
        name = self._names.name(found)
        drawn = None
        for kind, sink in self._sinks.items():
            if image is None and kind in NEED_IMAGES:
                continue
            path = sink.write(name, image, found)
            drawn = path if kind == "pictures" else drawn
        return drawn


class _Pictures:
    """Annotated pictures, JPEG for JPEG and PNG for all else; one video for the frames of a video."""

    def __init__(self, folder: OutputFolder, show_path: bool = False) -> None:
        self._folder, self._show_path = folder, show_path
        self._video: VideoWriter | None = None

    def write(self, name: str, image: Tensor | None, found: Detections) -> Path:
        assert image is not None
        picture = annotate(image, found, show_path=self._show_path)
        if found.frame is None:
            target = self._folder.file(name + ending_of(found.source or ""))
            _save_picture(picture, target)
            return target
        target = self._folder.file(f"{name}.mp4")
        if self._video is None or self._video.path != target:
            self.close()
            self._video = VideoWriter(target)
        self._video.write(picture, found.time or 0.0)
        return target

    def close(self) -> None:
        if self._video is not None:
            self._video.close()
            self._video = None


class _Files:
    """Files in a folder of their own, where those of earlier runs may be, too."""

    def __init__(self, folder: OutputFolder, name: str) -> None:
        self._folder, self._path = folder, folder.path / name
        self._earlier = {str(path) for path in self._path.rglob("*") if path.is_file()}

    def file(self, *names: str) -> Path:
        """The path of an output, relative to the folder of all; see `OutputFolder.file`."""
        target = self._folder.file(*names)
        self._earlier.discard(str(target))
        return target

    def close(self) -> None:
        """Every file is finished when it is written; those that are not of this run are warned of."""
        if self._earlier:
            warnings.warn(
                f"{self._path}: holds files of earlier runs, too ({len(self._earlier):,}). Remove them, or "
                "choose another folder with --out.",
                stacklevel=2,
            )


class _Crops(_Files):
    """What is in each box, in a folder for each label."""

    def __init__(self, folder: OutputFolder) -> None:
        super().__init__(folder, "crops")

    def write(self, name: str, image: Tensor | None, found: Detections) -> None:
        assert image is not None
        for number, detection in enumerate(found, 1):
            x1, y1, x2, y2 = detection.box
            # A pixel at least, also where the picture has changed since its boxes were found.
            left = min(max(int(x1), 0), image.shape[2] - 1)
            top = min(max(int(y1), 0), image.shape[1] - 1)
            part = image[:, top : max(top + 1, round(y2)), left : max(left + 1, round(x2))]
            label = folder_name(found.tree, detection.node)
            target = self.file("crops", label, f"{frame_name(name, found)}-{number}.jpg")
            _save_picture(Image.fromarray(part.cpu().permute(1, 2, 0).contiguous().numpy()), target)


class _Lines:
    """A file that grows line by line, so that an interrupted run leaves what it found."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: io.FileIO | None = None

    def add(self, text: str) -> None:
        with _writing(self._path):
            if self._stream is None:
                make_folder(self._path.parent)
                self._stream = self._path.open("wb", buffering=0)
            data, done = text.encode(errors="backslashreplace"), 0
            try:
                while done < len(data):
                    done += self._stream.write(data[done:])  # a disk that becomes full takes a part
            except BaseException:
                with suppress(OSError):  # a device
                    self._stream.seek(-done, io.SEEK_END)
                    self._stream.truncate()  # whole lines can be read again
                raise

    def close(self) -> None:
        if self._stream is None:
            self.add("")  # a file without lines says that nothing was there
        assert self._stream is not None
        with _writing(self._path):
            self._stream.close()


class _JsonLines(_Lines):
    def __init__(self, folder: OutputFolder) -> None:
        super().__init__(folder.file("detections.jsonl"))

    def write(self, name: str, image: Tensor | None, found: Detections) -> None:
        self.add(found.to_json() + "\n")


class _Csv(_Lines):
    def __init__(self, folder: OutputFolder) -> None:
        super().__init__(folder.file("detections.csv"))
        self.add(self._text([COLUMNS]))

    def write(self, name: str, image: Tensor | None, found: Detections) -> None:
        self.add(self._text(row.values() for row in rows(found)))

    @staticmethod
    def _text(lines: Iterable[Iterable[object]]) -> str:
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows(lines)
        return buffer.getvalue()


class _Yolo(_Files):
    """A label file for every picture, empty where nothing was found, as YOLO trainers read them."""

    def __init__(self, folder: OutputFolder) -> None:
        super().__init__(folder, "labels")
        self._classes = folder.file("classes.txt")
        self._named = False

    def write(self, name: str, image: Tensor | None, found: Detections) -> None:
        if not self._named:
            self._named = True
            _save_text("".join(f"{label}\n" for label in found.tree.names), self._classes)
        height, width = found.image_size
        lines = []
        for node, (x1, y1, x2, y2) in zip(found.nodes.tolist(), found.boxes.tolist(), strict=True):
            shape = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
            lines.append(f"{node} " + " ".join(f"{value:.6f}" for value in shape) + "\n")
        _save_text("".join(lines), self.file("labels", f"{frame_name(name, found)}.txt"))


class _Coco:
    """COCO's results, and the images and categories that they refer to.

    An image's id is its name where that is a number (`000000000139.jpg`), as in COCO, else one that is free.
    A category's id is the node.
    """

    def __init__(self, folder: OutputFolder) -> None:
        self._files = folder.file("coco.json"), folder.file("coco_images.json")
        self._images: list[dict[str, object]] = []  # without their ids, which are known at the end
        self._numbers: dict[int, int] = {}  # names that are numbers, with the places of their images
        self._nodes: set[int] = set()
        self._results: list[tuple[int, dict[str, object]]] = []  # each with the place of its image
        self._tree: WordTree | None = None

    def write(self, name: str, image: Tensor | None, found: Detections) -> None:
        self._tree = found.tree
        file = file_of(found.source).name if found.source and found.frame is None else frame_name(name, found)
        place = len(self._images)
        if re.fullmatch(r"\d{1,15}", name) and found.frame is None:
            self._numbers.setdefault(int(name), place)
        height, width = found.image_size
        self._images.append({"file_name": file, "width": width, "height": height})
        for node, score, box in zip(found.nodes.tolist(), found.scores, found.boxes.tolist(), strict=True):
            x1, y1, x2, y2 = box
            corner = [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)]
            self._nodes.add(node)
            result = {"category_id": node, "bbox": corner, "score": round(float(score), 6)}
            self._results.append((place, result))

    def close(self) -> None:
        named = {place: number for number, place in self._numbers.items()}
        free = itertools.count(max(self._numbers, default=0) + 1)
        ids = [named[place] if place in named else next(free) for place in range(len(self._images))]
        results = [{"image_id": ids[place]} | result for place, result in self._results]
        images = [{"id": number} | image for image, number in zip(self._images, ids, strict=True)]
        about = {"images": images, "categories": self._categories(), "annotations": []}
        for content, target in zip((results, about), self._files, strict=True):
            _save_text(json.dumps(content), target)

    def _categories(self) -> list[dict[str, object]]:
        tree = self._tree
        if tree is None:
            return []
        above = {node: int(tree.parent[node]) for node in sorted(self._nodes)}
        return [
            {
                "id": node,
                "name": tree.names[node],
                "supercategory": tree.names[parent if parent >= 0 else node],
            }
            for node, parent in above.items()
        ]


KINDS: Mapping[str, Callable[[OutputFolder], _Sink]] = {
    "pictures": _Pictures,
    "jsonl": _JsonLines,
    "csv": _Csv,
    "coco": _Coco,
    "yolo": _Yolo,
    "crops": _Crops,
}


def _save_picture(picture: Image.Image, target: Path) -> None:
    data = io.BytesIO()
    if target.suffix == ".png":
        picture.save(data, "PNG")
    else:
        picture.save(data, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    with _writing(target), atomic_write(target) as stream:
        stream.write(data.getvalue())


def _save_text(text: str, target: Path) -> None:
    with _writing(target), atomic_write(target, text=True) as stream:
        stream.write(text)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise YOLO9000Error(
            f"{target}: cannot be written: {error.strerror or error}. Choose another folder with --out."
        ) from error
