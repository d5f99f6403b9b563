"""Writing files whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, Literal, overload


@overload
def atomic_write(path: str | Path, *, text: Literal[True]) -> AbstractContextManager[IO[str]]: ...
@overload
def atomic_write(path: str | Path, *, text: Literal[False] = ...) -> AbstractContextManager[IO[bytes]]: ...
@contextmanager
def atomic_write(path: str | Path, *, text: bool = False) -> Iterator[IO[Any]]:
    r"""Open a file that replaces `path` only when the block ends without an exception.

    The content goes to a temporary file in the same folder, is flushed to disk, and is renamed over `path`;
    an interrupted write leaves the old file as it was. Missing folders are created.

    Args:
        path: The file to write.
        text: Open in text mode, UTF-8 with `\n` line ends; binary otherwise.

    Yields:
        The open file.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    temporary = Path(name)
    try:
        # mkstemp makes files for the owner alone; give the result the mode any new file would have.
        mask = os.umask(0)
        os.umask(mask)
        os.fchmod(descriptor, 0o666 & ~mask)
        if text:
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as stream:
                yield stream
                _sync(stream)
        else:
            with os.fdopen(descriptor, "wb") as stream_bytes:
                yield stream_bytes
                _sync(stream_bytes)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync(stream: IO[Any]) -> None:
    stream.flush()
    os.fsync(stream.fileno())
