"""Where pictures come from: files, folders, patterns, lists, standard input, URLs, videos and cameras.

A source is a text, as on the command line:

    dog.jpg                a picture                  https://...jpg       a picture from the web
    photos/                pictures and videos in it  clip.mp4             every frame of a video
    'photos/**/*.png'      a glob pattern             rtsp://...           a stream
    list.txt               one source a line          0                    the first camera
    -                      standard input: a picture's bytes, or one source a line; its content decides
    <(command)             any other pipe, also a named one: as standard input
"""

from __future__ import annotations

import codecs
import io
import re
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO, TypeVar, cast

from torch import Tensor

from wordtree.textfile import exists, is_file, is_pipe
from yolo9000.errors import ImageError, YOLO9000Error
from yolo9000.image import (
    PICTURES,
    STDIN,
    ImageSource,
    is_picture,
    is_unread,
    is_url,
    read_image,
    source_name,
    unread_note,
    waiting_for,
)

T = TypeVar("T")

VIDEOS = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts"})
LISTS = frozenset({".txt", ".list"})
_PATIENCE = 1.0  # seconds for what is being read when nobody wants it any more
_STREAMS = ("rtsp://", "rtmp://", "rtp://", "udp://", "srt://")
_TEXT = re.compile(rb"[^\x00-\x08\x0e-\x1f\x7f]*")  # no control characters but white space

_SPACE = rb"\s(?:\s|#[^\n]*\n)*"  # of a PPM's header, with the comments that it may hold
_PPM = re.compile(rb"P[1-6]" + 2 * (_SPACE + rb"\d+") + rb"\s")


@dataclass(frozen=True)
class Frame:
    """One picture, with where it came from.

    Attributes:
        image: [3, H, W] uint8, RGB.
        source: Path or URL, None for a picture that was only in memory.
        number: Of a video's frame, from 0; None for a picture.
        time: Of a video's frame, seconds from its beginning.
    """

    image: Tensor
    source: str | None = None
    number: int | None = None
    time: float | None = None


OnError = Callable[[YOLO9000Error], None]


def frames(*sources: ImageSource, on_error: OnError | None = None) -> Iterator[Frame]:
    """Read every picture and every video frame of the sources, in order, as they are asked for.

    Examples:
        >>> for found in model.detect(frames("photos/", "clip.mp4")):
        ...     print(found)

    Args:
        sources: Texts as at the head of this module; also paths, bytes, open files, PIL images, arrays and
            tensors.
        on_error: Called with the error of what cannot be read, and reading goes on; by default it is raised.

    Raises:
        ImageError: A source is missing or unreadable.
        ConfigError: A video is asked for and PyAV is not installed.
    """
    for frame in read_all(expand(sources)):
        if isinstance(frame, Frame):
            yield frame
        elif on_error is None:
            raise frame
        else:
            on_error(frame)


def read_all(sources: Iterable[ImageSource | ImageError]) -> Iterator[Frame | ImageError]:
    """Frames of what `expand` gave; what cannot be read is its error, in its place."""
    for source in sources:
        try:
            if isinstance(source, ImageError):
                yield source
            elif is_video(source):
                from yolo9000.video import read_video

                yield from read_video(str(source))
            else:
                yield Frame(read_image(source), source_name(source))
        except ImageError as error:
            yield error


def ahead(items: Iterable[T], count: int = 2) -> Iterator[T]:
    """The same items, the next ones taken in a thread while one is worked on.

    Args:
        items: Taken in order, never two at once; an exception comes where its item would have.
        count: How many are taken before they are asked for, and held in memory.
    """
    iterator, end = iter(items), object()
    wanted: SimpleQueue[Future[T | object] | None] = SimpleQueue()
    taken: deque[Future[T | object]] = deque()

    def take() -> None:
        while (future := wanted.get()) is not None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(next(iterator, end))
                except BaseException as error:
                    future.set_exception(error)

    def ask() -> None:
        taken.append(Future())
        wanted.put(taken[-1])

    # No ThreadPoolExecutor: that waits for its thread, and an item may take for ever.
    thread = threading.Thread(target=take, name="ahead", daemon=True)
    thread.start()
    try:
        for _ in range(count):
            ask()
        while (item := taken.popleft().result()) is not end:
            ask()
            yield cast(T, item)
    finally:
        for future in taken:
            future.cancel()
        wanted.put(None)
        thread.join(_PATIENCE)


def expand(sources: Iterable[ImageSource]) -> Iterator[ImageSource | ImageError]:
    """Single pictures and videos in the order given, what folders and patterns hold by name.

    An error stands in the place of what is missing.
    """
    for source in sources:
        if isinstance(source, str) and source == STDIN:
            yield from _piped(None if sys.stdin is None else sys.stdin.buffer)
        elif isinstance(source, str | Path):
            yield from _expand_one(str(source))
        else:
            yield source


def is_video(source: object) -> bool:
    """Whether a source is a video, a stream or a camera, by its name."""
    if not isinstance(source, str | Path):
        return False
    text = str(source)
    if is_stream(text) or is_camera(text):
        return True
    path = Path(re.sub(r"[?#].*", "", text)) if is_url(text) else Path(text)
    return path.suffix.lower() in VIDEOS


def is_stream(source: str) -> bool:
    """Whether a source is the address of a live stream."""
    return source.lower().startswith(_STREAMS)


def is_camera(source: str) -> bool:
    """Whether a source is a camera: its number, which no file or folder has as its name, or its device."""
    return bool(re.fullmatch(r"/dev/video\d+", source)) or (
        bool(re.fullmatch(r"\d{1,2}", source)) and not exists(source)
    )


def demo_photos() -> list[str]:
    """The photos that come with the package."""
    folder = Path(str(resources.files("yolo9000") / "photos"))
    return [str(path) for path in sorted(folder.glob("*.jpg"))]


# -------------------------------------------------------------------------------------------------- expanding


def _expand_one(source: str, *, listed: bool = False) -> Iterator[ImageSource | ImageError]:
    path = Path(source)
    if is_url(source) or is_stream(source):
        yield source
    elif is_file(path):
        if path.suffix.lower() in LISTS and not listed:
            yield from _lines(path)
        else:
            yield source
    elif is_pipe(path):
        if listed or is_video(source):
            yield source
        else:
            yield from _pipe(path)
    elif is_camera(source):
        yield source
    elif source and _is_folder(path):
        yield from _folder(path)
    elif any(sign in source for sign in "*?["):
        matches = _matches(path)
        if not matches:
            yield ImageError(f"{source}: no file matches this pattern.")
        yield from matches
    else:
        yield ImageError(f"{source or repr(source)}: no such file, folder or pattern.")


def _folder(path: Path) -> Iterator[str | ImageError]:
    try:
        files = [file for file in path.iterdir() if not file.name.startswith(".") and not _is_folder(file)]
    except OSError as error:
        yield ImageError(f"{path}: cannot be read: {error.strerror or error}.")
        return
    names = sorted(file.name for file in files)
    unread = [name for name in names if is_unread(name)]
    found = [path / name for name in names if is_picture(name) or Path(name).suffix.lower() in VIDEOS]
    found = [file for file in found if not is_pipe(file)]  # nobody may be writing into it
    if unread:
        yield ImageError(f"{unread_note(path, unread)}.")
    elif not found:
        endings = " ".join(sorted(PICTURES | VIDEOS))
        yield ImageError(
            f"{path}: no pictures or videos in it (looked for {endings}). Folders in it are not searched: "
            f"give a pattern, '{path}/**/*.jpg'."
        )
    yield from map(str, found)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _matches(pattern: Path) -> list[str]:
    """Files that a glob pattern, absolute or relative, matches, by name."""
    try:
        found = Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
        return sorted(str(match) for match in found if match.is_file())
    except (ValueError, OSError):  # such as a** within a name
        return []


def _lines(path: Path) -> Iterator[ImageSource | ImageError]:
    """The sources in a list file; relative paths are those of the current folder, or else of the list's."""
    try:
        data = path.read_bytes()
    except OSError as error:
        yield ImageError(f"{path}: cannot be read: {error.strerror or error}.")
        return
    if not _TEXT.fullmatch(data):
        yield ImageError(f"{path}: expected a list of pictures, one a line, as UTF-8 text; it is no text.")
        return
    names = [name for line in data.splitlines() if (name := _listed_name(line))]
    if not names:
        yield ImageError(f"{path}: names no pictures; write one source a line.")
    for name in names:
        beside = path.parent / name
        elsewhere = not exists(name) and not is_url(name) and exists(beside)
        yield from _expand_one(str(beside) if elsewhere else name, listed=True)


def _pipe(path: Path) -> Iterator[ImageSource | ImageError]:
    try:
        with waiting_for(path):
            stream = open(str(path), "rb")  # noqa: PTH123, SIM115  (of a Path, the stream's name would be one)
        with stream:
            yield from _piped(stream, str(path))
    except OSError as error:
        yield ImageError(f"{path}: cannot be read: {error.strerror or error}.")


def _piped(stream: BinaryIO | None, path: str | None = None) -> Iterator[ImageSource | ImageError]:
    """A picture's bytes, or the sources of a list line by line, as they come; standard input has no path.

    Text without control characters is a list: picture formats begin with bytes that no text has, but for PPM.
    """
    name = path or "standard input"
    if stream is None:
        yield ImageError(f"{name}: closed; expected a picture, or one source a line.")
        return
    buffered = stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream)  # type: ignore[type-var]
    with waiting_for(path or STDIN):
        head = buffered.peek(io.DEFAULT_BUFFER_SIZE)
    if not head:
        yield ImageError(f"{name}: empty; expected a picture, or one source a line.")
    elif _is_text(head):
        for line in buffered:
            if listed := _listed_name(line):
                yield from _expand_one(listed, listed=True)
    elif path:
        yield buffered
    else:
        try:
            yield read_image(buffered, name)
        except ImageError as error:
            yield error


def _listed_name(line: bytes) -> str:
    """The source that a line names, "" for none; a file's name need not be UTF-8, nor any text."""
    line = line.removeprefix(codecs.BOM_UTF8).strip()
    return "" if line.startswith(b"#") else line.decode(sys.getfilesystemencoding(), "surrogateescape")


def _is_text(data: bytes) -> bool:
    return not _PPM.match(data) and _TEXT.fullmatch(data) is not None
