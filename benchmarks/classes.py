"""Is the price flat in the number of classes, 80 to 82,115, and what do rivals pay?

    python benchmarks/classes.py [--train] [--rounds 5] [--rival-python PYTHON]

Detection of one photo, or with --train one training step (forward, backward, SGD), of YOLO9000's layers over
five trees, all timed in turn, and the peak memory of each in a process of its own. Rivals are ultralytics'
networks with random weights; PYTHON is an interpreter that has ultralytics (by default this one; without it
they are left out).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from _models import TREES, detector, joint_batch
from _report import Report, added_peak, arguments, in_process, warm_up

from yolo9000.benchmark import alternate, machine, ratio
from yolo9000.config import OptimConfig
from yolo9000.engine import Engine
from yolo9000.loss import JointLoss
from yolo9000.memory import keep_freed_memory
from yolo9000.optim import build_optimizer

DETECT_SIZE, TRAIN_SIZE = 544, 416  # pixels
ANCHORS = 20
RIVALS = ("yolo11n", "yolov8s")
RIVAL_CLASSES = (80, 1369, 9418, 21842)  # 82,115 takes more memory than a small machine has
AIMS = {9418: 1.10, 82115: 1.50}


class Detect:
    """Pixels to candidates."""

    def __init__(self, count: int) -> None:
        self.engine = Engine(detector(count))
        self.pixels = torch.rand(1, 3, DETECT_SIZE, DETECT_SIZE)
        objectness = self.engine.boxes(self.engine.features(self.pixels))[:, :, 4].sigmoid()
        self.threshold = float(objectness.flatten().sort(descending=True).values[ANCHORS])

    def __call__(self) -> None:
        """Run once."""
        self.engine.candidates(self.engine.features(self.pixels), self.threshold)


class Train:
    """One step on a batch of half detection, half classification images."""

    def __init__(self, count: int, batch: int = 4) -> None:
        self.network = detector(count).train()
        assert self.network.head is not None
        assert self.network.region is not None
        self.loss = JointLoss(self.network.head, self.network.region)
        self.batch = joint_batch(TRAIN_SIZE, batch, len(self.network.tree))
        self.optimizer = build_optimizer(self.network, OptimConfig(lr=1e-5))

    def __call__(self) -> None:
        """Run once."""
        terms = self.loss(self.network.features(self.batch.images), self.batch, seen=1 << 20)
        self.loss.total(terms).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class Rival:
    """A network of ultralytics in a process of its own that runs once for every line it gets."""

    def __init__(self, python: str, name: str, count: int, size: int) -> None:
        script = Path(__file__).with_name("_rival.py")
        command = [python, str(script), name, str(count), str(size)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.answer()

    def answer(self) -> float:
        """The next line: MiB at its peak."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("peak "):
                return float(line.split()[1])
        raise RuntimeError("the rival ended")

    def __call__(self) -> float:
        """Run once; MiB at its peak."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.wait()


def memory(count: int, train: bool) -> float | None:
    """MiB that building and running takes, in a fresh process."""
    warm_up()

    def run() -> None:
        once = Train(count) if train else Detect(count)
        once()
        if train:
            once()  # now with the optimiser's state

    return added_peak(run)


def rivals(options: Any, report: Report) -> dict[str, Rival]:
    """Those that run here."""
    python = options.rival_python or sys.executable
    found: dict[str, Rival] = {}
    if options.train:
        return found
    try:
        for name in RIVALS:
            for count in RIVAL_CLASSES:
                found[f"{name}, {count}"] = Rival(python, name, count, DETECT_SIZE)
    except (RuntimeError, OSError):
        report.notes.append(f"rivals left out: {python} has no ultralytics (pip install ultralytics)")
    return found


def main() -> None:
    options = arguments(
        __doc__ or "",
        train=(False, "a training step in place of detection"),
        rounds=(5, "repetitions"),
        rival_python=("", "interpreter that has ultralytics"),
        no_memory=(False, "leave peak memory out"),
    )
    kind = "training step" if options.train else "detection"
    report = Report(
        "classes-train" if options.train else "classes-detect",
        f"Time of one {kind} by the number of classes",
        ["network, classes", "classes", "ms", "times its own 80", "peak MiB"],
        machine(),
        {"size": TRAIN_SIZE if options.train else DETECT_SIZE, "batch": 4 if options.train else 1,
         "precision": "fp32", "rounds": options.rounds, "weights": "random"}
        | ({} if options.train else {"anchors": ANCHORS}),
        notes=["aims: " + ", ".join(f"{count:,} classes at most {aim}x" for count, aim in AIMS.items())],
    )  # fmt: skip
    others = rivals(options, report)
    keep_freed_memory()  # as the commands do
    runs = {f"ours, {count}": (Train if options.train else Detect)(count) for count in TREES}
    times = alternate({**runs, **others}, options.rounds)
    peaks: dict[str, float | None] = {name: rival() for name, rival in others.items()}
    for rival in others.values():
        rival.close()
    runs.clear()
    for name in times:
        network, _, count = name.partition(", ")
        if network == "ours" and not options.no_memory:
            peaks[name] = in_process(memory, int(count), options.train)
        middle = 1e3 * sorted(times[name])[options.rounds // 2]
        report.add(name, int(count), middle, ratio(times, name, f"{network}, 80"), peaks.get(name))
    report.show()
    if not options.no_write:
        report.save(curves)


def curves(figure: Any, report: Report) -> None:
    """Time and memory over the number of classes, a line a network."""
    for axes, column in zip(figure.subplots(1, 2), (3, 4), strict=True):
        for network in dict.fromkeys(row[0].partition(",")[0] for row in report.rows):
            rows = [row for row in report.rows if row[0].startswith(network) and row[column] is not None]
            axes.plot([row[1] for row in rows], [row[column] for row in rows], "o-", label=network)
        axes.set_xscale("log")
        axes.set_xlabel("classes")
        axes.set_ylabel(report.columns[column])
        axes.set_ylim(bottom=0)
        axes.legend()


if __name__ == "__main__":
    main()
