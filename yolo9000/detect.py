"""The `detect` command: find the pictures, run the model over them, print and draw what it finds.

Everything that a person sees goes through a rich console; JSON Lines go to standard output alone.
"""

from __future__ import annotations

import io
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rich.console import Console
from torch import Tensor

from wordtree._files import atomic_write
from yolo9000.decode import DecoderMode
from yolo9000.draw import annotate
from yolo9000.errors import ImageError, YOLO9000Error
from yolo9000.image import is_url, read_image
from yolo9000.model import YOLO9000
from yolo9000.report import print_detections
from yolo9000.results import Detections

_JPEG = frozenset({".jpg", ".jpeg", ".jpe", ".jfif"})
# What is taken out of a folder; a file that is named is read whatever its ending.
SUFFIXES = _JPEG | {".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
_JPEG_QUALITY = 92


@dataclass(frozen=True)
class DetectOptions:
    """How `detect` runs.

    Attributes:
        threshold: Lowest score, 0..1; None: the model's own.
        hier_threshold: How sure the walk down the tree must stay, 0..1.
        size: Side of the network input, pixels; None: the model's own.
        nms: Overlap above which boxes with related labels are one object, 0..1.
        decoder: "paper" or "darknet".
        batch: Pictures run together.
        tree: Print the path of each detection.
        draw_path: Write the path on the picture, too.
        json: Print JSON Lines instead of tables.
        out: Folder for annotated pictures; None: write none.
    """

    threshold: float | None = None
    hier_threshold: float = 0.5
    size: int | None = None
    nms: float = 0.45
    decoder: DecoderMode = "paper"
    batch: int = 1
    tree: bool = False
    draw_path: bool = False
    json: bool = False
    out: Path | None = Path("out")


def run_detect(model: YOLO9000, sources: Sequence[str], options: DetectOptions) -> int:
    """Detect in every picture and report on it; a picture that cannot be read is reported and left out.

    Args:
        model: The detector.
        sources: Files, folders, glob patterns, URLs.
        options: How to run.

    Returns:
        How many sources could not be read.
    """
    failures = 0
    waiting: deque[tuple[str, Tensor]] = deque()  # read, but not yet reported

    found_sources = list(_expand(sources))

    def images() -> Iterator[Tensor]:
        nonlocal failures
        for source in found_sources:
            try:
                image = read_image(source) if isinstance(source, str) else _fail(source)
            except ImageError as error:
                failures += 1
                complain(error)
            else:
                waiting.append((str(source), image))
                yield image

    files = [source for source in found_sources if isinstance(source, str) and not is_url(source)]
    writer = None if options.out is None else _Writer(options.out, files)
    console = Console(highlight=False)
    results = model.detect(
        images(),
        threshold=options.threshold,
        hier_threshold=options.hier_threshold,
        size=options.size,
        nms=options.nms,
        decoder=options.decoder,
        batch=options.batch,
    )
    for found in results:
        source, image = waiting.popleft()
        found = replace(found, source=source)
        target = writer.write(image, found, show_path=options.draw_path) if writer else None
        if options.json:
            print(found.to_json(), flush=True)
        else:
            print_detections(console, found, tree=options.tree, written=target)
    return failures


def demo_photos() -> list[str]:
    """The photos that come with the package."""
    folder = Path(str(resources.files("yolo9000") / "photos"))
    return [str(path) for path in sorted(folder.glob("*.jpg"))]


def complain(error: YOLO9000Error) -> None:
    """Print an error on standard error, in red where that is a terminal."""
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"Error: {error}", style="red")


def _fail(error: ImageError) -> Tensor:
    raise error


def _expand(sources: Sequence[str]) -> Iterator[str | ImageError]:
    """Paths and URLs in the order given, what folders and patterns hold by name, errors in their place."""
    for source in sources:
        path = Path(source)
        if is_url(source) or path.is_file():
            yield source
        elif path.is_dir():
            pictures = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
            if not pictures:
                yield ImageError(f"{source}: no pictures in it (looked for {' '.join(sorted(SUFFIXES))}).")
            yield from map(str, pictures)
        elif any(sign in source for sign in "*?["):
            matches = _matches(path)
            if not matches:
                yield ImageError(f"{source}: no file matches this pattern.")
            yield from matches
        else:
            yield ImageError(f"{source}: no such file, folder or pattern.")


def _matches(pattern: Path) -> list[str]:
    """Files that a glob pattern, absolute or relative, matches, by name."""
    try:
        found = Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
        return sorted(str(match) for match in found if match.is_file())
    except ValueError:  # such as a** within a name
        return []


class _Writer:
    """Writes annotated pictures into one folder under their own names, none twice, none over a source."""

    def __init__(self, folder: Path, sources: Sequence[str]) -> None:
        self.folder = folder
        self.used = {Path(source).resolve() for source in sources}

    def write(self, image: Tensor, found: Detections, *, show_path: bool) -> Path:
        """Draw and write one picture: JPEG stays JPEG, anything else becomes PNG."""
        target = self._target(found.source or "image")
        picture = annotate(image, found, show_path=show_path)
        data = io.BytesIO()
        if target.suffix == ".png":
            picture.save(data, "PNG")
        else:
            picture.save(data, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
        try:
            with atomic_write(target) as stream:
                stream.write(data.getvalue())
        except OSError as error:
            raise YOLO9000Error(
                f"{target}: cannot be written: {error.strerror or error}. Choose another folder with --out."
            ) from error
        return target

    def _target(self, source: str) -> Path:
        path = Path(unquote(urlsplit(source).path) if is_url(source) else source)
        suffix = path.suffix.lower() if path.suffix.lower() in _JPEG else ".png"
        stem, number = path.stem or "image", 1
        target = self.folder / f"{stem}{suffix}"
        while target.resolve() in self.used:
            number += 1
            target = self.folder / f"{stem}-{number}{suffix}"
        self.used.add(target.resolve())
        return target


def no_sources() -> str:
    """What to say to somebody who names no picture."""
    name = Path(sys.argv[0]).name or "yolo9000"
    return (
        "No pictures given. Try the photos that come with the package:\n\n"
        f"    {name} detect --demo --tree\n\n"
        "or your own files, folders, patterns and URLs:\n\n"
        f"    {name} detect photo.jpg holiday/ 'scans/*.png' https://example.org/cat.jpg\n"
    )
