"""Convolutions in 8-bit integers, for CPUs: two thirds of the time of float32 with AVX2.

Kernels are rounded to 255 steps, each filter by its own largest weight. A picture's feature maps are rounded
to 128 steps between their own least and greatest value, so nothing has to be calibrated, and what is found in
one picture does not depend on others. 128 and not 256, because AVX2 adds products of two bytes in pairs, in
16 bits that 256 would overflow; so every processor gives the same.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from yolo9000.darknet.layers import Convolution, activate
from yolo9000.decode import check_finite
from yolo9000.errors import ConfigError
from yolo9000.network import Network

Precision: TypeAlias = Literal["fp32", "bf16", "fp16", "int8"]

# Of the feature maps between the layers.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.float32}
_STEPS = 127  # of feature maps, 7 bits
_LARGEST = 127  # of a kernel's integers
_TINY = torch.finfo(torch.float32).tiny
_FEWEST_CHANNELS = 16  # of the input: below, as in the first layer, integers gain nothing


def folded(network: Network, precision: str = "fp32") -> Network:
    """A copy for inference, as `Network.fuse` makes it, whose layers before the last compute in a precision.

    `features_of` runs it. With "int8" its convolutions are such in 8 bits, but for the first layer, of three
    channels, which gains nothing.

    Raises:
        ConfigError: 8 bits on another device than a CPU, or one for which torch lacks the operators.
    """
    if precision == "int8" and any(tensor.device.type != "cpu" for tensor in network.parameters()):
        raise ConfigError("precision 'int8' is for CPUs; on a GPU give precision='bf16', or device='cpu'.")
    fused = network.fuse()
    fused.layers[: fused.last].to(DTYPES[precision])
    if precision != "int8":
        return fused
    for index, layer in enumerate(fused.layers[: fused.last]):
        if isinstance(layer, Convolution) and layer.conv.in_channels >= _FEWEST_CHANNELS * layer.conv.groups:
            try:
                fused.layers[index] = Int8Convolution(layer)
                fused.layers[index](torch.zeros(1, layer.conv.in_channels, *layer.conv.kernel_size))
            except (AttributeError, RuntimeError) as error:  # not there, or not for this processor
                raise ConfigError(
                    f"precision 'int8' needs torch with oneDNN on a processor with AVX2; give 'fp32': {error}"
                ) from error
    return fused


def features_of(network: Network, images: Tensor) -> Tensor:
    """Features [B, D, S, S] in float32 of images [B, 3, H, W], by layers of any number format."""
    dtype = next((values.dtype for values in network.layers[: network.last].parameters()), images.dtype)
    return network.features(images.to(dtype)).float()


class Int8Convolution(nn.Module):
    """A convolution in 8-bit integers, with its activation; float32 in and out.

    Args:
        layer: A convolution without batch norm, see `Convolution.fuse`.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: Convolution) -> None:
        super().__init__()
        assert layer.bn is None
        conv = layer.conv
        kernel = conv.weight.detach().contiguous()
        scale = (kernel.abs().amax((1, 2, 3)) / _LARGEST).clamp_min(_TINY)
        self.register_buffer("weight", (kernel / scale.view(-1, 1, 1, 1)).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach())
        self.activation = layer.activation
        self._where: tuple[Any, ...] = (conv.stride, conv.padding, conv.dilation, conv.groups)
        self._pack()

    def _pack(self) -> None:
        """In the order that the processor wants, which can be neither copied nor stored."""
        self._packed = torch.ops.onednn.qconv_prepack(self.weight, self.scale, 1.0, 0, *self._where, None)
        self._zero = torch.zeros(len(self.scale), dtype=torch.int32)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_packed"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._pack()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, filters, H', W'], each picture with steps of its own.

        Raises:
            WeightsError: The input holds NaN or infinity.
        """
        found = [self._convolve(picture) for picture in x.split(1)]  # type: ignore[no-untyped-call]
        return activate(torch.cat(found) if found[1:] else found[0], self.activation)

    def _convolve(self, x: Tensor) -> Tensor:
        ends = torch.aminmax(x.permute(0, 2, 3, 1))  # as it lies in memory
        check_finite(*ends)
        # Zero, which padding adds, must be a step.
        low, high = min(ends.min.item(), 0.0), max(ends.max.item(), 0.0)
        step = max((high - low) / _STEPS, _TINY)
        zero = round(-low / step)
        # Conversion cuts off what is behind the point; by way of 32 bits, which takes half the time.
        whole = torch.add(x.new_tensor(zero + 0.5), x, alpha=1 / step).to(torch.int32).to(torch.uint8)
        y: Tensor = torch.ops.onednn.qconv2d_pointwise(
            whole, step, zero, self._packed, self.scale, self._zero, self.bias, *self._where,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return y
