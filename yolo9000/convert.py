"""The `convert` command: darknet cfg and weights into one model file, and back."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import torch

from wordtree._files import write_together
from wordtree.formats import darknet_files, lines_text
from yolo9000.checkpoint import is_model_file, load_darknet, load_model, save_model
from yolo9000.darknet.cfg import Cfg
from yolo9000.darknet.layers import DarknetBatchNorm
from yolo9000.darknet.weights import write_weights
from yolo9000.errors import ConfigError, WeightsError
from yolo9000.export.program import is_program
from yolo9000.network import LABELLED, Network, plan_network

_DARKNET_EPS = 1e-6  # darknet divides by sqrt(variance) + this (blas.c, normalize_cpu)


def convert(source: Path, target: Path, *, cfg: str | None = None, half: bool = False) -> list[Path]:
    """Convert between darknet's files and a model file; the endings say which way.

    Args:
        source: Darknet weights, whatever their ending, with their `cfg`; or a model file `*.safetensors`.
        target: The other kind. Beside `*.weights` its cfg and the names of its classes are written and, of a
            tree, its other files: all or none.
        cfg: The cfg of `source`, a file or a built-in name.
        half: Store a model file's parameters as float16.

    Returns:
        The files written.

    Raises:
        ConfigError: Endings that name no conversion, a missing or needless cfg.
        WeightsError: Files that do not fit each other.

    Warns:
        UserWarning: Weights that are no numbers; they are converted as they are.
    """
    from_model, to_model = is_model_file(source), is_model_file(target)
    if to_model and not from_model and not is_program(source):
        if cfg is None:
            raise ConfigError(f"{source}: darknet weights do not say what network they belong to: add --cfg.")
        network = load_darknet(cfg, source)
        _tell_damage(network, source)
        save_model(network, target, half=half)
        return [target]
    if from_model and target.suffix.lower() == ".weights":
        if cfg is not None or half:
            raise ConfigError("--cfg and --half are for writing a model file; its cfg is in it already.")
        network, _ = load_model(source)
        _tell_damage(network, source)
        return _to_darknet(network, target)
    raise ConfigError(
        f"cannot convert {source.name} to {target.name}: expected *.weights to *.safetensors, or the reverse."
    )


def _tell_damage(network: Network, source: Path) -> None:
    try:
        network.check_values()
    except WeightsError as error:
        warnings.warn(f"{source}: converted as it is, but {error}", stacklevel=3)


def _to_darknet(network: Network, target: Path) -> list[Path]:
    _use_darknet_batchnorm(network)
    text, tree = darknet_cfg(network.cfg), target.with_suffix(".tree")
    files = {target.with_suffix(".names"): lines_text(network.tree.names)}
    if network.tree.max_depth or any(layer.options.get("tree") for layer in network.cfg.layers):
        files = darknet_files(network.tree, tree)
        if not any(layer.name in LABELLED for layer in network.cfg.layers):
            text = f"{text.rstrip()}\n[softmax]\n"
        layers = Cfg.parse(text).layers
        holders = [k for k, layer in enumerate(layers) if layer.name in LABELLED]
        named = [k for k in holders if "tree" in layers[k].options]
        text = set_option(text, (named or holders)[0], "tree", tree.name)
    cfg = target.with_suffix(".cfg")
    write_together({target: partial(write_weights, network), cfg: text, **files})
    return [target, cfg, *files]


def darknet_cfg(cfg: Cfg) -> str:
    """The text of a cfg that darknet itself can read: tied class rows (our extension) are written out.

    Weights files hold the rows of every anchor in any case, so this cfg is the one that belongs to them.
    """
    region = cfg.region
    if region is None or not region.tied:
        return cfg.text
    last = max(number for number, layer in enumerate(cfg.layers) if layer.name == "convolutional")
    text = set_option(cfg.text, last, "filters", str(region.num * (region.coords + 1 + region.classes)))
    return set_option(text, len(cfg.layers) - 1, "tied", None)


def with_classes(cfg: Cfg, classes: int) -> Cfg:
    """The same network for another number of classes: `classes` of its region, filters before that.

    Raises:
        CfgError: The cfg describes no network of this family.
    """
    _, last, _ = plan_network(cfg)
    region, text, filters = cfg.region, cfg.text, classes
    if region is not None:
        copies = 1 if region.tied else region.num
        filters = region.num * (region.coords + 1) + copies * classes
        text = set_option(text, len(cfg.layers) - 1, "classes", str(classes))
        text = set_option(text, len(cfg.layers) - 1, "map", None)  # darknet's map belongs to one tree
    return Cfg.parse(set_option(text, last, "filters", str(filters)), cfg.path)


def without_tree(cfg: Cfg) -> Cfg:
    """The same network over a plain list of classes: of a tree in its cfg the softmax is left."""
    text = cfg.text
    for number, layer in enumerate(cfg.layers):
        if layer.name in LABELLED and layer.options.get("tree"):
            text = set_option(text, number, "tree", None)
            if layer.name == "region":
                text = set_option(text, number, "softmax", "1")
    return Cfg.parse(text, cfg.path)


def set_option(text: str, layer: int, key: str, value: str | None) -> str:
    """Set one option of a layer (counted from 0 after `[net]`) in a cfg's text, or remove it for None."""
    section = Cfg.parse(text).layers[layer]
    lines = text.removesuffix("\n").split("\n")  # as `Cfg` counts them; splitlines knows more line ends
    new = [] if value is None else [f"{key}={value}"]
    line = section.lines.get(key)
    if line is None:
        lines[section.line : section.line] = new
    else:
        lines[line - 1 : line] = new
    changed = "\n".join(lines) + "\n"
    # Where the key stands again further down, that line counts from now on.
    return changed if new or line is None else set_option(changed, layer, key, None)


@torch.no_grad()
def _use_darknet_batchnorm(network: Network) -> None:
    """Change running variances v so that darknet's formula gives what torch's gave.

    Solves sqrt(v') + 1e-6 = sqrt(v + 1e-5) for v'.
    """
    if network.batchnorm == "darknet":
        return
    for module in network.modules():
        if isinstance(module, DarknetBatchNorm):
            assert module.running_var is not None
            deviation = (module.running_var.double() + module.eps).sqrt() - _DARKNET_EPS
            module.running_var.copy_(deviation.square())
    network.batchnorm = "darknet"
