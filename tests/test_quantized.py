"""Convolutions in 8-bit integers, against the same steps in double precision."""

from __future__ import annotations

import copy
import math
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_engine import detector, images
from torch import Tensor, nn

from toys import CLASSIFIED, POOL, conv, input_size, linear, region
from yolo9000.darknet.cfg import Cfg
from yolo9000.darknet.layers import Convolution
from yolo9000.engine import Engine
from yolo9000.errors import ConfigError, WeightsError
from yolo9000.model import YOLO9000
from yolo9000.network import Network
from yolo9000.quantized import Int8Convolution, folded


def layer(channels: int, **options: object) -> Convolution:
    """A fused convolution with `channels` channels in, 24 out."""
    torch.manual_seed(0)
    text = input_size(32) + conv(channels) + conv(24, **options) + linear(7) + region(2, "1,1")
    found = Network(Cfg.parse(text)).eval().fuse().layers[1]
    assert isinstance(found, Convolution)
    return found


@torch.no_grad()
def in_steps(x: Tensor, one: Convolution) -> Tensor:
    """The same rounding, multiplied in float64."""
    low, high = min(x.min().item(), 0.0), max(x.max().item(), 0.0)
    step = (high - low) / 127
    zero = round(-low / step)
    whole = (x.double() / step + 0.5).floor() + zero
    kernel = one.conv.weight.double()
    scale = kernel.abs().amax((1, 2, 3), keepdim=True) / 127
    rounded = (kernel / scale).round() * scale
    y = F.conv2d(
        (whole - zero) * step, rounded, None if one.conv.bias is None else one.conv.bias.double(),
        one.conv.stride, one.conv.padding, one.conv.dilation, one.conv.groups,
    )  # fmt: skip
    return F.leaky_relu(y, 0.1) if one.activation == "leaky" else y


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activation": "linear"},
        {"size": 1, "pad": 0},
        {"stride": 2},
        {"size": 5},
        {"groups": 2},
        {"norm": 0},
    ],
    ids=str,
)
def test_a_convolution_is_that_of_its_steps(options: dict[str, Any]) -> None:
    one = layer(32, **options)
    for shape in ((9, 9), (1, 1), (7, 16)):
        x = torch.randn(1, 32, *shape).contiguous(memory_format=torch.channels_last)
        expected = in_steps(x, one)
        found = Int8Convolution(one)(x)
        assert found.dtype == torch.float32
        # float32's step can fall to the other side of a rounding
        bound = 0.02 * float(expected.detach().abs().max())
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=bound)
        assert float((found - expected).abs().median()) < 1e-4 * float(expected.abs().max())


def test_sums_of_the_largest_products_do_not_overflow() -> None:
    """AVX2 adds products of two bytes in pairs, in 16 bits."""
    one = layer(512)
    nn.init.constant_(one.conv.weight, 0.5)
    assert one.conv.bias is not None
    nn.init.zeros_(one.conv.bias)
    x = torch.full((1, 512, 4, 4), 3.0)
    torch.testing.assert_close(
        Int8Convolution(one)(x)[..., 1:3, 1:3], torch.full((1, 24, 2, 2), 512 * 9 * 1.5)
    )
    torch.testing.assert_close(
        Int8Convolution(one)(-x)[..., 1:3, 1:3], torch.full((1, 24, 2, 2), -512 * 9 * 0.15)
    )


def test_zeros() -> None:
    one = layer(32)
    nn.init.zeros_(one.conv.weight)
    for x in (torch.zeros(1, 32, 4, 4), torch.randn(1, 32, 4, 4)):
        found = Int8Convolution(one)(x)
        assert one.conv.bias is not None
        expected = F.leaky_relu(one.conv.bias, 0.1)[None, :, None, None].expand_as(found)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number(bad: float) -> None:
    x = torch.zeros(1, 32, 4, 4)
    x[0, 3, 1, 1] = bad
    with pytest.raises(WeightsError, match="NaN or infinity"):
        Int8Convolution(layer(32))(x)


def test_the_first_layer_and_the_last_stay() -> None:
    network = detector()
    kinds = [type(layer).__name__ for layer in folded(network, "int8").layers]
    assert kinds == ["Convolution", "MaxPool", "Int8Convolution", "Identity", "Identity"]
    text = input_size(64) + conv(32) + conv(32) + linear(5) + CLASSIFIED
    classifier = Network(Cfg.parse(text)).eval()
    rounded = folded(classifier, "int8")
    kinds = [type(layer).__name__ for layer in rounded.layers]
    assert kinds[:3] == ["Convolution", "Int8Convolution", "Convolution"]
    torch.testing.assert_close(rounded(images()), classifier(images()), rtol=0.05, atol=0.01)
    assert not torch.equal(rounded(images()), folded(classifier)(images()))


@pytest.mark.parametrize("options", [{"size": 5, "pad": 0}, {"size": 1, "stride": 2}, {"groups": 2}], ids=str)
def test_layers_of_any_shape(options: dict[str, Any]) -> None:
    text = input_size(64) + conv(32) + conv(32, **options) + linear(7) + region(2, "1,1")
    network = Network(Cfg.parse(text)).eval()
    exact, rounded = Engine(network).features(images()), Engine(network, "int8").features(images())
    assert float((rounded - exact).norm() / exact.norm()) < 0.05
    assert not torch.equal(rounded, exact)


def test_a_picture_does_not_depend_on_others() -> None:
    engine = Engine(detector(), "int8")
    many = images(3) * torch.tensor([1.0, 0.1, 0.5]).view(3, 1, 1, 1)
    one_by_one = torch.cat([engine.features(image) for image in many.split(1)])
    assert torch.equal(engine.network.features(many), one_by_one)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            assert torch.equal(engine.features(many), one_by_one)
            with pytest.raises(WeightsError, match="NaN or infinity"):
                engine.features(many * math.nan)
            assert torch.get_num_threads() == threads
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(torch.get_num_threads).result() == threads
    finally:
        torch.set_num_threads(before)


def test_copies_compute_the_same() -> None:
    model = YOLO9000(detector(), device="cpu", precision="int8")
    image = (255 * images(1)[0]).byte()
    expected = model.detect(image, threshold=0.01).to_dict()
    assert expected["detections"]
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert copied.detect(image, threshold=0.01).to_dict() == expected


def test_a_network_of_many_layers_stays_near_float32() -> None:
    torch.manual_seed(0)
    text = input_size(64) + conv(32) + POOL + (conv(64) + conv(32, size=1)) * 4 + linear(7) + region(2, "1,1")
    network = Network(Cfg.parse(text)).eval()
    exact, rounded = Engine(network).features(images()), Engine(network, "int8").features(images())
    assert float((rounded - exact).norm() / exact.norm()) < 0.1
    assert not torch.equal(rounded, exact)


def test_what_int8_cannot_be() -> None:
    with pytest.raises(ConfigError, match="is not compiled"):
        Engine(detector(), "int8", compile=True)
    with pytest.raises(ConfigError, match="is for CPUs"):
        folded(detector().to("meta"), "int8")


def test_a_processor_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_packing(*_: object) -> Tensor:
        raise RuntimeError("could not create a primitive descriptor")

    monkeypatch.setattr(torch.ops.onednn, "qconv_prepack", no_packing)
    with pytest.raises(ConfigError, match=r"needs torch with oneDNN .* give 'fp32': could not create"):
        Engine(detector(), "int8")
