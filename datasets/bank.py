"""All images decoded on the training device, where pictures are then drawn by the batch.

A loader's process draws some hundred pictures a second; a GPU trains a small network on thousands. So the
processes only plan (`TrainTransform.plan`), and the device draws what they planned.

Legend: `B` images of a batch, `H` and `W` height and width of the input in pixels, `S` either, `K` most
pastes of one picture, `I` images of the bank, `L` copies of each, from whole to an eighth of its sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from yolo9000.datasets.batch import Batch, Key, collate_labels
from yolo9000.datasets.cache import in_threads
from yolo9000.datasets.sample import Sample, SampleDataset
from yolo9000.datasets.transforms import GREY, Drawing, distort
from yolo9000.errors import DataError

_LEVELS = 4  # whole, a half, a quarter, an eighth of the sides
_LIMIT = 2**31  # pixels that 32-bit positions reach: 8.6 GB


@dataclass
class Plan:
    """A batch whose pictures are yet to be drawn.

    Attributes:
        batch: Everything but the pictures: its `images` are empty.
        size: Height and width of the pictures.
        pastes: int32 [B, K, 9] each image of the bank, then `part` and `area` of `Paste`.
        changes: float32 [B, 4] flip (0 or 1), hue, saturation, exposure.
    """

    batch: Batch
    size: tuple[int, int]
    pastes: Tensor
    changes: Tensor

    def pin_memory(self) -> Plan:
        """The plan in page-locked memory; called by a loader with `pin_memory=True`."""
        return replace(
            self,
            batch=self.batch.pin_memory(),
            pastes=self.pastes.pin_memory(),
            changes=self.changes.pin_memory(),
        )


def collate_plans(items: Sequence[tuple[Key, Drawing]]) -> Plan:
    """Put the drawings of a batch together.

    Raises:
        DataError: An image is in no bank.
    """
    keys, drawings = zip(*items, strict=True)
    most, (height, width) = max(len(drawing.pastes) for drawing in drawings), drawings[0].size
    # What an image has less than the others is filled up with a paste outside of the picture.
    outside = (0, 0, 0, 1, 1, width, height, width + 1, height + 1)
    pastes = np.full((len(drawings), most, 9), outside, np.int32)
    for index, drawing in enumerate(drawings):
        for place, paste in enumerate(drawing.pastes):
            if paste.stored is None:
                raise DataError(f"{drawing.source}: not in a bank; open its data through `ImageBank`")
            pastes[index, place] = (paste.stored, *paste.part, *paste.area)
    changes = [(float(drawing.flip), *drawing.colours) for drawing in drawings]
    batch = collate_labels(keys, drawings, torch.zeros(len(drawings), 3, 0, 0, dtype=torch.float32))
    return Plan(batch, (height, width), torch.from_numpy(pastes), torch.tensor(changes, dtype=torch.float32))


class _Stored:
    """The labels of images that are in a bank. Implements `SampleDataset`.

    Nothing of the data set that they come from is kept, so that its decoded images can go.
    """

    issues: Sequence[str] = ()  # that data set's were told when it was opened

    def __init__(self, dataset: SampleDataset, samples: list[Sample]) -> None:
        self.tree, self.kind, self.unmatched = dataset.tree, dataset.kind, dict(dataset.unmatched)
        self.rules, self.fingerprint = dataset.rules, dataset.fingerprint
        self._samples, self._nodes = samples, [dataset.nodes(index) for index in range(len(dataset))]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]

    def nodes(self, index: int) -> list[int]:
        """See `SampleDataset`."""
        return self._nodes[index]


class ImageBank:
    """Decoded images in the memory of one device: 5.3 bytes a pixel, with smaller copies of each.

    Pictures are drawn as `Drawing.draw` does, but for the filter: bilinear between the pixels of the nearest
    smaller copy, not antialiased in one step.

    Args:
        datasets: What is to be drawn, or None; each image is read once.
        device: Where the images lie and are drawn.

    Attributes:
        datasets: Data sets with the same labels, for a transform that plans (`TrainTransform.plan`): their
            images have a shape, but no pixels of their own.

    Raises:
        DataError: An image cannot be read, or they have more pixels than a bank holds.
    """

    def __init__(self, datasets: Sequence[SampleDataset | None], device: torch.device | str) -> None:
        self.device = torch.device(device)
        # Half the memory traffic, and exact to an eighth of a step of 1/255; slow on CPU.
        self._dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        self._parts: list[Tensor] = []
        self._levels: list[list[tuple[int, int, int]]] = []
        self._filled = 0
        self.datasets = [None if dataset is None else self._add(dataset) for dataset in datasets]
        if self._filled >= _LIMIT:
            raise DataError(
                f"{len(self)} images with their smaller copies have {self._filled:,} pixels; a bank holds "
                f"{_LIMIT:,}: lower data.cache, the longest side of the images, or set data.draw=loader"
            )
        self._pixels = torch.cat(self._parts).to(self.device)
        self._parts.clear()
        table = torch.tensor(self._levels, dtype=torch.long).view(-1, _LEVELS, 3)
        # int64 [I, L] each: first pixel, width and height of every level of every image
        self._starts, self._widths, self._heights = table.to(self.device).unbind(2)

    def __len__(self) -> int:
        return len(self._levels)

    @property
    def nbytes(self) -> int:
        """Memory of the images in bytes."""
        return self._pixels.nbytes

    def _add(self, dataset: SampleDataset) -> SampleDataset:
        found = in_threads(lambda index: _pixels(dataset[index]), len(dataset))
        samples = []
        for sample, copies in found:
            samples.append(replace(sample, stored=len(self._levels)))
            self._levels.append([self._store(copy) for copy in copies])
        return _Stored(dataset, samples)

    def _store(self, copy: Tensor) -> tuple[int, int, int]:
        """Append a copy of an image [H, W, 4]; where its pixels start, its width and its height."""
        height, width, _ = copy.shape
        start, self._filled = self._filled, self._filled + height * width
        self._parts.append(copy.view(-1, 4))
        return start, width, height

    @torch.no_grad()
    def draw(self, plan: Plan) -> Batch:
        """The batch with its pictures, all on the device."""
        device = self.device
        batch = plan.batch.to(device, non_blocking=True)
        pastes = plan.pastes.to(device, non_blocking=True).long()
        changes = plan.changes.to(device, non_blocking=True)
        image, part, area = pastes[..., 0], pastes[..., 1:5], pastes[..., 5:9]
        level = _nearest_level(part, area)
        start, width, height = (of[image, level] for of in (self._starts, self._widths, self._heights))
        down, along = (torch.arange(side, device=device).expand(len(changes), side) for side in plan.size)
        across = torch.where(changes[:, :1] > 0, plan.size[1] - 1 - along, along)
        left, right, share_x, in_x = _between(
            across, part[..., 0::2], area[..., 0::2], width, self._widths[image, 0], self._dtype
        )
        above, below, share_y, in_y = _between(
            down, part[..., 1::2], area[..., 1::2], height, self._heights[image, 0], self._dtype
        )
        # The paste that each pixel of the picture belongs to: at most one, since they do not overlap.
        covers = (in_y[..., :, None] & in_x[..., None, :]).to(torch.uint8)  # [B, K, H, W]
        most, which = covers.max(1)
        columns = [line.int().gather(1, which) for line in (left, right)]
        lines = [(start[..., None] + line * width[..., None]).int() for line in (above, below)]
        rows = [_gather_rows(line, which) for line in lines]
        share_x, share_y = share_x.gather(1, which)[..., None], _gather_rows(share_y, which)[..., None]
        upper, lower = (
            torch.lerp(self._at(row + columns[0]), self._at(row + columns[1]), share_x) for row in rows
        )
        pictures = torch.lerp(upper, lower, share_y)[..., :3].to(torch.float32).contiguous().mul_(1 / 255)
        pictures = pictures.masked_fill_((most == 0)[..., None], GREY / 255).permute(0, 3, 1, 2)
        return replace(
            batch, images=distort(pictures, *(change[:, None, None] for change in changes[:, 1:].T))
        )

    def _at(self, position: Tensor) -> Tensor:
        """Pixels [B, H, W, 4] in 0..255."""
        return self._pixels.index_select(0, position.view(-1)).view(*position.shape, 4).to(self._dtype)


def _nearest_level(part: Tensor, area: Tensor) -> Tensor:
    """The smaller copy whose pixels are nearest in size to those of the picture: [B, K] from [B, K, 4]."""
    shrunk = (part[..., 2:] - part[..., :2]).float() / (area[..., 2:] - area[..., :2])
    return shrunk.amin(-1).log2().round().long().clamp(0, _LEVELS - 1)


def _between(
    places: Tensor, part: Tensor, area: Tensor, pixels: Tensor, whole: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Along one side: which two pixels of an image each place of the picture lies between.

    Args:
        places: [B, S] places in the picture.
        part: [B, K, 2] first pixel of the image that is shown, and the one after the last.
        area: [B, K, 2] the same of the picture that shows it.
        pixels: [B, K] pixels of the copy that is drawn from.
        whole: [B, K] pixels of the image itself.
        dtype: Of the shares.

    Returns:
        The pixel before, the one after and the share of the latter; whether the place belongs to the paste.
        Each [B, K, S].
    """
    place, ratio = places[:, None].float(), (pixels.float() / whole)[..., None]
    (first, last), (begin, end) = part[..., None, :].unbind(-1), area[..., None, :].unbind(-1)
    exact = (first + (place + 0.5 - begin) * (last - first) / (end - begin)) * ratio - 0.5
    most = (pixels - 1)[..., None]
    exact = torch.minimum(exact.clamp(min=0), most.to(exact.dtype))
    before = exact.long()
    share = (exact - before).to(dtype)
    return before, torch.minimum(before + 1, most), share, (place >= begin) & (place < end)


def _gather_rows(lines: Tensor, which: Tensor) -> Tensor:
    """From a value a row of the picture and paste [B, K, H], that of each pixel's own: [B, H, W]."""
    return lines.mT.gather(2, which)


def _pixels(sample: Sample) -> tuple[Sample, list[Tensor]]:
    """The sample with an image that has a shape only; the image and its smaller copies, uint8 [H, W, 4]."""
    image = sample.image.as_subclass(torch.Tensor)
    height, width = image.shape[-2:]
    copies = []
    for level in range(_LEVELS):
        sides = [max(1, round(side / 2**level)) for side in (height, width)]
        copy = torch.zeros(*sides, 4, dtype=torch.uint8)
        copy[..., :3] = (image if level == 0 else F.resize(image, sides, antialias=True)).permute(1, 2, 0)
        copies.append(copy)
    shape = torch.zeros((), dtype=torch.uint8).expand(image.shape)
    return replace(sample, image=tv_tensors.Image(shape)), copies
