"""Published darknet weights: downloaded from their authors' address on first use, kept in the user's cache.

Nothing is used before its size and structure fit its cfg. A download that was interrupted goes on where it
stopped. Environment variables: `YOLO9000_CACHE` names the folder, `YOLO9000_MIRROR` an address to ask instead
of the authors', `YOLO9000_OFFLINE=1` forbids asking at all.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from ssl import SSLError
from typing import Protocol, cast

from filelock import FileLock

from wordtree._files import make_folder
from yolo9000 import __version__
from yolo9000.checkpoint import load_darknet
from yolo9000.darknet.cfg import Cfg
from yolo9000.darknet.weights import file_sizes
from yolo9000.errors import WeightsError
from yolo9000.network import Network

AUTHORS = "https://pjreddie.com/media/files"
MIRROR = "YOLO9000_MIRROR"
CACHE = "YOLO9000_CACHE"
OFFLINE = "YOLO9000_OFFLINE"
TIMEOUT = 30.0  # seconds without a byte before an attempt ends
PAUSES = (0.5, 2.0, 8.0)  # seconds before each further attempt
_PIECE = 1 << 18  # bytes
_SPARE = 64 << 20  # bytes of the disk left free


@dataclass(frozen=True)
class Published:
    """Weights that their authors offer.

    Attributes:
        cfg: Their description, a built-in name or a file.
        file: Name of the file at the address.
        about: One line for lists.
    """

    cfg: str
    file: str
    about: str


PUBLISHED = {
    "yolo9000": Published("yolo9000", "yolo9000.weights", "9,418 classes, COCO and ImageNet, 544 pixels"),
    "yolov2": Published("yolov2", "yolov2.weights", "80 classes of COCO, 608 pixels"),
    "yolov2-voc": Published("yolov2-voc", "yolov2-voc.weights", "20 classes of VOC, 416 pixels"),
    "yolov2-tiny": Published("yolov2-tiny", "yolov2-tiny.weights", "80 classes of COCO, small and fast"),
}


class Report(Protocol):
    """Told of the bytes that are there so far, and of all that there will be."""

    def __call__(self, done: int, total: int) -> None: ...


def cache_folder() -> Path:
    """Where downloads are kept: `YOLO9000_CACHE`, else `yolo9000` in the user's folder for caches."""
    if named := os.environ.get(CACHE):
        return Path(named).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", "~/AppData/Local"))
    elif sys.platform == "darwin":
        base = Path("~/Library/Caches")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return base.expanduser() / "yolo9000"


def cached(name: str) -> Path | None:
    """The weights of a published model if they are in the cache and of the right size."""
    entry = PUBLISHED[name]
    path = cache_folder() / entry.file
    try:
        return path if path.stat().st_size in file_sizes(Cfg.load(entry.cfg)) else None
    except OSError:
        return None


def load_published(
    name: str, *, offline: bool | None = None, mirror: str | None = None, report: Report | None = None
) -> Network:
    """Load a published model, and download its weights first if they are not in the cache.

    Args:
        name: One of `PUBLISHED`.
        offline: Do not ask the network; by default as `YOLO9000_OFFLINE` says.
        mirror: Address to ask instead of the authors', by default that in `YOLO9000_MIRROR`.
        report: Told of the progress; by default a bar on the terminal.

    Raises:
        WeightsError: The file cannot be had, or is not what it should be; with the steps to do by hand.
    """
    entry = PUBLISHED[name]
    path = cached(name)
    if path is not None:
        return load_darknet(entry.cfg, path)
    path = cache_folder() / entry.file
    sizes = file_sizes(Cfg.load(entry.cfg))
    url = f"{(mirror or os.environ.get(MIRROR) or AUTHORS).rstrip('/')}/{entry.file}"
    try:
        if os.environ.get(OFFLINE, "0") not in ("", "0") if offline is None else offline:
            raise WeightsError(_absent(path, sizes) + ", and downloads are switched off")
        return _fetch(url, path, entry, sizes, report)
    except WeightsError as error:
        raise WeightsError(f"{name}: {error}. {_by_hand(url, path)}") from error


def _absent(path: Path, sizes: tuple[int, int]) -> str:
    if not path.exists():
        return f"{path} is not there"
    return f"{path} has {path.stat().st_size:,} bytes, expected {sizes[1]:,}"


def _by_hand(url: str, path: Path) -> str:
    return (
        f"By hand: download {url} with any program and put it at {path}; or name another address that "
        f"holds it in {MIRROR}, or the folder where you have it in {CACHE}"
    )


def _fetch(url: str, path: Path, entry: Published, sizes: tuple[int, int], report: Report | None) -> Network:
    """Download, check, move into place."""
    part = path.with_name(f"{path.name}.part")
    try:
        make_folder(path.parent)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if path.exists() and path.stat().st_size in sizes:  # another process was faster
                return load_darknet(entry.cfg, path)
            with _shown(entry.file, report) as show:
                _download(url, part, sizes, show)
            network = _checked(entry, part, url)
            part.replace(path)
            _tag(part).unlink(missing_ok=True)
            return network
    except OSError as error:
        raise WeightsError(f"{path.parent} cannot be written ({error.strerror or error})") from error


def _checked(entry: Published, part: Path, url: str) -> Network:
    """The network of a complete download; one that is no such weights file is removed."""
    try:
        network = load_darknet(entry.cfg, part)
        network.check_values()
    except WeightsError as error:
        part.unlink()
        _tag(part).unlink(missing_ok=True)
        raise WeightsError(f"what {url} holds is damaged: {error}") from error
    return network


def _tag(part: Path) -> Path:
    """Beside a part, which version of the file on the server it is of."""
    return part.with_name(f"{part.name}.tag")


class _FinalError(Exception):
    """No further attempt would help."""


def _download(url: str, part: Path, sizes: tuple[int, int], show: Report) -> None:
    """Fill `part`, in several attempts, each of which goes on where the last one ended.

    Raises:
        WeightsError: The last attempt's reason.
        OSError: The folder cannot be written.
    """
    for pause in (*PAUSES, None):
        try:
            _attempt(url, part, sizes, show)
            return
        except _FinalError as error:
            raise WeightsError(str(error)) from error
        except (urllib.error.URLError, HTTPException, ConnectionError, TimeoutError, SSLError) as error:
            if pause is None:
                reason = str(error) or type(error).__name__
                kept = f"; {part.stat().st_size:,} bytes are kept for the next try" if part.exists() else ""
                raise WeightsError(f"{url} cannot be downloaded: {reason}{kept}") from error
            time.sleep(pause)


def _attempt(url: str, part: Path, sizes: tuple[int, int], show: Report) -> None:
    """One request, for what is missing of `part`."""
    start = part.stat().st_size if part.exists() else 0
    if start in sizes:
        return
    tag = _tag(part).read_text(encoding="utf-8") if start and _tag(part).exists() else None
    headers = {"User-Agent": f"yolo9000/{__version__}"}
    if start and tag and start < sizes[1]:
        headers |= {"Range": f"bytes={start}-", "If-Range": tag}
    with _open(url, headers) as response:
        resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(
            f"bytes {start}-"
        )
        start = start if resumed else 0
        total = _total(response, start, url, sizes)
        free = shutil.disk_usage(part.parent).free
        if total - start + _SPARE > free:
            raise _FinalError(
                f"{part.parent} has {free / 1e6:,.0f} MB free, {url} takes {total / 1e6:,.0f} MB"
            )
        # Only a strong validator tells that two halves are of one file (RFC 9110, section 13.1.5).
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        _tag(part).write_text("" if tag.startswith("W/") else tag, encoding="utf-8")
        with part.open("ab" if resumed else "wb") as stream:
            while piece := response.read(min(_PIECE, total - start + 1)):
                stream.write(piece)
                start += len(piece)
                if start > total:
                    break
                show(start, total)
    if start != total:
        raise ConnectionError(f"the connection ended after {start:,} of {total:,} bytes")


def _open(url: str, headers: Mapping[str, str]) -> HTTPResponse:
    try:
        request = urllib.request.Request(url, headers=dict(headers))
        return cast(HTTPResponse, urllib.request.urlopen(request, timeout=TIMEOUT))
    except urllib.error.HTTPError as error:
        if error.code in (408, 425, 429) or error.code >= 500:
            raise
        raise _FinalError(f"{url}: the server answered {error.code} {error.reason}") from error
    except ValueError as error:
        raise _FinalError(f"{url} is no address: {error}") from error


def _total(response: HTTPResponse, start: int, url: str, sizes: tuple[int, int]) -> int:
    """Bytes of the whole file, checked before the first one is read."""
    length = response.headers.get("Content-Length", "")
    if not length.isdecimal():
        return sizes[1]
    total = start + int(length)
    if total not in sizes:
        kind = response.headers.get_content_type()
        raise _FinalError(f"{url} has {total:,} bytes ({kind}), expected {sizes[0]:,} or {sizes[1]:,}")
    return total


@contextmanager
def _shown(title: str, report: Report | None) -> Iterator[Report]:
    """The caller's report, or a bar on standard error, or where that is no terminal a line."""
    if report is not None:
        yield report
        return
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    from yolo9000.progress import titled

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bar, row = titled(title, *columns)
    if bar.disable:
        bar.console.print(f"downloading {title} ...")
    with bar:
        yield lambda done, total: bar.update(row, completed=done, total=total)


__all__ = ["PUBLISHED", "Published", "cache_folder", "cached", "load_published"]
