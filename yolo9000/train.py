"""Training: jointly on detection and classification images, or a WordTree classifier to start from.

The loop is the same for both: a task turns a batch into named loss terms; the trainer feeds it, steps the
optimiser, averages the weights, logs, and writes checkpoints from which a run goes on as if it had never
stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from lightning.fabric import Fabric
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from yolo9000.checkpoint import load_model, save_model
from yolo9000.config import AugmentConfig, OptimConfig, TrainConfig, save_config
from yolo9000.darknet.cfg import Cfg
from yolo9000.darknet.weights import load_weights
from yolo9000.datasets import (
    Batch,
    JointDataset,
    JointSampler,
    TrainTransform,
    balance_weights,
    collate,
    open_datasets,
)
from yolo9000.errors import ConfigError, TrainingError
from yolo9000.head import RegionHead
from yolo9000.loss import JointLoss
from yolo9000.network import Network
from yolo9000.runlog import CsvLog, load_checkpoint, save_checkpoint

_Tensors = list[Tensor] | tuple[Tensor, ...]


class JointTask(nn.Module):
    """Boxes, objectness and class paths from detection images; class paths from classification images."""

    def __init__(self, network: Network, config: TrainConfig) -> None:
        super().__init__()
        if network.head is None or network.region is None:
            raise ConfigError(f"{config.model} has no [region] layer; joint training needs a detector")
        self.network = network
        self.loss = JointLoss(network.head, network.region, config.loss)

    def forward(self, batch: Batch, seen: int) -> dict[str, Tensor]:
        """Unweighted loss terms of the batch."""
        terms: dict[str, Tensor] = self.loss(self.network.features(batch.images), batch, seen)
        return terms

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum."""
        return self.loss.total(terms)


class ClassifierTask(nn.Module):
    """The class path of the whole image: hierarchical softmax over the pooled features (paper, section 4)."""

    def __init__(self, network: Network, config: TrainConfig) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch, seen: int) -> dict[str, Tensor]:
        """The mean negative log probability of the labels."""
        labelled = batch.labels >= 0
        features, nodes = self.network.features(batch.images[labelled]), batch.labels[labelled]
        if self.network.head is None:
            loss = self.network.ops.path_nll(self.network.class_logits(features), nodes)
        else:
            loss = _pooled_nll(self.network.head, features, nodes)
        return {"image_class": loss.mean()}

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The only term."""
        return terms["image_class"]


def _pooled_nll(head: RegionHead, features: Tensor, nodes: Tensor) -> Tensor:
    """-log P(node) of the mean features by every anchor's class rows; only a path's rows are used."""
    images, copies = len(features), 1 if head.tied else head.num_anchors
    pooled = features.mean((2, 3), keepdim=True)
    image = torch.arange(images, device=features.device).repeat(copies)
    anchor = torch.arange(copies, device=features.device).repeat_interleave(images)
    corner = torch.zeros_like(image)
    return head.path_nll(pooled, image, anchor, corner, corner, nodes.repeat(copies))


def train_joint(config: TrainConfig, *, resume: bool = False, console: Console | None = None) -> Path:
    """Train a detector jointly; see `Trainer.fit` for what is written.

    Args:
        config: The run's settings; `data.detection` must name something, `data.classification` may be empty.
        resume: Go on from the checkpoint in `config.out`.
        console: Where progress is shown.

    Returns:
        The final model file.
    """
    if not config.data.detection:
        raise ConfigError("joint training needs detection data: --detection coco:DIR (or voc:DIR, pack:FILE)")
    return Trainer(config, JointTask, console).fit(resume)


def train_classifier(config: TrainConfig, *, resume: bool = False, console: Console | None = None) -> Path:
    """Train the network as a WordTree classifier, e.g. to start a detector from; see `train_joint`."""
    if config.data.detection or not config.data.classification:
        raise ConfigError(
            "training a classifier needs classification data alone: --classification imagenet:DIR"
        )
    return Trainer(config, ClassifierTask, console).fit(resume)


class Trainer:
    """Feeds a task and keeps its state.

    Args:
        config: The run's settings.
        task: `JointTask` or `ClassifierTask`.
        console: Where progress is shown; a console on stderr by default.
    """

    def __init__(
        self,
        config: TrainConfig,
        task: type[JointTask] | type[ClassifierTask],
        console: Console | None = None,
    ) -> None:
        self.config = config
        self.console = console or Console(stderr=True)
        self.out = Path(config.out)
        torch.manual_seed(config.seed)
        self.fabric = Fabric(
            accelerator=config.device,
            devices=config.devices,
            precision=pick_precision(config),
        )
        self.fabric.launch()
        self.network = build_network(config, self.console)
        self.sampler, self.loader = self._data()
        self.total_steps = config.max_steps or -(
            -config.epochs * len(self.sampler) // config.optim.accumulate
        )
        module = task(self.network, config).to(memory_format=torch.channels_last)
        optimizer = build_optimizer(module, config.optim)
        self.task, self.optimizer = self.fabric.setup(module, optimizer)
        self.plain = module  # the task without Fabric's wrapper: names and attributes
        self.average = _average(self.network, config.ema)
        self.step = 0
        self.seen = self.network.seen

    def _data(self) -> tuple[JointSampler, DataLoader[Any]]:
        data, tree = self.config.data, self.network.tree
        detection = open_datasets(data.detection, tree, map_file=data.map, cache=data.cache)
        classification = open_datasets(data.classification, tree, cache=data.cache)
        mosaic = open_datasets(data.mosaic, tree, cache=data.cache)
        for source in (detection, classification, mosaic):
            if source is not None and source.unmatched:
                names = ", ".join(f"{name} ({count})" for name, count in sorted(source.unmatched.items()))
                self.console.print(f"[yellow]labels that match no node and are left out:[/] {names}")
        dataset = JointDataset(detection, classification, build_transform(self.config.augment), mosaic)
        sampler = JointSampler(
            0 if detection is None else len(detection),
            0 if classification is None else len(classification),
            batch_size=self.config.batch_size,
            ratio=data.ratio,
            sizes=data.sizes or training_sizes(self.network),
            seed=self.config.seed,
            rank=self.fabric.global_rank,
            world_size=self.fabric.world_size,
            classification_weights=balance_weights(classification)
            if data.balance and classification
            else None,
        )
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=data.workers,
            collate_fn=collate,
            persistent_workers=data.workers > 0,
            pin_memory=self.fabric.device.type == "cuda",
        )
        return sampler, loader

    def fit(self, resume: bool = False) -> Path:
        """Train to the end.

        Writes into `config.out`: `config.yaml` (resolved settings), `metrics.csv` (raw and weighted terms),
        `last.ckpt` (everything needed to go on), and at the end `model.safetensors`.

        Raises:
            TrainingError: A loss is not finite (the checkpoint stays the last good one), or nothing is there
            to resume.
        """
        checkpoint = self.out / "last.ckpt"
        if resume:
            self._load(checkpoint)
        elif checkpoint.exists():
            raise TrainingError(
                f"{checkpoint} exists: go on with --resume, name another folder (--out), or remove it"
            )
        if self.fabric.is_global_zero:
            save_config(self.config, self.out / "config.yaml")
        with CsvLog(self.out / "metrics.csv", self.step) as log, self._progress() as show:
            try:
                self._loop(log, show)
            except KeyboardInterrupt:
                self._save(checkpoint)
                self.console.print(f"stopped at step {self.step}; go on with --resume")
                raise
        self._save(checkpoint)
        return self._export()

    def _loop(self, log: CsvLog, show: Any) -> None:
        config = self.config
        self.task.train()
        batches = self._batches()
        while self.step < self.total_steps:
            group = list(itertools.islice(batches, config.optim.accumulate))
            terms, total, rate = self._train_step(group)
            self.step += 1
            done = self.step >= self.total_steps
            if self.step % config.log_steps == 0 or done:
                log.write(self._row(terms, total, rate))
            show(self.step, f"epoch {self.sampler.epoch + 1} loss {total:.3f}")
            if self.step % config.checkpoint_steps == 0 and not done:
                self._save(self.out / "last.ckpt")

    def _batches(self) -> Iterator[Batch]:
        """Batches without end; the sampler notes which have been used and starts each next epoch."""
        while True:
            for batch in self.loader:
                self.sampler.consumed(batch)
                yield batch

    def _train_step(self, batches: list[Batch]) -> tuple[dict[str, float], float, float]:
        rate = learning_rate(self.config.optim, self.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        sums: dict[str, float] = {}
        for index, batch in enumerate(batches):
            batch = batch.to(self.fabric.device)
            with self.fabric.no_backward_sync(self.task, enabled=index + 1 < len(batches)):
                terms = self.task(batch, self.seen)
                total = self.plain.total(terms) / len(batches)
                values = {name: float(term.detach()) for name, term in terms.items()}
                if not math.isfinite(float(total.detach())):
                    raise TrainingError(_not_finite(values, batch, self.step))
                self.fabric.backward(total)
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value / len(batches)
            sums["total"] = sums.get("total", 0.0) + float(total.detach())
            self.seen += len(batch.images) * self.fabric.world_size
        if self.config.optim.clip > 0:
            self.fabric.clip_gradients(self.task, self.optimizer, max_norm=self.config.optim.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.network)
        return sums, sums.pop("total"), rate

    def _row(self, terms: dict[str, float], total: float, rate: float) -> dict[str, float]:
        weights = self.plain.loss.weights if isinstance(self.plain, JointTask) else {}
        epoch = self.sampler.epoch + self.sampler.batch / len(self.sampler)
        row = {"step": self.step, "epoch": epoch, "seen": self.seen, "lr": rate, "loss": total}
        for name, value in terms.items():
            row[name] = value
            row[f"{name}_weighted"] = value * weights.get(name, 1.0)
        return row

    def _save(self, path: Path) -> None:
        if not self.fabric.is_global_zero:
            return
        state = {
            "step": self.step,
            "seen": self.seen,
            "network": self.network.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "sampler": self.sampler.state_dict(),
        }
        save_checkpoint(path, state)

    def _load(self, path: Path) -> None:
        state = load_checkpoint(path)
        self.sampler.load_state_dict(state["sampler"])
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None and state["average"] is not None:
            self.average.load_state_dict(state["average"])
        torch.set_rng_state(state["rng"])
        self.step, self.seen = state["step"], state["seen"]
        self.console.print(f"going on from step {self.step} of {self.total_steps}")

    def _export(self) -> Path:
        network = self.network if self.average is None else cast(Network, self.average.module)
        network.seen = self.seen
        path = self.out / "model.safetensors"
        if self.fabric.is_global_zero:
            save_model(network, path)
        return path

    @contextlib.contextmanager
    def _progress(self) -> Iterator[Any]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, disable=not self.fabric.is_global_zero) as progress:
            bar = progress.add_task("training", total=self.total_steps, completed=self.step)
            yield lambda step, text: progress.update(bar, completed=step, description=text)


def build_network(config: TrainConfig, console: Console) -> Network:
    """The network that `config.model` names, initialised from `config.weights`, its first layers frozen."""
    if config.model.endswith(".safetensors"):
        network, _ = load_model(config.model)
    else:
        network = Network(Cfg.load(config.model))
    if config.weights is not None:
        if config.weights.endswith(".safetensors"):
            console.print(f"{config.weights}: {network.load_backbone(load_model(config.weights)[0])}")
        else:
            load_weights(network, config.weights, partial=True)
    network.batchnorm = "torch"  # what training normalises with, whatever the statistics came from
    for layer in network.layers[: config.freeze]:
        layer.requires_grad_(False)
    return network


def build_transform(config: AugmentConfig) -> TrainTransform:
    """The images' random changes that `config` describes."""
    return TrainTransform(**dataclasses.asdict(config))


def training_sizes(network: Network) -> tuple[int, ...]:
    """Input sizes in pixels: multi-scale (paper: 320 to 608) where the cfg says `random=1`, else its own."""
    cfg = network.cfg
    if cfg.region is None or not cfg.region.random:
        return (cfg.width,)
    step = network.stride
    low, high = round(cfg.width * 320 / 416 / step), round(cfg.width * 608 / 416 / step)
    return tuple(range(max(1, low) * step, high * step + 1, step))


def pick_precision(config: TrainConfig) -> str:
    """Fabric's name of the precision: bf16 where `auto` finds hardware for it."""
    if config.precision != "auto":
        return {"fp32": "32-true", "bf16": "bf16-mixed"}[config.precision]
    cuda = config.device in ("auto", "cuda") and torch.cuda.is_available()
    fast = (
        torch.cuda.is_bf16_supported(including_emulation=False)
        if cuda
        else torch.cpu._is_avx512_bf16_supported()
    )
    return "bf16-mixed" if fast else "32-true"


def build_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """SGD or AdamW; weight decay on matrices and kernels only."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999))
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)


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


def _average(network: Network, decay: float) -> AveragedModel | None:
    """An exponential average of parameters and buffers; its decay grows from 0.1 to `decay`."""
    if decay <= 0:
        return None

    @torch.no_grad()
    def update(averages: _Tensors, current: _Tensors, count: Tensor | int) -> None:
        now = min(decay, (1 + int(count)) / (10 + int(count)))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, current, 1 - now)
        else:
            torch._foreach_copy_(averages, current)

    return AveragedModel(network, multi_avg_fn=update, use_buffers=True)


def _not_finite(terms: dict[str, float], batch: Batch, step: int) -> str:
    listing = ", ".join(f"{name}={value:g}" for name, value in terms.items())
    bad = [name for name, value in terms.items() if not math.isfinite(value)]
    return (
        f"the loss is not finite at step {step}: {', '.join(bad) or 'total'} ({listing}); images: "
        f"{', '.join(batch.sources)}. The last checkpoint is kept. "
        "Lower optim.lr, lengthen optim.burn_in, or set optim.clip."
    )
