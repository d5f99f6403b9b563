"""Several processes: batch norm over all of their images, and the end of their connections.

With the statistics of all processes, training on P processes with B images each is training on one process
with P B images. `torch.nn.SyncBatchNorm` does the same on GPUs only; this works wherever torch.distributed
does (gloo on CPUs, NCCL on GPUs).

Letters: B images of this process, C channels, H and W cells, P processes.
"""

from __future__ import annotations

import atexit
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

_AXES = (0, 2, 3)  # all but the channels


def disconnect_at_exit() -> None:
    """Close the connections to other processes when this one ends, whose threads could abort it otherwise."""
    atexit.unregister(_disconnect)
    atexit.register(_disconnect)


def _disconnect() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def global_batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalise by mean and variance over the images of all processes; every process has to call it.

    Args:
        x: [B, C, H, W].
        weight: [C].
        bias: [C].
        eps: Added to the variance.

    Returns:
        The result as `x`, and the statistics, without gradient: mean [C], variance [C] (of the population),
        and the number of values of a channel (a scalar tensor).
    """
    found = _GlobalBatchNorm.apply(x, weight, bias, eps)
    return cast(tuple[Tensor, Tensor, Tensor, Tensor], found)


class _GlobalBatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        variance, mean = torch.var_mean(_precise(x), _AXES, correction=0)
        mean, variance, count = _combine(mean, variance, x.numel() // x.shape[1])
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt(), count)
        result = F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)
        ctx.mark_non_differentiable(mean, variance, count)
        return result, mean, variance, count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, inverse, count = ctx.saved_tensors
        g = _precise(grad)
        normal = (_precise(x) - _spread(mean)) * _spread(inverse)
        grad_bias, grad_weight = g.sum(_AXES), (g * normal).sum(_AXES)
        # The gradients of the parameters stay those of this process: their sum over processes is taken with
        # all others. Those of the input need the sums over all images.
        both = torch.stack((grad_bias, grad_weight))
        dist.all_reduce(both)
        shift, slope = both / count
        grad_x = (g - _spread(shift) - normal * _spread(slope)) * _spread(weight * inverse)
        return grad_x.to(x.dtype), grad_weight, grad_bias, None


def _combine(mean: Tensor, variance: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Statistics of all processes from those of each (Chan et al. 1983), summed in double precision."""
    own = torch.cat((mean.double(), variance.double(), mean.new_full((1,), count, dtype=torch.float64)))
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own)
    table = torch.stack(parts)  # [P, 2 C + 1]
    means, variances, counts = table[:, : len(mean)], table[:, len(mean) : -1], table[:, -1:]
    total = counts.sum()
    whole = (counts * means).sum(0) / total
    spread = (counts * (variances + (means - whole).square())).sum(0) / total
    return whole.to(mean.dtype), spread.to(mean.dtype), total.to(mean.dtype)


def _precise(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _spread(channels: Tensor) -> Tensor:
    return channels[:, None, None]
