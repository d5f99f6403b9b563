"""Whole evaluations of a detector whose answers are known: coloured cells on black, no training.

Five max-poolings bring a picture to one RGB colour a cell of 32 pixels; the head's rows turn colours into
objectness and classes.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from toys import CLASSIFIED, POOL, colour_finder, input_size, linear, region
from wordtree.tree import WordTree
from yolo9000 import YOLO9000
from yolo9000.config import ValConfig
from yolo9000.darknet.cfg import Cfg
from yolo9000.datasets import ConcatDataset, ImageBank, TableDataset, open_dataset, pack, read_records
from yolo9000.datasets.records import concat_records
from yolo9000.errors import ConfigError, DataError
from yolo9000.evaluate import evaluate
from yolo9000.evaluation.ap import Predictions, Rule, Truths, match, match_imagenet
from yolo9000.evaluation.boxed import boxed_nodes
from yolo9000.evaluation.classification import ClassificationResult
from yolo9000.evaluation.coco import coco_scores
from yolo9000.evaluation.detection import DetectionResult, evaluate_detection, scored_nodes
from yolo9000.evaluation.hierarchy import Cut
from yolo9000.evaluation.options import EvaluateConfig
from yolo9000.evaluation.plots import save_curves
from yolo9000.evaluation.predict import NodePredictor, chosen_images, load_batches
from yolo9000.evaluation.report import tables
from yolo9000.evaluation.scores import as_relatives, score_ancestors, score_classes, score_cut
from yolo9000.network import Network
from yolo9000.validation import Validator

# animal ─┬─ dog ─┬─ husky        vehicle ─┬─ car
#         │       └─ pug                   └─ boat
#         └─ cat
NAMES = ["animal", "vehicle", "dog", "cat", "car", "boat", "husky", "pug"]
TREE = WordTree([-1, -1, 0, 0, 1, 1, 2, 2], NAMES)
TRUNK = input_size(128) + POOL * 5
RED, GREEN, BLUE, DARK_RED, PINK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 0, 0), (255, 0, 80)
SIDE = 256  # pixels of the pictures: twice the network's, so boxes must be brought back


@pytest.fixture
def network() -> Network:
    """Red is a husky, green a cat, blue a car; the brighter, the surer."""
    return colour_finder(TREE, ("husky", "cat", "car"))


def picture(path: Path, cells: dict[tuple[int, int], tuple[int, int, int]]) -> None:
    """Black, with cells (column, row) of the 4 x 4 grid coloured."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    for (x, y), colour in cells.items():
        pixels[64 * y : 64 * y + 64, 64 * x : 64 * x + 64] = colour
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def coco(
    root: Path, pictures: list[tuple[dict[tuple[int, int], tuple[int, int, int]], list[tuple[str, int, int]]]]
) -> str:
    """A COCO folder; an object is (name, column, row), the name with a star for a crowd."""
    annotations = []
    for i, (cells, objects) in enumerate(pictures):
        picture(root / "val" / f"{i}.png", cells)
        for name, x, y in objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": NAMES.index(name.rstrip("*")),
                    "bbox": [64 * x, 64 * y, 64, 64],
                    "iscrowd": int(name.endswith("*")),
                }
            )
    content = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(len(pictures))],
        "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES)],
        "annotations": annotations,
    }
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return f"coco:{root}"


def detect(network: Network, data: str, **settings: object) -> DetectionResult:
    result = evaluate(network, data, EvaluateConfig(**settings))  # type: ignore[arg-type]
    assert isinstance(result, DetectionResult)
    return result


def ap(result: DetectionResult) -> dict[str, float]:
    return {score.name: score.ap for score in result.nodes.classes}


def test_everything_found(network: Network, tmp_path: Path) -> None:
    data = coco(
        tmp_path,
        [({(0, 0): RED, (2, 3): GREEN}, [("husky", 0, 0), ("cat", 2, 3)]), ({(1, 1): BLUE}, [("car", 1, 1)])],
    )
    result = detect(network, data)
    assert ap(result) == {"cat": 1.0, "car": 1.0, "husky": 1.0}
    assert (result.nodes.map, result.nodes.map11) == (1.0, 1.0)
    assert (result.images, result.truths, result.excused, result.size) == (2, 3, 0, (128, 128))
    assert (result.coco.ap, result.coco.ap75, result.coco.medium) == pytest.approx((1.0, 1.0, 1.0))
    assert math.isnan(result.coco.small)
    assert (result.labels.exact, result.labels.labels, result.labels.unmatched) == (3, 3, 0)
    assert network.training  # as it was


def test_several_sizes(network: Network, tmp_path: Path) -> None:
    """Twice the same size is that size; a model's own sizes are taken where no settings are given."""
    cells = {(0, 0): RED, (2, 3): GREEN}
    data = coco(tmp_path, [(cells, [("husky", 0, 0), ("cat", 2, 3)]), ({(1, 1): BLUE}, [("car", 1, 2)])])
    once, twice = detect(network, data, size=128), detect(network, data, sizes=(128, 128))
    assert (once.sizes, twice.sizes, twice.size) == (((128, 128),), ((128, 128),) * 2, (128, 128))
    assert ap(once) == ap(twice) == {"cat": 1.0, "car": pytest.approx(1 / 3), "husky": 1.0}
    assert once.labels == twice.labels
    both = detect(network, data, sizes=(128, 256))
    assert ap(both) != ap(once)
    model = YOLO9000(network, metadata={"sizes": "128 256"}, device="cpu")
    own = evaluate(model, data)
    assert isinstance(own, DetectionResult)
    assert (own.sizes, ap(own)) == (((128, 128), (256, 256)), ap(both))
    found = [len(model.detect(tmp_path / "val" / f"{i}.png")) for i in range(2)]
    assert own.labels.labels + own.labels.unmatched == sum(found)
    titles = [table.title for table in tables(own)]
    assert "128 × 128, 256 × 256" in str(titles[0])
    for wrong in ({"size": 128, "sizes": 128}, {"sizes": (0,)}, {"sizes": (128, -1)}):
        with pytest.raises(ConfigError, match="settings out of range: sizes"):
            EvaluateConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="multiple of 32"):
        detect(network, data, sizes=(128, 100))


@pytest.mark.parametrize("size", [(192, 128), (128, 192)])
def test_a_network_that_is_not_square(network: Network, tmp_path: Path, size: tuple[int, int]) -> None:
    """The square picture fills 4 x 4 of its cells, with a column or row of grey on either side."""
    cfg = input_size(*size) + POOL * 5 + linear(5 + len(NAMES)) + region(len(NAMES), "1,1", softmax=1)
    wide = Network(Cfg.parse(cfg), TREE)
    wide.load_state_dict(network.state_dict())
    result = detect(wide, coco(tmp_path, [({(0, 0): RED, (2, 3): GREEN}, [("husky", 0, 0), ("cat", 2, 3)])]))
    assert result.size == size[::-1]
    assert ap(result) == {"cat": 1.0, "husky": 1.0}
    assert result.coco.ap == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"model": "m.safetensors"}, "expected a model or a network, found 'm.safetensors'.*YOLO9000.load"),
        ({"config": {"size": 32}}, "config must be an EvaluateConfig or None, found {'size': 32}"),
    ],
)
def test_arguments_of_a_wrong_type(network: Network, given: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        evaluate(**{"model": network, "data": "voc:none", **given})


def test_wrong_missed_and_excused(network: Network, tmp_path: Path) -> None:
    """Husky: the brighter red, a pug's, comes first and is wrong: AP 1/2. Pug and boat: never found."""
    data = coco(
        tmp_path,
        [
            ({(0, 0): RED, (3, 3): DARK_RED}, [("pug", 0, 0), ("husky", 3, 3)]),
            ({(2, 1): GREEN, (0, 3): GREEN}, [("cat*", 2, 1), ("cat", 0, 3)]),
            ({(1, 2): BLUE}, [("boat", 0, 0)]),
        ],
    )
    result = detect(network, data, cuts=("dog,cat,vehicle",), score=0.01)  # black cells: 0.005
    assert ap(result) == pytest.approx({"cat": 1.0, "boat": 0.0, "husky": 0.5, "pug": 0.0})
    assert (result.truths, result.excused) == (4, 1)
    assert {score.name: score.ap for score in result.cuts[0].classes} == {
        "vehicle": 0.0,
        "dog": 1.0,
        "cat": 1.0,
    }
    # husky on a pug; husky and cat right; the crowd's cat is not judged; the car stands where nothing is.
    labels = result.labels
    assert (labels.exact, labels.overconfident, labels.overconfident_leaves, labels.unmatched) == (2, 1, 1, 1)


def test_pug_is_scored_by_its_own_probability(network: Network, tmp_path: Path) -> None:
    """The walk says husky, and yet the box has a score as a pug: AP looks at scores, not at labels."""
    data = coco(tmp_path, [({(0, 0): RED}, [("pug", 0, 0)])])
    result = detect(network, data, score=0.0)
    assert 0 < ap(result)["pug"] < 1
    assert result.labels.overconfident == 1


def test_honest_depth_follows_the_threshold(network: Network, tmp_path: Path) -> None:
    assert network.head is not None
    with torch.no_grad():
        network.head.class_weight[0, NAMES.index("husky"), 0] = 0.0  # husky or pug: nobody knows
    data = coco(tmp_path, [({(0, 0): RED}, [("husky", 0, 0)]), ({(0, 0): RED}, [("dog", 0, 0)])])
    vague, bold = detect(network, data).labels, detect(network, data, hier_threshold=0.4).labels
    assert (vague.unspecific, vague.exact, vague.finer) == (1, 1, 0)
    assert (bold.unspecific, bold.exact, bold.finer) == (0, 1, 1)
    assert detect(network, data, confident=0.99).labels.labels == 0


def test_an_object_above_the_cut_excuses(network: Network, tmp_path: Path) -> None:
    """`animal` may be a husky: at the cut through dog and cat it is neither to be found nor a false alarm."""
    data = coco(tmp_path, [({(0, 0): RED, (2, 2): DARK_RED}, [("animal", 0, 0), ("husky", 2, 2)])])
    result = detect(network, data, cuts=("1",))
    (at_cut,) = result.cuts
    assert [(score.name, score.ap) for score in at_cut.classes] == [("dog", 1.0)]
    assert at_cut.uncovered == 1
    assert ap(result) == {"animal": 1.0, "husky": 1.0}


def test_a_class_below_another_in_the_same_data(network: Network, tmp_path: Path) -> None:
    """At the husky the network is surest of a dog, too: no false alarm of *dog*, nor a crowd's in COCO's."""
    scene = {(0, 0): RED, (2, 2): DARK_RED}
    result = detect(network, coco(tmp_path, [(scene, [("husky", 0, 0), ("dog", 2, 2)])]), score=0.01)
    assert ap(result) == {"dog": 1.0, "husky": 1.0}
    assert (result.truths, result.excused) == (2, 0)
    assert result.coco.ap == pytest.approx(1.0)


HERE, THERE, FAR = (0, 0, 10, 10), (20, 0, 30, 10), (50, 50, 60, 60)
SHIFTED = (1, 0, 11, 10)  # overlaps HERE by 9/11


@pytest.mark.parametrize("rule", [match, match_imagenet])
@pytest.mark.parametrize(
    ("truths", "found", "expected"),
    [
        pytest.param(
            [("dog", HERE), ("pug", THERE)],
            [("dog", THERE, 0.9), ("dog", HERE, 0.8), ("pug", HERE, 0.9), ("pug", THERE, 0.8)],
            {"dog": 1, "pug": 1},
            id="below and above",
        ),
        pytest.param(
            [("dog", HERE), ("pug", THERE), ("cat", FAR)],
            [("dog", FAR, 0.9), ("dog", HERE, 0.8), ("cat", HERE, 0.9), ("cat", FAR, 0.8)],
            {"dog": 1 / 2, "pug": 0, "cat": 1 / 2},
            id="beside",
        ),
        pytest.param(
            [("husky", HERE), ("pug", THERE), ("dog", FAR)],
            [("husky", THERE, 0.9), ("husky", HERE, 0.8)],
            {"husky": 1 / 2, "pug": 0, "dog": 0},
            id="siblings below",
        ),
        pytest.param(
            [("dog", HERE), ("pug", THERE)],
            [("pug", HERE, 0.9), ("dog", THERE, 0.9)],
            {"dog": 0, "pug": 0},
            id="need not be found, nor are they",
        ),
        pytest.param(
            [("pug", HERE), ("dog", SHIFTED)],
            [("dog", HERE, 0.9), ("dog", FAR, 0.8), ("pug", HERE, 0.7)],
            {"dog": 1, "pug": 1},
            id="one thing labelled twice",
        ),
    ],
)
def test_classes_below_classes(
    truths: list[Any], found: list[Any], expected: dict[str, float], rule: Rule
) -> None:
    objects = Truths.of([b for _, b in truths], [NAMES.index(n) for n, _ in truths], [0] * len(truths))
    predictions = Predictions.of(
        [b for _, b, _ in found],
        [NAMES.index(n) for n, _, _ in found],
        [0] * len(found),
        [s for *_, s in found],
    )
    scores = score_classes(TREE, predictions, objects, 0.5, "", rule=rule)
    assert {score.name: score.ap for score in scores.classes} == expected


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("coco", [("sandwich", "hotdog"), ("timepiece", "parking meter")]),
        ("voc", []),
        ("imagenet-det", []),
        ("ilsvrc1k", []),
    ],
)
def test_which_benchmarks_have_classes_below_classes(name: str, pairs: list[tuple[str, str]]) -> None:
    tree = WordTree.load("yolo9000")
    nodes = boxed_nodes(tree, [name])
    above, below = np.nonzero(tree.is_ancestor(nodes[:, None], nodes[None]))
    assert [(tree.names[nodes[a]], tree.names[nodes[b]]) for a, b in zip(above, below, strict=True)] == pairs


def test_only_nested_classes_have_relatives() -> None:
    """Crowds stay crowds; what is difficult as itself excuses as a relative, too."""
    names = ["animal", "husky", "pug", "dog", "car"]
    marks = [[mark == name for name in names] for mark in ("pug", "dog")]
    truths = Truths.of([HERE] * 5, [NAMES.index(name) for name in names], [0] * 5, *marks)
    near = as_relatives(TREE, truths)
    rows = zip(near.classes.tolist(), near.difficult.tolist(), near.crowd.tolist(), strict=True)
    assert Counter((NAMES[node], *flags) for node, *flags in rows) == {
        ("animal", True, False): 2,  # husky and pug
        ("animal", False, True): 1,  # dog
        ("dog", True, False): 3,  # animal, husky and pug
        ("husky", True, False): 1,  # animal
        ("husky", False, True): 1,  # dog
        ("pug", True, False): 1,
        ("pug", False, True): 1,
    }
    assert len(as_relatives(TREE, truths[np.isin(truths.classes, [6, 7, 4])])) == 0


def test_each_class_at_its_ancestor() -> None:
    """At depth 1 husky and pug are dogs: a `dog` box is right for the one, excused for the other."""
    here, there = (0, 0, 9, 9), (20, 0, 29, 9)
    names = {name: i for i, name in enumerate(NAMES)}
    truths = Truths.of([here, there, here], [names[n] for n in ("husky", "pug", "car")], [0, 0, 1])
    rows = [(here, "dog", 0, 0.9), (there, "dog", 0, 0.8), (there, "dog", 1, 0.7), (there, "car", 1, 0.9)]
    rows += [(here, "car", 1, 0.3), (there, "husky", 0, 0.9)]
    found = Predictions.of(
        [r[0] for r in rows], [names[str(r[1])] for r in rows], [r[2] for r in rows], [r[3] for r in rows]
    )
    scores = score_ancestors(TREE, Cut.at_depth(TREE, 1), found, truths, 0.5)
    assert {score.name: score.ap for score in scores.classes} == {"husky": 1.0, "pug": 1.0, "car": 0.5}
    merged = score_cut(TREE, Cut.at_depth(TREE, 1), found, truths, 0.5)
    assert {score.name: score.truths for score in merged.classes} == {"dog": 2, "car": 1}
    above = score_ancestors(TREE, Cut.parse(TREE, "husky,car"), found, truths, 0.5)
    assert {score.name: score.ap for score in above.classes} == {"husky": 0.0, "pug": 0.0, "car": 0.5}


def test_cut_without_anything_left_out() -> None:
    truths = Truths.of([(0, 0, 9, 9)], [NAMES.index("pug")], [0])
    found = Predictions.of([(0, 0, 9, 9)], [NAMES.index("dog")], [0], [0.5])
    scores = score_cut(TREE, Cut.at_depth(TREE, 1), found, truths, 0.5)
    assert (scores.map, scores.uncovered) == (1.0, 0)


def test_limit_and_batches_change_nothing_else(network: Network, tmp_path: Path) -> None:
    scene = ({(0, 0): RED}, [("husky", 0, 0)])
    data = coco(tmp_path, [scene] * 5)
    for batch_size in (1, 2, 16):
        result = detect(network, data, batch_size=batch_size)
        assert (result.images, result.truths, result.nodes.map) == (5, 5, 1.0)
    assert detect(network, data, limit=2).truths == 2
    assert chosen_images(10, 4) == [0, 2, 5, 7]
    assert chosen_images(3, 9) == [0, 1, 2]


def test_duplicates_are_suppressed(network: Network, tmp_path: Path) -> None:
    """The same box twice: suppression leaves one, without it the second is a false alarm."""
    cfg = TRUNK + linear(2 * (5 + len(NAMES))) + region(len(NAMES), "1,1, 1,1", softmax=1)
    double = Network(Cfg.parse(cfg), TREE)
    assert double.head is not None
    assert network.head is not None
    with torch.no_grad():
        for name, parameter in double.head.named_parameters():
            parameter.copy_(network.head.get_parameter(name).expand_as(parameter))
    data = coco(tmp_path, [({(0, 0): RED}, [("husky", 0, 0)]), ({(0, 0): DARK_RED}, [("husky", 0, 0)])])
    assert ap(detect(double, data)) == {"husky": 1.0}
    assert ap(detect(double, data, nms=1.0)) == pytest.approx({"husky": 0.5 + 0.5 * 2 / 3})


def folders(root: Path, pictures: list[tuple[str, dict[tuple[int, int], tuple[int, int, int]]]]) -> str:
    for i, (name, cells) in enumerate(pictures):
        picture(root / "val" / name / f"{i}.png", cells)
    return f"imagenet:{root}"


def test_classification(network: Network, tmp_path: Path) -> None:
    """The pug's picture is red: a husky's colour. Averages over the picture keep what most of it is."""
    everywhere = {(x, y): colour for x in range(4) for y in range(4) for colour in (RED,)}
    green = dict.fromkeys(everywhere, GREEN)
    data = folders(
        tmp_path, [("husky", everywhere), ("pug", everywhere), ("cat", green), ("cat", green | {(0, 0): RED})]
    )
    result = evaluate(network, data)
    assert isinstance(result, ClassificationResult)
    assert (result.images, result.classes) == (4, 3)
    whole = result.whole
    assert (whole.top1, whole.top5, whole.node) == (0.75, 1.0, 0.75)
    assert [(row.depth, row.images, row.accuracy) for row in whole.depths] == [
        (0, 4, 1.0),
        (1, 4, 1.0),
        (2, 2, 0.5),
    ]
    assert (whole.labels.exact, whole.labels.overconfident, whole.labels.unmatched) == (3, 1, 0)
    assert result.best_anchor is not None
    # All cells are equally sure; the first one, red in the last picture, is taken.
    assert result.best_anchor.top1 == 0.5


def test_classes_above_and_below_the_label_do_not_compete(network: Network, tmp_path: Path) -> None:
    """Red is a husky: it is a dog and an animal, too, but no cat; at the pug husky comes first."""
    scene = {(x, y): RED for x in range(4) for y in range(4)}
    names = ("animal", "dog", "cat", "husky", "pug")  # right but for cat and pug
    result = evaluate(network, folders(tmp_path, [(name, scene) for name in names]))
    assert isinstance(result, ClassificationResult)
    assert result.best_anchor is not None
    assert result.whole.top1 == result.best_anchor.top1 == pytest.approx(3 / 5)


def test_a_picture_without_a_confident_anchor_has_no_verdict(network: Network, tmp_path: Path) -> None:
    data = folders(tmp_path, [("husky", {(1, 1): RED}), ("cat", {})])
    result = evaluate(network, data)
    assert isinstance(result, ClassificationResult)
    assert result.best_anchor is not None
    assert (result.best_anchor.labels.exact, result.best_anchor.labels.unmatched) == (1, 1)


def test_a_classifier(tmp_path: Path) -> None:
    classifier = Network(Cfg.parse(TRUNK + linear(len(NAMES)) + CLASSIFIED), TREE)
    data = folders(tmp_path / "c", [("husky", {(1, 1): RED})])
    result = evaluate(classifier, data)
    assert isinstance(result, ClassificationResult)
    assert result.best_anchor is None
    boxes = coco(tmp_path / "d", [({(0, 0): RED}, [("husky", 0, 0)])])
    with pytest.raises(ConfigError, match="classifier has no boxes"):
        evaluate(classifier, boxes)


def test_nothing_to_find(network: Network, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not one labelled object"):
        evaluate(network, coco(tmp_path, [({(0, 0): RED}, [])]))


def crowd_of_two(root: Path) -> str:
    """A cat, and two brighter ones in a crowd of four cells, which no prediction overlaps by half."""
    data = coco(
        root, [({(0, 0): (0, 200, 0), (2, 2): GREEN, (3, 3): GREEN}, [("cat", 0, 0), ("cat*", 2, 2)])]
    )
    path = root / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    content["annotations"][1]["bbox"] = [128, 128, 128, 128]
    path.write_text(json.dumps(content))
    return data


def without_rules(pack_file: Path) -> None:
    """As packs were before they said whose rules they are scored by."""
    with h5py.File(pack_file, "r+") as file:
        del file.attrs["rules"], file.attrs["fingerprint"]


def test_a_pack_is_scored_as_the_loose_data(network: Network, tmp_path: Path) -> None:
    data = crowd_of_two(tmp_path)
    path = pack(read_records(data, "val"), tmp_path / "x.h5")
    loose, packed = (detect(network, spec, score=0.01) for spec in (data, f"pack:{path}"))
    assert ap(loose) == ap(packed) == {"cat": 1.0}
    assert loose.coco.ap == packed.coco.ap == pytest.approx(1.0)
    assert (loose.truths, loose.excused) == (packed.truths, packed.excused) == (1, 1)
    without_rules(path)
    old = detect(network, f"pack:{path}", score=0.01)
    assert ap(old) == pytest.approx({"cat": 1 / 3})  # its ignored boxes are difficult objects


def test_caches_and_banks_keep_the_rules(network: Network, tmp_path: Path) -> None:
    cached = open_dataset(crowd_of_two(tmp_path), TREE, "val", cache=SIDE)
    (stored,) = ImageBank([cached], "cpu").datasets
    assert stored is not None
    assert cached.rules == stored.rules == "coco"
    result = evaluate_detection(network, cached, EvaluateConfig(score=0.01))
    assert ap(result) == {"cat": 1.0}


def test_a_mix_of_rules_is_refused(network: Network, tmp_path: Path) -> None:
    crowded = read_records(crowd_of_two(tmp_path), "val")
    plain = replace(crowded, rules="voc")
    mixed = f"pack:{pack(concat_records([crowded, plain]), tmp_path / 'mixed.h5')}"
    assert len(open_dataset(mixed, TREE)) == 2  # it can be trained on
    with pytest.raises(DataError, match=r"mixed\.h5: expected data that are scored by one .* by itself"):
        evaluate(network, mixed)
    with pytest.raises(DataError, match=r"mixed\.h5: expected data that are scored by one"):
        Validator(ValConfig(data=(mixed,)), network)
    both = ConcatDataset([TableDataset(records, TREE) for records in (crowded, plain)])
    with pytest.raises(DataError, match="the data set: expected data that are scored by one"):
        evaluate_detection(network, both)
    alike = ConcatDataset([TableDataset(crowded, TREE)] * 2)
    assert ap(evaluate_detection(network, alike, EvaluateConfig(score=0.01))) == {"cat": 1.0}


def test_coco_scores_against_the_annotation_file(network: Network, tmp_path: Path) -> None:
    """The same boxes judged by pycocotools from the file itself: ids, classes and crowds are right."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(3)
    scenes = []
    for _ in range(6):
        places = [(int(x), int(y)) for x, y in rng.integers(0, 4, (5, 2))]
        cells = {place: tuple(rng.integers(80, 256, 3).tolist()) for place in places}
        marks = [("husky", "cat", "car", "cat*")[i] for i in rng.integers(0, 4, 4)]
        scenes.append((cells, [(name, *place) for name, place in zip(marks, places, strict=False)]))
    data = coco(tmp_path, scenes)
    dataset = open_dataset(data, TREE, "val")
    assert network.head is not None
    config = EvaluateConfig()
    predict = NodePredictor(network.head, scored_nodes(dataset, config, []), config)
    with torch.inference_mode():
        parts = [predict([network.features(b.views[0])], b) for b in load_batches(network, dataset, config)]
    rows = [
        {"image_id": int(i), "category_id": int(c), "score": float(s), "bbox": [*b[:2], *(b[2:] - b[:2])]}
        for part in parts
        for i, c, s, b in zip(part.images, part.classes, part.scores, part.boxes, strict=True)
    ]
    truth = COCO(str(tmp_path / "annotations" / "instances_val.json"))
    for annotation in truth.anns.values():
        annotation["area"] = 64 * 64
    evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
    evaluation.params.catIds = sorted({a["category_id"] for a in truth.anns.values() if not a["iscrowd"]})
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ours = detect(network, data).coco
    assert 0.05 < ours.ap < 0.95
    assert [ours.ap, ours.ap50, ours.ap75, ours.ar100] == pytest.approx(
        evaluation.stats[[0, 1, 2, 8]], abs=1e-6
    )


def test_coco_scores_without_predictions_or_truths() -> None:
    truths = Truths.of([(0, 0, 9, 9)], [1], [0])
    none = Predictions.of([], [], [], [])
    assert coco_scores(none, truths, 1).ap == 0.0
    assert math.isnan(coco_scores(none, truths[np.zeros(1, bool)], 1).ap)


def test_coco_scores_apart_by_size() -> None:
    """A small object found well, a large one badly: IoU 0.6, right at 0.50, 0.55 and 0.60."""
    truths = Truths.of([(0, 0, 20, 20), (100, 100, 200, 200)], [1, 1], [0, 0])
    found = Predictions.of([(0, 0, 20, 20), (100, 100, 200, 160)], [1, 1], [0, 0], [0.9, 0.8])
    scores = coco_scores(found, truths, 1)
    assert scores.small == pytest.approx(1.0)
    assert scores.large == pytest.approx(0.3)
    assert math.isnan(scores.medium)
    assert scores.ap50 == pytest.approx(1.0)
    assert scores.ap75 == pytest.approx(51 / 101)


def test_json_and_tables(network: Network, tmp_path: Path) -> None:
    from rich.console import Console

    data = coco(tmp_path, [({(0, 0): RED}, [("husky", 0, 0)]), ({(1, 0): GREEN}, [("pug", 1, 0)])])
    result = detect(network, data, cuts=("1",))
    result.save(tmp_path / "out" / "result.json")
    content = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (content["format"], content["kind"]) == ("yolo9000-evaluation-1", "detection")
    assert content["nodes"]["map"] == pytest.approx(result.nodes.map, abs=1e-6)
    assert content["coco"]["small"] is None
    assert [row["name"] for row in content["nodes"]["classes"]] == ["husky", "pug"]
    assert "curve" not in content["nodes"]["classes"][0]
    console = Console(width=160, record=True, file=(tmp_path / "tables.txt").open("w"))
    for table in tables(result):
        console.print(table)
    text = " ".join(console.export_text().split())  # a long title is wrapped
    assert "2 pictures, 2 objects, 128 × 128" in text
    assert "husky" in text
    assert "overconfident" in text
    for table in tables(detect(network, data, confident=1.0)):  # not one label to judge
        console.print(table)
    assert "nan" not in console.export_text()


def test_curves_as_a_picture(network: Network, tmp_path: Path) -> None:
    result = detect(network, coco(tmp_path, [({(0, 0): RED}, [("husky", 0, 0)])]))
    save_curves(result.nodes, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.format == "PNG"
        assert image.width > 200
    with pytest.raises(ConfigError, match="no class"):
        save_curves(result.nodes.subset([], "none"), tmp_path / "none.png")


def test_settings_are_checked_at_once() -> None:
    with pytest.raises(ConfigError, match=r"size \(got -1\), nms \(got 2\)"):
        EvaluateConfig(size=-1, nms=2)
    with pytest.raises(ConfigError, match="iou above 0"):
        EvaluateConfig(iou=0)
    with pytest.raises(ConfigError, match="size must be a whole number, found '64'"):
        EvaluateConfig(size="64")  # type: ignore[arg-type]


def test_one_cut_or_class_list_may_be_a_text() -> None:
    config = EvaluateConfig(cuts="10", boxes="coco")  # type: ignore[arg-type]
    assert (config.cuts, config.boxes) == (("10",), ("coco",))


def test_numbers_are_of_the_settings_precision(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in detection: not of an autocast around the call."""
    boxes = coco(tmp_path, [({(0, 0): RED}, [("husky", 0, 0)])])
    photos = folders(tmp_path / "photos", [("husky", {(1, 1): RED})])
    seen, conv2d = set(), torch.nn.functional.conv2d

    def spied(*args: torch.Tensor) -> torch.Tensor:
        outputs = conv2d(*args)
        seen.add(outputs.dtype)
        return outputs

    monkeypatch.setattr(torch.nn.functional, "conv2d", spied)
    with torch.autocast("cpu", torch.bfloat16):
        for data in (boxes, photos):
            evaluate(network, data)
    assert seen == {torch.float32}


def test_sizes_fit_the_stride(network: Network, tmp_path: Path) -> None:
    """As in detection; known before a picture is read or a run begins. A classifier's own size may be any."""
    data = coco(tmp_path, [({(0, 0): RED}, [("husky", 0, 0)])])
    for size in (100, 8192):
        with pytest.raises(ConfigError, match=f"multiple of 32 from 32 to 4096 pixels, found {size}"):
            detect(network, data, size=size)
        with pytest.raises(ConfigError, match=f"multiple of 32 from 32 to 4096 pixels, found {size}"):
            Validator(ValConfig(data=(data,), size=size), network)
    fine = Network(Cfg.parse(input_size(40) + POOL * 3 + linear(13) + region(8, "1,1", softmax=1)), TREE)
    assert detect(fine, data).size == (40, 40)
    uneven = Network(Cfg.parse(input_size(42) + POOL * 3 + linear(13) + region(8, "1,1", softmax=1)), TREE)
    assert detect(uneven, data).size == (42, 42)
    assert detect(fine, data, size=48).size == (48, 48)
    classifier = Network(Cfg.parse(input_size(100) + POOL * 5 + linear(len(NAMES)) + CLASSIFIED), TREE)
    pictures = folders(tmp_path / "c", [("husky", {(1, 1): RED})])
    assert evaluate(classifier, pictures).size == (100, 100)
    with pytest.raises(ConfigError, match="found 16; the nearest is 32"):
        evaluate(classifier, pictures, EvaluateConfig(size=16))


def test_other_trees_are_refused(network: Network, tmp_path: Path) -> None:
    from yolo9000.evaluation.classification import evaluate_classification

    data = open_dataset(coco(tmp_path, [({}, [("cat", 0, 0)])]), WordTree.flat(NAMES[1:]), "val")
    with pytest.raises(ConfigError, match="tree of 8 nodes, got detection data on a tree of 7"):
        evaluate_detection(network, data)
    with pytest.raises(ConfigError, match="expected classification data"):
        evaluate_classification(network, data)


def test_command_line(network: Network, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from yolo9000.checkpoint import save_model
    from yolo9000.cli import app

    save_model(network, tmp_path / "toy.safetensors", metadata={"threshold": "0.95"})
    scene = {(0, 0): RED, (2, 2): DARK_RED}  # scores 0.98 and 0.91
    root = tmp_path / "[/x] :dog:" / "boxes"  # no markup for the terminal, nor a picture of a dog
    boxes = coco(root, [(scene, [("husky", 0, 0), ("husky", 2, 2)])])
    photos = folders(tmp_path / "photos", [("husky", {(1, 1): RED})])
    model = ["--model", str(tmp_path / "toy.safetensors"), "--device", "cpu"]

    ran = CliRunner().invoke(
        app, ["evaluate", boxes, photos, *model, "--cut", "dog", "--out", str(tmp_path / "out")]
    )
    assert ran.exit_code == 0, ran.output
    assert "/[/x]:dog:/boxes" in "".join(ran.stdout.split())
    assert "1 picture, 2 objects" in " ".join(ran.stdout.split())
    detection = json.loads((tmp_path / "out" / "01-coco-boxes.json").read_text())
    assert (detection["nodes"]["map"], detection["cuts"][0]["map"]) == (1.0, 1.0)
    assert detection["labels"]["labels"] == 1  # of the two, one is above the model's own threshold
    assert json.loads((tmp_path / "out" / "02-imagenet-photos.json").read_text())["whole"]["top1"] == 1.0

    ran = CliRunner().invoke(app, ["evaluate", boxes, photos, *model, "--json", "--confident", "0.5"])
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [line["kind"] for line in lines] == ["detection", "classification"]
    assert lines[0]["labels"]["labels"] == 2

    path = root / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    flat = content["annotations"][0] | {"bbox": [0, 0, 0, 64]}
    path.write_text(json.dumps(content | {"annotations": [*content["annotations"], flat]}))
    ran = CliRunner().invoke(app, ["evaluate", boxes, *model, "--json"])
    assert f"{boxes}: left out by the reader: 1, first {path}: annotation 1: box (0, 0, 0, 64)" in ran.stderr
    assert len(ran.stdout.splitlines()) == 1

    lost = ["evaluate", boxes, f"imagenet:{tmp_path / 'none'}", *model, "--out", str(tmp_path / "lost")]
    ran = CliRunner().invoke(app, [*lost, "--json"])
    assert isinstance(ran.exception, DataError)
    assert not (tmp_path / "lost").exists()
    assert ran.stdout == ""  # all are opened before the first is measured

    for precision in ("int8", "bf16", "fp16"):
        ran = CliRunner().invoke(app, ["evaluate", boxes, photos, *model, "--json", "--precision", precision])
        detection, classification = map(json.loads, ran.stdout.splitlines())
        assert (detection["nodes"]["map"], classification["whole"]["top1"]) == (1.0, 1.0)
    ran = CliRunner().invoke(app, ["evaluate", boxes, *model, "--precision", "fp8"])
    assert "the precision is one of fp32, bf16, fp16, int8" in str(ran.exception)

    ran = CliRunner().invoke(app, ["evaluate", boxes, "--model", "none.safetensors", "--device", "toaster"])
    assert "device 'toaster' cannot be used" in str(ran.exception)  # before the model is read or downloaded

    ran = CliRunner().invoke(app, ["evaluate", boxes, *model, "--plots"])
    assert isinstance(ran.exception, ConfigError)
    assert "--out" in str(ran.exception)
