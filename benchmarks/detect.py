"""What does detection of 9,418 classes cost beside the same network without its last convolution?

    python benchmarks/detect.py [--size 544] [--rounds 5] [--no-darknet]

The floor is the folded network up to the feature map. Beside it, timed in turn: our head at 20 anchors and at
every anchor, the plain convolution with all 28,269 channels, and darknet itself, built as fast as it can be
from Debian's source package in a temporary folder (needs apt-get with root's or a user's right to read
package lists, gcc and dpkg-dev; it is left out, with the reason, where that fails).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _darknet import UnavailableError, build, cfg_at, library
from _report import Report, arguments, bars
from parity import silence

from yolo9000.benchmark import alternate, machine, ratio
from yolo9000.darknet.cfg import Cfg
from yolo9000.darknet.weights import save_weights
from yolo9000.decode import Decoder
from yolo9000.engine import Engine
from yolo9000.image import letterbox, read_image
from yolo9000.network import Network
from yolo9000.sources import demo_photos

ANCHORS = 20  # of 867: a photo with a few objects
AIM, AIM_DARKNET = 1.15, 20.0  # times the floor; darknet as a multiple of ours


def threshold_for(engine: Engine, features: torch.Tensor, anchors: int) -> float:
    """What exactly `anchors` objectnesses are above."""
    return float(engine.boxes(features)[:, :, 4].sigmoid().flatten().sort(descending=True).values[anchors])


@torch.inference_mode()
def measure(
    report: Report, network: Network, pixels: torch.Tensor, precision: str, folder: Path, options: Any
) -> None:
    engine = Engine(network, precision)  # type: ignore[arg-type]
    head, decoder = engine.network.head, Decoder(engine.network.head, "darknet")  # type: ignore[arg-type]
    threshold = threshold_for(engine, engine.features(pixels), ANCHORS)
    functions = {
        "floor: no last convolution": lambda: engine.features(pixels),
        f"ours, {ANCHORS} anchors": lambda: engine.candidates(engine.features(pixels), threshold),
        "ours, every anchor": lambda: engine.candidates(engine.features(pixels), 0.0),
        "dense, 28,269 channels": lambda: decoder.decode_dense(
            head.dense(engine.features(pixels)),
            threshold,
            1.0,  # type: ignore[union-attr]
        ),
    }
    darknet = None
    emulated = precision == "bf16" and report.machine["bf16 instructions"] == "no"  # slow: nothing to compare
    if not emulated and not options.no_darknet:
        try:
            darknet = Darknet(network, pixels, folder)
            functions["darknet, -Ofast, OpenMP"] = darknet
        except UnavailableError as reason:
            report.notes.append(f"darknet left out: {reason}")
    times = alternate(functions, options.rounds)
    if darknet is not None:
        darknet.close()
    ours = f"ours, {ANCHORS} anchors"
    for name in functions:
        middle = sorted(times[name])[options.rounds // 2]
        over_floor = ratio(times, name, "floor: no last convolution")
        report.add(f"{precision}: {name}", 1e3 * middle, over_floor, ratio(times, name, ours))


class Darknet:
    """One forward pass and the boxes of the C program's own library, with the same weights."""

    def __init__(self, network: Network, pixels: torch.Tensor, folder: Path) -> None:
        path = build(folder)
        save_weights(network, folder / "random.weights")
        cfg = cfg_at("yolo9000", folder, pixels.shape[-1])
        with silence():
            self.net = library(path).load(cfg, folder / "random.weights").__enter__()
        self.pixels = np.ascontiguousarray(pixels.numpy())

    def __call__(self) -> None:
        """Predict; the region layer's boxes are part of it."""
        self.net.predict(self.pixels)

    def close(self) -> None:
        """Free the network."""
        self.net.__exit__(None, None, None)


def main() -> None:
    options = arguments(
        __doc__ or "",
        size=(544, "side of the network input, pixels"),
        rounds=(5, "repetitions"),
        no_darknet=(False, "leave the C program out"),
        darknet=("", "folder to build the C program in, and to take it from the next time"),
        no_int8=(False, "leave int8 out"),
        no_bf16=(False, "leave bf16 out: it is slow where the processor lacks it"),
    )
    torch.manual_seed(0)
    network = Network(Cfg.load("yolo9000")).eval()
    pixels = letterbox(read_image(demo_photos()[0]), (options.size, options.size))[0][None]
    report = Report(
        "detect",
        "YOLO9000: one photo, from pixels to candidates",
        ["what", "ms", "times the floor", "times ours"],
        machine(),
        {"size": options.size, "batch": 1, "classes": 9418, "rounds": options.rounds, "weights": "random"},
        notes=[f"aims: ours at most {AIM} times the floor, darknet at least {AIM_DARKNET:.0f} times ours"],
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.darknet or temporary)  # where the C program is built, once
        measure(report, network, pixels, "fp32", folder, options)
        if not options.no_int8:
            measure(report, network, pixels, "int8", folder, options)
        if not options.no_bf16:
            measure(report, network, pixels, "bf16", folder, options)
        if report.machine["bf16 instructions"] == "no":
            report.notes.append("this processor has no bf16 instructions: bf16 is emulated and slow")
    report.show()
    if not options.no_write:
        report.save(bars(2, limit=AIM))


if __name__ == "__main__":
    main()
