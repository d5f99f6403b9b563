"""Detections as JSON: one picture an object, with all that choosing other labels needs.

    {"format": "yolo9000-detections-1", "source": "dog.jpg", "width": 768, "height": 576, "tree": "5f5b...",
     "detections": [{"label": "dog", "wnid": "n02084071", "node": 1234, "score": 0.81, "objectness": 0.9,
                     "box": [x1, y1, x2, y2], "depth": 11,
                     "path": [{"label": "object", "wnid": "n00002684", "node": 2, "probability": 0.9}, ...]}],
     "labelling": {"threshold": 0.24, "hier_threshold": 0.5, ...},
     "candidates": [{"objectness": 0.9, "box": [...], "nodes": [2, 7, ...], "probabilities": [0.99, ...]}]}

Boxes are pixels of the picture, those of candidates not clipped to it. A path runs to a leaf, beyond the
label; probabilities are those of each node given its parent. Frames of a video have `frame` and `time`
(seconds), too. Numbers are the shortest that give the same float32 again, so nothing is lost.
`tree` tells trees apart: `WordTree.digest`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wordtree.errors import TreeError
from wordtree.tree import WordTree
from yolo9000.errors import ConfigError, DataError
from yolo9000.image import MAX_PIXELS
from yolo9000.labelling import Candidates, Labelling, are_paths

if TYPE_CHECKING:
    from yolo9000.results import Detections

FORMAT = "yolo9000-detections-1"


def to_dict(found: Detections) -> dict[str, Any]:
    """Plain numbers, strings and lists; the schema above is stable.

    `labelling` and `candidates` are left out where they are not known, `frame` and `time` for pictures.
    """
    height, width = found.image_size
    entry: dict[str, Any] = {
        "format": FORMAT,
        "source": found.source,
        "width": int(width),
        "height": int(height),
        "tree": found.tree.digest,
    }
    if found.frame is not None:
        entry |= {"frame": found.frame, "time": found.time}
    entry["detections"] = [_detection(found, index) for index in range(len(found))]
    if found.candidates is not None and found.labelling is not None:
        entry |= {"labelling": found.labelling.to_dict(), "candidates": _candidates(found.candidates)}
    return entry


def to_json(found: Detections) -> str:
    """`to_dict` on one line, in ASCII: whatever the name of a file, and whatever a terminal's encoding."""
    return json.dumps(to_dict(found))


def _detection(found: Detections, index: int) -> dict[str, Any]:
    tree, node = found.tree, int(found.nodes[index])
    steps = found.paths[index][found.paths[index] >= 0].tolist()
    return {
        "label": tree.names[node],
        "wnid": tree.wnids[node],
        "node": node,
        "score": _short(found.scores[index]),
        "objectness": _short(found.objectness[index]),
        "box": _shorts(found.boxes[index]),
        "depth": int(tree.depth[node]),
        "path": [
            {"label": tree.names[step], "wnid": tree.wnids[step], "node": step, "probability": probability}
            for step, probability in zip(steps, _shorts(found.path_probs[index][: len(steps)]), strict=True)
        ],
    }


def _candidates(found: Candidates) -> list[dict[str, Any]]:
    return [
        {
            "objectness": _short(objectness),
            "box": _shorts(box),
            "nodes": path[path >= 0].tolist(),
            "probabilities": _shorts(probabilities[path >= 0]),
        }
        for objectness, box, path, probabilities in zip(
            found.objectness, found.boxes, found.paths, found.path_probs, strict=True
        )
    ]


def _short(value: np.float32) -> float:
    """The float64 with the fewest digits that rounds to this float32."""
    return float(str(value))


def _shorts(values: NDArray[np.float32]) -> list[float]:
    return [float(str(value)) for value in values]


# ---------------------------------------------------------------------------------------------------- reading


def from_json(line: str, tree: WordTree) -> Detections:
    """Read one line.

    Raises:
        DataError: No JSON, JSON of another form, or results with another tree.
    """
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"expected detections as JSON on one line; {str(error).splitlines()[0]}.") from error
    if not isinstance(entry, dict) or entry.get("format") != FORMAT:
        raise DataError(
            f'expected an object with "format": "{FORMAT}"; write it with `yolo9000 detect --json`.'
        )
    if entry.get("tree") != tree.digest:
        raise DataError(
            f"these results were made with another tree ({entry.get('tree')}) than this one "
            f"({tree.digest}, {len(tree):,} nodes); name the model that made them, or its tree."
        )
    try:
        return _from_dict(entry, tree)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, TreeError, ConfigError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"these are no detections as yolo9000 writes them: {what}.") from error


def _from_dict(entry: Mapping[str, Any], tree: WordTree) -> Detections:
    from yolo9000.results import Detections

    rows = entry["detections"]
    paths = _padded([[step["node"] for step in row["path"]] for row in rows], -1, np.int64)
    probabilities = _padded([[step["probability"] for step in row["path"]] for row in rows], 0, np.float32)
    labelling = Labelling(**entry["labelling"]).for_tree(tree) if "labelling" in entry else None
    return Detections(
        boxes=_numbers([row["box"] for row in rows]),
        scores=_numbers([row["score"] for row in rows]),
        objectness=_numbers([row["objectness"] for row in rows]),
        nodes=np.array([row["node"] for row in rows], np.int64),
        paths=paths,
        path_probs=probabilities,
        tree=tree,
        image_size=(_side(entry["height"]), _side(entry["width"])),
        source=_source(entry["source"]),
        frame=None if entry.get("frame") is None else int(entry["frame"]),
        time=None if entry.get("time") is None else float(entry["time"]),
        candidates=_read_candidates(entry["candidates"], tree) if labelling else None,
        labelling=labelling,
    )


def _side(pixels: Any) -> int:
    if not 1 <= (side := int(pixels)) <= MAX_PIXELS:
        raise ValueError(f"width and height must be pixels from 1 to {MAX_PIXELS:,}, found {side}")
    return side


def _source(name: Any) -> str | None:
    if name is not None and (not isinstance(name, str) or b"\0" in os.fsencode(name)):
        raise ValueError("source must be a name that a file can have, or null")
    return name


def _read_candidates(rows: Iterable[Mapping[str, Any]], tree: WordTree) -> Candidates:
    rows = list(rows)
    found = Candidates(
        boxes=_numbers([row["box"] for row in rows]).reshape(len(rows), 4),
        objectness=_numbers([float(row["objectness"]) for row in rows]),
        paths=_padded([row["nodes"] for row in rows], -1, np.int64),
        path_probs=_padded([row["probabilities"] for row in rows], 0, np.float32),
    )
    if found.paths.shape != found.path_probs.shape:
        raise ValueError("candidates need one probability for each of their nodes")
    if not ((found.paths >= -1) & (found.paths < len(tree))).all() or not are_paths(tree, found.paths).all():
        raise ValueError("the nodes of a candidate must run from a top node to a leaf")
    if not all(np.isfinite(values).all() for values in (found.boxes, found.objectness, found.path_probs)):
        raise ValueError("a candidate's numbers must be finite")
    return found


def _numbers(values: list[Any]) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def _padded(rows: list[list[Any]], fill: int, dtype: type[Any]) -> NDArray[Any]:
    """Rows of different lengths as one array [K, L]."""
    result = np.full((len(rows), max(map(len, rows), default=0)), fill, dtype)
    for row, values in zip(result, rows, strict=True):
        row[: len(values)] = values
    return result
