"""Readers, labels, decoding: small data sets written here, exact expectations, wrong inputs by their
messages."""

from __future__ import annotations

import io
import json
import pickle
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wordtree import WordTree
from yolo9000.anchors import box_shapes
from yolo9000.datasets import CachedDataset, ConcatDataset, open_dataset, open_datasets, read_records
from yolo9000.datasets.labels import Label, map_labels
from yolo9000.datasets.sample import decode_image
from yolo9000.errors import DataError, FormatError

# animal ─ dog ─ Siberian husky, Chihuahua
#        └ cat
# artifact ─ car, table
WNIDS = [
    "n00015388",
    "n00021939",
    "n02084071",
    "n02121620",
    "n02958343",
    "n04379964",
    "n02110185",
    "n02085620",
]
NAMES = ["animal", "artifact", "dog", "cat", "car", "table", "Siberian husky", "Chihuahua"]
ANIMAL, ARTIFACT, DOG, CAT, CAR, TABLE, HUSKY, CHIHUAHUA = range(8)


@pytest.fixture(scope="module")
def tree() -> WordTree:
    return WordTree([-1, -1, 0, 0, 1, 1, 2, 2], WNIDS, NAMES)


def picture(width: int = 40, height: int = 30, colour: tuple[int, int, int] = (200, 30, 60)) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def save(path: Path, **size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(**size).save(path, format="JPEG", quality=95)
    return path


def coco_content() -> dict[str, list[dict[str, object]]]:
    return {
        "images": [
            {"id": 7, "file_name": "b.jpg", "width": 40, "height": 30},
            {"id": 3, "file_name": "a.jpg", "width": 40, "height": 30},
            {"id": 9, "file_name": "empty.jpg", "width": 40, "height": 30},
        ],
        "categories": [
            {"id": 18, "name": "dog"},
            {"id": 17, "name": "cat", "wnid": None},
            {"id": 63, "name": "couch"},
            {"id": 99, "name": "gizmo"},
        ],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 18, "bbox": [1, 2, 10, 20], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 17, "bbox": [5, 5, 100, 10], "iscrowd": 0},
            {"id": 3, "image_id": 7, "category_id": 18, "bbox": [0, 0, 4, 4], "iscrowd": 1},
            {"id": 4, "image_id": 7, "category_id": 99, "bbox": [0, 0, 9, 9]},
            {"id": 5, "image_id": 3, "category_id": 63, "bbox": [0, 0, 8, 8]},
            {"id": 6, "image_id": 3, "category_id": 18, "bbox": [3, 3, 0, 5]},
        ],
    }


def write_coco(root: Path, content: object = None, name: str = "train") -> Path:
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    text = json.dumps(coco_content() if content is None else content)
    (root / "annotations" / f"instances_{name}.json").write_text(text)
    for file in ("a.jpg", "b.jpg", "empty.jpg"):
        save(root / name / file)
    return root


@pytest.mark.parametrize("year", ["", "2017", "2014"])
def test_coco(tmp_path: Path, tree: WordTree, year: str) -> None:
    dataset = open_dataset(f"coco:{write_coco(tmp_path, name='train' + year)}", tree)
    assert len(dataset) == 3
    assert dataset.kind == "detection"
    b, a, empty = (dataset[i] for i in range(3))
    assert [Path(s.source).name for s in (b, a, empty)] == ["b.jpg", "a.jpg", "empty.jpg"]
    assert b.boxes.tolist() == [[5, 5, 40, 15], [0, 0, 4, 4]]  # cut to the image
    assert b.nodes.tolist() == [CAT, DOG]
    assert b.ignored.tolist() == [False, True]
    assert a.boxes.tolist() == [[1, 2, 11, 22], [0, 0, 8, 8]]
    assert a.nodes.tolist() == [DOG, ARTIFACT]  # a couch: nearest ancestor in this tree
    assert empty.boxes.shape == (0, 4)
    assert empty.nodes.shape == (0,)
    assert [dataset.nodes(i) for i in range(3)] == [[CAT], [DOG, ARTIFACT], []]
    assert dataset.unmatched == {"gizmo": 1}
    assert dataset.fallbacks == {"couch": ARTIFACT}  # type: ignore[attr-defined]
    assert "annotation 6" in dataset.issues[0]  # type: ignore[attr-defined]
    assert b.image.dtype == torch.uint8
    assert b.image.shape == (3, 30, 40)
    assert b.boxes.canvas_size == (30, 40)


def test_coco_json_file_and_explicit_split(tmp_path: Path, tree: WordTree) -> None:
    write_coco(tmp_path, name="minival")
    by_file = open_dataset(f"coco:{tmp_path / 'annotations' / 'instances_minival.json'}", tree)
    by_split = open_dataset(f"coco:{tmp_path}:minival", tree)
    assert by_file[0].source.endswith("minival/b.jpg")
    assert by_file[0].boxes.tolist() == by_split[0].boxes.tolist()


def _broken(key: str, index: int, **changes: object) -> dict[str, list[dict[str, object]]]:
    content = coco_content()
    entry = content[key][index]
    for name, value in changes.items():
        if value is None:
            del entry[name]
        else:
            entry[name] = value
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected an object"),
        ({"images": [], "categories": []}, "expected a list 'annotations'"),
        ({"info": 1}, r"expected a list 'categories'.*\['info'\]"),
        (_broken("images", 1, file_name=None), r"images\[1\] \(id 3\): has no 'file_name'"),
        (_broken("images", 1, id=7), "images: 2 of them share the id 7; give each its own"),
        (
            _broken("categories", 1, id=18),
            r"categories\[\d\]: '.*' and '.*' share the id 18; give each its own",
        ),
        (_broken("annotations", 0, iscrowd="maybe"), "annotation 1: iscrowd: expected 0 or 1, got 'maybe'"),
        (_broken("annotations", 2, bbox=None), r"annotations\[2\] \(id 3\): has no 'bbox'"),
        (_broken("annotations", 2, bbox=[1, 2, 3]), "annotation 3: bbox: expected"),
        (_broken("annotations", 2, bbox=[1, 2, 3, "x"]), "annotation 3: bbox: expected"),
        (_broken("annotations", 0, image_id=55), "annotation 1: no image has the id 55"),
        (_broken("annotations", 0, category_id=55), "annotation 1: category_id 55"),
        ({"images": [1], "categories": [], "annotations": []}, r"images\[0\]: expected an object"),
        ({"images": [], "categories": [], "annotations": []}, "holds no images"),
    ],
)
def test_coco_errors(tmp_path: Path, tree: WordTree, content: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(f"coco:{write_coco(tmp_path, content)}", tree)
    assert "instances_train.json" in str(caught.value)


@pytest.mark.parametrize("name", ["a\0.jpg", "a\ud800.jpg"])
def test_names_that_no_file_can_have(tmp_path: Path, tree: WordTree, name: str) -> None:
    with pytest.raises(DataError, match="can be no name: correct the zero byte, or half of a surrogate"):
        open_dataset(f"coco:{write_coco(tmp_path, _broken('images', 1, file_name=name))}", tree)


@pytest.mark.parametrize(
    ("value", "crowd"),
    [("0", False), (False, False), ("1", True), (None, False), (0.0, False), (1.0, True)],
)
def test_coco_crowds_as_text(tmp_path: Path, value: object, crowd: bool) -> None:
    content = coco_content()
    for annotation in content["annotations"]:
        annotation["iscrowd"] = value
    records = read_records(f"coco:{write_coco(tmp_path, content)}")
    assert set(records.ignored.tolist()) == {crowd}


def test_coco_missing_files(tmp_path: Path, tree: WordTree) -> None:
    write_coco(tmp_path, name="val")
    with pytest.raises(DataError, match=r"instances_train\.json.*found in annotations: instances_val\.json"):
        open_dataset(f"coco:{tmp_path}", tree)
    (tmp_path / "annotations" / "instances_train.json").write_text('{"images": [\n 1,')
    with pytest.raises(DataError, match=r"instances_train\.json:2: no valid JSON"):
        open_dataset(f"coco:{tmp_path}", tree)
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(coco_content()))
    with pytest.raises(DataError, match=r"no image 'b\.jpg', nor any of the next, in .*train, .*images"):
        open_dataset(f"coco:{tmp_path}", tree)


@pytest.mark.parametrize(
    ("place", "images", "prefix", "spec"),
    [
        ("train/_annotations.coco.json", "train", "", ""),  # Roboflow
        ("valid/_annotations.coco.json", "valid", "", ":val"),
        ("result.json", "images", "images/", "/result.json"),  # Label Studio
        ("result.json", "images", "images\\", "/result.json"),
        ("labels.json", "data", "", "/labels.json"),  # FiftyOne
        ("annotations/mine.json", "images", "", "/annotations/mine.json"),
        ("annotations/instances_train.json", "images", "", ""),
        ("annotations/instances_train.json", "train", "train/", ""),
        ("annotations/instances_train.json", "photos", "../photos/", ""),
    ],
)
def test_coco_of_other_tools(
    tmp_path: Path, tree: WordTree, place: str, images: str, prefix: str, spec: str
) -> None:
    content = coco_content()
    for picture in content["images"]:
        save(tmp_path / images / str(picture["file_name"]))
        picture["file_name"] = f"{prefix}{picture['file_name']}"
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text(json.dumps(content))
    dataset = open_dataset(f"coco:{tmp_path}{spec}", tree)
    assert [dataset[index].image.shape for index in range(3)] == [(3, 30, 40)] * 3


def test_lvis_names_its_photos_by_their_address(tmp_path: Path, tree: WordTree) -> None:
    content = coco_content()
    for picture in content["images"]:
        name = picture.pop("file_name")
        picture["coco_url"] = f"http://images.cocodataset.org/val2017/{name}"
        save(tmp_path / "val2017" / str(name))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "lvis_v1_train.json").write_text(json.dumps(content))
    dataset = open_dataset(f"coco:{tmp_path}/annotations/lvis_v1_train.json", tree)
    assert dataset[1].source.endswith("val2017/a.jpg")


def test_boxes_in_shares_are_no_pixels(tmp_path: Path) -> None:
    content = coco_content()
    for annotation in content["annotations"]:
        annotation["bbox"] = [0.1, 0.2, 0.5, 0.8]
    with pytest.raises(DataError, match=r"expected boxes in pixels, but no number in them is above 1; are"):
        read_records(f"coco:{write_coco(tmp_path, content)}")


def voc_xml(*objects: tuple[str, tuple[object, ...], object], filename: str = "x.jpg") -> str:
    parts = [
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{b[0]}</xmin>"
        f"<ymin>{b[1]}</ymin><xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
        for name, b, difficult in objects
    ]
    return f"<annotation><filename>{filename}</filename>{''.join(parts)}</annotation>"


def write_voc(root: Path, images: dict[str, str], split: str = "train") -> Path:
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in images))
    for name, xml in images.items():
        (root / "Annotations" / f"{name}.xml").write_text(xml)
        save(root / "JPEGImages" / f"{name}.jpg")
    return root


@pytest.mark.parametrize("flag", [1, "True"])
def test_voc(tmp_path: Path, tree: WordTree, flag: object) -> None:
    first = voc_xml(
        ("dog", (1, 1, 20, 15), 0), ("cat", (5, 6, 7, 8), flag), ("diningtable", (2, 2, 40, 30), 0)
    )
    write_voc(tmp_path, {"2007_1": first, "2007_2": voc_xml(("sofa", (3, 3, 9, 9), 0))})
    dataset = open_dataset(f"voc:{tmp_path}", tree)
    sample = dataset[0]
    assert sample.boxes.tolist() == [[0, 0, 20, 15], [4, 5, 7, 8], [1, 1, 40, 30]]  # pixels count from 1
    assert sample.nodes.tolist() == [DOG, CAT, TABLE]
    assert sample.ignored.tolist() == [False, True, False]
    assert dataset.nodes(0) == [DOG, TABLE]
    assert dataset.nodes(1) == [ARTIFACT]
    assert len(dataset.records.labels) == 20  # type: ignore[attr-defined]


def test_voc_images_of_other_kinds(tmp_path: Path) -> None:
    for kind in (".avif", ".HEIC", ".jpe"):
        root = write_voc(tmp_path / kind, {"a": voc_xml(filename=f"x{kind}")})
        for other in (".jpg", ".PNG", ".bmp"):  # what the XML names is missing
            picture = next((root / "JPEGImages").iterdir()).rename(root / "JPEGImages" / f"a{other}")
            assert read_records(f"voc:{root}").store.inner_name(0) == f"JPEGImages/a{other}"
        picture.rename(root / "JPEGImages" / f"a{kind}")
        assert read_records(f"voc:{root}").store.inner_name(0) == f"JPEGImages/a{kind}"


@pytest.mark.parametrize("parent", ["", "VOCdevkit/"])
def test_voc_years_are_joined(tmp_path: Path, tree: WordTree, parent: str) -> None:
    write_voc(tmp_path / f"{parent}VOC2007", {"a": voc_xml(("dog", (1, 1, 9, 9), 0))}, "trainval")
    write_voc(tmp_path / f"{parent}VOC2012", {"b": voc_xml(("cat", (1, 1, 9, 9), 0))}, "trainval")
    write_voc(tmp_path / f"{parent}VOC2007", {"c": voc_xml()}, "test")
    dataset = open_dataset(f"voc:{tmp_path}:trainval", tree)
    assert [dataset[i].nodes.tolist() for i in range(len(dataset))] == [[DOG], [CAT]]
    assert "VOC2012" in dataset[1].source


def test_voc_names_may_be_wordnet_ids(tmp_path: Path, tree: WordTree) -> None:
    write_voc(tmp_path, {"a": voc_xml(("n02110185", (1, 1, 9, 9), 0), ("Chihuahua", (1, 1, 9, 9), 0))})
    assert open_dataset(f"voc:{tmp_path}", tree).nodes(0) == [HUSKY, CHIHUAHUA]


def test_a_map_serves_all_splits_of_voc(tmp_path: Path, tree: WordTree) -> None:
    """Also those without one of the classes, or with classes of VOC alone."""
    box = (1, 1, 9, 9)
    write_voc(tmp_path / "VOC2007", {"a": voc_xml(("axe", box, 0), ("cat", box, 0), ("dog", box, 0))})
    write_voc(tmp_path / "VOC2012", {"b": voc_xml(("dog", box, 0)), "unread": "<annotation>"}, "all")
    (tmp_path / "VOC2012" / "ImageSets" / "Main" / "val.txt").write_text("b")
    lines = tmp_path / "my.map"
    lines.write_text("table\ncat\ndog\n")
    for split, nodes in (("train", [TABLE, CAT, DOG]), ("val", [DOG])):
        assert open_dataset(f"voc:{tmp_path}:{split}", tree, map_file=lines).nodes(0) == nodes


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<annotation>\n<object>", r"a\.xml:2: no valid XML"),
        (
            "<html><body/></html>",
            r"a\.xml: expected <annotation> as the root of the XML, got <html>; write",
        ),
        (voc_xml(("", (1, 1, 9, 9), 0)), "object 1: has no <name>"),
        (
            voc_xml(("dog", (1, 1, 9, 9), 0), ("cat", (1, "?", 9, 9), 0)),
            r"object 2 \(cat\): expected <bndbox>",
        ),
        (
            "<annotation><object><name>dog</name></object></annotation>",
            r"object 1 \(dog\): expected <bndbox>",
        ),
    ],
)
def test_voc_errors(tmp_path: Path, tree: WordTree, xml: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(f"voc:{write_voc(tmp_path, {'a': xml})}", tree)


def test_voc_namespaces_are_ignored(tmp_path: Path) -> None:
    xml = voc_xml(("dog", (1, 1, 20, 15), 0), filename="x.png")
    default = xml.replace("<annotation>", '<annotation xmlns="http://example.org/voc"><!-- a comment -->')
    prefixed = xml.replace("<", "<v:").replace("<v:/", "</v:")
    prefixed = prefixed.replace("<v:annotation>", '<v:annotation xmlns:v="http://example.org/voc">')
    root = write_voc(tmp_path, {"a": xml, "b": default, "c": prefixed})
    for name in "abc":
        save(root / "JPEGImages" / f"{name}.png")
    records = read_records(f"voc:{root}")
    assert records.boxes.tolist() == [[0, 0, 20, 15]] * 3
    assert [Path(records.store.name(i)).name for i in range(3)] == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize(
    ("lines", "ids"),
    [
        (["my photo", "  b  ", ""], ["my photo", "b"]),
        (["my photo  1", "b -1", "c  0"], ["my photo", "c"]),  # the list of one class
        (["photo 1", "photo 2"], ["photo 1", "photo 2"]),
        (["\ufeffb", "c"], ["b", "c"]),  # with a byte order mark
    ],
)
def test_voc_lists(tmp_path: Path, lines: list[str], ids: list[str]) -> None:
    write_voc(tmp_path, dict.fromkeys(["my photo", "b", "c", "photo 1", "photo 2", "photo"], voc_xml()))
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("\n".join(lines), encoding="utf-8")
    store = read_records(f"voc:{tmp_path}").store
    assert [Path(store.name(i)).stem for i in range(len(store))] == ids


def test_voc_missing_files(tmp_path: Path, tree: WordTree) -> None:
    write_voc(tmp_path, {"a": voc_xml()})
    with pytest.raises(DataError, match=r"ImageSets/Main/val\.txt.*lists found: train"):
        open_dataset(f"voc:{tmp_path}:val", tree)
    (tmp_path / "Annotations" / "a.xml").unlink()
    with pytest.raises(DataError, match=r"a\.xml: No such file.*the image list names it"):
        open_dataset(f"voc:{tmp_path}", tree)


def write_imagenet(root: Path, counts: dict[str, int], split: str = "train") -> Path:
    for folder, count in counts.items():
        for i in range(count):
            save(root / split / folder / f"{folder}_{i}.JPEG")
    return root


def test_imagenet(tmp_path: Path, tree: WordTree) -> None:
    # n02109961 (Eskimo dog) is no node: it stands for dog; n00007846 (person) has no ancestor here.
    root = write_imagenet(tmp_path, {"n02110185": 2, "n02109961": 1, "n00007846": 3, "cat": 1})
    (root / "train" / "n02110185" / "notes.txt").write_text("no image")
    dataset = open_dataset(f"imagenet:{root}", tree)
    assert dataset.kind == "classification"
    assert sorted(dataset.nodes(i)[0] for i in range(len(dataset))) == [DOG, CAT, HUSKY, HUSKY]
    assert dataset.unmatched == {"n00007846": 3}
    assert dataset.fallbacks == {"n02109961": DOG}  # type: ignore[attr-defined]
    sample = dataset[len(dataset) - 1]
    assert sample.nodes.shape == (1,)
    assert sample.boxes.shape == (0, 4)
    with pytest.raises(IndexError):
        dataset[len(dataset)]
    direct = open_dataset(f"imagenet:{root / 'train'}", tree)  # the split's folder itself
    assert len(direct) == len(dataset)
    (root / "train").rename(root / "valid")
    assert len(open_dataset(f"imagenet:{root}:val", tree)) == len(dataset)


def test_imagenet_folders_of_id_and_name(tmp_path: Path, tree: WordTree) -> None:
    """As those of Stanford Dogs; without a node they stand at an ancestor, too. A tree may call a node so."""
    root = write_imagenet(tmp_path, {"n02110185-Siberian_husky": 1, "n02109961-Eskimo_dog": 1})
    dataset = open_dataset(f"imagenet:{root}", tree)
    assert sorted(dataset.nodes(i)[0] for i in range(2)) == [DOG, HUSKY]
    own = WordTree([-1, -1], ["n02110185", "n02110185-Siberian_husky"], ["a", "b"])
    assert open_dataset(f"imagenet:{root}", own).nodes(0) == [1]


def test_imagenet_with_a_class_called_train(tmp_path: Path) -> None:
    for name in ("bus", "train"):
        save(tmp_path / name / "a.jpg")
    assert [label.name for label in read_records(f"imagenet:{tmp_path}").labels] == ["bus", "train"]


def test_imagenet_folders_without_images_are_told(tmp_path: Path) -> None:
    root = write_imagenet(tmp_path, {"dog": 1, "cat": 2})
    assert not read_records(f"imagenet:{root}").issues
    for name in ("bus", "car/images"):
        (root / "train" / name).mkdir(parents=True)
    save(root / "train" / "car" / "images" / "a.jpg")
    (note,) = read_records(f"imagenet:{root}").issues
    assert note.startswith(
        f"{root}/train: 2 of its 4 folders hold no images themselves, such as bus: left out"
    )


def test_imagenet_errors(tmp_path: Path, tree: WordTree) -> None:
    with pytest.raises(DataError, match="No such file"):
        open_dataset(f"imagenet:{tmp_path / 'nowhere'}", tree)
    (tmp_path / "train" / "n02110185").mkdir(parents=True)
    with pytest.raises(DataError, match=r"in them; found 1 folders and no image"):
        open_dataset(f"imagenet:{tmp_path}", tree)
    with pytest.raises(DataError, match=r"or such folders in val/; found 1 folders and no image"):
        open_dataset(f"imagenet:{tmp_path}:val", tree)
    link = tmp_path / "train" / "n02121620"
    link.symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"n02121620: a link to .*gone, which is not there"):
        open_dataset(f"imagenet:{tmp_path}", tree)
    link.unlink()
    save(tmp_path / "train" / "gizmo" / "a.jpg")
    with pytest.raises(
        DataError,
        match=r"none of its 2 labels .* \(neither .* in the tree\); give another tree, or to",
    ):
        open_dataset(f"imagenet:{tmp_path}", tree)


def write_tiny(root: Path) -> Path:
    base = root / "tiny-imagenet-200"
    for wnid, box in (("n02110185", "1\t2\t30\t20"), ("n02121620", "0\t0\t39\t29")):
        save(base / "train" / wnid / "images" / f"{wnid}_0.JPEG")
        (base / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t{box}\n")
    save(base / "val" / "images" / "val_0.JPEG")
    (base / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn02121620\t3\t4\t9\t9\n")
    return base


def as_tar(folder: Path, path: Path, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        archive.add(folder, arcname=folder.name)
    return path


@pytest.mark.parametrize("form", ["folder", "above", "tar"])
def test_tiny_imagenet(tmp_path: Path, tree: WordTree, form: str) -> None:
    base = write_tiny(tmp_path / "data")
    place = {"folder": base, "above": tmp_path / "data", "tar": as_tar(base, tmp_path / "t.tar")}[form]
    dataset = open_dataset(f"tiny-imagenet:{place}", tree)
    assert [dataset.nodes(i) for i in range(2)] == [[HUSKY], [CAT]]
    assert dataset[0].kind == "classification"
    boxed = open_dataset(f"tiny-imagenet-boxes:{place}", tree)
    assert boxed[0].boxes.tolist() == [[1, 2, 31, 21]]  # the last pixel belongs to the box
    assert boxed[1].nodes.tolist() == [CAT]
    val = open_dataset(f"tiny-imagenet-boxes:{place}:val", tree)
    assert val[0].boxes.tolist() == [[3, 4, 10, 10]]
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[1].image, dataset[1].image)


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_tiny_imagenet_with_hidden_files(tmp_path: Path, form: str) -> None:
    """macOS leaves `._x` beside x on other systems' disks, and in tar files."""
    base = write_tiny(tmp_path / "data")
    (base / "train" / "n02110185" / "._n02110185_boxes.txt").write_bytes(b"\0\5\x16\7\xff")
    (base / "val" / "._val_annotations.txt").write_bytes(b"\0\5\x16\7\xff")
    place = base if form == "folder" else as_tar(base, tmp_path / "t.tar")
    assert read_records(f"tiny-imagenet-boxes:{place}").boxes.tolist() == [[1, 2, 31, 21], [0, 0, 40, 30]]
    assert read_records(f"tiny-imagenet-boxes:{place}:val").boxes.tolist() == [[3, 4, 10, 10]]


def test_imagenet_det_with_hidden_files_and_capitals(tmp_path: Path) -> None:
    folder = tmp_path / "ILSVRC" / "Annotations" / "DET" / "train"
    folder.mkdir(parents=True)
    (folder / "a.xml").write_text(voc_xml(("n02084071", (1, 2, 3, 4), 0)))
    (folder / "b.XML").write_text(voc_xml(("n02084071", (5, 6, 7, 8), 0)))
    (folder / "._a.xml").write_bytes(b"\0\5\x16\7")
    records = read_records(f"imagenet-det:{tmp_path}:train")
    assert [Path(records.store.name(i)).name for i in range(len(records.store))] == ["a.JPEG", "b.JPEG"]
    assert records.boxes.tolist() == [[1, 2, 4, 5], [5, 6, 8, 9]]


@pytest.mark.parametrize("name", ["tiny-imagenet", "tiny-imagenet-boxes"])
def test_a_tar_of_tiny_imagenet_without_its_end(tmp_path: Path, name: str) -> None:
    path = as_tar(write_tiny(tmp_path / "data"), tmp_path / "t.tar")
    assert not read_records(f"{name}:{path}").issues
    path.write_bytes(path.read_bytes().rstrip(b"\0"))
    path.write_bytes(path.read_bytes() + bytes(-path.stat().st_size % 512))
    (note,) = read_records(f"{name}:{path}").issues
    assert note.startswith(f"{tmp_path}: the empty blocks at a tar file's end are missing in 1, such as t.t")


def test_photos_of_tiny_imagenet_without_a_row_are_no_background(tmp_path: Path) -> None:
    base = write_tiny(tmp_path)
    save(base / "train" / "n02121620" / "images" / "n02121620_1.JPEG")
    assert len(read_records(f"tiny-imagenet:{base}").store) == 3
    records = read_records(f"tiny-imagenet-boxes:{base}")
    assert records.offsets.tolist() == [0, 1, 2]
    (note,) = records.issues
    assert note == (
        f"{base}: 1 of its 3 images have no row in a file of boxes, such as "
        "train/n02121620/images/n02121620_1.JPEG: left out"
    )
    for boxes in base.rglob("*_boxes.txt"):
        boxes.unlink()
    with pytest.raises(
        DataError, match=r"3 of its 3 images have no row in a file of boxes.*; tiny-imagenet:"
    ):
        read_records(f"tiny-imagenet-boxes:{base}")


def test_tiny_imagenet_errors(tmp_path: Path, tree: WordTree) -> None:
    base = write_tiny(tmp_path)
    with pytest.raises(DataError, match=r"not an uncompressed tar file.*tar cf"):
        open_dataset(f"tiny-imagenet:{as_tar(base, tmp_path / 't.tar.gz', 'w:gz')}", tree)
    with pytest.raises(DataError, match="no such folder or tar file"):
        open_dataset(f"tiny-imagenet:{tmp_path / 'nowhere'}", tree)
    with pytest.raises(DataError, match=r"^C:/nowhere: no such"):  # the second colon is no split's
        open_dataset("tiny-imagenet:C:/nowhere", tree)
    with pytest.raises(DataError, match="that have labels are train and val, got 'test'"):
        open_dataset(f"tiny-imagenet:{base}:test", tree)
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="expected Tiny ImageNet's train/"):
        open_dataset(f"tiny-imagenet:{tmp_path / 'other'}", tree)
    boxes = base / "train" / "n02110185" / "n02110185_boxes.txt"
    boxes.write_text("n02110185_0.JPEG\t1\t2\t3\n")
    with pytest.raises(DataError, match=r"n02110185_boxes\.txt:1: expected 5 columns"):
        open_dataset(f"tiny-imagenet-boxes:{base}", tree)
    boxes.write_text("n02110185_0.JPEG\t1\t2\tx\t3\n")
    with pytest.raises(DataError, match=r"n02110185_boxes\.txt:1: expected x0, y0, x1, y1 as numbers"):
        open_dataset(f"tiny-imagenet-boxes:{base}", tree)


@pytest.mark.parametrize("spec", ["coco", "coco:", "jpeg:somewhere", "", ":x", Path("coco"), ["coco:x"]])
def test_unknown_spec(tree: WordTree, spec: Any) -> None:
    with pytest.raises(DataError, match="FORMAT one of coco, voc, yolo"):
        open_dataset(spec, tree)


def test_map_file(tmp_path: Path, tree: WordTree) -> None:
    root = write_coco(tmp_path)
    lines = tmp_path / "my.map"
    lines.write_text(f"{HUSKY}\nn02121620\ntable\n1\n")  # dog, cat, couch, gizmo
    dataset = open_dataset(f"coco:{root}", tree, map_file=lines)
    assert [dataset.nodes(i) for i in range(3)] == [[CAT, ARTIFACT], [HUSKY, TABLE], []]
    assert dataset.unmatched == {}
    for text, message in (
        ("1\n2\n", r"expected 4 lines.*got 2"),
        ("1\n2\n8\n1\n", r"my\.map:3: node 8 is not in the tree of 8 nodes"),
        ("1\n-1\n0\n1\n", r"my\.map:2: node -1"),
        ("1\n2\nunicorn\n1\n", r"my\.map:3: no node for 'unicorn'"),
    ):
        lines.write_text(text)
        with pytest.raises(FormatError, match=message):
            open_dataset(f"coco:{root}", tree, map_file=lines)
    with pytest.raises(DataError, match="cannot be read as a map file"):
        open_dataset(f"coco:{root}", tree, map_file=tmp_path / "none.map")


def test_labels_of_coco_and_voc_agree_with_darknets_map(darknet_dir: Path) -> None:
    tree = WordTree.load("yolo9000")
    names = (darknet_dir / "data" / "coco.names").read_text().split("\n")[:80]
    expected = [int(line) for line in (darknet_dir / "data" / "coco9k.map").read_text().split()]
    assert map_labels([Label(name) for name in names], tree).nodes.tolist() == expected
    theirs = {"aeroplane": "airplane", "sofa": "couch", "tvmonitor": "tv", "motorbike": "motorcycle"}
    theirs |= {"pottedplant": "potted plant", "diningtable": "dining table"}
    assert map_labels([Label(theirs.get(name, name)) for name in names], tree).nodes.tolist() == expected
    flat = map_labels([Label(theirs.get(name, name)) for name in names], WordTree.flat(names))
    assert flat.nodes.tolist() == list(range(80))


def test_a_synset_of_the_same_name_is_not_taken(tree: WordTree) -> None:
    # n02127808 is the big cat; the tree's "cat" is another synset, its nearest ancestor here is animal.
    mapping = map_labels([Label("cat", "n02127808"), Label("unicorn"), Label("Cat")], tree)
    assert mapping.nodes.tolist() == [ANIMAL, -1, CAT]
    assert mapping.fallbacks == {"cat": ANIMAL}
    assert set(mapping.reasons) == {"unicorn"}


def test_ambiguous_name_is_listed_not_guessed() -> None:
    tree = WordTree([-1, -1], ["bird", "machine"], ["crane", "crane"])
    mapping = map_labels([Label("crane"), Label("bird")], tree)
    assert mapping.nodes.tolist() == [-1, 0]
    assert mapping.reasons["crane"] == "'crane' may be bird, machine"
    made = WordTree.flat(["crane", "crane", "cat", "Cat"])  # their ids: crane, crane-2, cat, Cat
    labels = [Label("crane"), Label("crane-2"), Label("crane", "crane"), Label("cat"), Label("Cat")]
    mapping = map_labels(labels, made)
    assert mapping.nodes.tolist() == [-1, 1, 0, 2, 3]
    assert mapping.reasons == {"crane": "'crane' may be crane, crane-2"}


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


FORMATS = {  # what Pillow can write of each
    "JPEG": ["RGB", "L", "CMYK", "1"],
    "PNG": ["RGB", "L", "P", "RGBA", "LA", "1"],
    "WEBP": ["RGB", "L", "P", "RGBA", "LA", "CMYK"],
    "BMP": ["RGB", "L", "P", "RGBA", "1"],
    "TIFF": ["RGB", "L", "P", "RGBA", "LA", "CMYK", "1"],
    "GIF": ["RGB", "L", "P", "RGBA", "1"],
}


@pytest.mark.parametrize(
    ("kind", "mode"), [(kind, mode) for kind, modes in FORMATS.items() for mode in modes]
)
def test_decode(kind: str, mode: str) -> None:
    white_or_grey = picture(colour=(255, 255, 255) if mode == "1" else (200, 200, 200))
    image = decode_image(
        encode(white_or_grey.quantize(8) if mode == "P" else white_or_grey.convert(mode), kind), "x"
    )
    assert image.dtype == torch.uint8
    assert image.shape == (3, 30, 40)
    assert (image.float() - (255 if mode == "1" else 200)).abs().max() <= 8


def test_decode_keeps_colour_of_cmyk() -> None:
    image = decode_image(encode(picture(colour=(250, 20, 20)).convert("CMYK"), "JPEG", quality=95), "x")
    assert image[0].float().mean() > 200
    assert image[1:].float().mean() < 60


def test_decode_16_bit_grey() -> None:
    grey = Image.fromarray(np.full((4, 5), 0x8000, dtype=np.uint16))
    assert (decode_image(encode(grey, "PNG"), "x").float() - 128).abs().max() <= 1


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    """The message is the same every time: without the address that Pillow's own has in it."""
    records = read_records(f"coco:{write_coco(tmp_path)}")
    (tmp_path / "train" / "b.jpg").write_bytes(b"text")
    message = r"b\.jpg: cannot be .* as an image.*not a picture in any known format \(JPEG"
    with pytest.raises(DataError, match=message):
        decode_image(b"text", "b.jpg")
    with pytest.raises(DataError, match=message):
        box_shapes(records)


def test_whole_images_have_no_box_shapes(tmp_path: Path) -> None:
    records = read_records(f"imagenet:{write_imagenet(tmp_path, {'n02110185': 1})}")
    with pytest.raises(DataError, match="labels of whole images; priors are found for data with boxes"):
        box_shapes(records)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([5, 5, 1e-7, 1e-7], r"\(5, 5, 5, 5\) has no area"),
        ([0, 0, 1e39, 5], r"\(0, 0, inf, 5\) is not of finite numbers"),
        ([float("nan"), 0, 5, 5], r"\(nan, 0, nan, 5\) is not of finite numbers"),
    ],
)
def test_boxes_are_judged_as_they_are_kept(tmp_path: Path, box: list[float], reason: str) -> None:
    """As float32; `data check` lists them, and priors are found without them."""
    records = read_records(f"coco:{write_coco(tmp_path, _broken('annotations', 0, bbox=box))}")
    assert re.search(f"annotation 1: box {reason}: left out", " ".join(records.issues))
    assert (box_shapes(records) > 0).all()


def test_priors_are_found_for_boxes_cut_to_their_image(tmp_path: Path) -> None:
    content = _broken("annotations", 0, bbox=[41, 2, 10, 20])  # outside
    records = read_records(f"coco:{write_coco(tmp_path, content)}")
    assert box_shapes(records, 30, 40).tolist() == [[35, 10], [9, 9], [8, 8]]


def test_damaged_images(tmp_path: Path, tree: WordTree) -> None:
    whole = encode(picture(200, 200), "JPEG")
    for data in (b"", b"text", whole[:300], encode(picture(), "PNG")[:60]):
        with pytest.raises(DataError, match=r"bad\.jpg: cannot be decoded.*replace or remove the file"):
            decode_image(data, "bad.jpg")
    root = write_imagenet(tmp_path, {"n02110185": 2, "n02121620": 1})
    (root / "train" / "n02110185" / "n02110185_1.JPEG").write_bytes(whole[:300])
    with pytest.raises(DataError, match=r"n02110185_1\.JPEG"):
        open_dataset(f"imagenet:{root}", tree)[1]
    skipping = open_dataset(f"imagenet:{root}", tree, on_error="skip")
    with pytest.warns(RuntimeWarning, match=r"n02110185_1\.JPEG"):
        assert skipping[1].nodes.tolist() == [CAT]
    (root / "train" / "n02110185" / "n02110185_1.JPEG").unlink()
    with pytest.raises(DataError, match="the data set lists this image"):
        open_dataset_records_read(root, tree)


def open_dataset_records_read(root: Path, tree: WordTree) -> None:
    records = read_records(f"imagenet:{root}")
    (root / "train" / "n02121620" / "n02121620_0.JPEG").unlink()
    records.store.read(1)


def test_cache_shrinks_images_and_boxes(tmp_path: Path, tree: WordTree) -> None:
    root = write_coco(tmp_path)
    whole = open_dataset(f"coco:{root}", tree)
    small = open_dataset(f"coco:{root}", tree, cache=20)
    assert isinstance(small, CachedDataset)
    assert small[0].image.shape == (3, 15, 20)
    assert torch.allclose(small[0].boxes * 2, whole[0].boxes)
    assert small[0].boxes.canvas_size == (15, 20)
    assert small.nbytes == 3 * 3 * 15 * 20
    assert small[0].ignored.tolist() == whole[0].ignored.tolist()
    large = CachedDataset(whole, 1000)
    assert torch.equal(large[1].image, whole[1].image)  # never made larger
    assert small.unmatched == whole.unmatched
    assert small.nodes(1) == whole.nodes(1)


def test_concat(tmp_path: Path, tree: WordTree) -> None:
    a = write_imagenet(tmp_path / "a", {"n02110185": 2})
    b = write_imagenet(tmp_path / "b", {"n02121620": 1, "gizmo": 4})
    both = open_datasets([f"imagenet:{a}", f"imagenet:{b}"], tree)
    assert isinstance(both, ConcatDataset)
    assert [both.nodes(i)[0] for i in range(len(both))] == [HUSKY, HUSKY, CAT]
    assert both[2].nodes.tolist() == [CAT]
    assert both.unmatched == {"gizmo": 4}
    with pytest.raises(IndexError):
        both[3]
    assert open_datasets([], tree) is None
    with pytest.raises(DataError, match=rf"imagenet:{a}: expected detection data, got a classification data"):
        open_datasets([f"imagenet:{a}"], tree, kind="detection")
    detection = open_dataset(f"coco:{write_coco(tmp_path / 'c')}", tree)
    with pytest.raises(DataError, match="of one kind"):
        ConcatDataset([both, detection])
