"""Darknet's layers as torch modules. All take and give [B, C, H, W].

Batch norm, pooling and reorg follow the C code (`batchnorm_layer.c`, `maxpool_layer.c`, `blas.c: reorg_cpu`)
where it differs from what torch offers under the same name.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolo9000.darknet.plan import LayerPlan
from yolo9000.distributed import global_batch_norm
from yolo9000.errors import ImageError

LEAKY_SLOPE = 0.1  # activations.h, leaky_activate
DARKNET_EPSILON = 1e-6  # blas.c, normalize_cpu: added to the standard deviation, not to the variance
# Share of the newest batch in the running statistics. Darknet has 0.01, tuned to runs of half a million
# batches; torch's 0.1 follows single batches of mixed sizes too closely.
MOMENTUM = 0.03


class DarknetBatchNorm(nn.BatchNorm2d):
    """Batch normalisation that can evaluate by darknet's formula.

    Training always normalises by `sqrt(var + 1e-5)`. In evaluation, mode `"torch"` does the same with the
    running statistics, and `"darknet"` computes `(x - mean) / (sqrt(var) + 1e-6)`, which weights trained by
    darknet expect (channels whose variance is near zero differ by orders of magnitude between the two).

    Attributes:
        mode: `"torch"` or `"darknet"`.
        shared: Whether training normalises by the images of all processes (torch.distributed), not by those
            of this one.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, mode: str = "torch") -> None:
        # float32 here and below: the program's default may be another
        super().__init__(channels, eps=1e-5, momentum=MOMENTUM, dtype=torch.float32)
        self.mode = mode
        self.shared = False

    def forward(self, input: Tensor) -> Tensor:  # torch's own parameter name
        """Normalise [B, C, H, W] per channel."""
        if self.training and self.shared:
            return self._shared(input)
        if self.training or self.mode == "torch":
            return super().forward(input)
        precise = torch.promote_types(self.running_var.dtype, torch.float32)
        deviation = self.running_var.to(precise).sqrt() + DARKNET_EPSILON
        variance = deviation.square().to(self.running_var.dtype)
        return F.batch_norm(input, self.running_mean, variance, self.weight, self.bias, eps=0.0)

    def _shared(self, input: Tensor) -> Tensor:
        result, mean, variance, count = global_batch_norm(input, self.weight, self.bias, self.eps)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, MOMENTUM)
            self.running_var.lerp_(variance * count / (count - 1), MOMENTUM)  # of the sample, as torch
        return result

    def scale_shift(self) -> tuple[Tensor, Tensor]:
        """The evaluation formula as `x * scale + shift`; both [C] float64."""
        mean, variance = self.running_mean.double(), self.running_var.double()
        if self.mode == "darknet":
            deviation = variance.sqrt() + DARKNET_EPSILON
        else:
            deviation = (variance + self.eps).sqrt()
        scale = self.weight.double() / deviation
        return scale, self.bias.double() - mean * scale


class _BareConv2d(nn.Conv2d):
    """Without torch's starting values: `Convolution` draws its own."""

    def reset_parameters(self) -> None:
        pass


class Convolution(nn.Module):
    """`[convolutional]`: convolution, batch norm or bias, activation.

    Weights start normally distributed with deviation `sqrt(2 / fan_in)` (darknet,
    `make_convolutional_layer`), and with 0.01 in a linear layer, which starts a classifier near the uniform
    distribution; biases start at 0.

    Args:
        plan: The planned layer.
        initialise: Draw starting values; without, the parameters hold anything until they are loaded.
    """

    def __init__(self, plan: LayerPlan, *, initialise: bool = True) -> None:
        super().__init__()
        self.conv = _BareConv2d(
            plan.input[0],
            plan.output[0],
            plan.kernel,
            plan.step,
            plan.padding,
            groups=plan.groups,
            bias=not plan.batch_normalize,
            dtype=torch.float32,
        )
        self.bn = DarknetBatchNorm(plan.output[0]) if plan.batch_normalize else None
        self.activation = plan.activation
        if initialise:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new starting weights."""
        fan_in = self.conv.weight[0].numel()
        nn.init.normal_(self.conv.weight, std=0.01 if self.activation == "linear" else math.sqrt(2 / fan_in))
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)
        if self.bn is not None:
            self.bn.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, filters, H', W']."""
        x = self.conv(x)
        if self.bn is not None:
            x = self.bn(x)
        return activate(x, self.activation)

    @torch.no_grad()
    def fuse(self) -> None:
        """Fold the batch norm into kernel and bias; evaluation stays the same to rounding.

        The kernel becomes a new tensor in channels-last order, which convolutions on CPU and GPU are faster
        in.
        """
        weight = self.conv.weight
        folded = torch.empty_like(weight, memory_format=torch.channels_last)
        if self.bn is None:
            folded.copy_(weight)
        else:
            scale, shift = self.bn.scale_shift()
            torch.mul(weight, scale.to(weight.dtype).view(-1, 1, 1, 1), out=folded)
            self.conv.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=weight.requires_grad)
            self.bn = None
        self.conv.weight = nn.Parameter(folded, requires_grad=weight.requires_grad)


def activate(x: Tensor, name: str) -> Tensor:
    """Apply an activation to the output of a convolution or batch norm.

    Works in place: neither needs its output for the gradient, and these activations need only their result.
    """
    if name == "leaky":
        return F.leaky_relu_(x, LEAKY_SLOPE)
    if name == "relu":
        return F.relu_(x)
    if name == "logistic":
        return torch.sigmoid_(x)
    return x


class MaxPool(nn.Module):
    """`[maxpool]`: windows may reach over the edges, where only cells inside count.

    Darknet pads `padding` (size - 1 by default) in all, `padding // 2` of it left and above: a size 2, stride
    1 pool keeps its input's shape, looking right and down.

    Args:
        plan: The planned layer.
    """

    def __init__(self, plan: LayerPlan) -> None:
        super().__init__()
        self.size, self.stride, self.padding = plan.kernel, plan.step, plan.padding

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H', W'], H' = (H + padding - size) // stride + 1."""
        before = self.padding // 2
        # torch drops a window that is not whole, so only the part of the padding that windows reach is added.
        after_h, after_w = (self._after(length) for length in x.shape[2:])
        if before or after_h > 0 or after_w > 0:
            x = F.pad(x, (before, after_w, before, after_h), value=-math.inf)
        return F.max_pool2d(x, self.size, self.stride)

    def _after(self, length: int) -> int:
        last = (length + self.padding - self.size) // self.stride  # index of the last window
        return last * self.stride + self.size - length - self.padding // 2


class Reorg(nn.Module):
    """`[reorg]`: space to depth (or back, `reverse`) in darknet's own channel order.

    Darknet reads its [C, H, W] input as if it were [C / s², H s, W s] and takes every s-th cell of that:
    neither `pixel_unshuffle` nor what the layer's name says, but what published weights were trained with.

    Args:
        plan: The planned layer.
    """

    def __init__(self, plan: LayerPlan) -> None:
        super().__init__()
        self.stride = plan.step
        self.reverse = plan.output[0] < plan.input[0]

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C s², H / s, W / s]; reversed [B, C / s², H s, W s]."""
        (b, c, h, w), s = x.shape, self.stride
        # By way of one dimension: from one shape to another directly, a program of free size would hold at
        # those sizes alone that divide as its example does.
        if self.reverse:
            x = x.flatten(1).reshape(b, s, s, c // (s * s), h, w).permute(0, 3, 4, 1, 5, 2)
            return x.flatten(1).reshape(b, c // (s * s), h * s, w * s)
        if h % s or w % s:
            raise ImageError(
                f"[reorg] needs a map that is a multiple of {s}, got {h} x {w}; use another image size"
            )
        x = x.flatten(1).reshape(b, c // (s * s), h, s, w, s).permute(0, 3, 5, 1, 2, 4)
        return x.flatten(1).reshape(b, c * s * s, h // s, w // s)


class Shortcut(nn.Module):
    """`[shortcut]`: the sum of two maps, each times a factor, in the channels that both have.

    Further ones of the layer before stay as they are, those of the one that is added are left out.

    Args:
        plan: The planned layer.
    """

    def __init__(self, plan: LayerPlan) -> None:
        super().__init__()
        self.activation = plan.activation
        self.alpha, self.beta = plan.factors

    def forward(self, x: Tensor, added: Tensor) -> Tensor:
        """[B, C, H, W], [B, C', H, W] -> [B, C, H, W]."""
        both = min(x.shape[1], added.shape[1])
        own = x[:, :both] if self.alpha == 1 else x[:, :both] * self.alpha
        total = torch.add(own, added[:, :both], alpha=self.beta)
        if both < x.shape[1]:
            total = torch.cat((total, x[:, both:]), 1)  # not even times alpha: blas.c, shortcut_cpu
        return activate(total, self.activation)


class Upsample(nn.Module):
    """`[upsample]`: every cell becomes a square of as many times `stride` cells, its values times `scale`.

    Args:
        plan: The planned layer.
    """

    def __init__(self, plan: LayerPlan) -> None:
        super().__init__()
        self.stride = plan.step
        (self.scale,) = plan.factors

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H s, W s]."""
        x = F.interpolate(x, scale_factor=float(self.stride), mode="nearest")
        return x if self.scale == 1 else x * self.scale


class AvgPool(nn.Module):
    """`[avgpool]`: the mean of each channel over all cells."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, 1, 1]."""
        return x.mean((2, 3), keepdim=True)


def build_layer(plan: LayerPlan, *, initialise: bool = True) -> nn.Module:
    """The module of a planned layer; those that are applied elsewhere pass their input through.

    `initialise` draws a convolution's starting values.

    The network itself joins the sources of a `route`; `region` is applied by head and decoder, `softmax` by
    `Network.probabilities`, `cost` by the criterion.
    """
    if plan.type == "convolutional":
        return Convolution(plan, initialise=initialise)
    if plan.type == "maxpool":
        return MaxPool(plan)
    if plan.type == "reorg":
        return Reorg(plan)
    if plan.type == "shortcut":
        return Shortcut(plan)
    if plan.type == "upsample":
        return Upsample(plan)
    if plan.type == "avgpool":
        return AvgPool()
    if plan.type == "dropout":
        # Not in place: a route may still need the input.
        return nn.Dropout(plan.section.get_float("probability", 0.5))
    return nn.Identity()
