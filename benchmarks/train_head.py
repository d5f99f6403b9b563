"""What does the gated head save in training beside the dense one, at the same gradients?

    python benchmarks/train_head.py [--batch 16] [--size 416] [--rounds 3]

One forward and backward pass of the head alone, from a feature map, on half detection and half classification
images: ours (`JointLoss`) and the same criterion over the plain convolution with all 28,269 channels. Time in
turn, peak memory in a process each, and the largest difference of the gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from _models import joint_batch
from _report import Report, added_peak, arguments, bars, in_process, warm_up
from torch import Tensor

from wordtree.tree import WordTree
from yolo9000.benchmark import alternate, machine, ratio
from yolo9000.darknet.cfg import Cfg
from yolo9000.head import BOX_CHANNELS, RegionHead
from yolo9000.loss import JointLoss

CHANNELS = 1024
AIM_TIME, AIM_MEMORY = 3.0, 5.0  # the dense head as a multiple of ours


class DenseHead(RegionHead):
    """The same head by way of all channels everywhere: what a port to PyTorch does."""

    map: Tensor | None = None

    def boxes(self, features: Tensor) -> Tensor:
        """Computes everything, and keeps it for the classes."""
        self.map = self.dense(features)
        return self.map[:, :, :BOX_CHANNELS]

    def path_nll(
        self, features: Tensor, b: Tensor, a: Tensor, y: Tensor, x: Tensor, nodes: Tensor, *more: Any
    ) -> Tensor:
        """Softmax in every group of all nodes at the chosen anchors."""
        assert self.map is not None
        absolute = self.ops.path_log_probs(self.ops.log_softmax(self.map[b, a, BOX_CHANNELS:, y, x]))
        return -absolute.gather(1, nodes[:, None]).squeeze(1)

    def path_log_probs(self, features: Tensor, labels: Tensor) -> Tensor:
        """The same at every anchor of every image of a classification batch."""
        assert self.map is not None
        scores = self.map[-len(labels) :, :, BOX_CHANNELS:].permute(0, 1, 3, 4, 2)
        absolute = self.ops.path_log_probs(self.ops.log_softmax(scores))
        image = torch.arange(len(labels))
        return absolute.permute(0, 4, 1, 2, 3)[image, labels]


class Step:
    """Forward and backward of one head."""

    def __init__(self, kind: type[RegionHead], batch: int, size: int) -> None:
        tree, region = WordTree.load("yolo9000"), Cfg.load("yolo9000").region
        assert region is not None
        torch.manual_seed(0)
        self.head = kind(CHANNELS, region, tree)
        self.loss = JointLoss(self.head, region)
        self.batch = joint_batch(32, batch, len(tree))
        self.features = torch.randn(batch, CHANNELS, size // 32, size // 32, requires_grad=True)

    def __call__(self) -> None:
        """Run once."""
        self.head.zero_grad(set_to_none=True)
        self.features.grad = None
        self.loss.total(self.loss(self.features, self.batch)).backward()

    def gradients(self) -> list[Tensor]:
        """Of the features and of every parameter."""
        assert self.features.grad is not None
        return [self.features.grad, *(p.grad for p in self.head.parameters() if p.grad is not None)]


def memory(dense: bool, batch: int, size: int) -> float | None:
    """MiB of one step beyond parameters and input, in a fresh process."""
    warm_up()
    step = Step(DenseHead if dense else RegionHead, batch, size)
    return added_peak(step)


def main() -> None:
    options = arguments(__doc__ or "", batch=(16, "images"), size=(416, "pixels"), rounds=(3, "repetitions"))
    ours, dense = (Step(kind, options.batch, options.size) for kind in (RegionHead, DenseHead))
    report = Report(
        "train-head",
        "Training step of the head: gated beside dense",
        ["head", "ms", "times ours", "peak MiB beyond parameters", "times ours "],
        machine(),
        {"batch": options.batch, "size": options.size, "classes": len(ours.head.tree), "precision": "fp32",
         "rounds": options.rounds},
    )  # fmt: skip
    times = alternate({"ours": ours, "dense": dense}, options.rounds)
    pairs = zip(ours.gradients(), dense.gradients(), strict=True)
    worst = max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)
    peaks = {name: in_process(memory, name == "dense", options.batch, options.size) for name in times}
    for name, found in times.items():
        middle = 1e3 * sorted(found)[options.rounds // 2]
        report.add(
            name, middle, ratio(times, name, "ours"), peaks[name], peaks[name] and peaks[name] / peaks["ours"]
        )
    report.notes.append(f"largest difference of a gradient, as a share of its largest value: {worst:.0e}")
    report.notes.append(
        f"aims: dense at least {AIM_TIME:.0f} times the time, {AIM_MEMORY:.0f} times the memory"
    )
    report.show()
    if not options.no_write:
        report.save(bars(2))


if __name__ == "__main__":
    main()
