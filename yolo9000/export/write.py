"""Writing a detector as an ONNX, TorchScript or torch.export file.

Letters: B batch, A anchors per cell, H and W grid.
"""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from wordtree._files import atomic_write, check_replaceable, try_folder
from yolo9000.darknet.plan import grid_cells
from yolo9000.engine import Engine
from yolo9000.errors import ConfigError
from yolo9000.export.about import METADATA_FILE, describe_export
from yolo9000.export.graph import DenseGraph, GatedGraph
from yolo9000.model import YOLO9000, Size
from yolo9000.network import MAX_SIDE, Network, check_size
from yolo9000.optional import optional
from yolo9000.settings import whole

_TOP = 300  # anchors kept of a picture
_MAX_BATCH = 1024  # of a dynamic program; torch.export wants a bound


@dataclass(frozen=True)
class ExportOptions:
    """How a network is exported.

    Attributes:
        dense: Give the whole output of the last convolution instead of the best anchors.
        top: Anchors kept, in equal parts from each prior, rounded up; None: 300, or with `dense` all.
        size: Side of the input, or (height, width), pixels; None: the cfg's.
        dynamic: Leave batch, height and width free; otherwise batch 1 and `size`.
    """

    dense: bool = False
    top: int | None = None
    size: Size | None = None
    dynamic: bool = False


def export(model: YOLO9000, path: str | os.PathLike[str], options: ExportOptions | None = None) -> Path:
    """Write a detector as a program that other runtimes can execute, with everything about it inside.

    Args:
        model: The detector. ONNX runs everywhere; TorchScript and torch.export programs on the kind of device
            that the model is on.
        path: `*.onnx`, `*.torchscript` or `*.pt2` (torch.export); the ending chooses.
        options: See there.

    Returns:
        The file, written whole or not at all.

    Raises:
        ConfigError: An ending or setting that cannot be; a package is missing; a model in another
            precision than fp32.
        OSError: The file cannot be written; told before the work.
        WeightsError: A weight is no number.
    """
    path, options = Path(path), options or ExportOptions()
    write = _writer(path, options)
    original, size = model.network, model.input_size(options.size)
    assert isinstance(model.engine, Engine)
    if (precision := model.engine.precision) != "fp32":
        raise ConfigError(f"a model in {precision} cannot be exported: load it with precision='fp32'.")
    if options.dynamic:
        check_size(*size, original.multiple)  # the cfg's own may be no multiple
    original.check_values()
    network = model.engine.network
    kept = 0 if options.dense else _per_prior(network, options, size)
    graph: DenseGraph | GatedGraph
    graph = GatedGraph(network, kept, pad=options.dynamic) if kept else DenseGraph(network)
    metadata = describe_export(original, model.metadata, kept=kept, size=size, dynamic=options.dynamic)
    batch = 2 if options.dynamic else 1  # torch.export takes 1 for a constant
    shape = (batch, network.cfg.channels, *size)
    example = torch.rand(shape, dtype=torch.float32, device=model.device)
    with torch.no_grad(), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # about torch's own parts, and of tracing what is constant here
        data = write(graph.eval(), example, network.multiple if options.dynamic else None, metadata)
    with atomic_write(path) as stream:
        stream.write(data)
    return path


def _writer(path: Path, options: ExportOptions) -> _Write:
    """The function that makes the file, once it is clear that it can."""
    writers = {".onnx": _onnx, ".torchscript": _torchscript, ".pt2": _pt2}
    write = writers.get(path.suffix.lower())
    if write is None:
        raise ConfigError(
            f"{path}: expected a file name that ends in {', '.join(writers)}; the ending chooses the format."
        )
    if write is _torchscript and options.dynamic:
        raise ConfigError(
            f"{path}: TorchScript is recorded at one size and cannot be dynamic: write .onnx or .pt2, or one "
            "file a size."
        )
    if options.top is not None and whole("top", options.top) < 1:
        raise ConfigError(f"top must be at least 1, found {options.top}.")
    if options.top is not None and options.dense:
        raise ConfigError("a dense export has every anchor: leave out top, or dense.")
    if write is _onnx:
        optional("onnxscript", "writing ONNX files", "onnx onnxscript")
    check_replaceable(path)
    try_folder(path.parent)
    return write


def _per_prior(network: Network, options: ExportOptions, size: tuple[int, int]) -> int:
    """Anchors kept of each prior: never more than there are, in programs of fixed size."""
    assert network.head is not None
    wanted = -(-(options.top or _TOP) // network.head.num_anchors)
    largest = (MAX_SIDE // network.multiple * network.multiple,) * 2 if options.dynamic else size
    return min(wanted, grid_cells(network.cfg, *largest))


_Write = Callable[[GatedGraph | DenseGraph, torch.Tensor, int | None, Mapping[str, str]], bytes]


def _exported(graph: nn.Module, example: torch.Tensor, multiple: int | None) -> torch.export.ExportedProgram:
    shapes = None
    if multiple:
        most = MAX_SIDE // multiple
        height, width = (multiple * torch.export.Dim(name, min=1, max=most) for name in ("rows", "columns"))
        shapes = ({0: torch.export.Dim("batch", min=1, max=_MAX_BATCH), 2: height, 3: width},)
    return torch.export.export(graph, (example,), dynamic_shapes=shapes)


def _onnx(
    graph: GatedGraph | DenseGraph, example: torch.Tensor, multiple: int | None, metadata: Mapping[str, str]
) -> bytes:
    program = torch.onnx.export(
        _exported(graph, example, multiple), dynamo=True, input_names=["images"],
        output_names=list(graph.outputs), external_data=False, verbose=False,
    )  # fmt: skip
    assert program is not None
    proto = program.model_proto
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)
    return bytes(proto.SerializeToString())


def _pt2(
    graph: GatedGraph | DenseGraph, example: torch.Tensor, multiple: int | None, metadata: Mapping[str, str]
) -> bytes:
    data = io.BytesIO()
    program = _exported(graph, example, multiple)
    torch.export.save(program, data, extra_files={METADATA_FILE: json.dumps(metadata)})
    return data.getvalue()


def _torchscript(
    graph: GatedGraph | DenseGraph, example: torch.Tensor, multiple: int | None, metadata: Mapping[str, str]
) -> bytes:
    data = io.BytesIO()
    traced = torch.jit.trace(graph, (example,), check_trace=False)  # type: ignore[no-untyped-call]
    torch.jit.save(traced, data, _extra_files={METADATA_FILE: json.dumps(metadata)})
    return data.getvalue()
