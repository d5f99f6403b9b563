"""The optimiser, its learning rate over a run, and the average of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from yolo9000.config import OptimConfig
from yolo9000.network import Network


def build_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """SGD or AdamW; weight decay on matrices and kernels only."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    # One kernel a tensor instead of one an operation: six times faster for AdamW on CPU.
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999), fused=fused)
    sgd = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=fused)
    sgd.register_step_pre_hook(_start_momentum)
    return sgd


def _start_momentum(sgd: torch.optim.Optimizer, *_: object) -> None:
    """Momentum 0 where there is none yet: torch's fused kernel refuses some with and some without.

    That is so when the first batches hold no box, and the class rows get no gradient until later.
    """
    for group in sgd.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            if parameter.grad is not None and sgd.state[parameter].get("momentum_buffer") is None:
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def expected_state(
    optimizer: torch.optim.Optimizer, found: Mapping[int, object]
) -> dict[int, dict[str, Tensor]]:
    """What the optimiser keeps, by number, of the parameters of which `found` keeps something."""
    adam = isinstance(optimizer, torch.optim.AdamW)
    names = ("exp_avg", "exp_avg_sq") if adam else ("momentum_buffer",)
    steps = {"step": torch.zeros((), dtype=torch.float32)} if adam else {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {
        number: dict.fromkeys(names, parameter) | steps
        for number, parameter in enumerate(parameters)
        if found.get(number)
    }


def learning_rate(config: OptimConfig, step: int, total: int) -> float:
    """The rate of step `step` (from 0) of `total`."""
    if step < config.burn_in:
        return float(config.lr * ((step + 1) / config.burn_in) ** config.burn_in_power)
    share = step / max(1, total)
    if config.schedule == "steps":
        return config.lr * config.decay ** sum(share >= milestone for milestone in config.milestones)
    if config.schedule == "poly":
        return float(config.lr * (1 - share) ** config.power)
    if config.schedule == "cosine":
        return config.lr * (
            config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
        )
    return config.lr


class WeightAverage(nn.Module):
    """An exponential average of a network's parameters and buffers; its decay grows from 0.1 to `decay`.

    As torch's `AveragedModel`, and with its names in the state, but the tensors are listed once: for a small
    network on a GPU that is a sixth of the time that a step keeps the processor busy.

    Args:
        network: What is averaged; not moved to another device later.
        decay: Share of the average that stays in a step, in the long run.

    Attributes:
        module: The average, a network of its own.
        n_averaged: Updates so far.
    """

    n_averaged: Tensor

    def __init__(self, network: Network, decay: float) -> None:
        super().__init__()
        self.decay, self.module = decay, copy.deepcopy(network)
        self.register_buffer("n_averaged", torch.tensor(0))
        lists = [[*each.parameters(), *each.buffers()] for each in (self.module, network)]
        pairs = [(average.detach(), current.detach()) for average, current in zip(*lists, strict=True)]
        self._floats = _columns([pair for pair in pairs if pair[0].is_floating_point()])
        self._others = _columns([pair for pair in pairs if not pair[0].is_floating_point()])

    @torch.no_grad()
    def update(self) -> None:
        """Take in what the network is now."""
        count = int(self.n_averaged)  # lies in main memory: reading it does not wait for a GPU
        now = min(self.decay, (1 + count) / (10 + count)) if count else 0.0
        if self._floats[0]:
            torch._foreach_lerp_(*self._floats, 1 - now)
        if self._others[0]:
            torch._foreach_copy_(*self._others)
        self.n_averaged += 1


def _columns(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    return [one for one, _ in pairs], [other for _, other in pairs]


def weight_average(network: Network, decay: float) -> WeightAverage | None:
    """An average of the network's weights over the steps; None where `decay` is 0."""
    return WeightAverage(network, decay) if decay > 0 else None
