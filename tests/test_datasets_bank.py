"""What the device draws is what the loader's processes would draw, and trains the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from wordtree import WordTree
from yolo9000.datasets import ImageBank, JointDataset, JointSampler, Sample, TrainTransform
from yolo9000.datasets.bank import collate_plans
from yolo9000.datasets.batch import Batch, collate
from yolo9000.datasets.records import make_sample
from yolo9000.datasets.sample import Kind, ScoreRules
from yolo9000.errors import DataError

TREE = WordTree([-1, -1, -1], ["a", "b", "c"])
SIZES = (64, 96, (64, 160), (128, 32))
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, CUDA])]


class Waves:
    """Smooth pictures of different shapes. Implements `SampleDataset`."""

    def __init__(self, n: int, kind: Kind) -> None:
        self.n, self.kind, self.tree = n, kind, TREE
        self.unmatched: dict[str, int] = {}
        self.rules: ScoreRules = "voc"
        self.fingerprint = ""

    def __len__(self) -> int:
        return self.n

    def nodes(self, index: int) -> list[int]:
        return [index % 3]

    def __getitem__(self, index: int) -> Sample:
        height, width = 60 + 17 * (index % 5), 150 - 19 * (index % 4)
        y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 2, width), indexing="ij")
        phase = torch.arange(3.0).view(3, 1, 1) + index + (4 if self.kind == "detection" else 0)
        image = (127 + 120 * torch.sin(x + phase) * torch.cos(y - phase)).to(torch.uint8)
        boxes = np.asarray([[5, 5, 50, 40]] if self.kind == "detection" else [], np.float32).reshape(-1, 4)
        return make_sample(image, boxes, np.asarray(self.nodes(index)), self.kind, f"{self.kind} {index}")


def both_ways(transform: TrainTransform, device: str, mosaic: bool = False) -> list[tuple[Batch, Batch]]:
    """Some batches, each drawn image by image and drawn by a bank."""
    detection, classification = Waves(7, "detection"), Waves(20, "classification")
    more = Waves(5, "detection") if mosaic else None
    bank = ImageBank((detection, classification, more), device)
    assert len(bank) == 27 + (5 if mosaic else 0)
    share = 0.4 if mosaic else 0.0
    here = JointDataset(detection, classification, transform, more, share)
    there = JointDataset(bank.datasets[0], bank.datasets[1], transform.plan, bank.datasets[2], share)
    sampler = JointSampler(7, 20, 6, 1.0, SIZES, size_every=1)
    return [
        (collate([here[key] for key in keys]), bank.draw(collate_plans([there[key] for key in keys])))
        for keys in itertools.islice(sampler, 5)
    ]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("settings", "mosaic"),
    [
        ({"jitter": 0.0, "flip": 0.0, "hue": 0.0, "saturation": 1.0, "exposure": 1.0}, False),
        ({"flip": 1.0, "scale": (0.3, 2.0)}, False),
        ({"mosaic": 0.5, "scale": (0.4, 1.8)}, True),
        ({"mosaic": 1.0, "crop": (0.2, 1.0)}, True),
    ],
)
def test_drawn_like_by_the_loader(settings: dict[str, float], mosaic: bool, device: str) -> None:
    for expected, found in both_ways(TrainTransform(**settings), device, mosaic):
        assert found.images.device.type == device
        assert found.images.is_contiguous(memory_format=torch.channels_last)
        names = ("boxes", "nodes", "image_index", "labels", "tiles", "tile_nodes", "tile_index")
        for name in names:
            assert torch.equal(getattr(found, name).cpu(), getattr(expected, name)), name
        assert found.sources == expected.sources
        assert (found.epoch, found.index) == (expected.epoch, expected.index)
        # The filters differ, and with them pixels at the borders of pictures; most differ by less than 1/255.
        difference = (found.images.cpu() - expected.images).abs()
        assert difference.mean() < 0.01
        assert difference.flatten(1).median(1).values.max() < 0.006


def test_other_pictures_are_told_apart() -> None:
    """The comparison above would notice a picture in another's place, unflipped or moved."""
    for expected, found in both_ways(TrainTransform(flip=1.0), "cpu"):
        for wrong in (found.images.flip(0), found.images.flip(3), found.images.roll(4, 2)):
            assert (wrong - expected.images).abs().mean() > 0.01


def test_smaller_copies_have_no_aliases() -> None:
    """Stripes of one pixel become grey where they are shown at a quarter, not stripes of another width."""
    stripes = torch.zeros(3, 256, 256, dtype=torch.uint8)
    stripes[:, :, ::2] = 255

    class Stripes(Waves):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            nothing = np.zeros((0, 4), np.float32)
            return make_sample(stripes, nothing, sample.nodes.numpy(), self.kind, sample.source)

    transform = TrainTransform(jitter=0, flip=0, hue=0, saturation=1, exposure=1)
    bank = ImageBank((Stripes(1, "classification"),), "cpu")
    dataset = JointDataset(None, bank.datasets[0], transform.plan)
    key = next(iter(JointSampler(0, 1, 1, sizes=(64,))))[0]
    assert (bank.draw(collate_plans([dataset[key]])).images - 0.5).abs().max() < 0.05


def test_a_transform_that_plans_needs_a_bank() -> None:
    dataset = JointDataset(None, Waves(3, "classification"), TrainTransform().plan)
    key = next(iter(JointSampler(0, 3, 1, sizes=(64,))))[0]
    with pytest.raises(DataError, match="not in a bank; open its data"):
        collate_plans([dataset[key]])


def test_memory() -> None:
    bank = ImageBank((Waves(4, "classification"), None), "cpu")
    pixels = sum(np.prod(Waves(4, "classification")[i].image.shape[1:]) for i in range(4))
    assert 4 * pixels < bank.nbytes < 1.4 * 4 * pixels
    assert bank.datasets[1] is None
    assert bank.datasets[0].nodes(2) == [2]
