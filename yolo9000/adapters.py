"""Detections in the forms of other libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from yolo9000.optional import optional
from yolo9000.results import Detections

if TYPE_CHECKING:
    import pandas as pd
    import supervision as sv

STEP = " > "  # between the nodes of a path written as text
COLUMNS = (
    "source", "frame", "time", "label", "wnid", "node", "depth", "score", "objectness",
    "x1", "y1", "x2", "y2", "path",
)  # fmt: skip
# Of those that are no text: the same for a picture without detections, so that tables go together.
_DTYPES = dict.fromkeys(("time", "score", "objectness", "x1", "y1", "x2", "y2"), "float64") | {
    "frame": "Int64", "node": "int64", "depth": "int64",
}  # fmt: skip


def rows(found: Detections) -> list[dict[str, Any]]:
    """One flat row a detection, with the keys `COLUMNS`: boxes in pixels, the path as text to the label."""
    result = []
    for detection in found:
        x1, y1, x2, y2 = (round(value, 2) for value in detection.box)  # hundredths of a pixel
        values = (
            found.source, found.frame, found.time,
            detection.label, detection.wnid, detection.node, len(detection.path) - 1,
            round(detection.score, 6), round(detection.objectness, 6), x1, y1, x2, y2,
            STEP.join(name for name, _ in detection.path),
        )  # fmt: skip
        result.append(dict(zip(COLUMNS, values, strict=True)))
    return result


def to_pandas(found: Detections) -> pd.DataFrame:
    """See `Detections.to_pandas`."""
    table: pd.DataFrame = optional("pandas", "Detections.to_pandas").DataFrame(rows(found), columns=COLUMNS)
    return table.astype(_DTYPES)


def to_supervision(found: Detections) -> sv.Detections:
    """See `Detections.to_supervision`."""
    table = rows(found)
    data = {"class_name": np.array([row["label"] for row in table], dtype=str)}
    data |= {key: np.array([row[key] for row in table], dtype=str) for key in ("wnid", "path")}
    data["objectness"] = found.objectness
    detections: sv.Detections = optional("supervision", "Detections.to_supervision").Detections(
        xyxy=found.boxes.copy(),
        confidence=found.scores.copy(),
        class_id=found.nodes.astype(int),
        data=data,
    )
    return detections
