"""Boxes for photos that have a label only, as a trained detector finds them: more photos for the last stage.

    python recipes/nano/boxes.py SPEC MODEL OUT.h5 [--sizes 224 288] [--objectness 0.3]

SPEC is classification data, such as `imagenet:DIR`. Each photo is shown at every size, as it is and mirrored.
In each view the box counts that is likeliest to be what the label says (objectness x P(label)). Where three
quarters of the views agree, their mean becomes the photo's box, with its label; the other photos are left out.
OUT.h5 is detection data: `pack:OUT.h5`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.ops import box_iou

from yolo9000 import YOLO9000
from yolo9000.datasets import open_dataset, pack, read_records
from yolo9000.datasets.records import RecordsBuilder
from yolo9000.datasets.store import PartStore
from yolo9000.errors import DataError
from yolo9000.letterbox import letterbox
from yolo9000.matching import all_boxes

AGREE, OVERLAP = 0.75, 0.6  # share of the views, and the least IoU with the one most like all others
BATCH = 16


@torch.inference_mode()
def views(model: YOLO9000, images: list[Tensor], nodes: Tensor, size: int) -> Tensor:
    """The box of the label in each image, as it is and mirrored: [B, 2, 5] XYXY in pixels, objectness."""
    fitted = [letterbox(image, (size, size)) for image in images]
    pixels = torch.stack([picture for picture, _ in fitted])
    found = []
    for mirrored in (False, True):
        features = model.engine.features(pixels.flip(-1) if mirrored else pixels)
        raw = model.engine.boxes(features)  # [B, A, 5, H, W]
        sure = raw[:, :, 4].sigmoid() * model.network.head.path_log_probs(features, nodes).exp()
        best = sure.flatten(1).argmax(1)
        rows = torch.arange(len(images))
        boxes = all_boxes(raw, model.network.head.anchors).flatten(1, 3)[rows, best]
        if mirrored:
            boxes[:, 0] = 1 - boxes[:, 0]
        boxes = torch.cat([fit.unmap(box[None]) for (_, fit), box in zip(fitted, boxes, strict=True)])
        found.append(torch.cat((boxes, raw[:, :, 4].sigmoid().flatten(1)[rows, best, None]), 1))
    return torch.stack(found, 1)


def agreed(boxes: Tensor) -> Tensor | None:
    """What most views of a photo say, [5], from [V, 5]; None where they do not agree."""
    overlaps = box_iou(boxes[:, :4], boxes[:, :4])
    like = overlaps[overlaps.sum(1).argmax()] >= OVERLAP
    return boxes[like].mean(0) if like.float().mean() >= AGREE else None


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 288])
    parser.add_argument("--objectness", type=float, default=0.3, help="least mean of the views that agree")
    options = parser.parse_args(arguments)
    model, source = YOLO9000.load(options.model, device="cpu"), read_records(options.data)
    dataset = open_dataset(options.data, model.tree)
    builder, kept = RecordsBuilder(source.root, "detection"), []
    for start in range(0, len(dataset), BATCH):
        samples = [dataset[index] for index in range(start, min(start + BATCH, len(dataset)))]
        images = [sample.image.as_subclass(Tensor) for sample in samples]
        nodes = torch.cat([sample.nodes for sample in samples])
        boxes = torch.cat([views(model, images, nodes, size) for size in options.sizes], 1)
        for index, own in enumerate(boxes, start):
            box = agreed(own)
            if box is not None and float(box[4]) >= options.objectness:
                builder.image()
                label = int(source.label_ids[source.offsets[index]])
                builder.box(label, box[:4].tolist(), source.store.name(index))
                kept.append(index)
    if not kept:
        raise DataError(f"{options.data}: the model is sure of no photo; lower --objectness, or train longer")
    pack(builder.build(PartStore(source.store, kept), source.labels), options.out)
    print(f"{len(kept):,} of {len(dataset):,} photos have a box: {options.out}")


if __name__ == "__main__":
    main()
