"""Tree probabilities and labels against libdarknet.

Its CPU code is right at one anchor on a 1 x 1 grid with the temperature set (`set_temp_network`), so that is
where it is asked; the walk down the tree (`hierarchy_top_prediction`) is also asked on its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from toys import input_size, linear, random_tree, region
from wordtree.tree import WordTree
from yolo9000.darknet.cfg import RegionConfig
from yolo9000.decode import Decoder
from yolo9000.head import RegionHead
from yolo9000.tree_ops import TreeOps

pytestmark = pytest.mark.reference

ANCHOR = (2.0, 3.0)
THRESHOLDS = [n / 10 for n in range(1, 10)]


@contextmanager
def region_net(libdarknet: Any, folder: Path, tree: WordTree) -> Iterator[Any]:
    """A network whose region layer has one anchor on a 1 x 1 grid over `tree`."""
    tree.save(folder / "some.tree")
    # The convolution only gives the region layer its shape; that is fed directly.
    cfg = input_size(1, channels=1, batch=1, subdivisions=1) + linear(5 + len(tree))
    options = {"coords": 4, "softmax": 1, "tree": folder / "some.tree", "thresh": 0.6}
    cfg += region(len(tree), f"{ANCHOR[0]},{ANCHOR[1]}", **options)
    (folder / "some.cfg").write_text(cfg)
    with libdarknet.load(folder / "some.cfg") as net:
        net.set_temperature(1)
        yield net


def random_output(tree: WordTree, seed: int, scale: float) -> NDArray[np.float32]:
    """Raw output of the last convolution, [1, 5 + N, 1, 1], that is fairly sure of one deep path."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(0, 0.5, (1, 5 + len(tree), 1, 1)).astype(np.float32)
    raw[:, 4] = 2  # objectness 0.88
    raw[:, 5:] *= 2 * scale
    node = rng.choice(np.flatnonzero(tree.depth >= tree.max_depth / 2))
    raw[:, 5 + np.array(tree.path(int(node)))] += 5 + scale
    return raw


def check_tree(libdarknet: Any, folder: Path, tree: WordTree, seed: int, scale: float) -> set[int]:
    """Compare probabilities, boxes and labels at all thresholds; returns the depths of the labels."""
    raw = random_output(tree, seed, scale)
    ops = TreeOps(tree)
    conditional = ops.log_softmax(torch.from_numpy(raw[:, 5:, 0, 0]))
    region = RegionConfig(anchors=(ANCHOR,), classes=len(tree), num=1, softmax=True, tree="9k.tree")
    decoder = Decoder(RegionHead(1, region, tree), "darknet")
    depths = set()
    with region_net(libdarknet, folder, tree) as net:
        theirs = net.forward_region(raw).output[0, 5:, 0, 0]
        np.testing.assert_allclose(conditional[0].exp().numpy(), theirs, rtol=1e-4, atol=1e-7)
        absolute = libdarknet.hierarchy_predictions(theirs, folder / "some.tree")
        ours = ops.path_log_probs(conditional)[0].exp().numpy()
        np.testing.assert_allclose(ours, absolute, rtol=1e-4, atol=1e-7)
        for threshold in THRESHOLDS:
            net.forward_region(raw)  # `boxes` turns the output into absolute probabilities in place
            (expected,) = net.boxes(threshold=0.24, hier_threshold=threshold)
            (found,) = decoder.decode_dense(torch.from_numpy(raw), 0.24, threshold)
            assert found.nodes.tolist() == np.flatnonzero(expected.probabilities).tolist()
            node = int(found.nodes[0])
            assert libdarknet.hierarchy_top_prediction(absolute, folder / "some.tree", threshold) == node
            assert found.scores[0].item() == pytest.approx(expected.probabilities[node], rel=1e-5)
            assert found.objectness[0].item() == pytest.approx(expected.objectness, rel=1e-5)
            assert found.boxes[0].tolist() == pytest.approx(expected.box, rel=1e-5)
            depths.add(int(tree.depth[node]))
    return depths


@pytest.mark.parametrize(("seed", "scale"), [(0, 0.3), (1, 1.0), (2, 2.0), (3, 2.0), (4, 4.0)])
def test_the_whole_tree(libdarknet: Any, tree9k: WordTree, tmp_path: Path, seed: int, scale: float) -> None:
    depths = check_tree(libdarknet, tmp_path, tree9k, seed, scale)
    assert len(depths) > 1  # the thresholds do make a difference


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 100_000), nodes=st.integers(1, 80), scale=st.sampled_from([0.5, 3.0, 10.0]))
def test_random_trees(libdarknet: Any, tmp_path: Path, seed: int, nodes: int, scale: float) -> None:
    check_tree(libdarknet, tmp_path, random_tree(seed, nodes), seed, scale)


def test_chosen_classes_are_scored_as_with_a_map(libdarknet: Any, tree9k: WordTree, tmp_path: Path) -> None:
    raw = random_output(tree9k, 5, 1.0)
    class_map = sorted({*range(0, 9418, 50), *np.argsort(-raw[0, 5:, 0, 0])[:11].tolist()})
    class_map = [*class_map, *range(1, 12)][:200]  # get_region_detections reads exactly 200 entries
    region = RegionConfig(anchors=(ANCHOR,), classes=len(tree9k), num=1, softmax=True, tree="9k.tree")
    decoder = Decoder(RegionHead(1, region, tree9k), "darknet")
    with region_net(libdarknet, tmp_path, tree9k) as net:
        net.forward_region(raw)
        (expected,) = net.boxes(threshold=0.01, class_map=class_map)
    (found,) = decoder.decode_dense(torch.from_numpy(raw), 0.01, classes=class_map)
    above = np.flatnonzero(expected.probabilities)
    ours = {int(node): float(score) for node, score in zip(found.nodes, found.scores, strict=True)}
    assert len(above) > 3
    assert ours == {class_map[i]: pytest.approx(expected.probabilities[i], rel=1e-4) for i in above}


def test_the_reference_needs_its_temperature(libdarknet: Any, tmp_path: Path) -> None:
    """The first fault of its CPU code: as loading leaves it, without `set_temp_network`, all is NaN."""
    tree = random_tree(1, 20)
    with region_net(libdarknet, tmp_path, tree) as net:
        net.set_temperature(0)
        output = net.forward_region(random_output(tree, 0, 1.0)).output
    assert np.isnan(output[0, 5:]).any()
