"""Verdicts on labels, cuts of the tree, pruned trees, on a tree small enough to draw."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wordtree.tree import WordTree
from yolo9000.darknet.cfg import RegionConfig
from yolo9000.errors import ConfigError, TreeError
from yolo9000.evaluation.hierarchy import VERDICTS, Cut, LabelQuality, common_levels, judge, path_matrix
from yolo9000.evaluation.predict import prune_head, prune_tree
from yolo9000.head import RegionHead

# animal ─┬─ dog ─┬─ husky        vehicle ─┬─ car
#         │       └─ pug                   └─ boat        mist
#         └─ cat
NAMES = ["animal", "vehicle", "mist", "dog", "cat", "car", "boat", "husky", "pug"]
TREE = WordTree([-1, -1, -1, 0, 0, 1, 1, 3, 3], NAMES)


def nodes(*names: str) -> list[int]:
    return [NAMES.index(name) for name in names]


@st.composite
def trees(draw: st.DrawFn) -> WordTree:
    """Any tree of up to 12 nodes in a valid layout."""
    parents = [-1]
    for node in range(1, draw(st.integers(1, 12))):
        parents.append(draw(st.integers(parents[-1], node - 1)))
    return WordTree(parents, [f"n{i}" for i in range(len(parents))])


@pytest.mark.parametrize(
    ("label", "truth", "verdict"),
    [
        ("husky", "husky", "exact"),
        ("dog", "dog", "exact"),
        ("husky", "dog", "finer"),
        ("husky", "animal", "finer"),
        ("dog", "husky", "unspecific"),
        ("animal", "husky", "unspecific"),
        ("pug", "husky", "overconfident"),
        ("cat", "husky", "overconfident"),
        ("cat", "dog", "overconfident"),
        ("car", "husky", "wrong"),
        ("mist", "dog", "wrong"),
    ],
)
def test_verdicts(label: str, truth: str, verdict: str) -> None:
    assert VERDICTS[int(judge(TREE, nodes(label), nodes(truth))[0])] == verdict


@settings(deadline=None)
@given(trees(), st.data())
def test_verdicts_say_what_the_tree_says(tree: WordTree, data: st.DataObject) -> None:
    index = st.integers(0, len(tree) - 1)
    label, truth = data.draw(index), data.draw(index)
    common = tree.lowest_common_ancestor(label, truth)
    if label == truth:
        expected = "exact"
    elif tree.is_ancestor(truth, label):
        expected = "finer"
    elif tree.is_ancestor(label, truth):
        expected = "unspecific"
    else:
        expected = "wrong" if common is None else "overconfident"
    assert VERDICTS[int(judge(tree, [label], [truth])[0])] == expected
    levels = 0 if common is None else int(tree.depth[common]) + 1
    assert common_levels(tree, [label], [truth]).tolist() == [levels]
    path = path_matrix(tree, [label])[0]
    assert tuple(path[path >= 0]) == tree.path(label)


def test_label_quality() -> None:
    given_labels = nodes("husky", "husky", "dog", "pug", "cat", "car")
    truths = nodes("husky", "dog", "husky", "husky", "dog", "dog")
    quality = LabelQuality.of(TREE, given_labels, truths, unmatched=7)
    assert [getattr(quality, verdict) for verdict in VERDICTS] == [1, 1, 1, 2, 1]
    assert quality.labels == 6
    assert quality.overconfident_leaves == 2
    assert quality.unmatched == 7
    assert quality.depth == pytest.approx((2 + 2 + 1 + 2 + 1 + 1) / 6)
    assert quality.truth_depth == pytest.approx((2 + 1 + 2 + 2 + 1 + 1) / 6)
    assert quality.precision == pytest.approx((1 + 1 + 1 + 2 / 3 + 1 / 2 + 0) / 6)
    assert quality.recall == pytest.approx((1 + 1 + 2 / 3 + 2 / 3 + 1 / 2 + 0) / 6)
    assert quality.share("overconfident") == pytest.approx(2 / 6)
    assert quality.honest == pytest.approx(3 / 6)


def test_a_wrong_inner_label_is_overconfident_but_no_leaf() -> None:
    quality = LabelQuality.of(TREE, nodes("dog"), nodes("cat"))
    assert (quality.overconfident, quality.overconfident_leaves) == (1, 0)


def test_no_labels() -> None:
    quality = LabelQuality.of(TREE, [], [], unmatched=3)
    assert quality.labels == 0
    assert math.isnan(quality.honest)
    assert math.isnan(quality.depth)


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("0", {"animal", "vehicle", "mist"}),
        ("1", {"mist", "dog", "cat", "car", "boat"}),
        ("9", {"mist", "cat", "car", "boat", "husky", "pug"}),
        ("dog, vehicle", {"dog", "vehicle"}),
    ],
)
def test_cuts(text: str, inside: set[str]) -> None:
    assert {NAMES[node] for node in Cut.parse(TREE, text).nodes} == inside


@pytest.mark.parametrize("text", ['"chair, folding",bed', 'bed, "chair, folding"', 'n1,"n2"'])
def test_a_cut_through_a_name_with_a_comma(text: str) -> None:
    tree = WordTree([-1, 0, 0], ["n0", "n1", "n2"], ["furniture", "chair, folding", "bed"])
    cut = Cut.parse(tree, text)
    assert (cut.nodes.tolist(), cut.name) == ([1, 2], text)


def test_lifting_to_a_cut() -> None:
    cut = Cut.parse(TREE, "dog,vehicle")
    lifted = cut.lift(TREE, np.arange(len(TREE)))
    names = [None if node < 0 else NAMES[node] for node in lifted]
    assert names == [None, "vehicle", None, "dog", None, "vehicle", "vehicle", "dog", "dog"]
    assert cut.lift(TREE, []).tolist() == []


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("animal,pug", ConfigError, r"'animal' \(animal\) is above 'pug'"),
        ("-1", ConfigError, "0 .the top nodes. or more, got -1"),
        ("unicorn", TreeError, "no node 'unicorn'"),
        (" , ", ConfigError, "names no node"),
    ],
)
def test_cuts_that_are_none(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Cut.parse(TREE, text)


def test_pruned_tree() -> None:
    pruned, kept = prune_tree(TREE, nodes("dog"))
    assert [NAMES[i] for i in kept] == ["animal", "vehicle", "mist", "dog", "cat"]
    assert pruned.parent.tolist() == [-1, -1, -1, 0, 0]
    assert prune_tree(TREE, range(len(TREE)))[0] == TREE


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("chosen", [("husky",), ("cat", "car"), ("mist",), tuple(NAMES)])
def test_a_pruned_head_gives_the_same_boxes_and_probabilities(chosen: tuple[str, ...], tied: bool) -> None:
    torch.manual_seed(1)
    region = RegionConfig(
        anchors=((1.0, 2.0), (3.0, 1.0)), classes=len(TREE), num=2, tree="toy.tree", tied=tied
    )
    head = RegionHead(6, region, TREE)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
    features = torch.randn(2, 6, 3, 4)
    small, kept = prune_head(head, nodes(*chosen))
    columns = np.searchsorted(kept, nodes(*chosen))
    assert torch.equal(small.boxes(features), head.boxes(features))
    at = [torch.tensor(values) for values in ([0, 1, 1], [0, 1, 0], [2, 0, 1], [3, 3, 0])]
    full, part = (
        h.ops.path_log_probs(h.ops.log_softmax(h.class_logits(features, *at))) for h in (head, small)
    )
    torch.testing.assert_close(part[:, columns], full[:, nodes(*chosen)])
    assert len(kept) == len(TREE) or small.class_weight.shape[1] < len(TREE)
