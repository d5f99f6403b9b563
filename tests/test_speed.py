"""What detection must not load, hold or compute: counts and bytes, never seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from toys import POOL, conv, input_size, linear, region
from wordtree.tree import WordTree
from yolo9000.checkpoint import load_model, save_model
from yolo9000.darknet.cfg import Cfg, RegionConfig
from yolo9000.decode import Decoder
from yolo9000.head import RegionHead
from yolo9000.model import YOLO9000
from yolo9000.network import Network
from yolo9000.sources import demo_photos

# Packages that other commands need: training, evaluation, data sets, WordNet, charts, compilation.
UNUSED = (
    "torchvision lightning h5py pycocotools nltk networkx matplotlib sympy torch._dynamo torch._inductor "
    "torch.distributed.tensor yolo9000.train yolo9000.loss yolo9000.datasets yolo9000.evaluation"
)
PHOTO = demo_photos()[0]


def wide_tree(nodes: int, branches: int = 10) -> WordTree:
    """Ten top nodes, ten children each, and so on: its paths pass few of its groups."""
    parent = [node // branches - 1 for node in range(nodes)]
    return WordTree(parent, [f"n{node}" for node in range(nodes)])


def detector(nodes: int) -> Network:
    last = linear(3 * (5 + nodes)) + region(nodes, "1,1, 2,2, 4,4")
    return Network(Cfg.parse(input_size(64) + conv(16) + POOL + last), wide_tree(nodes))


def test_detection_loads_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    save_model(detector(30), tmp_path / "model.safetensors")
    code = f"""
import sys
from yolo9000.cli import app
app(["detect", {PHOTO!r}, "--model", {str(tmp_path / "model.safetensors")!r}, "-o", {str(tmp_path)!r}],
    standalone_mode=False)
print([name for name in {UNUSED.split()!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert list(tmp_path.glob("*.jpg"))


def test_loading_draws_no_numbers_and_leaves_the_file_alone(tmp_path: Path) -> None:
    network = detector(30)
    save_model(network, tmp_path / "model.safetensors")
    state = torch.get_rng_state()
    loaded, _ = load_model(tmp_path / "model.safetensors")
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in loaded.state_dict().items():
        torch.testing.assert_close(tensor, network.state_dict()[name], rtol=0, atol=0)
    with torch.no_grad():
        loaded.layers[0].conv.weight.zero_()
    again, _ = load_model(tmp_path / "model.safetensors")
    assert again.layers[0].conv.weight.abs().sum() > 0  # a change stays in memory


def test_a_half_model_becomes_float32(tmp_path: Path) -> None:
    save_model(detector(30), tmp_path / "model.safetensors", half=True)
    loaded, _ = load_model(tmp_path / "model.safetensors")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in loaded.parameters())


def held_bytes(*modules: nn.Module) -> int:
    storages = {}
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(storages.values())


def test_a_detector_holds_its_head_once() -> None:
    network = detector(5000)
    weights = held_bytes(network)
    model = YOLO9000(network, device="cpu")
    assert held_bytes(model.network, model.engine.network) < 1.05 * weights


def head_of(nodes: int, tied: bool = False) -> RegionHead:
    torch.manual_seed(0)
    anchors = ((1.0, 1.0), (2.0, 2.0), (4.0, 4.0))
    region = RegionConfig(anchors=anchors, classes=nodes, num=3, softmax=True, tree="some.tree", tied=tied)
    head = RegionHead(32, region, wide_tree(nodes))
    nn.init.normal_(head.class_weight)
    nn.init.normal_(head.box_weight)
    nn.init.constant_(head.box_bias[:, 4], -3.0)
    return head


def flops(head: RegionHead, features: Tensor, *, dense: bool) -> int:
    decoder = Decoder(head)
    with FlopCounterMode(display=False) as counter:
        if dense:
            decoder.decode_dense(head.dense(features))
        else:
            decoder.decode(features)
    return counter.get_total_flops()


def test_arithmetic_hardly_grows_with_the_classes() -> None:
    features = torch.randn(1, 32, 13, 13)
    few, many = (flops(head_of(nodes), features, dense=False) for nodes in (110, 11_110))
    dense = flops(head_of(11_110), features, dense=True)
    assert few > 0
    assert many < 20 * few  # for a hundred times as many classes, and every walk elsewhere
    assert many < dense / 10


@pytest.mark.parametrize("tied", [False, True])
def test_gated_walk_finds_what_the_dense_reference_finds(tied: bool) -> None:
    head = head_of(11_110, tied)
    features = torch.randn(2, 32, 13, 13)
    for ours, reference in zip(
        Decoder(head).decode(features, 0.05),
        Decoder(head).decode_dense(head.dense(features), 0.05),
        strict=True,
    ):
        assert len(ours) > 3
        torch.testing.assert_close(ours.paths, reference.paths)
        torch.testing.assert_close(ours.nodes, reference.nodes)
        torch.testing.assert_close(ours.path_probs, reference.path_probs, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(ours.scores, reference.scores, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(ours.boxes, reference.boxes)


def test_feature_maps_in_channels_last_order_are_not_copied() -> None:
    features = torch.randn(1, 32, 13, 13).contiguous(memory_format=torch.channels_last)
    cells = features.permute(0, 2, 3, 1).flatten(0, 2)
    assert cells.data_ptr() == features.data_ptr()
    model = YOLO9000(detector(30), device="cpu")
    assert model.engine.network.features(torch.zeros(1, 3, 64, 64)).is_contiguous(
        memory_format=torch.channels_last
    )
    assert len(model.detect(np.zeros((64, 64, 3), np.uint8), threshold=1.0)) == 0
