"""Videos, streams and cameras in, annotated videos out, through PyAV (FFmpeg)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from PIL import Image, ImageOps

from wordtree._files import make_folder
from wordtree.textfile import is_pipe
from yolo9000.errors import ImageError, YOLO9000Error
from yolo9000.image import TIMEOUT, waiting_for
from yolo9000.optional import optional
from yolo9000.sources import Frame, is_camera, is_stream

_TICKS = 90_000  # per second: the clock of MPEG, which divides 24, 25, 30 and 60 frames a second
_WHOLE = 0.99  # share of its length that a video has at least
_FALLBACK_RATE = 25  # frames a second, where a stream does not say
_CODECS = ("libx264", "mpeg4")  # H.264 plays everywhere; PyAV built without it has the other
_QUALITY = {"libx264": {"crf": "20", "preset": "veryfast"}, "mpeg4": {"qscale": "3"}}


def read_video(source: str) -> Iterator[Frame]:
    """The frames of a video, as RGB, as they are asked for; those that are damaged are left out.

    Args:
        source: A file, the address of a file or stream, the number of a camera or its device.

    Raises:
        ImageError: Missing, no video, damaged beyond its first frames, or cut off.
        ConfigError: PyAV is not installed.
    """
    av = optional("av", "reading videos")
    container = _open(av, source)
    with container:
        if not container.streams.video:
            raise ImageError(f"{source}: holds no pictures, only other streams.")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = float(stream.average_rate or _FALLBACK_RATE)
        first: float | None = None
        when = 0.0
        number = 0
        try:
            for frame in container.decode(stream):
                when = number / rate if frame.time is None else float(frame.time)
                first = when if first is None else first
                image = torch.from_numpy(_upright(frame))
                yield Frame(image.permute(2, 0, 1).contiguous(), source, number, round(when - first, 6))
                number += 1
        except (av.error.FFmpegError, ValueError) as error:
            raise ImageError(f"{source}: damaged after {number} frames: {_reason(error)}.") from error
        if not number:
            raise ImageError(f"{source}: holds no frames.")
        # Both: where the last frame stands long, or some are damaged, one of them alone is so.
        stated = float(stream.duration * stream.time_base) if stream.duration else 0.0
        lasted = when - (first or 0.0)
        if number < stream.frames and lasted + 2 / rate < _WHOLE * stated:
            raise ImageError(
                f"{source}: ends after {lasted:.1f} of {stated:.1f} s, {number} of {stream.frames} frames: "
                "was it cut off? Copy it again."
            )


def video_length(source: str) -> int | None:
    """How many frames a video has; None where it does not say, as live ones."""
    if is_stream(source) or is_camera(source) or is_pipe(source):
        return None
    av = optional("av", "reading videos")
    try:
        with _open(av, source) as container:
            stream = container.streams.video[0]
            if stream.frames:
                return int(stream.frames)
            if container.duration and stream.average_rate:  # duration in microseconds
                return int(container.duration * stream.average_rate / 1_000_000)
    except (ImageError, IndexError):
        pass  # reading it will say what is wrong
    return None


def _open(av: Any, source: str) -> Any:
    name, options = _camera(source) if is_camera(source) else (source, {})
    try:
        with waiting_for(name):
            return av.open(name, timeout=TIMEOUT, **options)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise ImageError(f"{source}: cannot be opened as a video: {_reason(error)}.") from error


def _camera(source: str) -> tuple[str, dict[str, str]]:
    """What FFmpeg calls a camera: Video4Linux on Linux, AVFoundation on macOS."""
    number = int(source.removeprefix("/dev/video"))
    if sys.platform == "darwin":
        return str(number), {"format": "avfoundation"}
    elif sys.platform == "linux":
        device = Path(f"/dev/video{number}")
        if not device.exists():
            there = ", ".join(path.name for path in sorted(Path("/dev").glob("video*"))) or "none"
            raise ImageError(f"camera {number}: there is no {device} (cameras found: {there}).")
        return str(device), {"format": "v4l2"}
    else:
        raise ImageError(
            f"camera {number}: cameras are read on Linux and macOS; on {sys.platform}, give a stream."
        )


def _upright(frame: Any) -> Any:
    """RGB pixels [H, W, 3] of a frame, turned as its rotation says (phones film on their side)."""
    import numpy as np

    pixels = frame.to_ndarray(format="rgb24")
    turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns))


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


class VideoWriter:
    """Writes pictures as one video: H.264 in MP4, without sound; the file appears when all is written.

    Args:
        path: The file, by habit `*.mp4`.
        rate: Frames a second that players expect; frames keep their own times.

    Raises:
        ConfigError: PyAV is not installed.
    """

    def __init__(self, path: str | Path, rate: float = _FALLBACK_RATE) -> None:
        self._av = optional("av", "writing videos")
        self.path = Path(path)
        self._target = Path(os.path.realpath(path))  # of a link, the file that it leads to
        self._partial = self._target.with_name(f".{self._target.name}.part")
        self._rate = Fraction(rate).limit_denominator(1001)
        self._container: Any = None
        self._stream: Any = None
        self._last = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, picture: Image.Image, time: float) -> None:
        """Add a picture.

        Args:
            picture: RGB; all of one size, that of the first.
            time: When it is shown, seconds from the beginning; later than the one before.

        Raises:
            YOLO9000Error: The file cannot be written.
        """
        with self._writing():
            self._add(picture, time)

    def _add(self, picture: Image.Image, time: float) -> None:
        if self._container is None:
            self._begin(picture)
        size = (self._stream.width, self._stream.height)
        if picture.size != size:  # one odd line or column is repeated; a frame of another size fitted in
            odd = 0 <= size[0] - picture.width <= 1 and 0 <= size[1] - picture.height <= 1
            picture = _extended(picture, size) if odd else ImageOps.pad(picture, size)
        frame = self._av.VideoFrame.from_image(picture)
        self._last = max(round(time * _TICKS), self._last + 1)
        frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
        self._container.mux(self._stream.encode(frame))

    def _begin(self, picture: Image.Image) -> None:
        codec = next(name for name in _CODECS if name in self._av.codecs_available)
        make_folder(self._target.parent)
        self._container = self._av.open(str(self._partial), "w", format="mp4")
        self._stream = self._container.add_stream(codec, rate=self._rate, options=_QUALITY[codec])
        self._stream.width, self._stream.height = (side + side % 2 for side in picture.size)
        self._stream.pix_fmt = "yuv420p"  # half the colours' lines and columns: both must be even
        self._stream.codec_context.time_base = Fraction(1, _TICKS)

    def close(self) -> None:
        """Finish the file.

        Raises:
            YOLO9000Error: The file cannot be written.
        """
        if self._container is None:
            return
        with self._writing():
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._container = None
            self._partial.replace(self._target)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Where writing fails, nothing is left: a video without its end cannot be played."""
        try:
            yield
        except (self._av.error.FFmpegError, OSError, ValueError, OverflowError) as error:
            self._discard()
            raise YOLO9000Error(
                f"{self.path}: cannot be written: {_reason(error)}. Choose another folder with --out."
            ) from error

    def _discard(self) -> None:
        container, self._container = self._container, None
        with suppress(self._av.error.FFmpegError, OSError):
            if container is not None:
                container.close()
        with suppress(OSError):
            self._partial.unlink()


def _extended(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Repeat the last line or column."""
    import numpy as np

    pixels = np.asarray(picture)
    pad = ((0, size[1] - picture.height), (0, size[0] - picture.width), (0, 0))
    return Image.fromarray(np.pad(pixels, pad, mode="edge"))
