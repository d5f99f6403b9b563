"""A small typed way to Debian's libdarknet.so, the reference that tests compare with.

The structures are built from the installed `darknet.h`, so their offsets are those of the installed library.
The library prints to stderr and ends the whole process on bad input: give it only files that it can read.

Use the `libdarknet` fixture of `conftest.py`:

    with libdarknet.load(cfg_path, weights_path) as net:
        net.predict(images)                     # [B, C, H, W] float32, B as in the cfg
        net.output(-2)                          # [B, C, H, W] of any layer
        net.boxes(threshold=0.24, nms=0.45)
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_char_p, c_float, c_int, c_size_t, c_void_p
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
FloatPointer = POINTER(c_float)
_SCALARS: dict[str, Any] = {"int": c_int, "float": c_float, "size_t": c_size_t}
MAX_TRUTHS = 30  # per image: region_layer.c, max_boxes


class Image(Structure):
    """darknet.h, `image`: planes of c x h x w floats in 0..1."""

    _fields_ = (("w", c_int), ("h", c_int), ("c", c_int), ("data", FloatPointer))


class Box(Structure):
    """darknet.h, `box`: centre and size."""

    _fields_ = (("x", c_float), ("y", c_float), ("w", c_float), ("h", c_float))


class RawDetection(Structure):
    """darknet.h, `detection`."""

    _fields_ = (
        ("bbox", Box),
        ("classes", c_int),
        ("prob", FloatPointer),
        ("mask", FloatPointer),
        ("objectness", c_float),
        ("sort_class", c_int),
    )


@dataclass(frozen=True)
class Found:
    """One entry of `get_network_boxes`.

    Attributes:
        box: Centre x, y, width, height; fractions of the image where `relative`, else its pixels.
        objectness: 0 to 1.
        probabilities: [classes].
    """

    box: tuple[float, float, float, float]
    objectness: float
    probabilities: Floats


@dataclass(frozen=True)
class RegionPass:
    """What `forward_region_layer` computes in training.

    Attributes:
        output: [B, A * (5 + N), S, S], activated.
        delta: The same shape: darknet's negative gradients.
        cost: The layer's cost.
    """

    output: Floats
    delta: Floats
    cost: float


class Library:
    """The library, its functions declared.

    Args:
        path: libdarknet.so; `include/darknet.h` is expected beside it.
    """

    def __init__(self, path: Path) -> None:
        header = (path.parent / "include" / "darknet.h").read_text()
        self.layer_type = _structure(header, "Layer", r"struct layer\{(.*?)\n\};")
        self.network_type = _structure(header, "Network", r"typedef struct network\{(.*?)\n\} network;")
        self.c = ctypes.CDLL(str(path))
        self._declare()

    def _declare(self) -> None:
        net = POINTER(self.network_type)
        detections = POINTER(RawDetection)
        ints = POINTER(c_int)
        signatures: dict[str, tuple[Any, list[Any]]] = {
            "load_network": (net, [c_char_p, c_char_p, c_int]),
            "free_network": (None, [net]),
            "set_batch_network": (None, [net, c_int]),
            "set_temp_network": (None, [net, c_float]),
            "resize_network": (c_int, [net, c_int, c_int]),
            "network_predict": (FloatPointer, [net, FloatPointer]),
            "save_weights": (None, [net, c_char_p]),
            "save_weights_upto": (None, [net, c_char_p, c_int]),
            "train_network_datum": (c_float, [net]),
            "forward_region_layer": (None, [self.layer_type, self.network_type]),
            "get_network_boxes": (detections, [net, c_int, c_int, c_float, c_float, ints, c_int, ints]),
            "do_nms_sort": (None, [detections, c_int, c_int, c_float]),
            "free_detections": (None, [detections, c_int]),
            "load_image_color": (Image, [c_char_p, c_int, c_int]),
            "letterbox_image": (Image, [Image, c_int, c_int]),
            "free_image": (None, [Image]),
            "read_tree": (c_void_p, [c_char_p]),
            "read_map": (ints, [c_char_p]),
            "hierarchy_predictions": (None, [FloatPointer, c_int, c_void_p, c_int, c_int]),
            "hierarchy_top_prediction": (c_int, [FloatPointer, c_void_p, c_float, c_int]),
        }
        for name, (result, arguments) in signatures.items():
            function = getattr(self.c, name)
            function.restype, function.argtypes = result, arguments

    def load(self, cfg: Path, weights: Path | None = None) -> Net:
        """`load_network`. Close the result, or use it in a `with` statement."""
        for path in (cfg, weights):
            assert path is None or path.is_file(), path  # the library would end the process
        encoded = None if weights is None else str(weights).encode()
        return Net(self, self.c.load_network(str(cfg).encode(), encoded, 0))

    def load_image(self, path: Path) -> Floats:
        """`load_image_color`: [3, H, W] RGB in 0..1."""
        return self._take(self.c.load_image_color(str(path).encode(), 0, 0))

    def letterbox(self, image: Floats, width: int, height: int) -> Floats:
        """`letterbox_image` of [3, H, W]: [3, height, width]."""
        image = np.ascontiguousarray(image, dtype=np.float32)
        channels, rows, columns = image.shape
        return self._take(
            self.c.letterbox_image(Image(columns, rows, channels, _pointer(image)), width, height)
        )

    def hierarchy_predictions(self, conditional: Floats, tree: Path, *, only_leaves: bool = False) -> Floats:
        """Absolute from conditional probabilities [N], by the tree of a file."""
        absolute = np.array(conditional, dtype=np.float32)
        handle = self.c.read_tree(str(tree).encode())
        self.c.hierarchy_predictions(_pointer(absolute), len(absolute), handle, only_leaves, 1)
        return absolute

    def hierarchy_top_prediction(self, predictions: Floats, tree: Path, threshold: float) -> int:
        """The node at which the walk down the tree ends, for predictions [N]."""
        values = np.ascontiguousarray(predictions, dtype=np.float32)
        handle = self.c.read_tree(str(tree).encode())
        return int(self.c.hierarchy_top_prediction(_pointer(values), handle, threshold, 1))

    def _take(self, image: Image) -> Floats:
        array = np.ctypeslib.as_array(image.data, (image.c, image.h, image.w)).copy()
        self.c.free_image(image)
        return array


class Net:
    """A loaded network. Layer numbers are those of the cfg; negative ones count from the end."""

    def __init__(self, library: Library, handle: Any) -> None:
        self.library, self.c, self.handle = library, library.c, handle
        assert 0 < self.struct.n < 1000, "darknet.h does not belong to this libdarknet.so"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def struct(self) -> Any:
        """The C `network`, by reference; fields as in darknet.h."""
        return self.handle.contents

    @property
    def seen(self) -> int:
        """Images seen in training, from the weights file."""
        return int(ctypes.cast(self.struct.seen, POINTER(c_size_t))[0])

    def layer(self, index: int) -> Any:
        """The C `layer`, by reference; fields as in darknet.h."""
        layers = ctypes.cast(self.struct.layers, POINTER(self.library.layer_type))
        return layers[range(self.struct.n)[index]]

    def resize(self, width: int, height: int) -> None:
        """`resize_network`: another input size in pixels."""
        self.c.resize_network(self.handle, width, height)

    def set_temperature(self, temperature: float = 1.0) -> None:
        """`set_temp_network`: without it a region layer's tree softmax is NaN on CPU."""
        self.c.set_temp_network(self.handle, temperature)

    def predict(self, images: Floats) -> Floats:
        """`network_predict` of [B, C, H, W], the network's own sizes: its output [B, outputs]."""
        images = np.ascontiguousarray(images, dtype=np.float32)
        net = self.struct
        assert images.shape == (net.batch, net.c, net.h, net.w), (
            images.shape,
            (net.batch, net.c, net.h, net.w),
        )
        output = self.c.network_predict(self.handle, _pointer(images))
        return np.ctypeslib.as_array(output, (net.batch, net.outputs)).copy()

    def output(self, index: int) -> Floats:
        """Output [B, C, H, W] of a layer."""
        return self._values(index, self.layer(index).output)

    def delta(self, index: int) -> Floats:
        """Delta [B, C, H, W] of a layer."""
        return self._values(index, self.layer(index).delta)

    def boxes(
        self,
        width: int = 1,
        height: int = 1,
        *,
        threshold: float = 0.24,
        hier_threshold: float = 0.5,
        relative: bool = True,
        class_map: Sequence[int] | None = None,
        nms: float | None = None,
    ) -> list[Found]:
        """`get_network_boxes` for an image of `width` x `height` pixels, then `do_nms_sort` with `nms`."""
        count = c_int(0)
        mapped = None if class_map is None else (c_int * len(class_map))(*class_map)
        found = self.c.get_network_boxes(
            self.handle, width, height, threshold, hier_threshold, mapped, int(relative), byref(count)
        )
        classes = self.layer(-1).classes
        if nms is not None:
            self.c.do_nms_sort(found, count.value, classes, nms)
        result = [
            Found(
                (entry.bbox.x, entry.bbox.y, entry.bbox.w, entry.bbox.h),
                entry.objectness,
                np.ctypeslib.as_array(entry.prob, (classes,)).copy(),
            )
            for entry in (found[i] for i in range(count.value))
        ]
        self.c.free_detections(found, count.value)
        return result

    def forward_region(self, raw: Floats, truths: Floats | None = None, *, seen: int = 0) -> RegionPass:
        """`forward_region_layer` of the last layer on raw input of our choice.

        Args:
            raw: [B, A * (5 + N), S, S].
            truths: [B, 30, 5] (x, y, w, h as fractions, class; x = 0 ends the list): then the layer trains.
            seen: Images seen so far.
        """
        layer = self.layer(-1)
        raw = np.ascontiguousarray(raw, dtype=np.float32)
        assert raw.shape == (layer.batch, layer.outputs // (layer.h * layer.w), layer.h, layer.w), raw.shape
        net = self.library.network_type()
        ctypes.pointer(net)[0] = self.struct  # a copy: the loaded network keeps its own input and truth
        counter = c_size_t(seen)
        net.seen = ctypes.addressof(counter)
        net.input, net.train = _pointer(raw), int(truths is not None)
        if truths is not None:
            truths = np.ascontiguousarray(truths, dtype=np.float32)
            assert truths.shape == (layer.batch, MAX_TRUTHS, 5), truths.shape
            net.truth = _pointer(truths)
        self.c.forward_region_layer(layer, net)
        shape = raw.shape
        output = np.ctypeslib.as_array(layer.output, shape).copy()
        return RegionPass(output, np.ctypeslib.as_array(layer.delta, shape).copy(), float(layer.cost[0]))

    def save_weights(self, path: Path, layers: int | None = None) -> None:
        """`save_weights`, or `save_weights_upto` the first so many layers."""
        if layers is None:
            self.c.save_weights(self.handle, str(path).encode())
        else:
            self.c.save_weights_upto(self.handle, str(path).encode(), layers)

    def close(self) -> None:
        """`free_network`."""
        if self.handle:
            self.c.free_network(self.handle)
            self.handle = None

    def _values(self, index: int, pointer: Any) -> Floats:
        layer = self.layer(index)
        shape = (layer.batch, layer.out_c, layer.out_h, layer.out_w)
        if int(np.prod(shape[1:])) != layer.outputs:  # a region layer sets no out_c
            shape = (layer.batch, layer.outputs // (layer.h * layer.w), layer.h, layer.w)
        return np.ctypeslib.as_array(pointer, shape).copy()


def _pointer(array: Floats) -> Any:
    """A float pointer into an array, which the caller keeps alive."""
    return array.ctypes.data_as(FloatPointer)


def _structure(header: str, name: str, pattern: str) -> type[Structure]:
    """A ctypes structure from the C declaration that `pattern` captures; GPU members are left out."""
    match = re.search(pattern, header, re.DOTALL)
    assert match is not None, f"darknet.h declares no {name}"
    fields: list[tuple[str, Any]] = []
    conditional = 0
    for line in map(str.strip, match[1].splitlines()):
        if line.startswith("#"):
            conditional += line.startswith("#if") - line.startswith("#endif")
        elif line and not conditional:
            fields += _members(line)
    return type(name, (Structure,), {"_fields_": fields})


def _members(line: str) -> list[tuple[str, Any]]:
    """The members that one line declares: `int h,w,c;`, `float * output;`, `void (*forward) (...);`."""
    function = re.match(r"void\s*\(\*(\w+)\)", line)
    if function:
        return [(function[1], c_void_p)]
    declaration = re.fullmatch(r"(?:struct\s+)?(\w+)\s*(.*);", line)
    assert declaration is not None, line
    kind, names = declaration[1], declaration[2].split(",")
    members: list[tuple[str, Any]] = []
    for name in names:
        stars, bare = name.count("*"), name.replace("*", "").strip()
        if stars == 0:
            members.append((bare, _SCALARS.get(kind, c_int)))  # anything else is an enumeration
        else:
            pointed = {"float": FloatPointer, "int": POINTER(c_int)}.get(kind)
            members.append((bare, pointed if stars == 1 and pointed else c_void_p))
    return members
