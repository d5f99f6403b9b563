"""A rival for yolo9000-nano: torchvision's SSDlite with MobileNetV3, trained on the same photos with boxes.

    python recipes/nano/rival.py DATA [--minutes 120] [--out runs/rival]

From random weights, with the changes of the photos, the batch size and the optimiser of `settle.yaml`, at 320
pixels and twice its rate; every label of the boxes is a class of its own. Trains for so many minutes, with the rate falling to 0,
and is scored on the val parts by the code that scores ours.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from wordtree._files import atomic_write
from wordtree.tree import WordTree
from yolo9000.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from yolo9000.config import DataConfig, load_config
from yolo9000.datasets import Batch, JointDataset, JointSampler, SampleDataset, open_dataset, open_datasets
from yolo9000.evaluation.ap import Predictions
from yolo9000.evaluation.coco import coco_scores
from yolo9000.evaluation.detection import sample_truths
from yolo9000.evaluation.scores import join_truths, score_classes
from yolo9000.letterbox import letterbox
from yolo9000.memory import keep_freed_memory
from yolo9000.optim import build_optimizer
from yolo9000.prepare import build_loader, build_transform

SIZE = 320
SETTINGS = load_config(Path(__file__).resolve().parent / "settle.yaml")
BURN_IN = 0.03  # share of the time over which the rate rises


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--out", type=Path, default=Path("runs/rival"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    tree = WordTree.load("yolo9000")
    boxed = open_datasets(
        [f"{kind}:{options.data / kind}-mini" for kind in ("coco", "voc")], tree, cache=SIZE
    )
    assert boxed is not None
    tiles = open_dataset(
        f"tiny-imagenet-boxes:{options.data / 'tiny-imagenet-200-part.tar'}", tree, "train", cache=SIZE
    )
    nodes = np.unique([n for part in (boxed, tiles) for i in range(len(part)) for n in part.nodes(i)])
    network = ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=len(nodes) + 1
    ).to(options.device)
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{len(nodes)} classes, {parameters / 1e6:.1f} million parameters")
    steps = train(network, boxed, tiles, nodes, options)
    result: dict[str, Any] = {"minutes": options.minutes, "steps": steps, "parameters": parameters}
    for kind in ("voc", "coco"):
        dataset = open_dataset(f"{kind}:{options.data / kind}-mini", tree, "val")
        result[kind] = score(network.eval(), dataset, nodes)
    options.out.mkdir(parents=True, exist_ok=True)
    with atomic_write(options.out / "rival.json", text=True) as stream:
        stream.write(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def train(
    network: nn.Module,
    boxed: SampleDataset,
    tiles: SampleDataset,
    nodes: NDArray[np.int64],
    options: argparse.Namespace,
) -> int:
    """Train for the time that is given; how many steps that were."""
    dataset = JointDataset(boxed, None, build_transform(SETTINGS.augment), tiles)
    sampler = JointSampler(len(boxed), 0, SETTINGS.batch_size, sizes=(SIZE,))
    loader = build_loader(dataset, sampler, DataConfig(workers=1), torch.device(options.device))
    optimizer = build_optimizer(network, SETTINGS.optim)
    start, steps = time.perf_counter(), 0
    network.train()
    for batch in endless(loader, sampler):
        share = (time.perf_counter() - start) / (60 * options.minutes)
        if share >= 1:
            break
        rate = (
            2 * SETTINGS.optim.lr * min(1, (share + 1e-6) / BURN_IN) * 0.5 * (1 + math.cos(math.pi * share))
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        targets = [truth_of(batch, i, nodes, options.device) for i in range(len(batch))]
        loss = sum(network(list(batch.images.to(options.device)), targets).values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), SETTINGS.optim.clip)
        optimizer.step()
        steps += 1
        if steps % 100 == 0:
            print(f"step {steps}, {100 * share:.0f} %, loss {loss.item():.3f}", flush=True)
    return steps


def endless(loader: Any, sampler: JointSampler) -> Iterator[Batch]:
    """Batches without end."""
    while True:
        for batch in loader:
            sampler.consumed(batch)
            yield batch


def truth_of(batch: Batch, image: int, nodes: NDArray[np.int64], device: str) -> dict[str, Tensor]:
    """Boxes and labels of one image as torchvision's detectors take them; 0 is the background."""
    own = batch.image_index == image
    labels = torch.from_numpy(np.searchsorted(nodes, batch.nodes[own].numpy()) + 1)
    return {"boxes": (cxcywh_to_xyxy(batch.boxes[own]) * SIZE).to(device), "labels": labels.to(device)}


@torch.inference_mode()
def score(network: nn.Module, dataset: SampleDataset, nodes: NDArray[np.int64]) -> dict[str, float]:
    """Average precision of the data set's classes; a class of the rival counts as the one at or above it."""
    tree = dataset.tree
    wanted = np.unique([node for i in range(len(dataset)) for node in dataset.nodes(i)])
    of_label = np.array([next((a for a in reversed(tree.path(int(n))) if a in wanted), -1) for n in nodes])
    device = next(network.parameters()).device
    parts: list[tuple[Any, ...]] = []
    truths = []
    for index in range(len(dataset)):
        sample = dataset[index]
        image, fit = letterbox(sample.image.as_subclass(Tensor), (SIZE, SIZE))
        found = {name: value.cpu() for name, value in network([image.to(device)])[0].items()}
        classes = of_label[found["labels"].numpy() - 1]
        boxes = fit.unmap(xyxy_to_cxcywh(found["boxes"] / SIZE))
        parts.append((boxes.numpy(), classes, np.full(len(classes), index), found["scores"].numpy()))
        truths.append(sample_truths(sample, index, dataset.rules == "coco"))
    predictions = Predictions.of(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    predictions, every = predictions[predictions.classes >= 0], join_truths(truths)
    coco = coco_scores(predictions, every, len(dataset))
    map50 = score_classes(tree, predictions, every, 0.5, "nodes").map
    return {"map50": map50, "coco_ap50": coco.ap50, "coco_ap": coco.ap}


if __name__ == "__main__":
    main()
