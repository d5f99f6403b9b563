"""One batch: the keys that ask for it and the tensors that come.

Legend: `B` images of a batch, `T` boxes of all of them, `H` and `W` height and width of the input, pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from yolo9000.datasets.sample import Kind
from yolo9000.datasets.transforms import Example, Size, Taught

_IMAGE = 3  # first number of the seeds of the images' random changes; the sampler's streams have others


class Key(NamedTuple):
    """What the sampler asks the data set for.

    Attributes:
        kind: Which of the two data sets.
        image: Number of the image in it.
        size: Side of a square input, or height and width, pixels.
        seed: Of the run.
        epoch: Epoch of the batch.
        batch: Number of the batch in its epoch.
        position: Number of the image in its epoch, counted over all ranks.
    """

    kind: Kind
    image: int
    size: Size
    seed: int
    epoch: int
    batch: int
    position: int

    def generator(self) -> np.random.Generator:
        """The random numbers of this image in this epoch; the same whichever process asks."""
        return np.random.default_rng((_IMAGE, self.seed, self.epoch, self.position))


@dataclass
class Batch:
    """Images with their labels, ready for the network.

    Attributes:
        images: float32 [B, 3, H, W] in 0..1, RGB.
        boxes: float32 [T, 4] centre x, centre y, width, height as fractions of the input.
        nodes: int64 [T] node of each box.
        image_index: int64 [T] image of each box, ascending.
        labels: int64 [B] node of a classification image, -1 for a detection image.
        sources: Files of the images, B of them.
        epoch: Epoch the batch belongs to.
        index: Number of the batch in its epoch.
        tiles: float32 [R, 4] where mosaics show classification images, in the form of `boxes`.
        tile_nodes: int64 [R] node of each.
        tile_index: int64 [R] image of each, ascending.
    """

    images: Tensor
    boxes: Tensor
    nodes: Tensor
    image_index: Tensor
    labels: Tensor
    sources: list[str]
    epoch: int = 0
    index: int = 0
    tiles: Tensor = field(default_factory=lambda: torch.zeros(0, 4, dtype=torch.float32))
    tile_nodes: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    tile_index: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))

    def __len__(self) -> int:
        return len(self.images)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        changed: dict[str, Any] = {k: change(v) if isinstance(v, Tensor) else v for k, v in values.items()}
        return Batch(**changed)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The batch with its tensors on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory; called by a loader with `pin_memory=True`."""
        return self._map(lambda tensor: tensor.pin_memory())


def collate(items: Sequence[tuple[Key, Example]]) -> Batch:
    """Put the examples of a batch together."""
    keys, examples = zip(*items, strict=True)
    return collate_labels(keys, examples, torch.stack([example.image for example in examples]))


def collate_labels(keys: Sequence[Key], examples: Sequence[Taught], images: Tensor) -> Batch:
    """A batch of these images with the labels of its examples."""
    every = torch.arange(len(examples))
    counts = torch.tensor([(len(example.nodes), len(example.tile_nodes)) for example in examples])
    return Batch(
        images=images,
        boxes=torch.cat([example.boxes for example in examples]),
        nodes=torch.cat([example.nodes for example in examples]),
        image_index=torch.repeat_interleave(every, counts[:, 0]),
        labels=torch.tensor([example.label for example in examples]),
        tiles=torch.cat([example.tiles for example in examples]),
        tile_nodes=torch.cat([example.tile_nodes for example in examples]),
        tile_index=torch.repeat_interleave(every, counts[:, 1]),
        sources=[example.source for example in examples],
        epoch=keys[0].epoch,
        index=keys[0].batch,
    )
