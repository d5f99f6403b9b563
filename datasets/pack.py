"""Any data set in one HDF5 file: the encoded images as they are, boxes, and labels as WordNet ids and names.

Layout (attributes `format`, `kind`, `rules`, `fingerprint`; R images, T labels of all images, L classes):

    images      uint8 [bytes]       the encoded images, one after the other, in one piece of the file
    starts      int64 [R]           first byte of each image in `images`
    sizes       int64 [R]           its length
    names       bytes [R]           its path in the data set it came from
    offsets     int64 [R + 1]       its labels are rows offsets[i]:offsets[i + 1]
    label_ids   int32 [T]           class of each label
    boxes       float32 [T, 4]      XYXY in pixels, or as shares of the sides; [0, 4] for classification
    normalised  bool [R]            the image's boxes are shares
    stated      int32 [R, 2]        width and height of the image as its annotation states them; 0: not stated
    ignored     bool [T]            difficult objects or crowds, as `rules` says
    label_names, label_wnids [L]    the classes; no nodes, so that a pack serves every tree
    issues                          annotations that the reader left out

`rules` is whose rules boxes are scored by: `voc`, `coco`, `imagenet-det`, or `mixed` where data sets of
several are in the pack. Packs from before there was this attribute are read as `voc`, those from before there
was `stated` as if nothing was stated. `fingerprint` is that of the records (`Records.fingerprint`): labels,
boxes and names that were damaged later do not have it. All texts are of fixed length: where those of variable
length are damaged, HDF5 may look for them for ever.

The space of `images` is reserved when the file is made, so its place in the file is known: images are
written and read with plain positioned I/O, and the file's structure is never touched again. A pack that is
killed at any moment goes on where it was, and any number of processes read without locks.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from wordtree._files import atomic_write, make_folder
from yolo9000.datasets.cache import CachedDataset, ConcatDataset
from yolo9000.datasets.labels import Label
from yolo9000.datasets.records import Records, TableDataset, concat_records
from yolo9000.datasets.sample import SCORE_RULES, SampleDataset
from yolo9000.datasets.store import RangeStore, encoded
from yolo9000.errors import DataError

FORMAT = "yolo9000-pack-1"
# What h5py raises for damaged files, by the place of the damage.
_DAMAGE = (
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    RuntimeError,
    OverflowError,
    MemoryError,
)
JOURNAL_BYTES = (
    64 << 20
)  # image bytes between two entries of the journal: what an interruption repeats at most


def pack(
    dataset: SampleDataset | Records,
    path: str | Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    journal_bytes: int = JOURNAL_BYTES,
) -> Path:
    """Write a data set into one HDF5 file of about the size of its images.

    The file appears under its name only when it is complete. Until then `PATH.partial` and
    `PATH.partial.json` lie beside it; called again with the same data, `pack` goes on from there.

    Args:
        dataset: What `open_dataset` or `read_records` gives; all its images are packed, also those whose
            labels the data set's tree lacks.
        path: The file to write; of a link, the file that it leads to.
        overwrite: Replace a finished file.
        progress: Called with images done and images in all.
        journal_bytes: See `JOURNAL_BYTES`.

    Returns:
        `path`.

    Raises:
        DataError: The file exists, another process packs into it, an image cannot be read or has changed
            since, or the disk is full.
    """
    target = Path(path)
    if target.is_dir():
        raise DataError(f"{target}: is a folder; expected the name of a file to write, such as data.h5")
    if target.exists() and not overwrite:
        raise DataError(f"{target}: exists already; remove it or pack with overwrite")
    records = concat_records(list(_records_of(dataset)))
    if target.is_symlink():
        target = Path(os.path.realpath(target))  # on the disk that the link is to
    try:
        make_folder(target.parent)
        with TemporaryFile(dir=target.parent):  # a lock that cannot be made would look like one that is held
            pass
    except OSError as error:
        raise DataError(f"{target}: cannot be written: {error.strerror or error}") from error
    lock = FileLock(target.with_name(target.name + ".partial.lock"), timeout=0)
    try:
        with lock:
            try:
                _pack(records, target, progress, journal_bytes)
            finally:
                Path(lock.lock_file).unlink(missing_ok=True)
    except Timeout as error:
        raise DataError(f"{target}: another process is packing into it; wait for that one") from error
    return Path(path)


def _pack(
    records: Records, target: Path, progress: Callable[[int, int], None] | None, journal_bytes: int
) -> None:
    sizes = np.asarray([records.store.size(i) for i in range(len(records.store))], dtype=np.int64)
    partial = target.with_name(target.name + ".partial")
    journal = _Journal(target.with_name(target.name + ".partial.json"), _fingerprint(records, sizes))
    done = journal.read() if _is_begun(partial, records) else 0
    try:
        if not done:
            journal.path.unlink(missing_ok=True)
            partial.unlink(missing_ok=True)
            _check_room(target, int(sizes.sum()))
            _create(partial, records, sizes)
        _copy(partial, records, sizes, done, journal, progress, journal_bytes)
    except (OSError, RuntimeError) as error:  # RuntimeError: HDF5 could not write
        raise DataError(f"{partial}: {_reason(error)}; run the same command again to go on") from error
    partial.replace(target)
    journal.path.unlink(missing_ok=True)


def _check_room(target: Path, needed: int) -> None:
    """Refuse at once what would not fit on the disk hours later."""
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise DataError(
            f"{target}: the images take {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free there; "
            "make room, or name a file on another disk"
        )


def _reason(error: Exception) -> str:
    """Why a file cannot be written or read; HDF5 says so amid much else."""
    found = re.search(r"errno = (\d+)", str(error))
    return os.strerror(int(found[1])) if found else getattr(error, "strerror", None) or str(error)


def _is_begun(partial: Path, records: Records) -> bool:
    """Whether a pack of these records was begun in a file, which is whole but for images."""
    try:
        return partial.exists() and read_pack(partial).fingerprint == records.fingerprint
    except DataError:
        return False


def _records_of(dataset: SampleDataset | Records) -> Iterator[Records]:
    if isinstance(dataset, Records):
        yield dataset
    elif isinstance(dataset, TableDataset):
        yield dataset.records
    elif isinstance(dataset, CachedDataset):
        yield from _records_of(dataset.dataset)
    elif isinstance(dataset, ConcatDataset):
        for part in dataset.parts:
            yield from _records_of(part)
    else:
        raise DataError(
            f"pack: expected a data set from open_dataset or read_records, got {type(dataset).__name__}"
        )


class _Journal:
    """How many images are safely on disk, for which data."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path, self.fingerprint = path, fingerprint

    def read(self) -> int:
        try:
            entry = json.loads(self.path.read_text(encoding="utf-8"))
            return int(entry["done"]) if entry["fingerprint"] == self.fingerprint else 0
        except (OSError, ValueError, LookupError, TypeError):  # none, or a damaged one
            return 0

    def write(self, done: int) -> None:
        with atomic_write(self.path, text=True) as stream:
            stream.write(json.dumps({"fingerprint": self.fingerprint, "done": done}))


def _fingerprint(records: Records, sizes: NDArray[np.int64]) -> str:
    """Changes with the images' paths and sizes, and with all that is packed with them."""
    digest = hashlib.sha256(f"{FORMAT} {records.fingerprint} ".encode() + sizes.tobytes())
    for i in range(len(records.store)):
        digest.update(os.fsencode(records.store.name(i)) + b"\0")
    return digest.hexdigest()


def _create(path: Path, records: Records, sizes: NDArray[np.int64]) -> None:
    """The whole file but for the images' bytes, whose space is reserved."""
    import h5py

    space = h5py.h5s.create_simple((max(int(sizes.sum()), 1),))
    reserved = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    reserved.set_layout(h5py.h5d.CONTIGUOUS)
    reserved.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    reserved.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    reserved.set_obj_track_times(False)  # the same data give the same file, byte for byte
    about = {
        "format": FORMAT,
        "kind": records.kind,
        "rules": records.rules,
        "fingerprint": records.fingerprint,
    }
    with h5py.File(path, "w") as file:
        for name, value in about.items():
            file.attrs[name] = np.bytes_(value, "ascii")
        h5py.h5d.create(file.id, b"images", h5py.h5t.STD_U8LE, space, reserved)
        file["starts"], file["sizes"] = np.cumsum(sizes) - sizes, sizes
        file["offsets"], file["label_ids"] = records.offsets, records.label_ids
        file["boxes"], file["ignored"] = records.boxes, records.ignored
        file["normalised"], file["stated"] = records.normalised, records.stated
        texts = {
            "names": [records.store.inner_name(i) for i in range(len(records.store))],
            "label_names": [label.name for label in records.labels],
            "label_wnids": [label.wnid for label in records.labels],
            "issues": records.issues,
        }
        for name, values in texts.items():
            data = np.asarray([encoded(value) for value in values], dtype=np.bytes_)
            file[name] = data.astype(h5py.string_dtype(length=data.itemsize))


def _copy(
    path: Path,
    records: Records,
    sizes: NDArray[np.int64],
    done: int,
    journal: _Journal,
    progress: Callable[[int, int], None] | None,
    journal_bytes: int,
) -> None:
    place = _images_place(path) + int(sizes[:done].sum())
    total, pending = len(sizes), 0
    with path.open("r+b") as file:
        file.seek(place)
        for i in range(done, total):
            data = records.store.read(i)
            if len(data) != sizes[i]:
                raise DataError(
                    f"{records.store.name(i)}: {sizes[i]} bytes before, {len(data)} now: it has changed "
                    "while it was packed; run the same command again"
                )
            file.write(data)
            pending += len(data)
            if pending >= journal_bytes or i + 1 == total:
                file.flush()
                os.fsync(file.fileno())
                journal.write(i + 1)
                pending = 0
            if progress is not None:
                progress(i + 1, total)


def _images_place(path: Path) -> int:
    import h5py

    with h5py.File(path, "r") as file:
        return int(file["images"].id.get_offset())


def read_pack(path: str | Path, split: str = "train") -> Records:
    """Open a packed data set.

    Args:
        path: The HDF5 file.
        split: Not used: a pack holds one split.

    Raises:
        DataError: No HDF5 file, one of another program, or a cut-off one.
    """
    import h5py

    source = Path(path)
    try:
        with h5py.File(source, "r") as file:
            if (found := _attribute(file, "format")) != FORMAT:
                raise DataError(
                    f"{source}: expected a file that `yolo9000 pack` wrote (format {FORMAT!r}), got {found!r}"
                )
            _check_datasets(file, source)
            starts = file["starts"][:] + int(file["images"].id.get_offset())
            store = RangeStore(source, map(os.fsdecode, file["names"][:]), starts, file["sizes"][:])
            names, wnids, issues = (
                map(os.fsdecode, file[name][:]) for name in ("label_names", "label_wnids", "issues")
            )
            records = Records(
                source,
                _attribute(file, "kind"),
                store,
                tuple(Label(name, wnid) for name, wnid in zip(names, wnids, strict=True)),
                file["offsets"][:],
                file["label_ids"][:],
                file["boxes"][:],
                file["ignored"][:].astype(np.bool_),
                tuple(issues),
                file["normalised"][:].astype(np.bool_),
                _attribute(file, "rules", "voc"),
                file["stated"][:] if "stated" in file else np.zeros((len(store), 2), np.int32),
            )
            if _attribute(file, "fingerprint", records.fingerprint) != records.fingerprint:
                raise DataError(
                    f"{source}: its labels, boxes or names are not those that were packed: the file is "
                    "damaged; pack it again, or copy it again"
                )
            return records
    except _DAMAGE as error:
        raise DataError(
            f"{source}: cannot be read as a packed data set: {_reason(error)}; pack it again, "
            "or copy it again if it is cut off"
        ) from error


def _attribute(file: Any, name: str, otherwise: str | None = None) -> Any:
    """What a file says of itself; packs from before texts had a fixed length give text, not bytes."""
    value = file.attrs.get(name, otherwise)
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _check_datasets(file: Any, source: Path) -> None:
    """See that every array is there, is no larger than the file, and fits the others.

    Raises:
        DataError: With the array that does not.
    """
    if (kind := _attribute(file, "kind")) not in ("detection", "classification"):
        raise DataError(f"{source}: kind {kind!r}: expected detection or classification; pack it again")
    if (rules := _attribute(file, "rules", "voc")) not in SCORE_RULES:
        raise DataError(f"{source}: rules {rules!r}: expected one of {', '.join(SCORE_RULES)}; pack it again")
    images, labels = len(file["names"]), len(file["label_ids"])
    shapes = {
        "starts": ((images,), "iu"),
        "sizes": ((images,), "iu"),
        "offsets": ((images + 1,), "iu"),
        "label_ids": ((labels,), "iu"),
        "boxes": ((labels if kind == "detection" else 0, 4), "f"),
        "ignored": ((labels,), "biu"),
        "normalised": ((images,), "biu"),
        "label_wnids": (file["label_names"].shape, "OS"),
    }
    if "stated" in file:
        shapes["stated"] = ((images, 2), "i")
    for name, (shape, kinds) in shapes.items():
        if file[name].shape != shape or file[name].dtype.kind not in kinds:
            found = f"{file[name].dtype} {file[name].shape}"
            raise DataError(f"{source}: {name} is {found}, expected {shape}; pack it again")
    size = source.stat().st_size
    for name in (*shapes, "names", "label_names", "issues"):
        if file[name].nbytes > size:
            raise DataError(f"{source}: {name} is larger than the file; copy it again")
    offsets, ids = file["offsets"][:], file["label_ids"][:]
    classes = len(file["label_names"])
    rising = len(offsets) and offsets[0] == 0 and offsets[-1] == labels and (np.diff(offsets) >= 0).all()
    if not rising or (labels and not (ids.min() >= 0 and ids.max() < classes)):
        raise DataError(f"{source}: offsets or label_ids point outside of its {labels} labels; pack it again")
    starts, sizes = file["starts"][:], file["sizes"][:]
    if images and (starts.min() < 0 or sizes.min() < 0 or (starts > size).any() or (sizes > size).any()):
        raise DataError(f"{source}: an image lies outside of the file; copy it again")
