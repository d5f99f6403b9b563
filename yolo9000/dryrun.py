"""Trying a run out: a few real steps, and what they say about memory and time of the whole schedule.

Nothing is written. Data, network, sampler and processes are those of the run itself.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import torch

from yolo9000.datasets.transforms import Size, sides
from yolo9000.train import Trainer

if sys.platform != "win32":
    import resource

_STEPS = 3  # timed at each of two sizes, after one that warms up
_GIB = 2**30


@dataclass(frozen=True)
class Timing:
    """What steps with one input size take.

    Attributes:
        size: Side of a square input, or height and width, pixels.
        step: Seconds of forward, backward and update for one batch of this process.
        read: Seconds that one process takes to read and change an image.
    """

    size: Size
    step: float
    read: float


@dataclass(frozen=True)
class DryRun:
    """What was found.

    Attributes:
        lines: Name and text of every finding.
        timings: At the smallest and the largest size.
        seconds: Of the whole schedule, extrapolated.
        memory: Largest memory in bytes: of the GPU, or of this process; None where the system does not tell.
    """

    lines: tuple[tuple[str, str], ...]
    timings: tuple[Timing, ...]
    seconds: float
    memory: int | None

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.lines) + 2
        return "\n".join(f"{name:<{width}}{text}" for name, text in self.lines)


def dry_run(trainer: Trainer, opened: float = 0.0, steps: int = _STEPS) -> DryRun:
    """Run a few steps at the smallest and the largest input size.

    Args:
        trainer: A new trainer. Its weights change, but nothing is saved.
        opened: Seconds that making it took, for the report.
        steps: Timed steps a size.

    Raises:
        TrainingError, DataError: As the run itself would.
    """
    sizes = sorted(set(trainer.sampler.sizes), key=_pixels)
    timings = tuple(_time(trainer, size, steps) for size in dict.fromkeys((sizes[0], sizes[-1])))
    memory = _memory(trainer)
    step = sum(_interpolate(timings, size) for size in sizes) / len(sizes)
    config = trainer.config
    read = max(timing.read for timing in timings) * config.batch_size
    batch = max(step, read / config.data.workers) if config.data.workers else step + read
    seconds = trainer.total_steps * config.optim.accumulate * batch
    lines = [*_about(trainer, opened), ("memory", _memory_text(trainer, memory, sizes[-1]))]
    lines += [
        ("batch", ", ".join(f"{timing.step:.3g} s at {_shown(timing.size)} pixels" for timing in timings)),
        ("reading", _reading_text(trainer, read / config.batch_size, step)),
        ("whole run", f"{_duration(seconds)}, evaluation not counted ({steps} steps a size were measured)"),
    ]
    return DryRun(tuple(lines), timings, seconds, memory)


def _time(trainer: Trainer, size: Size, steps: int) -> Timing:
    keys = [key._replace(size=size) for key in next(iter(trainer.sampler))]
    start = time.perf_counter()
    loaded = trainer.loader.collate_fn([trainer.dataset[key] for key in keys])
    read = (time.perf_counter() - start) / len(keys)
    batch = trainer.ready(loaded)
    trainer.train_mode()
    trainer.check(trainer.train_step([batch]))
    _wait(trainer)
    start = time.perf_counter()
    done = [trainer.train_step([batch]) for _ in range(steps)]
    _wait(trainer)
    seconds = (time.perf_counter() - start) / steps
    for step in done:
        trainer.check(step)
    return Timing(size, seconds, read)


def _wait(trainer: Trainer) -> None:
    if trainer.fabric.device.type == "cuda":
        torch.cuda.synchronize(trainer.fabric.device)


def _memory(trainer: Trainer) -> int | None:
    if trainer.fabric.device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(trainer.fabric.device))
    if sys.platform == "win32":
        return None
    else:
        unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, KiB elsewhere
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _pixels(size: Size) -> int:
    height, width = sides(size)
    return height * width


def _shown(size: Size) -> str:
    height, width = sides(size)
    return str(size) if height == width else f"{width} x {height}"


def _interpolate(timings: tuple[Timing, ...], size: Size) -> float:
    """Seconds of a batch at a size between those measured: work grows with the area."""
    low, high = timings[0], timings[-1]
    if low.size == high.size:
        return low.step
    share = (_pixels(size) - _pixels(low.size)) / (_pixels(high.size) - _pixels(low.size))
    return low.step + share * (high.step - low.step)


def _about(trainer: Trainer, opened: float) -> list[tuple[str, str]]:
    config, sampler, network = trainer.config, trainer.sampler, trainer.network
    parameters = sum(parameter.numel() for parameter in network.parameters())
    images = {"detection": sampler.n_detection, "classification": sampler.n_classification}
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in images.items() if count)
    world, accumulate = trainer.fabric.world_size, config.optim.accumulate
    whole = config.batch_size * world * accumulate
    sizes = sorted(sampler.sizes, key=_pixels)
    pixels = _shown(sizes[0]) + (f" to {_shown(sizes[-1])}" if len(sizes) > 1 else "")
    epochs = trainer.total_steps * accumulate / len(sampler)
    return [
        ("network", f"{config.model}: {parameters:,} parameters, {len(network.tree):,} classes"),
        ("images", f"{kinds} (opened in {opened:.1f} s)"),
        (
            "step",
            f"{config.batch_size} images x {world} process{'es' if world > 1 else ''} x {accumulate} "
            f"accumulated = {whole} images of {pixels} pixels",
        ),
        (
            "schedule",
            f"{trainer.total_steps:,} steps = {epochs:.4g} epochs of {len(sampler):,} batches; "
            f"{config.optim.name}, {config.optim.schedule}, lr {config.optim.lr:g}",
        ),
        ("device", f"{_device(trainer)}, {trainer.precision}"),
        ("checkpoint", f"every {config.checkpoint_steps:,} steps, {_state_size(trainer) / 1e6:,.0f} MB"),
    ]


def _device(trainer: Trainer) -> str:
    device = trainer.fabric.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _state_size(trainer: Trainer) -> int:
    """Bytes of a checkpoint: weights, their average, and what the optimiser keeps."""
    parameters = sum(p.numel() * p.element_size() for p in trainer.network.parameters())
    kept = {"sgd": 1, "adamw": 2}[trainer.config.optim.name]
    return parameters * (1 + kept + (trainer.average is not None))


def _memory_text(trainer: Trainer, memory: int | None, size: Size) -> str:
    place = "of the GPU" if trainer.fabric.device.type == "cuda" else "of this process"
    amount = "not told by this system," if memory is None else f"{memory / _GIB:.2f} GiB"
    return f"{amount} {place} at {_shown(size)} pixels"


def _reading_text(trainer: Trainer, read: float, step: float) -> str:
    workers = max(1, trainer.config.data.workers)
    offered, wanted = workers / read, trainer.config.batch_size / step
    text = f"{read * 1e3:.3g} ms an image: {workers} of data.workers give {_rate(offered)} images/s, "
    text += f"the network takes {_rate(wanted)}"
    needed = int(wanted * read) + 1
    return text + (f": set data.workers to {needed} or more" if offered < wanted else "")


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    days, hours = minutes // 1440, minutes // 60 % 24
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{seconds / 60:.1f} min"
