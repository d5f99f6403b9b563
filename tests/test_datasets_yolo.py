"""YOLO's and darknet's layouts as people have them: the boxes of COCO's form, wrong input by its messages."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wordtree import WordTree
from yolo9000.anchors import box_shapes
from yolo9000.datasets import Records, data_check, open_dataset, pack, read_records
from yolo9000.errors import DataError, FormatError, YOLO9000Error

WNIDS = ["n00015388", "n02084071", "n02121620", "n02110185"]
TREE = WordTree([-1, 0, 0, 1], WNIDS, ["animal", "dog", "cat", "Siberian husky"])
DOG, CAT, HUSKY = 1, 2, 3
NAMES = ["cat", "dog", "Siberian husky", "gizmo"]
SIZES = {"a": (40, 30), "b": (64, 48), "c": (20, 50)}  # width, height
BOXES = {"a": [(1, 1, 2, 10, 20), (0, 5, 5, 9, 9)], "b": [(2, 0, 0, 64, 48)]}  # class, x, y, width, height


def save(path: Path, name: str) -> None:
    path.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZES[name], (200, 30, 60)).save(path / f"{name}.jpg")


def lines(name: str) -> str:
    width, height = SIZES[name]
    return "".join(
        f"{c} {(x + w / 2) / width:.8f} {(y + h / 2) / height:.8f} {w / width:.8f} {h / height:.8f}\n"
        for c, x, y, w, h in BOXES.get(name, [])
    )


def write(images: Path, labels: Path) -> None:
    """Three images; the file of boxes of the third, which has none, is missing."""
    labels.mkdir(parents=True, exist_ok=True)
    for name in SIZES:
        save(images, name)
        if name in BOXES:
            (labels / f"{name}.txt").write_text(lines(name))


def as_coco(root: Path) -> Records:
    """The same scene in COCO's form, read by its reader."""
    for name in SIZES:
        save(root / "train", name)
    boxes = [(name, box) for name in SIZES for box in BOXES.get(name, [])]
    content = {
        "images": [{"id": name, "file_name": f"{name}.jpg"} for name in SIZES],
        "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES)],
        "annotations": [
            {"id": i, "image_id": name, "category_id": c, "bbox": box}
            for i, (name, (c, *box)) in enumerate(boxes)
        ],
    }
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return read_records(f"coco:{root}")


def same(found: Records, tmp_path: Path) -> bool:
    """The images in order of name, with the boxes and labels of COCO's form."""
    expected = as_coco(tmp_path / "coco")
    stores = found.store, expected.store
    assert [Path(s.name(i)).name for s in stores for i in range(3)] == ["a.jpg", "b.jpg", "c.jpg"] * 2
    assert [label.name for label in found.labels] == NAMES
    assert np.array_equal(found.offsets, expected.offsets)
    assert np.array_equal(found.label_ids, expected.label_ids)
    for i, size in enumerate(SIZES.values()):
        assert np.allclose(found.pixel_boxes(i, *size), expected.pixel_boxes(i, *size), atol=1e-4)
        assert found.store.read(i) == expected.store.read(i)
    return True


def data_yaml(root: Path, text: str, names: str = json.dumps(NAMES)) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    path = root / "data.yaml"
    path.write_text(f"{text}\nnames: {names}\n")
    return path


def folders(root: Path) -> Path:
    write(root / "images" / "train", root / "labels" / "train")
    return data_yaml(root, f"path: {root}\ntrain: images/train\nval: images/val\nnc: 4")


def relative_path(root: Path) -> Path:
    write(root / "set" / "images" / "train", root / "set" / "labels" / "train")
    names = "{" + ", ".join(f"{i}: {name}" for i, name in enumerate(NAMES)) + "}"
    return data_yaml(root / "code", "path: ../set  # beside\ntrain: images/train/", names)


def exported(root: Path) -> Path:
    """As tools export it: `../train/images`, though the folder is beside the file."""
    write(root / "train" / "images", root / "train" / "labels")
    return data_yaml(root, "train: ../train/images\nval: ../valid/images")


def stale_path(root: Path) -> Path:
    write(root / "images" / "train", root / "labels" / "train")
    return data_yaml(root, "path: /content/datasets/pets\ntrain: images")


def several(root: Path) -> Path:
    write(root / "images" / "all", root / "labels" / "all")
    for part in ("x", "y"):
        (root / part / "images").mkdir(parents=True)
        (root / part / "labels").mkdir()
    for part, name in (("x", "a"), ("y", "b"), ("y", "c")):
        (root / "images" / "all" / f"{name}.jpg").rename(root / part / "images" / f"{name}.jpg")
        if name in BOXES:
            (root / "labels" / "all" / f"{name}.txt").rename(root / part / "labels" / f"{name}.txt")
    return data_yaml(root, "train: [x/images, y/images]")


def listed(root: Path) -> Path:
    write(root / "images" / "train", root / "labels" / "train")
    (root / "train.txt").write_text("".join(f"./images/train/{name}.jpg\n" for name in SIZES))
    return data_yaml(root, "path: .\ntrain: train.txt")


def listed_elsewhere(root: Path) -> Path:
    """A list with a byte order mark, absolute paths and an empty line."""
    write(root / "images", root / "labels")
    (root / "lists").mkdir()
    text = "\n".join(str(root / "images" / f"{name}.jpg") for name in SIZES)
    (root / "lists" / "t.txt").write_text(f"\ufeff{text}\n\n", encoding="utf-8")
    return data_yaml(root / "yaml", "path: ../lists\ntrain: t.txt")


def beside(root: Path) -> Path:
    write(root / "pictures", root / "pictures")
    return data_yaml(root, "train: pictures")


LAYOUTS = [folders, relative_path, exported, stale_path, several, listed, listed_elsewhere, beside]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_yolo_layouts(tmp_path: Path, layout: Callable[[Path], Path]) -> None:
    path = layout(tmp_path / "images")  # a folder above of the same name
    assert same(read_records(f"yolo:{path}"), tmp_path)
    assert same_store(read_records(f"yolo:{path.parent}:train"), read_records(f"yolo:{path}"))


def same_store(a: Records, b: Records) -> bool:
    return [a.store.name(i) for i in range(3)] == [b.store.name(i) for i in range(3)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_where_a_data_set_lies_does_not_change_it(tmp_path: Path, layout: Callable[[Path], Path]) -> None:
    found = {read_records(f"yolo:{layout(tmp_path / place)}").fingerprint for place in ("here", "there")}
    assert len(found) == 1


def test_paths_relative_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders(tmp_path / "set")
    monkeypatch.chdir(tmp_path / "set" / "images")
    data_yaml(tmp_path / "set", "train: images/train")
    assert same(read_records("yolo:../data.yaml"), tmp_path)


def test_yolo_samples(tmp_path: Path) -> None:
    dataset = open_dataset(f"yolo:{folders(tmp_path)}", TREE)
    assert [dataset.nodes(i) for i in range(3)] == [[DOG, CAT], [HUSKY], []]
    assert np.allclose(dataset[0].boxes, [[1, 2, 11, 22], [5, 5, 14, 14]], atol=1e-4)
    assert dataset[2].boxes.shape == (0, 4)
    assert dataset[0].boxes.canvas_size == (30, 40)
    (tmp_path / "labels" / "train" / "a.txt").write_text("1 0.1 0.5 0.4 0.5\n")  # over the left edge
    box = open_dataset(f"yolo:{tmp_path / 'data.yaml'}", TREE)[0].boxes
    assert np.allclose(box, [[0, 7.5, 12, 22.5]], atol=1e-4)


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("1 0.25 0.2 0.75 0.2 0.5 0.8\n", [10, 6, 30, 24]),  # a triangle
        ("1 .5 .1 .9 .5 .5 .9 .1 .5", [4, 3, 36, 27]),  # four corners, no line end
        ("\n1.0 0.5 0.5 0.5 0.5 \r\n\r\n", [10, 7.5, 30, 22.5]),
        ("\ufeff1\t0.5\t0.5\t1\t1e0\n", [0, 0, 40, 30]),
    ],
)
def test_lines(tmp_path: Path, text: str, box: list[float]) -> None:
    path = folders(tmp_path)
    (tmp_path / "labels" / "train" / "a.txt").write_text(text, encoding="utf-8")
    records = read_records(f"yolo:{path}")
    assert records.label_ids[0] == 1
    assert np.allclose(records.pixel_boxes(0, *SIZES["a"]), [box], atol=1e-4)


def test_pose_data(tmp_path: Path) -> None:
    path = folders(tmp_path)
    for file in (tmp_path / "labels" / "train").glob("*.txt"):
        text = file.read_text()
        file.write_text("".join(f"{line} 130 0.5 2 0.1 0.2 0\n" for line in text.splitlines()))
    path.write_text(path.read_text() + "kpt_shape: [2, 3]\n")
    assert same(read_records(f"yolo:{path}"), tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 0.5 0.5 0.5\n", r"a\.txt:1: expected class, x, y, width, height, .*got 4 columns: '1 0\.5 0\.5"),
        ("1 .5 .5 .5 .5\n1 0.5 0.5 0.5 0.5 0.9\n", r"a\.txt:2: .*6 columns.*confidence"),
        ("1 0.5 0.5 0.5 0.5 0.9 0.1 0.2\n", r"a\.txt:1: expected class"),
        ("1 0.5 x 0.5 0.5\n", r"a\.txt:1: expected numbers, got '1 0\.5 x"),
        ("dog 0.5 0.5 0.5 0.5\n", r"a\.txt:1: expected the number of a class, got 'dog'"),
        ("1.5 0.5 0.5 0.5 0.5\n", "expected the number of a class, got '1.5'"),
        ("nan 0.5 0.5 0.5 0.5\n", "expected the number of a class, got 'nan'"),
        (
            "4 0.5 0.5 0.5 0.5\n",
            r"a\.txt:1: class 4: there are 4 classes, 0 to 3\. Do the classes count from 1",
        ),
        ("-1 0.5 0.5 0.5 0.5\n", "class -1: there are 4 classes"),
        ("1 20 15 10 5\n", r"a\.txt:1: expected shares.*got '1 20 15 10 5'.*Are these pixels\?"),
        ("1 inf 0.5 0.5 0.5\n", "expected shares"),
    ],
)
def test_wrong_lines(tmp_path: Path, text: str, message: str) -> None:
    path = folders(tmp_path)
    (tmp_path / "labels" / "train" / "a.txt").write_text(text)
    with pytest.raises(FormatError, match=message):
        read_records(f"yolo:{path}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a\ntrain: x", r"data\.yaml:2: no valid YAML"),
        ("names:\n  0: cat\n  1: dog\n  1: ox", r"data\.yaml:4: no valid YAML: '1' stands in line 3 already"),
        ("- a", "expected a mapping with train, val and names"),
        ("", "expected a mapping"),
        ("\0", "save it as UTF-8"),
        ("train: images/train\nnames: [cat]\nnc: 2", "nc is 2, but there are 1 names"),
        ("train: images/train\nnames: {0: cat, 2: dog}", "names: expected numbers 0 to 1.*: 1, 2"),
        ("train: images/train\nnames: cat", "names: expected a list of names"),
        ("train: images/train\nnames: [[cat]]", "names: expected a list of names"),
        ("train: images/train\nnames: [cat]\nkpt_shape: 3", "kpt_shape: expected two whole numbers"),
        ("train: {a: b}\nnames: [cat]", "train: expected a path or a list"),
        ("val: images/val\nnames: [cat]", r"has no 'train'; there are: val\. .*yolo:data\.yaml:val"),
        ("train: images/other\nnames: [cat]", "'images/other' is not there; looked for .*images/other"),
        ("train: labels\nnames: [cat]", "'labels' is .*labels: there are no images"),
        ("train: empty.txt\nnames: [cat]", r"empty\.txt: is empty"),
        ("train: theirs.txt\nnames: [cat]", r"theirs\.txt:1: no image '/home/x/1\.jpg'.*another machine"),
        ("train: gone.txt\nnames: [cat]", r"gone\.txt:1: no image 'y/2\.jpg', looked for from "),
    ],
)
def test_wrong_yaml(tmp_path: Path, text: str, message: str) -> None:
    path = folders(tmp_path)
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "theirs.txt").write_text("/home/x/1.jpg\n/home/x/2.jpg\n")
    (tmp_path / "gone.txt").write_text("y/2.jpg\n")
    path.write_text(text)
    with pytest.raises(YOLO9000Error, match=message) as caught:
        read_records(f"yolo:{path}")
    assert str(tmp_path) in str(caught.value)


def test_names_that_yaml_takes_for_something_else(tmp_path: Path) -> None:
    path = folders(tmp_path)
    path.write_text("train: images/train\nnames:\n  0: no\n  1: 1.0\n  2: null\n  3: dog\n")
    assert [label.name for label in read_records(f"yolo:{path}").labels] == ["no", "1.0", "null", "dog"]


def test_no_box_files_at_all(tmp_path: Path) -> None:
    path = folders(tmp_path)
    (tmp_path / "labels").rename(tmp_path / "annotations")
    with pytest.raises(DataError, match=r"not one of its 3 images has a file of boxes; looked for .*labels/"):
        read_records(f"yolo:{path}")


def test_yaml_is_found_or_asked_for(tmp_path: Path) -> None:
    folders(tmp_path).rename(tmp_path / "pets.yml")
    assert len(read_records(f"yolo:{tmp_path}").store) == 3
    (tmp_path / "other.yaml").write_text("")
    with pytest.raises(DataError, match=r"expected data\.yaml or one .*, found other\.yaml, pets\.yml"):
        read_records(f"yolo:{tmp_path}")


def image_names(spec: str) -> list[str]:
    store = read_records(spec).store
    return [Path(store.name(i)).name for i in range(len(store))]


def test_hidden_and_linked_folders(tmp_path: Path) -> None:
    """Linked folders are read, each folder once, also where a link leads back; what tools leave is not."""
    data = data_yaml(tmp_path / "data", "train: images\n")
    images = tmp_path / "data" / "images"
    write(images / "own", tmp_path / "data" / "labels" / "own")
    for name in (".ipynb_checkpoints", "__MACOSX"):
        save(images / name, "a")
    (images / "own" / "._a.jpg").write_bytes(b"AppleDouble")
    save(tmp_path / "elsewhere", "b")
    (images / "more").symlink_to(tmp_path / "elsewhere")
    (images / "again").symlink_to(images / "own")
    (tmp_path / "elsewhere" / "back").symlink_to(images)
    (images / ".hidden").symlink_to(tmp_path / "elsewhere")
    records = read_records(f"yolo:{data}")
    found = [records.store.name(i).partition("/images/")[2] for i in range(len(records.store))]
    assert found == ["more/b.jpg", "own/a.jpg", "own/b.jpg", "own/c.jpg"]


def test_kinds_of_pictures_that_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "registered_extensions", dict)
    data, images = folders(tmp_path), tmp_path / "images" / "train"
    (images / "d.HEIC").write_bytes(b"?")
    (images / "b.jpg").rename(images / "b.JPE")
    assert image_names(f"yolo:{data}") == ["a.jpg", "b.JPE", "c.jpg"]
    note = (
        r"1 picture is of a kind that is not read here \(\.heic\), such as .*/d\.HEIC: left out; convert to"
    )
    assert re.search(note, read_records(f"yolo:{data}").issues[0])
    for image in "a.jpg", "b.JPE", "c.jpg":
        (images / image).unlink()
    with pytest.raises(DataError, match=note):
        read_records(f"yolo:{data}")


def test_links_to_nothing(tmp_path: Path) -> None:
    """An image's is missed where the image is read, as any that is missing; others are refused at once."""
    data, gone = folders(tmp_path), tmp_path / "gone"
    image = tmp_path / "images" / "train" / "c.jpg"
    image.unlink()
    image.symlink_to(gone)
    assert "c.jpg: No such file" in data_check(f"yolo:{data}", TREE).unreadable[0]
    for name in ("images/train/more", "labels/train/c.txt"):
        (tmp_path / name).symlink_to(gone)
        with pytest.raises(DataError, match=rf"{name}: a link to .* not there"):
            read_records(f"yolo:{data}")
        (tmp_path / name).unlink()


def test_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = folders(tmp_path)
    closed = tmp_path / "images" / "train" / "closed"
    save(closed, "a")
    scan = os.scandir

    def refuse(path: str) -> object:  # permissions do not bind root, as which containers run tests
        if os.fspath(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(closed))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"train/closed: Permission denied; expected a folder that can be"):
        read_records(f"yolo:{data}")


def test_yaml_beside_a_hidden_one_and_in_capitals(tmp_path: Path) -> None:
    folders(tmp_path).rename(tmp_path / "dogs.YAML")
    (tmp_path / "._dogs.YAML").write_bytes(b"\0\5\x16\7")
    assert image_names(f"yolo:{tmp_path}") == ["a.jpg", "b.jpg", "c.jpg"]


def test_classes_without_names_need_a_map(tmp_path: Path) -> None:
    path = folders(tmp_path)
    path.write_text("train: images/train\n")
    with pytest.raises(DataError, match=r"none of its 3 labels \(0, 1, 2\).*map file"):
        open_dataset(f"yolo:{path}", TREE)
    lines = tmp_path / "my.map"
    lines.write_text("cat\ndog\nn02110185\nanimal\n")  # one class more than occurs
    mapped = open_dataset(f"yolo:{path}", TREE, map_file=lines)
    assert [mapped.nodes(i) for i in range(3)] == [[DOG, CAT], [HUSKY], []]
    lines.write_text("cat\ndog\n")
    with pytest.raises(FormatError, match="expected 3 lines or more"):
        open_dataset(f"yolo:{path}", TREE, map_file=lines)


def test_check_finds_what_is_wrong(tmp_path: Path) -> None:
    path = folders(tmp_path)
    text = "3 .5 .5 .1 .1\n2 .5 .5 0 .1\n2 .9 .5 .4 .5\n1 nan .5 .1 .1\n"
    (tmp_path / "labels" / "train" / "b.txt").write_text(text)
    (tmp_path / "images" / "train" / "c.jpg").write_bytes(b"no image")
    report = data_check(f"yolo:{path}", TREE)
    assert report.counts == {DOG: 1, CAT: 1, HUSKY: 1}
    assert report.unmatched == {"gizmo": 1}
    assert len(report.outside) == len(report.unreadable) == 1
    flat, unknown = report.degenerate
    assert re.search(r"b\.txt:2: box .* has no area: left out", flat)
    assert re.search(r"b\.txt:4: box \(nan, .* is not of finite numbers: left out", unknown)
    assert "b.jpg: box 2 (Siberian husky: 44.8, 12, 70.4, 36)" in report.outside[0]
    assert "c.jpg" in report.unreadable[0]


def test_packs_and_anchors_know_shares_from_pixels(tmp_path: Path) -> None:
    coco, yolo = as_coco(tmp_path / "c"), read_records(f"yolo:{folders(tmp_path / 'y')}")
    assert np.allclose(box_shapes(yolo), box_shapes(coco), atol=1e-6)
    assert len(box_shapes(coco)) == 3
    # Into an input of 24 x 320 a photo of 48 x 64 goes at half its size, by the height.
    assert np.allclose(box_shapes(yolo, 24, 320), box_shapes(yolo) * 32)
    path = pack(yolo, tmp_path / "y.h5")
    assert same(read_records(f"pack:{path}"), tmp_path)
    packed, loose = open_dataset(f"pack:{path}", TREE), open_dataset(f"yolo:{tmp_path / 'y'}", TREE)
    assert all(np.array_equal(packed[i].boxes, loose[i].boxes) for i in range(3))


# ------------------------------------------------------------------------------------------------- darknet


def darknet(root: Path, images: str = "images", labels: str = "labels", data: str = "cfg") -> Path:
    """A data set below `root`, where darknet runs: `cfg/pets.data`, and a list of relative paths."""
    write(root / images, root / labels)
    (root / data).mkdir(parents=True, exist_ok=True)
    (root / "train.txt").write_text("".join(f"{images}/{name}.jpg\n" for name in SIZES))
    (root / data / "pets.names").write_text("\n".join(NAMES) + "\n\n")
    path = root / data / "pets.data"
    path.write_text(f"classes= 4\n# pets\ntrain  = train.txt\nvalid = train.txt\nnames = {data}/pets.names\n")
    return path


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images", "labels"),
        ("VOC/JPEGImages", "VOC/labels"),
        ("raw", "labels"),
        ("data/obj", "data/obj"),
        ("images1/x/images", "labels1/x/images"),  # darknet replaces where it comes first
        ("images1/x/images", "images1/x/labels"),  # YOLO where it comes last
    ],
)
@pytest.mark.parametrize("data", ["cfg", "cfg/mine", "."])
def test_darknet_layouts(tmp_path: Path, images: str, labels: str, data: str) -> None:
    path = darknet(tmp_path / "raw images", images, labels, data)
    assert same(read_records(f"darknet:{path}"), tmp_path)
    assert read_records(f"darknet:{path}:val").store.name(1).endswith(f"{images}/b.jpg")


def test_darknet_list_alone(tmp_path: Path) -> None:
    darknet(tmp_path)
    lines = tmp_path / "pets.map"
    lines.write_text("cat\ndog\nSiberian husky\nanimal\n")
    dataset = open_dataset(f"darknet:{tmp_path / 'train.txt'}", TREE, map_file=lines)
    assert [dataset.nodes(i) for i in range(3)] == [[DOG, CAT], [HUSKY], []]


def test_exports_of_cvat_may_lie_in_any_folder(tmp_path: Path) -> None:
    path = darknet(tmp_path, data=".")
    path.write_text("classes = 4\ntrain = data/train.txt\nnames = data/pets.names\n")
    (tmp_path / "train.txt").write_text("".join(f"data/images/{name}.jpg\n" for name in SIZES))
    found = read_records(f"darknet:{path}")
    assert same(found, tmp_path)
    (tmp_path / "data.yaml").write_text(f"train: train.txt\nnames: {json.dumps(NAMES)}\n")
    assert same_store(read_records(f"yolo:{tmp_path}"), found)


def test_darknet_labels_are_wordnet_ids(tmp_path: Path) -> None:
    path = darknet(tmp_path)
    (tmp_path / "ids").write_text("n02121620\nn02084071\nn02110185\nn00015388\n")
    (tmp_path / "cfg" / "pets.names").write_text("mieze\nhund\nwolfi\ntier\n")
    path.write_text(path.read_text() + f"labels={tmp_path / 'ids'}\n")
    dataset = open_dataset(f"darknet:{path}", TREE)
    assert [dataset.nodes(i) for i in range(3)] == [[DOG, CAT], [HUSKY], []]


@pytest.mark.parametrize("name", ["pets.data", "pets.hierarchy.dataset"])
def test_darknet_classifier(tmp_path: Path, name: str) -> None:
    images = ["train/n02110185_1.jpg", "train/n02084071/a.jpg", "x/3_my-cat-2.jpg"]
    for image in images:
        save((tmp_path / image).parent, "a")
        ((tmp_path / image).parent / "a.jpg").replace(tmp_path / image)
    (tmp_path / "all.txt").write_text("\r\n".join(images).replace("/", "\\"))
    (tmp_path / "labels.txt").write_text("train\nn02084071\nn02110185\nmy-cat\nunused\n")
    (tmp_path / "names.txt").write_text("train\ndog\nhusky\ncat\nunused\n")
    path = tmp_path / name
    path.write_text("classes=4\ntrain=all.txt\nlabels=labels.txt\nnames=names.txt\n")
    dataset = open_dataset(f"darknet-classifier:{path}", TREE)
    assert dataset.kind == "classification"
    assert [dataset.nodes(i) for i in range(3)] == [[HUSKY], [DOG], [CAT]]
    (tmp_path / "all.txt").write_text(f"{images[0]}\nx/y.jpg\n")
    with pytest.raises(FormatError, match=r"all\.txt:2: no label occurs in the path 'x/y\.jpg'"):
        read_records(f"darknet-classifier:{path}")
    path.write_text("classes=4\ntrain=all.txt\n")
    with pytest.raises(DataError, match=r"expected a \.data file with `labels`"):
        read_records(f"darknet-classifier:{path}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes=4\nimages/a.jpg\n", r"pets\.data:2: expected `key = value`, got 'images/a\.jpg'"),
        ("names=cfg/pets.names\n", r"pets\.data: has no 'train'; its keys: names"),
        ("train=none.txt\n", r"train = none\.txt: no such file; looked for .*cfg/none\.txt, "),
        ("train=train.txt\nnames=none\n", "names = none: no such file"),
        ("train=train.txt\nnames=cfg/pets.names\nclasses=5\n", "classes = 5, but .* has 4 lines"),
        ("train=train.txt\nnames=cfg/pets.names\nclasses=x\n", "classes = x"),
        ("train=train.txt\nnames=cfg/pets.names\nclasses=2\n", r"b\.txt:1: class 2: there are 2 classes"),
        ("train=train.txt\nnames=cfg/pets.names\nlabels=train.txt\n", "names has 4 lines, labels 3"),
    ],
)
def test_wrong_data_files(tmp_path: Path, text: str, message: str) -> None:
    path = darknet(tmp_path)
    path.write_text(text)
    with pytest.raises(YOLO9000Error, match=message):
        read_records(f"darknet:{path}")


def test_text_as_some_windows_programs_save_it_is_refused(tmp_path: Path) -> None:
    for name, spec in (("a.txt", "darknet"), ("a.data", "darknet"), ("a.yaml", "yolo")):
        (tmp_path / name).write_text("train: x", encoding="utf-16")
        with pytest.raises(DataError, match=rf"{name}: expected .* save it as UTF-8"):
            read_records(f"{spec}:{tmp_path / name}")


def test_list_of_a_gone_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.txt: cannot be read as a list of image paths"):
        read_records(f"darknet:{tmp_path / 'gone.txt'}")
