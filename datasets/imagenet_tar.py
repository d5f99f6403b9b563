"""ImageNet as it is downloaded: one tar file a synset, alone or all within one tar file, read in place."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordtree._files import atomic_write
from yolo9000.datasets.folders import has_suffix, visible_files
from yolo9000.datasets.labels import WNID, Label
from yolo9000.datasets.records import Records, classification_records
from yolo9000.datasets.store import Strings, TarStore
from yolo9000.datasets.tars import Member, end_note, lacks_end, tar_members
from yolo9000.errors import DataError
from yolo9000.image import is_picture, is_unread, unread_note

_READERS = 8  # threads that read headers: the wait is for the disk, or for the network behind it
_Part = tuple[Path, int, int | None]  # where a tar file lies: see `tar_members`
_INDEX = "yolo9000-tar-index-4"  # 2: with the links in tar files; 3: all kinds of pictures; 4: `unended`


def read_imagenet_tar(root: str | Path, split: str = "train") -> Records:
    """Read `nXXXXXXXX.tar` with `nXXXXXXXX_i.JPEG` in each, without unpacking anything.

    A member's class is the folder that it lies in, or else the name of its tar file: a WordNet id, or the
    name of a node for one's own data. Where the images lie is kept in the user's cache (`YOLO9000_CACHE`), so
    that only the first opening reads all headers; it is read anew when a tar file changes.

    Args:
        root: A folder of tar files, or with the split's folder of them in it; or one tar file of tar files
            such as ILSVRC2012_img_train.tar, also the folder that it lies in; or one of class folders.
        split: `train` or `val`.

    Raises:
        DataError: No tar files, a compressed or cut-off one, or no images in them.
    """
    place = _place(Path(root), split)
    tars = [place.name] if place.is_file() else visible_files(place, ".tar")
    if not tars:
        found = ", ".join(sorted(path.name for path in place.iterdir())[:5]) or "nothing"
        raise DataError(
            f"{place}: expected tar files nXXXXXXXX.tar, one a synset, found {found}; compressed ones must "
            "be unpacked to .tar, and folders of images are read with imagenet:"
        )
    fingerprint = _fingerprint(place, tars)
    cached = _cache_file(place)
    index = _load(cached, fingerprint)
    if index is None:
        index = _scan(place, tars)
        _save(cached, fingerprint, index)
    notes = [unread_note(place, index.unread)] if len(index.unread) else []
    if not len(index.names):
        raise DataError(*notes or [f"{place}: no images (*.JPEG) in its {len(tars)} tar files"])
    names = list(index.tars)
    if empty := [name for name, count in zip(names, index.counts, strict=True) if not count]:
        notes.append(
            f"{place}: {len(empty):,} of its {len(names):,} tar files hold no images that are read, such as "
            f"{empty[0]}: left out; was a download interrupted?"
        )
    if len(index.unended):
        notes.append(end_note(place, list(index.unended)))
    store = TarStore(place, names, index.counts, index.names, index.starts, index.sizes)
    labels = [Label(name, name if WNID.fullmatch(name) else "") for name in index.labels]
    return classification_records(place, store, labels, index.label_ids, notes)


def _place(root: Path, split: str) -> Path:
    """The folder of tar files, or the one tar file."""
    tars = visible_files(root, ".tar") if root.is_dir() else []
    whole = [root / name for name in tars if name.lower() == f"ilsvrc2012_img_{split}.tar"]
    place = next((path for path in (*whole, root / split) if path.exists()), root)
    if not place.exists():
        raise DataError(f"{place}: no such folder or tar file; expected ImageNet's tar files, nXXXXXXXX.tar")
    return place


@dataclass(frozen=True)
class _Index:
    """Where the images lie. T tar files, R images, L labels."""

    tars: Strings  # T
    counts: NDArray[np.int64]  # [T] images in each
    names: Strings  # R
    starts: NDArray[np.int64]  # [R]
    sizes: NDArray[np.int64]  # [R]
    labels: Strings  # L
    label_ids: NDArray[np.int32]  # [R]
    unread: Strings  # pictures of kinds that are not read here, as TAR:member
    unended: Strings  # tar files that `lacks_end`


_TEXTS = ("tars", "names", "labels", "unread", "unended")  # fields, by how they are kept
_ARRAYS = ("counts", "starts", "sizes", "label_ids")


def _scan(place: Path, tars: Sequence[str]) -> _Index:
    parts: list[_Part] = [(place, 0, None)] if place.is_file() else [(place / tar, 0, None) for tar in tars]
    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(lambda part: tar_members(*part), parts))
        inner = [member for member in found[0] if has_suffix(_last(member[0]), ".tar")]
        unended = _unended(pool, tars, found, parts)
        if inner and place.is_file():
            tars, parts = [name for name, _, _ in inner], [(place, *member[1:]) for member in inner]
            found = list(pool.map(lambda part: tar_members(*part), parts))
            unended += _unended(pool, tars, found, parts)
    images = [[member for member in members if is_picture(_last(member[0]))] for members in found]
    unread = [
        f"{tar}:{name}"
        for tar, members in zip(tars, found, strict=True)
        for name, _, _ in members
        if is_unread(_last(name))
    ]
    classes = [
        _class(tar, name, place) for tar, part in zip(tars, images, strict=True) for name, _, _ in part
    ]
    labels, ids = np.unique(np.asarray(classes, dtype=np.str_), return_inverse=True)
    members: list[Member] = [member for part in images for member in part]
    return _Index(
        Strings(tars),
        np.asarray([len(part) for part in images], dtype=np.int64),
        Strings(name for name, _, _ in members),
        np.asarray([start for _, start, _ in members], dtype=np.int64),
        np.asarray([size for _, _, size in members], dtype=np.int64),
        Strings(map(str, labels)),
        ids.astype(np.int32),
        Strings(unread),
        Strings(unended),
    )


def _unended(
    pool: ThreadPoolExecutor, tars: Sequence[str], found: Sequence[list[Member]], parts: Sequence[_Part]
) -> list[str]:
    unended = pool.map(lambda members, part: lacks_end(members, *part), found, parts)
    return list(itertools.compress(tars, unended))


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _class(tar: str, name: str, place: Path) -> str:
    folder = PurePosixPath(name).parent.name if "/" in name else ""
    label = folder or PurePosixPath(tar).stem
    if label.startswith("ILSVRC2012_img"):
        raise DataError(
            f"{place}: {name} lies in no folder and no tar file of its synset, so nothing tells its class; "
            "sort the images into folders nXXXXXXXX (the validation set by its list of labels), and read "
            "them with imagenet:"
        )
    return label


def _fingerprint(place: Path, tars: Sequence[str]) -> str:
    """Changes with the name, size and time of any of the files."""
    digest = hashlib.sha256(_INDEX.encode())
    for tar in tars:
        status = os.stat(place if place.is_file() else place / tar)  # noqa: PTH116
        digest.update(os.fsencode(tar) + f"\0{status.st_size} {status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _cache_file(place: Path) -> Path:
    from yolo9000.hub import cache_folder

    name = hashlib.sha256(os.fsencode(place.resolve())).hexdigest()[:24]
    return cache_folder() / "tar-indexes" / f"{name}.npz"


def _load(path: Path, fingerprint: str) -> _Index | None:
    """The index as it was saved; None where there is none, another's, or a damaged one."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["fingerprint"]) != fingerprint:
                return None
            content: dict[str, Any] = {key: file[key] for key in _ARRAYS}
            content |= {key: Strings.from_arrays(file[key], file[f"{key}_ends"]) for key in _TEXTS}
            return _Index(**content)
    except Exception:  # zipfile and NumPy have many kinds
        return None


def _save(path: Path, fingerprint: str, index: _Index) -> None:
    """Keep the index for the next time; where that cannot be, the next opening takes as long as this one."""
    content: dict[str, Any] = {"fingerprint": fingerprint}
    content |= {key: getattr(index, key) for key in _ARRAYS}
    for key in _TEXTS:
        content[key], content[f"{key}_ends"] = getattr(index, key).arrays()
    try:
        with atomic_write(path) as stream:
            np.savez(stream, **content)
    except OSError:
        return
