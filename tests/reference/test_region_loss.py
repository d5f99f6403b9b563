"""The criterion's gradients in darknet mode against the deltas of `forward_region_layer` in training.

Letters: B images, A anchors per cell, N classes or tree nodes, S side of the grid.

Nothing but the region layer is needed: a network of one 1 x 1 convolution whose input has the size of the
grid, and the layer is fed directly. Trees are compared at one anchor on a 1 x 1 grid, where the C code is
right on CPU once its temperature is set; and on larger grids with several anchors with the tree softmax, the
part that is wrong there, taken out: the layer is given probabilities instead of logits, and all that follows
is its own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from toys import Truths, input_size, labels_only, linear, random_tree, region
from wordtree.tree import WordTree
from yolo9000.config import LossConfig
from yolo9000.darknet.cfg import Cfg, RegionConfig
from yolo9000.head import RegionHead
from yolo9000.loss import JointLoss
from yolo9000.tree_ops import TreeOps

pytestmark = pytest.mark.reference

CLASSIFICATION = 999_999.0  # x and y of a truth that says what the whole image shows (data.c)
# Of deltas up to about 20. Ours are float64; float32 in C loses a few 1e-5 in the overlap of small boxes.
TOLERANCE = 5e-5


def fed_directly(section: str, filters: int, batch: int = 1, side: int = 32) -> str:
    """A cfg whose one convolution only gives the region layer its shape."""
    return input_size(side, channels=1, batch=batch, subdivisions=1) + linear(filters) + section


class CTree(ctypes.Structure):
    """darknet.h, `tree`."""

    _fields_ = (
        ("leaf", ctypes.c_void_p),
        ("n", ctypes.c_int),
        ("parent", ctypes.c_void_p),
        ("child", ctypes.c_void_p),
        ("group", ctypes.c_void_p),
        ("name", ctypes.c_void_p),
        ("groups", ctypes.c_int),
        ("group_size", ctypes.c_void_p),
        ("group_offset", ctypes.c_void_p),
    )


class Pair:
    """The library's region layer and our criterion with the same cfg."""

    def __init__(self, net: Any, region: RegionConfig, tree: WordTree, batch: int, side: int) -> None:
        self.net, self.region, self.tree = net, region, tree
        self.shape = (batch, len(region.anchors), 5 + len(tree), side, side)
        self.gives_probabilities = False

    def take_out_softmax(self) -> None:
        """Let the layer find no group to normalise; the losses look groups up by node."""
        tree = ctypes.cast(self.net.layer(-1).softmax_tree, ctypes.POINTER(CTree)).contents
        assert (tree.n, tree.groups) == (len(self.tree), len(self.tree.group_start))
        tree.groups = 0
        self.gives_probabilities = True

    def raw(self, seed: int) -> NDArray[np.float32]:
        """Raw output of the last convolution, [B, A, 5 + N, S, S]; boxes vary by a factor of a few."""
        raw = np.random.default_rng(seed).normal(0, 1, self.shape).astype(np.float32)
        raw[:, :, 2:4] *= 0.5
        raw[:, :, 5:] *= 2
        return raw

    def theirs(self, raw: NDArray[np.float32], batch: Truths, seen: int) -> NDArray[np.float32]:
        """Deltas [B, A, 5 + N, S, S]; `seen` counts this batch, as `train_network_datum` does."""
        truths = np.zeros((self.shape[0], 30, 5), dtype=np.float32)
        for image in range(self.shape[0]):
            own = (batch.image_index == image).nonzero()[:30, 0]
            truths[image, : len(own), :4] = batch.boxes[own]
            truths[image, : len(own), 4] = batch.nodes[own]
            if batch.labels[image] >= 0:
                truths[image, 0] = [CLASSIFICATION, CLASSIFICATION, 0, 0, batch.labels[image]]
        if self.gives_probabilities:
            logits = torch.from_numpy(raw[:, :, 5:]).double().movedim(2, -1)
            raw = raw.copy()
            raw[:, :, 5:] = TreeOps(self.tree).log_softmax(logits).exp().movedim(-1, 2).numpy()
        flat = raw.reshape(self.shape[0], -1, *self.shape[3:])
        delta: NDArray[np.float32] = self.net.forward_region(flat, truths, seen=seen).delta
        return delta.reshape(self.shape)

    def ours(self, raw: NDArray[np.float32], batch: Truths, seen: int, mode: str) -> NDArray[np.float64]:
        """Negative gradients of the criterion in the same form."""
        loss = JointLoss(self._head(raw), self.region, LossConfig(mode=mode))  # type: ignore[arg-type]
        images = self.shape[0]
        if self.shape[3] == 1:  # all of the output is bias, and its gradient the deltas
            features = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
            loss.total(loss(features, batch, seen - images)).backward()
            assert loss.head.box_bias.grad is not None
            assert loss.head.class_bias.grad is not None
            found = torch.cat((loss.head.box_bias.grad, loss.head.class_bias.grad), 1)
        else:
            features = torch.from_numpy(raw).double().flatten(1, 2).requires_grad_(True)
            loss.total(loss(features, batch, seen - images)).backward()
            assert features.grad is not None
            found = features.grad
        return -images * found.reshape(self.shape).numpy()

    def _head(self, raw: NDArray[np.float32]) -> RegionHead:
        """A head that gives `raw`: from its bias on a 1 x 1 grid, else by repeating its input."""
        if self.shape[3] == 1:
            head = RegionHead(1, self.region, self.tree).double()
            values = torch.from_numpy(raw[0, :, :, 0, 0]).double()
            head.load_darknet_conv(torch.zeros(values.numel(), 1, 1, 1), values.flatten())
        else:
            filters = self.shape[1] * self.shape[2]
            head = RegionHead(filters, self.region, self.tree).double()
            head.load_darknet_conv(torch.eye(filters)[:, :, None, None], torch.zeros(filters))
        return head

    def check(self, raw: NDArray[np.float32], batch: Truths, seen: int) -> NDArray[np.float32]:
        """Compare; returns the deltas."""
        theirs = self.theirs(raw, batch, seen)
        np.testing.assert_allclose(self.ours(raw, batch, seen, "darknet"), theirs, rtol=0, atol=TOLERANCE)
        return theirs


@contextmanager
def pair(libdarknet: Any, path: Path, section: str, tree: WordTree, batch: int, side: int) -> Iterator[Pair]:
    """Both from a [region] section."""
    region = Cfg.parse(fed_directly(section, 1)).region
    assert region is not None
    filters = len(region.anchors) * (5 + len(tree))
    path.write_text(fed_directly(section, filters, batch, side))
    with libdarknet.load(path) as net:
        net.set_temperature(1)
        yield Pair(net, region, tree, batch, side)


def published(darknet_dir: Path, name: str, **changes: float) -> str:
    """The [region] section of a published cfg, values changed."""
    text = (darknet_dir / "cfg" / f"{name}.cfg").read_text()
    lines = text[text.index("[region]") :].splitlines()
    kept = [line for line in lines if line.partition("=")[0].strip() not in changes]
    return "\n".join(kept + [f"{key}={value}" for key, value in changes.items()]) + "\n"


def truths_of(seed: int, counts: list[int], classes: int, cells: int = 13) -> Truths:
    """Random truths whose centres lie in the first `cells` x `cells` cells of 13 x 13."""
    rng = np.random.default_rng(seed)
    total = sum(counts)
    centres = rng.uniform(0.01, cells / 13 - 0.001, (total, 2))
    boxes = np.column_stack([centres, np.exp(rng.uniform(-4, -0.1, (total, 2)))]).astype(np.float32)
    image = np.repeat(np.arange(len(counts)), counts)
    nodes = torch.from_numpy(rng.integers(0, classes, total))
    return Truths(torch.from_numpy(boxes), nodes, torch.from_numpy(image), torch.full((len(counts),), -1))


def near(raw: NDArray[np.float32], batch: Truths, region: RegionConfig) -> NDArray[np.float32]:
    """The same output, but two anchors of each truth's cell predict about its box: IoU above `thresh`."""
    raw = raw.copy()
    side = raw.shape[-1]
    for (x, y, w, h), image in zip(batch.boxes.tolist(), batch.image_index.tolist(), strict=True):
        column, row, first = int(x * side), int(y * side), int(1e4 * w)
        inside = np.clip([x * side - column, y * side - row], 0.02, 0.98)
        for a in (first % len(region.anchors), (first + 1) % len(region.anchors)):
            shape = np.log([w * side / region.anchors[a][0], h * side / region.anchors[a][1]])
            raw[image, a, :4, row, column] = [*np.log(inside / (1 - inside)), *(shape + 0.02 * (a + 1))]
    return raw


@pytest.mark.parametrize("name", ["yolov2", "yolov2-voc"])
@pytest.mark.parametrize("rescore", [0, 1])
@pytest.mark.parametrize("bias_match", [0, 1])
@pytest.mark.parametrize("seen", [2, 12_799, 12_800])
def test_plain_classes(
    libdarknet: Any, darknet_dir: Path, tmp_path: Path, name: str, rescore: int, bias_match: int, seen: int
) -> None:
    section = published(darknet_dir, name, rescore=rescore, bias_match=bias_match)
    tree = WordTree.flat([f"class {i}" for i in range(80 if name == "yolov2" else 20)])
    with pair(libdarknet, tmp_path / "some.cfg", section, tree, batch=2, side=13) as both:
        for seed, counts in enumerate([[1, 2], [5, 13], [30, 0]]):
            batch = truths_of(seed, counts, len(tree))
            raw = near(both.raw(seed), batch, both.region)
            delta = both.check(raw, batch, seen)
            assert (delta[:, :, 5:] != 0).any(2).sum() > sum(counts) / 2  # anchors with a class
            # Every anchor but the matched ones: in the background or, above `thresh`, left alone.
            alone = int((delta[:, :, 4] == 0).sum())
            assert 0 < alone < 60
            pulled = (delta[:, :, :2] != 0).mean()
            assert pulled > 0.95 if seen < 12_800 else pulled < 0.05


@pytest.mark.parametrize("count", range(1, 31))
def test_one_to_thirty_truths(libdarknet: Any, darknet_dir: Path, tmp_path: Path, count: int) -> None:
    """In 3 x 3 of the 13 x 13 cells, so that many share an anchor: the last one stays."""
    tree = WordTree.flat([f"class {i}" for i in range(20)])
    section = published(darknet_dir, "yolov2-voc", coord_scale=2, class_scale=3, noobject_scale=0.5)
    with pair(libdarknet, tmp_path / "some.cfg", section, tree, batch=1, side=13) as both:
        batch = truths_of(count, [count], len(tree), cells=3)
        delta = both.check(both.raw(count), batch, 20_000)
        taught = int((delta[:, :, 5:] != 0).any(2).sum())
        assert taught <= count
        assert count < 25 or taught < count


def test_more_than_thirty_truths(libdarknet: Any, darknet_dir: Path, tmp_path: Path) -> None:
    """The library reads 30 of an image, and so does darknet mode; our own mode reads all."""
    tree = WordTree.flat([f"class {i}" for i in range(20)])
    section = published(darknet_dir, "yolov2-voc")
    with pair(libdarknet, tmp_path / "some.cfg", section, tree, batch=2, side=13) as both:
        batch = truths_of(0, [45, 31], len(tree))
        raw = both.raw(0)
        delta = both.check(raw, batch, 0)
        paper = both.ours(raw, batch, 0, "paper")
        assert (paper[:, :, 5:] != 0).any(2).sum() > (delta[:, :, 5:] != 0).any(2).sum()


def test_a_truth_at_x_0_ends_the_list(libdarknet: Any, darknet_dir: Path, tmp_path: Path) -> None:
    tree = WordTree.flat([f"class {i}" for i in range(20)])
    section = published(darknet_dir, "yolov2-voc")
    with pair(libdarknet, tmp_path / "some.cfg", section, tree, batch=1, side=13) as both:
        batch = truths_of(0, [12], len(tree))
        batch.boxes[7, 0] = 0
        delta = both.check(both.raw(0), batch, 0)
        assert (delta[:, :, 5:] != 0).any(2).sum() <= 7


def test_plain_classes_without_softmax(libdarknet: Any, darknet_dir: Path, tmp_path: Path) -> None:
    """Sigmoids; here several truths on one anchor are all its classes."""
    tree = WordTree.flat([f"class {i}" for i in range(20)])
    section = published(darknet_dir, "yolov2-voc", softmax=0)
    with pair(libdarknet, tmp_path / "some.cfg", section, tree, batch=2, side=13) as both:
        batch = truths_of(0, [30, 12], len(tree), cells=2)
        delta = both.check(both.raw(0), batch, 0)
        assert ((delta[:, :, 5:] > 0).sum(2) > 1).any()


ONE, THREE = ((0.8, 0.6),), ((0.8, 0.6), (1.5, 2.5), (3.0, 1.0))


@contextmanager
def tree_pair(
    libdarknet: Any,
    folder: Path,
    tree: WordTree,
    rescore: int = 1,
    thresh: float = 0.6,
    batch: int = 1,
    side: int = 1,
    anchors: Sequence[tuple[float, float]] = ONE,
) -> Iterator[Pair]:
    """A region layer over a tree; by default one anchor on a 1 x 1 grid."""
    tree.save(folder / "some.tree")
    section = region(
        len(tree),
        ", ".join(f"{w},{h}" for w, h in anchors),
        coords=4,
        softmax=1,
        tree=folder / "some.tree",
        thresh=thresh,
        rescore=rescore,
        bias_match=1,
        object_scale=5,
        noobject_scale=1.5,
        class_scale=2,
        coord_scale=1,
    )
    with pair(libdarknet, folder / "some.cfg", section, tree, batch, side) as both:
        yield both


def check_tree(libdarknet: Any, folder: Path, tree: WordTree, seed: int, counts: list[int]) -> None:
    """Detection truths, whose number is given, and a classification truth."""
    rng = np.random.default_rng(seed)
    with tree_pair(libdarknet, folder, tree, rescore=seed % 2, thresh=0.6 if seed % 3 else 0.1) as both:
        for count in counts:
            batch = truths_of(seed + count, [count], len(tree))
            both.check(both.raw(seed + count), batch, seen=int(rng.choice([1, 12_799, 12_800])))
        for objectness in (-2.0, 2.0):  # below and above the paper's 0.3
            label = int(rng.integers(len(tree)))
            raw = both.raw(seed)
            raw[:, :, 4] = objectness
            delta = both.check(raw, labels_only(label), seen=1)[0, 0, :, 0, 0]
            assert (delta[:5] == 0).all()  # the one anchor is the best one: not taught to be empty
            path = set(tree.path(label))
            groups = {int(tree.group[node]) for node in path}
            single = {int(node) for node in path if tree.group_size[tree.group[node]] == 1}
            wanted = {n for n in range(len(tree)) if int(tree.group[n]) in groups}
            assert {int(n) for n in np.flatnonzero(delta[5:])} >= wanted - single
            assert set(np.flatnonzero(delta[5:]).tolist()) <= wanted


@pytest.mark.parametrize("seed", [0, 1])
def test_the_whole_tree(libdarknet: Any, tree9k: WordTree, tmp_path: Path, seed: int) -> None:
    check_tree(libdarknet, tmp_path, tree9k, seed, [1, 30])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 100_000), nodes=st.integers(1, 80), count=st.integers(1, 30))
def test_random_trees(libdarknet: Any, tmp_path: Path, seed: int, nodes: int, count: int) -> None:
    check_tree(libdarknet, tmp_path, random_tree(seed, nodes), seed, [count])


#   0 animal          1 vehicle
#   2 dog  3 cat      4 car  5 bus
TOY = WordTree([-1, -1, 0, 0, 1, 1], ["animal", "vehicle", "dog", "cat", "car", "bus"])


def test_groups_off_the_last_truths_path_keep_their_deltas(libdarknet: Any, tmp_path: Path) -> None:
    """A car, then a dog on one anchor: the vehicles below the top group still learn the car."""
    with tree_pair(libdarknet, tmp_path, TOY) as both:
        batch = truths_of(0, [2], len(TOY))
        batch.nodes[:] = torch.tensor([4, 2])
        raw = both.raw(0)
        delta = both.check(raw, batch, 0)[0, 0, 5:, 0, 0]
        assert np.sign(delta).tolist() == [1, -1, 1, -1, 1, -1]
        paper = both.ours(raw, batch, 0, "paper")[0, 0, 5:, 0, 0]
        np.testing.assert_allclose(paper, [*delta[:4], 0, 0], atol=TOLERANCE)


@pytest.mark.parametrize(("objectness", "lifted"), [(-2.0, True), (2.0, False)])
def test_the_reference_never_lifts_objectness_to_0_3(
    libdarknet: Any, tmp_path: Path, objectness: float, lifted: bool
) -> None:
    """The paper's rule for classification images is in the C code, but overwritten with 0."""
    with tree_pair(libdarknet, tmp_path, TOY) as both:
        raw = both.raw(1)
        raw[:, :, 4] = objectness
        assert both.check(raw, labels_only(5), 0)[0, 0, 4, 0, 0] == 0
        paper = both.ours(raw, labels_only(5), 0, "paper")[0, 0, 4, 0, 0]
        assert (paper > 0) == lifted
        assert (paper != 0) == lifted


def mixed(seed: int, count: int, tree: WordTree) -> Truths:
    """Three images: `count` boxes in a few cells, a label, and no boxes."""
    batch = truths_of(seed, [count, 0, 0], len(tree), cells=7)
    batch.labels[1] = int(np.random.default_rng(seed).integers(len(tree)))
    return batch


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 100_000), nodes=st.integers(1, 60), count=st.integers(0, 30))
def test_trees_on_a_larger_grid(libdarknet: Any, tmp_path: Path, seed: int, nodes: int, count: int) -> None:
    """Three anchors, 4 x 4 cells, boxes and image labels in one batch; which anchor learns a label."""
    tree = random_tree(seed, nodes)
    with tree_pair(libdarknet, tmp_path, tree, batch=3, side=4, anchors=THREE) as both:
        both.take_out_softmax()
        batch = mixed(seed, count, tree)
        seen = [3, 12_799, 12_800][seed % 3]
        delta = both.check(near(both.raw(seed), batch, both.region), batch, seen)
        assert (delta[1, :, :4] == 0).all()
        assert (delta[1, :, 4] < 0).sum() == 3 * 4 * 4 - 1


def test_the_reference_weighs_image_labels_by_objectness(libdarknet: Any, tmp_path: Path) -> None:
    """It teaches the anchor of the highest objectness x P(label); our own mode that of most objectness.

    And it pushes all other anchors to be empty, which our own mode does not.
    """
    with tree_pair(libdarknet, tmp_path, TOY, side=1, anchors=THREE) as both:
        both.take_out_softmax()
        raw = both.raw(0)
        raw[:] = 0
        raw[0, :, 4, 0, 0] = [-0.5, -3, 0]
        raw[0, :, 5 + 2, 0, 0] = [3, 4, -4]  # dog
        delta = both.check(raw, labels_only(2), 0)[0, :, :, 0, 0]
        paper = both.ours(raw, labels_only(2), 0, "paper")[0, :, :, 0, 0]
    assert (delta[:, 5:] != 0).any(1).tolist() == [True, False, False]
    assert np.sign(delta[:, 4]).tolist() == [0, -1, -1]
    assert (paper[:, 5:] != 0).any(1).tolist() == [False, False, True]
    assert not paper[:, 4].any(), "its objectness is above 0.3"
