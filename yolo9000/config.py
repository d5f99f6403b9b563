"""Settings of a run as frozen dataclasses, read from YAML and from `key=value`, written back resolved.

Every default has its unit and source beside it. Unknown keys and values of the wrong type are refused, all
at once.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import numpy as np
import yaml

from wordtree._files import atomic_write
from wordtree._yaml import UniqueKeyLoader
from yolo9000.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class LossConfig:
    """Weights and rules of the training loss. `None` means: as the cfg's [region] section says.

    `yolo9000.loss.JointLoss` says what mode "darknet" does otherwise than "paper".
    """

    object_scale: float | None = None  # weight of the objectness of matched anchors (darknet: 5)
    noobject_scale: float | None = None  # weight of the objectness of all other anchors (darknet: 1)
    coord_scale: float | None = None  # weight of the box terms (darknet: 1)
    class_scale: float | None = None  # weight of the class term of detection images (darknet: 1)
    # an unmatched anchor above this IoU with a truth is not pushed down (cfg: thresh, 0.6)
    ignore_iou: float | None = None
    rescore: bool | None = None  # objectness of a matched anchor aims at its IoU instead of 1
    # overlap of shapes from which the other anchors of a truth's cell answer for it, too; 1: none (paper)
    match_iou: float = 1.0
    # squared: offsets and log sides apart, as in darknet; giou: 1 - generalised IoU (arXiv 1902.09630)
    box: Literal["squared", "giou"] = "squared"
    bias_match: bool | None = None  # match a truth to a prior by the priors' shapes, not the predicted ones
    prior_images: int = 12_800  # images during which every anchor is pulled to its prior (region_layer.c)
    prior_scale: float = 0.01  # weight of that pull (region_layer.c)
    # weight of the class term of classification images; None: class_scale
    classification_scale: float | None = None
    # which box of a classification image learns the class; objectness: that of the highest objectness;
    # likeliest: of the highest P(label) (paper, section 4); score: of the highest objectness x P(label);
    # largest: as in Detic (arXiv 2201.02605); None: objectness (docs/transfer.md), in mode "darknet" score
    classification_box: Literal["objectness", "likeliest", "score", "largest"] | None = None
    # IoU that the chosen box of a classification image is assumed to have (paper); 0: its objectness is left
    classification_iou: float = 0.3
    # weight of one more class term of classification images, that of their averaged features; 0: none (paper)
    whole_scale: float = 0.0
    # weight of all terms by which a network imitates its `teachers`; among themselves they weigh like labels
    teacher_scale: float = 1.0
    # share of the target that is spread evenly over each sibling group on the label's path; 0: none
    smoothing: float = 0.0
    mode: Literal["paper", "darknet"] = "paper"  # darknet: region_layer.c; differences: `JointLoss`

    def __post_init__(self) -> None:
        _require(
            {
                f"loss.smoothing: expected 0 or more and less than 1, got {self.smoothing}": (
                    0 <= self.smoothing < 1
                ),
                "loss.smoothing: darknet has none; use loss.mode=paper": (
                    not self.smoothing or self.mode == "paper"
                ),
                f"loss.match_iou: expected more than 0 and at most 1, got {self.match_iou}": (
                    0 < self.match_iou <= 1
                ),
                "loss.match_iou: darknet has one anchor a truth; use loss.mode=paper": (
                    self.match_iou == 1 or self.mode == "paper"
                ),
                f"loss.prior_images: expected at least 0, got {self.prior_images}": self.prior_images >= 0,
                f"loss.ignore_iou: expected 0 to 1, got {self.ignore_iou}": (
                    self.ignore_iou is None or 0 <= self.ignore_iou <= 1
                ),
                f"loss.classification_iou: expected 0 to 1, got {self.classification_iou}": (
                    0 <= self.classification_iou <= 1
                ),
            }
            | {
                f"loss.{name}: expected 0 or more, got {weight}": weight is None or weight >= 0
                for name, weight in vars(self).items()
                if name.endswith("_scale")
            }
        )


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of the training images; ranges after darknet's cfg keys of the same names."""

    jitter: float = 0.2  # the window's sides move by up to this share of the image (paper, section 3)
    hue: float = 0.1  # largest shift of the hue, in turns
    saturation: float = 1.5  # largest factor on the saturation, and its inverse
    exposure: float = 1.5  # largest factor on the value, and its inverse
    flip: float = 0.5  # probability of a left-right flip
    mosaic: float = 0.0  # probability of pasting a detection image and three more into one
    scale: tuple[float, ...] = (1.0, 1.0)  # range of a further factor on the size of what is shown
    # range of the area of a classification crop, as a share of the image; None: as detection images
    crop: tuple[float, ...] | None = None
    min_visible: float = 0.25  # a box of which less is left in the picture is dropped
    # train-classifier: probability that a batch's pictures get a rectangle of one another, with its share of
    # the label (CutMix, arXiv 1905.04899)
    cutmix: float = 0.0


@dataclass(frozen=True)
class DataConfig:
    """What is trained on and how it is fed."""

    detection: tuple[str, ...] = ()  # specs such as coco:DIR, voc:DIR:train, pack:FILE
    classification: tuple[str, ...] = ()  # specs such as imagenet:DIR, tiny-imagenet:DIR
    mosaic: tuple[str, ...] = ()  # specs of images with boxes that only fill tiles of mosaics
    # share of a mosaic's three further tiles that are classification images: each teaches its class somewhere
    # in its tile, where nothing is background
    mosaic_classification: float = 0.0
    map: str | None = None  # darknet map file for the boxes' classes (line i: node of class i); None: by name
    ratio: float = 4.0  # classification images to detection images in every batch (paper: 4 : 1)
    balance: bool = False  # draw rare synsets more often, by the inverse square root of their frequency
    # Draw photos with classes more often that less than this share of them show, by the square root of that
    # (LVIS, arXiv 1908.03195); 0: all alike.
    repeat: float = 0.0
    # sides of square network inputs in pixels, a new one every 10 batches; (): the cfg's width and height, or
    # by random=1 squares from 10/13 to 19/13 of the width (320 to 608 of 416)
    sizes: tuple[int, ...] = ()
    workers: int = 2  # loader processes; 0: in this process
    cache: int = 0  # longest side in pixels of decoded images kept in memory; 0: read from disk every time
    # where the pictures are drawn that the network sees: by the loader's processes; or on the training
    # device, in whose memory all images then lie, as `cache` makes them: many times as fast on a GPU
    draw: Literal["loader", "device"] = "loader"
    changed: bool = False  # --resume goes on although labels, boxes or photos are not those of before


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser and its schedule."""

    name: Literal["sgd", "adamw"] = "sgd"  # the paper uses SGD
    lr: float = 1e-3  # learning rate after the burn-in (paper, section 3)
    momentum: float = 0.9  # SGD momentum, or AdamW's first beta
    weight_decay: float = 5e-4  # on convolution and class weights only, not on biases and batch norm
    burn_in: int = 1000  # steps over which the rate rises (darknet: 1000)
    burn_in_power: float = 4.0  # shape of that rise (network.c, get_current_rate); 1: a straight line
    schedule: Literal["steps", "cosine", "poly", "constant"] = "steps"  # after the burn-in
    milestones: tuple[float, ...] = (0.375, 0.5625)  # epochs 60 and 90 of 160 as shares of the run (paper)
    decay: float = 0.1  # factor at every milestone
    power: float = 4.0  # of the polynomial schedule (paper: classification)
    final: float = 0.01  # last rate of the cosine schedule as a share of `lr`
    clip: float = 0.0  # largest norm of the gradient; 0: no clipping
    accumulate: int = 1  # batches an optimiser step


@dataclass(frozen=True)
class ValConfig:
    """Measuring during a run, and stopping it early.

    Detection data give `val_map50`, classification data `val_top1`, of a detector that of the best anchor;
    several sets of a kind give their mean. Where there are both, `val_map50` decides what is best.
    """

    data: tuple[str, ...] = ()  # specs such as voc:DIR:val, imagenet:DIR:val; (): nothing is measured
    steps: int = 0  # optimiser steps between evaluations; 0: once an epoch
    patience: int = 0  # the run stops after so many evaluations without a gain; 0: never
    size: int = 0  # side of the network input in pixels; 0: as the cfg says
    limit: int = 0  # only so many pictures of each set, evenly spread; 0: all


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    model: str = "yolo9000"  # built-in cfg name, .cfg file, or a model file to go on from
    # class names, one a line, or a data.yaml or .data file, to which the cfg's last layers are fitted; None:
    # those of VOC, COCO or ImageNet-1k, by the number of classes
    names: str | None = None
    weights: str | None = None  # what initialises layers: darknet weights (also partial), model file or name
    # model files or names: trained networks whose answers, everywhere in every picture, are learnt as well as
    # the labels (distillation, arXiv 1503.02531); of several their mean
    teachers: tuple[str, ...] = ()
    out: str = "runs/train"  # folder of checkpoints, logs and the final model
    epochs: int = 160  # passes (paper, section 3)
    max_steps: int = 0  # optimiser steps; 0: as `epochs` says
    batch_size: int = 64  # images a batch and process
    seed: int = 0  # of everything random: order, changes of the images, starting weights
    device: str = "auto"  # auto, cpu, cuda
    devices: int = 1  # processes on this machine, one a GPU; under torchrun its --nproc-per-node counts
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the hardware has it
    ema: float = 0.999  # decay of the weight average that is saved as the model; 0: no average
    freeze: int = 0  # first so many cfg layers that stay as they are, or up to `stopbackward=1` in the cfg
    checkpoint_steps: int = 500  # steps between checkpoints
    log_steps: int = 10  # steps between lines of the log
    pictures: int = 3  # first batches of a run that are drawn with boxes and labels (batch-1.jpg, ...)
    curves: bool = True  # draw curves.png from the log, if matplotlib is there
    tensorboard: bool = False  # write events for TensorBoard beside the CSV log
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    val: ValConfig = field(default_factory=ValConfig)

    def __post_init__(self) -> None:
        least = {
            "epochs": (self.epochs, 1),
            "max_steps": (self.max_steps, 0),
            "batch_size": (self.batch_size, 1),
            "seed": (self.seed, 0),
            "devices": (self.devices, 1),
            "freeze": (self.freeze, 0),
            "checkpoint_steps": (self.checkpoint_steps, 1),
            "log_steps": (self.log_steps, 1),
            "pictures": (self.pictures, 0),
            "data.workers": (self.data.workers, 0),
            "data.cache": (self.data.cache, 0),
            "optim.accumulate": (self.optim.accumulate, 1),
            "optim.burn_in": (self.optim.burn_in, 0),
            "optim.lr": (self.optim.lr, 0),
            "optim.weight_decay": (self.optim.weight_decay, 0),
            "optim.burn_in_power": (self.optim.burn_in_power, 0),
            "optim.decay": (self.optim.decay, 0),
            "optim.power": (self.optim.power, 0),
            "optim.final": (self.optim.final, 0),
            "optim.clip": (self.optim.clip, 0),
            "val.size": (self.val.size, 0),
            "val.limit": (self.val.limit, 0),
            "val.steps": (self.val.steps, 0),
            "val.patience": (self.val.patience, 0),
        }
        _require(
            {
                f"{name}: expected at least {low}, got {value}": value >= low
                for name, (value, low) in least.items()
            }
            | {
                f"{name}: expected 0 or more and less than 1, got {value}": 0 <= value < 1
                for name, value in {"ema": self.ema, "optim.momentum": self.optim.momentum}.items()
            }
            | {
                f"seed: expected less than 2 to the 64th, got {self.seed}": self.seed < 2**64,
                f"data.ratio: expected more than 0, got {self.data.ratio}": self.data.ratio > 0,
                f"optim.milestones: expected shares of a run, 0 to 1, got {self.optim.milestones}": all(
                    0 <= share <= 1 for share in self.optim.milestones
                ),
                f"data.repeat: expected 0 to 1, got {self.data.repeat}": 0 <= self.data.repeat <= 1,
                f"data.mosaic_classification: expected 0 to 1, got {self.data.mosaic_classification}": (
                    0 <= self.data.mosaic_classification <= 1
                ),
            }
            | {
                f"augment.cutmix: expected 0 to 1, got {self.augment.cutmix}": 0 <= self.augment.cutmix <= 1,
                "data.draw=device keeps all images in the device's memory; set data.cache to their longest "
                "side in pixels": self.data.draw == "loader" or self.data.cache > 0,
            }
            | {
                "val.patience: nothing is measured; name val.data (--val voc:DIR:val), too": (
                    not self.val.patience or bool(self.val.data)
                )
            }
        )


def _require(tests: Mapping[str, bool]) -> None:
    """Refuse settings, all problems at once."""
    problems = [problem for problem, right in tests.items() if not right]
    if problems:
        raise ConfigError("settings refused:\n" + "\n".join(f"  - {problem}" for problem in problems))


def from_mapping(cls: type[T], values: Mapping[str, Any]) -> T:
    """Build a config dataclass from nested mappings.

    Args:
        cls: The dataclass, e.g. `TrainConfig`.
        values: Nested keys and values as YAML gives them.

    Raises:
        ConfigError: Names every unknown key and every value of the wrong type at once.
    """
    problems: list[str] = []
    result = _build(cls, values, "", problems)
    _require(dict.fromkeys(problems, False))
    return typing.cast(T, result)


def _build(cls: Any, values: Any, prefix: str, problems: list[str]) -> Any:
    if values is None and prefix:  # a group whose every line is a comment
        values = {}
    if not isinstance(values, Mapping):
        problems.append(
            f"{prefix.rstrip('.') or 'the file'}: expected keys and values, got {type(values).__name__}"
        )
        return None
    hints = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls)}
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in known:
            problems.append(f"{name}: unknown key; known here: {', '.join(sorted(known))}")
        elif dataclasses.is_dataclass(hints[key]):
            arguments[key] = _build(hints[key], value, f"{name}.", problems)
        else:
            arguments[key] = _convert(hints[key], value, name, problems)
    return None if problems else cls(**arguments)


def _convert(hint: Any, value: Any, name: str, problems: list[str]) -> Any:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    value = value.item() if isinstance(value, np.generic) else value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        return _convert(next(o for o in options if o is not type(None)), value, name, problems)
    if origin is Literal:
        if value in options:
            return value
        problems.append(f"{name}: expected one of {', '.join(map(str, options))}, got {value!r}")
        return None
    if origin is tuple:
        items = [value] if isinstance(value, str | int | float) else value
        if isinstance(items, Sequence):
            return tuple(_convert(options[0], item, name, problems) for item in items)
    elif hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)  # YAML 1.1 reads 1e-3 as a string
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    expected = "a finite number" if hint is float else getattr(hint, "__name__", str(hint))
    problems.append(f"{name}: expected {expected}, got {value!r}")
    return None


def load_config(
    path: str | Path | None,
    overrides: Sequence[str] = (),
    *,
    defaults: Mapping[str, Any] | None = None,
    **values: Any,
) -> TrainConfig:
    """Read training settings: defaults, a YAML file, `values`, `key.sub=value` overrides, in this order.

    Args:
        path: YAML file, or None.
        overrides: Assignments such as `optim.lr=0.01`; the right side is read as YAML.
        defaults: Top-level defaults that differ from those of `TrainConfig`.
        **values: Top-level or dotted (`data__ratio`) settings; None means: not given.

    Raises:
        ConfigError: The file is no YAML mapping, or settings are refused.
    """
    merged: dict[str, Any] = dict(defaults or {})
    if path is not None:
        merged |= _read_yaml(Path(path))
    for key, value in values.items():
        if value is not None:
            _assign(merged, key.split("__"), value)
    for assignment in overrides:
        key, sign, value = assignment.partition("=")
        if not sign:
            raise ConfigError(f"--set {assignment}: expected key=value, such as optim.lr=0.01")
        try:
            _assign(merged, key.strip().split("."), yaml.safe_load(value))
        except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that there is not
            what = getattr(error, "problem", None) or error
            raise ConfigError(f"--set {assignment}: {value!r} is no YAML ({what}); quote it") from error
    return from_mapping(TrainConfig, merged)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=UniqueKeyLoader)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; expected a YAML file of settings") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected a YAML file in UTF-8: {error}; save it as UTF-8") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected keys and values, got {type(content).__name__}")
    return content


def _assign(target: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        if target.get(key) is None:  # nothing yet, or a group without a line in it
            target[key] = {}
        child = target[key]
        if not isinstance(child, dict):
            raise ConfigError(f"{'.'.join(keys)}: {key} is a value, not a group of settings")
        target = child
    target[keys[-1]] = value


def to_yaml(config: TrainConfig) -> str:
    """The configuration as YAML text that `load_config` reads back to the same configuration."""
    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def save_config(config: TrainConfig, path: Path) -> None:
    """Write the resolved configuration as YAML, whole or not at all."""
    with atomic_write(path, text=True) as stream:
        stream.write(to_yaml(config))
