"""Files of darknet weights: every byte in its place, and errors that say where a file and a cfg part."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from wordtree.tree import WordTree
from yolo9000.darknet.cfg import Cfg
from yolo9000.darknet.layers import Convolution
from yolo9000.darknet.weights import load_weights, read_header, save_weights
from yolo9000.errors import WeightsError
from yolo9000.network import Network

# Values: layer 0 has 4 + 3*4 + 4*3*9 = 124, layer 2 has 5 + 5*4 = 25, layer 3 (head) has 14 + 14*5 = 84.
TEXT = """[net]
width=64
height=64
channels=3

[convolutional]
batch_normalize=1
filters=4
size=3
pad=1
activation=leaky

[maxpool]
size=2
stride=2

[convolutional]
filters=5
activation=relu

[convolutional]
filters=14
activation=linear

[region]
anchors=1,2, 3,4
num=2
classes=2
"""
TIED = TEXT.replace("filters=14", "filters=12") + "tied=1\n"
TOTAL = 124 + 25 + 84


def network(text: str = TEXT) -> Network:
    return Network(Cfg.parse(text), WordTree.flat(["a", "b"]))


def write(path: Path, values: np.ndarray, version: tuple[int, int, int] = (0, 2, 0), seen: int = 9) -> Path:
    header = struct.pack("<3i", *version) + struct.pack("<Q" if version > (0, 1, 999) else "<I", seen)
    path.write_bytes(header + values.astype("<f4").tobytes())
    return path


def state(net: Network) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def unchanged(net: Network, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_values_go_where_darknet_puts_them(tmp_path: Path) -> None:
    net = network()
    loaded = load_weights(net, write(tmp_path / "w", np.arange(TOTAL)))

    def counting(start: int, *shape: int) -> torch.Tensor:
        return torch.arange(start, start + int(np.prod(shape))).view(shape).float()

    first, second, head = net.layers[0], net.layers[2], net.head
    assert isinstance(first, Convolution)
    assert first.bn is not None
    assert torch.equal(first.bn.bias, counting(0, 4))
    assert torch.equal(first.bn.weight, counting(4, 4))
    assert torch.equal(first.bn.running_mean, counting(8, 4))
    assert torch.equal(first.bn.running_var, counting(12, 4))
    assert torch.equal(first.conv.weight, counting(16, 4, 3, 3, 3))
    assert isinstance(second, Convolution)
    assert second.conv.bias is not None
    assert torch.equal(second.conv.bias, counting(124, 5))
    assert torch.equal(second.conv.weight, counting(129, 5, 4, 1, 1))
    assert head is not None
    bias, weight = counting(149, 2, 7), counting(163, 2, 7, 5)
    assert torch.equal(head.box_bias, bias[:, :5])
    assert torch.equal(head.class_bias, bias[:, 5:])
    assert torch.equal(head.box_weight, weight[:, :5])
    assert torch.equal(head.class_weight, weight[:, 5:])

    assert (net.seen, net.weights_version, net.batchnorm) == (9, (0, 2, 0), "darknet")
    assert (loaded.layers, loaded.convolutions, loaded.total, loaded.values) == (5, 3, 3, TOTAL)
    assert str(loaded).endswith("w: 3 of 3 convolutions (233 values), version 0.2.0, seen 9 images")


@pytest.mark.parametrize("version", [(0, 1, 0), (0, 2, 0), (0, 2, 5), (1, 0, 0), (3, 7, 1)])
def test_round_trip_keeps_every_byte(tmp_path: Path, version: tuple[int, int, int]) -> None:
    """Any bit patterns: signalling NaNs, infinities, denormal numbers, negative zeros."""
    noise = np.frombuffer(np.random.default_rng(1).bytes(4 * TOTAL), dtype="<f4").copy()
    noise[:3] = -0.0, np.inf, 1e-45
    source = write(tmp_path / "in.weights", noise, version, seen=2**32 - 1)
    net = network()
    load_weights(net, source)
    save_weights(net, tmp_path / "out.weights")
    assert (tmp_path / "out.weights").read_bytes() == source.read_bytes()


def test_header_versions(tmp_path: Path) -> None:
    values = np.zeros(1)
    assert read_header(write(tmp_path / "a", values, (0, 1, 0), 5)).size == 16
    header = read_header(write(tmp_path / "b", values, (0, 2, 0), 2**40))
    assert (header.size, header.seen) == (20, 2**40)


def test_seen_beyond_an_old_header(tmp_path: Path) -> None:
    net = network()
    net.weights_version, net.seen = (0, 1, 0), 2**32
    with pytest.raises(WeightsError, match=r"\(0, 1, 0\) and seen=4,294,967,296 do not fit"):
        save_weights(net, tmp_path / "w")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("count", "parts"),
    [
        (
            0,
            [
                "needs 233 values (952 bytes), the file has 0",
                "ends in layer 0",
                "(line 6), before its first value; it holds nothing but its header",
            ],
        ),
        (123, ["ends in layer 0 [convolutional] (line 6), after 123 of its 124 values"]),
        (
            124,
            [
                "ends in layer 2 [convolutional] (line 17), before its first value",
                "first 1 conv",
                "partial=True",
            ],
        ),
        (140, ["ends in layer 2 [convolutional] (line 17), after 16 of its 25 values"]),
        (232, ["the file has 232", "ends in layer 3 [convolutional] (line 21), after 83 of its 84 values"]),
        (
            234,
            [
                "needs 233 values",
                "the file has 234",
                "1 are left over after layer 3",
                "(line 21)",
                "another cfg",
            ],
        ),
    ],
)
def test_files_of_the_wrong_length(tmp_path: Path, count: int, parts: list[str]) -> None:
    net = network()
    before = state(net)
    path = write(tmp_path / "short.weights", np.ones(count))
    with pytest.raises(WeightsError) as caught:
        load_weights(net, path)
    for part in [str(path), *parts]:
        assert part in str(caught.value)
    assert unchanged(net, before)
    assert net.batchnorm == "torch"


def test_files_larger_than_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "w", np.ones(TOTAL))
    os.truncate(path, 2**40)  # takes no room on the disk
    with pytest.raises(WeightsError, match=r"the file has 274,877,906,939: .* are left over after layer 3"):
        load_weights(network(), path)
    assert load_weights(network(), path, layers=4).values == TOTAL


@pytest.mark.parametrize("text", [TEXT, TIED])
@pytest.mark.parametrize(
    ("count", "version", "hint"),
    [
        (TOTAL - 1, (0, 2, 0), "images seen has 4 bytes, .* set the version in its header to 0.1"),
        (TOTAL + 1, (0, 1, 0), "images seen has 8 bytes, .* set the version in its header to 0.2"),
        (TOTAL + 60, (0, 2, 0), "With classes=7 in .region. and filters=(24|17) in layer 3 it would fit"),
        (50_676_061, (0, 1, 0), "It has the length of the weights of yolov2-voc"),
        (TOTAL - 60, (0, 2, 0), "truncated, or made for another cfg"),
    ],
)
def test_hints_at_what_a_file_may_be(
    tmp_path: Path, text: str, count: int, version: tuple[int, int, int], hint: str
) -> None:
    path = write(tmp_path / "w", np.ones(0), version)
    os.truncate(path, read_header(path).size + 4 * count)
    with pytest.raises(WeightsError, match=f"{hint}$"):
        load_weights(network(text), path)


@pytest.mark.parametrize("tail", [1, 2, 3])
def test_bytes_that_are_no_value(tmp_path: Path, tail: int) -> None:
    path = write(tmp_path / "w", np.ones(TOTAL))
    path.write_bytes(path.read_bytes() + b"x" * tail)
    with pytest.raises(WeightsError, match=rf"no whole number of float32 values \({tail} bytes too many\)"):
        load_weights(network(), path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes, but a .weights header alone has 16 or 20; truncated"),
        (struct.pack("<3i", 0, 2, 0), "12 bytes, but a"),
        (struct.pack("<3iI", 0, 2, 0, 1), "16 bytes, but a"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 40, "expected a .weights file of darknet, got a PNG picture"),
        (b"<!DOCTYPE html><title>Quota exceeded</title>", "got a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer (`git lfs pull` fetches"),
        (struct.pack("<Q", 64) + b'{"__metadata__":{}}', "got a safetensors file"),
        (b"n00001740 -1\nn00001930 0\n", "expected a .weights file of darknet, got a text"),
        (b"GGUF\3\0\0\0" + b"x" * 40, "is not between 0.0 and 999.999; is this a .weights file"),
        (struct.pack("<3iI", 1000, 2, 0, 1) + b"x" * 40, "hold transposed kernels"),
        (struct.pack(">3iQ", 0, 2, 5, 1) + b"x" * 40, "expected little-endian numbers, got big-endian ones"),
    ],
)
def test_files_that_are_no_weights(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "w"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        load_weights(network(), path)
    assert message in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        load_weights(network(), tmp_path / "none")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_weights(network(), tmp_path)


@pytest.mark.parametrize(("count", "layers", "convolutions"), [(124, 1, 1), (149, 3, 2), (233, 5, 3)])
def test_partial_files(tmp_path: Path, count: int, layers: int, convolutions: int) -> None:
    net = network()
    before = state(net)
    loaded = load_weights(net, write(tmp_path / "w", np.full(count, 5.0)), partial=True)
    assert (loaded.layers, loaded.convolutions, loaded.values) == (layers, convolutions, count)
    for index, (_, layer) in enumerate(net.convolutions()):
        fives = all((p == 5).all() for p in layer.parameters())
        assert fives == (index < convolutions)
    assert unchanged(net, before) is False
    assert net.seen == (9 if count == TOTAL else 0)  # a backbone's images are not the detector's


@pytest.mark.parametrize("count", [0, 123, 125, 232])
def test_partial_files_must_end_with_a_layer(tmp_path: Path, count: int) -> None:
    net = network()
    before = state(net)
    with pytest.raises(WeightsError, match="ends in layer"):
        load_weights(net, write(tmp_path / "w", np.ones(count)), partial=True)
    assert unchanged(net, before)


def test_first_layers_of_a_whole_file(tmp_path: Path) -> None:
    source, net = network(), network()
    save_weights(source, tmp_path / "whole")
    kept = [p.clone() for p in net.layers[2].parameters()]
    loaded = load_weights(net, tmp_path / "whole", layers=2)
    assert (loaded.layers, loaded.convolutions) == (2, 1)
    assert all(
        torch.equal(a, b)
        for a, b in zip(net.layers[0].parameters(), source.layers[0].parameters(), strict=True)
    )
    assert all(torch.equal(a, b) for a, b in zip(net.layers[2].parameters(), kept, strict=True))

    save_weights(source, tmp_path / "cut", layers=2)
    assert (tmp_path / "whole").read_bytes().startswith((tmp_path / "cut").read_bytes())
    assert (tmp_path / "cut").stat().st_size == 20 + 4 * 124
    with pytest.raises(WeightsError, match="layers=6, but the cfg has 5 layers"):
        load_weights(net, tmp_path / "whole", layers=6)


def test_tied_rows_are_stored_for_every_anchor(tmp_path: Path) -> None:
    tied, plain, again = network(TIED), network(), network(TIED)
    save_weights(tied, tmp_path / "w")
    assert (tmp_path / "w").stat().st_size == 20 + 4 * TOTAL
    load_weights(plain, tmp_path / "w")
    load_weights(again, tmp_path / "w")
    images = torch.rand(1, 3, 64, 64)
    tied.batchnorm = "darknet"
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(images), tied.eval()(images))
    assert unchanged(again, state(tied))


def test_tied_cfg_refuses_rows_that_differ_and_changes_nothing(tmp_path: Path) -> None:
    net = network(TIED)
    before = state(net)
    with pytest.raises(WeightsError, match=r"layer 3 \(line 21\): .*tied=1"):
        load_weights(net, write(tmp_path / "w", np.arange(TOTAL)))
    assert unchanged(net, before)


def test_fused_networks_cannot_be_saved_and_leave_the_file_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "w", np.ones(TOTAL))
    content = path.read_bytes()
    with pytest.raises(WeightsError, match=r"layer 0 .* fused; use the original"):
        save_weights(network().fuse(), path)
    assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["w"]
