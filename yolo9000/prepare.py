"""What a training run starts from: processes, network, data and sizes, as its settings say."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy
from lightning.fabric.utilities.exceptions import MisconfigurationException
from rich.console import Console
from rich.markup import escape
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from wordtree.formats import read_lines
from wordtree.tree import WordTree
from yolo9000.checkpoint import is_model_file, load_model
from yolo9000.config import AugmentConfig, DataConfig, TrainConfig
from yolo9000.convert import with_classes, without_tree
from yolo9000.darknet.cfg import Cfg
from yolo9000.darknet.layers import DarknetBatchNorm
from yolo9000.darknet.plan import plan_layers
from yolo9000.darknet.weights import load_weights
from yolo9000.datasets import (
    ImageBank,
    JointDataset,
    JointSampler,
    TrainTransform,
    balance_weights,
    collate,
    collate_plans,
    open_datasets,
    repeat_weights,
)
from yolo9000.datasets.darknet import ENDINGS, darknet_names
from yolo9000.datasets.transforms import Size, sides
from yolo9000.datasets.yolo import yolo_names
from yolo9000.errors import ConfigError, DataError, FormatError, TrainingError
from yolo9000.model import is_known_name, load_any
from yolo9000.network import Network, check_size, plan_network
from yolo9000.report import print_left_out
from yolo9000.runlog import CHECKPOINT


def build_fabric(config: TrainConfig, precision: str) -> Fabric:
    """Devices, precision and processes; under torchrun as many as it started.

    `launch()` is yet to be called.

    Raises:
        ConfigError: There is no such device, or not as many.
    """
    local, world = config.devices, config.devices
    if "TORCHELASTIC_RUN_ID" in os.environ:  # set by torchrun for the processes it starts
        local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    try:
        return Fabric(
            accelerator=config.device,
            devices=local,
            num_nodes=world // local,
            strategy=_parallel() if world > 1 else "auto",
            precision=precision,
        )
    except (ValueError, RuntimeError, ImportError, MisconfigurationException) as error:
        raise ConfigError(
            f"device {config.device!r}, for {local} processes, cannot be used: {error} Expected auto, cpu or "
            "cuda, and no more processes than there are GPUs"
        ) from error


def _parallel() -> DDPStrategy:
    # The batch norms' statistics are the same in all processes already. torch before 2.14 calls this option
    # `broadcast_buffers`.
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    # A process whose part of a batch lacks one kind of image gives some parameters no gradient.
    return DDPStrategy(find_unused_parameters=True, **{buffers: False})


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


def build_network(config: TrainConfig, console: Console) -> Network:
    """The network that `config.model` names, initialised from `config.weights`, its first layers frozen.

    Where the run has a checkpoint, all weights are in it, and the file that it began with may be gone.
    """
    tree = None if config.names is None else WordTree.flat(_class_names(config.names))
    if is_model_file(config.model):
        if tree is not None:
            raise ConfigError(f"{config.model} brings its own class names; leave out names (--names)")
        network, _ = load_model(config.model)
    else:
        cfg = Cfg.load(config.model)
        if tree is not None:
            if (classes := plan_network(cfg)[2]) != len(tree):
                cfg = with_classes(cfg, len(tree))
                made = f"{config.model}: made for the {len(tree)} classes of {config.names}, not {classes:,}"
                console.print(made, markup=False)
            cfg = without_tree(cfg)
        network = Network(cfg, tree)
    network.check_colour()
    if config.weights is not None and not (Path(config.out) / CHECKPOINT).exists():
        if is_model_file(config.weights) or is_known_name(config.weights):
            report = f"{config.weights}: {network.load_backbone(load_any(config.weights)[0])}"
        else:
            report = str(load_weights(network, config.weights, partial=True))
        console.print(report, markup=False)
    network.batchnorm = "torch"  # what training normalises with, whatever the statistics came from
    if untrained := network.cfg.untrained:
        console.print(f"[yellow]keys of the cfg that training passes over:[/] {escape('; '.join(untrained))}")
    if network.cfg.frozen > config.freeze:
        console.print(f"[yellow]stopbackward in the cfg: its first {network.cfg.frozen} layers are frozen[/]")
    count = len(network.layers)
    if config.freeze > count:
        raise ConfigError(
            f"freeze: expected at most the {count} layers of {config.model}, got {config.freeze}"
        )
    for layer in frozen_layers(network, config):
        layer.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ConfigError(f"every layer of {config.model} is frozen (freeze): nothing is left to train")
    return network


def _class_names(path: str) -> list[str]:
    """The lines of a list of classes to train, each of them once: which of two would a label mean?

    Of a YOLO data set's `data.yaml` its `names`, of darknet's `.data` the file that it names.
    """
    readers = {".yaml": yolo_names, ".yml": yolo_names} | dict.fromkeys(ENDINGS, darknet_names)
    read = readers.get(Path(path).suffix.lower())
    listed = read is None
    names = read_lines(path, "class names") if read is None else read(Path(path))
    first: dict[str, int] = {}
    for line, name in enumerate(names, 1):
        if first.setdefault(name, line) != line:
            again = f"{name!r} stands in line {first[name]} already." if listed else f"{name!r} stands twice."
            remedy = "Give every class a name of its own."
            raise FormatError(again, path=path, line=line if listed else None, remedy=remedy)
    return names


def frozen_layers(network: Network, config: TrainConfig) -> nn.ModuleList:
    """The first layers, which stay as they are: by the settings, or by the cfg where it says more."""
    return network.layers[: max(config.freeze, network.cfg.frozen)]


def share_batchnorm(network: Network) -> None:
    """Let batch norms normalise by the images of all processes."""
    for module in network.modules():
        if isinstance(module, DarknetBatchNorm):
            module.shared = True


def build_data(
    config: TrainConfig, network: Network, fabric: Fabric, console: Console
) -> tuple[JointDataset, JointSampler, ImageBank | None]:
    """The images of both kinds, the order they come in for this process, and the bank that holds them."""
    data, tree = config.data, network.tree
    transform = build_transform(config.augment)  # what is refused is so before the data are read
    sizes = input_sizes(config, network)
    if config.batch_size * fabric.world_size == 1:
        _refuse_single_values(config, network, sizes)
    for setting, lacking in _without_effect(config):
        console.print(f"[yellow]{setting} has no effect: {lacking}[/]")
    detection = open_datasets(data.detection, tree, map_file=data.map, cache=data.cache, kind="detection")
    classification = open_datasets(data.classification, tree, cache=data.cache, kind="classification")
    mosaic = open_datasets(data.mosaic, tree, cache=data.cache, kind="detection")
    for name, source in (("detection", detection), ("classification", classification), ("mosaic", mosaic)):
        if source is not None:
            print_left_out(console, f"data.{name}", source)
    if detection is not None and not any(map(detection.nodes, range(len(detection)))):
        raise DataError(
            f"{', '.join(data.detection)}: not one box to learn from; is it the right split, and do the "
            "labels lie where they are looked for? `yolo9000 data check` says what is there"
        )
    repeats = repeat_weights(detection, data.repeat) if data.repeat and detection else None
    sampler = JointSampler(
        0 if detection is None else len(detection),
        0 if classification is None else len(classification),
        batch_size=config.batch_size,
        ratio=data.ratio,
        sizes=sizes,
        seed=config.seed,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        classification_weights=balance_weights(classification) if data.balance and classification else None,
        detection_weights=repeats,
        stride=network.multiple if data.sizes else 1,  # the cfg's own size may be no multiple
    )
    cfg = network.cfg
    if cfg.width != cfg.height and not data.sizes and cfg.region is not None and cfg.region.random:
        shown = f"{cfg.width} × {cfg.height}"
        console.print(f"[yellow]The cfg's input is {shown}, but by its random=1 training is on squares.[/]")
    bank = None
    if data.draw == "device":
        bank = ImageBank((detection, classification, mosaic), fabric.device)
        detection, classification, mosaic = bank.datasets
    dataset = JointDataset(
        detection,
        classification,
        transform if bank is None else transform.plan,
        mosaic,
        data.mosaic_classification,
        repeats,
    )
    return dataset, sampler, bank


def _refuse_single_values(config: TrainConfig, network: Network, sizes: Sequence[Size]) -> None:
    """A batch norm has nothing to normalise by where a single picture has a map of one cell."""
    trained = slice(max(config.freeze, network.cfg.frozen), None)
    for height, width in map(sides, sizes):
        plans = plan_layers(network.cfg, height, width)[trained]
        if any(plan.batch_normalize and plan.output[1:] == (1, 1) for plan in plans):
            raise ConfigError(
                f"batch_size: 1 picture of {width} x {height} pixels is too little for batch norm: its map "
                "has one cell. Give a batch more pictures, or larger ones (data.sizes)."
            )


def _without_effect(config: TrainConfig) -> list[tuple[str, str]]:
    """Settings about data that do nothing in this run, and what they would need; they may be of another's."""
    data, loss, val = config.data, config.loss, config.val
    mosaics, labelled = "no mosaics are made (augment.mosaic=0)", "no labelled photos (data.classification)"
    boxes, measured = "no photos with boxes (data.detection)", "nothing is measured (val.data)"
    joint = data.detection and data.classification
    both = "training is not on both kinds of photos (data.detection, data.classification)"
    needs = [
        ("data.repeat", data.repeat, data.detection, boxes),
        ("data.map", data.map, data.detection or val.data, boxes),
        ("data.balance", data.balance, data.classification, labelled),
        ("data.mosaic", data.mosaic, config.augment.mosaic, mosaics),
        ("data.mosaic_classification", data.mosaic_classification, config.augment.mosaic, mosaics),
        ("augment.mosaic", config.augment.mosaic, data.detection, boxes),
        ("augment.crop", config.augment.crop, data.classification, labelled),
        ("augment.cutmix", config.augment.cutmix, not data.detection, "a detector is trained"),
        ("loss.classification_scale", loss.classification_scale, joint, both),
        ("loss.classification_box", loss.classification_box, joint, both),
        ("loss.whole_scale", loss.whole_scale, joint, both),
        ("val.steps", val.steps, val.data, measured),
        ("val.size", val.size, val.data, measured),
        ("val.limit", val.limit, val.data, measured),
    ]
    return [(name, lacking) for name, is_set, needed, lacking in needs if is_set and not needed]


def build_loader(
    dataset: JointDataset, sampler: JointSampler, config: DataConfig, device: torch.device
) -> DataLoader[Any]:
    """Batches in the sampler's order, read ahead by worker processes."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=config.workers,
        collate_fn=collate if config.draw == "loader" else collate_plans,
        persistent_workers=config.workers > 0,
        pin_memory=device.type == "cuda",
        worker_init_fn=_leave_group,
        # Every epoch takes a number from it: from torch's own, whose state checkpoints keep, a resumed run
        # would take one more.
        generator=torch.Generator(),
    )


@contextlib.contextmanager
def loader_errors() -> Iterator[None]:
    """Tell errors of a loader's processes in one line each, as those of this process."""
    try:
        yield
    except DataError as error:  # of another process: with its traceback before the message
        message = str(error).rpartition(f"{DataError.__module__}.{DataError.__qualname__}: ")[2]
        raise DataError(message.rstrip()) from error
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise
        raise TrainingError(
            f"a process that loads pictures was ended ({error}), perhaps for want of memory: lower "
            "data.workers (--workers), in a container raise its shared memory (--shm-size); go on with "
            "--resume"
        ) from error


def _leave_group(worker: int) -> None:
    """Keep Ctrl-C, which a terminal sends to the whole group, from a loader's process: the run ends it."""
    if sys.platform == "win32":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    else:
        os.setpgid(0, 0)


def build_transform(config: AugmentConfig) -> TrainTransform:
    """The images' random changes that `config` describes."""
    settings = dataclasses.asdict(config)
    del settings["cutmix"]  # of whole batches, not of one image
    return TrainTransform(**settings)


def input_sizes(config: TrainConfig, network: Network) -> tuple[Size, ...]:
    """Input sizes in pixels of a run: those of its settings, else `training_sizes`.

    Raises:
        ConfigError: A size is no multiple of what the network's must be.
        CfgError: A layer cannot be run at one of them.
    """
    for size in config.data.sizes:
        check_size(size, size, network.multiple)
    found = config.data.sizes or training_sizes(network)
    for each in found:
        plan_layers(network.cfg, *sides(each))
    return found


def training_sizes(network: Network) -> tuple[Size, ...]:
    """Input sizes in pixels: the cfg's own, or where it says `random=1` squares that fit the network.

    These go from 320/416 to 608/416 of the width: for 416 pixels the paper's 320 to 608.
    """
    cfg = network.cfg
    if cfg.region is None or not cfg.region.random:
        return (cfg.width if cfg.width == cfg.height else (cfg.height, cfg.width),)
    step = network.multiple
    low, high = round(cfg.width * 320 / 416 / step), round(cfg.width * 608 / 416 / step)
    return tuple(range(max(1, low) * step, high * step + 1, step))
