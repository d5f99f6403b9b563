"""COCO's average precision, computed by pycocotools.

Letters: T truths, K predictions.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolo9000.evaluation.ap import Predictions, Truths

# Positions in COCOeval.stats; its other entries are average recalls.
_STATS = {"ap": 0, "ap50": 1, "ap75": 2, "small": 3, "medium": 4, "large": 5, "ar100": 8}


@dataclass(frozen=True)
class CocoScores:
    """COCO's summary, each 0..1 and NaN where there is no such object.

    Attributes:
        ap: Mean over the IoU thresholds 0.50, 0.55, ..., 0.95.
        ap50: At IoU 0.50.
        ap75: At IoU 0.75.
        small: `ap` of objects below 32² pixels. The area is that of the *box*: the data sets' boxes are all
            that is read, where COCO's own figures use the area of the outline, which is smaller.
        medium: From 32² to 96² pixels.
        large: Above 96² pixels.
        ar100: Mean recall over those IoU thresholds with at most 100 predictions a class and image.
    """

    ap: float
    ap50: float
    ap75: float
    small: float
    medium: float
    large: float
    ar100: float


def coco_scores(predictions: Predictions, truths: Truths, images: int) -> CocoScores:
    """Evaluate boxes as COCO does.

    Args:
        predictions: K boxes, pixels of the original pictures.
        truths: T boxes. Difficult ones are handled as crowds: COCO knows no other way to excuse a prediction.
        images: Number of images; they are numbered from 0.

    Returns:
        The summary over the classes of the truths.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    classes = np.unique(truths.classes[truths.counted])
    if not len(classes):
        return CocoScores(*[float("nan")] * len(_STATS))
    predictions = predictions[np.isin(predictions.classes, classes)]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(images)],
            "categories": [{"id": int(c), "name": str(c)} for c in classes],
            "annotations": _annotations(truths[np.isin(truths.classes, classes)]),
        }
        coco.createIndex()
        found = coco.loadRes(_results(predictions)) if len(predictions) else COCO()
        evaluation = COCOeval(coco, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = np.where(evaluation.stats < 0, np.nan, evaluation.stats)  # -1: no such object
    return CocoScores(**{name: float(stats[position]) for name, position in _STATS.items()})


def _annotations(truths: Truths) -> list[dict[str, Any]]:
    boxes = _xywh(truths.boxes)
    return [
        {
            "id": i + 1,  # 0 would count as "not matched" in COCOeval
            "image_id": int(truths.images[i]),
            "category_id": int(truths.classes[i]),
            "bbox": boxes[i].tolist(),
            "area": float(boxes[i, 2] * boxes[i, 3]),
            "iscrowd": int(not truths.counted[i]),
        }
        for i in range(len(truths))
    ]


def _results(predictions: Predictions) -> NDArray[np.float64]:
    """[K, 7] image, x, y, width, height, score, class: what loadRes takes besides JSON."""
    columns = (
        predictions.images[:, None],
        _xywh(predictions.boxes),
        predictions.scores[:, None],
        predictions.classes[:, None],
    )
    return np.hstack(columns)


def _xywh(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.hstack((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]))
