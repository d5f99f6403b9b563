"""ImageNet's tar files: the same images as unpacked, many processes, damaged files by their messages."""

from __future__ import annotations

import io
import pickle
import re
import resource
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from wordtree import WordTree
from yolo9000.datasets import Records, data_check, imagenet_tar, open_dataset, pack, read_records
from yolo9000.datasets.store import TarStore, _seek_and_read, read_at
from yolo9000.datasets.tars import tar_members
from yolo9000.errors import DataError

WNIDS = ["n00015388", "n02084071", "n02121620", "n02110185"]
TREE = WordTree([-1, 0, 0, 1], WNIDS, ["animal", "dog", "cat", "Siberian husky"])
COUNTS = {"n02084071": 3, "n02110185": 1, "n02121620": 4}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("YOLO9000_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def photo(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (30 + seed, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, format="JPEG")
    return stream.getvalue()


def images() -> Iterator[tuple[str, str, bytes]]:
    """Synset, file name and content."""
    for wnid, count in COUNTS.items():
        for i in range(count):
            yield wnid, f"{wnid}_{i}.JPEG", photo(i + len(wnid))


@pytest.fixture
def loose(tmp_path: Path) -> Path:
    for wnid, name, data in images():
        (tmp_path / "loose" / "train" / wnid).mkdir(parents=True, exist_ok=True)
        (tmp_path / "loose" / "train" / wnid / name).write_bytes(data)
    return tmp_path / "loose"


def write_tar(path: Path, files: list[tuple[str, bytes]], format: int = tarfile.GNU_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as archive:
        for name, data in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def synset_tars(folder: Path, form: int = tarfile.GNU_FORMAT) -> Path:
    for wnid in COUNTS:
        files = [(name, data) for synset, name, data in images() if synset == wnid]
        write_tar(folder / f"{wnid}.tar", [*files, ("notes.txt", b"no image")], form)
    return folder


def whole_tar(folder: Path) -> Path:
    """One tar file of the synsets' tar files, as ILSVRC2012_img_train.tar is."""
    parts = synset_tars(folder.parent / "parts")
    files = [(f"{wnid}.tar", (parts / f"{wnid}.tar").read_bytes()) for wnid in COUNTS]
    return write_tar(folder / "ILSVRC2012_img_train.tar", files)


def folder_tar(folder: Path) -> Path:
    """One tar file of class folders."""
    return write_tar(folder / "mine.tar", [(f"train/{wnid}/{name}", data) for wnid, name, data in images()])


def same(tars: Records, loose: Records) -> bool:
    assert isinstance(tars.store, TarStore)
    assert [label.name for label in tars.labels] == [label.name for label in loose.labels]
    assert tars.label_ids.tolist() == loose.label_ids.tolist()
    return all(
        tars.store.read(i) == loose.store.read(i)
        and tars.store.size(i) == loose.store.size(i)
        and tars.store.name(i).endswith(Path(loose.store.name(i)).name)
        for i in range(len(loose.store))
    )


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_one_tar_a_synset(tmp_path: Path, loose: Path, form: int) -> None:
    folder = synset_tars(tmp_path / "tars" / "train", form)
    expected = read_records(f"imagenet:{loose}")
    for spec in (f"imagenet-tar:{folder}", f"imagenet-tar:{folder.parent}", f"imagenet-tar:{folder}:train"):
        records = read_records(spec)
        assert same(records, expected)
    assert records.store.name(3) == f"{folder / 'n02110185.tar'}:n02110185_0.JPEG"
    dataset = open_dataset(f"imagenet-tar:{folder}", TREE)
    assert dataset.kind == "classification"
    assert [dataset.nodes(i)[0] for i in range(len(dataset))] == [1, 1, 1, 3, 2, 2, 2, 2]


@pytest.mark.parametrize("name", ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_train.TAR"])
def test_tars_within_one_tar(tmp_path: Path, loose: Path, name: str) -> None:
    path = whole_tar(tmp_path / "whole").rename(tmp_path / "whole" / name)
    for spec in (f"imagenet-tar:{path}", f"imagenet-tar:{path.parent}"):
        records = read_records(spec)
        assert same(records, read_records(f"imagenet:{loose}"))
    assert records.store.name(0) == f"{path}:n02084071.tar:n02084071_0.JPEG"


def test_one_tar_of_class_folders(tmp_path: Path, loose: Path) -> None:
    path = folder_tar(tmp_path)
    assert same(read_records(f"imagenet-tar:{path}"), read_records(f"imagenet:{loose}"))


def test_own_classes_by_name(tmp_path: Path) -> None:
    for name in ("Siberian husky", "cat"):
        write_tar(tmp_path / "own" / f"{name}.tar", [("1.jpg", photo(1)), ("sub/2.jpg", photo(2))])
    dataset = open_dataset(f"imagenet-tar:{tmp_path / 'own'}", TREE)
    assert [dataset.nodes(i)[0] for i in range(len(dataset))] == [3, 2]
    assert dataset.unmatched == {"sub": 2}


def test_many_workers_and_processes(tmp_path: Path) -> None:
    dataset = open_dataset(f"imagenet-tar:{synset_tars(tmp_path / 'tars')}", TREE)
    first = dataset[0]  # before the workers fork
    loader = DataLoader(dataset, batch_size=None, num_workers=2)  # type: ignore[arg-type]
    found = list(loader)
    assert torch.equal(found[0].image, first.image)
    assert all(torch.equal(sample.image, dataset[i].image) for i, sample in enumerate(found))
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[5].image, dataset[5].image)


def test_more_tars_than_open_files(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    folder = tmp_path / "many"
    for i in range(80):
        write_tar(folder / f"n{i:08d}.tar", [(f"n{i:08d}_1.JPEG", bytes([i]) * 20)])
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, limit[1]))
        store = read_records(f"imagenet-tar:{folder}").store
        assert [store.read(i) for i in range(80)] == [bytes([i]) * 20 for i in range(80)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def test_headers_are_read_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = synset_tars(tmp_path / "tars")
    read: list[str] = []

    def counted(path: Path, *place: int) -> list[tuple[str, int, int]]:
        read.append(path.name)
        return tar_members(path, *place)

    monkeypatch.setattr(imagenet_tar, "tar_members", counted)
    first = read_records(f"imagenet-tar:{folder}")
    assert sorted(read) == [f"{wnid}.tar" for wnid in COUNTS]
    again = read_records(f"imagenet-tar:{folder}")
    assert len(read) == 3
    assert [again.store.name(i) for i in range(8)] == [first.store.name(i) for i in range(8)]
    assert [again.store.read(i) for i in range(8)] == [first.store.read(i) for i in range(8)]
    assert again.label_ids.tolist() == first.label_ids.tolist()
    write_tar(folder / "n02110185.tar", [("n02110185_9.JPEG", photo(9)), ("n02110185_8.JPEG", photo(8))])
    assert len(read_records(f"imagenet-tar:{folder}").store) == 9
    assert len(read) == 6
    (saved,) = cache.rglob("*.npz")
    whole = saved.read_bytes()
    encrypted = re.sub(rb"(?s)(PK\x01\x02....)\0", lambda found: found[1] + b"\1", whole)  # as it says
    assert encrypted != whole
    for content in (b"", b"nonsense", whole[:300], encrypted):
        saved.write_bytes(content)
        assert len(read_records(f"imagenet-tar:{folder}").store) == 9
    assert len(read) == 18


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("YOLO9000_CACHE", str(tmp_path / "file" / "x"))
    assert len(read_records(f"imagenet-tar:{synset_tars(tmp_path / 'tars')}").store) == 8


def test_errors(tmp_path: Path) -> None:
    folder = synset_tars(tmp_path / "tars")
    with pytest.raises(DataError, match=r"nowhere: no such folder or tar file"):
        read_records(f"imagenet-tar:{tmp_path / 'nowhere'}")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "n02084071.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"expected tar files n.*found n02084071\.tar\.gz; compressed ones"):
        read_records(f"imagenet-tar:{tmp_path / 'other'}")
    with pytest.raises(DataError, match="no images"):
        read_records(f"imagenet-tar:{write_tar(tmp_path / 'x.tar', [('a.txt', b'1')])}")
    flat = write_tar(tmp_path / "ILSVRC2012_img_val.tar", [("ILSVRC2012_val_00000001.JPEG", photo(1))])
    with pytest.raises(DataError, match="nothing tells its class; sort the images into folders"):
        read_records(f"imagenet-tar:{flat}")
    packed = folder / "n02084071.tar"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(flat, "n02084071_1.JPEG")
    with pytest.raises(DataError, match=r"n02084071\.tar: not an uncompressed tar file"):
        read_records(f"imagenet-tar:{folder}")


def test_tars_without_images_are_told(tmp_path: Path) -> None:
    folder = synset_tars(tmp_path / "tars")
    assert not read_records(f"imagenet-tar:{folder}").issues
    (folder / "n00015388.tar").write_bytes(b"")
    (note,) = read_records(f"imagenet-tar:{folder}").issues
    assert note.startswith(
        f"{folder}: 1 of its 4 tar files hold no images that are read, such as n00015388.tar"
    )


@pytest.mark.parametrize("share", [0.1, 0.4, 0.7, 0.95])
def test_cut_off_tars(tmp_path: Path, share: float) -> None:
    for path in (synset_tars(tmp_path / "t") / "n02121620.tar", whole_tar(tmp_path / "whole")):
        with tarfile.open(path) as archive:
            end = max(member.offset_data + member.size for member in archive)
        path.write_bytes(path.read_bytes()[: int(share * end)])
        place = path if "whole" in str(path) else path.parent
        with pytest.raises(DataError, match=r"\.tar: the tar file is cut off; copy it again"):
            read_records(f"imagenet-tar:{place}")


@pytest.mark.parametrize("make", [synset_tars, whole_tar, folder_tar])
def test_a_tar_cut_off_between_two_files_is_told(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    place = make(tmp_path / "tars")
    path = place / "n02121620.tar" if place.is_dir() else place
    with tarfile.open(path) as archive:
        end = archive.getmembers()[-2 if place.is_dir() else -1].offset
    path.write_bytes(path.read_bytes()[:end])
    for _ in range(2):  # also out of the cache
        records = read_records(f"imagenet-tar:{place}")
        (note,) = records.issues
        assert f"at a tar file's end are missing in 1, such as {path.name}: was it cut off" in note
    assert len(records.store) < 8


def test_a_tar_that_shrinks_later(tmp_path: Path) -> None:
    folder = synset_tars(tmp_path / "tars")
    store = read_records(f"imagenet-tar:{folder}").store
    (folder / "n02121620.tar").write_bytes((folder / "n02121620.tar").read_bytes()[:2000])
    with pytest.raises(DataError, match=r"n02121620_3\.JPEG: expected .* is cut off; copy it again"):
        store.read(7)
    (folder / "n02084071.tar").unlink()
    with pytest.raises(DataError, match=r"n02084071_0\.JPEG: No such file"):
        store.read(0)


def test_check_and_pack(tmp_path: Path, loose: Path) -> None:
    folder = synset_tars(tmp_path / "tars")
    bad = [("n02110185_0.JPEG", photo(1)[:200]), ("n02110185_1.JPEG", photo(2))]
    write_tar(folder / "n02110185.tar", bad)
    report = data_check(f"imagenet-tar:{folder}", TREE)
    assert report.counts == {1: 3, 2: 4, 3: 2}
    assert len(report.unreadable) == 1
    assert "n02110185.tar:n02110185_0.JPEG: cannot be decoded" in report.unreadable[0]
    synset_tars(folder)
    packed = read_records(f"pack:{pack(read_records(f'imagenet-tar:{folder}'), tmp_path / 'p.h5')}")
    expected = read_records(f"imagenet:{loose}").store
    assert [packed.store.read(i) for i in range(8)] == [expected.read(i) for i in range(8)]
    assert packed.store.name(3).endswith("p.h5:n02110185.tar:n02110185_0.JPEG")


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_of_tarfile(tmp_path: Path, form: int) -> None:
    """Folders, links, empty files, long names, names in other scripts: as the standard library finds them."""
    names = ["a.jpg", "b/c.jpg", "d/" + "e" * 90 + "/" + "f" * 60, "g\u00e9\u4e2d.jpg", "empty"]
    if form != tarfile.USTAR_FORMAT:
        names.append("h" * 300)
    rng = np.random.default_rng(0)
    files = [(name, rng.bytes(int(rng.integers(1, 2000)))) for name in names[:-1]] + [(names[-1], b"")]
    path = write_tar(tmp_path / "x.tar", files, form)
    with tarfile.open(path, "a", format=form) as archive:
        for kind, name in ((tarfile.DIRTYPE, "folder"), (tarfile.SYMTYPE, "link"), (tarfile.LNKTYPE, "hard")):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "a.jpg"
            archive.addfile(entry)
    with tarfile.open(path) as archive:
        expected = [(m.name, m.offset_data, m.size) for m in archive if m.isreg()]
    expected += [(name, *expected[0][1:]) for name in ("link", "hard")]
    assert tar_members(path) == expected
    within = tmp_path / "within"
    within.write_bytes(bytes(700) + path.read_bytes() + b"more")
    shifted = [(name, start + 700, size) for name, start, size in expected]
    assert tar_members(within, 700, path.stat().st_size) == shifted
    assert tar_members(write_tar(tmp_path / "none.tar", [])) == []


def add_links(path: Path, links: list[tuple[bytes, str, str]]) -> Path:
    with tarfile.open(path, "a") as archive:
        for kind, name, target in links:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            archive.addfile(entry)
    return path


def test_hard_links_that_tar_writes(tmp_path: Path) -> None:
    """`tar` stores the bytes of files that share an inode once."""
    folder = tmp_path / "n02084071"
    folder.mkdir()
    (folder / "a.JPEG").write_bytes(photo(1))
    (folder / "b.JPEG").hardlink_to(folder / "a.JPEG")
    with tarfile.open(tmp_path / "mine.tar", "w") as archive:
        archive.add(folder, folder.name)
    store = read_records(f"imagenet-tar:{tmp_path / 'mine.tar'}").store
    assert [store.name(i).rpartition("/")[2] for i in range(len(store))] == ["a.JPEG", "b.JPEG"]
    assert store.read(0) == store.read(1) == photo(1)


def test_symbolic_links(tmp_path: Path) -> None:
    """To files in the tar, also over other links and folders; links to its folders are passed over."""
    path = write_tar(tmp_path / "x.tar", [("pool/a.jpg", b"abc"), ("pool/b.jpg", b"de")])
    links = [
        (tarfile.SYMTYPE, "cat/1.jpg", "../pool/b.jpg"),
        (tarfile.SYMTYPE, "./cat/2.jpg", "./1.jpg"),
        (tarfile.LNKTYPE, "cat/3.jpg", "./cat/2.jpg"),
        (tarfile.SYMTYPE, "latest", "pool"),
        (tarfile.SYMTYPE, "cat/4.jpg", "../latest/a.jpg"),
    ]
    found = {name: (start, size) for name, start, size in tar_members(add_links(path, links))}
    a, b = found["pool/a.jpg"], found["pool/b.jpg"]
    own = {"pool/a.jpg": a, "pool/b.jpg": b}
    assert found == own | {"cat/1.jpg": b, "./cat/2.jpg": b, "cat/3.jpg": b, "cat/4.jpg": a}


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (tarfile.LNKTYPE, "gone.jpg"),
        (tarfile.SYMTYPE, "gone.jpg"),
        (tarfile.SYMTYPE, "../a.jpg"),
        (tarfile.SYMTYPE, "/data/a.jpg"),
        (tarfile.SYMTYPE, "link.jpg"),
    ],
)
def test_links_out_of_a_tar(tmp_path: Path, kind: bytes, target: str) -> None:
    path = add_links(write_tar(tmp_path / "x.tar", [("a.jpg", b"abc")]), [(kind, "link.jpg", target)])
    with pytest.raises(DataError, match=r"x\.tar: link\.jpg is a link, and what it leads to.*tar chf"):
        tar_members(path)


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_all_kinds_of_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """What Pillow opens is read, the rest is told, also out of a tar file's index; hidden files are not."""
    monkeypatch.setattr(Image, "registered_extensions", lambda: {".avif": "AVIF"})
    known = ["dog/a.jpg", "dog/b.AVIF", "dog/c.jfif", "dog/d.pgm"]
    others = ["cat/x.heic", "dog/y.jxl", "dog/._a.heic", "dog/._b.jpg", "dog/notes.txt"]
    if form == "tar":
        spec = f"imagenet-tar:{write_tar(tmp_path / 'w.tar', [(name, photo(0)) for name in known + others])}"
    else:
        spec = f"imagenet:{tmp_path}"
        for name in known + others:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(photo(0))
    for _ in range(2):
        records = read_records(spec)
        assert [records.store.inner_name(i)[-len(name) :] for i, name in enumerate(known)] == known
        assert len(records.store) == len(known)
        (note,) = records.issues
        assert re.search(
            r"2 pictures are of a kind that is not read here \(\.heic \.jxl\), such as .*x\.heic", note
        )


def test_hidden_files_beside_the_tars(tmp_path: Path) -> None:
    """macOS leaves `._x` beside x on other systems' disks, and in tar files."""
    folder = synset_tars(tmp_path / "tars")
    (folder / "n02084071.tar").rename(folder / "n02084071.TAR")
    expected = read_records(f"imagenet-tar:{folder}")
    assert np.bincount(expected.label_ids).tolist() == list(COUNTS.values())
    (folder / "._n02084071.TAR").write_bytes(b"\0\5\x16\7" + bytes(600))
    again = read_records(f"imagenet-tar:{folder}")
    assert again.label_ids.tolist() == expected.label_ids.tolist()
    files = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    whole = read_records(f"imagenet-tar:{write_tar(tmp_path / 'whole.tar', files)}")
    assert whole.label_ids.tolist() == expected.label_ids.tolist()


def test_threads_read_parts_of_one_file(tmp_path: Path) -> None:
    """Also where the system cannot read from a place in one call (Windows)."""
    file = tmp_path / "bytes"
    file.write_bytes(bytes(range(256)))
    with file.open("rb") as stream, ThreadPoolExecutor(8) as pool:
        for read in (read_at, _seek_and_read):
            parts = pool.map(lambda start, read=read: read(stream.fileno(), 3, start), range(250))
            assert all(part == bytes(range(i, i + 3)) for i, part in enumerate(parts))
