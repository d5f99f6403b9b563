"""Where encoded images lie: loose files, one large file, or many tar files.

Stores are picklable, and safe to share between processes.
"""

from __future__ import annotations

import os
import sys
import threading
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from yolo9000.errors import DataError

_SEEKING = threading.Lock()


def encoded(name: str) -> bytes:
    """The bytes of a name of a file or class, which need not be UTF-8.

    Raises:
        DataError: It holds what no name can.
    """
    try:
        data = os.fsencode(name)
    except UnicodeEncodeError:
        data = b"\0"
    if b"\0" in data:
        raise DataError(f"{name!r} can be no name: correct the zero byte, or half of a surrogate pair, in it")
    return data


class Strings(Sequence[str]):
    """Many strings in two arrays: a few bytes each, and forked workers share the memory.

    Args:
        items: The strings.

    Raises:
        DataError: One of them can be no file's name.
    """

    def __init__(self, items: Iterable[str]) -> None:
        names = [encoded(item) for item in items]
        self._data = b"".join(names)
        self._ends = np.cumsum([0, *map(len, names)], dtype=np.int64)

    def arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """All bytes, and where each string ends, the first at index 1: what `from_arrays` takes."""
        return np.frombuffer(self._data, np.uint8), self._ends

    @classmethod
    def from_arrays(cls, data: NDArray[np.uint8], ends: NDArray[np.int64]) -> Strings:
        """The strings that gave these `arrays`."""
        strings = cls(())
        strings._data, strings._ends = data.tobytes(), ends
        return strings

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return os.fsdecode(self._data[self._ends[index] : self._ends[index + 1]])


def read_at(descriptor: int, size: int, start: int) -> bytes:
    """Read bytes of an open file from a place in it. Threads may share the file."""
    if sys.platform == "win32":
        return _seek_and_read(descriptor, size, start)
    else:
        return os.pread(descriptor, size, start)


def _seek_and_read(descriptor: int, size: int, start: int) -> bytes:
    """The same where the system has no call for both: one thread at a time."""
    with _SEEKING:
        os.lseek(descriptor, start, os.SEEK_SET)
        return os.read(descriptor, size)


class Store(Protocol):
    """Encoded images by number."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """The image's file for messages; inside a tar file `FILE.tar:member`."""

    def inner_name(self, index: int) -> str:
        """The image's path below the folder or file."""

    def size(self, index: int) -> int:
        """Length of the encoded image in bytes."""

    def read(self, index: int) -> bytes:
        """The encoded image."""


class FolderStore:
    """Loose files under one folder.

    Args:
        root: The folder.
        names: Paths below it.
    """

    def __init__(self, root: Path, names: Iterable[str]) -> None:
        self.root = root
        self.names = Strings(names)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """See `Store`."""
        return os.path.join(self.root, self.names[index])  # noqa: PTH118  (ten times quicker than Path)

    def inner_name(self, index: int) -> str:
        """See `Store`."""
        return self.names[index]

    def size(self, index: int) -> int:
        """See `Store`."""
        try:
            return os.stat(self.name(index)).st_size  # noqa: PTH116
        except OSError as error:
            raise _unreadable(self.name(index), error) from error

    def read(self, index: int) -> bytes:
        """See `Store`.

        Raises:
            DataError: The file is missing or cannot be read.
        """
        try:
            with open(self.name(index), "rb") as stream:  # noqa: PTH123
                return stream.read()
        except OSError as error:
            raise _unreadable(self.name(index), error) from error


def _unreadable(name: str, error: OSError) -> DataError:
    return DataError(
        f"{name}: {error.strerror or error}; the data set lists this image, so it should be there"
    )


def _read_member(store: RangeStore | TarStore, index: int, descriptor: int, file: str | Path) -> bytes:
    """The bytes of an image in the open file that holds it, which may have become shorter."""
    size = store.size(index)
    data = read_at(descriptor, size, int(store.starts[index]))
    if len(data) != size:
        raise DataError(
            f"{store.name(index)}: expected {size} bytes, got {len(data)}: {file} is cut off; copy it again"
        )
    return data


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))


class RangeStore:
    """Byte ranges of one file, such as the members of an uncompressed tar file.

    Reads name their position (`pread`), so any number of processes and threads may share one open file.

    Args:
        path: The file.
        names: Name of each range.
        starts: First byte of each.
        sizes: Length of each in bytes.
    """

    def __init__(self, path: Path, names: Iterable[str], starts: Sequence[int], sizes: Sequence[int]) -> None:
        self.path = path
        self.names = names if isinstance(names, Strings) else Strings(names)
        self.starts: NDArray[np.int64] = np.asarray(starts, dtype=np.int64)
        self.sizes: NDArray[np.int64] = np.asarray(sizes, dtype=np.int64)
        # Open from now on: under its name another file may soon be, such as a new pack.
        self._descriptor = _open(path)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """See `Store`."""
        return f"{self.path}:{self.names[index]}"

    def inner_name(self, index: int) -> str:
        """See `Store`."""
        return self.names[index]

    def size(self, index: int) -> int:
        """See `Store`."""
        return int(self.sizes[index])

    def read(self, index: int) -> bytes:
        """See `Store`.

        Raises:
            DataError: The file is gone or shorter than it was.
        """
        try:
            if self._descriptor < 0:
                self._descriptor = _open(self.path)
            return _read_member(self, index, self._descriptor, self.path)
        except OSError as error:
            raise _unreadable(self.name(index), error) from error

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_descriptor": -1}

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            os.close(self._descriptor)


class TarStore:
    """Members of many tar files, or of tar files within one tar file.

    Every read opens its file and closes it: nothing is shared between processes or threads, and the thousands
    of files of ImageNet stay below the limit on open files.

    Args:
        root: The folder of the tar files; or the one file that holds them.
        tars: Name of each tar file.
        counts: Members of each.
        names: Name of each member, tar by tar.
        starts: First byte of each in its file.
        sizes: Length of each in bytes.
    """

    def __init__(
        self,
        root: Path,
        tars: Sequence[str],
        counts: Sequence[int] | NDArray[np.int64],
        names: Strings,
        starts: NDArray[np.int64],
        sizes: NDArray[np.int64],
    ) -> None:
        self.root, self.names, self.starts, self.sizes = root, names, starts, sizes
        self.tars, self._ends = Strings(tars), np.cumsum(counts, dtype=np.int64)
        self._within = root.is_file()

    def __len__(self) -> int:
        return len(self.names)

    def _tar(self, index: int) -> str:
        return self.tars[int(np.searchsorted(self._ends, index, side="right"))]

    def file(self, index: int) -> str:
        """The file on disk that holds the image."""
        return str(self.root) if self._within else os.path.join(self.root, self._tar(index))  # noqa: PTH118

    def name(self, index: int) -> str:
        """See `Store`."""
        inner = f":{self._tar(index)}" if self._within else ""
        return f"{self.file(index)}{inner}:{self.names[index]}"

    def inner_name(self, index: int) -> str:
        """See `Store`."""
        return f"{self._tar(index)}:{self.names[index]}"

    def size(self, index: int) -> int:
        """See `Store`."""
        return int(self.sizes[index])

    def read(self, index: int) -> bytes:
        """See `Store`.

        Raises:
            DataError: The file is gone or shorter than it was.
        """
        try:
            with open(self.file(index), "rb", buffering=0) as stream:  # noqa: PTH123
                return _read_member(self, index, stream.fileno(), self.file(index))
        except OSError as error:
            raise _unreadable(self.name(index), error) from error


class ConcatStore:
    """Stores one after the other.

    Args:
        parts: The stores.
    """

    def __init__(self, parts: Sequence[Store]) -> None:
        self.parts = tuple(parts)
        self._ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _find(self, index: int) -> tuple[Store, int]:
        part = bisect_right(self._ends, index)
        return self.parts[part], index - (self._ends[part - 1] if part else 0)

    def name(self, index: int) -> str:
        """See `Store`."""
        part, place = self._find(index)
        return part.name(place)

    def inner_name(self, index: int) -> str:
        """See `Store`."""
        part, place = self._find(index)
        return part.inner_name(place)

    def size(self, index: int) -> int:
        """See `Store`."""
        part, place = self._find(index)
        return part.size(place)

    def read(self, index: int) -> bytes:
        """See `Store`."""
        part, place = self._find(index)
        return part.read(place)


class PartStore:
    """Some images of a store.

    Args:
        store: The store.
        images: Their numbers in it, in the order that they get here.
    """

    def __init__(self, store: Store, images: Iterable[int]) -> None:
        self.store, self.images = store, [int(image) for image in images]

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """See `Store`."""
        return self.store.name(self.images[index])

    def inner_name(self, index: int) -> str:
        """See `Store`."""
        return self.store.inner_name(self.images[index])

    def size(self, index: int) -> int:
        """See `Store`."""
        return self.store.size(self.images[index])

    def read(self, index: int) -> bytes:
        """See `Store`."""
        return self.store.read(self.images[index])
