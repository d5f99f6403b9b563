"""Credit for ancestors, confusion at cuts, and classes with and without boxes, against slow counting."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wordtree import class_list
from wordtree.errors import FormatError
from wordtree.tree import WordTree
from yolo9000.errors import ConfigError
from yolo9000.evaluation.ap import Curve, Predictions, Truths
from yolo9000.evaluation.boxed import boxed_groups, boxed_nodes
from yolo9000.evaluation.confusion import Confusion
from yolo9000.evaluation.credit import label_credit, score_labels
from yolo9000.evaluation.hierarchy import Cut
from yolo9000.evaluation.plots import save_confusion
from yolo9000.evaluation.scores import ClassScore, ClassScores

# animal ─┬─ dog ─┬─ husky        vehicle ─┬─ car
#         │       └─ pug                   └─ boat        mist
#         └─ cat
NAMES = ["animal", "vehicle", "mist", "dog", "cat", "car", "boat", "husky", "pug"]
TREE = WordTree([-1, -1, -1, 0, 0, 1, 1, 3, 3], NAMES)
HERE, THERE, FAR = (0, 0, 10, 10), (20, 0, 30, 10), (50, 50, 60, 60)


def found(*rows: tuple[str, tuple[float, ...], float]) -> Predictions:
    """Rows of (label, box, score) in picture 0."""
    nodes = [NAMES.index(label) for label, *_ in rows]
    return Predictions.of([r[1] for r in rows], nodes, [0] * len(rows), [r[2] for r in rows])


def objects(*rows: tuple[str, tuple[float, ...]]) -> Truths:
    """Rows of (name, box); `name?` is difficult, `name*` a crowd."""
    nodes = [NAMES.index(name.rstrip("?*")) for name, _ in rows]
    marks = [[name.endswith(mark) for name, _ in rows] for mark in "?*"]
    return Truths.of([box for _, box in rows], nodes, [0] * len(rows), *marks)


def aps(predictions: Predictions, truths: Truths, *, strict: bool = False) -> dict[str, float]:
    scores = score_labels(TREE, predictions, truths, 0.5, "labels", strict=strict)
    return {score.name: score.ap for score in scores.classes}


# --------------------------------------------------------------------------------------------------- credit


@pytest.mark.parametrize(
    ("label", "truth", "credit"),
    [
        ("husky", "husky", 1),
        ("husky", "dog", 1),
        ("dog", "husky", 2 / 3),
        ("animal", "husky", 1 / 3),
        ("animal", "cat", 1 / 2),
        ("pug", "husky", 0),
        ("cat", "husky", 0),
        ("car", "husky", 0),
    ],
)
def test_credit(label: str, truth: str, credit: float) -> None:
    nodes = np.array([NAMES.index(label)]), np.array([NAMES.index(truth)])
    assert label_credit(TREE, *nodes).tolist() == pytest.approx([credit])


def test_the_example_of_the_documentation() -> None:
    """A husky called dog, a cat called cat, and an `animal` where nothing is (docs/evaluation.md)."""
    predictions = found(("dog", HERE, 0.9), ("animal", FAR, 0.8), ("cat", THERE, 0.7))
    truths = objects(("husky", HERE), ("cat", THERE))
    assert aps(predictions, truths) == pytest.approx({"cat": 1 / 2, "husky": 4 / 9})
    assert aps(predictions, truths, strict=True) == pytest.approx({"cat": 1 / 2, "husky": 0})


@pytest.mark.parametrize(
    ("predictions", "truths", "expected"),
    [
        pytest.param([], [("husky", HERE)], {"husky": 0}, id="nothing"),
        pytest.param([("husky", HERE, 0.9)], [("dog", HERE)], {"dog": 1}, id="finer"),
        pytest.param([("pug", HERE, 0.9)], [("husky", HERE)], {"husky": 0}, id="another branch"),
        pytest.param(
            [("pug", HERE, 0.9), ("husky", HERE, 0.8)], [("husky", HERE)], {"husky": 1}, id="no false alarm"
        ),
        pytest.param(
            [("animal", HERE, 0.9), ("husky", HERE, 0.8)],
            [("husky", HERE)],
            {"husky": 1 / 9},
            id="the vague one came first",
        ),
        pytest.param([("animal", HERE, 0.9)], [("husky", HERE), ("cat", HERE)], {"husky": 1 / 9, "cat": 0},
                     id="claims one of two"),
        pytest.param([("car", HERE, 0.9), ("cat", THERE, 0.8)], [("cat", THERE)], {"cat": 1}, id="beside"),
        pytest.param([("animal", HERE, 0.9), ("cat", THERE, 0.8)], [("dog?", HERE), ("cat", THERE)],
                     {"cat": 1}, id="difficult"),
        pytest.param([("dog", HERE, 0.9), ("cat", THERE, 0.8)], [("animal*", (0, 0, 15, 15)), ("cat", THERE)],
                     {"cat": 1}, id="in a crowd"),
    ],
)  # fmt: skip
def test_by_hand(predictions: list[Any], truths: list[Any], expected: dict[str, float]) -> None:
    assert aps(found(*predictions), objects(*truths)) == pytest.approx(expected)


def slow_ap(predictions: Predictions, truths: Truths, node: int) -> float:
    """Prediction by prediction, with paths instead of arrays."""

    def related(a: int, b: int) -> bool:
        return a in TREE.path(b) or b in TREE.path(a)

    taken: set[int] = set()
    points, credit, judged = [], 0.0, 0
    total = int((truths.counted & (truths.classes == node)).sum())
    for k in sorted(range(len(predictions)), key=lambda k: -predictions.scores[k]):
        label, best, overlap = int(predictions.classes[k]), None, 0.5 - 1e-12
        for t in range(len(truths)):
            same = truths.images[t] == predictions.images[k] and related(label, int(truths.classes[t]))
            iou = slow_iou(predictions.boxes[k], truths.boxes[t])
            if same and iou > overlap:
                best, overlap = t, iou
        if best is not None and truths.difficult[best]:
            continue
        if best is not None:
            fresh, truth = best not in taken, int(truths.classes[best])
            taken.add(best)
            if truth != node:
                continue
            own, true = TREE.path(label), TREE.path(truth)
            credit += min(len(own), len(true)) / len(true) if fresh else 0
        elif not related(label, node):
            continue
        judged += 1
        points.append((credit / max(total, 1), credit / judged))
    area, before = 0.0, 0.0
    for recall in sorted({r for r, _ in points}):
        area += (recall - before) * max(p for r, p in points if r >= recall)
        before = recall
    return area if total else math.nan


def slow_iou(a: Any, b: Any) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inter = width * height
    return float(inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter))


corner = st.integers(0, 6)
box = st.tuples(corner, corner, st.integers(2, 6), st.integers(2, 6)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
node_index = st.integers(0, len(NAMES) - 1)
truth_rows = st.lists(st.tuples(box, node_index, st.integers(0, 1), st.booleans()), max_size=8)
label_rows = st.lists(st.tuples(box, node_index, st.integers(0, 1), st.integers(0, 20)), max_size=15)


def arrays(labels: list[Any], truths: list[Any]) -> tuple[Predictions, Truths]:
    p = Predictions.of(*([row[i] for row in labels] for i in range(3)), [row[3] / 20 for row in labels])
    return p, Truths.of(*([row[i] for row in truths] for i in range(4)))


@settings(max_examples=150, deadline=None)
@given(label_rows, truth_rows)
def test_credited_ap_against_the_slow_one(labels: list[Any], truths: list[Any]) -> None:
    predictions, known = arrays(labels, truths)
    for score in score_labels(TREE, predictions, known, 0.5, "labels").classes:
        assert score.ap == pytest.approx(slow_ap(predictions, known, score.node), abs=1e-9)


# ------------------------------------------------------------------------------------------------ confusion


def table(confusion: Confusion) -> dict[tuple[str, str], int]:
    return {
        (row, column): count
        for row, counts in zip(confusion.rows, confusion.counts, strict=True)
        for column, count in zip(confusion.columns, counts, strict=True)
        if count
    }


def test_confusion_of_boxes() -> None:
    predictions = found(
        ("husky", HERE, 0.9),  # a pug: right at the cut
        ("dog", HERE, 0.8),  # a second box on it
        ("dog", THERE, 0.7),  # a cat
        ("animal", (0, 20, 10, 30), 0.7),  # a car: too vague
        ("boat", FAR, 0.6),  # nothing there
        ("cat", (100, 0, 110, 10), 0.6),  # difficult
        ("cat", (201, 1, 205, 5), 0.6),  # in a crowd
        ("cat", (300, 0, 310, 10), 0.6),  # an object above the cut
    )
    truths = objects(
        ("pug", HERE),
        ("cat", THERE),
        ("car", (0, 20, 10, 30)),
        ("boat", (90, 90, 99, 99)),
        ("dog?", (100, 0, 110, 10)),
        ("cat*", (200, 0, 220, 20)),
        ("animal", (300, 0, 310, 10)),
    )
    confusion = Confusion.of_detections(TREE, Cut.at_depth(TREE, 1), predictions, truths, 0.5)
    assert confusion.rows == ("dog", "cat", "car", "boat", "nothing")
    assert confusion.columns == ("dog", "cat", "car", "boat", "above the cut", "missed")
    assert table(confusion) == {
        ("dog", "dog"): 1,
        ("cat", "dog"): 1,
        ("car", "above the cut"): 1,
        ("boat", "missed"): 1,
        ("nothing", "dog"): 1,
        ("nothing", "boat"): 1,
    }
    assert confusion.most_frequent(5) == [("cat", "dog", 1), ("car", "above the cut", 1)]


def test_boxes_are_paired_by_overlap_not_by_score() -> None:
    predictions = found(("cat", (0, 0, 10, 7), 0.9), ("dog", (0, 0, 10, 10), 0.5))
    confusion = Confusion.of_detections(TREE, Cut.at_depth(TREE, 1), predictions, objects(("dog", HERE)), 0.5)
    assert table(confusion) == {("dog", "dog"): 1, ("nothing", "cat"): 1}


def test_confusion_of_pictures() -> None:
    labels, truths = (
        np.array([NAMES.index(name) for name in names])
        for names in (("husky", "boat", "animal", "mist"), ("pug", "dog", "cat", "vehicle"))
    )
    confusion = Confusion.of_labels(TREE, Cut.parse(TREE, "dog,cat,car,boat"), labels, truths)
    assert confusion.columns == ("dog", "cat", "boat", "above the cut")
    assert table(confusion) == {("dog", "dog"): 1, ("dog", "boat"): 1, ("cat", "above the cut"): 1}


@settings(max_examples=60, deadline=None)
@given(label_rows, truth_rows, st.sampled_from(["0", "1", "dog,vehicle"]))
def test_confusion_counts_every_box_and_object_once(labels: list[Any], truths: list[Any], cut: str) -> None:
    predictions, known = arrays(labels, truths)
    known = known[~known.difficult]
    line = Cut.parse(TREE, cut)
    known = known[line.lift(TREE, known.classes) >= 0]
    confusion = Confusion.of_detections(TREE, line, predictions, known, 0.5)
    counts = np.array(confusion.counts).reshape(len(confusion.rows), len(confusion.columns))
    assert counts[:-1].sum() == len(known)
    assert counts[:, :-1].sum() == len(predictions)


def test_a_picture_of_the_confusion(tmp_path: Path) -> None:
    predictions = found(("husky", HERE, 0.9), ("mist", THERE, 0.8))
    confusion = Confusion.of_detections(
        TREE, Cut.at_depth(TREE, 1), predictions, objects(("dog", HERE), ("cat", THERE)), 0.5
    )
    save_confusion(confusion, tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 200
    none = Confusion.of_detections(TREE, Cut.at_depth(TREE, 1), found(), objects(), 0.5)
    with pytest.raises(ConfigError, match="nothing was labelled"):
        save_confusion(none, tmp_path / "none.png")


# ------------------------------------------------------------------------------------- with and without boxes


def test_groups_of_imagenet_det() -> None:
    """The 200 classes against COCO's 80, counted by paths: 38 the same node, 57 on one branch."""
    tree = WordTree.load("yolo9000")
    det, coco = ([tree.index(entry.wnid) for entry in class_list(name)] for name in ("imagenet-det", "coco"))
    assert boxed_nodes(tree, ["coco"]).tolist() == sorted(coco)
    paths = {node: set(tree.path(node)) for node in (*det, *coco)}
    near = [node for node in det if any(node in paths[other] or other in paths[node] for other in coco)]
    curve = Curve.of(np.array([0.5]), np.ones(1), 2)
    scores = ClassScores("all", tuple(ClassScore.of(tree, node, curve) for node in sorted(det)))
    every, boxed, same, unseen = boxed_groups(tree, scores, ["coco"])
    assert (every.classes, boxed.classes, unseen.classes) == (200, len(near), 200 - len(near))
    assert (len(near), same.classes) == (57, len(set(det) & set(coco))) == (57, 38)
    assert (every.truths, every.map, every.map11) == (400, 0.5, pytest.approx(6 / 11))


def test_lists_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="none of the classes of coco is in the tree of 9 nodes"):
        boxed_nodes(WordTree.flat([f"part {i}" for i in range(9)]), ["coco"])
    with pytest.raises(FormatError, match="no class list 'cocoa'"):
        boxed_nodes(TREE, ["cocoa"])
