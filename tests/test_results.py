"""Detections: checked on construction, sliced, relabelled, written; against hand-made paths in a toy tree."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from wordtree.tree import WordTree
from yolo9000.errors import ConfigError, DataError
from yolo9000.results import Detections

# 0 animal -- 2 cat (leaf)
#          -- 3 dog -- 4 husky, 5 pug
# 1 vehicle (leaf)
PARENT = [-1, -1, 0, 0, 3, 3]
WNIDS = ["n00", "n01", "n02", "n03", "n04", "n05"]
NAMES = ["animal", "vehicle", "cat", "dog", "husky", "pug"]


@pytest.fixture
def tree() -> WordTree:
    return WordTree(PARENT, WNIDS, NAMES)


def arrays(**changes: Any) -> dict[str, Any]:
    """Three detections: a dog unsure of its breed, a certain pug, a vehicle."""
    given: dict[str, Any] = {
        "boxes": [[10, 20, 110, 220], [0, 0, 5, 5], [30.5, 1, 31, 2]],
        "scores": [0.648, 0.405, 0.25],
        "objectness": [0.9, 0.5, 0.25],
        "nodes": [3, 5, 1],
        "paths": [[0, 3, 4], [0, 3, 5], [1, -1, -1]],
        "path_probs": [[0.9, 0.8, 0.5], [1.0, 0.9, 0.9], [1.0, 0.3, 0.3]],
        "image_size": (240, 320),
        "source": "park.jpg",
    }
    return given | changes


@pytest.fixture
def found(tree: WordTree) -> Detections:
    return Detections(tree=tree, **arrays())


def test_one_detection_has_label_box_and_paths(found: Detections) -> None:
    dog = found[0]
    assert (dog.label, dog.wnid, dog.node) == ("dog", "n03", 3)
    assert dog.box == (10.0, 20.0, 110.0, 220.0)
    assert dog.score == pytest.approx(0.648)
    assert dog.path == [("animal", pytest.approx(0.9)), ("dog", pytest.approx(0.72))]
    assert dog.full_path == [*dog.path, ("husky", pytest.approx(0.36))]
    assert dog.steps == [
        ("animal", pytest.approx(0.9)),
        ("dog", pytest.approx(0.8)),
        ("husky", pytest.approx(0.5)),
    ]
    assert str(dog) == "0.65 dog (10, 20, 110, 220): animal > dog"


def test_loop_slice_mask_and_list_agree(found: Detections) -> None:
    assert [d.label for d in found] == found.labels == ["dog", "pug", "vehicle"]
    assert found[-1] == found[2]
    assert found[1:].labels == ["pug", "vehicle"]
    assert found[found.scores > 0.3].labels == ["dog", "pug"]
    assert found[[2, 0]].labels == ["vehicle", "dog"]
    assert found[::-1][0] == found[2]
    for one in (np.int64(1), np.array(1), torch.tensor(1)):
        assert found[one] == found[1]
    assert (found[1:].source, found[1:].image_size) == ("park.jpg", (240, 320))
    assert len(found[[]]) == 0
    with pytest.raises(IndexError, match="detection 3 of 3"):
        found[3]
    for wrong in (True, 1.0, "dog", None):
        with pytest.raises(TypeError):
            found[wrong]  # type: ignore[call-overload]


def test_types_are_fixed_and_padding_is_zero(found: Detections) -> None:
    kinds = {name: getattr(found, name).dtype for name in ("boxes", "scores", "nodes", "paths", "path_probs")}
    assert kinds == {
        "boxes": np.float32,
        "scores": np.float32,
        "nodes": np.int64,
        "paths": np.int64,
        "path_probs": np.float32,
    }
    assert found.path_probs[2].tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("rule", "labels", "scores"),
    [
        ({"hier_threshold": 0.0}, ["husky", "pug", "vehicle"], [0.324, 0.405, 0.25]),
        ({"hier_threshold": 0.5}, ["dog", "pug", "vehicle"], [0.648, 0.405, 0.25]),
        ({"hier_threshold": 0.85}, ["animal", "dog", "vehicle"], [0.81, 0.45, 0.25]),
        ({"hier_threshold": 1.0}, ["animal", "animal", "vehicle"], [0.81, 0.5, 0.25]),
        ({"depth": 0}, ["animal", "animal", "vehicle"], [0.81, 0.5, 0.25]),
        ({"depth": 1}, ["dog", "dog", "vehicle"], [0.648, 0.45, 0.25]),
        ({"depth": 9}, ["husky", "pug", "vehicle"], [0.324, 0.405, 0.25]),
        ({"leaves": True}, ["husky", "pug", "vehicle"], [0.324, 0.405, 0.25]),
        ({"depth": 1, "hier_threshold": 0.75}, ["animal", "dog", "vehicle"], [0.81, 0.45, 0.25]),
        ({"depth": 0, "hier_threshold": 0.0}, ["animal", "animal", "vehicle"], [0.81, 0.5, 0.25]),
    ],
)
def test_relabel(found: Detections, rule: dict[str, Any], labels: list[str], scores: list[float]) -> None:
    again = found.relabel(**rule)
    assert again.labels == labels
    np.testing.assert_allclose(again.scores, scores, rtol=1e-5)
    np.testing.assert_array_equal(again.boxes, found.boxes)
    assert found.labels == ["dog", "pug", "vehicle"], "relabel must not change what it was called on"


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"leaves": True, "depth": 1},
        {"hier_threshold": 1.5},
        {"hier_threshold": float("nan")},
        {"depth": -1},
    ],
)
def test_relabel_refuses(found: Detections, rule: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        found.relabel(**rule)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": [[0, 0, 1, 1]]}, r"boxes has shape \(1, 4\); expected \(3, 4\)"),
        ({"scores": [0.1, 0.2]}, "scores has shape"),
        ({"scores": [0.1, 0.2, 1.5]}, r"scores must lie in 0..1; found 1.5 \(detection 2\)"),
        ({"objectness": [0.1, float("nan"), 0.5]}, r"objectness must lie .* \(detection 1\)"),
        ({"boxes": [[5, 0, 4, 1], [0, 0, 1, 1], [0, 0, 1, 1]]}, "x1 <= x2"),
        ({"boxes": [[0, 0, 1, 1], [0, 0, np.inf, 1], [0, 0, 1, 1]]}, "finite"),
        ({"nodes": [3, 5, 6]}, r"nodes must lie in 0..5; found 6 \(detection 2\)"),
        ({"nodes": [3, 4, 1]}, r"its own path; found 4 \(detection 1\)"),
        ({"paths": [[0, 3, 4], [0, 3, 9], [1, -1, -1]]}, "paths must hold nodes"),
        ({"paths": [[0, 3, -1], [0, 3, 5], [1, -1, -1]]}, "to a leaf"),
        ({"paths": [[3, 4, -1], [0, 3, 5], [1, -1, -1]]}, "from a top node"),
        ({"paths": [[0, 3, 4], [0, -1, 5], [1, -1, -1]]}, "from a top node"),
        ({"path_probs": [[0.9, 0.8], [1.0, 0.9], [1.0, 0.3]]}, "path_probs has shape"),
        ({"path_probs": [[0.9, 0.8, 2.0], [1.0, 0.9, 0.9], [1.0, 0, 0]]}, "path_probs must lie"),
    ],
)
def test_construction_refuses(tree: WordTree, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Detections(tree=tree, **arrays(**change))


def test_empty_everywhere(tree: WordTree) -> None:
    empty = Detections.empty(tree, (10, 20), "dark.png")
    assert len(empty) == 0
    assert list(empty) == []
    assert empty.boxes.shape == (0, 4)
    assert len(empty[:5]) == len(empty[np.zeros(0, bool)]) == len(empty.relabel(depth=1)) == 0
    assert empty.to_dict()["detections"] == []
    assert repr(empty) == "<Detections: 0 in dark.png (20 × 10): nothing>"
    assert str(empty) == "dark.png (20 × 10): 0 detections"


def test_json_schema(found: Detections) -> None:
    line = found.to_json()
    assert "\n" not in line
    data = json.loads(line)
    assert {key: data[key] for key in data if key != "detections"} == {
        "format": "yolo9000-detections-1",
        "source": "park.jpg",
        "width": 320,
        "height": 240,
        "tree": found.tree.digest,
    }
    assert data["detections"][0] == {
        "label": "dog",
        "wnid": "n03",
        "node": 3,
        "score": 0.648,
        "objectness": 0.9,
        "box": [10.0, 20.0, 110.0, 220.0],
        "depth": 1,
        "path": [
            {"label": "animal", "wnid": "n00", "node": 0, "probability": 0.9},
            {"label": "dog", "wnid": "n03", "node": 3, "probability": 0.8},
            {"label": "husky", "wnid": "n04", "node": 4, "probability": 0.5},
        ],
    }
    assert [len(row["path"]) for row in data["detections"]] == [3, 3, 1]


def test_text_forms(tree: WordTree, found: Detections) -> None:
    assert repr(found) == "<Detections: 3 in park.jpg (320 × 240): dog 0.65, pug 0.41, vehicle 0.25>"
    assert str(found[:1]) == "park.jpg (320 × 240): 1 detection\n  0.65 dog (10, 20, 110, 220): animal > dog"
    many = found[[0, 1, 2] * 3]
    assert repr(many).endswith(
        "dog 0.65, pug 0.41, vehicle 0.25, dog 0.65, pug 0.41, vehicle 0.25, and 3 more>"
    )


def test_flat_tree() -> None:
    flat = WordTree.flat(["traffic light", "dog"])
    found = Detections([[0, 0, 1, 1]], [0.5], [0.5], [1], [[1]], [[1.0]], flat, (4, 4))
    assert found[0].path == [("dog", 1.0)]
    assert found.relabel(leaves=True).labels == found.relabel(depth=0).labels == ["dog"]


def test_it_cannot_be_changed(found: Detections) -> None:
    with pytest.raises(AttributeError):
        found.nodes = np.zeros(3)  # type: ignore[misc,assignment]
