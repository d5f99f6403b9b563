"""Writing files whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import string
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal, overload

_START = 40  # characters of a file's name that its temporary file has, too: the whole may be of the longest


@overload
def atomic_write(path: str | Path, *, text: Literal[True]) -> AbstractContextManager[IO[str]]: ...
@overload
def atomic_write(path: str | Path, *, text: Literal[False] = ...) -> AbstractContextManager[IO[bytes]]: ...
@contextmanager
def atomic_write(path: str | Path, *, text: bool = False) -> Iterator[IO[Any]]:
    r"""Open a file that replaces `path` only when the block ends without an exception.

    The content goes to a temporary file in the same folder, is flushed to disk, and is renamed over `path`;
    an interrupted write leaves the old file as it was. Missing folders are created. Of a link, the file that
    it leads to is replaced.

    Args:
        path: The file to write.
        text: Open in text mode, UTF-8 with `\n` line ends; binary otherwise.

    Yields:
        The open file.

    Raises:
        OSError: It cannot be written, is write-protected or no file; its `filename` is `path`.
    """
    target = Path(path)
    check_replaceable(target)  # now, not after it was written
    if target.is_symlink():
        target = Path(os.path.realpath(target))  # unlike `resolve`, no error of links in a circle
    # Its name is known before the file is there: whenever a signal comes, it can be removed.
    temporary = target.with_name(f".{target.name[:_START]}.{secrets.token_hex(4)}")
    try:
        make_folder(target.parent)
        with temporary.open("x", encoding="utf-8", newline="\n") if text else temporary.open("xb") as stream:
            yield stream
            _sync(stream)
        temporary.replace(target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno and _about(error, temporary):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def check_replaceable(path: Path) -> None:
    """Refuse what a rename would replace although it is no file, or one that may not be written.

    Raises:
        OSError: It is a folder, a device or a pipe, or write-protected.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, expected the name of a file", str(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "is a device or pipe, expected the name of a file", str(path))
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "is write-protected", str(path))


def make_folder(path: Path) -> None:
    """Make a folder, and those that it is in.

    Raises:
        OSError: It cannot be made; where a file is in its place, the error names that.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        file = next(place for place in (*reversed(path.parents), path) if not place.is_dir())
        raise NotADirectoryError(errno.ENOTDIR, f"{file} is a file, expected a folder") from error


def try_folder(path: Path) -> None:
    """Make sure that a folder can be written, or made; nothing stays behind, not even the folder.

    Raises:
        OSError: It cannot; as `make_folder`, or its `filename` is the folder.
    """
    there = next(place for place in (path, *path.parents) if place.exists())
    make_folder(there)  # refuses a file
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_together(contents: Mapping[Path, str | Callable[[IO[bytes]], object]]) -> None:
    """Write files that belong together: all or none.

    Every one is whole and on the disk, beside the file that it replaces, before the first is renamed.

    Args:
        contents: The text of each, or what writes it into its open file.

    Raises:
        OSError: One of them cannot be written; all are as they were.
    """
    with ExitStack() as stack:
        for path, content in contents.items():
            stream = stack.enter_context(atomic_write(path))
            if isinstance(content, str):
                stream.write(content.encode())
            else:
                content(stream)
            _sync(stream)


def _about(error: OSError, temporary: Path) -> bool:
    """Whether an error comes from writing the file: then it should name that one, not the temporary one."""
    return error.filename is None or Path(error.filename) in (temporary, *temporary.parents)


def _sync(stream: IO[Any]) -> None:
    stream.flush()
    os.fsync(stream.fileno())


_KINDS = {
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89PNG": "a PNG picture",
    b"PK\x03\x04": "a ZIP archive (PyTorch's own checkpoints are such)",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file",
    b"version https://git-lfs": "a Git LFS pointer (`git lfs pull` fetches the file itself)",
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"[net]": "a darknet cfg",
}
SAFETENSORS = "a safetensors file"
KIND_BYTES = 24  # of the start of a file, enough for `known_kind`


def known_kind(start: bytes) -> str | None:
    """What a file is that people take for another, by its first `KIND_BYTES`; None: nothing known."""
    if start[8:10] == b'{"':
        return SAFETENSORS
    text = "a text" if start and set(start) <= set(string.printable.encode()) else None
    return next(
        (kind for magic, kind in _KINDS.items() if start[: len(magic)].lower() == magic.lower()), text
    )
