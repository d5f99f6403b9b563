"""Fixtures of the tests that compare with libdarknet.so."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from libdarknet import Library
from wordtree.tree import WordTree
from yolo9000.darknet.layers import Convolution
from yolo9000.network import Network


@pytest.fixture(scope="session")
def libdarknet(libdarknet_path: Path) -> Library:
    """The library, as `libdarknet.Library`."""
    return Library(libdarknet_path)


@pytest.fixture(scope="session")
def tree9k(darknet_dir: Path) -> WordTree:
    """Darknet's 9k.tree."""
    lines = [line.split() for line in (darknet_dir / "data" / "9k.tree").read_text().splitlines()]
    return WordTree([int(parent) for _, parent in lines], [wnid for wnid, _ in lines])


@pytest.fixture(scope="session")
def randomise() -> Callable[[Network, int], Network]:
    """A function that fills a network with random weights that keep activations near unit size."""
    return _randomise


@torch.no_grad()
def _randomise(network: Network, seed: int) -> Network:
    generator = torch.Generator().manual_seed(seed)
    for _, layer in network.convolutions():
        if isinstance(layer, Convolution):
            weight = layer.conv.weight
            weight.normal_(0, (2 / weight[0].numel()) ** 0.5, generator=generator)
            if layer.conv.bias is not None:
                layer.conv.bias.normal_(0, 0.5, generator=generator)
            if layer.bn is not None:
                layer.bn.weight.uniform_(0.7, 1.3, generator=generator)
                layer.bn.bias.normal_(0, 0.2, generator=generator)
                layer.bn.running_mean.normal_(0, 0.2, generator=generator)
                layer.bn.running_var.uniform_(0.5, 2, generator=generator)
        else:
            for parameter in layer.parameters():
                parameter.normal_(0, layer.in_channels**-0.5, generator=generator)
    network.batchnorm = "darknet"
    return network.eval()


@pytest.fixture
def resized_cfg(tmp_path: Path) -> Callable[..., Path]:
    """`resize_cfg` into the test's own folder."""

    def write(source: Path, **changes: Any) -> Path:
        return resize_cfg(source, tmp_path / f"resized-{source.name}", **changes)

    return write


def resize_cfg(
    source: Path,
    target: Path,
    *,
    batch: int = 1,
    width: int | None = None,
    height: int | None = None,
    flat: bool = False,
) -> Path:
    """Copy a cfg with another batch, width and height, which the library takes from the cfg alone.

    With `flat` the tree is left out: the library then computes one softmax over all classes, and leaves boxes
    and objectness alone (with a tree its CPU code writes softmaxes over them).
    """
    left_out = "batch|subdivisions|tree" if flat else "batch|subdivisions"
    text = re.sub(rf"(?m)^\s*({left_out})\s*=.*$", "", source.read_text())
    text = text.replace("[net]", f"[net]\nbatch={batch}\nsubdivisions=1", 1)
    for key, value in (("width", width), ("height", height)):
        if value is not None:
            text = re.sub(rf"(?m)^\s*{key}\s*=.*$", f"{key}={value}", text, count=1)
    target.write_text(text)
    return target
