"""Labels at any depth: stored results give, to the bit, what detection with those settings gives."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from toys import conv, input_size, linear, region
from wordtree.errors import TreeError
from wordtree.tree import WordTree
from yolo9000 import YOLO9000, Detections
from yolo9000.darknet.cfg import Cfg
from yolo9000.errors import ConfigError, DataError
from yolo9000.labelling import Candidates, Labelling, labels
from yolo9000.network import Network

TRUNK = input_size(128, 192) + conv(16, 4, norm=0, pad=0, stride=32)
VOC = WordTree.load("voc")


def unsure_model(tree: WordTree | None = VOC, classes: int = len(VOC)) -> YOLO9000:
    """A random network whose probabilities are neither sure nor even, with many overlapping boxes."""
    last = linear(3 * (5 + classes)) + region(classes, "1,1, 2,1.5, 1.2,2.4", softmax=1)
    network = Network(Cfg.parse(TRUNK + last), tree)
    assert network.head is not None
    chance = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.1, generator=chance)
        network.head.class_weight.normal_(0, 2, generator=chance)
        network.head.box_weight[:, 4].normal_(0, 5, generator=chance)
    return YOLO9000(network, device="cpu")


@pytest.fixture(scope="module")
def model() -> YOLO9000:
    """With a threshold of its own, as the built-in model."""
    return YOLO9000(unsure_model().network, metadata={"hier_threshold": "0.6"}, device="cpu")


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    return torch.randint(0, 256, (3, 77, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def same(a: Detections, b: Detections) -> bool:
    """Equal to the bit, but for what else could have been found."""
    keys = ("width", "height", "tree", "detections", "labelling", "source")
    return [a.to_dict()[key] for key in keys] == [b.to_dict()[key] for key in keys]


DEPTH_RULES = {"hier_threshold", "depth", "leaves"}
SETTINGS: list[dict[str, Any]] = [
    {"hier_threshold": 0.5},
    {"hier_threshold": 0.0},
    {"hier_threshold": 0.9},
    {"hier_threshold": {"animal": 0.1, "*": 0.7}},
    {"hier_threshold": {"animal": 0.1}},
    {"depth": 0},
    {"depth": 2},
    {"depth": 4, "hier_threshold": 0.3},
    {"leaves": True},
    {"leaves": True, "under": ["animal"]},
    {"depth": 3, "not_under": "instrumentality"},
    {"under": ["animal", "conveyance"], "not_under": ["dog"], "hier_threshold": 0.2},
    {"threshold": 0.4, "depth": 1},
    {"threshold": {"animal": 0.15, "*": 0.5}, "hier_threshold": 0.4},
    {"nms": 0.1, "depth": 5},
    {"nms": 1.0, "leaves": True},
]


@pytest.mark.parametrize("after", SETTINGS, ids=str)
@pytest.mark.parametrize("decoder", ["paper", "darknet"])
def test_relabel_equals_detection(
    model: YOLO9000, picture: torch.Tensor, after: dict[str, Any], decoder: Any
) -> None:
    counts = []
    for before in ({}, {"hier_threshold": 0.9}, {"leaves": True}, {"under": ("dog",), "depth": 8}):
        first = {"threshold": 0.1} | before
        stored = Detections.from_json(model.detect(picture, **first, decoder=decoder).to_json(), model.tree)
        if DEPTH_RULES & after.keys():  # one rule: any of them replaces all
            first = {key: value for key, value in first.items() if key not in DEPTH_RULES}
        if "depth" in after and "under" in first:
            first["under"] = after.get("under", ())
            after = {"under": ()} | after
        expected = model.detect(picture, **(first | after), decoder=decoder)
        again = stored.relabel(**after)
        if "threshold" in after:  # fewer candidates: another matrix product, which rounds otherwise
            assert again.labels == expected.labels
            np.testing.assert_allclose(again.scores, expected.scores, rtol=1e-5)
            np.testing.assert_allclose(again.boxes, expected.boxes, rtol=1e-5)
        else:
            assert same(again, expected)
        counts.append(len(expected))
    assert max(counts) > 0, "nothing was found, so nothing was compared"


def test_settings_do_differ(model: YOLO9000, picture: torch.Tensor) -> None:
    """The comparison above would mean nothing if all settings gave the same."""
    results = {
        json.dumps(model.detect(picture, **({"threshold": 0.1} | s)).to_dict()["detections"])
        for s in SETTINGS
    }
    assert len(results) >= len(SETTINGS) * 2 // 3


def test_stored_results_are_equal_to_the_bit(model: YOLO9000, picture: torch.Tensor) -> None:
    found = model.detect(picture, threshold=0.05, leaves=True)
    again = Detections.from_json(found.to_json(), model.tree)
    for name in ("boxes", "scores", "objectness", "nodes"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    assert [d.steps for d in again] == [d.steps for d in found]
    assert again.to_json() == found.to_json()
    assert found.candidates is not None
    assert len(found.candidates) > len(found) > 3


def test_plain_class_list(picture: torch.Tensor) -> None:
    """One anchor can give several classes; there is no depth to choose."""
    model = unsure_model(None, 20)
    found = model.detect(picture, threshold=0.05, decoder="darknet")
    assert len(found) > 3
    stored = Detections.from_json(found.to_json(), model.tree)
    for after in ({"depth": 0}, {"leaves": True}, {"hier_threshold": 1.0}, {"threshold": 0.2}):
        expected = model.detect(picture, **({"threshold": 0.05} | after), decoder="darknet")
        assert stored.relabel(**after).to_dict()["detections"] == expected.to_dict()["detections"]


# ---------------------------------------------------------------------------------- rules on a toy tree

# 0 animal -- 2 cat, 3 dog -- 4 husky, 5 pug;  1 vehicle -- 6 car
TREE = WordTree(
    [-1, -1, 0, 0, 1, 3, 3], ["a", "v", "c", "d", "k", "h", "p"],
    ["animal", "vehicle", "cat", "dog", "car", "husky", "pug"],
)  # fmt: skip


def candidates(*rows: tuple[float, list[int], list[float]]) -> Candidates:
    """Boxes far from each other."""
    width = max(len(path) for _, path, _ in rows)
    paths, probs = np.full((len(rows), width), -1), np.zeros((len(rows), width), np.float32)
    for k, (_, path, probabilities) in enumerate(rows):
        paths[k, : len(path)], probs[k, : len(path)] = path, probabilities
    boxes = np.array([[10 * k, 0, 10 * k + 5, 5] for k in range(len(rows))], np.float32)
    return Candidates(boxes, np.array([row[0] for row in rows], np.float32), paths, probs)


DOG_AND_CAR = candidates((0.9, [0, 3, 5], [0.9, 0.8, 0.5]), (0.5, [1, 4], [0.8, 0.9]))


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        (Labelling(), ["dog", "car"]),
        (Labelling(hier_threshold=0.8), ["animal", "vehicle"]),
        (Labelling(hier_threshold={"dog": 0.3}), ["husky", "car"]),
        (Labelling(hier_threshold={"husky": 0.3, "*": 0.75}), ["animal", "vehicle"]),  # not past dog: 0.72
        (Labelling(hier_threshold={"animal": 0.3, "*": 0.75}), ["husky", "vehicle"]),
        (Labelling(hier_threshold={"animal": 0.3, "husky": 0.4}), ["dog", "car"]),
        (Labelling(depth=0), ["animal", "vehicle"]),
        (Labelling(depth=1), ["dog", "car"]),
        (Labelling(depth=1, hier_threshold=0.75), ["animal", "vehicle"]),
        (Labelling(leaves=True), ["husky", "car"]),
        (Labelling(depth=10**30), ["husky", "car"]),
        (Labelling(decoder="darknet"), ["dog", "car"]),  # 0.9 · 0.72 = 0.65
        (Labelling(decoder="darknet", hier_threshold=0.7), ["animal", "vehicle"]),
    ],
)  # fmt: skip
def test_where_the_walk_stops(rule: Labelling, names: list[str]) -> None:
    nodes, _ = labels(DOG_AND_CAR, rule.for_tree(TREE), TREE)
    assert [TREE.names[node] for node in nodes] == names


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        ({}, ["dog", "car"]),
        ({"under": ("animal",)}, ["dog"]),
        ({"under": ("husky",)}, []),
        ({"under": ("husky",), "leaves": True}, ["husky"]),
        ({"under": ("cat", "vehicle")}, ["car"]),
        ({"not_under": ("animal",)}, ["car"]),
        ({"under": ("animal",), "not_under": ("dog",)}, []),
        ({"threshold": 0.5}, ["dog"]),
        ({"threshold": {"animal": 0.7}}, ["car"]),
        ({"threshold": {"animal": 0.7, "dog": 0.6}}, ["dog", "car"]),
        ({"threshold": {"*": 0.5, "car": 0.1}}, ["dog", "car"]),
        ({"threshold": {"*": 0.7}}, []),
        # The threshold looks at the label that the walk would give, here dog 0.65 and car 0.36.
        ({"threshold": 0.34, "leaves": True}, ["car", "husky"]),  # car 0.36, husky 0.32
        ({"threshold": 0.5, "leaves": True}, ["husky"]),
        ({"threshold": 0.34, "depth": 0}, ["animal", "vehicle"]),
        ({"threshold": {"dog": 0.7, "*": 0.1}, "depth": 0}, ["vehicle"]),
    ],
)
def test_what_is_kept(rule: dict[str, Any], names: list[str]) -> None:
    assert Detections.choose(DOG_AND_CAR, Labelling(**rule), TREE, (50, 50)).labels == names


@pytest.mark.parametrize("depth", [{"leaves": True}, *({"depth": n} for n in range(8))], ids=str)
def test_depth_changes_words_and_no_boxes(
    model: YOLO9000, picture: torch.Tensor, depth: dict[str, Any]
) -> None:
    found = model.detect(picture, threshold=0.1)
    other = model.detect(picture, threshold=0.1, **depth)
    assert sorted(map(tuple, other.boxes.tolist())) == sorted(map(tuple, found.boxes.tolist()))
    assert len(found) > 3
    assert (np.diff(other.scores) <= 0).all()


def test_boxes_are_clipped_and_those_outside_left_out() -> None:
    found = Detections.choose(DOG_AND_CAR, Labelling(), TREE, (3, 8))
    assert found.boxes.tolist() == [[0, 0, 5, 3]]


def test_picked_detections_keep_their_boxes() -> None:
    found = Detections.choose(DOG_AND_CAR, Labelling(), TREE, (50, 50))
    picked = found[::-1]
    assert picked.candidates is None
    assert picked.relabel(depth=0).labels == ["vehicle", "animal"]
    assert picked.relabel(depth=0, under="animal").labels == ["animal"]
    assert picked.relabel(leaves=True, threshold=0.35).labels == ["car", "husky"]
    assert picked.relabel(leaves=True, threshold=0.40).labels == ["husky"]  # the car's score is 0.36
    surer = Detections.choose(DOG_AND_CAR, Labelling(default_hier_threshold=0.85), TREE, (50, 50))[:]
    assert surer.relabel(hier_threshold={"animal": 0.3}).labels == ["husky", "vehicle"]
    for wrong in ({"nms": 0.3}, {"under": "animal"}):
        with pytest.raises(ConfigError):
            picked.relabel(**wrong)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"threshold": 1.5}, "threshold must lie in 0..1, found 1.5"),
        ({"threshold": {"dog": -1.0}}, "threshold of dog must lie"),
        ({"hier_threshold": float("nan")}, "hier_threshold must lie"),
        ({"nms": {"dog": 0.3}}, "nms must be a number"),
        ({"depth": -1}, r"depth must be 0 \(the top\) or more"),
        ({"leaves": True, "depth": 2}, "give one rule"),
        ({"decoder": "best"}, "got 'best'"),
        ({"threshold": "0.3"}, "threshold must be a number, found '0.3'"),
        ({"threshold": {"dog": None}}, "threshold of dog must be a number, found None"),
        ({"hier_threshold": [0.3]}, r"hier_threshold must be a number, found \[0.3\]"),
        ({"nms": True}, "nms must be a number, found True"),
        ({"depth": 1.5}, "depth must be a whole number, found 1.5"),
        ({"leaves": "no"}, "leaves must be True or False, found 'no'"),
        ({"under": 3}, "under must be the name or id of a node, or a list of them, found 3"),
        ({"not_under": b"dog"}, "not_under must be the name or id of a node"),
    ],
)
def test_wrong_rules(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Labelling(**rule)


def test_numbers_of_numpy_are_pythons_own() -> None:
    rule = Labelling(
        threshold=np.float32(0.25),
        hier_threshold={"dog": np.float64(0.5)},
        depth=np.int64(2),  # type: ignore[arg-type]
        nms=np.float16(0.5),
    )
    own = Labelling(threshold=0.25, hier_threshold={"dog": 0.5}, depth=2, nms=0.5)
    assert json.dumps(rule.to_dict()) == json.dumps(own.to_dict())


def test_rules_that_do_not_fit_the_tree() -> None:
    with pytest.raises(TreeError, match="no node 'unicorn'"):
        Labelling(under=("unicorn",)).for_tree(TREE)
    with pytest.raises(ConfigError, match="labels of depth 0 lie above dog: nothing could be found"):
        Labelling(under=("dog",), depth=0).for_tree(TREE)
    with pytest.raises(ConfigError, match="not_under animal leaves no label under dog: nothing could be"):
        Labelling(under=("dog",), not_under=("animal",)).for_tree(TREE)
    with pytest.raises(ConfigError, match="leaves no label in the tree: nothing could be found"):
        Labelling(not_under=tuple(TREE.names)).for_tree(TREE)


def test_rules_name_one_of_several_nodes_of_a_name_by_its_number() -> None:
    tree = WordTree(
        [-1, -1, 0, 1], ["animal", "car", "jaguar", "jaguar-2"], ["animal", "car", *2 * ["jaguar"]]
    )
    for rule in ({"under": "jaguar"}, {"not_under": "jaguar"}, {"threshold": {"jaguar": 0.1}}):
        with pytest.raises(TreeError, match="2 nodes are called 'jaguar'"):
            Labelling(**rule).for_tree(tree)  # type: ignore[arg-type]
    rule = Labelling(under=("2",), threshold={"2": 0.1, "jaguar-2": 0.2}).for_tree(tree)
    assert Labelling(**rule.to_dict()).for_tree(tree) == rule, "as stored results have it"
    assert (rule.under, rule.threshold) == (("2",), {"2": 0.1, "jaguar-2": 0.2})


def test_threshold_can_only_be_raised(model: YOLO9000, picture: torch.Tensor) -> None:
    found = model.detect(picture, threshold=0.3)
    with pytest.raises(
        ConfigError, match=r"the threshold was 0\.3 in detection and can only be raised; found 0\.2"
    ):
        found.relabel(threshold=0.2)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda entry: entry | {"tree": "0" * 16}, "made with another tree"),
        (lambda entry: entry | {"format": "other"}, 'expected an object with "format"'),
        (lambda entry: entry | {"detections": 3}, "no detections as yolo9000 writes them"),
        (lambda entry: {k: v for k, v in entry.items() if k != "width"}, "lacks 'width'"),
        (lambda entry: entry | {"labelling": {"what": 1}}, "no detections as yolo9000"),
        (lambda entry: entry | {"labelling": {"threshold": "x"}}, "no detections as yolo9000"),
        (lambda entry: entry | {"labelling": {"under": ["unicorn"]}}, "no node 'unicorn'"),
        (lambda entry: entry | {"labelling": {"nms": {"dog": 0.3}}}, "nms must be a number"),
        (lambda entry: entry | {"width": 0}, "pixels from 1 to 178,956,970, found 0"),
        (lambda entry: entry | {"height": 10**30}, "pixels from 1 to"),
        (lambda entry: entry | {"source": 5}, "a name that a file can have"),
        (lambda entry: entry | {"source": "a\0.jpg"}, "a name that a file can have"),
        (lambda entry: entry | {"candidates": [{}]}, "lacks 'box'"),
        (lambda entry: entry | {"candidates": [entry["candidates"][0] | {"objectness": []}]}, "no detec"),
        (lambda entry: entry | {"candidates": [entry["candidates"][0] | {"nodes": [0]}]}, "one probability"),
        (lambda entry: entry | {"candidates": [entry["candidates"][0] | {"nodes": [5, 3, 0]}]}, "to a leaf"),
    ],
)  # fmt: skip
def test_damaged_results(damage: Any, message: str) -> None:
    entry = Detections.choose(DOG_AND_CAR, Labelling(), TREE, (50, 50)).to_dict()
    assert len(Detections.from_json(json.dumps(entry), TREE)) == 2
    with pytest.raises(DataError, match=message):
        Detections.from_json(json.dumps(damage(entry)), TREE)
    with pytest.raises(DataError, match="as JSON on one line"):
        Detections.from_json(json.dumps(entry)[:-9], TREE)


def test_digest_is_that_of_the_tree_file() -> None:
    """`sha256sum 9k.tree` of the published tree begins with it."""
    import hashlib

    from wordtree.formats import STORED_TREES

    expected = hashlib.sha256(STORED_TREES["yolo9000"].read_bytes()).hexdigest()[:16]
    assert WordTree.load("yolo9000").digest == expected
