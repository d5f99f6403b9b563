"""What detection writes: read back with the programs that it is for."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from toys import files_up_to
from wordtree.tree import WordTree
from yolo9000.errors import ConfigError, YOLO9000Error
from yolo9000.outputs import KINDS, Outputs
from yolo9000.results import Detections
from yolo9000.video import read_video

NAMES = ["animal", "vehicle", "cat", "dog", "crane", "AC/DC: con?"]
TREE = WordTree([-1, -1, 0, 0, 0, 1], [f"n{k}" for k in range(6)], NAMES)
GREY = torch.full((3, 100, 200), 90, dtype=torch.uint8)


def found(nodes: list[int], source: str | None, **about: Any) -> Detections:
    count = len(nodes)
    return Detections(
        boxes=np.array([[10 + 20 * k, 20, 60 + 20 * k, 80.5] for k in range(count)]).reshape(-1, 4),
        scores=np.linspace(0.9, 0.5, count).astype(np.float32),
        objectness=np.ones(count, np.float32),
        nodes=nodes,  # type: ignore[arg-type]
        paths=np.array([TREE.path(node) for node in nodes]).reshape(count, 2),
        path_probs=np.full((count, 2), 0.9, np.float32) if count else np.empty((0, 2), np.float32),
        tree=TREE,
        image_size=(100, 200),
        source=source,
        **about,
    )  # fmt: skip


def write(folder: Path, kinds: list[str], *results: Detections) -> None:
    with Outputs(folder, kinds) as outputs:
        for result in results:
            outputs.write(GREY, result)


PAGES = (found([2, 5], "in/000139.jpg"), found([], "in/empty.png"), found([3], "other/empty.png"))


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_disk_that_fills_leaves_whole_lines(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "whole", [kind], *PAGES)
    whole = (tmp_path / "whole" / f"detections.{kind}").read_text()
    for room in range(0, len(whole), 97):
        with (
            files_up_to(room),
            pytest.raises(YOLO9000Error, match=rf"detections\.{kind}: cannot be written: File too large"),
        ):
            write(tmp_path, [kind], *PAGES)
        left = (tmp_path / f"detections.{kind}").read_text()
        assert whole.startswith(left)
        assert left == "" or left.endswith("\n")


def test_coco_is_read_by_pycocotools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO

    write(tmp_path, ["coco"], *PAGES)
    truth = COCO(str(tmp_path / "coco_images.json"))
    results = truth.loadRes(str(tmp_path / "coco.json"))
    assert [(key, image["file_name"]) for key, image in truth.imgs.items()] == [
        (139, "000139.jpg"), (140, "empty.png"), (141, "empty.png"),
    ]  # fmt: skip
    rows = results.loadAnns(results.getAnnIds(imgIds=139))
    assert [(row["category_id"], row["bbox"]) for row in rows] == [
        (2, [10, 20, 50, 60.5]),
        (5, [30, 20, 50, 60.5]),
    ]
    assert [row["score"] for row in rows] == pytest.approx([0.9, 0.5])
    assert truth.cats[5] == {"id": 5, "name": "AC/DC: con?", "supercategory": "vehicle"}
    assert results.getAnnIds(imgIds=1) == []
    capsys.readouterr()


def test_yolo_labels(tmp_path: Path) -> None:
    with Outputs(str(tmp_path), "yolo") as outputs:
        for page in PAGES:
            outputs.write(GREY, page)
    lines = (tmp_path / "labels" / "000139.txt").read_text().splitlines()
    assert lines == ["2 0.175000 0.502500 0.250000 0.605000", "5 0.275000 0.502500 0.250000 0.605000"]
    assert (tmp_path / "labels" / "empty.txt").read_text() == ""
    assert (tmp_path / "labels" / "empty-2.txt").read_text().startswith("3 ")
    assert (tmp_path / "classes.txt").read_text().splitlines() == NAMES


def test_csv_and_json_lines(tmp_path: Path) -> None:
    frame = found([3], "clip.mp4", frame=4, time=0.16)
    write(tmp_path, ["csv", "jsonl"], *PAGES, frame)
    with (tmp_path / "detections.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["label"] for row in rows] == ["cat", "AC/DC: con?", "dog", "dog"]
    assert rows[1]["path"] == "vehicle > AC/DC: con?"
    assert [float(rows[0][key]) for key in ("x1", "y1", "x2", "y2", "score")] == [10, 20, 60, 80.5, 0.9]
    assert (rows[0]["frame"], rows[3]["frame"], rows[3]["time"]) == ("", "4", "0.16")
    lines = (tmp_path / "detections.jsonl").read_text(encoding="utf-8").splitlines()
    again = [Detections.from_json(line, TREE) for line in lines]
    assert [result.to_dict() for result in again] == [result.to_dict() for result in (*PAGES, frame)]
    assert (again[3].frame, again[3].time) == (4, 0.16)


def test_crops(tmp_path: Path) -> None:
    image = GREY.clone()
    image[:, 20:80, 10:60] = 200
    tiny = found([3], "x.jpg")
    object.__setattr__(tiny, "boxes", np.array([[199.9, 99.9, 200, 100]], np.float32))
    changed = found([3], "y.jpg")
    object.__setattr__(changed, "boxes", np.array([[-20, 500, -10, 600]], np.float32))
    with Outputs(tmp_path, ["crops"]) as outputs:
        outputs.write(image, changed)
        outputs.write(image, found([2, 5], "a.png"))
        outputs.write(image, found([3], "clip.mp4", frame=7, time=1.0))
        outputs.write(image, tiny)
    crop = Image.open(tmp_path / "crops" / "cat" / "a-1.jpg")
    assert crop.size == (50, 60)
    assert np.asarray(crop).min() > 190
    assert (tmp_path / "crops" / "AC_DC_ con_" / "a-2.jpg").exists()
    assert (tmp_path / "crops" / "dog" / "clip_000007-1.jpg").exists()
    for name in ("x", "y"):
        assert Image.open(tmp_path / "crops" / "dog" / f"{name}-1.jpg").size == (1, 1)


def test_names_that_two_nodes_have_stay_apart(tmp_path: Path) -> None:
    tree = WordTree([-1, -1], ["bird", "machine"], ["crane", "crane"])
    both = Detections(
        [[0, 0, 9, 9]] * 2, [0.5] * 2, [1.0] * 2, [0, 1], [[0], [1]], [[0.5]] * 2, tree, (100, 200), "a.png"
    )  # type: ignore[arg-type]
    write(tmp_path, ["crops"], both)
    assert {path.name for path in (tmp_path / "crops").iterdir()} == {"crane bird", "crane machine"}


def test_videos_become_one_video_each(tmp_path: Path) -> None:
    times = [0, 0.1, 0.2, 0.9]
    frames = [found([2], name, frame=k, time=t) for name in ("x.mov", "y.mov") for k, t in enumerate(times)]
    write(tmp_path, ["pictures", "yolo"], PAGES[0], *frames)
    assert {path.name for path in tmp_path.glob("*.*")} >= {"000139.jpg", "x.mp4", "y.mp4"}
    for name in ("x.mp4", "y.mp4"):
        again = list(read_video(str(tmp_path / name)))
        assert [frame.time for frame in again] == pytest.approx(times, abs=1e-4)
        assert again[0].image.float().std() > 10, "nothing was drawn"
    assert len(list((tmp_path / "labels").glob("x_*.txt"))) == 4
    assert not list(tmp_path.glob(".*")), "parts are left over"


def test_an_interrupted_run_leaves_what_it_wrote(tmp_path: Path) -> None:
    def run() -> None:
        with Outputs(tmp_path, list(KINDS)) as outputs:
            for k in range(3):
                outputs.write(GREY, found([2], "x.mov", frame=k, time=k / 10))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(list(read_video(str(tmp_path / "x.mp4")))) == 3
    assert len(json.loads((tmp_path / "coco.json").read_text())) == 3
    assert len((tmp_path / "detections.jsonl").read_text().splitlines()) == 3


def test_nothing_at_all(tmp_path: Path) -> None:
    write(tmp_path, list(KINDS))
    assert json.loads((tmp_path / "coco.json").read_text()) == []
    assert (tmp_path / "detections.jsonl").read_text() == ""
    assert len((tmp_path / "detections.csv").read_text().splitlines()) == 1


@pytest.mark.parametrize(("kind", "folder"), [("yolo", "labels"), ("crops", "crops")])
def test_files_of_earlier_runs_are_warned_of(tmp_path: Path, kind: str, folder: str) -> None:
    for _ in range(2):
        write(tmp_path, [kind], PAGES[0])
    with pytest.warns(UserWarning, match=rf"{folder}: holds files of earlier runs, too \([12]\)\..*--out"):
        write(tmp_path, [kind], PAGES[2])


def test_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ConfigError, match="cannot save xml, '': known are pictures, jsonl, csv, coco, yolo, crops"
    ):
        Outputs(tmp_path, ["xml", ""])
    for kind in KINDS:
        with pytest.raises(YOLO9000Error, match=r"cannot be written: .*--out"):
            write(tmp_path / "file", [kind], PAGES[0])


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("jsonl", "detections.jsonl"),
        ("csv", "detections.csv"),
        ("coco", "coco.json"),
        ("coco", "coco_images.json"),
        ("yolo", "classes.txt"),
        ("yolo", "labels/000139.txt"),
        ("crops", "crops/cat/000139-1.jpg"),
    ],
)
def test_no_source_is_written_over(tmp_path: Path, kind: str, file: str) -> None:
    source = tmp_path / file
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text("read")
    with (
        pytest.raises(ConfigError, match=rf"{file}: is read in this run.*--out"),
        Outputs(tmp_path / "x" / "..", [kind], sources=[str(source)]) as outputs,
    ):
        outputs.write(GREY, PAGES[0])
    assert source.read_text() == "read"
    (tmp_path / "link").hardlink_to(source)
    with (
        pytest.raises(ConfigError, match=r"is read in this run"),
        Outputs(tmp_path, [kind], sources=[str(tmp_path / "link")]) as outputs,
    ):
        outputs.write(GREY, PAGES[0])


def test_pictures_beside_a_source_are_not_written_over(tmp_path: Path) -> None:
    """They may come later in a list that is read from a pipe."""
    for name in ("a.png", "a-2.png", "b.mp4"):
        (tmp_path / name).write_text("read later")
    with Outputs(tmp_path) as outputs:
        drawn = [
            outputs.write(GREY, found([2], str(tmp_path / "a.png"))),
            outputs.write(GREY, found([2], "b.mp4", frame=0, time=0.0)),
            outputs.write(GREY, found([2], "elsewhere/a-2.png")),
        ]
    assert [path.name for path in drawn if path] == ["a-3.png", "b-2.mp4", "a-2-2.png"]
    assert (tmp_path / "a-2.png").read_text() == "read later"
    write(tmp_path, ["pictures"], found([2], "elsewhere/a-3.png"))
    assert len(list(tmp_path.iterdir())) == 6, "what an earlier run wrote is written anew"
    with Outputs(tmp_path, ["pictures", "csv"], more=True) as outputs:
        assert outputs.write(GREY, found([2], "elsewhere/b.mp4")) == tmp_path / "b.png"
        assert outputs.write(GREY, found([2], "elsewhere/a.png")) == tmp_path / "a-4.png"
    with Outputs(tmp_path, ["csv"], more=True) as outputs:
        outputs.write(GREY, PAGES[0])
    write(tmp_path, ["yolo"], found([2], str(tmp_path / "a.png")))
    assert (tmp_path / "labels" / "a.txt").exists(), "no picture is written: the name stays"


@pytest.mark.parametrize("order", [1, -1])
def test_frames_and_pictures_of_like_names(tmp_path: Path, order: int) -> None:
    video = [found([2], "clip.mp4", frame=k, time=k / 10) for k in range(2)]
    pictures = [found([3], f"clip_{k:06d}.jpg") for k in range(2)]
    write(tmp_path, ["yolo", "crops"], *[page for pages in (video, pictures)[::order] for page in pages])
    for files in (tmp_path / "labels", *(tmp_path / "crops").iterdir()):
        assert len(list(files.iterdir())) == (4 if files.name == "labels" else 2)
    assert sorted(path.read_text()[0] for path in (tmp_path / "labels").iterdir()) == ["2", "2", "3", "3"]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("https://example.org/a%20b%2F%00c.jpg?size=1/2", "a b__c"),
        ("https://example.org/", "example"),
        ("rtsp://camera/2/", "2"),
        ("x" * 251 + ".jpg", "x" * 200),
        ("犬" * 83 + ".jpg", "犬" * 66),
        ("caf\udce9.png", "caf\udce9"),
    ],
    ids=["address", "host", "stream", "long", "long in bytes", "no text"],
)
def test_names_of_sources(tmp_path: Path, source: str, name: str) -> None:
    """Such as an address has, such as are too long with an ending and a number, such as are no text."""
    page = found([2], source)
    write(tmp_path, list(KINDS), page)
    assert [path.stem for path in (tmp_path / "labels").iterdir()] == [name]
    line = (tmp_path / "detections.jsonl").read_text()
    assert Detections.from_json(line, TREE).source == source
    assert json.loads((tmp_path / "coco_images.json").read_text())["images"][0]["file_name"]
    assert (tmp_path / "detections.csv").read_text().splitlines()[1].count("cat")


def test_an_address_with_a_query_is_a_file_of_its_ending(tmp_path: Path) -> None:
    write(tmp_path, ["pictures", "coco"], found([2], "https://example.org/my%20cat.JPG?size=1/2.5#top"))
    assert (tmp_path / "my cat.jpg").read_bytes().startswith(b"\xff\xd8"), "JPEG for JPEG"
    assert json.loads((tmp_path / "coco_images.json").read_text())["images"][0]["file_name"] == "my cat.JPG"


def test_ids_of_coco_are_the_numbers_that_names_are(tmp_path: Path) -> None:
    """Whatever comes before them; of two equal ones the first has it."""
    names = ["cat.jpg", "000001.jpg", "1.jpg", "2.jpg"]
    write(tmp_path, ["coco"], *[found([2], name) for name in names])
    images = json.loads((tmp_path / "coco_images.json").read_text())["images"]
    assert [(image["id"], image["file_name"]) for image in images] == list(
        zip([3, 1, 4, 2], names, strict=True)
    )
    assert [result["image_id"] for result in json.loads((tmp_path / "coco.json").read_text())] == [3, 1, 4, 2]


def test_many_pictures_of_one_name_are_quick(tmp_path: Path) -> None:
    write(tmp_path, ["coco"], *[found([], f"{k}/image.jpg") for k in range(5_000)])
    images = json.loads((tmp_path / "coco_images.json").read_text())["images"]
    assert [image["id"] for image in images] == list(range(1, 5_001))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(("kind", "file"), [("jsonl", "detections.jsonl"), ("pictures", ".x.mp4.part")])
def test_a_full_disk(tmp_path: Path, kind: str, file: str) -> None:
    (tmp_path / file).symlink_to("/dev/full")
    with pytest.raises(YOLO9000Error, match=r"cannot be written: No space left on device.*--out"):
        write(tmp_path, [kind], found([2], "x.mov", frame=0, time=0.0))
    assert not list(tmp_path.glob(".*")), "half a video is left over"


# ------------------------------------------------------------------------------------- other libraries


def test_supervision(tmp_path: Path) -> None:
    sv = pytest.importorskip("supervision")
    theirs = found([2, 5], "a.jpg").to_supervision()
    assert theirs["class_name"].tolist() == ["cat", "AC/DC: con?"]
    np.testing.assert_array_equal(theirs.xyxy, [[10, 20, 60, 80.5], [30, 20, 80, 80.5]])
    assert theirs[theirs.confidence > 0.6].class_id.tolist() == [2]
    scene = sv.BoxAnnotator().annotate(np.zeros((100, 200, 3), np.uint8), theirs)
    assert scene.any()
    empty = found([], "a.jpg").to_supervision()
    assert empty.is_empty()
    assert len(sv.Detections.merge([theirs, theirs])) == 4


def test_pandas() -> None:
    pd = pytest.importorskip("pandas")
    frame = found([3], "clip.mp4", frame=4, time=0.16)
    assert pd.concat([frame.to_pandas(), PAGES[1].to_pandas()]).frame.tolist() == [4]
    table = pd.concat([page.to_pandas() for page in PAGES], ignore_index=True)
    for page in (*PAGES, frame):
        assert (page.to_pandas().dtypes[5:13] == table.dtypes[5:13]).all(), "a number is a number everywhere"
    assert table.score.dtype == np.float64
    assert table.label.tolist() == ["cat", "AC/DC: con?", "dog"]
    assert table.groupby("source").score.max().to_dict() == {
        "in/000139.jpg": pytest.approx(0.9), "other/empty.png": pytest.approx(0.9),
    }  # fmt: skip
    assert list(found([], "a").to_pandas().columns) == list(table.columns)


@pytest.mark.parametrize(("method", "package"), [("to_pandas", "pandas"), ("to_supervision", "supervision")])
def test_without_the_other_library(monkeypatch: pytest.MonkeyPatch, method: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"{method} needs {package}: pip install {package}"):
        getattr(PAGES[0], method)()
