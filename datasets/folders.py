"""The files of folders, without those that systems and tools leave there: hidden ones and `__MACOSX`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from yolo9000.errors import DataError

SPLITS = {"val": ("val", "valid"), "valid": ("valid", "val")}  # other names that a split goes by


def is_visible(name: str) -> bool:
    """Whether a name is a user's: not hidden (`._a.tar`, `.ipynb_checkpoints`), nor macOS's `__MACOSX`."""
    return not name.startswith(".") and name != "__MACOSX"


def has_suffix(name: str, *suffixes: str) -> bool:
    """Whether a visible file's name ends in one of the suffixes (`.tar`), in capitals or not."""
    return is_visible(name) and name.lower().endswith(suffixes)


def visible_files(folder: Path, *suffixes: str) -> list[str]:
    """Names of a folder's visible files that end in one of the suffixes, sorted.

    Raises:
        DataError: The folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if has_suffix(e.name, *suffixes) and not e.is_dir())
    except OSError as error:
        raise _unreadable(error, folder) from error


def check_link(path: str) -> None:
    """Refuse a link to a folder that is not there, whose files would be missing without a word.

    Names with a suffix are taken for files, which are missed where they are read.

    Raises:
        DataError: It is one.
    """
    name_only = not os.path.splitext(path)[1]  # noqa: PTH122  (here and below: quicker than Path)
    if name_only and os.path.islink(path) and not os.path.exists(path):  # noqa: PTH110, PTH114
        raise DataError(
            f"{path}: a link to {os.readlink(path)}, which is not there; correct or remove the link"  # noqa: PTH115
        )


def walk(place: Path) -> Iterator[tuple[str, list[str]]]:
    """A folder and all visible ones in it, also by links, each once: path, and names of its visible files.

    Folders come before the links to them, which may lead back to a folder above.

    Raises:
        DataError: One of the folders cannot be read, or is a link to nothing.
    """

    def refuse(error: OSError) -> None:
        raise _unreadable(error, place) from error

    waiting, seen = [os.fspath(place)], set()
    for top in waiting:  # grows by the links that are found
        for folder, folders, names in os.walk(top, onerror=refuse):
            real = os.path.realpath(folder)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(filter(is_visible, folders))
            waiting += [path for path in (os.path.join(folder, f) for f in folders) if os.path.islink(path)]  # noqa: PTH114, PTH118
            names = sorted(filter(is_visible, names))
            for name in names:
                check_link(os.path.join(folder, name))  # noqa: PTH118
            yield folder, names


def _unreadable(error: OSError, folder: Path) -> DataError:
    return DataError(
        f"{error.filename or folder}: {error.strerror or error}; expected a folder that can be read: "
        "correct its permissions, or move it out of the data set"
    )
