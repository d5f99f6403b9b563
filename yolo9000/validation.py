"""Measuring a network while it is trained: what is best so far, and whether to go on."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from yolo9000.config import ValConfig
from yolo9000.datasets import SampleDataset, open_dataset
from yolo9000.evaluate import check_opened, evaluate_opened
from yolo9000.evaluation.detection import DetectionResult
from yolo9000.evaluation.options import EvaluateConfig
from yolo9000.network import Network

MAP50, TOP1 = "val_map50", "val_top1"  # columns of the log; the first that is there decides what is best


class Validator:
    """Data sets that a network is measured on.

    Args:
        config: Which, and how.
        network: That which is measured: its tree is that of the labels.
        map_file: Darknet map file of the boxes' classes; see `open_dataset`.
        cache: Longest side of decoded images kept in memory; 0: read from disk every time.
        whole: Pictures are named by their averaged features, as a classifier learns it, and not by their best
            anchor, as a detector does.

    Raises:
        ConfigError: The size does not fit the network, or a classifier is to find boxes.
        DataError: A data set cannot be opened, has no labelled object, or is joined of some that are scored
            by different rules.
    """

    def __init__(
        self,
        config: ValConfig,
        network: Network,
        *,
        map_file: str | None = None,
        cache: int = 0,
        whole: bool = False,
    ) -> None:
        self.whole = whole
        self.options = EvaluateConfig(size=config.size, limit=config.limit)
        self.sets: list[tuple[str, SampleDataset]] = []
        for spec in config.data:
            dataset = open_dataset(spec, network.tree, "val", map_file=map_file, cache=cache)
            check_opened(network, dataset, spec, self.options)
            self.sets.append((spec, dataset))

    def measure(self, network: Network) -> dict[str, float]:
        """`val_map50` and `val_top1`, as far as there are data for them; the mean over several sets."""
        found: dict[str, list[float]] = {MAP50: [], TOP1: []}
        for spec, dataset in self.sets:
            result = evaluate_opened(network, dataset, spec, self.options)
            if isinstance(result, DetectionResult):
                found[MAP50].append(result.nodes.map)
            else:
                named = result.whole if self.whole or result.best_anchor is None else result.best_anchor
                found[TOP1].append(named.top1)
        return {name: fmean(values) for name, values in found.items() if values}


@dataclass
class EarlyStop:
    """The best evaluation so far.

    Attributes:
        patience: Evaluations without a gain after which training stops; 0: never.
        best: Highest value, or minus infinity.
        best_step: The step it was found at.
        waited: Evaluations since then.
    """

    patience: int
    best: float = -math.inf
    best_step: int = 0
    waited: int = 0

    @property
    def stopped(self) -> bool:
        """Whether training is to end."""
        return 0 < self.patience <= self.waited

    def update(self, step: int, metrics: dict[str, float]) -> bool:
        """Take the metrics of a step; true where they are the best so far."""
        value = metrics[MAP50] if MAP50 in metrics else metrics[TOP1]
        if value > self.best:
            self.best, self.best_step, self.waited = value, step, 0
            return True
        self.waited += 1
        return False

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        state = asdict(self)
        del state["patience"]  # a setting, which may be changed for the rest of a run
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.best, self.best_step, self.waited = state["best"], state["best_step"], state["waited"]
