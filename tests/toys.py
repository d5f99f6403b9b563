"""What several test files build: small cfgs, section by section, trees, networks and truths.

A cfg is a sum of sections: `input_size(64) + conv(8) + POOL + linear(14) + region(2, "1,2, 3,4")`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from wordtree.tree import WordTree
from yolo9000.darknet.cfg import Cfg
from yolo9000.network import Network

POOL = "[maxpool]\nsize=2\nstride=2\n"
CLASSIFIED = "[avgpool]\n[softmax]\n"  # what follows a classifier's last convolution

#   animal        vehicle
#   cat dog
#       pug
PETS = WordTree([-1, -1, 0, 0, 3], ["n0", "n1", "n2", "n3", "n4"], ["animal", "vehicle", "cat", "dog", "pug"])
#   animal                      vehicle
#   dog        cat              car bus
#   husky pug  tabby
BREEDS = WordTree(
    [-1, -1, 0, 0, 2, 2, 3, 1, 1],
    [f"n{i:08d}" for i in range(9)],
    ["animal", "vehicle", "dog", "cat", "husky", "pug", "tabby", "car", "bus"],
)


def section(kind: str, **options: object) -> str:
    """`[kind]` and a line for each option, in their order."""
    return f"[{kind}]\n" + "".join(f"{key}={value}\n" for key, value in options.items())


def input_size(width: int, height: int | None = None, channels: int = 3, **options: object) -> str:
    """The `[net]` section: pixels of the input, a square without `height`."""
    return section("net", width=width, height=height or width, channels=channels, **options)


def conv(filters: int, size: int = 3, activation: str = "leaky", norm: int = 1, **options: object) -> str:
    """A convolution that keeps the size, as those of the backbone: batch norm, leaky ReLU."""
    own = {"batch_normalize": norm, "filters": filters, "size": size, "pad": 1, "activation": activation}
    return section("convolutional", **(own | options))


def linear(filters: int) -> str:
    """A 1 x 1 convolution alone, as the last one: A * (5 + N) filters, A * 5 + N if tied, or N."""
    return conv(filters, 1, "linear", 0)


def region(classes: int, anchors: str, **options: object) -> str:
    """The detection layer; anchors as "width,height, width,height" in grid cells."""
    num = len(anchors.split(",")) // 2
    return section("region", anchors=anchors, num=num, classes=classes, **options)


def random_tree(seed: int, nodes: int) -> WordTree:
    """A tree with groups of 1 to 6 nodes, laid out breadth first."""
    rng = np.random.default_rng(seed)
    parent = [-1] * int(rng.integers(1, 5))
    for node in range(nodes):
        if node < len(parent) < nodes and rng.random() < 0.6:
            parent += [node] * int(rng.integers(1, 7))
    return WordTree(parent, [f"n{i:08d}" for i in range(len(parent))])


def colour_finder(tree: WordTree, names: tuple[str, str, str]) -> Network:
    """Finds the names in red, green and blue cells of a 4 x 4 grid; the brighter, the surer."""
    cfg = input_size(128) + POOL * 5 + linear(5 + len(tree)) + region(len(tree), "1,1", softmax=1)
    network = Network(Cfg.parse(cfg), tree)
    head = network.head
    assert head is not None
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        head.box_weight[0, 4] = 8.0
        head.box_bias[0, 4] = -4.0  # objectness: black 0.02, a full colour 0.98
        for colour, name in enumerate(names):
            for node in tree.path(name):
                head.class_weight[0, node, colour] = 20.0
    return network


@dataclass
class Truths:
    """What a batch shows, as the criterion reads it."""

    boxes: Tensor
    nodes: Tensor
    image_index: Tensor
    labels: Tensor
    tiles: Tensor = field(default_factory=lambda: torch.zeros(0, 4))
    tile_nodes: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    tile_index: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Within the block no file grows beyond so many bytes, as on a disk that is full."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def labels_only(*labels: int) -> Truths:
    """Images without boxes, and the label of each; -1 is none."""
    none = torch.zeros(0, dtype=torch.long)
    return Truths(torch.zeros(0, 4), none, none, torch.tensor(labels))
