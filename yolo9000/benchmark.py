"""How long detection takes on this machine, stage by stage, beside the floor that no head can go below.

Also what the project's own benchmarks share: naming the machine, and timing things in turn.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from yolo9000.decode import RawDetections
from yolo9000.engine import Engine
from yolo9000.errors import ConfigError
from yolo9000.image import ImageSource, Letterbox, letterbox, read_image
from yolo9000.labelling import Labelling
from yolo9000.model import YOLO9000, to_candidates
from yolo9000.results import Detections

Times = dict[str, list[float]]


@dataclass(frozen=True)
class StageTimes:
    """What `benchmark` measured.

    Attributes:
        machine: See `machine`.
        settings: Size (height and width, pixels), batch, precision, compile, device, classes, rounds.
        anchors: Anchors per picture that passed the gate on objectness.
        seconds: Median seconds a batch of every stage, in the order they run, and of `whole`: all of them in
            one call of `YOLO9000.detect`.
    """

    machine: dict[str, str]
    settings: dict[str, Any]
    anchors: float
    seconds: dict[str, float]

    @property
    def over_floor(self) -> float:
        """Time from pixels to candidates as a multiple of the layers before the head alone."""
        floor = self.seconds["backbone"]
        return (floor + self.seconds["head"] + self.seconds["decode"]) / floor

    @property
    def images_per_second(self) -> float:
        """Of the whole, reading included."""
        return float(self.settings["batch"] / self.seconds["whole"])

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        more = {"over_floor": self.over_floor, "images_per_second": self.images_per_second}
        return asdict(self) | more

    def show(self, console: Console) -> None:
        """Print a table."""
        stages = {name: value for name, value in self.seconds.items() if name != "whole"}
        total = sum(stages.values())
        table = Table("stage", "ms", "share", title=_line(self.settings), caption=_line(self.machine))
        for column in table.columns[1:]:
            column.justify = "right"
        for name, value in stages.items():
            table.add_row(name, f"{1e3 * value:.2f}", f"{value / total:.1%}")
        table.add_section()
        table.add_row("whole", f"{1e3 * self.seconds['whole']:.2f}", "")
        console.print(table)
        console.print(
            f"{self.images_per_second:.2f} pictures a second; {self.anchors:.0f} anchors a picture with an "
            f"object; backbone + head + decode take {self.over_floor:.3f} times the backbone alone"
        )


def benchmark(
    model: YOLO9000,
    source: ImageSource,
    *,
    size: int | None = None,
    batch: int = 1,
    rounds: int = 10,
    anchors: int | None = None,
) -> StageTimes:
    """Time every stage of detection.

    Args:
        model: The detector.
        source: A picture, read anew for every place in the batch.
        size: Side of the network input, pixels; by default the cfg's, also of a model that names several.
        batch: Pictures run together.
        rounds: How often; the medians are given.
        anchors: Choose the threshold so that so many anchors a picture pass the gate; by default the model's
            own threshold.

    Raises:
        ConfigError: Fewer than one round, picture or anchor; a size that does not fit; an exported model.
        ImageError: The picture cannot be read.
    """
    for name, value in (("rounds", rounds), ("batch", batch), ("anchors", anchors or 1)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, found {value}.")
    engine, wanted = model.engine, model.input_size(size)
    if not isinstance(engine, Engine):
        raise ConfigError(
            f"{engine.path}: an exported model has no parts to time: give the one it came from."
        )
    boxed = _boxed(model, [read_image(source)] * batch, wanted)
    features = engine.features(torch.stack([pixels for pixels, _ in boxed]))  # with compile, also compiles
    raw = engine.boxes(features)
    objectness = raw[:, :, 4].float().sigmoid().flatten()
    threshold = model.threshold if anchors is None else _threshold(objectness, anchors * batch)
    rule = Labelling(threshold=threshold)
    engine.candidates(features, threshold)

    def read() -> list[Tensor]:
        return [read_image(source) for _ in range(batch)]

    def suppress(found: list[RawDetections]) -> list[Detections]:
        fits = (fit for _, fit in boxed)
        return [
            Detections.choose(to_candidates(one, fit), rule, model.tree, fit.image_size)
            for one, fit in zip(found, fits, strict=True)
        ]

    def whole() -> list[Detections]:
        return list(model.detect([source] * batch, size=wanted, threshold=threshold, batch=batch))

    clock = _Clock({}, model.device)
    for _ in range(rounds):
        images = clock("read", read)
        boxed = clock("letterbox", _boxed, model, images, wanted)
        features = clock("backbone", engine.features, torch.stack([pixels for pixels, _ in boxed]))
        raw = clock("head", engine.boxes, features)
        found = clock("decode", engine.candidates, features, threshold, raw)
        clock("suppress", suppress, found)
        clock("whole", whole)
    settings = {
        "size": wanted,
        "batch": batch,
        "precision": engine.precision,
        "compile": engine.compiled,
        "device": str(model.device),
        "classes": len(model.tree),
        "rounds": rounds,
    }
    passed = float((objectness > threshold).sum()) / batch
    return StageTimes(
        machine(), settings, passed, {name: median(found) for name, found in clock.times.items()}
    )


def alternate(
    functions: Mapping[str, Callable[[], Any]], rounds: int, *, device: torch.device | str = "cpu"
) -> Times:
    """Time functions in turn, so that what else the machine does hits all alike.

    Args:
        functions: By name; each is run once before, untimed.
        rounds: Times each is run; every round starts with another one.
        device: Waited for after each run.

    Returns:
        Seconds, by name and round: `ratio` compares within rounds.
    """
    for function in functions.values():
        function()
    times: Times = {name: [] for name in functions}
    names = list(functions)
    for number in range(rounds):
        start = number % len(names)
        clock = _Clock(times, torch.device(device))
        for name in names[start:] + names[:start]:
            clock(name, functions[name])
    return times


def ratio(times: Mapping[str, Sequence[float]], name: str, floor: str) -> float:
    """Median over the rounds of one time as a multiple of another of the same round."""
    return median(one / other for one, other in zip(times[name], times[floor], strict=True))


def machine() -> dict[str, str]:
    """What times depend on: processor, threads, versions, GPU, and how busy the machine is."""
    about = {
        "cpu": _processor(),
        "cores": str(os.cpu_count()),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bf16 instructions": "yes" if torch.cpu._is_avx512_bf16_supported() else "no",
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        about["gpu"] = torch.cuda.get_device_name()
    if hasattr(os, "getloadavg"):
        about["load before"] = f"{os.getloadavg()[0]:.1f}"
    return about


class _Clock:
    """Runs functions and notes their seconds."""

    def __init__(self, times: Times, device: torch.device) -> None:
        self.times = times
        self.device = device

    def __call__(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        result = function(*arguments)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.times.setdefault(name, []).append(time.perf_counter() - start)
        return result


def _boxed(
    model: YOLO9000, images: Sequence[Tensor], size: tuple[int, int]
) -> list[tuple[Tensor, Letterbox]]:
    return [letterbox(image.to(model.device), size, model.letterbox) for image in images]


def _threshold(objectness: Tensor, anchors: int) -> float:
    """What exactly so many values are above, or all of them where there are fewer; ties aside."""
    if anchors >= len(objectness):
        return 0.0
    return float(objectness.sort(descending=True).values[anchors])


def _line(about: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in about.items())


def _processor() -> str:
    """The processor's name, where the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
