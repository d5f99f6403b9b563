"""Every network of the family computes what libdarknet computes; both write the same .weights files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from toys import POOL, conv, input_size
from yolo9000.darknet.cfg import Cfg
from yolo9000.darknet.weights import load_weights, save_weights
from yolo9000.matching import all_boxes
from yolo9000.network import Network

Floats = NDArray[np.float32]

pytestmark = pytest.mark.reference

LIGHT = ["yolov2-tiny", "tiny"]
HEAVY = ["yolov2-tiny-voc", "yolo9000", "yolov2", "yolov2-voc", "darknet19", "darknet19_448", "darknet9000"]
ALL = LIGHT + [pytest.param(name, marks=pytest.mark.slow) for name in HEAVY]
SIZES = [(64, 64), (96, 64), (64, 96)]  # width, height
Twins = Callable[..., AbstractContextManager[tuple[Network, Any]]]


@pytest.fixture
def twins(
    darknet_dir: Path,
    libdarknet: Any,
    randomise: Callable[[Network, int], Network],
    resized_cfg: Callable[..., Path],
    tmp_path: Path,
) -> Twins:
    """Opens a published network twice, ours and the library's, which reads `random.weights` that we wrote."""

    @contextmanager
    def load(
        name: str,
        seed: int,
        seen: int = 0,
        version: tuple[int, int, int] = (0, 2, 0),
        **changes: Any,
    ) -> Iterator[tuple[Network, Any]]:
        path = darknet_dir / "cfg" / f"{name}.cfg"
        network = randomise(Network(Cfg.load(path)), seed)
        network.seen, network.weights_version = seen, version
        save_weights(network, tmp_path / "random.weights")
        width, height = SIZES[0]
        cfg = resized_cfg(path, width=width, height=height, **changes)
        with libdarknet.load(cfg, tmp_path / "random.weights") as net:
            yield network, net

    return load


@pytest.mark.parametrize("name", ALL)
def test_network_equals_libdarknet(
    name: str, twins: Twins, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "random.weights"
    capfd.readouterr()
    with twins(name, 1, seen=12_345, batch=2) as (network, net):
        _compare_listing(network, capfd.readouterr().err)
        # We and the library write what was read, byte by byte.
        copy = Network(network.cfg, network.tree)
        load_weights(copy, written)
        save_weights(copy, tmp_path / "ours.weights")
        assert (tmp_path / "ours.weights").read_bytes() == written.read_bytes()
        net.save_weights(tmp_path / "theirs.weights")
        assert (tmp_path / "theirs.weights").read_bytes() == written.read_bytes()

        for width, height in SIZES:
            net.resize(width, height)
            images = np.random.default_rng(width).random((2, 3, height, width), dtype=np.float32)
            net.predict(images)
            _compare(network, net, torch.from_numpy(images))


@pytest.mark.parametrize(
    "name",
    [
        "yolov2-tiny",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("yolov2-tiny-voc", "yolov2", "yolov2-voc", "yolo9000")
        ),
    ],
)
def test_boxes_and_objectness_equal_the_librarys(name: str, twins: Twins) -> None:
    """Every anchor of every cell, as `get_network_boxes` lists them."""
    with twins(name, 8, flat=True) as (network, net):
        for width, height in SIZES:
            net.resize(width, height)
            images = np.random.default_rng(height).random((1, 3, height, width), dtype=np.float32)
            net.predict(images)
            found = net.boxes(width, height, threshold=0.0)
            boxes, objectness = _every_box(network, torch.from_numpy(images))
            np.testing.assert_allclose(boxes, [entry.box for entry in found], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(objectness, [entry.objectness for entry in found], rtol=1e-4)
            assert np.ptp(objectness) > 0.1
            assert np.ptp(boxes[:, 2]) > 0.1


@torch.no_grad()
def _every_box(network: Network, images: torch.Tensor) -> tuple[Floats, Floats]:
    """Boxes [A * H * W, 4] and objectness [A * H * W], in the library's order."""
    assert network.head is not None
    raw = network.head.boxes(network.features(images))
    boxes = all_boxes(raw, network.head.anchors)[0]
    return boxes.flatten(0, 2).numpy(), raw[0, :, 4].sigmoid().flatten().numpy()


def _compare_listing(network: Network, listing: str) -> None:
    """Shapes and operations of the convolutions, as darknet prints them when it builds a network."""
    width, height = SIZES[0]
    pattern = r"^ +(\d+) conv +(\d+).*-> +(\d+) x +(\d+) x *(\d+) +([\d.]+) BFLOPs$"
    theirs = [match.groups() for match in re.finditer(pattern, listing, re.MULTILINE)]
    ours = []
    for row in network.describe(height, width).rows:
        if row.filters is not None:
            channels, rows, columns = row.output
            ours.append((*map(str, (row.index, row.filters, columns, rows, channels)), f"{row.bflops:.3f}"))
    assert theirs == ours


@torch.no_grad()
def _compare(network: Network, net: Any, images: torch.Tensor) -> None:
    """The features, the last convolution, and what follows it."""
    _assert_close(network.features(images), net.output(network.last - 1))
    last = net.output(network.last)
    if network.head is None:
        # Darknet averages the logits of all cells, we the features before them.
        _assert_close(network(images), net.output(network.last + 1)[:, :, 0, 0])
        _assert_close(network(images), last.mean((2, 3)))
    else:
        _assert_close(network(images), last)


def _assert_close(ours: torch.Tensor, theirs: np.ndarray[Any, Any], tolerance: float = 1e-4) -> None:
    assert tuple(ours.shape) == theirs.shape
    scale = np.abs(theirs).max()
    assert 0.05 < scale < 1000, "the random weights do not exercise the network"
    assert np.abs(ours.numpy() - theirs).max() <= tolerance * scale


# Every layer type and default that the published networks use little or not at all.
ODDITIES = """
[network]
batch=2
width = 27
height=19
channels=5

[conv]
filters=8
size=3
stride=2
padding=2
activation=relu

[max]
size=3
stride=2

[convolutional]
batch_normalize=1
filters=16
groups=4
size=3
pad=1
padding=7
activation=leaky

[maxpool]
size=2

[dropout]
probability=.4

[convolutional]
filters=16

[reorg]
stride=2
reverse=1

[reorg]
stride=2

[route]
layers = 2, -1, -3

[convolutional]
batch_normalize=1
filters=40
size=3
pad=1
activation=leaky

[shortcut]
from=5
alpha=3
activation=leaky

[convolutional]
filters=7
activation=relu

[shortcut]
from = -2
alpha=.5
beta=-2

[shortcut]
from=7
activation=logistic

[upsample]

[upsample]
stride=3
scale=.25

[maxpool]
stride=6

[convolutional]
batch_normalize=1
filters=10
size=4
padding=2
activation=linear

[maxpool]
size=3
stride=2
padding=0

[convolutional]
filters=6
activation=linear

[avgpool]

[softmax]
groups=2
temperature=2

[cost]
type=sse
"""


def test_unusual_layers_equal_libdarknet(
    libdarknet: Any, randomise: Callable[[Network, int], Network], tmp_path: Path
) -> None:
    path = tmp_path / "odd.cfg"
    path.write_text(ODDITIES)
    network = randomise(Network(Cfg.load(path)), 2)
    save_weights(network, tmp_path / "odd.weights")
    images = torch.rand((2, 5, 19, 27), generator=torch.Generator().manual_seed(3))
    with libdarknet.load(path, tmp_path / "odd.weights") as net:
        probabilities = net.predict(images.numpy())
        x = images
        outputs = []
        for index, plan in enumerate(network.plans):
            x = network.apply_layer(index, x, [outputs[source] for source in plan.sources])
            outputs.append(x)
            if plan.type not in ("softmax", "cost"):
                theirs = net.output(index)
                assert plan.output == theirs.shape[1:], f"layer {index}"
                np.testing.assert_allclose(x.detach().numpy(), theirs, atol=1e-5, err_msg=f"layer {index}")
        ours = network.probabilities(network(images)).detach()
        np.testing.assert_allclose(ours.numpy(), probabilities, atol=1e-6)
        np.testing.assert_allclose(probabilities[:, :3].sum(1), 1, atol=1e-6)


def test_1x1_convolutions_with_a_stride_equal_the_librarys_3x3(
    libdarknet: Any, randomise: Callable[[Network, int], Network], tmp_path: Path
) -> None:
    """The library's own 1 x 1 ones read other cells: see docs/parity.md."""
    text = "[net]\nbatch=1\nwidth=12\nheight=8\nchannels=3\n[convolutional]\nfilters=4\nstride=2\n{}"
    text += "[convolutional]\nfilters=2\nactivation=linear\n[avgpool]\n[softmax]\n"
    path = tmp_path / "wide.cfg"
    path.write_text(text.format("size=3\npad=1\n"))
    wide, narrow = (randomise(Network(Cfg.parse(text)), 1) for text in (path.read_text(), text.format("")))
    with torch.no_grad():
        kernel = wide.layers[0].conv.weight
        kernel[:, :, 1, 1] = narrow.layers[0].conv.weight[:, :, 0, 0]
        kernel *= torch.tensor([[0, 0, 0], [0, 1, 0], [0, 0, 0]])
        wide.layers[0].conv.bias.copy_(narrow.layers[0].conv.bias)
    save_weights(wide, tmp_path / "w")
    images = torch.rand((1, 3, 8, 12), generator=torch.Generator().manual_seed(3))
    with libdarknet.load(path, tmp_path / "w") as net, torch.no_grad():
        net.predict(images.numpy())
        _assert_close(narrow.layers[0](images), net.output(0))


@pytest.mark.parametrize("name", ["cifar", "extraction"])
def test_classifiers_whose_last_convolution_is_not_linear(name: str, twins: Twins) -> None:
    images = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(9))
    with twins(name, 9, batch=2) as (network, net), torch.no_grad():
        net.predict(images.numpy())
        _assert_close(network(images), net.output(network.last + 1)[:, :, 0, 0])


def test_classifiers_whose_last_convolution_takes_the_whole_map(
    libdarknet: Any, randomise: Callable[[Network, int], Network], tmp_path: Path
) -> None:
    """Fully convolutional: a kernel of the map's size in the place of [avgpool]."""
    path = tmp_path / "whole.cfg"
    path.write_text(input_size(16) + POOL + conv(6) + POOL + conv(5, 4, "linear", 0, pad=0) + "[softmax]\n")
    network = randomise(Network(Cfg.load(path)), 2)
    save_weights(network, tmp_path / "w")
    images = torch.rand((1, 3, 16, 16), generator=torch.Generator().manual_seed(3))
    with libdarknet.load(path, tmp_path / "w") as net, torch.no_grad():
        probabilities = net.predict(images.numpy())
        _assert_close(network(images), net.output(network.last)[:, :, 0, 0])
        _assert_close(network.probabilities(network(images)), probabilities)


@pytest.mark.parametrize("version", [(0, 1, 0), (0, 2, 0), (0, 2, 5), (1, 0, 0)])
def test_library_reads_every_header_version(version: tuple[int, int, int], twins: Twins) -> None:
    images = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(5))
    with twins("tiny", 4, seen=77, version=version) as (network, net):
        net.predict(images.numpy())
        assert net.seen == 77
        with torch.no_grad():
            _assert_close(network(images), net.output(network.last).mean((2, 3)))


def test_partial_file_of_the_library_initialises_a_detector(
    twins: Twins, randomise: Callable[[Network, int], Network], tmp_path: Path
) -> None:
    """Darknet's recipe on a small network: `partial` cuts a classifier, the detector starts from that."""
    with twins("tiny", 6) as (classifier, net):
        net.save_weights(tmp_path / "theirs.conv.13", layers=13)
    save_weights(classifier, tmp_path / "ours.conv.13", layers=13)
    assert (tmp_path / "ours.conv.13").read_bytes() == (tmp_path / "theirs.conv.13").read_bytes()

    fresh = randomise(Network(classifier.cfg), 7)
    loaded = load_weights(fresh, tmp_path / "theirs.conv.13", partial=True)
    assert loaded.layers == 13
    for index, (ours, theirs) in enumerate(zip(fresh.layers, classifier.layers, strict=True)):
        state = theirs.state_dict()
        same = all(torch.equal(tensor, state[key]) for key, tensor in ours.state_dict().items())
        assert same == (index < 13 or not state), f"layer {index}"
