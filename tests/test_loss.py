"""The criterion against a slow double-precision reference that loops as the C code does."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import ops

from toys import Truths, labels_only
from wordtree.tree import WordTree
from yolo9000.boxes import cxcywh_to_xyxy
from yolo9000.config import LossConfig
from yolo9000.darknet.cfg import RegionConfig
from yolo9000.errors import ConfigError
from yolo9000.head import RegionHead
from yolo9000.loss import JointLoss
from yolo9000.matching import best_iou, inner_cells, match, touched_cells

#   animal          vehicle          top group (2)
#   dog cat         car bus boat
#   husky pug
PARENT = [-1, -1, 0, 0, 2, 2, 1, 1, 1]
NAMES = ["animal", "vehicle", "dog", "cat", "husky", "pug", "car", "bus", "boat"]
TREE = WordTree(PARENT, [f"n{i:08d}" for i in range(9)], NAMES)
ANCHORS = ((1.0, 1.25), (2.5, 2.0))  # exact in float32, as the head keeps them
A, N, H, W = 2, 9, 3, 4


def region(**changes: float) -> RegionConfig:
    chosen = RegionConfig(
        ANCHORS, N, A, softmax=True, bias_match=True, rescore=True, thresh=0.6, object_scale=5.0
    )
    return replace(chosen, **changes)  # type: ignore[arg-type]


def identity_head() -> RegionHead:
    """A head whose dense output is its input: gradients of the features are those of the raw output."""
    head = RegionHead(A * (5 + N), region(), TREE).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        for a in range(A):
            for k in range(5):
                head.box_weight[a, k, a * (5 + N) + k] = 1
            for n in range(N):
                head.class_weight[a, n, a * (5 + N) + 5 + n] = 1
    return head


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def iou(one: list[float], two: list[float]) -> float:
    width = min(one[0] + one[2] / 2, two[0] + two[2] / 2) - max(one[0] - one[2] / 2, two[0] - two[2] / 2)
    height = min(one[1] + one[3] / 2, two[1] + two[3] / 2) - max(one[1] - one[3] / 2, two[1] - two[3] / 2)
    inter = max(width, 0) * max(height, 0)
    return inter / (one[2] * one[3] + two[2] * two[3] - inter)


def write_class_delta(delta: np.ndarray, logits: np.ndarray, node: int, options: RegionConfig) -> None:
    """One-hot minus softmax in every sibling group on the way from the node to the top; nothing else."""
    while node >= 0:
        group = [k for k in range(N) if PARENT[k] == PARENT[node]]
        exp = np.exp(logits[group] - logits[group].max())
        delta[group] = -options.class_scale * exp / exp.sum()
        delta[node] += options.class_scale
        node = PARENT[node]


def path_log_prob(logits: np.ndarray, node: int) -> float:
    value = 0.0
    while node >= 0:
        group = [k for k in range(N) if PARENT[k] == PARENT[node]]
        value += logits[node] - math.log(np.exp(logits[group]).sum())
        node = PARENT[node]
    return value


def deltas(
    raw: np.ndarray, truths: Truths, seen: int, options: RegionConfig, mode: str = "paper"
) -> np.ndarray:
    """Negative gradients on the raw output [B,A,5+N,H,W], weights applied, not divided by B."""
    delta = np.zeros_like(raw)
    for b in range(len(raw)):
        label = int(truths.labels[b])
        if label >= 0:
            image_deltas(raw[b], delta[b], label, options, mode)
            continue
        own = [t for t in range(len(truths.nodes)) if int(truths.image_index[t]) == b]
        if mode == "darknet":
            own = list(itertools.takewhile(lambda t: truths.boxes[t, 0] != 0, own[:30]))
        boxes = [[float(v) for v in truths.boxes[t]] for t in own]
        for a, y, x in np.ndindex(A, H, W):
            t = raw[b, a, :, y, x]
            d = delta[b, a, :, y, x]
            predicted = decoded(t, a, y, x)
            if max([iou(predicted, box) for box in boxes], default=0) <= options.thresh:
                d[4] = options.noobject_scale * -sigmoid(t[4])
            if seen + len(raw) < 12800:
                d[0], d[1] = 0.01 * (0.5 - sigmoid(t[0])), 0.01 * (0.5 - sigmoid(t[1]))
                d[2], d[3] = 0.01 * -t[2], 0.01 * -t[3]
        for index, box in zip(own, boxes, strict=True):
            x, y = int(box[0] * W), int(box[1] * H)
            shapes = [decoded(raw[b, a, :, y, x], a, y, x)[2:] for a in range(A)]
            if options.bias_match:
                shapes = [[w / W, h / H] for w, h in ANCHORS]
            a = max(range(A), key=lambda k: iou([0, 0, *shapes[k]], [0, 0, *box[2:]]))
            t, d = raw[b, a, :, y, x], delta[b, a, :, y, x]
            scale = options.coord_scale * (2 - box[2] * box[3])
            d[0] = scale * (box[0] * W - x - sigmoid(t[0]))
            d[1] = scale * (box[1] * H - y - sigmoid(t[1]))
            d[2] = scale * (math.log(box[2] * W / ANCHORS[a][0]) - t[2])
            d[3] = scale * (math.log(box[3] * H / ANCHORS[a][1]) - t[3])
            target = iou(decoded(t, a, y, x), box) if options.rescore else 1
            d[4] = options.object_scale * (target - sigmoid(t[4]))
            if mode != "darknet":
                d[5:] = 0
            write_class_delta(d[5:], t[5:], int(truths.nodes[index]), options)
    return delta


def decoded(t: np.ndarray, a: int, y: int, x: int) -> list[float]:
    return [
        (x + sigmoid(t[0])) / W,
        (y + sigmoid(t[1])) / H,
        math.exp(t[2]) * ANCHORS[a][0] / W,
        math.exp(t[3]) * ANCHORS[a][1] / H,
    ]


def image_deltas(raw: np.ndarray, delta: np.ndarray, label: int, options: RegionConfig, mode: str) -> None:
    places = list(np.ndindex(A, H, W))

    def value(place: tuple[int, int, int]) -> float:
        a, y, x = place
        objectness, likelihood = math.log(sigmoid(raw[a, 4, y, x])), path_log_prob(raw[a, 5:, y, x], label)
        return {"paper": objectness, "likeliest": likelihood}.get(mode, objectness + likelihood)

    a, y, x = max(places, key=value)
    if mode == "darknet":
        delta[:, 4] = options.noobject_scale * -1 / (1 + np.exp(-raw[:, 4]))
    write_class_delta(delta[a, 5:, y, x], raw[a, 5:, y, x], label, options)
    objectness = sigmoid(raw[a, 4, y, x])
    delta[a, 4, y, x] = options.object_scale * max(0.0, 0.3 - objectness) if mode != "darknet" else 0


def make_truths(generator: np.random.Generator, counts: list[int], labels: list[int]) -> Truths:
    """Truths in different cells, so that no two have the same anchor."""
    boxes, nodes, image = [], [], []
    for b, count in enumerate(counts):
        for cell in generator.permutation(H * W)[:count]:
            y, x = divmod(int(cell), W)
            centre = ((x + generator.uniform(0.1, 0.9)) / W, (y + generator.uniform(0.1, 0.9)) / H)
            boxes.append([*centre, generator.uniform(0.05, 0.9), generator.uniform(0.05, 0.9)])
            nodes.append(int(generator.integers(N)))
            image.append(b)
    return Truths(
        torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
        torch.tensor(nodes, dtype=torch.long),
        torch.tensor(image, dtype=torch.long),
        torch.tensor(labels),
    )


def gradients(raw: np.ndarray, truths: Truths, seen: int, options: RegionConfig, mode: str) -> np.ndarray:
    """The criterion's negative gradients, as `deltas` gives them; "likeliest" is the paper's own rule."""
    rule = mode in ("likeliest", "score")
    chosen: dict[str, Any] = {"classification_box": mode} if rule else {"mode": mode}
    loss = JointLoss(identity_head(), options, LossConfig(**chosen))
    features = torch.tensor(raw.reshape(len(raw), -1, H, W), requires_grad=True)
    loss.total(loss(features, truths, seen)).backward()
    assert features.grad is not None
    return -features.grad.numpy().reshape(raw.shape) * len(raw)


@pytest.mark.parametrize("seen", [0, 12_794, 12_795])
@pytest.mark.parametrize(
    "options", [{}, {"rescore": 0}, {"bias_match": 0}, {"object_scale": 2.0, "class_scale": 3.0}]
)
@pytest.mark.parametrize("mode", ["paper", "likeliest", "score", "darknet"])
def test_gradients_are_darknets_deltas(seen: int, options: dict[str, float], mode: str) -> None:
    generator = np.random.default_rng(7)
    truths = make_truths(generator, [0, 5, 0, 12, 1], [-1, -1, 4, -1, -1])
    truths.labels[0] = 6
    raw = generator.normal(0, 1, (5, A, 5 + N, H, W))
    chosen = region(**options)
    found = gradients(raw, truths, seen, chosen, mode)
    np.testing.assert_allclose(found, deltas(raw, truths, seen, chosen, mode), atol=1e-9)


def crowd(generator: np.random.Generator, counts: list[int]) -> Truths:
    """Truths of a few cells and shapes: many share an anchor."""
    image = np.repeat(np.arange(len(counts)), counts)
    place = generator.integers(0, 2, (len(image), 2)) + generator.uniform(0.1, 0.9, (len(image), 2))
    boxes = np.column_stack([place / (W, H), generator.choice([0.2, 0.7], (len(image), 2))])
    nodes = torch.from_numpy(generator.integers(0, N, len(image)))
    labels = torch.full((len(counts),), -1)
    return Truths(torch.from_numpy(boxes), nodes, torch.from_numpy(image), labels)


@pytest.mark.parametrize("mode", ["paper", "darknet"])
def test_truths_that_share_anchors(mode: str) -> None:
    generator = np.random.default_rng(3)
    truths = crowd(generator, [4, 29, 0, 9])
    raw = generator.normal(0, 1, (4, A, 5 + N, H, W))
    expected = deltas(raw, truths, 0, region(), mode)
    np.testing.assert_allclose(gradients(raw, truths, 0, region(), mode), expected, atol=1e-9)
    other = deltas(raw, truths, 0, region(), "darknet" if mode == "paper" else "paper")
    assert np.abs(expected - other)[:, :, 5:].max() > 0.1
    np.testing.assert_allclose(expected[:, :, :5], other[:, :, :5])


@pytest.mark.parametrize("mode", ["paper", "darknet"])
def test_only_darknet_mode_stops_reading_truths(mode: str) -> None:
    """After the thirtieth of an image, and at the first with x = 0."""
    generator = np.random.default_rng(4)
    truths = crowd(generator, [40, 12, 31])
    truths.boxes[45, 0] = 0
    raw = generator.normal(0, 1, (3, A, 5 + N, H, W))
    expected = deltas(raw, truths, 0, region(), mode)
    np.testing.assert_allclose(gradients(raw, truths, 0, region(), mode), expected, atol=1e-9)


@pytest.mark.parametrize("mode", ["paper", "darknet"])
def test_plain_classes_without_softmax_are_sigmoids(mode: str) -> None:
    """Of three truths on two anchors, and of a classification image."""
    options = region(softmax=0)
    flat = RegionHead(A * (5 + N), options, WordTree.flat(NAMES)).double()
    flat.load_state_dict(identity_head().state_dict())
    boxes = torch.tensor([[0.51, 0.5, 0.2, 0.3], [0.55, 0.5, 0.2, 0.3], [0.1, 0.1, 0.2, 0.3]])
    truths = Truths(boxes, torch.tensor([4, 7, 1]), torch.zeros(3, dtype=torch.long), torch.tensor([-1, 2]))
    features = torch.randn(2, A * (5 + N), H, W, dtype=torch.float64, requires_grad=True)
    loss = JointLoss(flat, options, LossConfig(mode=mode))  # type: ignore[arg-type]
    terms = loss(features, truths)
    (terms["class"] + terms["image_class"]).backward()
    assert features.grad is not None
    classes = features.detach().view(2, A, 5 + N, H, W)[:, :, 5:]
    expected = torch.zeros_like(classes)
    for b, y, x, nodes in ((0, 1, 2, [4, 7]), (0, 0, 0, [1])):
        expected[b, 0, :, y, x] = -classes[b, 0, :, y, x].sigmoid()
        expected[b, 0, nodes, y, x] += 1
    score = features.detach().view(2, A, 5 + N, H, W)[1, :, 4].sigmoid()
    if mode == "darknet":
        score = score * classes[1, :, 2].sigmoid()
    a, y, x = np.unravel_index(int(score.argmax()), score.shape)
    expected[1, a, :, y, x] = -classes[1, a, :, y, x].sigmoid()
    expected[1, a, 2, y, x] += 1
    found = -2 * features.grad.view(2, A, 5 + N, H, W)[:, :, 5:]
    torch.testing.assert_close(found, expected)


def smoothed(logits: Tensor, node: int, smoothing: float) -> Tensor:
    """Cross entropy of a whole row of logits with the softened target, group by group."""
    total = logits.new_zeros(())
    while node >= 0:
        group = [k for k in range(N) if PARENT[k] == PARENT[node]]
        target = torch.full((len(group),), smoothing / len(group), dtype=torch.float64)
        target[group.index(node)] += 1 - smoothing
        total = total - (target * logits[group].log_softmax(0)).sum()
        node = PARENT[node]
    return total


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_smoothing_along_the_path_is_that_of_the_dense_rows(smoothing: float) -> None:
    """Labels at the top, at inner nodes and at leaves; values and gradients, both kinds of images."""
    generator = np.random.default_rng(2)
    nodes, label = [0, 2, 5, 8, 7], 4
    truths = make_truths(generator, [5, 0], [-1, label])
    truths.nodes[:] = torch.tensor(nodes)
    raw = torch.tensor(generator.normal(0, 1, (2, A, 5 + N, H, W)))
    config = LossConfig(smoothing=smoothing, classification_box="likeliest")
    loss = JointLoss(identity_head(), region(), config)
    features = raw.flatten(1, 2).requires_grad_()
    terms = loss(features, truths)
    (terms["class"] + terms["image_class"]).backward()

    dense = raw.detach().clone().requires_grad_()
    expected = dense.new_zeros(())
    for (x, y, w, h), node in zip(truths.boxes.tolist(), nodes, strict=True):
        a = max(range(A), key=lambda k: iou([0, 0, ANCHORS[k][0] / W, ANCHORS[k][1] / H], [0, 0, w, h]))
        expected = expected + smoothed(dense[0, a, 5:, int(y * H), int(x * W)], node, smoothing)
    places = [(a, y, x) for a, y, x in np.ndindex(A, H, W)]
    a, y, x = max(places, key=lambda p: path_log_prob(raw.detach()[1, p[0], 5:, p[1], p[2]].numpy(), label))
    expected = expected + smoothed(dense[1, a, 5:, y, x], label, smoothing)
    (expected / 2).backward()
    torch.testing.assert_close((terms["class"] + terms["image_class"]).detach(), expected.detach() / 2)
    assert features.grad is not None
    assert dense.grad is not None
    torch.testing.assert_close(features.grad.view_as(raw), dense.grad)


def test_smoothing_needs_a_softmax_and_the_papers_mode() -> None:
    flat = RegionHead(A * (5 + N), region(softmax=0), WordTree.flat(NAMES)).double()
    with pytest.raises(ConfigError, match="softmax=0"):
        JointLoss(flat, region(softmax=0), LossConfig(smoothing=0.1))
    with pytest.raises(ConfigError, match=r"loss\.mode=paper"):
        LossConfig(smoothing=0.1, mode="darknet")
    with pytest.raises(ConfigError, match="less than 1, got 1"):
        LossConfig(smoothing=1.0)


@pytest.mark.parametrize("labels", [[-1, -1], [3, 8], [0, 2]])
def test_batches_of_one_kind_give_gradients_of_that_kind_alone(labels: list[int]) -> None:
    """Boxes without labelled images; labelled images without boxes, at leaves and at inner nodes."""
    generator = np.random.default_rng(8)
    boxes = 3 if labels[0] < 0 else 0
    truths = make_truths(generator, [boxes, 0], labels)
    raw = generator.normal(0, 1, (2, A, 5 + N, H, W))
    expected = deltas(raw, truths, 0, region())
    np.testing.assert_allclose(gradients(raw, truths, 0, region(), "paper"), expected, atol=1e-9)
    touched = np.abs(expected).sum((0, 1, 3, 4)) > 0
    assert touched[:4].all() == (labels[0] < 0)


def test_classification_images_weigh_as_much_as_detection_images() -> None:
    """Unless the configuration says otherwise."""
    head = identity_head()
    assert JointLoss(head, region(class_scale=3.0)).weights["image_class"] == 3
    chosen = LossConfig(class_scale=2.0, classification_scale=0.5)
    assert JointLoss(head, region(), chosen).weights["image_class"] == 0.5


def test_class_gradient_stops_at_the_level_of_the_label() -> None:
    head = identity_head()
    loss = JointLoss(head, region())
    features = torch.randn(1, A * (5 + N), H, W, dtype=torch.float64, requires_grad=True)
    truths = Truths(
        torch.tensor([[0.5, 0.5, 0.3, 0.3]]), torch.tensor([2]), torch.tensor([0]), torch.tensor([-1])
    )
    loss(features, truths)["class"].backward()
    assert features.grad is not None
    touched = features.grad.view(A, 5 + N, H, W)[:, 5:].abs().sum((0, 2, 3)) > 0
    assert [NAMES[i] for i in touched.nonzero()[:, 0].tolist()] == ["animal", "vehicle", "dog", "cat"]


def test_empty_image_teaches_only_background() -> None:
    loss = JointLoss(identity_head(), region())
    features = torch.randn(2, A * (5 + N), H, W, dtype=torch.float64)
    terms = loss(features, labels_only(-1, -1))
    assert terms["noobject"] > 0
    assert [float(terms[name]) for name in ("box", "object", "class")] == [0, 0, 0]


def test_classification_only_batch_has_no_detection_terms() -> None:
    loss = JointLoss(identity_head(), region())
    features = torch.randn(2, A * (5 + N), H, W, dtype=torch.float64)
    assert set(loss(features, labels_only(3, 8))) == {"image_class", "image_object"}


def test_objectness_of_a_classification_image_is_lifted_to_0_3_and_no_further() -> None:
    loss = JointLoss(identity_head(), region())
    for logit, pushed in ((-3.0, True), (3.0, False)):
        features = torch.zeros(1, A * (5 + N), H, W, dtype=torch.float64)
        features.view(1, A, 5 + N, H, W)[:, :, 4] = logit
        features.requires_grad_(True)
        loss(features, labels_only(4))["image_object"].backward()
        assert features.grad is not None
        assert bool((features.grad < 0).any()) is pushed
        assert not bool((features.grad > 0).any())


@pytest.mark.parametrize(("rule", "place"), [("objectness", (1, 2, 3)), ("largest", (0, 1, 1))])
def test_the_other_rules_choose_their_anchor(rule: str, place: tuple[int, int, int]) -> None:
    loss = JointLoss(identity_head(), region(), LossConfig(classification_box=rule))  # type: ignore[arg-type]
    features = torch.zeros(1, A * (5 + N), H, W, dtype=torch.float64)
    raw = features.view(A, 5 + N, H, W)
    raw[1, 4, 2, 3] = 2.0
    raw[0, 2:4, 1, 1] = 3.0
    features.requires_grad_(True)
    loss(features, labels_only(4))["image_class"].backward()
    assert features.grad is not None
    where = features.grad.view(A, 5 + N, H, W)[:, 5:].abs().sum(1).nonzero().tolist()
    assert where == [list(place)]


def test_a_hundred_objects_in_one_image() -> None:
    generator = np.random.default_rng(0)
    boxes = torch.tensor(
        np.column_stack([generator.uniform(0.01, 0.99, (100, 2)), generator.uniform(0.01, 0.5, (100, 2))])
    )
    truths = Truths(boxes, torch.arange(100) % N, torch.zeros(100, dtype=torch.long), torch.tensor([-1]))
    loss = JointLoss(identity_head(), region())
    terms = loss(torch.randn(1, A * (5 + N), H, W, dtype=torch.float64), truths)
    assert all(bool(term.isfinite()) for term in terms.values())
    raw = generator.normal(0, 1, (1, A, 5 + N, H, W))
    expected = deltas(raw, truths, 0, region())
    np.testing.assert_allclose(gradients(raw, truths, 0, region(), "paper"), expected, atol=1e-9)


def test_two_truths_on_one_anchor_the_last_one_stays() -> None:
    boxes = torch.tensor([[0.51, 0.5, 0.3, 0.3], [0.55, 0.5, 0.3, 0.3]])
    both = Truths(boxes, torch.tensor([4, 7]), torch.tensor([0, 0]), torch.tensor([-1]))
    last = Truths(boxes[1:], torch.tensor([7]), torch.tensor([0]), torch.tensor([-1]))
    loss = JointLoss(identity_head(), region())
    features = torch.randn(1, A * (5 + N), H, W, dtype=torch.float64)
    for name in ("box", "object", "class"):
        assert loss(features, both)[name].item() == pytest.approx(loss(features, last)[name].item())


def test_best_iou_of_images_with_different_counts() -> None:
    generator = np.random.default_rng(5)
    predicted = torch.tensor(generator.uniform(0.1, 0.6, (3, A, H, W, 4)))
    truths = torch.tensor(generator.uniform(0.1, 0.6, (4, 4)))
    image = torch.tensor([2, 0, 2, 2])
    found = best_iou(predicted, truths, image)
    for b, a, y, x in np.ndindex(3, A, H, W):
        own = [iou(predicted[b, a, y, x].tolist(), truths[t].tolist()) for t in range(4) if image[t] == b]
        assert float(found[b, a, y, x]) == pytest.approx(max(own, default=0.0))


def gradient_at(config: LossConfig, truths: Truths, raw: Tensor, term: str) -> Tensor:
    """[A,5+N,H,W] gradient of one term, in one image."""
    features = raw.reshape(1, -1, H, W).clone().requires_grad_(True)
    JointLoss(identity_head(), region(), config)(features, truths)[term].backward()
    assert features.grad is not None
    return features.grad.view(A, 5 + N, H, W)


def test_further_anchors_of_the_cell_answer_for_a_truth() -> None:
    """A box of 2 x 2 cells: the second prior overlaps it by 0.8, the first by 0.31."""
    raw = torch.randn(A, 5 + N, H, W, dtype=torch.float64)
    truths = Truths(
        torch.tensor([[1.5 / W, 1.5 / H, 2 / W, 2 / H]]),
        torch.tensor([2]),
        torch.tensor([0]),
        torch.tensor([-1]),
    )
    for also, anchors in ((1.0, [1]), (0.4, [1]), (0.3, [0, 1])):
        for term in ("box", "object", "class"):
            where = gradient_at(LossConfig(match_iou=also), truths, raw, term).abs().sum(1).nonzero().tolist()
            assert where == [[a, 1, 1] for a in anchors], (also, term)


def test_the_best_anchor_of_a_truth_is_not_taken_by_another_one() -> None:
    """Both truths of the cell overlap both priors; each has its own."""
    shapes = [(2.4, 2.0), (1.2, 1.4)]
    for order in ([0, 1], [1, 0]):
        truths = Truths(
            torch.tensor([[1.5 / W, 1.5 / H, shapes[i][0] / W, shapes[i][1] / H] for i in order]),
            torch.tensor([[2, 7][i] for i in order]),
            torch.tensor([0, 0]),
            torch.tensor([-1]),
        )
        found = match(torch.zeros(1, A, H, W, 4), truths, torch.tensor(ANCHORS), by_prior=True, also=0.1)
        assert len(found) == 4
        last = {
            int(a): int(truths.nodes[t])
            for a, t, end in zip(found.a, found.truth, found.last, strict=True)
            if end
        }
        assert last == {1: 2, 0: 7}


def test_giou_term_is_that_of_torchvision() -> None:
    raw = torch.randn(A, 5 + N, H, W, dtype=torch.float64)
    box = torch.tensor([[1.3 / W, 1.6 / H, 2.4 / W, 2 / H]], dtype=torch.float64)
    truths = Truths(box, torch.tensor([2]), torch.tensor([0]), torch.tensor([-1]))
    terms = JointLoss(identity_head(), region(), LossConfig(box="giou"))(raw.reshape(1, -1, H, W), truths)
    own = torch.tensor([decoded(raw[1, :, 1, 1].numpy(), 1, 1, 1)], dtype=torch.float64)
    expected = ops.generalized_box_iou_loss(cxcywh_to_xyxy(own), cxcywh_to_xyxy(box)).sum()
    expected = expected * (2 - box[0, 2] * box[0, 3])
    # float32 priors
    torch.testing.assert_close(terms["box"], expected, rtol=1e-5, atol=1e-6)


def test_averaged_features_learn_the_class_like_a_classifier() -> None:
    raw = torch.randn(A, 5 + N, H, W, dtype=torch.float64)
    none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    truths = Truths(*none, torch.tensor([4]))
    loss = JointLoss(identity_head(), region(), LossConfig(whole_scale=0.5))
    terms = loss(raw.reshape(1, -1, H, W), truths)
    log_probs = [path_log_prob(raw[a, 5:].mean((1, 2)).numpy(), 4) for a in range(A)]
    assert terms["image_whole"].item() == pytest.approx(-np.mean(log_probs))
    assert loss.weights["image_whole"] == 0.5
    assert "image_whole" not in JointLoss(identity_head(), region())(raw.reshape(1, -1, H, W), truths)


def test_averaged_features_learn_independent_classes() -> None:
    head = RegionHead(3, region(softmax=0), WordTree.flat(NAMES)).double()
    loss = JointLoss(head, region(softmax=0), LossConfig(whole_scale=1))
    features = torch.randn(1, 3, H, W, dtype=torch.float64)
    none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    terms = loss(features, Truths(*none, torch.tensor([4])))
    probabilities = head.classify(features)[0].sigmoid().log(), (-head.classify(features)[0]).sigmoid().log()
    expected = -(probabilities[1].sum() - probabilities[1][4] + probabilities[0][4])
    torch.testing.assert_close(terms["image_whole"], expected)


NONE = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)


@pytest.mark.parametrize(
    "options", [{}, {"whole_scale": 0.5}, {"classification_box": "largest"}, {"mode": "darknet"}]
)
def test_a_tile_over_everything_is_a_classification_image(options: dict[str, Any]) -> None:
    loss = JointLoss(identity_head(), region(), LossConfig(**options))
    raw = torch.randn(2, A * (5 + N), H, W, dtype=torch.float64)
    whole = Truths(*NONE, torch.tensor([4, 7]))
    everything = torch.tensor([[0.5, 0.5, 1.0, 1.0]] * 2)
    tiles = Truths(*NONE, torch.tensor([-1, -1]), everything, torch.tensor([4, 7]), torch.arange(2))
    expected, found = loss(raw, whole), loss(raw, tiles)
    assert set(expected) <= set(found)
    for name, term in found.items():
        torch.testing.assert_close(term, expected.get(name, torch.zeros_like(term)))


def test_a_tile_teaches_its_class_inside_and_background_outside() -> None:
    raw = torch.randn(A, 5 + N, H, W, dtype=torch.float64)
    raw[:, 5:, :, 3] *= 9  # the most certain anchors, but outside of the tile
    raw[:, 4] = -3
    features = raw.reshape(1, -1, H, W).requires_grad_()
    left = torch.tensor([[0.25, 0.5, 0.5, 1.0]])  # two of four columns
    truths = Truths(*NONE, torch.tensor([-1]), left, torch.tensor([4]), torch.tensor([0]))
    config = LossConfig(whole_scale=1, classification_box="likeliest")
    terms = JointLoss(identity_head(), region(), config)(features, truths)
    gradient = {
        name: torch.autograd.grad(term, features, retain_graph=True)[0].view(A, -1, H, W)
        for name, term in terms.items()
        if name != "object" and term.requires_grad
    }
    log_probs = torch.tensor(
        [[[path_log_prob(raw[a, 5:, y, x].numpy(), 4) for x in range(2)] for y in range(H)] for a in range(A)]
    )
    a, y, x = np.unravel_index(int(log_probs.argmax()), log_probs.shape)
    assert terms["image_class"].item() == pytest.approx(-float(log_probs.max()))
    assert terms["image_object"].item() == pytest.approx(
        -(0.3 * math.log(sigmoid(-3)) + 0.7 * math.log(sigmoid(3)))
    )
    assert gradient["image_class"].abs().sum(1).nonzero().tolist() == [[a, y, x]]
    assert gradient["image_object"].abs().sum(1).nonzero().tolist() == [[a, y, x]]
    assert not gradient["image_whole"][..., 2:].any()
    assert bool(gradient["image_whole"][:, 5:, :, :2].abs().sum(1).gt(0).all())
    assert not gradient["noobject"][..., :2].any()
    assert bool((gradient["noobject"][:, 4, :, 2:] > 0).all())


def test_boxes_beside_a_tile_keep_their_terms() -> None:
    raw = torch.randn(1, A * (5 + N), H, W, dtype=torch.float64)
    box = torch.tensor([[0.9, 0.5, 0.1, 0.2]], dtype=torch.float64), torch.tensor([7]), torch.tensor([0])
    left = torch.tensor([[0.25, 0.5, 0.5, 1.0]]), torch.tensor([4]), torch.tensor([0])
    loss = JointLoss(identity_head(), region())
    alone = loss(raw, Truths(*box, torch.tensor([-1])))
    beside = loss(raw, Truths(*box, torch.tensor([-1]), *left))
    for name in ("box", "object", "class"):
        torch.testing.assert_close(beside[name], alone[name])
    assert beside["noobject"] < alone["noobject"]


def test_cells_of_regions() -> None:
    rng = np.random.default_rng(3)
    corners = np.sort(rng.random((60, 2, 2)), axis=1)
    corners[0] = [[0.26, 0.34], [0.27, 0.35]]  # between the middles of cells
    corners[1] = [[0, 0], [1, 1]]
    boxes = torch.from_numpy(np.hstack([corners.mean(1), corners[:, 1] - corners[:, 0]]))
    inner, touched = inner_cells(boxes, (H, W)), touched_cells(boxes, (H, W))
    for index, ((x0, y0), (x1, y1)) in enumerate(corners):
        for y, x in itertools.product(range(H), range(W)):
            middle = x0 <= (x + 0.5) / W <= x1, y0 <= (y + 0.5) / H <= y1
            own = int((x0 + x1) / 2 * W) == x, int((y0 + y1) / 2 * H) == y
            assert bool(inner[index, y, x]) == ((middle[0] or own[0]) and (middle[1] or own[1]))
            overlap = min(x1, (x + 1) / W) > max(x0, x / W), min(y1, (y + 1) / H) > max(y0, y / H)
            assert bool(touched[index, y, x]) == all(overlap)
    assert int(inner[0].sum()) == 1
    assert bool(inner[1].all())
    assert bool((inner <= touched).all())


@pytest.mark.parametrize(
    "setting", [{"match_iou": 0.0}, {"match_iou": 0.5, "mode": "darknet"}, {"whole_scale": -1}]
)
def test_departures_out_of_range_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"loss.{next(iter(setting))}"):
        LossConfig(**setting)
