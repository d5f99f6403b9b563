"""Darknet's .weights files: a header, then the float32 values of every convolution, nothing in between.

Header (`parser.c`, `load_weights_upto`): int32 major, minor, revision; then the number of images seen in
training, as uint64 where major * 10 + minor >= 2 and both are below 1000, else as uint32. Per convolution, in
the order of the cfg: biases; with batch norm scales, running mean and running variance; kernel [out, in,
height, width]. All little-endian. The file does not say which network it belongs to, so its length is checked
against the cfg before a value is read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wordtree._files import KIND_BYTES, atomic_write, known_kind
from yolo9000.darknet.cfg import Cfg, builtin_cfgs
from yolo9000.darknet.layers import Convolution
from yolo9000.darknet.plan import LayerPlan, filters_before, plan_layers
from yolo9000.errors import WeightsError

if TYPE_CHECKING:
    from yolo9000.head import RegionHead
    from yolo9000.network import Network

_VERSION = struct.Struct("<3i")
_BYTES = 4  # of a float32


@dataclass(frozen=True)
class Header:
    """The start of a .weights file.

    Attributes:
        version: Major, minor, revision.
        seen: Images seen in training.
    """

    version: tuple[int, int, int]
    seen: int

    @property
    def seen_format(self) -> str:
        """`struct` format of `seen`: 64 bits since version 0.2, 32 before and from version 1000 on."""
        major, minor, _ = self.version
        return "<Q" if major * 10 + minor >= 2 and major < 1000 and minor < 1000 else "<I"

    @property
    def size(self) -> int:
        """Bytes: 20 or 16."""
        return _VERSION.size + struct.calcsize(self.seen_format)

    def pack(self) -> bytes:
        """The header as stored.

        Raises:
            WeightsError: `seen` does not fit into the version's field.
        """
        try:
            return _VERSION.pack(*self.version) + struct.pack(self.seen_format, self.seen)
        except struct.error as error:
            raise WeightsError(
                f"version {self.version} and seen={self.seen:,} do not fit into a .weights header ({error})"
            ) from error


@dataclass(frozen=True)
class Loaded:
    """What `load_weights` read.

    Attributes:
        path: The file.
        header: Its header.
        layers: Leading layers of the cfg, of any type, up to the last one loaded; all for a whole file.
        convolutions: How many of them hold weights; `total` in the whole network.
        total: Convolutions of the network.
        values: float32 values read.
    """

    path: Path
    header: Header
    layers: int
    convolutions: int
    total: int
    values: int

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.convolutions} of {self.total} convolutions ({self.values:,} values), "
            f"version {'.'.join(map(str, self.header.version))}, seen {self.header.seen:,} images"
        )


def load_weights(
    network: Network, path: str | Path, *, partial: bool = False, layers: int | None = None
) -> Loaded:
    """Read a .weights file into a network, and switch its batch norms to darknet's formula.

    The file is mapped, not read: no second copy of the values is held.

    Args:
        network: Built from the cfg that the weights belong to.
        path: The file.
        partial: Accept a file that ends after any whole layer, such as `darknet19_448.conv.23`, which holds a
            backbone; the layers after it keep what they have, and `network.seen` stays.
        layers: Read only the first so many layers of the cfg (darknet's `cutoff`) and ignore what follows in
            the file: a backbone out of a complete file.

    Returns:
        What was read; `str()` of it is a line for a log.

    Raises:
        WeightsError: The file is missing, truncated, has bytes left over, or belongs to another cfg: with
            expected and found counts and the layer where they part. The network is unchanged then.
    """
    path = Path(path)
    header, found = _open(path)
    wanted = _select(network, layers)
    counts = [(plan, _stored_count(plan, network.cfg)) for plan, _ in wanted]
    done = _fit(network.cfg, path, header, found, counts, partial=partial, cut=layers is not None)
    used = end = sum(count for _, count in counts[:done])
    with torch.no_grad():
        # Backwards: the head alone can still refuse its values, and comes before anything is changed.
        for plan, layer in reversed(wanted[:done]):
            count = _stored_count(plan, network.cfg)
            end -= count
            # Only what is read is mapped: a wrong file may be larger than memory.
            values = np.memmap(path, "<f4", "c", header.size + end * _BYTES, count)
            _read_layer(plan, layer, torch.from_numpy(values), path)
    network.batchnorm = "darknet"
    network.weights_version = header.version
    total = len(network.convolutions())
    if done == total:  # a backbone alone starts a new training: its images do not count
        network.seen = header.seen
    covered = len(network.plans) if layers is None else layers
    if done < len(wanted):
        covered = wanted[done - 1][0].index + 1
    return Loaded(path, header, covered, done, total, used)


def check_weights(plans: Sequence[LayerPlan], cfg: Cfg, path: str | Path) -> None:
    """See that a .weights file has the length that a cfg asks for, before anything is allocated for either.

    Args:
        plans: The layers of the cfg.
        cfg: The description.
        path: The file.

    Raises:
        WeightsError: What `load_weights` would raise for a file that does not fit.
    """
    header, found = _open(Path(path))
    _fit(cfg, Path(path), header, found, _stored(plans, cfg), partial=False, cut=False)


def file_sizes(cfg: Cfg) -> tuple[int, int]:
    """Bytes of a complete .weights file of a cfg: with the header of version 0.1, and with that of 0.2.

    Raises:
        CfgError: The cfg is wrong.
    """
    values = sum(count for _, count in _stored(plan_layers(cfg), cfg))
    old, new = Header((0, 1, 0), 0), Header((0, 2, 0), 0)
    return old.size + values * _BYTES, new.size + values * _BYTES


def save_weights(network: Network, path: str | Path, *, layers: int | None = None) -> None:
    """Write a network as a .weights file, whole or not at all.

    A file that was read by `load_weights` is written back byte by byte equal.

    Args:
        network: The network, not fused.
        path: The file to write.
        layers: Write only the first so many layers of the cfg (darknet's `partial`): 23 for a Darknet-19.

    Raises:
        WeightsError: The network is fused: its batch norms are gone.
    """
    with atomic_write(path) as stream:
        write_weights(network, stream, layers)


@torch.no_grad()
def write_weights(network: Network, stream: IO[bytes], layers: int | None = None) -> None:
    """`save_weights` into an open file."""
    wanted = _select(network, layers)
    stream.write(Header(network.weights_version, network.seen).pack())
    for plan, layer in wanted:
        for tensor in _written_tensors(plan, layer):
            array = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
            stream.write(np.ascontiguousarray(array, dtype="<f4").data)


def read_header(path: str | Path) -> Header:
    """Read the header of a .weights file.

    Raises:
        WeightsError: The file is missing, shorter than a header, or evidently of another kind.
    """
    try:
        with Path(path).open("rb") as stream:
            start = stream.read(KIND_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"{path}: cannot be read ({reason})") from error
    if kind := known_kind(start):
        raise WeightsError(f"{path}: expected a .weights file of darknet, got {kind}")
    if len(start) >= _VERSION.size:
        major, minor, revision = _VERSION.unpack_from(start)
        header = Header((major, minor, revision), 0)
        if len(start) >= header.size:
            (seen,) = struct.unpack_from(header.seen_format, start, _VERSION.size)
            return Header(header.version, seen)
    raise WeightsError(f"{path}: {len(start)} bytes, but a .weights header alone has 16 or 20; truncated?")


def _open(path: Path) -> tuple[Header, int]:
    """Header of a file, and how many values follow it."""
    header = read_header(path)
    major, minor, revision = header.version
    if major < 0 or minor < 0 or revision < 0 or major >= 1000 or minor >= 1000:
        if all(0 <= number < 1000 for number in struct.unpack(">3i", _VERSION.pack(*header.version))):
            raise WeightsError(f"{path}: expected little-endian numbers, got big-endian ones: swap its bytes")
        raise WeightsError(
            f"{path}: version {major}.{minor}.{revision} is not between 0.0 and 999.999; is this a .weights "
            "file? Those of 1000 and above hold transposed kernels: let darknet write them anew"
        )
    if not path.is_file():
        raise WeightsError(f"{path}: expected a .weights file, got a device or pipe; copy it into a file")
    size = path.stat().st_size - header.size
    if size % _BYTES:
        raise WeightsError(
            f"{path}: {size:,} bytes after the header are no whole number of float32 values "
            f"({size % _BYTES} bytes too many); truncated, or no .weights file"
        )
    return header, size // _BYTES


def _select(network: Network, layers: int | None) -> list[tuple[LayerPlan, Convolution | RegionHead]]:
    """The convolutions among the first `layers` layers."""
    found = network.convolutions()
    for plan, layer in found:
        if isinstance(layer, Convolution) and plan.batch_normalize and layer.bn is None:
            raise WeightsError(
                f"layer {plan.index} [{plan.type}] has no batch norm any more: the network is fused; "
                "use the original"
            )
    if layers is None:
        return found
    if not 1 <= layers <= len(network.plans):
        raise WeightsError(f"layers={layers}, but the cfg has {len(network.plans)} layers")
    return [(plan, layer) for plan, layer in found if plan.index < layers]


def _fit(
    cfg: Cfg,
    path: Path,
    header: Header,
    found: int,
    wanted: list[tuple[LayerPlan, int]],
    *,
    partial: bool,
    cut: bool,
) -> int:
    """How many of the wanted convolutions, each with its count of values, the file fills.

    Raises:
        WeightsError: Not all of them, or more is there, unless asked for.
    """
    counts = [count for _, count in wanted]
    expected = sum(counts)
    if found == expected or (found > expected and cut):
        return len(wanted)
    name = cfg.path or "the cfg"
    size = header.size + expected * _BYTES
    numbers = f"{name} needs {expected:,} values ({size:,} bytes), the file has {found:,}"
    if found > expected:
        last = wanted[-1][0]
        raise WeightsError(
            f"{path}: {numbers}: {found - expected:,} are left over after layer {last.index} [{last.type}] "
            f"(line {last.section.line}); the weights belong to another cfg" + _may_be(cfg, header, found)
        )
    done, rest = 0, found
    while rest >= counts[done]:
        rest -= counts[done]
        done += 1
    part = wanted[done][0]
    if partial and rest == 0 and done:
        return done
    problem = f"{path}: {numbers}: it ends in layer {part.index} [{part.type}] (line {part.section.line}), "
    if rest == 0:
        partly = (
            f"a file of the first {done} convolutions alone initialises a training (--weights of `yolo9000 "
            "train`, or load_weights with partial=True), but detects nothing and is not converted"
        )
        problem += f"before its first value; {partly if done else 'it holds nothing but its header'}"
    else:
        problem += f"after {rest:,} of its {counts[done]:,} values; truncated, or made for another cfg"
    raise WeightsError(problem + _may_be(cfg, header, found))


def _may_be(cfg: Cfg, header: Header, found: int) -> str:
    """What a file of another length than a cfg asks for may be, as the end of a sentence."""
    size = header.size + found * _BYTES
    if size in file_sizes(cfg):
        stored, minor = (4, 1) if header.seen_format == "<Q" else (8, 2)
        return (
            f". Or its count of images seen has {stored} bytes, as some programs write it under any version: "
            f"then set the version in its header to 0.{minor}"
        )
    if same := [name for name in builtin_cfgs() if size in file_sizes(Cfg.load(name))]:
        return f". It has the length of the weights of {' and '.join(same)}"
    if cfg.region is None:
        return ""
    *before, (last, _) = _stored(plan_layers(cfg), cfg)
    filters, rest = divmod(found - sum(count for _, count in before), last.input[0] + 1)
    classes, odd = divmod(filters, cfg.region.num)
    if rest or odd or classes <= 5:
        return ""
    fitting = replace(cfg.region, classes=classes - 5)
    return (
        f". With classes={fitting.classes} in [region] and filters={filters_before(fitting)} in layer "
        f"{last.index} it would fit"
    )


def _stored(plans: Sequence[LayerPlan], cfg: Cfg) -> list[tuple[LayerPlan, int]]:
    """The convolutions, and how many float32 values each takes in a file."""
    return [(plan, _stored_count(plan, cfg)) for plan in plans if plan.type == "convolutional"]


def _stored_count(plan: LayerPlan, cfg: Cfg) -> int:
    """float32 values that a convolution takes in a file; tied class rows are stored for every anchor."""
    region = cfg.region
    if region is not None and region.tied and plan.index == len(cfg.layers) - 2:
        return region.num * (5 + region.classes) * (plan.input[0] + 1)
    return plan.parameters + (2 * plan.output[0] if plan.batch_normalize else 0)


def _read_layer(plan: LayerPlan, layer: Convolution | RegionHead, values: Tensor, path: Path) -> None:
    if isinstance(layer, Convolution):
        targets = _stored_tensors(layer)
        start = 0
        for target in targets:
            target.copy_(values[start : start + target.numel()].view(target.shape))
            start += target.numel()
        return
    filters = len(values) // (plan.input[0] + 1)
    try:
        layer.load_darknet_conv(values[filters:].view(filters, -1, 1, 1), values[:filters])
    except WeightsError as error:
        raise WeightsError(f"{path}: layer {plan.index} (line {plan.section.line}): {error}") from error


def _written_tensors(plan: LayerPlan, layer: Convolution | RegionHead) -> Iterator[Tensor]:
    if isinstance(layer, Convolution):
        yield from _stored_tensors(layer)
        return
    weight, bias = layer.darknet_conv()
    yield bias
    yield weight


def _stored_tensors(layer: Convolution) -> list[Tensor]:
    """A convolution's tensors in the order of the file (`load_convolutional_weights`)."""
    if layer.bn is not None:
        bn = layer.bn
        return [bn.bias, bn.weight, bn.running_mean, bn.running_var, layer.conv.weight]
    assert layer.conv.bias is not None
    return [layer.conv.bias, layer.conv.weight]
