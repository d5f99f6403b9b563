"""The joint sampler's arithmetic, exactly: proportions, passes, ranks, resume, and independence of
workers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from wordtree import WordTree
from yolo9000.datasets import (
    Batch,
    JointDataset,
    JointSampler,
    Kind,
    Sample,
    TrainTransform,
    balance_weights,
    collate,
    repeat_weights,
)
from yolo9000.datasets.batch import Key
from yolo9000.datasets.records import make_sample
from yolo9000.datasets.sample import ScoreRules
from yolo9000.errors import ConfigError, DataError

TREE = WordTree([-1, -1, -1], ["a", "b", "c"])


class Numbers:
    """Images that carry their own number as colour. Implements `SampleDataset`."""

    def __init__(self, n: int, kind: Kind, nodes: list[int] | None = None) -> None:
        self.n, self.kind, self.tree = n, kind, TREE
        self._nodes = nodes or [i % 3 for i in range(n)]
        self.unmatched: dict[str, int] = {}
        self.rules: ScoreRules = "voc"
        self.fingerprint = ""

    def __len__(self) -> int:
        return self.n

    def nodes(self, index: int) -> list[int]:
        return [self._nodes[index]]

    def __getitem__(self, index: int) -> Sample:
        image = torch.full((3, 20, 30), index, dtype=torch.uint8)
        boxes = np.asarray([[2, 2, 20, 18]] if self.kind == "detection" else [], np.float32).reshape(-1, 4)
        return make_sample(image, boxes, np.asarray(self.nodes(index)), self.kind, f"{self.kind} {index}")


def keys(sampler: JointSampler) -> list[list[Key]]:
    return list(sampler)


def images(batches: list[list[Key]], kind: Kind) -> list[int]:
    return [key.image for batch in batches for key in batch if key.kind == kind]


@pytest.mark.parametrize(
    ("batch_size", "ratio"), [(5, 4.0), (8, 4.0), (64, 4.0), (10, 1.0), (7, 2.5), (32, 0.25)]
)
def test_proportions(batch_size: int, ratio: float) -> None:
    batches = keys(JointSampler(13, 400, batch_size, ratio))
    share = batch_size / (1 + ratio)
    detection = 0
    for number, batch in enumerate(batches, start=1):
        assert len(batch) == batch_size
        here = sum(key.kind == "detection" for key in batch)
        assert np.floor(share) <= here <= np.ceil(share)
        detection += here
        assert detection == int(number * share + 1e-9)  # never more than one image off, over the whole epoch


@pytest.mark.parametrize("batch_size", [2, 3, 4])
def test_small_batches_hold_both_kinds(batch_size: int) -> None:
    for batch in keys(JointSampler(5, 40, batch_size, 4.0)):
        assert sum(key.kind == "detection" for key in batch) == 1


@pytest.mark.parametrize("world_size", [1, 2])
def test_an_epoch_is_one_pass_over_classification(world_size: int) -> None:
    samplers = [JointSampler(13, 401, 6, rank=r, world_size=world_size) for r in range(world_size)]
    batches = [batch for sampler in samplers for batch in sampler]
    seen = Counter(images(batches, "classification"))
    assert set(seen) == set(range(401))
    assert max(seen.values()) <= 2
    assert sum(seen.values()) - 401 < 6 * world_size
    assert len({len(sampler) for sampler in samplers}) == 1


def test_detection_goes_round_and_round() -> None:
    sampler = JointSampler(13, 400, 10, 4.0)
    drawn = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        drawn += images(keys(sampler), "detection")
    passes = [drawn[i : i + 13] for i in range(0, len(drawn) - 12, 13)]
    assert all(sorted(turn) == list(range(13)) for turn in passes)
    assert len(set(map(tuple, passes))) == len(passes)


@pytest.mark.parametrize("n", [20, 23])
@pytest.mark.parametrize("kind", ["detection", "classification"])
def test_one_kind_only(n: int, kind: Kind) -> None:
    detection, classification = (n, 0) if kind == "detection" else (0, n)
    sampler = JointSampler(detection, classification, 4)
    assert len(sampler) == -(-n // 4)
    orders = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        drawn = images(keys(sampler), kind)
        assert set(drawn) == set(range(n))
        assert len(drawn) == 4 * len(sampler)
        orders.append(drawn)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("balanced", [False, True])
def test_ranks_take_disjoint_parts_of_the_same_batches(balanced: bool) -> None:
    settings: dict[str, Any] = {"seed": 4, "sizes": (64, 96)}
    if balanced:
        settings["classification_weights"] = balance_weights(
            Numbers(400, "classification", [0] * 350 + [1] * 50)
        )
    whole = keys(JointSampler(50, 400, 20, **settings))
    parts = [keys(JointSampler(50, 400, 5, rank=r, world_size=4, **settings)) for r in range(4)]
    for number, batch in enumerate(whole):
        assert [key for part in parts for key in part[number]] == batch
        for part in parts:
            assert sum(key.kind == "detection" for key in part[number]) == 1
    positions = [key.position for batch in whole for key in batch]
    assert positions == list(range(len(positions)))


@pytest.mark.parametrize(("detection", "classification"), [(13, 300), (0, 300), (300, 0)])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_see_no_image_twice(detection: int, classification: int, world_size: int) -> None:
    """Of the kind that makes the epoch, but for the few that fill up the last batch."""
    kind: Kind = "classification" if classification else "detection"
    samplers = [
        JointSampler(detection, classification, 5, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    seen = [images(list(sampler), kind) for sampler in samplers]
    assert set().union(*seen) == set(range(300))
    before_last = [images(list(sampler)[:-1], kind) for sampler in samplers]
    assert sum(map(len, before_last)) == len(set().union(*before_last))


def test_sizes_change_every_ten_batches_on_all_ranks() -> None:
    sizes = (320, 352, 384, 416)
    samplers = [JointSampler(9, 900, 3, sizes=sizes, seed=1, rank=r, world_size=2) for r in range(2)]
    by_rank = [[{key.size for key in batch} for batch in sampler] for sampler in samplers]
    assert by_rank[0] == by_rank[1]
    assert all(len(size) == 1 for size in by_rank[0])
    blocks = [by_rank[0][i : i + 10] for i in range(0, len(by_rank[0]), 10)]
    assert all(block.count(block[0]) == len(block) for block in blocks)
    assert set.union(*by_rank[0]) == set(sizes)


def test_seed_and_epoch_change_the_order() -> None:
    def order(seed: int, epoch: int) -> list[list[Key]]:
        sampler = JointSampler(13, 100, 10, seed=seed)
        sampler.set_epoch(epoch)
        return keys(sampler)

    assert order(1, 0) == order(1, 0)
    assert images(order(1, 0), "classification") != images(order(2, 0), "classification")
    assert images(order(1, 0), "classification") != images(order(1, 1), "classification")
    first = order(1, 0)[0][0]
    assert first.generator().random() == first.generator().random()
    assert first.generator().random() != first._replace(epoch=1).generator().random()
    assert first.generator().random() != first._replace(seed=2).generator().random()


def loader(sampler: JointSampler, workers: int = 0, n: tuple[int, int] = (7, 40)) -> DataLoader[Batch]:
    dataset = JointDataset(
        Numbers(n[0], "detection"),
        Numbers(n[1], "classification"),
        TrainTransform(mosaic=0.5),
        classification_tiles=0.3,
    )
    return DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, num_workers=workers)  # type: ignore[arg-type]


def fields(batch: Batch) -> tuple[object, ...]:
    tensors = (batch.images, batch.boxes, batch.nodes, batch.image_index, batch.labels, batch.tiles)
    return (*(tensor.numpy().tobytes() for tensor in tensors), batch.sources, batch.epoch, batch.index)


def test_workers_change_nothing_and_resume_is_exact() -> None:
    def run(workers: int, epochs: int, sampler: JointSampler, stop: int = -1) -> list[tuple[object, ...]]:
        found = []
        for _ in range(epochs):
            for batch in loader(sampler, workers):
                sampler.consumed(batch)
                found.append(fields(batch))
                if len(found) == stop:
                    return found
        return found

    def fresh() -> JointSampler:
        return JointSampler(7, 40, 5, sizes=(32, 64), seed=9, size_every=3)

    alone = run(0, 2, fresh())
    assert len(alone) == 2 * len(fresh())
    sampler = fresh()
    head = run(2, 1, sampler, stop=4)  # the workers have read further than this
    state = sampler.state_dict()
    assert (state["epoch"], state["batch"]) == (0, 4)
    resumed = fresh()
    resumed.load_state_dict(state)
    assert head + run(0, 2, resumed) == alone
    assert resumed.state_dict()["epoch"] == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 2},
        {"ratio": 3.0},
        {"sizes": (64,)},
        {"batch_size": 6},
        {"n_detection": 8},
        {"n_classification": 41},
    ],
)
def test_resume_with_other_settings_is_refused(changed: dict[str, object]) -> None:
    settings = {"n_detection": 7, "n_classification": 40, "batch_size": 5, "seed": 1} | changed
    state = JointSampler(7, 40, 5, seed=1).state_dict()
    with pytest.raises(ConfigError, match=r"does not fit this run(.|\n)* then, .* now"):
        JointSampler(**settings).load_state_dict(state)  # type: ignore[arg-type]


def test_resume_on_another_number_of_processes() -> None:
    state = JointSampler(7, 40, 4).state_dict() | {"epoch": 1, "batch": 2}
    halves = [JointSampler(7, 40, 2, rank=r, world_size=2) for r in range(2)]
    whole = JointSampler(7, 40, 4)
    for sampler in (*halves, whole):
        sampler.load_state_dict(state)
    assert [a + b for a, b in zip(*map(keys, halves), strict=True)] == keys(whole)


def test_balance() -> None:
    dataset = Numbers(500, "classification", [0] * 400 + [1] * 100)
    weights = balance_weights(dataset)
    assert weights[0] / weights[-1] == pytest.approx((100 / 400) ** 0.5)
    sampler = JointSampler(0, 500, 10, classification_weights=weights)
    drawn = images(keys(sampler), "classification")
    counts = Counter(drawn)
    rare = sum(count for index, count in counts.items() if index >= 400)
    assert rare == pytest.approx(500 / 3, abs=2)  # sqrt(400) : sqrt(100) = 2 : 1
    assert {counts[i] for i in range(400, 500)} == {1, 2}  # 1.67 expected, rounded up or down
    assert {counts[i] for i in range(400)} == {0, 1}  # 0.83 expected


def test_repeat() -> None:
    dataset = Numbers(100, "detection", [0] * 96 + [1] * 4)
    weights = repeat_weights(dataset, 0.36)
    assert weights.tolist() == pytest.approx([1.0] * 96 + [3.0] * 4)  # sqrt(0.36 / 0.04)
    assert repeat_weights(dataset, 0.04).tolist() == [1.0] * 100
    sampler = JointSampler(100, 100, 10, 1.0, detection_weights=weights)
    for epoch in range(2):  # a turn has as many draws as there are photos
        sampler.set_epoch(epoch)
        counts = Counter(images(keys(sampler), "detection"))
        assert sum(counts[index] for index in range(96, 100)) == pytest.approx(100 * 12 / 108, abs=2)
    state, done = sampler.state_dict(), keys(sampler)
    with pytest.raises(ConfigError, match="repeated: False then, True now"):
        sampler.load_state_dict({**state, "repeated": False})
    again = JointSampler(100, 100, 10, 1.0, detection_weights=weights)
    again.load_state_dict(state)
    assert keys(again) == done


def test_repeated_photos_fill_mosaics_as_often() -> None:
    weights = np.asarray([1.0, 1.0, 6.0])
    dataset = JointDataset(
        Numbers(3, "detection", [0, 0, 1]), None, TrainTransform(mosaic=1.0), detection_weights=weights
    )
    shown = [
        node for number in range(300) for node in dataset[Key("detection", 0, 64, 0, 0, 0, number)][1].nodes
    ]
    others = len(shown) - 300  # the photo asked for is in each
    assert shown.count(1) / others == pytest.approx(0.75, abs=0.06)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"n_detection": 0, "n_classification": 0}, "no images"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"batch_size": 1}, "expected at least 2 for two kinds"),
        ({"ratio": 0.0}, "ratio: expected more than 0"),
        ({"sizes": ()}, "sizes: expected positive multiples of 32"),
        ({"sizes": (320, 350)}, "sizes: expected positive multiples of 32"),
        ({"seed": -1}, "seed"),
        ({"rank": 2, "world_size": 2}, "rank: expected 0 to 1, got 2"),
        ({"size_every": 0}, "size_every"),
        ({"classification_weights": np.ones(3)}, "classification_weights: expected 40"),
        ({"classification_weights": np.zeros(40)}, "classification_weights"),
        ({"detection_weights": np.ones(40)}, "detection_weights: expected 7"),
    ],
)
def test_wrong_settings(arguments: dict[str, object], problem: str) -> None:
    settings = {"n_detection": 7, "n_classification": 40, "batch_size": 5} | arguments
    with pytest.raises(ConfigError, match=problem):
        JointSampler(**settings)  # type: ignore[arg-type]


def test_collate() -> None:
    sampler = JointSampler(7, 40, 10, sizes=(64,))
    dataset = JointDataset(Numbers(7, "detection"), Numbers(40, "classification"), TrainTransform(jitter=0.0))
    asked = keys(sampler)[3]
    batch = collate([dataset[key] for key in asked])
    assert batch.images.shape == (10, 3, 64, 64)
    assert len(batch) == 10
    assert (batch.epoch, batch.index) == (0, 3)
    is_detection = [key.kind == "detection" for key in asked]
    assert (batch.labels < 0).tolist() == is_detection
    assert batch.image_index.tolist() == np.flatnonzero(is_detection).tolist()
    assert batch.boxes.shape == (2, 4)
    assert batch.nodes.tolist() == [key.image % 3 for key in asked if key.kind == "detection"]
    assert batch.labels[batch.labels >= 0].tolist() == [k.image % 3 for k in asked if k.kind != "detection"]
    assert batch.sources == [f"{key.kind} {key.image}" for key in asked]
    moved = batch.to("meta")
    assert moved.images.is_meta
    assert moved.nodes.is_meta
    assert moved.sources == batch.sources


def test_collate_without_boxes() -> None:
    dataset = JointDataset(None, Numbers(4, "classification"))
    batch = collate([dataset[key] for key in keys(JointSampler(0, 4, 4, sizes=(32,)))[0]])
    assert batch.boxes.shape == (0, 4)
    assert batch.nodes.dtype == batch.image_index.dtype == batch.labels.dtype == torch.int64


def test_joint_dataset_refuses_what_does_not_fit() -> None:
    detection, classification = Numbers(3, "detection"), Numbers(3, "classification")
    with pytest.raises(DataError, match="neither"):
        JointDataset(None, None)
    with pytest.raises(DataError, match="expected classification data, got a detection data set"):
        JointDataset(None, detection)
    classification.tree = WordTree([-1, -1], ["a", "b"])
    with pytest.raises(DataError, match="different trees"):
        JointDataset(detection, classification)
    other = Numbers(3, "detection")
    other.tree = classification.tree
    with pytest.raises(DataError, match="different trees"):
        JointDataset(detection, None, mosaic=other)
    with pytest.raises(DataError, match="images that fill mosaics must be detection data"):
        JointDataset(detection, None, mosaic=Numbers(3, "classification"))
    with pytest.raises(DataError, match="stand beside such data"):
        JointDataset(None, Numbers(3, "classification"), mosaic=detection)


@pytest.mark.parametrize(("share", "tiles"), [(0.5, 1.5), (1.0, 3.0), (0.0, 0.0)])
def test_classification_images_in_mosaics(share: float, tiles: float) -> None:
    detection, classification = Numbers(3, "detection", [0, 0, 0]), Numbers(5, "classification", [1] * 5)
    transform = TrainTransform(mosaic=1.0, jitter=0.0)
    dataset = JointDataset(detection, classification, transform, classification_tiles=share)
    items = [dataset[Key("detection", 0, 64, 0, 0, 0, i)] for i in range(80)]
    batch = collate(items)
    assert len(batch.tiles) == len(batch.tile_nodes) == len(batch.tile_index)
    assert len(batch.tiles) / 80 == pytest.approx(tiles, abs=0.25)
    assert batch.tile_nodes.tolist() == [1] * len(batch.tiles)
    counts = [len(example.tile_nodes) for _, example in items]
    assert batch.tile_index.bincount(minlength=80).tolist() == counts
    assert bool((batch.labels == -1).all())
    whole = dataset[Key("classification", 0, 64, 0, 0, 0, 0)][1]
    assert (whole.label, len(whole.tiles)) == (1, 0)


def test_classification_images_in_mosaics_need_both_kinds() -> None:
    with pytest.raises(DataError, match="need both kinds of data"):
        JointDataset(Numbers(3, "detection"), None, classification_tiles=0.5)


@pytest.mark.parametrize(("probability", "share"), [(1.0, 3 / 8), (0.0, 0.0)])
def test_images_that_only_fill_mosaics(probability: float, share: float) -> None:
    """Half of three further tiles of four, and never the image that the sampler asked for."""
    detection, mosaic = Numbers(3, "detection", [0, 0, 0]), Numbers(5, "detection", [1] * 5)
    transform = TrainTransform(mosaic=probability, jitter=0.0)
    dataset = JointDataset(detection, None, transform, mosaic)
    examples = [dataset[Key("detection", 0, 64, 0, 0, 0, i)][1] for i in range(150)]
    nodes = torch.cat([example.nodes for example in examples])
    assert {example.source for example in examples} == {"detection 0"}
    assert float((nodes == 1).float().mean()) == pytest.approx(share, abs=0.07)


def test_sizes_are_multiples_of_the_stride() -> None:
    assert JointSampler(4, 0, 2, sizes=(80,), stride=16).sizes == (80,)
    assert next(iter(JointSampler(4, 0, 2, sizes=[(32, 64)])))[0].size == (32, 64)
    for wrong in (96, (64, 96), (0, 64)):
        with pytest.raises(ConfigError, match=r"positive multiples of 64, got \(\(?\d+,"):
            JointSampler(4, 0, 2, sizes=[wrong], stride=64)
