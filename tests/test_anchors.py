"""Priors by IoU k-means."""

from __future__ import annotations

import numpy as np
import pytest

from yolo9000.anchors import cluster_anchors, shape_overlap
from yolo9000.errors import DataError


def test_separate_clusters_are_found() -> None:
    generator = np.random.default_rng(1)
    centres = np.array([[1.0, 1.0], [4.0, 8.0], [12.0, 5.0]])
    boxes = np.concatenate([c * generator.uniform(0.97, 1.03, (50, 2)) for c in centres])
    found, score = cluster_anchors(boxes, 3)
    np.testing.assert_allclose(found, centres[np.argsort(centres.prod(1))], rtol=0.02)
    assert score > 0.96


def test_score_is_the_mean_best_overlap_by_hand() -> None:
    boxes = np.array([[2.0, 2.0], [2.0, 4.0], [8.0, 1.0]])
    priors, score = cluster_anchors(boxes, 1)

    def iou(one: np.ndarray, two: np.ndarray) -> float:
        inter = min(one[0], two[0]) * min(one[1], two[1])
        return float(inter / (one[0] * one[1] + two[0] * two[1] - inter))

    assert score == pytest.approx(np.mean([iou(box, priors[0]) for box in boxes]))
    np.testing.assert_allclose(priors[0], boxes.mean(0))


def test_more_priors_never_fit_worse() -> None:
    boxes = np.random.default_rng(3).lognormal(0, 1, (300, 2))
    scores = [cluster_anchors(boxes, k)[1] for k in (1, 3, 9)]
    assert scores == sorted(scores)
    assert shape_overlap(boxes, boxes).diagonal() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("boxes", "count", "message"),
    [
        ([[1, 1], [0, 2]], 1, "positive"),
        ([[1, float("nan")]], 1, "positive"),
        ([[1, 1], [1, 1]], 2, "1 different"),
        ([], 3, "not one box"),
    ],
)
def test_bad_shapes_are_refused(boxes: list[list[float]], count: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        cluster_anchors(boxes, count)
