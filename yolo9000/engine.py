"""The network as it runs: number format, memory layout, compiled or not. Everything that speed depends on.

The last layer computes in float32 whatever the rest does: its share of the time is small, and thresholds act
on its numbers.

Letters: B batch, H W input pixels, S output cells, D feature channels, K anchors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from yolo9000.decode import Decoder, RawDetections, Walk
from yolo9000.errors import ConfigError
from yolo9000.letterbox import Letterbox
from yolo9000.network import Network
from yolo9000.quantized import DTYPES, Precision, folded

_SMALLEST_BUCKET = 16  # anchors; one photo with a few objects has fewer
# Shapes compiled before torch gives up (its own limit is 8): a dozen input sizes, as many batch sizes.
_MAX_SHAPES = 256


class Engine:
    """A detector's network, folded for inference, with its decoder.

    Args:
        network: A detector in evaluation mode, on the device to run on; it stays as it is, and the rows of
            its head are shared.
        precision: Of the layers before the head. bf16 and fp16 are for hardware that computes in them: GPUs,
            and CPUs with AMX or AVX-512 BF16. int8 is for CPUs: the convolutions round kernels and feature
            maps, see `yolo9000.quantized`.
        compile: Generate code with `torch.compile`: on a GPU with CUDA graphs, on a CPU through a C++
            compiler. Every new input shape is compiled once, which takes a minute; the number of anchors with
            an object makes no new shape.

    Attributes:
        network: The folded copy.
        precision, compiled: As given.
        dtype: That of the feature maps.
        decoder: From features to candidates.

    Raises:
        ConfigError: Unknown precision, or one that this device has not, or that is not compiled; a
            classifier, or a network in another number format than float32.
    """

    def __init__(self, network: Network, precision: Precision = "fp32", *, compile: bool = False) -> None:
        check_precision(precision, compile)
        if network.head is None:
            raise ConfigError("expected a detector, found a classifier without [region]")
        if (dtype := network.head.class_weight.dtype) != torch.float32:
            raise ConfigError(
                f"expected a network in torch.float32, found {dtype}: call its float(). To compute faster, "
                "give precision='fp16' or 'bf16'."
            )
        self.network = folded(network, precision)
        head = self.network.head
        assert head is not None
        self.precision, self.dtype = precision, DTYPES[precision]
        self.compiled = compile
        self._layers: Callable[[Tensor], Tensor] = self.network.features
        if precision == "int8":
            self._layers = self._side_by_side
        walk: Walk | None = None
        if compile:
            on_gpu = head.class_weight.device.type == "cuda"
            self._layers = compiled(self.network.features, graphs=on_gpu)
            if on_gpu:  # on CPU the walk follows the data, and is faster for it
                walk = Bucketed(compiled(head.descend_fixed, graphs=True))
        self.decoder = Decoder(head, "darknet", walk=walk)

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] float32 in 0..1 to [B, D, S, S] float32."""
        # A copy: the next run of a CUDA graph writes into the same memory.
        return self._layers(images.to(self.dtype)).to(torch.float32, copy=True)

    def _side_by_side(self, images: Tensor) -> Tensor:
        """Each picture on one thread.

        Rounding makes many small steps, after each of which the threads that share a picture would wait for
        each other: a reader beside them then costs more than 8 bits gain.
        """
        threads = torch.get_num_threads()
        if len(images) == 1 or threads == 1:
            return self.network.features(images)
        try:
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                alone = torch.inference_mode()(self.network.features)
                return torch.cat(list(pool.map(alone, images.split(1))))  # type: ignore[no-untyped-call]
        finally:
            torch.set_num_threads(threads)  # in the pool it set what threads yet to come begin with

    @torch.inference_mode()
    def boxes(self, features: Tensor) -> Tensor:
        """Raw boxes and objectness everywhere, [B, A, 5, S, S], see `RegionHead.boxes`."""
        return self.decoder.head.boxes(features)

    @torch.inference_mode()
    def candidates(
        self, features: Tensor, threshold: float, raw: Tensor | None = None
    ) -> list[RawDetections]:
        """Every anchor with objectness above the threshold, with its likeliest path to a leaf, per image.

        Args:
            features: [B, D, S, S].
            threshold: 0..1.
            raw: What `boxes` gives, where it is known already.
        """
        # Even the top node is above no threshold of 1: one row for every anchor, at any depth.
        return self.decoder.decode(features, threshold, hier_threshold=1.0, raw=raw)

    @torch.inference_mode()
    def fused(
        self, features: Sequence[Tensor], fits: Sequence[Sequence[Letterbox]], threshold: float
    ) -> list[RawDetections]:
        """`candidates` of several views of the same images, as one; see `Decoder.decode_views`."""
        return self.decoder.decode_views(features, fits, threshold, hier_threshold=1.0)


def check_precision(precision: str, compile: bool) -> None:
    """Refuse what no network can run with, before one is read or downloaded.

    Raises:
        ConfigError: Unknown precision, or one that is not compiled.
    """
    if precision not in get_args(Precision):
        raise ConfigError(f"precision is one of {', '.join(get_args(Precision))}; got {precision!r}")
    if compile and precision == "int8":
        raise ConfigError("precision 'int8' is not compiled: leave out compile, or give another.")


class Bucketed:
    """A walk over K anchors as one over the next power of two: few shapes, so few compilations.

    Args:
        walk: From feature vectors [K, D] and their anchors [K] to two tensors [K, L], row by row.
    """

    def __init__(self, walk: Walk) -> None:
        self.walk = walk

    def __call__(self, vectors: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
        """The same as `walk`, in memory of its own."""
        count = len(vectors)
        more = max(_SMALLEST_BUCKET, 1 << (count - 1).bit_length()) - count
        paths, log_probs = self.walk(F.pad(vectors, (0, 0, 0, more)), F.pad(anchor, (0, more)))
        return paths[:count].clone(), log_probs[:count].clone()


def compiled(function: Callable[..., Any], *, graphs: bool, backend: str = "inductor") -> Any:
    """`torch.compile` as one graph for fixed shapes.

    Args:
        function: What to compile.
        graphs: Record CUDA graphs: one launch for all kernels. Every call may overwrite what the one before
            returned.
        backend: Of `torch.compile`; tests take one without code generation.
    """
    import torch._dynamo  # heavy, and needed by nobody else

    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = max(limit, _MAX_SHAPES)
    mode = "reduce-overhead" if graphs else None
    run = torch.compile(function, fullgraph=True, dynamic=False, backend=backend, mode=mode)
    if not graphs:
        return run

    def step(*arguments: Tensor) -> Any:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return run(*arguments)

    return step
