"""The gated head against its dense form: values, gradients in double precision, memory, darknet's layout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from toys import random_tree
from wordtree.tree import WordTree
from yolo9000.darknet.cfg import RegionConfig
from yolo9000.errors import ConfigError, WeightsError
from yolo9000.head import RegionHead, gather_vectors

DEPTH = 6  # feature channels
ANCHORS = ((1.0, 2.0), (3.0, 1.5), (4.0, 4.0))


def make_head(tree: WordTree, *, tied: bool = False, channels: int = DEPTH) -> RegionHead:
    region = RegionConfig(anchors=ANCHORS, classes=len(tree), num=3, softmax=True, tied=tied)
    head = RegionHead(channels, region, tree).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return head


def places(features: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image, anchor, row and column of random anchors; cells repeat."""
    batch, _, height, width = features.shape
    generator = torch.Generator().manual_seed(seed)
    b, a, y, x = (torch.randint(n, (count,), generator=generator) for n in (batch, 3, height, width))
    return b, a, y, x


def dense_log_probs(head: RegionHead, features: Tensor) -> Tensor:
    """[B, A, H, W, N] log of the absolute probabilities, from the dense head."""
    logits = head.dense(features)[:, :, 5:].permute(0, 1, 3, 4, 2)
    return head.ops.path_log_probs(head.ops.log_softmax(logits))


def gradients(head: RegionHead, features: Tensor, loss: Tensor) -> list[Tensor]:
    inputs = [features, *head.parameters()]
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [torch.zeros_like(i) if g is None else g for i, g in zip(inputs, found, strict=True)]


cases = pytest.mark.parametrize("tied", [False, True])


@cases
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(0, 30))
def test_gated_outputs_are_those_of_the_dense_head(tied: bool, seed: int, count: int) -> None:
    head = make_head(random_tree(seed, 40), tied=tied)
    features = torch.randn(2, DEPTH, 3, 4, dtype=torch.float64)
    dense = head.dense(features)
    assert dense.shape == (2, 3, 5 + len(head.tree), 3, 4)
    torch.testing.assert_close(head.boxes(features), dense[:, :, :5])
    b, a, y, x = places(features, count, seed)
    torch.testing.assert_close(head.class_logits(features, b, a, y, x), dense[b, a, 5:, y, x])


@cases
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(0, 30))
def test_path_loss_has_value_and_gradient_of_the_dense_head(tied: bool, seed: int, count: int) -> None:
    head = make_head(random_tree(seed, 40), tied=tied)
    features = torch.randn(2, DEPTH, 3, 4, dtype=torch.float64, requires_grad=True)
    b, a, y, x = places(features, count, seed)
    nodes = torch.randint(len(head.tree), (count,))
    weight = torch.randn(count, dtype=torch.float64)
    nll = head.path_nll(features, b, a, y, x, nodes)
    dense = -dense_log_probs(head, features)[b, a, y, x, nodes]
    torch.testing.assert_close(nll, dense)
    ours, theirs = (gradients(head, features, (loss * weight).sum()) for loss in (nll, dense))
    torch.testing.assert_close(ours, theirs)


@cases
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), batch=st.integers(0, 4))
def test_label_probabilities_have_value_and_gradient_of_the_dense_head(
    tied: bool, seed: int, batch: int
) -> None:
    head = make_head(random_tree(seed, 40), tied=tied)
    features = torch.randn(batch, DEPTH, 3, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(len(head.tree), (batch,))
    log_probs = head.path_log_probs(features, labels)
    dense = dense_log_probs(head, features)[torch.arange(batch), :, :, :, labels]
    assert log_probs.shape == (batch, 3, 3, 4)
    torch.testing.assert_close(log_probs, dense)
    weight = torch.randn_like(dense)
    torch.testing.assert_close(
        *(gradients(head, features, (value * weight).sum()) for value in (log_probs, dense))
    )


def test_flat_list_of_classes() -> None:
    head = make_head(WordTree.flat([f"class {i}" for i in range(80)]))
    features = torch.randn(2, DEPTH, 3, 4, dtype=torch.float64)
    b, a, y, x = places(features, 9, 0)
    nodes = torch.randint(80, (9,))
    logits = head.dense(features)[b, a, 5:, y, x]
    expected = torch.nn.functional.cross_entropy(logits, nodes, reduction="none")
    torch.testing.assert_close(head.path_nll(features, b, a, y, x, nodes), expected)
    labels = torch.tensor([3, 79])
    log_probs = head.dense(features)[:, :, 5:].log_softmax(2)
    torch.testing.assert_close(head.path_log_probs(features, labels), log_probs[torch.arange(2), :, labels])


def test_whole_images_are_classified_by_the_mean_logits() -> None:
    head = make_head(random_tree(2, 40))
    features = torch.randn(3, DEPTH, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(head.classify(features), head.dense(features)[:, :, 5:].mean((1, 3, 4)))


@cases
def test_darknet_layout_round_trip(tied: bool) -> None:
    head = make_head(random_tree(3, 40), tied=tied)
    weight, bias = head.darknet_conv()
    filters = 3 * (5 + len(head.tree))
    assert weight.shape == (filters, DEPTH, 1, 1)
    assert bias.shape == (filters,)
    # entry_index in region_layer.c: anchor by anchor, 4 coordinates, then the objectness, then the classes
    assert torch.equal(weight[5 + len(head.tree) + 4, :, 0, 0], head.box_weight[1, 4])
    assert torch.equal(bias[-1], head.class_bias[-1, -1])
    other = make_head(head.tree, tied=tied)
    other.load_darknet_conv(weight, bias)
    assert all(torch.equal(p, q) for p, q in zip(head.parameters(), other.parameters(), strict=True))


def test_tied_rows_must_agree() -> None:
    tree = random_tree(3, 40)
    weight, bias = make_head(tree).darknet_conv()
    with pytest.raises(WeightsError, match="tied=1, but the class rows of the anchors differ"):
        make_head(tree, tied=True).load_darknet_conv(weight, bias)


def test_weights_of_another_size_are_refused() -> None:
    head = make_head(random_tree(3, 40))
    weight, bias = head.darknet_conv()
    with pytest.raises(WeightsError, match=rf"{len(weight)}, {DEPTH}, 1, 1.*got \({len(weight) - 1}, "):
        head.load_darknet_conv(weight[:-1], bias[:-1])


def test_classes_must_be_the_nodes_of_the_tree() -> None:
    region = RegionConfig(anchors=ANCHORS, classes=80, num=3)
    tree = random_tree(3, 40)
    with pytest.raises(ConfigError, match=f"classes=80, but the tree has {len(tree)} nodes"):
        RegionHead(DEPTH, region, tree)
    assert RegionHead(DEPTH, replace(region, classes=len(tree)), tree).anchors.tolist() == [
        list(anchor) for anchor in ANCHORS
    ]


def test_vectors_of_cells() -> None:
    features = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    vectors = gather_vectors(features, torch.tensor([1, 0]), torch.tensor([2, 3]), torch.tensor([4, 0]))
    assert torch.equal(vectors, torch.stack((features[1, :, 2, 4], features[0, :, 3, 0])))
    memory = features.to(memory_format=torch.channels_last)
    assert torch.equal(gather_vectors(memory, *torch.tensor([[1], [2], [4]])), vectors[:1])


def saved_elements(make_loss: Any, parameters: set[int]) -> int:
    """Elements that autograd keeps for the backward pass, parameters not counted."""
    sizes = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        keep = make_loss()
    assert keep.requires_grad
    return sum(sizes.values())


def test_path_losses_keep_far_less_than_the_dense_head() -> None:
    parent = [-1] * 4 + [node for node in range(400) for _ in range(6)]  # 2,404 nodes, 6 a group
    head = make_head(WordTree(parent, [f"n{i}" for i in range(len(parent))]), channels=16).float()
    features = torch.randn(4, 16, 13, 13, requires_grad=True)
    labels = torch.tensor([5, 700, 1500, 2403])
    b, a, y, x = places(features, 20, 0)
    nodes = labels.repeat(5)
    parameters = {p.untyped_storage().data_ptr() for p in head.parameters()}
    dense = saved_elements(lambda: dense_log_probs(head, features).sum(), parameters)
    likeliest = saved_elements(lambda: head.path_log_probs(features, labels).sum(), parameters)
    matched = saved_elements(lambda: head.path_nll(features, b, a, y, x, nodes).sum(), parameters)
    assert likeliest < dense / 20
    assert matched < dense / 100


def test_gradients_repeat_bit_by_bit() -> None:
    head = make_head(random_tree(8, nodes=200), channels=32).float()
    features = torch.randn(4, 32, 7, 7, requires_grad=True)
    b, a, y, x = places(features, 300, 0)  # 300 anchors in 196 cells: gradients of cells are sums
    nodes = torch.randint(len(head.tree), (300,))

    def once() -> list[Tensor]:
        loss = (
            head.path_nll(features, b, a, y, x, nodes).sum() + head.path_log_probs(features, nodes[:4]).sum()
        )
        return gradients(head, features, loss)

    first = once()
    assert all(gradient.abs().sum() > 0 for gradient in (first[0], *first[3:]))
    assert all(torch.equal(p, q) for p, q in zip(first, once(), strict=True))
