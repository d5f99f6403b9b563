"""Where encoded images lie: loose files or one large file.

Stores are picklable, and safe to share between processes.
"""

from __future__ import annotations

import os
import tarfile
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from yolo9000.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif"})


class Strings(Sequence[str]):
    """Many strings in two arrays: a few bytes each, and forked workers share the memory.

    Args:
        items: The strings.
    """

    def __init__(self, items: Iterable[str]) -> None:
        encoded = [os.fsencode(item) for item in items]
        self._data = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return os.fsdecode(self._data[self._ends[index] : self._ends[index + 1]])


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
        self._descriptor = -1

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
                self._descriptor = os.open(self.path, os.O_RDONLY)
            data = os.pread(self._descriptor, int(self.sizes[index]), int(self.starts[index]))
        except OSError as error:
            raise _unreadable(self.name(index), error) from error
        if len(data) != self.sizes[index]:
            raise DataError(
                f"{self.name(index)}: expected {self.sizes[index]} bytes, got {len(data)}: {self.path} is "
                "cut off; copy it again"
            )
        return data

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_descriptor": -1}

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            os.close(self._descriptor)


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


def tar_index(path: Path) -> dict[str, tuple[int, int]]:
    """Positions of the files in a tar file, from one pass over its headers.

    Returns:
        Member name -> (first byte, length in bytes), in file order.

    Raises:
        DataError: Not a tar file, a compressed one (no random access), or a cut-off one.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            return {m.name: (m.offset_data, m.size) for m in archive if m.isfile()}
    except tarfile.TarError as error:
        raise DataError(
            f"{path}: not an uncompressed tar file ({error}); unpack it, or repack it with `tar cf`: images "
            "are read from the middle of the file, which compression does not allow"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
