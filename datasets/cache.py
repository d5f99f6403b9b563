"""Several data sets as one, and decoded images kept in memory."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from yolo9000.datasets.records import make_sample
from yolo9000.datasets.sample import Kind, Sample, SampleDataset, ScoreRules, joint_rules
from yolo9000.errors import DataError

if TYPE_CHECKING:
    from wordtree.tree import WordTree

T = TypeVar("T")


class ConcatDataset:
    """Data sets of one kind and tree, one after the other. Implements `SampleDataset`.

    Args:
        parts: The data sets, at least one.

    Raises:
        DataError: No parts, or they differ in kind or tree.
    """

    def __init__(self, parts: Sequence[SampleDataset]) -> None:
        if not parts:
            raise DataError("expected at least one data set, got none")
        self.parts = tuple(parts)
        self.tree: WordTree = parts[0].tree
        self.kind: Kind = parts[0].kind
        self.rules: ScoreRules = joint_rules(part.rules for part in parts)
        if any(part.kind != self.kind or part.tree != self.tree for part in parts):
            raise DataError(
                "data sets that are joined must be of one kind, detection or classification, on one tree"
            )
        self._ends = list(accumulate(len(part) for part in parts))

    @property
    def unmatched(self) -> dict[str, int]:
        """Unmatched labels of all parts."""
        return dict(sum((Counter(part.unmatched) for part in self.parts), Counter()))

    @property
    def issues(self) -> tuple[str, ...]:
        """What the readers of all parts left out."""
        return tuple(issue for part in self.parts for issue in part.issues)

    @property
    def fingerprint(self) -> str:
        """See `SampleDataset`."""
        return " ".join(part.fingerprint for part in self.parts)

    def __len__(self) -> int:
        return self._ends[-1]

    def _find(self, index: int) -> tuple[SampleDataset, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of a data set of {len(self)}")
        part = bisect_right(self._ends, index)
        return self.parts[part], index - (self._ends[part - 1] if part else 0)

    def __getitem__(self, index: int) -> Sample:
        part, place = self._find(index)
        return part[place]

    def nodes(self, index: int) -> list[int]:
        """See `SampleDataset`."""
        part, place = self._find(index)
        return part.nodes(place)


class CachedDataset:
    """All images decoded once, made smaller, and kept in memory. Implements `SampleDataset`.

    Made before a loader forks its workers, the memory is shared by them all. An image takes 3 bytes a pixel:
    15,000 of 256 × 192 take 2.2 GB.

    Args:
        dataset: Where the images come from.
        longest: Longest side in pixels; larger images are made smaller with their boxes, smaller ones are
            kept.

    Raises:
        DataError: An image cannot be read.
    """

    def __init__(self, dataset: SampleDataset, longest: int) -> None:
        if longest < 1:
            raise DataError(
                f"cache: expected the longest side of the images in pixels, at least 1, got {longest}"
            )
        self.dataset, self.tree, self.kind, self.rules = dataset, dataset.tree, dataset.kind, dataset.rules
        self._samples = in_threads(lambda index: _shrink(dataset[index], longest), len(dataset))

    @property
    def unmatched(self) -> dict[str, int]:
        """Unmatched labels of the data set."""
        return dict(self.dataset.unmatched)

    @property
    def issues(self) -> Sequence[str]:
        """See `SampleDataset`."""
        return self.dataset.issues

    @property
    def fingerprint(self) -> str:
        """See `SampleDataset`."""
        return self.dataset.fingerprint

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of a data set of {len(self)}")
        image, boxes, nodes, ignored, source = self._samples[index]
        return make_sample(torch.from_numpy(image), boxes, nodes, self.kind, source, ignored)

    def nodes(self, index: int) -> list[int]:
        """See `SampleDataset`."""
        return self.dataset.nodes(index)

    @property
    def nbytes(self) -> int:
        """Memory of the images in bytes."""
        return sum(image.nbytes for image, *_ in self._samples)


def in_threads(work: Callable[[int], T], count: int) -> list[T]:
    """`work` of 0 to `count` - 1, by as many threads as cores: decoding leaves the interpreter free.

    Each computes by itself: threads of torch beneath each of them would stand in one another's way.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(work, range(count)))
    finally:
        torch.set_num_threads(before)


_Stored = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_], str]


def _shrink(sample: Sample, longest: int) -> _Stored:
    image: Tensor = sample.image.as_subclass(torch.Tensor)
    boxes = sample.boxes.as_subclass(torch.Tensor).numpy()
    height, width = image.shape[-2:]
    ratio = longest / max(height, width)
    if ratio < 1:
        new_h, new_w = max(1, round(height * ratio)), max(1, round(width * ratio))
        image = F.resize(image, [new_h, new_w], antialias=True)
        boxes = (boxes * np.tile([new_w / width, new_h / height], 2)).astype(np.float32)
    return image.numpy(), boxes, sample.nodes.numpy(), sample.ignored.numpy(), sample.source
