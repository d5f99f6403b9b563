"""The commands `detect` and `relabel`: run the model or read its stored results, then print, draw and write.

Everything that a person sees goes through a rich console; JSON Lines go to standard output alone.
"""

from __future__ import annotations

import errno
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from wordtree._terminal import Terminal, complain
from wordtree.tree import WordTree
from yolo9000.errors import DataError, ImageError, YOLO9000Error
from yolo9000.image import STDIN, is_piped, waiting_for
from yolo9000.model import YOLO9000
from yolo9000.outputs import NEED_IMAGES, Outputs
from yolo9000.progress import Counter
from yolo9000.report import print_detections
from yolo9000.results import Detections
from yolo9000.sources import (
    Frame,
    ahead,
    expand,
    frames,
    is_camera,
    is_stream,
    is_video,
    read_all,
)

# Pictures run together; on a CPU so that the thread that reads ahead disturbs fewer runs of the network
# (benchmarks/NOTES.md).
_CPU_BATCH, _GPU_BATCH = 4, 8


@dataclass(frozen=True)
class Show:
    """What becomes of detections.

    Attributes:
        tree: Print the path of each detection.
        draw_path: Write the path on pictures, too.
        json: Print JSON Lines instead of tables.
        save: Kinds of output, see `yolo9000.outputs`.
        out: Folder for them.
    """

    tree: bool = False
    draw_path: bool = False
    json: bool = False
    save: Sequence[str] = ("pictures",)
    out: Path = Path("out")


@dataclass
class _Reporter:
    """Prints and writes detections, one picture after the other."""

    show: Show
    outputs: Outputs
    console: Console = field(default_factory=Terminal)

    def report(self, frame: Frame | None, found: Detections) -> None:
        written = self.outputs.write(None if frame is None else frame.image, found)
        if self.show.json:
            print(found.to_json(), flush=True)
        else:
            print_detections(self.console, found, tree=self.show.tree, written=written)


def run_detect(
    model: YOLO9000, sources: Sequence[str], show: Show, options: Mapping[str, Any], batch: int | None = None
) -> int:
    """Detect in every picture and report on it; what cannot be read is reported and left out.

    Args:
        model: The detector.
        sources: As in `yolo9000.sources`.
        show: What becomes of detections.
        options: Settings of `YOLO9000.detect`.
        batch: Pictures run together; None: 8 on a GPU, else 4; 1 for cameras and pipes.

    Returns:
        How many sources could not be read, wholly or in part.
    """
    failures = 0
    waiting: deque[Frame] = deque()  # read, but not yet reported

    def failed(error: YOLO9000Error) -> None:
        nonlocal failures
        failures += 1
        complain(error)

    known: list[Any] | None = None if any(map(_is_live, sources)) else list(expand(sources))
    named = [source for source in (*sources, *(known or [])) if isinstance(source, str)]
    live = any(map(_is_live, named))  # also one that a list names

    def images() -> Iterator[Frame]:
        read = read_all(map(outputs.unwritten, expand(sources)) if known is None else known)
        for frame in read if live else ahead(read):
            if isinstance(frame, Frame):
                waiting.append(frame)
                yield frame
            else:
                failed(frame)

    if batch is None:
        several = _CPU_BATCH if model.device.type == "cpu" else _GPU_BATCH
        batch = 1 if live else several
    outputs = _outputs(show, named, more=any(map(is_piped, sources)))
    reporter = _Reporter(show, outputs)
    results = model.detect(images(), **options, batch=batch)
    with outputs, Counter(_count(known), reporter.console) as counter:
        for found in results:
            reporter.report(waiting.popleft(), found)
            counter.step()
    return failures


def _is_live(source: str) -> bool:
    """Whether the next picture may not be there yet: a camera gives the present one, a pipe what comes."""
    return is_camera(source) or is_stream(source) or is_piped(source)


def _count(known: list[Any] | None) -> int | None:
    """Pictures and frames in all, as far as that can be told in advance."""
    if known is None:
        return None
    total = 0
    for source in known:
        if is_video(source):
            from yolo9000.video import video_length

            length = video_length(source)
            if length is None:
                return None
            total += length
        else:
            total += not isinstance(source, ImageError)
    return total


def _outputs(show: Show, sources: Sequence[str], *, more: bool) -> Outputs:
    return Outputs(show.out, show.save, sources=sources, more=more, show_path=show.draw_path)


def run_relabel(path: str, tree: WordTree, show: Show, options: Mapping[str, Any]) -> int:
    """Label stored detections anew and report on them as `run_detect` does.

    Args:
        path: JSON Lines that `detect` wrote; "-" for standard input.
        tree: The tree of the model that detected.
        show: What becomes of detections. Pictures and crops read the sources again.
        options: Settings of `Detections.relabel`; none: leave the labels.

    Returns:
        How many sources could not be read again.

    Raises:
        DataError: A line that holds no detections, with its number.
    """
    failures = 0
    again, piped = bool(NEED_IMAGES & set(show.save)), is_piped(path)
    named = [found.source for found in stored(path, tree) if found.source] if again and not piped else []
    outputs = _outputs(show, [path, *named], more=again and piped)
    reporter = _Reporter(show, outputs)
    source = _Again() if again else None
    with outputs, Counter(None, reporter.console) as counter:
        for found in stored(path, tree):
            found = found.relabel(**options) if options else found
            frame = None
            try:
                frame = source.frame(found) if source else None
            except ImageError as error:  # what needs no picture is written all the same
                failures += 1
                complain(error)
            reporter.report(frame, found)
            counter.step()
    return failures


def stored(path: str, tree: WordTree) -> Iterator[Detections]:
    """Read JSON Lines that `detect` wrote, as they are asked for; "-" is standard input.

    Raises:
        DataError: A line that holds no detections, with its number.
    """
    for number, line in _lines(path):
        try:
            yield Detections.from_json(line, tree)
        except DataError as error:
            raise DataError(f"{path}:{number}: {error}") from error


class _Again:
    """Reads the pictures of stored detections again, frames of a video one after the other."""

    def __init__(self) -> None:
        self._name: str | None = None
        self._next = 0  # the first frame that is still to come
        self._frames: Iterator[Frame] = iter(())

    def frame(self, found: Detections) -> Frame:
        if found.source is None:
            raise ImageError("a picture that was not in a file cannot be read again: detect in files.")
        if found.frame is None:
            return next(frames(found.source))
        if self._name != found.source or found.frame < self._next:
            self._name, self._frames = found.source, frames(found.source)
        self._next = found.frame + 1
        for frame in self._frames:
            if frame.number == found.frame:
                return frame
        raise ImageError(f"{found.source}: has no frame {found.frame} any more.")


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers."""
    try:
        if path == STDIN and sys.stdin is None:
            raise OSError(errno.EBADF, "it is closed")
        with waiting_for(path):
            stream = sys.stdin if path == STDIN else Path(path).open(encoding="utf-8")  # noqa: SIM115
        with stream:
            yield from ((number, line) for number, line in enumerate(stream, 1) if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "it is no text"
        raise DataError(
            f"{path}: expected JSON Lines that `yolo9000 detect --json` or `--save jsonl` wrote: {problem}."
        ) from error
