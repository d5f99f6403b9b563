"""`data check` and `pack` as a user runs them: one scene, good or spoilt, written in every format."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from wordtree import WordTree
from yolo9000.anchors import box_shapes
from yolo9000.datasets import open_dataset, pack, read_records

DOG, CAT, UNKNOWN = "n02084071", "n02121620", "n99999999"
WIDTH, HEIGHT = 40, 30
TREE = WordTree([-1, 0, 0], ["n00015388", DOG, CAT], ["animal", "dog", "cat"])
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Scene:
    """Images with one object each: label and box (XYXY, pixels); those in `broken` are cut off.

    `sideways` photos are turned by their EXIF orientation, and boxes were drawn before or after that; with
    `stated` the formats that can say width and height.
    """

    objects: dict[str, tuple[str, Box]] = field(
        default_factory=lambda: {
            "a": (DOG, (1, 2, 21, 22)),
            "b": (CAT, (0, 0, 40, 30)),
            "c": (DOG, (5, 5, 10, 10)),
        }
    )
    broken: frozenset[str] = frozenset()
    sideways: Literal["before", "after"] | None = None
    stated: bool = False

    def changed(self, label: str | None = None, box: Box | None = None) -> Scene:
        """The scene with another label or box for image c."""
        old_label, old_box = self.objects["c"]
        return replace(self, objects={**self.objects, "c": (label or old_label, box or old_box)})

    def image(self, name: str) -> bytes:
        stream = io.BytesIO()
        pixels = np.random.default_rng(ord(name)).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        exif = Image.Exif()
        if self.sideways:
            exif[274] = 6  # to be turned clockwise
        stored = np.rot90(pixels) if self.sideways == "after" else pixels
        Image.fromarray(stored).save(stream, format="JPEG", exif=exif)
        return stream.getvalue()[: 400 if name in self.broken else None]

    def save(self, path: Path, name: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.image(name))
        return path

    @property
    def labels(self) -> list[str]:
        return sorted({label for label, _ in self.objects.values()})


def coco(scene: Scene, root: Path) -> str:
    entries = list(scene.objects.items())
    for name in scene.objects:
        scene.save(root / "train" / f"{name}.jpg", name)
    size = {"width": WIDTH, "height": HEIGHT} if scene.stated else {}
    content = {
        "images": [{"id": name, "file_name": f"{name}.jpg"} | size for name in scene.objects],
        "categories": [{"id": label, "name": label} for label in scene.labels],
        "annotations": [
            {"id": i, "image_id": name, "category_id": label, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            for i, (name, (label, (x0, y0, x1, y1))) in enumerate(entries)
        ],
    }
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return f"coco:{root}"


def voc(scene: Scene, root: Path) -> str:
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("\n".join(scene.objects))
    for name, (label, (x0, y0, x1, y1)) in scene.objects.items():
        scene.save(root / "JPEGImages" / f"{name}.jpg", name)
        corners = {"xmin": x0 + 1, "ymin": y0 + 1, "xmax": x1, "ymax": y1}
        box = "".join(f"<{key}>{value}</{key}>" for key, value in corners.items())
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>" if scene.stated else ""
        xml = f"<annotation>{size}<object><name>{label}</name><bndbox>{box}</bndbox></object></annotation>"
        (root / "Annotations" / f"{name}.xml").write_text(xml)
    return f"voc:{root}"


def box_files(scene: Scene, root: Path) -> None:
    (root / "labels").mkdir(parents=True)
    for name, (label, (x0, y0, x1, y1)) in scene.objects.items():
        scene.save(root / "images" / f"{name}.jpg", name)
        centre = f"{(x0 + x1) / 2 / WIDTH} {(y0 + y1) / 2 / HEIGHT}"
        sides = f"{(x1 - x0) / WIDTH} {(y1 - y0) / HEIGHT}"
        (root / "labels" / f"{name}.txt").write_text(f"{scene.labels.index(label)} {centre} {sides}\n")


def yolo(scene: Scene, root: Path) -> str:
    box_files(scene, root)
    (root / "data.yaml").write_text(f"train: images\nnames: {json.dumps(scene.labels)}\n")
    return f"yolo:{root / 'data.yaml'}"


def darknet(scene: Scene, root: Path) -> str:
    box_files(scene, root)
    (root / "train.list").write_text("".join(f"images/{name}.jpg\n" for name in scene.objects))
    (root / "x.names").write_text("\n".join(scene.labels))
    (root / "x.data").write_text("train=train.list\nnames=x.names\n")
    return f"darknet:{root / 'x.data'}"


def tiny(scene: Scene, root: Path) -> str:
    for label in scene.labels:
        rows = [(n, b) for n, (known, b) in scene.objects.items() if known == label]
        text = "".join(f"{n}.JPEG\t{b[0]}\t{b[1]}\t{b[2] - 1}\t{b[3] - 1}\n" for n, b in rows)
        for name, _ in rows:
            scene.save(root / "train" / label / "images" / f"{name}.JPEG", name)
        (root / "train" / label / f"{label}_boxes.txt").write_text(text)
    return f"tiny-imagenet-boxes:{root}"


def tiny_labels(scene: Scene, root: Path) -> str:
    return tiny(scene, root).replace("-boxes", "")


def imagenet(scene: Scene, root: Path) -> str:
    for name, (label, _) in scene.objects.items():
        scene.save(root / "train" / label / f"{label}_{name}.JPEG", name)
    return f"imagenet:{root}"


def imagenet_tar(scene: Scene, root: Path) -> str:
    imagenet(scene, root / "loose")
    (root / "tars").mkdir()
    for folder in (root / "loose" / "train").iterdir():
        with tarfile.open(root / "tars" / f"{folder.name}.tar", "w") as archive:
            for file in sorted(folder.iterdir()):
                archive.add(file, file.name)
    return f"imagenet-tar:{root / 'tars'}"


def darknet_classifier(scene: Scene, root: Path) -> str:
    imagenet(scene, root)
    files = sorted((root / "train").rglob("*.JPEG"))
    (root / "train.list").write_text("".join(f"{file}\n" for file in files))
    (root / "labels").write_text("\n".join(scene.labels))
    (root / "x.data").write_text("train=train.list\nlabels=labels\n")
    return f"darknet-classifier:{root / 'x.data'}"


Writer = Callable[[Scene, Path], str]
BOXES: list[Writer] = [coco, voc, yolo, darknet, tiny]
LABELS: list[Writer] = [imagenet, imagenet_tar, darknet_classifier, tiny_labels]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command_line: Run) -> Run:
    """The command line; `data` commands work with the small tree."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("YOLO9000_CACHE", str(tmp_path / "cache"))
    TREE.save(tmp_path / "small.tree")

    def call(*arguments: object) -> tuple[int, str, str]:
        tree = ["--tree", tmp_path / "small.tree"] if arguments[0] == "data" else []
        return command_line(*arguments, *tree)

    return call


def packed(spec: str, path: Path) -> str:
    return f"pack:{pack(read_records(spec), path)}"


@pytest.mark.parametrize("write", [*BOXES, *LABELS])
def test_good_data(run: Run, tmp_path: Path, write: Writer) -> None:
    spec = write(Scene(), tmp_path / "x")
    code, out, err = run("data", "check", spec, packed(spec, tmp_path / "p.h5"))
    assert (code, err) == (0, "")
    kind = "  3 detection images  3 boxes" if write in BOXES else "  3 classification images"
    rows = [line.split() for line in out.splitlines()]
    for text in (kind, "nothing is wrong"):
        assert out.count(text) == 2
    for row in (["dog", "2"], ["cat", "1"]):
        assert rows.count(row) == 2


SEEN = [(write, Scene(sideways="after")) for write in [*BOXES, *LABELS]]
SEEN += [(write, Scene(sideways="after", stated=True)) for write in (coco, voc)]
STORED = [(write, Scene(sideways="before", stated=True)) for write in (coco, voc)]


@pytest.mark.parametrize(("write", "scene"), SEEN + STORED)
def test_photos_are_turned_as_the_boxes_were_drawn(
    run: Run, tmp_path: Path, write: Writer, scene: Scene
) -> None:
    """As people see them, but where the width and height that are stated are those of the stored pixels."""
    spec = write(scene, tmp_path / "x")
    plain = open_dataset(write(Scene(), tmp_path / "plain"), TREE)
    for same in (spec, packed(spec, tmp_path / "x.h5")):
        assert run("data", "check", same)[0] == 0
        for cache in (0, 100):
            for one, other in zip(open_dataset(same, TREE, cache=cache), plain, strict=True):
                assert one.boxes.tolist() == other.boxes.tolist()
                assert one.image.shape == other.image.shape == (3, HEIGHT, WIDTH)
                assert (one.image.float() - other.image.float()).abs().mean() < 25  # JPEG's blocks differ
    if write in BOXES:
        shapes = [box_shapes(read_records(each)) for each in (spec, write(Scene(), tmp_path / "again"))]
        assert shapes[0].tolist() == shapes[1].tolist()


SPOILT = {
    "unmatched": Scene().changed(label=UNKNOWN),
    "degenerate": Scene().changed(box=(5, 5, 5, 10)),
    "outside": Scene().changed(box=(30, 5, 45, 10)),
    "unreadable": Scene(broken=frozenset("c")),
}


@pytest.mark.parametrize("write", [*BOXES, *LABELS])
def test_spoilt_data(run: Run, tmp_path: Path, write: Writer) -> None:
    """Every problem is found, under its own heading alone, in the files and in a pack of them."""
    problems = list(SPOILT) if write in BOXES else ["unmatched", "unreadable"]
    specs = [write(SPOILT[problem], tmp_path / problem) for problem in problems]
    specs += [packed(spec, tmp_path / f"{i}.h5") for i, spec in enumerate(specs)]
    code, out, _ = run("data", "check", *specs, "--json")
    assert code == 1
    reports = [json.loads(line) for line in out.splitlines()]
    assert len(reports) == len(specs)
    for problem, report in zip(problems * 2, reports, strict=True):
        assert report["ok"] is False
        assert {key: len(report[key]) for key in SPOILT} == {key: int(key == problem) for key in SPOILT}


@pytest.mark.parametrize(
    ("problem", "title", "line"),
    [
        (
            "unmatched",
            "1 labels without a node",
            f"{UNKNOWN}: 1 annotations; neither '{UNKNOWN}' nor an id of it is in the tree",
        ),
        ("degenerate", "1 left out by the reader", "c.txt:1: box ("),
        ("outside", "1 boxes outside their image", "c.jpg: box 1 (n02084071: 30, 5, 45, 10) is outside the"),
        ("unreadable", "1 unreadable images", "c.jpg: cannot be decoded as an image"),
    ],
)
def test_what_is_wrong_is_told(run: Run, tmp_path: Path, problem: str, title: str, line: str) -> None:
    code, out, _ = run("data", "check", yolo(SPOILT[problem], tmp_path / "y"))
    assert code == 1
    assert title in out
    assert line in out
    assert out.splitlines()[-1] == "see above"


@pytest.mark.parametrize("write", [coco, voc])
def test_photos_resized_after_they_were_annotated_are_told(run: Run, tmp_path: Path, write: Writer) -> None:
    spec = write(Scene(stated=True), tmp_path / "x")
    photo = next((tmp_path / "x").rglob("a.jpg"))
    Image.open(photo).resize((WIDTH // 2, HEIGHT // 2)).save(photo)
    tree = WordTree.load("yolo9000")
    for same in (spec, packed(spec, tmp_path / "p.h5")):
        with pytest.warns(UserWarning, match=r"a\.jpg: stated to have 40 × 30 pixels, has 20 × 15: boxes of"):
            open_dataset(same, tree)
        code, out, _ = run("data", "check", same)
        assert code == 1
        assert "1 images of another size than stated" in out
        assert "a.jpg: stated to have 40 × 30 pixels, has 20 × 15; its boxes are used as" in out


def test_so_many_nodes_are_shown(run: Run, tmp_path: Path) -> None:
    spec = coco(Scene(), tmp_path / "c")
    _, few, _ = run("data", "check", spec, "--top", "1")
    _, every, _ = run("data", "check", spec, "--top", "0")
    assert "more nodes" in few
    assert "more nodes" not in every
    assert len(every.splitlines()) > len(few.splitlines()) - 1


def test_boxes_that_teach_nothing_are_told(run: Run, tmp_path: Path) -> None:
    spec = coco(Scene(), tmp_path / "c")
    path = tmp_path / "c" / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    path.write_text(json.dumps(content))
    code, out, _ = run("data", "check", spec)
    assert code == 1
    assert "0 boxes, 3 ignored" in out
    assert "not one box to learn from" in out


def test_labels_of_one_name_are_counted_together(run: Run, tmp_path: Path) -> None:
    spec = coco(Scene().changed(label=UNKNOWN), tmp_path / "c")
    path = tmp_path / "c" / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    (unknown,) = (c for c in content["categories"] if UNKNOWN in c.values())
    content["categories"].append({**unknown, "id": 77})
    annotation = content["annotations"][0]
    content["annotations"] += [{**annotation, "id": 100 + i, "category_id": 77} for i in range(2)]
    path.write_text(json.dumps(content))
    _, out, _ = run("data", "check", spec)
    assert f"{UNKNOWN}: 3 annotations" in out


def test_json_has_every_node_by_name(run: Run, tmp_path: Path) -> None:
    code, out, _ = run(
        "data", "check", coco(Scene(), tmp_path / "c"), imagenet(Scene(), tmp_path / "i"), "--json"
    )
    reports = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [report["kind"] for report in reports] == ["detection", "classification"]
    for report in reports:
        rows = [(row["name"], row["wnid"], row["labels"]) for row in report["counts"]]
        assert rows == [("dog", DOG, 2), ("cat", CAT, 1)]


def test_one_data_set_that_cannot_be_opened_does_not_hide_the_next(run: Run, tmp_path: Path) -> None:
    code, out, err = run("data", "check", f"voc:{tmp_path / 'none'}", coco(Scene(), tmp_path / "c"))
    assert code == 1
    assert "Error: " in err
    assert "none: expected ImageSets/Main/train.txt" in err
    assert "nothing is wrong" in out
    assert run("data", "check", f"voc:{tmp_path / 'none'}")[0] == 1


@pytest.mark.parametrize(("write", "twice"), [(yolo, "cat"), (imagenet, "dog")])
def test_check_with_a_map(run: Run, tmp_path: Path, write: Writer, twice: str) -> None:
    """It is of the boxes' classes; labels of whole photos have ids and names."""
    lines = tmp_path / "x.map"
    lines.write_text("cat\ndog\n")  # the other way round
    code, out, _ = run("data", "check", write(Scene(), tmp_path / "y"), "--map", lines)
    assert code == 0
    assert [twice, "2"] in [line.split() for line in out.splitlines()]


def test_several_data_sets_in_one_pack(run: Run, tmp_path: Path) -> None:
    specs = [write(Scene(), tmp_path / write.__name__) for write in BOXES]
    assert run("pack", *specs, tmp_path / "all.h5")[0] == 0
    records = read_records(f"pack:{tmp_path / 'all.h5'}")
    assert len(records.store) == 15
    assert [records.labels[i].name for i in records.label_ids[:3]] == [DOG, CAT, DOG]
    for i in range(15):
        expected = Scene().objects[Path(records.store.inner_name(i)).stem][1]
        assert np.allclose(records.pixel_boxes(i, WIDTH, HEIGHT), [expected], atol=1e-4)
    code, _, err = run("pack", specs[0], imagenet(Scene(), tmp_path / "i"), tmp_path / "mixed.h5")
    assert code == 1
    assert "of one kind" in err


def test_pack_refuses_and_replaces(run: Run, tmp_path: Path) -> None:
    spec = yolo(Scene(), tmp_path / "y")
    code, out, err = run("pack", spec, tmp_path / "p.h5")
    assert (code, err) == (0, "")
    assert re.fullmatch(r".*p\.h5: 3 images, 0\.0 MB, [0-9.]+ times the size of the originals\n", out)
    code, _, err = run("pack", spec, tmp_path / "p.h5")
    assert code == 1
    assert "exists already" in err
    assert run("pack", spec, tmp_path / "p.h5", "--overwrite")[0] == 0
    code, _, err = run("pack", spec, f"{spec}:val")  # without the file to write
    assert (code, f"{spec}:val: expected the file to write, got one more data set" in err) == (1, True)
