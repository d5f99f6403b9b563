"""What every data set gives: one `Sample` type, and image bytes decoded to RGB.

Shapes: `M` boxes of one image, `H`, `W` pixels.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from yolo9000.errors import DataError
from yolo9000.image import to_rgb, undecodable, upright

if TYPE_CHECKING:
    from wordtree.tree import WordTree

Kind = Literal["detection", "classification"]

# Whose rules boxes are scored by, and so what an ignored box is: `voc` a difficult object; `coco` a crowd;
# `imagenet-det` a difficult object, with the challenge's own overlaps; `mixed`: data of several were joined
ScoreRules = Literal["voc", "coco", "imagenet-det", "mixed"]
SCORE_RULES: tuple[ScoreRules, ...] = get_args(ScoreRules)


def joint_rules(parts: Iterable[ScoreRules]) -> ScoreRules:
    """The rules of data sets that are joined: their common ones, or `mixed`."""
    found = set(parts)
    return found.pop() if len(found) == 1 else "mixed"


@dataclass(frozen=True)
class Sample:
    """One labelled image as it stands in its data set.

    Attributes:
        image: uint8 [3, H, W], RGB, turned by its EXIF orientation unless the boxes were drawn on it as it is
            stored (`Records.stated`).
        boxes: float32 [M, 4] XYXY in pixels of `image`, inside it; empty for classification.
        nodes: int64 [M] tree node of each box; for classification exactly one node.
        kind: What the labels are.
        source: File the image came from, for messages.
        ignored: bool [M], true where a box is not to be trained or scored on (VOC difficult, COCO crowd);
            left out: none is.
        stored: Position in an `ImageBank` that holds the pixels; of `image` then only the shape counts.
    """

    image: tv_tensors.Image
    boxes: tv_tensors.BoundingBoxes
    nodes: Tensor
    kind: Kind
    source: str
    ignored: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    stored: int | None = None

    def __post_init__(self) -> None:
        if len(self.ignored) == 0:
            object.__setattr__(self, "ignored", torch.zeros(len(self.nodes), dtype=torch.bool))


class SampleDataset(Protocol):
    """A data set of one kind whose labels are nodes of one tree."""

    tree: WordTree
    kind: Kind
    rules: ScoreRules

    @property
    def unmatched(self) -> Mapping[str, int]:
        """Labels that no node of the tree stands for, with how many annotations carry them."""

    @property
    def issues(self) -> Sequence[str]:
        """What the reader left out, with file and reason."""

    @property
    def fingerprint(self) -> str:
        """Changes with the images and their order, with every label and box; not with the folder."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def nodes(self, index: int) -> list[int]:
        """Nodes of one image's labels, those of ignored boxes left out, without decoding the image."""


def decode_image(data: bytes, source: str, size: tuple[int, int] = (0, 0)) -> Tensor:
    """Decode JPEG, PNG, WebP, GIF and what Pillow knows besides to RGB.

    Grey, palette, CMYK, 16-bit and transparent images become three 8-bit channels: see `to_rgb`. They are
    turned by their EXIF orientation: see `orientation`. (Pillow,
    not `torchvision.io`: that is deprecated since 0.29, and some damaged PNG files end its process.)

    Args:
        data: The encoded image.
        source: Name of the file, for the message.
        size: Width and height that its annotation states; 0, 0: none are stated.

    Returns:
        uint8 [3, H, W], in memory pixel by pixel as it was decoded: to change that order takes a third of the
        time of decoding, and resizing is quicker in this one.

    Raises:
        DataError: The bytes are no image, or a cut-off one.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            pixels = to_rgb(upright(picture, size))
    except Exception as error:  # each of Pillow's plugins has its own kinds
        raise DataError(
            f"{source}: cannot be decoded as an image ({len(data)} bytes: {undecodable(error)}); replace or "
            "remove the file; `yolo9000 data check` lists all such files"
        ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)
