"""Decoding against values by hand, and against a plain loop over every anchor of the dense output."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import yolo9000.decode
from wordtree.tree import WordTree
from yolo9000.darknet.cfg import RegionConfig
from yolo9000.decode import Decoder, DecoderMode, RawDetections
from yolo9000.errors import ConfigError
from yolo9000.head import RegionHead

DEPTH = 6  # feature channels
ANCHORS = ((1.0, 2.0), (3.0, 1.5))

# 0 animal -- 2 cat
#          -- 3 dog -- 4 husky, 5 pug
# 1 vehicle
TOY = WordTree([-1, -1, 0, 0, 3, 3], [f"n{i}" for i in range(6)])


def random_tree(seed: int, nodes: int = 30) -> WordTree:
    rng = np.random.default_rng(seed)
    parent = [-1] * int(rng.integers(2, 5))
    for node in range(nodes):
        if node == 0 or (node < len(parent) < nodes and rng.random() < 0.6):
            parent += [node] * int(rng.integers(1, 5))
    return WordTree(parent, [f"n{i}" for i in range(len(parent))])


def make_head(tree: WordTree, *, tied: bool = False, softmax: bool = True, scale: float = 1.0) -> RegionHead:
    region = RegionConfig(anchors=ANCHORS, classes=len(tree), num=2, softmax=softmax, tied=tied)
    head = RegionHead(DEPTH, region, tree)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=scale)
    return head


@dataclass(frozen=True)
class Slow:
    """One detection of the slow decoder."""

    box: list[float]
    objectness: float
    node: int
    score: float
    path: list[int]


def softmax(values: np.ndarray) -> np.ndarray:
    exponentials = np.exp(values - values.max())
    return exponentials / exponentials.sum()


def slow_walk(
    tree: WordTree, probs: np.ndarray, mode: str, hier_threshold: float
) -> tuple[int, float, list[int]]:
    """Label, its absolute probability and the path to the leaf, for conditional probabilities [N]."""
    absolute = probs.copy()
    for node, parent in enumerate(tree.parent):
        if parent >= 0:
            absolute[node] *= absolute[parent]
    path, group = [], 0
    while group >= 0:
        first = tree.group_start[group]
        path.append(int(first + np.argmax(absolute[first : first + tree.group_size[group]])))
        group = tree.child_group[path[-1]]
    label, product = path[0], 1.0
    for node in path:
        product = absolute[node] if mode == "paper" else product * absolute[node]
        if product <= hier_threshold:
            break
        label = node
    return label, absolute[label], path


def slow_decode(
    head: RegionHead, dense: Tensor, mode: str, threshold: float, hier_threshold: float
) -> list[Slow]:
    """Detections of one image, dense [A, 5 + N, H, W]."""
    tree, found = head.tree, []
    values = dense.double().numpy()
    height, width = values.shape[-2:]
    for a, y, x in np.ndindex(len(ANCHORS), height, width):
        tx, ty, tw, th, to = values[a, :5, y, x]
        objectness = 1 / (1 + math.exp(-to))
        box = [(1 / (1 + math.exp(-tx)) + x) / width, (1 / (1 + math.exp(-ty)) + y) / height]
        box += [ANCHORS[a][0] * math.exp(tw) / width, ANCHORS[a][1] * math.exp(th) / height]
        logits = values[a, 5:, y, x]
        probs = np.empty(len(tree))
        for first, size in zip(tree.group_start, tree.group_size, strict=True):
            probs[first : first + size] = softmax(logits[first : first + size])
        node, absolute, path = slow_walk(tree, probs, mode, hier_threshold)
        score = objectness * absolute if mode == "paper" else objectness
        if score > threshold:
            found.append(Slow(box, objectness, node, score, path))
    return sorted(found, key=lambda d: -d.objectness)


def check(found: RawDetections, expected: list[Slow]) -> None:
    assert len(found) == len(expected)
    for i, slow in enumerate(expected):
        assert found.boxes[i].tolist() == pytest.approx(slow.box, rel=1e-4, abs=1e-5)
        assert found.objectness[i].item() == pytest.approx(slow.objectness, rel=1e-4)
        assert found.scores[i].item() == pytest.approx(slow.score, rel=1e-4)
        assert int(found.nodes[i]) == slow.node
        assert [node for node in found.paths[i].tolist() if node >= 0] == slow.path


def by_hand(objectness: float, probs: list[float]) -> tuple[RegionHead, Tensor]:
    """A head over the toy tree, and dense output of a 1 x 1 grid; only the first anchor sees something."""
    head = make_head(TOY)
    dense = torch.zeros(1, 2, 5 + 6, 1, 1)
    dense[:, :, 4] = -20
    dense[0, 0, 4] = math.log(objectness / (1 - objectness))
    dense[0, 0, 5:, 0, 0] = torch.tensor(probs).log()
    return head, dense


HUSKY = [0.9, 0.1, 0.2, 0.8, 0.7, 0.3]  # animal 0.9 > dog 0.72 > husky 0.504


@pytest.mark.parametrize(
    ("mode", "hier_threshold", "node", "score"),
    [
        ("paper", 0.0, 4, 0.8 * 0.504),
        ("paper", 0.5, 4, 0.8 * 0.504),
        ("paper", 0.51, 3, 0.8 * 0.72),
        ("paper", 0.73, 0, 0.8 * 0.9),
        ("paper", 0.95, 0, 0.8 * 0.9),  # the top group's best node, though it is not above the threshold
        ("darknet", 0.0, 4, 0.8),
        ("darknet", 0.32, 4, 0.8),  # 0.9 · 0.72 · 0.504 = 0.3266
        ("darknet", 0.33, 3, 0.8),
        ("darknet", 0.64, 3, 0.8),  # 0.9 · 0.72 = 0.648
        ("darknet", 0.66, 0, 0.8),
        ("darknet", 0.95, 0, 0.8),
    ],
)
def test_labels_of_the_two_modes_by_hand(
    mode: DecoderMode, hier_threshold: float, node: int, score: float
) -> None:
    head, dense = by_hand(0.8, HUSKY)
    (found,) = Decoder(head, mode).decode_dense(dense, 0.24, hier_threshold)
    assert found.nodes.tolist() == [node]
    assert found.scores.tolist() == pytest.approx([score])
    assert found.objectness.tolist() == pytest.approx([0.8])
    assert found.paths.tolist() == [[0, 3, 4]]  # down to the leaf, whatever the label
    assert found.path_probs[0].tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert found.boxes.tolist() == [pytest.approx([0.5, 0.5, 1.0, 2.0])]


def test_steps_below_a_shallow_leaf_are_padding() -> None:
    head, dense = by_hand(0.8, [0.3, 0.7, 0.5, 0.5, 0.5, 0.5])
    (found,) = Decoder(head).decode_dense(dense)
    assert found.paths.tolist() == [[1, -1, -1]]
    assert found.path_probs[0].tolist() == pytest.approx([0.7, 1, 1])


def test_given_classes_are_scored_each_on_its_own() -> None:
    head, dense = by_hand(0.8, HUSKY)
    for mode in ("paper", "darknet"):
        (found,) = Decoder(head, mode).decode_dense(dense, 0.1, classes=[5, 3, 1, 2])
        assert found.nodes.tolist() == [5, 3, 2]  # vehicle 0.08 is below the threshold
        assert found.scores.tolist() == pytest.approx([0.8 * 0.216, 0.8 * 0.72, 0.8 * 0.18])
        assert found.paths.tolist() == [[0, 3, 5], [0, 3, -1], [0, 2, -1]]
        assert found.path_probs[1].tolist() == pytest.approx([0.9, 0.8, 1])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("mode", ["paper", "darknet"])
@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    threshold=st.integers(1, 900).map(lambda n: n / 1000),
    hier_threshold=st.integers(0, 100).map(lambda n: n / 100),
    scale=st.sampled_from([0.3, 1.0]),
)
def test_gated_is_dense_is_the_slow_loop(
    tied: bool, mode: DecoderMode, seed: int, threshold: float, hier_threshold: float, scale: float
) -> None:
    torch.manual_seed(seed)
    head = make_head(random_tree(seed), tied=tied, scale=scale)
    features = torch.randn(2, DEPTH, 3, 4)
    dense = head.dense(features).detach()
    decoder = Decoder(head, mode)
    gated = decoder.decode(features, threshold, hier_threshold)
    plain = decoder.decode_dense(dense.flatten(1, 2), threshold, hier_threshold)
    for ours, other, image in zip(gated, plain, dense, strict=True):
        check(ours, slow_decode(head, image, mode, threshold, hier_threshold))
        assert torch.equal(ours.nodes, other.nodes)
        torch.testing.assert_close(vars(ours), vars(other))


@pytest.mark.parametrize("softmax_on", [True, False])
def test_flat_list_gives_every_class_above_the_threshold(softmax_on: bool) -> None:
    torch.manual_seed(0)
    head = make_head(WordTree.flat([f"class {i}" for i in range(20)]), softmax=softmax_on)
    features = torch.randn(2, DEPTH, 3, 5)
    dense = head.dense(features).detach()
    logits = dense[:, :, 5:]
    probs = logits.softmax(2) if softmax_on else logits.sigmoid()
    scores = (dense[:, :, 4:5].sigmoid() * probs).permute(0, 1, 3, 4, 2)
    for mode in ("paper", "darknet"):
        for image, found in enumerate(Decoder(head, mode).decode(features, 0.1)):
            expected = [tuple(place) for place in (scores[image] > 0.1).nonzero().tolist()]
            assert len(found) == len(expected) > 20
            assert sorted(found.nodes.tolist()) == sorted(node for *_, node in expected)
            torch.testing.assert_close(
                found.scores.sort().values, scores[image][scores[image] > 0.1].sort().values
            )
            assert torch.equal(found.paths.squeeze(1), found.nodes)
            torch.testing.assert_close(found.scores, found.objectness * found.path_probs.squeeze(1))


def test_a_tree_of_one_group_is_walked() -> None:
    tree = WordTree.flat(["a", "b", "c"])
    region = RegionConfig(anchors=ANCHORS, classes=3, num=2, tree="abc.tree")
    dense = torch.zeros(1, 2, 8, 1, 1)
    dense[0, :, 5:, 0, 0] = torch.tensor([0.3, 0.6, 0.1]).log()
    for mode, score in (("paper", 0.3), ("darknet", 0.5)):
        (found,) = Decoder(RegionHead(DEPTH, region, tree), mode).decode_dense(dense, 0.01)  # type: ignore[arg-type]
        assert found.nodes.tolist() == [1, 1]
        assert found.scores.tolist() == pytest.approx([score, score])


def test_a_batch_is_its_images() -> None:
    torch.manual_seed(1)
    head = make_head(random_tree(1))
    features = torch.randn(3, DEPTH, 4, 4)
    features[1] = 0
    with torch.no_grad():
        head.box_bias[:, 4] = -1  # where the features are 0, the objectness is 0.27
    together = Decoder(head).decode(features, 0.3)
    assert len(together[1]) == 0
    assert together[1].boxes.shape == (0, 4)
    assert together[1].paths.shape == (0, head.ops.levels)
    for image, found in enumerate(together):
        (alone,) = Decoder(head).decode(features[image : image + 1], 0.3)
        torch.testing.assert_close(vars(alone), vars(found))


def test_nothing_above_the_threshold() -> None:
    head = make_head(random_tree(1))
    for found in Decoder(head).decode(torch.randn(2, DEPTH, 2, 2), 1.0):
        assert len(found) == 0
        assert found.nodes.dtype == found.paths.dtype == torch.long
    assert Decoder(head).decode(torch.randn(0, DEPTH, 2, 2)) == []


def test_a_flood_keeps_the_anchors_of_highest_objectness() -> None:
    torch.manual_seed(2)
    head = make_head(random_tree(1))
    features = torch.randn(2, DEPTH, 4, 4)
    everything = Decoder(head, "darknet").decode(features, 0.0)
    capped = Decoder(head, "darknet", max_candidates=5).decode(features, 0.0)
    for full, some in zip(everything, capped, strict=True):
        assert len(full) == 32
        torch.testing.assert_close(vars(some), {name: value[:5] for name, value in vars(full).items()})


def test_slices_of_a_flood_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    head = make_head(random_tree(1))
    features = torch.randn(2, DEPTH, 4, 4)
    arguments = [{"classes": None}, {"classes": [3, 0, 2]}]
    whole = [Decoder(head).decode(features, 0.01, **kwargs) for kwargs in arguments]
    monkeypatch.setattr(yolo9000.decode, "_MAX_LOGITS", 7 * len(head.tree))
    for kwargs, expected in zip(arguments, whole, strict=True):
        for found, full in zip(Decoder(head).decode(features, 0.01, **kwargs), expected, strict=True):
            torch.testing.assert_close(vars(found), vars(full))


def test_boxes_of_an_untrained_network_stay_finite() -> None:
    head, dense = by_hand(0.8, HUSKY)
    dense[0, 0, :4] = torch.tensor([1e4, -1e4, 1e4, -1e4]).view(4, 1, 1)
    (found,) = Decoder(head).decode_dense(dense)
    assert found.boxes.isfinite().all()
    assert found.boxes[0, :2].tolist() == [1.0, 0.0]


def test_half_precision_features() -> None:
    torch.manual_seed(4)
    head = make_head(random_tree(1)).bfloat16()
    for found in Decoder(head).decode(torch.randn(1, DEPTH, 4, 4).bfloat16(), 0.1):
        assert len(found) > 0
        assert found.boxes.dtype == found.scores.dtype == found.path_probs.dtype == torch.float32


def test_settings_that_make_no_sense_are_refused() -> None:
    head = make_head(TOY)
    with pytest.raises(ConfigError, match="one of paper, darknet; got 'both'"):
        Decoder(head, "both")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_candidates=0"):
        Decoder(head, max_candidates=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["paper", "darknet"])
def test_gpu_agrees_with_cpu(mode: DecoderMode) -> None:
    torch.manual_seed(5)
    head, features = make_head(random_tree(1)), torch.randn(2, DEPTH, 7, 7)
    expected = Decoder(head, mode).decode(features, 0.2)
    for found, slow in zip(Decoder(head.cuda(), mode).decode(features.cuda(), 0.2), expected, strict=True):
        torch.testing.assert_close(
            {name: value.cpu() for name, value in vars(found).items()}, vars(slow), rtol=1e-3, atol=1e-4
        )
