"""Runs one of ultralytics' networks, random weights, once for every line on standard input (see classes.py).

python _rival.py NAME CLASSES SIZE
"""

from __future__ import annotations

import sys

import torch
from _report import STATUS, resident
from ultralytics.nn.tasks import DetectionModel

try:
    from ultralytics.utils.nms import non_max_suppression
except ImportError:  # before 8.3.200
    from ultralytics.utils.ops import non_max_suppression


def main() -> None:
    name, classes, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    before = resident("VmRSS") if STATUS.exists() else 0.0
    torch.manual_seed(0)
    network = DetectionModel(f"{name}.yaml", nc=classes, verbose=False).eval().fuse(verbose=False)
    pixels = torch.rand(1, 3, size, size)
    with torch.inference_mode():
        for _ in _now_and_for_every_line():
            non_max_suppression(network(pixels), conf_thres=0.25)
            peak = resident("VmHWM") - before if STATUS.exists() else 0.0
            print(f"peak {peak:.0f}", flush=True)


def _now_and_for_every_line():  # type: ignore[no-untyped-def]
    yield
    for _ in sys.stdin:
        yield


if __name__ == "__main__":
    main()
