"""Fitting a picture into a network's input with its proportions kept, and bringing boxes back (letterbox).

Shapes: H, W height and width of the picture, pixels; h, w those of the network input; C channels; K boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LetterboxMode: TypeAlias = Literal["torch", "darknet"]

GREY = 0.5  # what surrounds a letterboxed picture (darknet image.c, letterbox_image)


@dataclass(frozen=True)
class Letterbox:
    """Where a picture lies in a network's input.

    Attributes:
        image_size: (H, W) of the original picture, pixels.
        size: (h, w) of the network input, pixels.
        resized: (height, width) of the picture within the input, pixels.
        top: Rows of grey above the picture; a half row is counted in mode "darknet", as its C code does.
        left: Columns of grey left of the picture, likewise.
    """

    image_size: tuple[int, int]
    size: tuple[int, int]
    resized: tuple[int, int]
    top: float
    left: float

    @classmethod
    def fit(
        cls, image_size: tuple[int, int], size: tuple[int, int], mode: LetterboxMode = "torch"
    ) -> Letterbox:
        """Centre a picture in the input, as large as fits (darknet image.c, letterbox_image).

        Widths are cut to integers as in C. Pictures so narrow that nothing would be left keep one pixel.
        """
        (height, width), (h, w) = image_size, size
        if np.float32(w) / np.float32(width) < np.float32(h) / np.float32(height):
            resized = (max(1, height * w // width), w)
        else:
            resized = (h, max(1, width * h // height))
        top, left = (h - resized[0]) / 2, (w - resized[1]) / 2
        if mode == "torch":
            top, left = float(int(top)), float(int(left))
        return cls(image_size, size, resized, top, left)

    def unmap(self, boxes: Tensor, *, clip: bool = True) -> Tensor:
        """Bring boxes back to the original picture, clipped to it.

        The arithmetic is darknet's (region_layer.c, correct_region_boxes), with the picture's integer size
        within the input.

        Args:
            boxes: [K, 4] centre x, centre y, width, height as fractions of the network input.
            clip: False: leave corners where they are.

        Returns:
            [K, 4] x1, y1, x2, y2 in pixels of the original, corners within [0, W] and [0, H]. A box that lay
            wholly in the grey has no area left.
        """
        height, width = self.image_size
        scale, offset = self._geometry(boxes)
        centre, half = (boxes[:, :2] - offset) * scale, boxes[:, 2:] * scale / 2
        corners = torch.cat((centre - half, centre + half), dim=1)
        if not clip:
            return corners
        limit = boxes.new_tensor([width, height, width, height])
        return torch.minimum(corners.clamp(min=0), limit)

    def map(self, boxes: Tensor) -> Tensor:
        """The reverse of `unmap`: [K, 4] x1, y1, x2, y2 in pixels of the picture to cxcywh in the input."""
        scale, offset = self._geometry(boxes)
        first, last = boxes[:, :2], boxes[:, 2:]
        return torch.cat(((first + last) / 2 / scale + offset, (last - first) / scale), dim=1)

    def _geometry(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels of the picture [2] (x, y) to the whole input, and where it begins there as fractions [2]."""
        (height, width), (h, w), (inner_h, inner_w) = self.image_size, self.size, self.resized
        scale = like.new_tensor([w / inner_w * width, h / inner_h * height])
        return scale, like.new_tensor([self.left / w, self.top / h])


def letterbox(
    image: Tensor, size: tuple[int, int], mode: LetterboxMode = "torch"
) -> tuple[Tensor, Letterbox]:
    """Fit a picture into a network's input, proportions kept, centred on grey.

    Args:
        image: [3, H, W] uint8.
        size: (h, w) of the network input, pixels.
        mode: "torch" resamples with antialiased bilinear filtering (what models trained here have seen);
            "darknet" repeats its C code's arithmetic (what published weights have seen).

    Returns:
        Tensor [3, h, w] float32 0..1 and the geometry.
    """
    fit = Letterbox.fit((image.shape[-2], image.shape[-1]), size, mode)
    if mode == "torch":
        inner = _resize(image, fit.resized) / 255
    else:
        inner = _darknet_resize(image.float() / 255, fit.resized)
    canvas = image.new_full((image.shape[0], *size), GREY, dtype=torch.float32)
    top, left = int(fit.top), int(fit.left)
    canvas[:, top : top + fit.resized[0], left : left + fit.resized[1]] = inner
    return canvas, fit


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample [C, H, W] uint8 to `size`: antialiased bilinear, to whole values of float32.

    The same as torchvision's `resize`, whose import takes longer than torch's own.
    """
    # The kernel for uint8 is several times faster than that for float32, but CUDA has none.
    pixels = image if image.device.type == "cpu" else image.float()
    resized = F.interpolate(pixels[None], size, mode="bilinear", antialias=True)[0]
    return resized.float().round_()


def _darknet_resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample [C, H, W] float to `size`, first along rows, then along columns (image.c, resize_image).

    Corners stay corners: the step is (in − 1) / (out − 1) in float32. C keeps one flaw, and we keep it: the
    last row takes its upper neighbour's share alone, which is nearly nothing where rounding put it just above
    the last row.
    """
    (height, width), (h, w) = image.shape[-2:], size
    index, share = _taps(width, w, image.device)
    index[-1], share[-1] = width - 1, 0.0  # the last column is copied
    after = (index + 1).clamp(max=width - 1)
    image = (1 - share) * image[..., index] + share * image[..., after]
    index, share = _taps(height, h, image.device)
    below = (index + 1).clamp(max=height - 1)
    kept = (1 - share)[:, None] * image[..., index, :]
    added = share[:, None] * image[..., below, :]
    added[..., -1, :] = 0.0
    return kept + added


def _taps(length: int, new: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each new pixel: the old one before it, int64 [new]; the share of the one after, float32 [new]."""
    step = np.float32(length - 1) / np.float32(new - 1) if new > 1 else np.float32(0)
    place = torch.arange(new, dtype=torch.float32, device=device) * float(step)
    index = place.long()
    return index, place - index
