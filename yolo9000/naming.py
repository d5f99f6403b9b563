"""Names of output files: unique within a run, and none of a file that the run reads."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

from wordtree.tree import WordTree
from yolo9000.errors import ConfigError
from yolo9000.image import JPEG, STDIN, is_url
from yolo9000.results import Detections
from yolo9000.sources import is_stream

_LONGEST_LABEL = 80  # characters of a folder named after a label
_LONGEST_NAME = 200  # bytes of a name without number and ending; file systems take 255 in all
_FORBIDDEN = r'[\\/:*?"<>|\x00-\x1f]'  # in the names of files, by one system or another


class OutputFolder:
    """The folder of the outputs, where nothing is written over that the run reads.

    Args:
        path: The folder; need not be there yet.
        sources: What is read, as far as it is known: files, "-" for standard input, and what is no file.
        more: Others may come, out of a pipe: any file that is there at the beginning.
    """

    def __init__(self, path: Path, sources: Iterable[str], *, more: bool = False) -> None:
        self.path, self._real = path, Path(os.path.realpath(path))
        self._there = _listed(path)  # at the beginning
        self._read = {_identity(source) for source in sources} - {None}
        self._perhaps: set[tuple[int, int] | None] = set()  # may be read later
        self._more = more
        self._written: set[str] = set()  # where others may come
        if more:
            self._suspect()

    def add(self, source: str) -> None:
        """Note what is read. Where that is in this folder, more may be: what was there at the beginning."""
        self._read.add(_identity(source))
        self._read.discard(None)
        if self._there and Path(os.path.realpath(source)).parent == self._real:
            self._suspect()

    def _suspect(self) -> None:
        self._perhaps = {_identity(path) for path in self._there} - {None}
        self._there = []

    def is_read(self, *names: str) -> bool:
        """Whether the file of this name is a source, or may become one."""
        file = _identity(self._real.joinpath(*names))
        return file in self._read or file in self._perhaps

    def file(self, *names: str) -> Path:
        """The path of an output.

        Raises:
            ConfigError: It is a source.
        """
        target, real = self.path.joinpath(*names), self._real.joinpath(*names)
        if _identity(real) in self._read:
            raise ConfigError(
                f"{target}: is read in this run, and would be written over. Choose another folder with --out."
            )
        if self._more:
            self._written.add(str(real))
        return target

    def is_written(self, source: str) -> bool:
        """Whether a file is an output of this run, whose folder may be searched for sources meanwhile."""
        return bool(self._written) and os.path.realpath(source) in self._written


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # is not there yet, or cannot be written either
        return []


def _identity(file: str | Path) -> tuple[int, int] | None:
    """What all names of a file share, and standard input that is read from it; None: no file."""
    try:
        status = os.fstat(sys.stdin.fileno()) if file == STDIN else Path(file).stat()
    except (OSError, ValueError, AttributeError):  # names that no file can have, no standard input
        return None
    return status.st_dev, status.st_ino


class Names:
    """A name for every picture: that of its file, numbered where two would be equal or one overwritten.

    Args:
        folder: Where the outputs go.
        drawn: Annotated pictures and videos are among them, so a source could be overwritten.
    """

    def __init__(self, folder: OutputFolder, *, drawn: bool) -> None:
        self._folder, self._drawn = folder, drawn
        self._used: set[str] = set()
        self._numbers: dict[str, int] = {}  # the last that was tried
        self._videos: set[str] = set()
        self._like_frames: set[str] = set()  # the rest of names that end as those of frames do
        self._video: tuple[str | None, str] = (None, "")

    def name(self, found: Detections) -> str:
        """The name of a picture, the same for all frames of a video."""
        if found.frame and self._video[0] == found.source:  # a further frame of the same video
            return self._video[1]
        if found.source and not (is_url(found.source) or is_stream(found.source)):
            self._folder.add(found.source)  # from a list or a pipe: not known before
        name = self._unused(found.source or "image", video=found.frame is not None)
        self._video = (found.source, name)
        return name

    def _unused(self, source: str, *, video: bool) -> str:
        name = stem = _shortened(file_of(source).stem) or "image"
        ending = ".mp4" if video else ending_of(source)
        while self._is_taken(name, video) or (self._drawn and self._folder.is_read(name + ending)):
            number = self._numbers[stem] = self._numbers.get(stem, 1) + 1
            name = f"{stem}-{number}"
        self._used.add(name)
        if video:
            self._videos.add(name)
        else:
            self._like_frames.add(_without_number(name))
        return name

    def _is_taken(self, name: str, video: bool) -> bool:
        """Whether a name, or that of a video's frame, is another picture's."""
        like_frame = name in self._like_frames if video else _without_number(name) in self._videos
        return like_frame or name in self._used


def _without_number(name: str) -> str:
    return re.sub(r"_\d{6,}$", "", name)


def file_of(source: str) -> Path:
    """The file that a source names: of an address the last part, as file systems take it."""
    if not (is_url(source) or is_stream(source)):
        return Path(source)
    last = re.sub(r"[?#].*", "", source).rstrip("/").rpartition("/")[2]
    return Path(re.sub(_FORBIDDEN, "_", unquote(last)))


def ending_of(source: str) -> str:
    """That of the annotated picture."""
    suffix = file_of(source).suffix.lower()
    return suffix if suffix in JPEG else ".png"


def frame_name(name: str, found: Detections) -> str:
    """The name of a frame; a picture's own."""
    return name if found.frame is None else f"{name}_{found.frame:06d}"


def folder_name(tree: WordTree, node: int) -> str:
    """A label as a folder: what file systems refuse becomes `_`; its id is added where it is not unique."""
    label = tree.names[node]
    if len(tree.named(label)) > 1:
        label = f"{label} {tree.wnids[node]}"
    return re.sub(rf"{_FORBIDDEN}|^\.+|[. ]+$", "_", _shortened(label[:_LONGEST_LABEL]))


def _shortened(name: str) -> str:
    name = name[:_LONGEST_NAME]
    while len(name.encode("utf-8", "replace")) > _LONGEST_NAME:
        name = name[:-1]
    return name
