"""Suppression against the plain greedy loop, and the rule for a label and its ancestor by example."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision import ops

from toys import random_tree
from wordtree.tree import WordTree
from yolo9000.boxes import box_iou
from yolo9000.errors import ConfigError
from yolo9000.suppress import DEPTH_FACTOR, SuppressMode, suppress

# 0 animal -- 2 cat
#          -- 3 dog -- 4 husky, 5 pug
# 1 vehicle
TOY = WordTree([-1, -1, 0, 0, 3, 3], [f"n{i}" for i in range(6)])
ANIMAL, VEHICLE, CAT, DOG, HUSKY, PUG = range(6)


def slow_suppress(
    boxes: Tensor, scores: Tensor, nodes: Tensor, tree: WordTree, iou: float, mode: SuppressMode
) -> list[int]:
    depth = torch.from_numpy(np.array(tree.depth))[nodes] if mode == "tree" else torch.zeros_like(nodes)
    priority = scores.double() / DEPTH_FACTOR ** depth.double()
    related = torch.eye(len(tree), dtype=torch.bool)
    for node in range(len(tree)):
        for above in tree.path(node) if mode == "tree" else ():
            related[node, above] = related[above, node] = True
    conflict = (box_iou(boxes.double(), boxes.double()) > iou) & related[nodes][:, nodes]
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: (-priority[i].item(), i)):
        if not conflict[i, kept].any():
            kept.append(i)
    return sorted(kept, key=lambda i: (-scores[i].item(), i))


def random_boxes(count: int, generator: torch.Generator, spread: float = 1.0) -> Tensor:
    corner = torch.rand(count, 2, generator=generator) * spread
    return torch.cat((corner, corner + 0.1 + torch.rand(count, 2, generator=generator) * 0.4), 1)


def same_place(*labels_and_scores: tuple[int, float]) -> tuple[Tensor, Tensor, Tensor]:
    labels, scores = zip(*labels_and_scores, strict=True)
    return (
        torch.tensor([[0.1, 0.1, 0.5, 0.5]]).repeat(len(labels), 1),
        torch.tensor(scores),
        torch.tensor(labels),
    )


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 60),
    iou=st.sampled_from([0.0, 0.3, 0.45, 0.7]),
    mode=st.sampled_from(["tree", "class"]),
)
def test_agrees_with_the_plain_greedy_loop(seed: int, count: int, iou: float, mode: SuppressMode) -> None:
    generator = torch.Generator().manual_seed(seed)
    tree = random_tree(seed, 40)
    boxes = random_boxes(count, generator)
    scores = torch.rand(count, generator=generator)
    nodes = torch.randint(len(tree), (count,), generator=generator)
    assert suppress(boxes, scores, nodes, tree, iou, mode).tolist() == slow_suppress(
        boxes, scores, nodes, tree, iou, mode
    )


@pytest.mark.parametrize("sizes", [(512, 128, 1 << 18), (64, 8, 200)])
@pytest.mark.parametrize(("spread", "labels"), [(0.1, 40), (6.0, 40), (6.0, 3), (2.0, 1)])
def test_many_boxes_agree_with_the_plain_greedy_loop(
    spread: float, labels: int, sizes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in zip(("_BLOCK", "_PART", "_PAIRS"), sizes, strict=True):
        monkeypatch.setattr(f"yolo9000.suppress.{name}", size)
    generator = torch.Generator().manual_seed(0)
    tree = random_tree(7, 40)
    boxes = random_boxes(800, generator, spread)
    scores = torch.rand(800, generator=generator)
    nodes = torch.randint(min(labels, len(tree)), (800,), generator=generator)
    expected = slow_suppress(boxes, scores, nodes, tree, 0.45, "tree")
    assert suppress(boxes, scores, nodes, tree).tolist() == expected


def test_classes_alone_agree_with_torchvision() -> None:
    generator = torch.Generator().manual_seed(1)
    tree = WordTree.flat([f"class {i}" for i in range(20)])
    boxes, scores = random_boxes(800, generator), torch.rand(800, generator=generator)
    nodes = torch.randint(20, (800,), generator=generator)
    expected = ops.batched_nms(boxes, scores, nodes, 0.45).tolist()
    assert suppress(boxes, scores, nodes, tree, mode="class").tolist() == expected
    assert suppress(boxes, scores, nodes, tree, mode="tree").tolist() == expected


@pytest.mark.parametrize(
    ("labels", "kept"),
    [
        ([(DOG, 0.5), (DOG, 0.6)], [1]),  # the same label: the higher score
        ([(ANIMAL, 0.8), (DOG, 0.75)], [1]),  # comparable: the deeper label, though its score is lower
        ([(ANIMAL, 0.8), (DOG, 0.3)], [0]),  # not comparable
        ([(ANIMAL, 0.8), (HUSKY, 0.7), (DOG, 0.75)], [1]),
        ([(ANIMAL, 0.9), (HUSKY, 0.4), (PUG, 0.4)], [0]),
        ([(HUSKY, 0.5), (PUG, 0.6)], [1, 0]),  # siblings are different things
        ([(DOG, 0.5), (CAT, 0.6), (VEHICLE, 0.7)], [2, 1, 0]),
        ([(ANIMAL, 0.7), (DOG, 0.69), (CAT, 0.68)], [1, 2]),  # animal goes, both kinds of it stay
    ],
)
def test_labels_on_one_spot(labels: list[tuple[int, float]], kept: list[int]) -> None:
    assert suppress(*same_place(*labels), TOY).tolist() == kept


def test_the_boundary_is_the_depth_factor() -> None:
    limit = 0.8 * DEPTH_FACTOR**2
    assert suppress(*same_place((ANIMAL, 0.8), (HUSKY, limit + 1e-3)), TOY).tolist() == [1]
    assert suppress(*same_place((ANIMAL, 0.8), (HUSKY, limit - 1e-3)), TOY).tolist() == [0]


def test_boxes_of_one_thing_leave_one_however_many() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]]).expand(1_000, 4)
    kept = suppress(boxes, torch.linspace(1, 0.5, 1_000), torch.full((1_000,), DOG), TOY)
    assert kept.tolist() == [0]


def test_a_suppressed_box_suppresses_nothing() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])  # each overlaps the next: 6 / 14
    scores, nodes = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([DOG, DOG, DOG])
    assert suppress(boxes, scores, nodes, TOY, iou=0.4).tolist() == [0, 2]
    assert suppress(boxes, scores, nodes, TOY, iou=0.45).tolist() == [0, 1, 2]


def test_a_long_chain_of_suppression_is_resolved() -> None:
    left = torch.arange(700.0) * 4
    boxes = torch.stack((left, torch.zeros(700), left + 10, torch.full((700,), 10.0)), 1)
    kept = suppress(boxes, torch.linspace(1, 0.5, 700), torch.full((700,), DOG), TOY, iou=0.4)
    assert kept.tolist() == list(range(0, 700, 2))


def test_boxes_far_apart_stay_whatever_their_labels() -> None:
    boxes = torch.tensor([[0.0, 0, 1, 1], [2, 0, 3, 1], [-1, -1, -0.5, -0.5]])
    assert suppress(boxes, torch.tensor([0.1, 0.3, 0.2]), torch.tensor([DOG, DOG, ANIMAL]), TOY).tolist() == [
        1,
        2,
        0,
    ]


def test_other_modes_and_no_boxes() -> None:
    boxes, scores, nodes = same_place((ANIMAL, 0.5), (DOG, 0.6), (DOG, 0.4))
    assert suppress(boxes, scores, nodes, TOY, mode="none").tolist() == [1, 0, 2]
    assert suppress(boxes, scores, nodes, TOY, mode="class").tolist() == [1, 0]
    assert suppress(boxes, scores, nodes, TOY, iou=1.0).tolist() == [1, 0, 2]
    for mode in ("tree", "class", "none"):
        assert suppress(boxes[:0], scores[:0], nodes[:0], TOY, mode=mode).shape == (0,)


def test_settings_that_make_no_sense_are_refused() -> None:
    arguments = (*same_place((DOG, 0.5)), TOY)
    with pytest.raises(ConfigError, match="one of tree, class, none; got 'soft'"):
        suppress(*arguments, mode="soft")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"0\.\.1; got 45"):
        suppress(*arguments, iou=45)
