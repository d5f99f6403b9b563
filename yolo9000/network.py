"""The network a cfg describes: images -> feature map -> class logits or region input.

Letters: B batch, H W input pixels, S output cells, D feature channels, A anchors per cell, N tree nodes.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wordtree.formats import read_lines
from wordtree.textfile import is_file
from wordtree.tree import WordTree
from yolo9000.backbone import BackboneCopy, copy_backbone
from yolo9000.darknet.cfg import MAX_CLASSES, Cfg, RegionConfig, Section, search_places
from yolo9000.darknet.describe import Description, describe
from yolo9000.darknet.layers import Convolution, DarknetBatchNorm, build_layer
from yolo9000.darknet.plan import LayerPlan, check_limits, plan_layers
from yolo9000.errors import (
    CfgError,
    CfgWarning,
    ConfigError,
    FormatError,
    ImageError,
    WeightsError,
    YOLO9000Error,
)
from yolo9000.head import RegionHead
from yolo9000.tree_ops import TreeOps

MAX_SIDE = 4096  # pixels of the network input; larger ones exhaust memory before they find more
# Class lists that a cfg without a tree is taken to mean by their length, and darknet's own cfgs, which do.
_KNOWN_LISTS = {
    20: ("voc", "yolov2-voc yolov2-tiny-voc yolo-voc tiny-yolo-voc"),
    80: ("coco", "yolov2 yolov2-tiny yolo tiny-yolo"),
    1000: ("ilsvrc1k", "darknet darknet19 darknet19_448 densenet201 extraction tiny"),
}
LABELLED = ("region", "softmax")  # layers that can name a tree
_LAST = ("softmax", "cost")  # layers that no other follows: their modules pass their input through
_TAIL = ("avgpool", "dropout", *_LAST)  # what may follow a classifier's last convolution


class Network(nn.Module):
    """A detector (cfg with `[region]`) or classifier of darknet's YOLOv2 family.

    The last convolution stands apart from the rest. A detector's, 1 x 1 and linear, is kept in `head`, which
    evaluates only the rows that are needed; a classifier's is applied to the averaged features where it is
    1 x 1 and linear, which is the same and spares N maps of S x S.

    Args:
        cfg: The description.
        tree: The label tree; by default what the cfg's `tree=` names (a file: see `search_places`; `9k.tree`
            is also the tree that comes with the package), else a flat list of classes, their names from
            the `x.names` of `x.cfg` where there is one in the same places.
        initialise: Draw starting values; without, the parameters hold anything until they are loaded, which
            spares half the time of loading.

    Attributes:
        cfg: The description.
        tree: The label tree, N nodes.
        region: The `[region]` section, or None for a classifier.
        head: The detection head, or None for a classifier.
        plans: Shapes and counts of every layer at the cfg's input size.
        last: Index of the last convolution; all layers before it make the features.
        layers: One module per layer of the cfg; the detector's last convolution is in `head`.
        stride: Input pixels per cell of the feature map.
        multiple: Input pixels that height and width are multiples of: a cell of the coarsest map.
        seen: Images seen in training, as .weights files count them.
        weights_version: Header version of .weights files: that of the file read last, else (0, 2, 0).

    Raises:
        CfgError: The cfg describes no network of this family, or one above the limits of `check_limits`.

    Warns:
        CfgWarning: Keys of the cfg that nothing reads; class names guessed by their number, or unknown.
    """

    def __init__(self, cfg: Cfg, tree: WordTree | None = None, *, initialise: bool = True) -> None:
        super().__init__()
        self.cfg = cfg
        self.plans, self.last, classes = plan_network(cfg)
        self.region: RegionConfig | None = cfg.region
        last = self.plans[self.last]
        self.tree: WordTree = _resolve_tree(cfg, classes) if tree is None else tree
        if len(self.tree) != classes:
            raise CfgError(
                f"describes {classes:,} classes, but the tree has {len(self.tree):,} nodes.",
                path=cfg.path,
                line=self.plans[-1].section.line,
                remedy="Set classes= and the filters= above to fit, or name the tree of this cfg.",
            )
        self.stride = int(last.stride)
        self._needed = _needed(self.plans, self.last)
        # Those of a cell of the coarsest map, unless strides are no multiples of each other.
        self.multiple = math.lcm(*(self.plans[index].stride.numerator for index in self._needed))
        self.seen = 0
        self._batchnorm = "torch"
        self.weights_version: tuple[int, int, int] = (0, 2, 0)
        detector = self.region is not None
        self.layers = nn.ModuleList(
            nn.Identity() if detector and plan is last else build_layer(plan, initialise=initialise)
            for plan in self.plans
        )
        self.head: RegionHead | None = None
        self._ops: TreeOps | None = None
        if self.region is not None:
            self.head = RegionHead(last.input[0], self.region, self.tree, initialise=initialise)
        else:
            self._ops = TreeOps(self.tree)
        self._kept = frozenset(source for index in self._needed for source in self.plans[index].sources)

    @property
    def ops(self) -> TreeOps:
        """Operations over the tree's sibling groups."""
        ops = self.head.ops if self.head is not None else self._ops
        assert ops is not None
        return ops

    @property
    def batchnorm(self) -> str:
        """Formula of batch norm in evaluation: `"darknet"` for weights that darknet trained or `"torch"`."""
        return self._batchnorm

    @batchnorm.setter
    def batchnorm(self, mode: str) -> None:
        if mode not in ("torch", "darknet"):
            raise ValueError(f"batchnorm must be 'torch' or 'darknet', not {mode!r}")
        self._batchnorm = mode  # also where there is no norm: it says by whom the weights are
        for norm in self._norms():
            norm.mode = mode

    def check_colour(self) -> None:
        """Make sure that the network is one for pictures, before any is read.

        Raises:
            CfgError: Its input has not three channels.
        """
        if self.cfg.channels != 3:
            self.cfg.net.fail(
                f"pictures have 3 (red, green, blue), grey ones too; got {self.cfg.channels}.",
                key="channels",
                remedy="Set channels=3 and train on that; such a network can only be converted.",
            )

    def features(self, images: Tensor) -> Tensor:
        """Everything before the last convolution.

        Args:
            images: [B, 3, H, W] float, RGB in 0..1; H and W multiples of `multiple`, or the cfg's own.

        Returns:
            [B, D, H / stride, W / stride].

        Raises:
            ImageError: The shape does not fit.
        """
        if images.dim() != 4 or images.shape[1] != self.cfg.channels:
            raise ImageError(f"expected images [B, {self.cfg.channels}, H, W], got {list(images.shape)}")
        if not images.is_floating_point():
            raise ImageError(f"expected floating-point images in 0..1, got {images.dtype}; divide by 255")
        outputs: dict[int, Tensor] = {}
        x = images
        for index in self._needed[:-1]:
            x = self.apply_layer(index, x, [outputs[source] for source in self.plans[index].sources])
            if index in self._kept:
                outputs[index] = x
        return x

    def apply_layer(self, index: int, x: Tensor, sources: Sequence[Tensor]) -> Tensor:
        """What one layer makes of the output of the one before, and of those that it names.

        Args:
            index: The layer.
            x: [B, C, H, W] what comes before it.
            sources: [B, C', H', W'] each, of `plans[index].sources`.
        """
        if self.plans[index].type == "route":
            return torch.cat([*sources], 1) if sources[1:] else sources[0]
        result: Tensor = self.layers[index](x, *sources)
        return result

    def forward(self, images: Tensor) -> Tensor:
        """The dense output, the form that darknet computes and exports need.

        Args:
            images: [B, 3, H, W] float, RGB in 0..1.

        Returns:
            Detector: the region layer's input [B, A (5 + N), S, S], raw, channels as in darknet: per anchor
            x, y, w, h, objectness, classes. Classifier: class logits [B, N].
        """
        features = self.features(images)
        if self.head is None:
            return self.class_logits(features)
        return self.head.dense(features).flatten(1, 2)

    def class_logits(self, features: Tensor) -> Tensor:
        """Class logits of whole images, before the (tree) softmax.

        Args:
            features: [B, D, S, S] from `features`.

        Returns:
            [B, N]; of a detector, the mean over its anchors' class rows.
        """
        if self.head is not None:
            return self.head.classify(features)
        last = self.layers[self.last]
        assert isinstance(last, Convolution)
        if self.plans[self.last].is_linear_1x1:
            logits = F.linear(features.mean((2, 3)), last.conv.weight.flatten(1), last.conv.bias)
        else:
            logits = last(features).mean((2, 3))
        for module in self.layers[self.last + 1 :]:
            if isinstance(module, nn.Dropout):
                logits = module(logits)
        return logits

    def probabilities(self, logits: Tensor) -> Tensor:
        """What darknet's `[softmax]` makes of a classifier's logits.

        Args:
            logits: [B, N].

        Returns:
            [B, N]: with a tree, each node's probability given its parent; else the softmax over each of
            `groups` equal parts.
        """
        section = next((plan.section for plan in self.plans if plan.type == "softmax"), None)
        logits = logits.float() / (section.get_float("temperature", 1.0) if section else 1.0)
        groups = section.get_int("groups", 1) if section and not section.options.get("tree") else 1
        if groups > 1:
            return logits.reshape(len(logits), groups, -1).softmax(-1).flatten(1)
        return self.ops.log_softmax(logits).exp()

    def fuse(self) -> Network:
        """A copy for inference: evaluation mode, batch norms folded into the convolutions, channels-last.

        Equal to this network in evaluation mode, to rounding. It cannot be saved as .weights any more. The
        head's rows, the larger part of a network of many classes, are this network's own and not copied.

        Raises:
            WeightsError: See `check_values`.
        """
        # Class rows lie in the file until they are asked for, and what they give is checked then.
        self.check_values(class_rows=False)
        # What is immutable is shared; so are kernels, which folding replaces.
        kept = (self.cfg, self.tree, self.plans, *([] if self.head is None else _tensors(self.head)))
        kernels = (layer.conv.weight for _, layer in self.convolutions() if isinstance(layer, Convolution))
        fused = copy.deepcopy(self, {id(each): each for each in (*kept, *kernels)})
        for module in fused.modules():
            if isinstance(module, Convolution):
                module.fuse()
        return fused.eval()

    def check_values(self, *, class_rows: bool = True) -> None:
        """Make sure that all weights are numbers: a class of infinite bias is found everywhere or nowhere.

        Args:
            class_rows: A detector's class rows as well, most of what it holds.

        Raises:
            WeightsError: A value is NaN or infinity, or a variance below 0.
        """
        for name, values in self.state_dict().items():
            if name == "head.class_weight" and not class_rows:
                continue
            low, high = values.aminmax()
            if not (low.isfinite() and high.isfinite()) or (name.endswith("running_var") and low < 0):
                raise WeightsError(
                    f"the network's weights hold NaN, infinity or a variance below 0, in {name}: they are "
                    "damaged, or their training diverged. Take another copy or an earlier checkpoint."
                )

    def load_backbone(self, other: Network) -> BackboneCopy:
        """Copy from another network the leading layers that both share, and head rows that mean the same.

        Returns:
            What was copied, and why not more (see `yolo9000.backbone.copy_backbone`).
        """
        return copy_backbone(other, self)

    def describe(self, height: int | None = None, width: int | None = None) -> Description:
        """A table of all layers: type, filters, size, shapes, parameters and BFLOPs as darknet counts them.

        Args:
            height: Input height in pixels; the cfg's by default.
            width: Input width in pixels; the cfg's by default.

        Raises:
            CfgError: The network cannot take that size.
        """
        return describe(plan_layers(self.cfg, height, width))

    def check_size(self, height: int, width: int) -> None:
        """Refuse an input that the network cannot take.

        Args:
            height: Of the input, pixels.
            width: Likewise.

        Raises:
            ConfigError: See the function `check_size`.
            CfgError: Too little would be left for a layer without padding.
        """
        check_size(height, width, self.multiple, (self.cfg.height, self.cfg.width))
        plan_layers(self.cfg, height, width)

    def convolutions(self) -> list[tuple[LayerPlan, Convolution | RegionHead]]:
        """All layers with weights, in the order of .weights files."""
        found: list[tuple[LayerPlan, Convolution | RegionHead]] = []
        for plan, layer in zip(self.plans, self.layers, strict=True):
            if plan.index == self.last and self.head is not None:
                found.append((plan, self.head))
            elif isinstance(layer, Convolution):
                found.append((plan, layer))
        return found

    def _norms(self) -> list[DarknetBatchNorm]:
        return [module for module in self.modules() if isinstance(module, DarknetBatchNorm)]


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _needed(plans: Sequence[LayerPlan], last: int) -> tuple[int, ...]:
    """The layers that a layer's output depends on, in order, itself at the end."""
    needed = {last}
    for plan in reversed(plans[: last + 1]):
        if plan.index in needed:
            needed.update(plan.sources)
            if plan.type != "route" and plan.index:
                needed.add(plan.index - 1)
    return tuple(sorted(needed))


def check_size(height: int, width: int, multiple: int, own: tuple[int, int] | None = None) -> None:
    """Refuse a network input of which the cells of a map would leave something over.

    Args:
        height: Of the input, pixels.
        width: Likewise.
        multiple: What the network's input sides are multiples of, pixels.
        own: Height and width of its cfg, which may be no multiples: darknet runs such networks.

    Raises:
        ConfigError: A side, in pixels, is no such multiple, or too large.
    """
    for side in (height, width):
        if not 0 < side <= MAX_SIDE or (side % multiple and (height, width) != own):
            nearest = min(max(multiple, round(side / multiple) * multiple), MAX_SIDE // multiple * multiple)
            raise ConfigError(
                f"size must be a multiple of {multiple} from {multiple} to {MAX_SIDE} pixels, found {side}; "
                f"the nearest is {nearest}."
            )


def plan_network(cfg: Cfg) -> tuple[tuple[LayerPlan, ...], int, int]:
    """Everything that can be wrong with a cfg alone, before memory is taken for its network.

    Returns:
        The layers, the index of the last convolution, and the number of classes N.

    Raises:
        CfgError: See `Network`.

    Warns:
        CfgWarning: Keys of the cfg that nothing reads, before what is wrong without them.
    """
    if cfg.unknown:
        where = "" if cfg.path is None else f"{cfg.path}: "
        message = f"{where}keys that nothing reads (misspelled?): {'; '.join(cfg.unknown)}"
        # One place in the code, so that Python shows it once where a network is planned and then built.
        warnings.warn(message, CfgWarning, stacklevel=1)
    plans = plan_layers(cfg)
    check_limits(cfg, plans)
    index = _last_convolution(cfg, plans)
    last = plans[index]
    classes = last.output[0] if cfg.region is None else cfg.region.classes
    if classes > MAX_CLASSES:
        last.section.fail(f"{classes:,} classes; the limit is {MAX_CLASSES:,}.", key="filters")
    if last.stride.denominator != 1:
        last.section.fail(f"a cell would be {last.stride} of a pixel; expected whole pixels.")
    return plans, index, classes


def _last_convolution(cfg: Cfg, plans: tuple[LayerPlan, ...]) -> int:
    """Index of the convolution that the head or the pooled linear classifier replaces."""
    regions = [plan for plan in plans if plan.type == "region"]
    if regions and regions[0] is not plans[-1]:
        regions[0].section.fail("expected as the last layer; only one is supported.")
    found = [plan.index for plan in plans if plan.type == "convolutional"]
    if not found:
        raise CfgError("holds no [convolutional] layer.", path=cfg.path, line=cfg.net.line)
    last, tail = plans[found[-1]], plans[found[-1] + 1 :]
    for plan in plans[: last.index]:
        if plan.type in _LAST:
            plan.section.fail(f"expected after the last [convolutional], which is layer {last.index}.")
    if regions:
        if not last.is_linear_1x1:
            last.section.fail(
                "a detector's last convolution must be a plain 1 x 1 one.",
                remedy="Set size=1, stride=1, activation=linear; no batch_normalize, padding or groups.",
            )
        if len(tail) != 1:
            tail[0].section.fail("expected [region] directly after the last [convolutional].")
        return last.index
    for plan in tail:
        if plan.type not in _TAIL:
            plan.section.fail(
                f"cannot follow a classifier's last convolution; these can: {', '.join(_TAIL)}."
            )
    for plan, after in pairwise(tail):
        if plan.type == "softmax" and after.type != "cost":
            after.section.fail("cannot follow [softmax]; only [cost] can.")
    # Where a single cell is left, an average that stands before has averaged all there is, or none is needed.
    one_cell = max(last.output[1:]) == 1
    ends = {plan.type for plan in (plans if one_cell else tail)}
    if "avgpool" not in ends and not (one_cell and "softmax" in ends):
        last.section.fail(
            "expected [region] (detector) or [avgpool] and [softmax] (classifier) after it; [softmax] alone "
            f"where its output is one cell, found {last.output[2]} x {last.output[1]}."
        )
    return last.index


def _resolve_tree(cfg: Cfg, classes: int) -> WordTree:
    labelled = (layer for layer in cfg.layers if layer.name in LABELLED)
    section = next((layer for layer in labelled if layer.options.get("tree")), None)
    if section is not None:
        return _load_tree(cfg, section)
    known = _known_list(classes)
    file = None if cfg.path is None else _find(cfg, cfg.path.with_suffix(".names").name)
    if file is None:
        _tell_guess(cfg, classes)
        return known
    names = read_lines(file, "names")
    if len(names) != classes:
        what = f"expected {classes:,} names, one for each class of {cfg.path}, got {len(names):,}."
        raise FormatError(what, path=file, remedy="Use the names of this cfg, or none.")
    return known if known.names == tuple(names) else WordTree.flat(names)


def _find(cfg: Cfg, name: str) -> Path | None:
    return next((place for place in search_places(cfg.path, name) if is_file(place)), None)


def _known_list(classes: int) -> WordTree:
    """The flat list that a cfg without a tree means by its length, or numbered classes."""
    if classes not in _KNOWN_LISTS:
        return WordTree.flat([f"class {number}" for number in range(classes)])
    from wordtree.classes import class_list

    entries = class_list(_KNOWN_LISTS[classes][0])
    if classes == 1000:  # labelled images come in folders named by the WordNet ids
        return WordTree([-1] * classes, [e.wnid for e in entries], [e.name for e in entries])
    return WordTree.flat([entry.name for entry in entries])


def _tell_guess(cfg: Cfg, classes: int) -> None:
    """Warn where a cfg that is none of darknet's own gets the names of a known list; a file, also numbers."""
    name, own = _KNOWN_LISTS.get(classes, ("", ""))
    if cfg.path is None:
        remedy = "give the network its tree"
    else:
        remedy = f"write their names into {cfg.path.with_suffix('.names')}, one a line"
    if name and (cfg.path is None or cfg.path.stem not in own.split()):
        taken = f"those of {name} are taken, by their number alone. If they are others"
    elif not name and cfg.path is not None:
        taken = "they are numbered. To name them"
    else:
        return
    message = f"{cfg.path or 'the cfg'}: does not name its {classes:,} classes; {taken}, {remedy}."
    warnings.warn(message, CfgWarning, stacklevel=2)


def _load_tree(cfg: Cfg, section: Section) -> WordTree:
    name = section.get_str("tree")
    if (found := _find(cfg, name)) is not None:
        return WordTree.load(found)
    if Path(name).name == "9k.tree":
        return WordTree.load("yolo9000")
    try:
        return WordTree.load(name)
    except YOLO9000Error:
        places = ", ".join(map(str, search_places(cfg.path, name)))
        section.fail(
            f"no such file {name}, and none is built in; looked for {places}.",
            key="tree",
            remedy="Put it there, or name it with its whole path.",
        )
