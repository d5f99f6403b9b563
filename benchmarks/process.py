"""How long from the shell to the picture, beside importing torch; and how much memory?

    python benchmarks/process.py [--rounds 5] [--model FILE]

Processes are started in turn: one that only imports torch, and `yolo9000 detect` on one photo with YOLO9000's
own network at 544 (random weights, written to a temporary file). Peak memory is that of the whole process as
the system counts it; "loaded" is that of a process with the same imports and nothing detected.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from _models import detector
from _report import MIB, Report, arguments, bars

from yolo9000.benchmark import machine
from yolo9000.checkpoint import load_model, save_model
from yolo9000.sources import demo_photos

AIM_SECONDS, AIM_MEMORY = 1.5, 1.5
PEAK = """
import atexit, sys
def peak():
    lines = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    print("peak", lines[0].split()[1], file=sys.stderr)
atexit.register(peak)
"""
TORCH = PEAK + "import torch"
LOADED = (
    PEAK
    + """
import torch
import yolo9000.cli, yolo9000.detect, yolo9000.model
torch.nn.functional.conv2d(torch.rand(1, 3, 64, 64), torch.rand(8, 3, 3, 3))
"""
)

DETECT = (
    PEAK
    + """
from yolo9000.cli import main
main()
"""
)


def run(command: list[str]) -> tuple[float, float]:
    """Seconds and peak MiB of a process that prints its own peak (`ru_maxrss` is inherited) at its end."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    return seconds, int(done.stderr.split("peak ")[1].split()[0]) / 1024


def main() -> None:
    options = arguments(__doc__ or "", rounds=(5, "repetitions"), model=("", "model file to take"))
    with tempfile.TemporaryDirectory() as folder:
        path = options.model or f"{folder}/random.safetensors"
        if not options.model:
            save_model(detector(9418), path)
        photo = demo_photos()[0]
        commands = {
            "import torch": [sys.executable, "-c", TORCH],
            "loaded": [sys.executable, "-c", LOADED],
            "detect": [sys.executable, "-c", DETECT, "detect", photo, "-m", path, "-o", f"{folder}/out"],
        }
        for command in commands.values():
            run(command)  # files into the system's cache
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(options.rounds):
            for name, command in commands.items():
                found[name].append(run(command))
        if not (Path(folder) / "out" / Path(photo).name).exists():
            raise SystemExit("no picture was written")
        network, _ = load_model(path)
    weights = sum(t.numel() * t.element_size() for t in network.state_dict().values()) / MIB
    maps = max(4 * (_count(plan.input) + _count(plan.output)) for plan in network.plans[: network.last]) / MIB
    report = Report(
        "process",
        "From the shell to the picture: YOLO9000, one photo at 544",
        ["process", "s", "s beyond importing torch", "peak MiB", "MiB beyond loaded"],
        machine(),
        {"size": network.cfg.width, "classes": len(network.tree), "rounds": options.rounds},
    )
    floor = median(peak for _, peak in found["loaded"])
    for name, runs in found.items():
        beyond = median(one[0] - other[0] for one, other in zip(runs, found["import torch"], strict=True))
        peak = median(peak for _, peak in runs)
        report.add(name, median(seconds for seconds, _ in runs), beyond, peak, peak - floor)
    need = weights + maps
    share = report.rows[-1][4] / need
    report.notes.append(
        f"weights {weights:.0f} MiB, largest input and output of a layer {maps:.0f} MiB: detection takes "
        f"{share:.2f} times their sum; aim {AIM_MEMORY}"
    )
    report.notes.append(f"aim: at most {AIM_SECONDS} s beyond importing torch")
    report.show()
    if not options.no_write:
        report.save(bars(2, limit=AIM_SECONDS))


def _count(shape: tuple[int, ...]) -> int:
    channels, height, width = shape
    return channels * height * width


if __name__ == "__main__":
    main()
