"""Compares yolo9000 with the C library it must agree with, and writes the table of `docs/parity.md`.

    python benchmarks/parity.py                     print the table and write docs/parity.md
    python benchmarks/parity.py --no-write --full   larger networks and sizes, too; some minutes
    python benchmarks/parity.py --show-bug temperature
    python benchmarks/parity.py --show-bug groups

It needs Debian's darknet (`apt-get install darknet`) and drives its libdarknet.so through the helpers of
`tests/reference/`, with random weights of sensible size: nothing is downloaded, and no number is stored.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torchvision.ops import box_iou

from wordtree.tree import WordTree
from yolo9000.darknet.cfg import Cfg
from yolo9000.darknet.weights import load_weights, save_weights
from yolo9000.decode import Decoder
from yolo9000.head import RegionHead
from yolo9000.image import letterbox, read_image
from yolo9000.model import YOLO9000
from yolo9000.network import Network
from yolo9000.tree_ops import TreeOps

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "parity.md"
TESTS = [str(ROOT / "tests"), str(ROOT / "tests" / "reference")]
DARKNET = Path(os.environ.get("DARKNET_DIR", "/usr/share/darknet"))
LIBRARY = Path(os.environ.get("LIBDARKNET", "/usr/lib/darknet/libdarknet.so"))

# Width, height and pictures at once. The classifiers end in an average: any size will do.
SIZES = [(64, 64, 2), (96, 64, 2), (64, 96, 1)]
FAMILY: dict[str, list[tuple[int, int, int]]] = {
    "yolov2-tiny": [*SIZES, (416, 416, 1)],
    "yolov2-tiny-voc": [*SIZES, (416, 416, 1)],
    "yolov2": SIZES,
    "yolov2-voc": [*SIZES, (416, 416, 1)],
    "yolo9000": SIZES,
    "tiny": [*SIZES, (224, 224, 1)],
    "darknet19": [*SIZES, (224, 224, 1)],
    "darknet19_448": [*SIZES, (448, 448, 1)],
    "darknet9000": SIZES,
}
FULL = {"yolov2": (608, 608, 1), "yolo9000": (544, 544, 1), "darknet9000": (448, 448, 1)}
LETTERBOX = [(416, 416), (544, 544), (320, 608)]  # height, width
FORWARD_LIMIT = 1e-4  # of the largest value
DETECTION_LIMIT = 1e-3  # of scores, and of corners as fractions of the picture
PIXEL_LIMIT = 1 / 255
EXACT = 0.0


@dataclass(frozen=True)
class Row:
    """One line of the table: what was compared, and by how much it differs at most."""

    model: str
    check: str
    extent: str
    difference: float
    limit: float

    @property
    def good(self) -> bool:
        """Whether it is within the limit."""
        return self.difference <= self.limit

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """The line as text."""
        difference = "none" if self.difference == 0 else f"{self.difference:.0e}"
        limit = "none" if self.limit == 0 else f"{self.limit:.0e}"
        return self.model, self.check, self.extent, difference, limit


def reference(name: str) -> ModuleType:
    """A module of `tests/reference/`, which is no package; they import each other and tests/toys.py."""
    full = f"yolo9000_parity_{name}"
    if full not in sys.modules:
        sys.path[:0] = [folder for folder in TESTS if folder not in sys.path]
        spec = importlib.util.spec_from_file_location(full, ROOT / "tests" / "reference" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep off the terminal what the library prints about every layer it builds."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with Path(os.devnull).open("wb") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            for number, descriptor in enumerate(kept, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)


def apart(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """Largest difference as a share of the largest value of the reference; inf for NaN or another shape."""
    if ours.shape != theirs.shape:
        return np.inf
    difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    return difference if np.isfinite(difference) else np.inf


def resized(source: Path, folder: Path, width: int, height: int, batch: int) -> Path:
    """A copy of a cfg for another size and batch, without its tree: see the bugs."""
    resize: Callable[..., Path] = reference("conftest").resize_cfg
    return resize(source, folder / source.name, width=width, height=height, batch=batch, flat=True)


# ------------------------------------------------------------------------------------------------ checks


def weights_files(network: Network, net: Any, written: Path, folder: Path) -> float:
    """0 where the library and we write the very file that both have read."""
    copy = Network(network.cfg, network.tree)
    load_weights(copy, written)
    save_weights(copy, folder / "ours.weights")
    net.save_weights(folder / "theirs.weights")
    content = written.read_bytes()
    same = all((folder / f"{who}.weights").read_bytes() == content for who in ("ours", "theirs"))
    return 0.0 if same else np.inf


@torch.inference_mode()
def activated(network: Network, raw: torch.Tensor) -> NDArray[np.float32]:
    """[B, A, 5 + N, S, S] of a detector: sigmoid of x, y and objectness, softmax of a plain class list."""
    assert network.region is not None
    boxes = raw.unflatten(1, (network.region.num, -1)).clone()
    boxes[:, :, [0, 1, 4]] = boxes[:, :, [0, 1, 4]].sigmoid()
    boxes[:, :, 5:] = boxes[:, :, 5:].softmax(2)
    return boxes.numpy()


@torch.inference_mode()
def forward(library: Any, name: str, sizes: Sequence[tuple[int, int, int]], folder: Path) -> Iterator[Row]:
    """Features, the last convolution and what follows it, at several sizes; and the weights file."""
    path = DARKNET / "cfg" / f"{name}.cfg"
    network = reference("conftest")._randomise(Network(Cfg.load(path)), 1)
    network.seen = 12_345
    written = folder / "random.weights"
    save_weights(network, written)
    worst: dict[str, float] = {}
    same = np.inf
    for width, height, batch in sizes:
        with silence():
            net = library.load(resized(path, folder, width, height, batch), written)
        with net:
            if same:
                same = weights_files(network, net, written, folder)
            images = np.random.default_rng(width).random((batch, 3, height, width), dtype=np.float32)
            net.predict(images)
            for check, difference in compare(network, net, torch.from_numpy(images)):
                worst[check] = max(worst.get(check, 0.0), difference)
    extent = ", ".join(f"{width} × {height}" for width, height, _ in sizes)
    for check, difference in worst.items():
        yield Row(name, check, extent, difference, FORWARD_LIMIT)
    size = f"{written.stat().st_size / 1e6:,.0f} MB, written by both"
    yield Row(name, "weights file", size, same, EXACT)


def compare(network: Network, net: Any, images: torch.Tensor) -> Iterator[tuple[str, float]]:
    """What `forward` compares at one size."""
    features, output = network.features(images), network(images)
    yield "features", apart(features.numpy(), net.output(network.last - 1))
    if network.head is None:
        yield "class logits", apart(output.numpy(), net.output(network.last + 1)[:, :, 0, 0])
        return
    yield "last convolution", apart(output.numpy(), net.output(network.last))
    theirs = net.output(-1).reshape(len(images), len(network.head.anchors), -1, *output.shape[2:])
    ours, flat = activated(network, output), network.tree.max_depth == 0
    end = None if flat else 5  # classes of a tree are compared in rows of their own
    yield "boxes, objectness" + flat * ", classes", apart(ours[:, :, :end], theirs[:, :, :end])


def pixels(library: Any, folder: Path) -> Iterator[Row]:
    """Decoding and letterbox of the photos that come with darknet."""
    photos = sorted((DARKNET / "data").glob("*.jpg"))
    decoded = boxed = 0.0
    for photo in photos:
        image, theirs = read_image(photo), library.load_image(photo)
        decoded = max(decoded, float(np.abs(image.numpy().astype(np.float32) / 255 - theirs).max()))
        for size in LETTERBOX:
            ours, _ = letterbox(image, size, "darknet")
            expected = library.letterbox(image.numpy().astype(np.float32) / 255, size[1], size[0])
            boxed = max(boxed, float(np.abs(ours.numpy() - expected).max()))
    sizes = ", ".join(f"{width} × {height}" for height, width in LETTERBOX)
    yield Row("pixels", "decoding", f"{len(photos)} photos", decoded, PIXEL_LIMIT)
    yield Row("pixels", "letterbox", f"{len(photos)} photos, {sizes}", boxed, PIXEL_LIMIT)


def tree(library: Any, folder: Path) -> Iterator[Row]:
    """The tree at one anchor on a 1 × 1 grid, where the library is right once its temperature is set."""
    module = reference("test_tree_decode")
    lines = [line.split() for line in (DARKNET / "data" / "9k.tree").read_text().splitlines()]
    labels = WordTree([int(parent) for _, parent in lines], [wnid for wnid, _ in lines])
    region = module.RegionConfig(
        anchors=(module.ANCHOR,), classes=len(labels), num=1, softmax=True, tree="9k.tree"
    )
    decoder, ops = Decoder(RegionHead(1, region, labels), "darknet"), TreeOps(labels)
    conditional = absolute = 0.0
    wrong, depths = 0, set()
    scales = (0.3, 1.0, 2.0, 4.0)
    for seed, scale in enumerate(scales):
        raw = module.random_output(labels, seed, scale)
        with silence(), module.region_net(library, folder, labels) as net:
            theirs = net.forward_region(raw).output[0, 5:, 0, 0]
            ours = ops.log_softmax(torch.from_numpy(raw[:, 5:, 0, 0]))
            conditional = max(conditional, apart(ours[0].exp().numpy(), theirs))
            expected = library.hierarchy_predictions(theirs, folder / "some.tree")
            absolute = max(absolute, apart(ops.path_log_probs(ours)[0].exp().numpy(), expected))
            for threshold in module.THRESHOLDS:
                net.forward_region(raw)
                (found,) = net.boxes(threshold=0.24, hier_threshold=threshold)
                (mine,) = decoder.decode_dense(torch.from_numpy(raw), 0.24, threshold)
                wrong += mine.nodes.tolist() != np.flatnonzero(found.probabilities).tolist()
                depths.update(labels.depth[mine.nodes.numpy()].tolist())
    where = f"{len(labels):,} nodes, 1 anchor, 1 × 1"
    yield Row("tree", "softmax of every group", where, conditional, FORWARD_LIMIT)
    yield Row("tree", "absolute probabilities", where, absolute, FORWARD_LIMIT)
    count = len(scales) * len(module.THRESHOLDS)
    extent = f"{count} walks, thresholds 0.1 to 0.9, depths {min(depths)} to {max(depths)}"
    yield Row("tree", "labels", extent, float(wrong), EXACT)


def detections(library: Any, folder: Path, name: str, size: int) -> Iterator[Row]:
    """From pixels to the list after suppression, on all photos at three thresholds."""
    module = reference("test_detections")
    path, weights = DARKNET / "cfg" / f"{name}.cfg", folder / "random.weights"
    network = reference("conftest")._randomise(Network(Cfg.load(path)), 1)
    with torch.no_grad():  # as in `sure_model` there: some anchors are sure of something
        network.head.class_weight *= 8
        network.head.box_weight[:, 4] *= 2
        network.head.box_weight[:, 2:4] *= 0.5
    save_weights(network, weights)
    model = YOLO9000.load(weights=weights, cfg=path, device="cpu")
    worst, count = 0.0, 0
    with silence():
        net = library.load(resized(path, folder, size, size, 1), weights)
    with net:
        for photo in module.PHOTOS:
            image = read_image(DARKNET / "data" / f"{photo}.jpg")
            net.predict(library.letterbox(image.numpy().astype(np.float32) / 255, size, size)[None])
            for threshold in module.THRESHOLDS:
                expected = module.theirs(net, image.shape[1:], threshold)
                found = model.detect(image, threshold=threshold, size=size, nms=module.NMS, decoder="darknet")
                worst = max(worst, module.difference(module.ours(found), expected))
                count += len(expected)
    extent = f"{len(module.PHOTOS)} photos, thresholds 0.1, 0.24, 0.5: {count:,} boxes"
    yield Row(name, f"detections at {size} × {size}", extent, worst, DETECTION_LIMIT)


def region_loss(library: Any, folder: Path) -> Iterator[Row]:
    """Deltas of `forward_region_layer` in training against the gradients of our criterion."""
    module = reference("test_region_loss")
    for name, classes in (("yolov2", 80), ("yolov2-voc", 20)):
        labels, worst = WordTree.flat([f"class {i}" for i in range(classes)]), 0.0
        for rescore, bias_match in ((0, 0), (0, 1), (1, 0), (1, 1)):
            section = module.published(DARKNET, name, rescore=rescore, bias_match=bias_match)
            with silence(), module.pair(library, folder / "some.cfg", section, labels, 2, 13) as both:
                for seen in (2, 12_800):
                    batch = module.truths_of(seen, [30, 5], classes)
                    raw = module.near(both.raw(seen), batch, both.region)
                    worst = max(worst, deltas(both, raw, batch, seen))
        extent = "13 × 13, 5 and 30 truths, rescore, bias_match, seen switched"
        yield Row(name, "region loss", extent, worst, module.TOLERANCE)
    lines = [line.split() for line in (DARKNET / "data" / "9k.tree").read_text().splitlines()]
    labels, worst = WordTree([int(parent) for _, parent in lines], [wnid for wnid, _ in lines]), 0.0
    with silence(), module.tree_pair(library, folder, labels) as both:
        for batch in (module.truths_of(1, [30], len(labels)), module.labels_only(len(labels) - 1)):
            worst = max(worst, deltas(both, both.raw(0), batch, 1))
    extent = f"{len(labels):,} nodes, 1 anchor, 1 × 1: boxes, and an image's label"
    yield Row("tree", "region loss", extent, worst, module.TOLERANCE)


def deltas(both: Any, raw: NDArray[np.float32], batch: Any, seen: int) -> float:
    """Largest difference between the library's deltas and our gradients, in the loss's own unit."""
    return float(np.abs(both.ours(raw, batch, seen, "darknet") - both.theirs(raw, batch, seen)).max())


def all_rows(library: Any, folder: Path, full: bool) -> Iterator[Row]:
    """The whole table."""
    for name, sizes in FAMILY.items():
        yield from forward(library, name, [*sizes, *([FULL[name]] if full and name in FULL else [])], folder)
    yield from pixels(library, folder)
    yield from tree(library, folder)
    for name, size in [("yolov2-tiny-voc", 416), ("yolov2-tiny", 416)] + [("yolov2-voc", 416)] * full:
        yield from detections(library, folder, name, size)
    yield from region_loss(library, folder)


# -------------------------------------------------------------------------------------------------- bugs

#   0 animal          1 vehicle
#   2 dog  3 cat      4 car  5 bus
TOY = WordTree([-1, -1, 0, 0, 1, 1], ["animal", "vehicle", "dog", "cat", "car", "bus"])
ANCHORS = ((0.8, 0.6), (1.5, 2.5), (3.0, 1.0))


def toy_output(library: Any, side: int, temperature: float | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Class values [A, N, S, S] that the library and we make of the same raw output, over the toy tree."""
    module = reference("test_region_loss")
    anchors = ANCHORS if side > 1 else ANCHORS[:1]
    with (
        tempfile.TemporaryDirectory() as folder,
        silence(),
        module.tree_pair(library, Path(folder), TOY, side=side, anchors=anchors) as both,
    ):
        both.net.set_temperature(0 if temperature is None else temperature)
        raw = both.raw(0)
        theirs = both.net.forward_region(raw.reshape(1, -1, side, side)).output.reshape(raw.shape)[0, :, 5:]
    logits = torch.from_numpy(raw[0, :, 5:]).movedim(1, -1)
    return TreeOps(TOY).log_softmax(logits).exp().movedim(-1, 1).numpy(), theirs


def group_sums(values: NDArray[Any]) -> str:
    """Range of the sums over sibling groups: 1 everywhere where the softmax is right."""
    sums = [values[:, TOY.group == group].sum(1) for group in range(len(TOY.group_start))]
    return f"from {min(s.min() for s in sums):.3f} to {max(s.max() for s in sums):.3f}"


def show_temperature(library: Any) -> list[str]:
    """The temperature that nothing sets."""
    ours, unset = toy_output(library, 1, None)
    _, one = toy_output(library, 1, 1.0)
    labels = zip(TOY.wnids, unset[0, :, 0, 0], one[0, :, 0, 0], ours[0, :, 0, 0], strict=True)
    lines = ["class values of one anchor on a 1 × 1 grid, over a toy tree:", ""]
    lines += [f"{'node':10}{'as loaded':>12}{'set to 1':>12}{'ours':>12}"]
    return lines + [f"{label:10}{a:12.4f}{b:12.4f}{c:12.4f}" for label, a, b, c in labels]


def show_groups(library: Any) -> list[str]:
    """The groups that are looked for in the wrong place."""
    lines = ["sums over the sibling groups of a toy tree, temperature set to 1; every one should be 1:", ""]
    for side in (1, 2):
        ours, theirs = toy_output(library, side, 1.0)
        where = f"{len(ours)} anchor{'s' * (len(ours) > 1)}, {side} × {side} grid"
        lines.append(f"{where:22} library {group_sums(theirs):28} ours {group_sums(ours)}")
    return lines


BUGS: dict[str, Callable[[Any], list[str]]] = {"temperature": show_temperature, "groups": show_groups}


# ---------------------------------------------------------------------------------------------- resizing


def resizing() -> list[str]:
    """What the choice of resampling changes on each photo: pixels, and the built-in model's detections."""
    smooth, plain = YOLO9000.load(device="cpu"), YOLO9000.load(device="cpu")
    smooth.letterbox, plain.letterbox = "torch", "darknet"
    lines = ["| photo | pixels, mean | pixels, largest | found | found by both | score | IoU |"]
    lines.append("|---|---|---|---|---|---|---|")
    for photo in sorted((DARKNET / "data").glob("*.jpg")):
        image = read_image(photo)
        size = smooth.network.cfg.height, smooth.network.cfg.width
        apart = (letterbox(image, size, "torch")[0] - letterbox(image, size, "darknet")[0]).abs() * 255
        one, other = smooth.detect(image), plain.detect(image)
        iou = box_iou(torch.from_numpy(one.boxes), torch.from_numpy(other.boxes)).numpy()
        iou = np.where(one.nodes[:, None] == other.nodes, iou, 0.0)
        pairs = [(i, int(row.argmax())) for i, row in enumerate(iou) if row.max(initial=0) >= 0.5]
        scores = max((abs(float(one.scores[i] - other.scores[j])) for i, j in pairs), default=0.0)
        lowest = min((float(iou[i, j]) for i, j in pairs), default=1.0)
        cells = [photo.stem, f"{apart.mean():.1f}", f"{apart.max():.0f}", f"{len(one)} and {len(other)}"]
        lines.append("| " + " | ".join([*cells, str(len(pairs)), f"{scores:.3f}", f"{lowest:.2f}"]) + " |")
    return lines


# ------------------------------------------------------------------------------------------------ output


def page(rows: Sequence[Row], library: Any) -> str:
    """docs/parity.md."""
    table = "\n".join("| " + " | ".join(row.cells) + " |" for row in rows)
    return TEXT.format(
        table=table,
        temperature="\n".join(show_temperature(library)),
        groups="\n".join(show_groups(library)),
        resizing="\n".join(resizing()),
    )


TEXT = (Path(__file__).with_name("parity.md.in")).read_text(encoding="utf-8")


def show(rows: Sequence[Row]) -> None:
    table = Table("model", "check", "compared", "difference", "allowed")
    for row in rows:
        table.add_row(*row.cells, style=None if row.good else "red")
    Console(highlight=False).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--show-bug", choices=BUGS, help="show a fault of the library's CPU path, and end")
    parser.add_argument("--full", action="store_true", help="also the large networks at their own sizes")
    parser.add_argument("--no-write", action="store_true", help="leave docs/parity.md as it is")
    options = parser.parse_args()
    if not LIBRARY.exists() or not (DARKNET / "cfg" / "yolo9000.cfg").exists():
        print(f"needs {LIBRARY} and {DARKNET}: apt-get install darknet", file=sys.stderr)
        return 2
    library = reference("libdarknet").Library(LIBRARY)
    if options.show_bug:
        print("\n".join(BUGS[options.show_bug](library)))
        return 0
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for row in all_rows(library, Path(folder), options.full):
            print(" ".join(row.cells), file=sys.stderr, flush=True)
            rows.append(row)
    show(rows)
    if not options.no_write:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(rows, library), encoding="utf-8")
    return 0 if all(row.good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
