"""Detection and classification images in one stream of mixed batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from yolo9000.datasets.batch import Batch, Key
from yolo9000.datasets.sample import Kind, Sample, SampleDataset
from yolo9000.datasets.transforms import Drawing, Example, Size, TrainTransform, sides
from yolo9000.errors import ConfigError, DataError

SIZE_EVERY = 10  # batches with the same input size (paper, section 2, "Multi-Scale Training")

_MOSAIC_SHARE = 0.5  # of a mosaic's further tiles from the data that only fill mosaics, where there are such

# First numbers of the seeds of the independent random streams.
_DETECTION, _CLASSIFICATION, _SIZE = range(3)


Transform = Callable[
    [Sample, Size, np.random.Generator, Callable[[np.random.Generator], Sample] | None], Example | Drawing
]


class JointDataset(Dataset[tuple[Key, Example | Drawing]]):
    """Images of both kinds by the keys of a `JointSampler`.

    Args:
        detection: Images with boxes, or None.
        classification: Images with one label each, or None.
        transform: From a sample, a size and random numbers to an `Example`, or to a `Drawing` of images that
            are in a bank.
        mosaic: Images with boxes that only fill mosaics: half of the tiles beside the image that the sampler
            asks for. Without them all tiles are images of `detection`.
        classification_tiles: Share of those tiles that are classification images instead.
        detection_weights: [images of `detection`] relative frequency of each in tiles; see `repeat_weights`.

    Raises:
        DataError: Neither is given, one is of the other kind, or their trees differ.
    """

    def __init__(
        self,
        detection: SampleDataset | None,
        classification: SampleDataset | None,
        transform: Transform | None = None,
        mosaic: SampleDataset | None = None,
        classification_tiles: float = 0.0,
        detection_weights: NDArray[np.float64] | None = None,
    ) -> None:
        given: dict[Kind, SampleDataset | None] = {"detection": detection, "classification": classification}
        self._sets = {kind: dataset for kind, dataset in given.items() if dataset is not None}
        for kind, dataset in self._sets.items():
            if dataset.kind != kind:
                raise DataError(f"expected {kind} data, got a {dataset.kind} data set")
        if not self._sets:
            raise DataError("expected detection data, classification data, or both; got neither")
        if mosaic is not None and (detection is None or mosaic.kind != "detection"):
            raise DataError("images that fill mosaics must be detection data, and stand beside such data")
        trees = [dataset.tree for dataset in (*self._sets.values(), mosaic) if dataset is not None]
        if any(tree != trees[0] for tree in trees):
            raise DataError("the data sets are mapped to different trees; open all with one")
        if classification_tiles and len(self._sets) < 2:
            raise DataError("classification images in mosaics need both kinds of data; got one")
        self._mosaic, self._classification_tiles = mosaic, classification_tiles
        self._ends = None if detection_weights is None else np.cumsum(detection_weights)
        self.transform = TrainTransform() if transform is None else transform

    def fingerprints(self) -> dict[str, str]:
        """That of the images of each kind, and of those that only fill mosaics; see `SampleDataset`."""
        found: dict[str, str] = {kind: dataset.fingerprint for kind, dataset in self._sets.items()}
        return found if self._mosaic is None else found | {"mosaic": self._mosaic.fingerprint}

    def _more(self, rng: np.random.Generator) -> Sample:
        dataset = self._sets["detection"]
        if self._classification_tiles and rng.random() < self._classification_tiles:
            dataset = self._sets["classification"]
        elif self._mosaic is not None and rng.random() < _MOSAIC_SHARE:
            dataset = self._mosaic
        elif self._ends is not None:
            return dataset[int(np.searchsorted(self._ends, rng.random() * self._ends[-1], side="right"))]
        return dataset[int(rng.integers(len(dataset)))]

    def __getitem__(self, key: Key) -> tuple[Key, Example | Drawing]:
        sample = self._sets[key.kind][key.image]
        more = self._more if key.kind == "detection" else None
        return key, self.transform(sample, key.size, key.generator(), more)


class JointSampler(Sampler[list[Key]]):
    """Batches in which both kinds are mixed in proportion.

    Every number follows from `seed`, epoch and position. A global batch (`batch_size` × `world_size`) holds
    on average `ratio` classification images to one detection image, and at least one of each kind; the
    ranks take consecutive parts of it, in which the kinds are spread evenly. Detection images are drawn by
    going through all of them again and again, in new orders, over the epochs. An epoch is one pass over the
    classification images (or over the detection images where there are no others); its last batch is filled
    up from the start of the same order. With weights an epoch, and a turn of the detection images, has as
    many draws, each image drawn in proportion to its weight (its expected number rounded up or down).

    Use it as the `batch_sampler` of a loader. The loader's workers run ahead of training, so tell the
    sampler what has been used (`consumed`); `state_dict` is then exact in the middle of an epoch, with any
    number of workers.

    Args:
        n_detection: Number of detection images.
        n_classification: Number of classification images.
        batch_size: Images a batch on each rank.
        ratio: Classification images to one detection image (paper: 4).
        sizes: Sides of square inputs, or heights and widths, in pixels, multiples of 32; a new one is drawn
            every `size_every` batches, the same on all ranks.
        seed: Of everything random, also of the images' transforms.
        rank: This process.
        world_size: Number of processes.
        classification_weights: [n_classification] relative frequency of each image; see `balance_weights`.
        detection_weights: [n_detection] likewise; see `repeat_weights`.
        size_every: Batches with the same size.
        stride: What sizes are multiples of.

    Raises:
        ConfigError: A value is out of its range; all of them are listed.
    """

    def __init__(
        self,
        n_detection: int,
        n_classification: int,
        batch_size: int,
        ratio: float = 4.0,
        sizes: Sequence[Size] = (416,),
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        *,
        classification_weights: NDArray[np.float64] | None = None,
        detection_weights: NDArray[np.float64] | None = None,
        size_every: int = SIZE_EVERY,
        stride: int = 32,
    ) -> None:
        self.n_detection, self.n_classification = n_detection, n_classification
        self.batch_size, self.ratio, self.sizes, self.seed = batch_size, ratio, tuple(sizes), seed
        self.rank, self.world_size, self.size_every = rank, world_size, size_every
        self.weights, self.detection_weights = classification_weights, detection_weights
        self.stride = stride
        self._turn = lru_cache(maxsize=4)(self._detection_order)
        self.epoch, self.batch = 0, 0
        self._check()
        self._detection_ends = self._plan()

    def _check(self) -> None:
        both = self.n_detection > 0 and self.n_classification > 0
        tests = {
            "no images: n_detection and n_classification are both 0": self.n_detection + self.n_classification
            > 0,
            f"batch_size: expected at least 1, got {self.batch_size}": self.batch_size >= 1,
            f"batch_size x world_size: expected at least 2 for two kinds, got {self.global_batch}": (
                not both or self.global_batch >= 2
            ),
            f"ratio: expected more than 0, got {self.ratio}": self.ratio > 0,
            f"sizes: expected positive multiples of {self.stride}, got {self.sizes}": (
                bool(self.sizes)
                and all(side > 0 and side % self.stride == 0 for size in self.sizes for side in sides(size))
            ),
            f"seed: expected 0 or more, got {self.seed}": self.seed >= 0,
            f"rank: expected 0 to {self.world_size - 1}, got {self.rank}": 0 <= self.rank < self.world_size,
            f"size_every: expected at least 1, got {self.size_every}": self.size_every >= 1,
            f"classification_weights: expected {self.n_classification} positive numbers": _are_weights(
                self.weights, self.n_classification
            ),
            f"detection_weights: expected {self.n_detection} positive numbers": _are_weights(
                self.detection_weights, self.n_detection
            ),
        }
        wrong = [problem for problem, right in tests.items() if not right]
        if wrong:
            raise ConfigError(
                "sampler settings refused:\n" + "\n".join(f"  - {problem}" for problem in wrong)
            )

    @property
    def global_batch(self) -> int:
        """Images a batch over all ranks."""
        return self.batch_size * self.world_size

    def _plan(self) -> NDArray[np.int64]:
        """Detection images up to the end of each batch of an epoch, int64 [batches]."""
        total = self.global_batch
        if not self.n_classification or not self.n_detection:
            images = self.n_classification + self.n_detection
            ends = np.arange(1, -(-images // total) + 1, dtype=np.int64) * total
            return ends if self.n_detection else np.zeros_like(ends)
        share = total / (1 + self.ratio)
        batches = int(np.ceil(self.n_classification / max(total - max(share, 1), 1))) + 1
        counts = np.diff(np.floor(np.arange(batches + 1) * share + 1e-9)).astype(np.int64)
        ends = np.cumsum(counts.clip(1, total - 1))
        shown = np.arange(1, batches + 1) * total - ends
        return ends[: int(np.searchsorted(shown, self.n_classification)) + 1]

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self._detection_ends)

    def set_epoch(self, epoch: int, batch: int = 0) -> None:
        """Begin the next iteration at this batch of this epoch."""
        self.epoch, self.batch = epoch, batch

    def consumed(self, batch: Batch) -> None:
        """Note that training has used `batch`: a checkpoint taken now goes on after it."""
        done = batch.index + 1 >= len(self)
        self.epoch, self.batch = (batch.epoch + 1, 0) if done else (batch.epoch, batch.index + 1)

    def state_dict(self) -> dict[str, Any]:
        """Where training stands, and the settings that this place depends on."""
        return {"epoch": self.epoch, "batch": self.batch, **self._settings()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            ConfigError: The settings differ, so that the place means something else (all differences are
                listed); or there is no such place.
        """
        mine = self._settings()
        wrong = [f"{k}: {state.get(k)!r} then, {v!r} now" for k, v in mine.items() if state.get(k) != v]
        if wrong:
            raise ConfigError(
                "the checkpoint's data order does not fit this run (resume with the same settings):\n"
                + "\n".join(f"  - {line}" for line in wrong)
            )
        if state["batch"] >= len(self):  # an epoch without a batch, for ever
            raise ConfigError(
                f"the checkpoint is at batch {state['batch']} of an epoch of {len(self)}; was it changed? "
                "Put a copy of it there, or begin a new run in another folder (--out)"
            )
        self.epoch, self.batch = int(state["epoch"]), int(state["batch"])

    def _settings(self) -> dict[str, Any]:
        return {
            "n_detection": self.n_detection,
            "n_classification": self.n_classification,
            "global_batch": self.global_batch,
            "ratio": float(self.ratio),
            "sizes": list(self.sizes),
            "size_every": self.size_every,
            "seed": self.seed,
            "balanced": self.weights is not None,
            "repeated": self.detection_weights is not None,
        }

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self.epoch
        order = self._classification_order(epoch)
        for batch in range(self.batch, len(self)):
            yield self._batch(epoch, batch, order)

    def _batch(self, epoch: int, batch: int, order: NDArray[np.int64]) -> list[Key]:
        total = self.global_batch
        detection_end = int(self._detection_ends[batch])
        detection_start = int(self._detection_ends[batch - 1]) if batch else 0
        classification = batch * total - detection_start
        detection = detection_start
        is_detection = _spread(detection_end - detection_start, total)
        size = self._size(epoch * len(self) + batch)
        keys = []
        for slot in range(total):
            kind: Kind = "detection" if is_detection[slot] else "classification"
            index = (
                self._detection(epoch, detection)
                if is_detection[slot]
                else int(order[classification % len(order)])
            )
            detection, classification = (
                detection + is_detection[slot],
                classification + (not is_detection[slot]),
            )
            keys.append(Key(kind, index, size, self.seed, epoch, batch, batch * total + slot))
        return keys[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]

    def _detection(self, epoch: int, draw: int) -> int:
        """Image of a draw of an epoch. Beside classification data the turns go on from epoch to epoch."""
        if self.n_classification:
            turn, place = divmod(epoch * int(self._detection_ends[-1]) + draw, self.n_detection)
        else:
            turn, place = epoch, draw % self.n_detection
        return int(self._turn(turn)[place])

    def _detection_order(self, turn: int) -> NDArray[np.int64]:
        rng = np.random.default_rng((_DETECTION, self.seed, turn))
        return _drawn(self.n_detection, self.detection_weights, rng)

    def _size(self, batch: int) -> Size:
        rng = np.random.default_rng((_SIZE, self.seed, batch // self.size_every))
        return self.sizes[int(rng.integers(len(self.sizes)))]

    def _classification_order(self, epoch: int) -> NDArray[np.int64]:
        rng = np.random.default_rng((_CLASSIFICATION, self.seed, epoch))
        return _drawn(self.n_classification, self.weights, rng)


def _are_weights(weights: NDArray[np.float64] | None, count: int) -> bool:
    return weights is None or (len(weights) == count and bool(np.all(np.asarray(weights) > 0)))


def _drawn(count: int, weights: NDArray[np.float64] | None, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` draws of as many images in random order: each once, or in proportion to its weight."""
    if weights is None or not count:
        return rng.permutation(count)
    # Systematic sampling: equally spaced marks on the cumulated weights, shuffled before and after.
    shuffled = rng.permutation(count)
    ends = np.cumsum(np.asarray(weights, dtype=np.float64)[shuffled])
    marks = (np.arange(count) + rng.random()) * (ends[-1] / count)
    drawn = shuffled[np.searchsorted(ends, marks, side="right").clip(max=count - 1)]
    return rng.permutation(drawn)


def _spread(count: int, total: int) -> list[bool]:
    """`count` of `total` slots, evenly spaced."""
    return [(slot + 1) * count // total > slot * count // total for slot in range(total)]


def balance_weights(dataset: SampleDataset) -> NDArray[np.float64]:
    """Weights that draw rare synsets more often: the inverse square root of each label's frequency.

    Shape: float64 [images].

    Args:
        dataset: Classification data.
    """
    nodes = np.asarray([dataset.nodes(i)[0] for i in range(len(dataset))])
    frequency = np.bincount(nodes)
    return np.asarray(1 / np.sqrt(frequency[nodes]), dtype=np.float64)


def repeat_weights(dataset: SampleDataset, share: float) -> NDArray[np.float64]:
    """Weights that draw photos with rare classes more often, as LVIS repeats them (arXiv 1908.03195).

    A class that a fraction f of the photos show asks for max(1, sqrt(share / f)); a photo has the largest
    weight that one of its classes asks for, and 1 without any.

    Shape: float64 [images].

    Args:
        dataset: Detection data.
        share: Classes that fewer photos show are rare (LVIS: 0.001), in 0..1.
    """
    shown = [np.unique(np.asarray(dataset.nodes(i), np.int64)) for i in range(len(dataset))]
    photos = np.bincount(np.concatenate(shown)) if shown else np.zeros(0)
    wanted = np.sqrt(share * len(shown) / np.maximum(photos, 1))
    return np.asarray([max(1.0, *wanted[nodes]) if len(nodes) else 1.0 for nodes in shown], np.float64)
