"""Tree probabilities against plain double-precision loops, on a toy tree by hand and on random trees."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from toys import random_tree
from wordtree.tree import WordTree
from yolo9000.tree_ops import TreeOps

# 0 animal -- 2 cat (leaf)
#          -- 3 dog -- 4 husky, 5 pug, 6 beagle
# 1 vehicle (leaf)
TOY = WordTree([-1, -1, 0, 0, 3, 3, 3], [f"n{i}" for i in range(7)])


def slow_log_softmax(tree: WordTree, logits: Tensor) -> Tensor:
    result = torch.empty_like(logits, dtype=torch.float64)
    for start, size in zip(tree.group_start, tree.group_size, strict=True):
        result[:, start : start + size] = logits[:, start : start + size].double().log_softmax(1)
    return result


def slow_absolute(tree: WordTree, conditional: Tensor) -> Tensor:
    result = torch.zeros_like(conditional, dtype=torch.float64)
    for node in range(len(tree)):
        for step in tree.path(node):
            result[:, node] += conditional[:, step]
    return result


seeds = st.integers(0, 10_000)
rows_of = st.integers(0, 70)  # more than one chunk of rows, and none


def random_logits(tree: WordTree, rows: int, seed: int) -> Tensor:
    return torch.randn(rows, len(tree), generator=torch.Generator().manual_seed(seed)) * 5


def test_toy_tree_by_hand() -> None:
    ops = TreeOps(TOY)
    probabilities = torch.tensor([[0.9, 0.1, 0.25, 0.75, 0.6, 0.3, 0.1]])
    conditional = ops.log_softmax(probabilities.log() + torch.tensor([3.0, 3, -7, -7, 1, 1, 1]))
    torch.testing.assert_close(conditional.exp(), probabilities)
    expected = torch.tensor([[0.9, 0.1, 0.225, 0.675, 0.405, 0.2025, 0.0675]])
    torch.testing.assert_close(ops.path_log_probs(conditional).exp(), expected)
    path, steps = ops.descend(probabilities.log())
    assert path.tolist() == [[0, 3, 4]]
    torch.testing.assert_close(steps.exp(), torch.tensor([[0.9, 0.75, 0.6]]))
    nll = ops.path_nll(probabilities.log().expand(3, -1), torch.tensor([1, 3, 6]))
    torch.testing.assert_close(nll.neg().exp(), torch.tensor([0.1, 0.675, 0.0675]))


def test_paths_end_in_padding_below_a_leaf() -> None:
    path, steps = TreeOps(TOY).descend(torch.tensor([[0.0, 1, 0, 0, 0, 0, 0], [1.0, 0, 2, 0, 0, 0, 0]]))
    assert path.tolist() == [[1, -1, -1], [0, 2, -1]]
    assert steps[0, 1:].tolist() == [0.0, 0.0]
    assert steps[1, 2].item() == 0.0


@settings(max_examples=25, deadline=None)
@given(seeds, rows_of)
def test_softmax_and_products_agree_with_loops(seed: int, rows: int) -> None:
    tree = random_tree(seed, 60)
    ops, logits = TreeOps(tree), random_logits(tree, rows, seed)
    conditional = ops.log_softmax(logits)
    torch.testing.assert_close(conditional.double(), slow_log_softmax(tree, logits), rtol=1e-5, atol=1e-5)
    absolute = ops.path_log_probs(conditional)
    torch.testing.assert_close(
        absolute.double(), slow_absolute(tree, conditional.double()), rtol=1e-5, atol=1e-5
    )
    below = np.flatnonzero(tree.parent >= 0)
    assert (absolute[:, below] <= absolute[:, tree.parent[below]]).all()


@settings(max_examples=25, deadline=None)
@given(seeds, rows_of)
def test_probabilities_of_a_group_add_up_to_its_parent(seed: int, rows: int) -> None:
    tree = random_tree(seed, 60)
    ops = TreeOps(tree)
    absolute = ops.path_log_probs(ops.log_softmax(random_logits(tree, rows, seed))).exp()
    for start, size, parent in zip(tree.group_start, tree.group_size, tree.group_parent, strict=True):
        whole = torch.ones(rows) if parent < 0 else absolute[:, parent]
        torch.testing.assert_close(absolute[:, start : start + size].sum(1), whole)


@settings(max_examples=25, deadline=None)
@given(seeds, rows_of)
def test_descend_takes_the_likeliest_child_down_to_a_leaf(seed: int, rows: int) -> None:
    tree = random_tree(seed, 60)
    ops, logits = TreeOps(tree), random_logits(tree, rows, seed)
    conditional = slow_log_softmax(tree, logits)
    paths, steps = ops.descend(logits)
    assert paths.shape == steps.shape == (rows, tree.max_depth + 1)
    for path, step, row, log_probs in zip(paths.tolist(), steps, logits, conditional, strict=True):
        expected, group = [], 0
        while group >= 0:
            start = tree.group_start[group]
            expected.append(int(start + row[start : start + tree.group_size[group]].argmax()))
            group = tree.child_group[expected[-1]]
        assert path == expected + [-1] * (len(path) - len(expected))
        torch.testing.assert_close(step[: len(expected)].double(), log_probs[expected], rtol=1e-5, atol=1e-5)
    again, _ = ops.descend(ops.log_softmax(logits))
    assert torch.equal(again, paths)  # conditional log-probabilities are as good as logits


@settings(max_examples=25, deadline=None)
@given(seeds, rows_of)
def test_path_loss_is_the_negative_log_probability(seed: int, rows: int) -> None:
    tree = random_tree(seed, 60)
    ops, logits = TreeOps(tree), random_logits(tree, rows, seed)
    nodes = torch.from_numpy(np.random.default_rng(seed).integers(0, len(tree), rows))
    absolute = slow_absolute(tree, slow_log_softmax(tree, logits))
    expected = -absolute.gather(1, nodes[:, None]).squeeze(1)
    torch.testing.assert_close(ops.path_nll(logits, nodes).double(), expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_path_loss_gradient_is_darknets_class_delta(seed: int) -> None:
    tree = random_tree(seed, 60)
    ops, logits = TreeOps(tree), random_logits(tree, 5, seed).requires_grad_()
    nodes = torch.from_numpy(np.random.default_rng(seed).integers(0, len(tree), 5))
    ops.path_nll(logits, nodes).sum().backward()
    expected = torch.zeros_like(logits, dtype=torch.float64)
    for row, node in enumerate(nodes.tolist()):
        for step in tree.path(node):
            start = tree.group_start[tree.group[step]]
            group = slice(start, start + tree.group_size[tree.group[step]])
            expected[row, group] = logits[row, group].detach().double().softmax(0)
            expected[row, step] -= 1
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad.double(), expected, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_finite_differences() -> None:
    ops = TreeOps(TOY)
    logits = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    nodes = torch.tensor([6, 1, 2])
    assert torch.autograd.gradcheck(ops.log_softmax, (logits,))
    assert torch.autograd.gradcheck(lambda x: ops.path_log_probs(ops.log_softmax(x)), (logits,))
    assert torch.autograd.gradcheck(lambda x: ops.path_nll(x, nodes), (logits,))


def test_far_apart_and_huge_logits_stay_finite() -> None:
    logits = torch.tensor([[5e4, -5e4, -1e30, -1e30, 1e30, 1e30, 1e30]], requires_grad=True)
    conditional = TreeOps(TOY).log_softmax(logits)
    third = -math.log(3)
    expected = torch.tensor([[0.0, -1e5, -math.log(2), -math.log(2), third, third, third]])
    torch.testing.assert_close(conditional, expected)
    nll = TreeOps(TOY).path_nll(logits, torch.tensor([5]))
    torch.testing.assert_close(nll, torch.tensor([math.log(2) + math.log(3)]))
    (conditional.sum() + nll.sum()).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_a_shift_of_a_whole_group_changes_nothing(seed: int) -> None:
    tree = random_tree(seed, 60)
    ops, logits = TreeOps(tree), random_logits(tree, 4, seed)
    shift = torch.randn(len(tree.group_start), generator=torch.Generator().manual_seed(seed))
    shift = shift[torch.from_numpy(tree.group.astype(np.int64))]
    torch.testing.assert_close(ops.log_softmax(logits + shift), ops.log_softmax(logits), rtol=0, atol=2e-5)


def test_flat_tree_is_an_ordinary_softmax() -> None:
    ops = TreeOps(WordTree.flat([f"class {i}" for i in range(80)]))
    logits = torch.randn(6, 80)
    assert torch.equal(ops.log_softmax(logits), logits.log_softmax(1))
    assert torch.equal(ops.path_log_probs(logits), logits)
    paths, steps = ops.descend(logits)
    assert paths.squeeze(1).tolist() == logits.argmax(1).tolist()
    torch.testing.assert_close(steps.squeeze(1), logits.log_softmax(1).max(1).values)
    nodes = torch.randint(80, (6,))
    torch.testing.assert_close(
        ops.path_nll(logits, nodes), torch.nn.functional.cross_entropy(logits, nodes, reduction="none")
    )


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(0, 40))
def test_walk_over_rows_is_the_walk_over_logits(seed: int, count: int) -> None:
    tree = random_tree(seed, 60)
    ops, generator = TreeOps(tree), torch.Generator().manual_seed(seed)
    vectors, weight, bias = (
        torch.randn(shape, dtype=torch.float64, generator=generator)
        for shape in ((count, 5), (len(tree), 5), (len(tree),))
    )
    paths, steps = ops.descend_rows(vectors, weight, bias)
    expected_paths, expected_steps = ops.descend(vectors @ weight.t() + bias)
    assert torch.equal(paths, expected_paths)
    torch.testing.assert_close(steps, expected_steps)


@pytest.mark.parametrize("count", [1024, 1025, 2500])
def test_walk_over_rows_of_many_boxes_is_the_walk_over_logits(count: int) -> None:
    tree = random_tree(3, 60)
    ops = TreeOps(tree)
    vectors, weight = (torch.randn(rows, 5, dtype=torch.float64) for rows in (count, len(tree)))
    bias = torch.randn(len(tree), dtype=torch.float64)
    paths, steps = ops.descend_rows(vectors, weight, bias)
    expected_paths, expected_steps = ops.descend(vectors @ weight.t() + bias)
    assert torch.equal(paths, expected_paths)
    torch.testing.assert_close(steps, expected_steps)


def test_walk_over_rows_takes_the_first_of_equals() -> None:
    ops = TreeOps(TOY)
    walks = (
        ops.descend_rows(torch.ones(2, 3), torch.zeros(7, 3), torch.zeros(7)),
        ops.descend(torch.zeros(2, 7)),
    )
    assert torch.equal(walks[0][0], walks[1][0])
    torch.testing.assert_close(walks[0][1], walks[1][1])


def test_one_class_has_probability_one() -> None:
    ops = TreeOps(WordTree([-1], ["n0"]))
    assert ops.log_softmax(torch.tensor([[3.0]])).item() == 0
    assert ops.path_nll(torch.tensor([[3.0]]), torch.tensor([0])).item() == 0


@pytest.mark.parametrize("rows", [1, 2, 40])
def test_input_and_incoming_gradient_are_left_alone(rows: int) -> None:
    ops, logits, weight = TreeOps(TOY), random_logits(TOY, rows, 0), random_logits(TOY, rows, 1)
    before, weight_before = logits.clone(), weight.clone()
    ops.log_softmax(logits.requires_grad_()).backward(weight)
    assert torch.equal(logits, before)
    assert torch.equal(weight, weight_before)


def test_leading_axes_and_slices_do_not_matter() -> None:
    tree = random_tree(3, 60)
    ops, logits = TreeOps(tree), random_logits(tree, 90, 3)
    whole = ops.log_softmax(logits)
    assert torch.equal(ops.log_softmax(logits.view(2, 5, 9, -1)).view(90, -1), whole)
    by_row = torch.cat([ops.log_softmax(row[None]) for row in logits])
    torch.testing.assert_close(by_row, whole)
    shifted = ops.log_softmax(logits.t().contiguous().t())  # another memory layout
    assert torch.equal(shifted, whole)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    tree = random_tree(4, 60)
    ops, logits = TreeOps(tree), random_logits(tree, 3, 4).to(dtype)
    nodes = torch.tensor([0, 1, len(tree) - 1])
    with torch.autocast("cpu", torch.bfloat16):
        results = [ops.log_softmax(logits), ops.path_nll(logits, nodes), ops.descend(logits)[1]]
    expected = [ops.log_softmax(logits.float()), ops.path_nll(logits.float(), nodes)]
    assert all(result.dtype == torch.float32 for result in results)
    assert torch.equal(results[0], expected[0])
    assert torch.equal(results[1], expected[1])


def test_results_and_gradients_repeat_bit_by_bit() -> None:
    tree = random_tree(5, nodes=300)
    ops, nodes = TreeOps(tree), torch.arange(100) % len(tree)
    gradients = []
    for _ in range(2):
        logits = random_logits(tree, 100, 5).requires_grad_()
        (ops.log_softmax(logits).square().sum() + ops.path_nll(logits, nodes).sum()).backward()
        gradients.append(logits.grad)
    assert torch.equal(*gradients)  # type: ignore[arg-type]


def test_tables_are_not_saved_and_follow_the_device() -> None:
    ops = TreeOps(TOY)
    assert not ops.state_dict()
    assert {buffer.device.type for buffer in ops.to("meta").buffers()} == {"meta"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_agrees_with_cpu() -> None:
    tree = random_tree(6, nodes=300)
    ops, logits = TreeOps(tree), random_logits(tree, 50, 6)
    nodes = torch.arange(50) % len(tree)
    expected = ops.log_softmax(logits), ops.path_nll(logits, nodes), *ops.descend(logits)
    ops, logits, nodes = ops.cuda(), logits.cuda(), nodes.cuda()
    found = ops.log_softmax(logits), ops.path_nll(logits, nodes), *ops.descend(logits)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-5, atol=1e-5)
