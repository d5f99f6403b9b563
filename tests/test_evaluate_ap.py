"""Average precision against a slow implementation, pycocotools, mapcalc, mean-average-precision, by hand."""

from __future__ import annotations

import contextlib
import io
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo9000.evaluation.ap import (
    Curve,
    Predictions,
    Truths,
    best_truth,
    class_curve,
    image_pairs,
    match,
    pair_overlap,
)

BOX = (10, 10, 20, 20)


def curve(predictions: list[tuple[Any, ...]], truths: list[tuple[Any, ...]], iou: float = 0.5) -> Curve:
    """From rows (box, image, score) and (box, image[, "difficult" or "crowd"])."""
    p = Predictions.of(
        [r[0] for r in predictions],
        [0] * len(predictions),
        [r[1] for r in predictions],
        [r[2] for r in predictions],
    )
    marks = [r[2] if len(r) > 2 else "" for r in truths]
    t = Truths.of(
        [r[0] for r in truths],
        [0] * len(truths),
        [r[1] for r in truths],
        [mark == "difficult" for mark in marks],
        [mark == "crowd" for mark in marks],
    )
    return class_curve(p, t, iou)


# ------------------------------------------------------------------------------------------------ by hand


@pytest.mark.parametrize(
    ("predictions", "truths", "ap", "ap11"),
    [
        pytest.param([], [(BOX, 0)], 0.0, 0.0, id="no predictions"),
        pytest.param([(BOX, 0, 0.9)], [(BOX, 0)], 1.0, 1.0, id="found"),
        pytest.param([(BOX, 1, 0.9)], [(BOX, 0)], 0.0, 0.0, id="in another image"),
        pytest.param([(BOX, 0, 0.9), (BOX, 0, 0.8)], [(BOX, 0)], 1.0, 1.0, id="duplicate after"),
        pytest.param([(BOX, 0, 0.9), (BOX, 0, 0.8)], [(BOX, 0), (BOX, 1)], 0.5, 6 / 11, id="duplicate"),
        pytest.param([(BOX, 1, 0.9), (BOX, 0, 0.8)], [(BOX, 0)], 0.5, 0.5, id="false alarm first"),
        pytest.param(
            [(BOX, 0, 0.9), (BOX, 1, 0.8)], [(BOX, 0), (BOX, 1, "difficult")], 1.0, 1.0, id="difficult"
        ),
        pytest.param(
            [(BOX, 1, 0.9), (BOX, 1, 0.85), (BOX, 0, 0.8)],
            [(BOX, 0), (BOX, 1, "difficult")],
            1.0,
            1.0,
            id="difficult excuses all",
        ),
        pytest.param(
            [((10, 10, 12, 12), 0, 0.9), ((50, 0, 60, 5), 0, 0.7)],
            [((50, 0, 60, 5), 0), ((0, 0, 40, 40), 0, "crowd")],
            1.0,
            1.0,
            id="inside a crowd",
        ),
        pytest.param([((10, 10, 20, 15), 0, 0.9)], [(BOX, 0)], 1.0, 1.0, id="IoU of exactly one half"),
        pytest.param([((10, 10, 20, 14.9), 0, 0.9)], [(BOX, 0)], 0.0, 0.0, id="IoU just below one half"),
    ],
)
def test_by_hand(predictions: list[Any], truths: list[Any], ap: float, ap11: float) -> None:
    result = curve(predictions, truths)
    assert result.ap == pytest.approx(ap)
    assert result.ap11 == pytest.approx(ap11)


def test_a_class_without_objects_has_no_ap() -> None:
    for truths in ([], [(BOX, 0, "difficult")], [(BOX, 0, "crowd")]):
        result = curve([(BOX, 5, 0.9)], truths)
        assert result.truths == 0
        assert math.isnan(result.ap)
        assert math.isnan(result.ap11)


def test_known_curve() -> None:
    """Right, wrong, right, wrong of 4 objects: precision 1, 1/2, 2/3, 1/2 at recall 1/4, 1/4, 1/2, 1/2."""
    known = Curve.of(np.array([0.9, 0.8, 0.7, 0.6]), np.array([1.0, 0, 1, 0]), truths=4)
    assert known.recall.tolist() == [0.25, 0.25, 0.5, 0.5]
    assert known.precision == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2])
    assert known.ap == pytest.approx(0.25 * 1 + 0.25 * 2 / 3)
    assert known.ap11 == pytest.approx((3 * 1 + 3 * 2 / 3) / 11)  # recalls 0, .1, .2 and .3, .4, .5


def test_a_recall_that_is_only_rounded_below_its_threshold_counts() -> None:
    """3 of 10 found: 0.1 * 3 is 0.30000000000000004, and 0.3 must still count as reached."""
    known = Curve.of(np.linspace(1, 0, 3), np.ones(3), truths=10)
    assert known.ap11 == pytest.approx(4 / 11)
    assert Curve.of(np.linspace(1, 0, 7), np.ones(7), truths=10).ap11 == pytest.approx(8 / 11)


def test_the_truth_with_most_overlap_is_claimed_even_if_taken() -> None:
    """VOC's rule: the second prediction looks at the nearer truth, which is taken, and is wrong."""
    result = curve(
        [((0, 0, 10, 10), 0, 0.9), ((0, 0, 10, 11), 0, 0.8)], [((0, 0, 10, 10), 0), ((0, 0, 10, 16), 0)], 0.5
    )
    assert result.recall.tolist() == [0.5, 0.5]


def test_empty_arrays() -> None:
    none = Predictions.of(np.zeros((0, 4)), [], [], [])
    truths = Truths.of([BOX], [0], [0])
    assert [len(x) for x in match(none, truths)] == [0, 0]
    index, overlap = best_truth(Predictions.of([BOX], [0], [0], [1.0]), truths[np.zeros(1, bool)])
    assert index.tolist() == [-1]
    assert overlap.tolist() == [0.0]


def test_lengths_are_checked() -> None:
    with pytest.raises(ValueError, match=r"expected 2 boxes.*got 1"):
        Truths.of([BOX], [0, 1], [0, 0])
    with pytest.raises(ValueError, match=r"expected 1 values.*got 2"):
        Predictions.of([BOX], [0], [0], [0.5, 0.6])


def test_overlap() -> None:
    a, b = (
        np.array([[0, 0, 10, 10], [0, 0, 1, 1], [3, 3, 3, 3.0]]),
        np.array([[5, 5, 15, 15], [1, 0, 2, 1], [3, 3, 3, 3.0]]),
    )
    assert pair_overlap(a, b) == pytest.approx([25 / 175, 0, 0])
    assert pair_overlap(a, b, of_first=True) == pytest.approx([0.25, 0, 0])


@settings(deadline=None)
@given(st.lists(st.integers(0, 4)), st.lists(st.integers(0, 4)))
def test_image_pairs(first: list[int], second: list[int]) -> None:
    i, j = image_pairs(np.array(first, np.int64), np.array(second, np.int64))
    expected = [(a, b) for a in range(len(first)) for b in range(len(second)) if first[a] == second[b]]
    assert sorted(zip(i.tolist(), j.tolist(), strict=True)) == expected


# -------------------------------------------------------------------------------- a slow implementation


def slow_iou(a: Any, b: Any) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inter = width * height
    return float(inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter))


def slow_voc(predictions: Predictions, truths: Truths, iou: float) -> tuple[float, float]:
    """Prediction by prediction, as the VOC kit's text describes it: (all-point, 11-point)."""
    taken, points, right, judged = set(), [], 0, 0
    total = sum(not d for d in truths.difficult)
    for k in sorted(range(len(predictions)), key=lambda k: -predictions.scores[k]):
        best, best_overlap = None, -1.0
        for t in range(len(truths)):
            if truths.images[t] == predictions.images[k]:
                overlap = slow_iou(predictions.boxes[k], truths.boxes[t])
                if overlap > best_overlap:
                    best, best_overlap = t, overlap
        if best is not None and best_overlap >= iou:
            if truths.difficult[best]:
                continue
            if best not in taken:
                taken.add(best)
                right += 1
        judged += 1
        points.append((right, right / judged))
    if not total:
        return math.nan, math.nan
    area = 0.0
    for found in range(1, right + 1):
        area += max(p for r, p in points if r >= found) / total
    eleven = (
        sum(max((p for r, p in points if 10 * r >= tenth * total), default=0.0) for tenth in range(11)) / 11
    )
    return area, eleven


corner = st.integers(0, 12)
box = st.tuples(corner, corner, st.integers(1, 6), st.integers(1, 6)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
truth_rows = st.lists(st.tuples(box, st.integers(0, 2), st.booleans()), max_size=12)
prediction_rows = st.lists(st.tuples(box, st.integers(0, 2), st.integers(0, 20)), max_size=25)


def arrays(predictions: list[Any], truths: list[Any]) -> tuple[Predictions, Truths]:
    p = Predictions.of(
        [r[0] for r in predictions],
        np.zeros(len(predictions)),
        [r[1] for r in predictions],
        [r[2] / 20 for r in predictions],
    )
    t = Truths.of(
        [r[0] for r in truths], np.zeros(len(truths)), [r[1] for r in truths], [r[2] for r in truths]
    )
    return p, t


@settings(max_examples=200, deadline=None)
@given(prediction_rows, truth_rows, st.sampled_from([0.3, 0.5, 0.75]))
def test_against_the_slow_implementation(predictions: list[Any], truths: list[Any], iou: float) -> None:
    p, t = arrays(predictions, truths)
    fast = class_curve(p, t, iou)
    assert (fast.ap, fast.ap11) == pytest.approx(slow_voc(p, t, iou), nan_ok=True)


def scene(seed: int, images: int = 8) -> tuple[Predictions, Truths]:
    """Random truths, predictions near them, false alarms, duplicates; scores all different."""
    rng = np.random.default_rng(seed)
    t_images = rng.integers(0, images, 30)
    low = rng.uniform(0, 80, (30, 2))
    truths = Truths.of(np.hstack((low, low + rng.uniform(8, 40, (30, 2)))), np.zeros(30), t_images)
    source = rng.integers(0, 30, 60)
    boxes = truths.boxes[source] + rng.normal(0, 3, (60, 4))
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    p_images = np.where(rng.random(60) < 0.8, t_images[source], rng.integers(0, images, 60))
    return Predictions.of(boxes, np.zeros(60), p_images, rng.permutation(60) / 60), truths


@pytest.mark.parametrize("seed", range(8))
def test_against_mapcalc(seed: int) -> None:
    """All-point VOC AP of an implementation that is not ours.

    It knows one image and takes predictions as sorted; images are laid side by side. Its boxes end on their
    last pixel.
    """
    mapcalc = pytest.importorskip("mapcalc.main", reason="pip install -e .[dev]")
    predictions, truths = scene(seed)
    predictions = predictions[np.argsort(-predictions.scores)]

    def side_by_side(boxes: Any, images: Any) -> list[list[float]]:
        return (boxes + np.array([1000, 0, 1000, 0]) * images[:, None] - np.array([0, 0, 1, 1])).tolist()

    theirs = mapcalc.calculate_map(
        {"boxes": side_by_side(truths.boxes, truths.images), "labels": [0] * len(truths)},
        {
            "boxes": side_by_side(predictions.boxes, predictions.images),
            "labels": [0] * len(predictions),
            "scores": predictions.scores.tolist(),
        },
        0.5,
    )
    ours = class_curve(predictions, truths).ap
    assert 0.05 < ours < 0.95  # a scene in which something can differ
    assert ours == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_against_mean_average_precision(seed: int) -> None:
    """11-point and all-point VOC AP of another implementation that is not ours. Its boxes end likewise."""
    package = pytest.importorskip("mean_average_precision", reason="pip install -e .[dev]")
    predictions, truths = scene(seed)
    metric = package.MetricBuilder.build_evaluation_metric("map_2d", async_mode=False, num_classes=1)
    for image in range(8):
        p, t = predictions[predictions.images == image], truths[truths.images == image]
        last = np.array([0, 0, 1, 1])
        metric.add(
            np.column_stack((p.boxes - last, p.classes, p.scores)),
            np.column_stack((t.boxes - last, t.classes, np.zeros((len(t), 2)))),
        )
    ours = class_curve(predictions, truths)
    assert 0.05 < ours.ap11 < 0.95
    assert ours.ap == pytest.approx(metric.value(0.5)["mAP"], abs=1e-6)  # it returns float32
    eleven = np.arange(11) / 10 - 1e-9  # 3 of 10 found must count as recall 0.3
    assert ours.ap11 == pytest.approx(metric.value(0.5, recall_thresholds=eleven)["mAP"], abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_against_pycocotools_at_101_points(seed: int) -> None:
    """COCO matches to the best *free* truth; where no two truths overlap the rules agree."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(seed)
    cells = np.array([(x, y, image) for image in range(4) for x in range(3) for y in range(3)])
    low = cells[:, :2] * 60.0
    truths = Truths.of(
        np.hstack((low, low + rng.uniform(20, 50, low.shape))),
        np.zeros(len(cells)),
        cells[:, 2],
        crowd=rng.random(len(cells)) < 0.2,
    )
    source = rng.integers(0, len(truths), 80)
    boxes = truths.boxes[source] + rng.normal(0, 5, (80, 4))
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    predictions = Predictions.of(boxes, np.zeros(80), truths.images[source], rng.permutation(80) / 80)

    def xywh(b: Any) -> list[float]:
        return [float(b[0]), float(b[1]), float(b[2] - b[0]), float(b[3] - b[1])]

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in range(4)],
            "categories": [{"id": 1, "name": "thing"}],
            "annotations": [
                {
                    "id": i + 1,
                    "image_id": int(t),
                    "category_id": 1,
                    "bbox": xywh(b),
                    "area": 1.0,
                    "iscrowd": int(c),
                }
                for i, (b, t, c) in enumerate(zip(truths.boxes, truths.images, truths.crowd, strict=True))
            ],
        }
        coco.createIndex()
        found = coco.loadRes(
            np.array(
                [
                    [i, *xywh(b), s, 1]
                    for i, b, s in zip(predictions.images, predictions.boxes, predictions.scores, strict=True)
                ]
            )
        )
        evaluation = COCOeval(coco, found, "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    for threshold, precision in zip(
        evaluation.params.iouThrs, evaluation.eval["precision"][..., 0, 0, -1], strict=True
    ):
        ours = class_curve(predictions, truths, float(threshold)).interpolated(101)
        assert ours == pytest.approx(precision.mean(), abs=1e-6)
