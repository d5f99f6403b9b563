"""HDF5 packs: the same data set comes out, whatever interrupts the packing; and the data check."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from toys import files_up_to
from wordtree import WordTree
from yolo9000.datasets import (
    ConcatDataset,
    Records,
    TableDataset,
    data_check,
    open_dataset,
    pack,
    read_records,
)
from yolo9000.datasets.labels import Label
from yolo9000.errors import DataError

WNIDS = ["n00015388", "n02084071", "n02121620", "n02110185"]
TREE = WordTree([-1, 0, 0, 1], WNIDS, ["animal", "dog", "cat", "Siberian husky"])
COARSE = WordTree([-1], ["n00015388"], ["animal"])


def write_photo(path: Path, seed: int, size: tuple[int, int] = (30, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="JPEG", quality=95)


@pytest.fixture
def detection(tmp_path: Path) -> TableDataset:
    root = tmp_path / "coco"
    for i in range(6):
        write_photo(root / "train" / f"{i}.jpg", i)
    boxes = [
        (0, 18, [1, 2, 10, 20], 0),
        (0, 17, [5, 5, 9, 9], 1),
        (3, 17, [0, 0, 40, 30], 0),
        (4, 5, [1, 1, 5, 5], 0),
    ]
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(6)],
        "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}, {"id": 5, "name": "gizmo"}],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": box, "iscrowd": crowd}
            for n, (i, c, box, crowd) in enumerate([*boxes, (5, 18, [3, 3, 0, 3], 0)])
        ],
    }
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return TableDataset(read_records(f"coco:{root}"), TREE)


@pytest.fixture
def classification(tmp_path: Path) -> TableDataset:
    for i in range(8):
        write_photo(tmp_path / "imagenet" / "train" / ("n02110185" if i % 2 else "gizmo") / f"{i}.JPEG", i)
    return TableDataset(read_records(f"imagenet:{tmp_path / 'imagenet'}"), TREE)


def same(a: TableDataset, b: TableDataset) -> bool:
    """Equal in every image's bytes and labels."""
    stores = a.records.store, b.records.store
    return (
        len(stores[0]) == len(stores[1])
        and all(stores[0].read(i) == stores[1].read(i) for i in range(len(stores[0])))
        and all(
            np.array_equal(getattr(a.records, name), getattr(b.records, name))
            for name in ("kind", "rules", "offsets", "label_ids", "boxes", "ignored", "labels", "issues")
        )
    )


def opened(path: Path, tree: WordTree = TREE) -> TableDataset:
    dataset = open_dataset(f"pack:{path}", tree)
    assert isinstance(dataset, TableDataset)
    return dataset


def test_round_trip(tmp_path: Path, detection: TableDataset, classification: TableDataset) -> None:
    for name, dataset in (("d", detection), ("c", classification)):
        path = pack(dataset, tmp_path / "packs" / f"{name}.h5")
        packed = opened(path)
        assert same(dataset, packed)
        assert len(packed) == len(dataset)
        assert packed.unmatched == dataset.unmatched
        for i in range(len(dataset)):
            assert torch.equal(packed[i].image, dataset[i].image)
            assert torch.equal(packed[i].boxes, dataset[i].boxes)
            assert packed[i].nodes.tolist() == dataset[i].nodes.tolist()
            assert packed[i].ignored.tolist() == dataset[i].ignored.tolist()
        images = sum(dataset.records.store.size(i) for i in range(len(dataset.records.store)))
        assert path.stat().st_size < images + 16_384
        assert [p.name for p in path.parent.glob(f"{name}.*")] == [f"{name}.h5"]
    assert packed[0].source.endswith("c.h5:n02110185/1.JPEG")


def test_a_pack_serves_every_tree(tmp_path: Path, detection: TableDataset) -> None:
    path = pack(detection, tmp_path / "d.h5")
    assert [opened(path, COARSE).nodes(i) for i in (0, 3)] == [[0], [0]]
    own = WordTree.flat(["gizmo", "cat"])
    assert [opened(path, own).nodes(i) for i in (0, 3, 4)] == [[], [1], [0]]


def test_other_programs_can_read_it(tmp_path: Path, detection: TableDataset) -> None:
    with h5py.File(pack(detection, tmp_path / "d.h5")) as file:
        start, size = int(file["starts"][3]), int(file["sizes"][3])
        assert file["images"][start : start + size].tobytes() == detection.records.store.read(3)
        assert file["label_names"].asstr()[:].tolist() == ["dog", "cat", "gizmo"]
        assert file["names"][3] == b"3.jpg"


def test_rules(tmp_path: Path, detection: TableDataset) -> None:
    """Whose rules boxes are scored by; older packs do not say it."""
    path = pack(detection, tmp_path / "d.h5")
    assert (detection.rules, opened(path).rules) == ("coco", "coco")
    with h5py.File(path, "r+") as file:
        file.attrs["rules"] = "golf"
    with pytest.raises(DataError, match=r"rules 'golf': expected one of voc, coco, .*; pack it again"):
        opened(path)
    with h5py.File(path, "r+") as file:
        del file.attrs["rules"], file.attrs["fingerprint"]
    assert opened(path).rules == "voc"
    assert opened(path).records.ignored.tolist() == detection.records.ignored.tolist()


def test_joined_data_sets(tmp_path: Path, classification: TableDataset) -> None:
    write_photo(tmp_path / "more" / "train" / "n02121620" / "x.JPEG", 99)
    more = TableDataset(read_records(f"imagenet:{tmp_path / 'more'}"), TREE)
    both = ConcatDataset([classification, more])
    packed = opened(pack(both, tmp_path / "both.h5"))
    assert [packed.nodes(i) for i in range(len(packed))] == [both.nodes(i) for i in range(len(both))]
    assert all(torch.equal(packed[i].image, both[i].image) for i in range(len(both)))


class InterruptedPackError(Exception):
    pass


def interrupt(dataset: TableDataset, path: Path, journal_bytes: int = 1) -> None:
    """Pack the first four images."""

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise InterruptedPackError

    with pytest.raises(InterruptedPackError):
        pack(dataset, path, progress=stop, journal_bytes=journal_bytes)


@pytest.mark.parametrize(("journal_bytes", "first"), [(1, 5), (5000, 4), (1 << 20, 1)])
def test_interrupted_pack_goes_on(
    tmp_path: Path, detection: TableDataset, journal_bytes: int, first: int
) -> None:
    path = tmp_path / "d.h5"
    interrupt(detection, path, journal_bytes)
    assert not path.exists()
    begun: list[int] = []
    pack(detection, path, progress=lambda done, total: begun.append(done), journal_bytes=journal_bytes)
    assert begun[-1] == 6
    assert begun == list(range(first, 7))  # nothing that is on disk is copied again
    assert same(opened(path), detection)
    assert sorted(p.name for p in tmp_path.glob("d.h5*")) == ["d.h5"]


def pack_and_die(records: Records, path: Path, after: int) -> None:
    def progress(done: int, total: int) -> None:
        if done == after:
            os.kill(os.getpid(), signal.SIGKILL)

    pack(records, path, progress=progress, journal_bytes=5000)


def test_killed_pack_goes_on(tmp_path: Path, detection: TableDataset) -> None:
    path = tmp_path / "d.h5"
    for after in (2, 5):
        arguments = (detection.records, path, after)
        process = multiprocessing.get_context("fork").Process(target=pack_and_die, args=arguments)
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        assert not path.exists()
        assert path.with_name("d.h5.partial").exists()
    pack(detection, path)
    assert same(opened(path), detection)
    assert sorted(p.name for p in tmp_path.glob("d.h5*")) == ["d.h5"]
    time.sleep(1.1)  # HDF5 counts in seconds
    assert path.read_bytes() == pack(detection, tmp_path / "whole.h5").read_bytes()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("d.h5.partial", lambda data: data[:-100]),
        ("d.h5.partial", lambda data: bytes(4096) + data[4096:]),
        ("d.h5.partial", lambda data: data.replace(b"gizmo", b"gizmX")),
        *(
            ("d.h5.partial.json", lambda data, text=text: text)
            for text in (b"[]", b"5", b"{}", b'{"done": 3}')
        ),
        ("d.h5.partial.json", lambda data: data.replace(b": 4", b": null")),
    ],
)
def test_what_is_left_of_an_interrupted_pack_is_damaged(
    tmp_path: Path, detection: TableDataset, name: str, damage: Callable[[bytes], bytes]
) -> None:
    """It begins anew."""
    path = tmp_path / "d.h5"
    interrupt(detection, path)
    left = tmp_path / name
    assert damage(left.read_bytes()) != left.read_bytes()
    left.write_bytes(damage(left.read_bytes()))
    begun: list[int] = []
    pack(detection, path, progress=lambda done, total: begun.append(done))
    assert begun == list(range(1, 7))
    assert same(opened(path), detection)


@pytest.mark.parametrize("name", ["label_ids", "boxes", "ignored", "offsets", "label_names"])
def test_labels_that_are_damaged(tmp_path: Path, detection: TableDataset, name: str) -> None:
    path = pack(detection, tmp_path / "d.h5")
    with h5py.File(path, "r+") as file:
        values = file[name][:]
        file[name][:] = values[::-1] if name != "offsets" else np.sort(np.r_[0, values[2:], values[-1]])
    with pytest.raises(DataError, match=r"d\.h5: its labels, boxes or names are not those that were packed"):
        opened(path)


def test_no_text_of_variable_length(tmp_path: Path, detection: TableDataset) -> None:
    """HDF5 looks for ever for texts whose place in its heap is damaged."""
    assert b"GCOL" not in pack(detection, tmp_path / "d.h5").read_bytes()


def test_a_pack_is_written_where_a_link_leads_to(tmp_path: Path, detection: TableDataset) -> None:
    link, file = tmp_path / "d.h5", tmp_path / "large disk" / "1.h5"
    link.symlink_to(file)
    for overwrite in (False, True):
        assert pack(detection, link, overwrite=overwrite) == link
        assert link.is_symlink()
        assert [path.name for path in file.parent.iterdir()] == ["1.h5"]
        assert same(opened(link), detection)


def test_a_disk_that_is_too_small(
    tmp_path: Path, detection: TableDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(
        DataError, match=r"d\.h5: the images take 0\.0 MB, and 0\.0 MB are free there; make room"
    ):
        pack(detection, tmp_path / "d.h5")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # h5py closes a second time
def test_a_disk_that_is_full(tmp_path: Path, detection: TableDataset) -> None:
    path = tmp_path / "d.h5"
    for limit in range(0, pack(detection, tmp_path / "whole.h5").stat().st_size, 1000):
        with (
            files_up_to(limit),
            pytest.raises(DataError, match=r"d\.h5\.partial: File too large; run the same"),
        ):
            pack(detection, path)
    pack(detection, path)
    assert same(opened(path), detection)


def test_one_process_packs_at_a_time(tmp_path: Path, detection: TableDataset) -> None:
    path = tmp_path / "d.h5"

    def another(done: int, total: int) -> None:
        with pytest.raises(DataError, match=r"d\.h5: another process is packing into it"):
            pack(detection, path)

    pack(detection, path, progress=another)
    assert same(opened(path), detection)


def test_changed_data_start_again(tmp_path: Path, detection: TableDataset) -> None:
    def stop(done: int, total: int) -> None:
        raise InterruptedPackError

    path = tmp_path / "d.h5"
    with pytest.raises(InterruptedPackError):
        pack(detection, path, progress=stop, journal_bytes=1)
    write_photo(tmp_path / "coco" / "train" / "0.jpg", 77, (60, 60))
    begun: list[int] = []
    pack(detection, path, progress=lambda done, total: begun.append(done))
    assert begun[0] == 1
    assert same(opened(path), detection)


def test_errors(tmp_path: Path, detection: TableDataset) -> None:
    path = pack(detection, tmp_path / "d.h5")
    with pytest.raises(DataError, match="is a folder"):
        pack(detection, tmp_path, overwrite=True)
    with pytest.raises(DataError, match="exists already"):
        pack(detection, path)
    assert pack(detection, path, overwrite=True) == path
    with pytest.raises(DataError, match="expected a data set"):
        pack([1, 2], tmp_path / "x.h5")  # type: ignore[arg-type]
    text = tmp_path / "text.h5"
    text.write_text("no HDF5")
    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as file:
        file["x"] = [1]
    cut = tmp_path / "cut.h5"
    cut.write_bytes(path.read_bytes()[:-3000])
    for wrong, message in (
        (text, "cannot be read as a packed data set"),
        (tmp_path / "none.h5", "cannot be read as a packed data set: No such file or directory; pack it"),
        (tmp_path, "cannot be read as a packed data set: Is a directory; pack it"),
        (foreign, "expected a file that `yolo9000 pack` wrote"),
        (cut, "cut off"),
    ):
        with pytest.raises(DataError, match=message):
            open_dataset(f"pack:{wrong}", TREE)
    (tmp_path / "coco" / "train" / "2.jpg").unlink()
    with pytest.raises(DataError, match=r"2\.jpg"):
        pack(detection, tmp_path / "y.h5")


def test_class_folders_need_not_be_utf8(tmp_path: Path) -> None:
    folder = os.fsdecode(b"caf\xe9")
    for label in ("n02110185", folder):
        write_photo(tmp_path / "imagenet" / "train" / label / "0.JPEG", 1)
    records = read_records(f"imagenet:{tmp_path / 'imagenet'}")
    again = read_records(f"pack:{pack(records, tmp_path / 'p.h5')}")
    assert again.labels == records.labels
    assert folder in {label.name for label in again.labels}


@pytest.mark.parametrize("name", ["d\0g", "d\ud800g"])
def test_names_that_no_class_can_have(tmp_path: Path, detection: TableDataset, name: str) -> None:
    labels = (Label(name), *detection.records.labels[1:])
    with pytest.raises(DataError, match="can be no name: correct the zero byte"):
        pack(replace(detection.records, labels=labels), tmp_path / "data.h5")


def test_pack_that_cannot_be_written(tmp_path: Path, detection: TableDataset) -> None:
    (tmp_path / "file").write_text("no folder")
    for place in (tmp_path / "file", Path("/proc")):  # root may write anywhere else
        with pytest.raises(DataError, match=r"d\.h5: cannot be written: "):
            pack(detection, place / "d.h5")
    (tmp_path / "coco" / "train" / "2.jpg").unlink()
    with pytest.raises(DataError, match=r"2\.jpg"):
        pack(detection, tmp_path / "y.h5")
    assert not list(tmp_path.glob("y.h5*"))


def test_a_pack_that_is_open_stays_as_it_was_when_a_new_one_replaces_it(
    tmp_path: Path, detection: TableDataset, classification: TableDataset
) -> None:
    path = pack(detection, tmp_path / "data.h5")
    store = read_records(f"pack:{path}").store
    pack(classification, path, overwrite=True)
    images = range(len(store))
    assert [store.read(i) for i in images] == [detection.records.store.read(i) for i in images]


def test_many_workers_read_one_pack(tmp_path: Path, classification: TableDataset) -> None:
    packed = opened(pack(classification, tmp_path / "c.h5"))
    first = packed[0]  # opens the file before the workers fork
    loader = DataLoader(packed, batch_size=None, num_workers=3)  # type: ignore[arg-type]
    found = [sample.image for sample in loader]
    assert torch.equal(found[0], first.image)
    assert all(torch.equal(image, classification[i].image) for i, image in enumerate(found))


def test_check_of_good_data(tmp_path: Path, classification: TableDataset) -> None:
    (tmp_path / "imagenet" / "train" / "gizmo").rename(tmp_path / "imagenet" / "train" / "n02121620")
    report = data_check(f"imagenet:{tmp_path / 'imagenet'}", TREE)
    assert report.ok
    assert report.images == 8
    assert report.counts == {2: 4, 3: 4}
    assert report.boxes == 0
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True


def test_check_lists_everything_wrong(tmp_path: Path, detection: TableDataset) -> None:
    root = tmp_path / "coco"
    file = root / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"].append({"id": 50, "image_id": 1, "category_id": 18, "bbox": [20, 5, 23, 20]})
    content["annotations"].append({"id": 51, "image_id": 1, "category_id": 18, "bbox": [20, 5, 20.5, 20]})
    file.write_text(json.dumps(content))
    (root / "train" / "2.jpg").write_bytes((root / "train" / "2.jpg").read_bytes()[:200])
    seen: list[int] = []
    report = data_check(f"coco:{root}", TREE, progress=lambda done, total: seen.append(done))
    assert not report.ok
    assert (report.images, report.boxes, report.ignored, report.empty) == (6, 4, 1, 3)
    assert report.counts == {1: 3, 2: 1}
    assert report.unmatched == {"gizmo": 1}
    assert len(report.degenerate) == 1
    assert "annotation 4" in report.degenerate[0]
    assert len(report.outside) == 1  # the second sticks out by less than a pixel
    assert "1.jpg: box 1 (dog: 20, 5, 43, 25) is outside the image of 40 × 30" in report.outside[0]
    assert len(report.unreadable) == 1
    assert "2.jpg" in report.unreadable[0]
    assert seen == list(range(1, 7))
