"""What a cfg would build: shapes, parameters and cost of every layer, before anything is allocated.

Shapes are (C, H, W). Formulas are darknet's: `convolutional_out_height`, `make_maxpool_layer`,
`make_reorg_layer`, `parse_route` and the BFLOPs that it prints when it builds a network.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from fractions import Fraction

from yolo9000.darknet.cfg import FORK_KEYS, Cfg, RegionConfig, Section
from yolo9000.errors import CfgError, ConfigError

Shape = tuple[int, int, int]

MAX_PARAMETERS = (
    300_000_000  # values, 1.2 GB in float32; YOLO9000 has 48 million, over all 82,115 nouns 273 million
)
MAX_ACTIVATIONS = 500_000_000  # values per image, 2 GB in float32; YOLOv2 at 608 x 608 has 84 million
_LIMITS = {"YOLO9000_MAX_PARAMETERS": MAX_PARAMETERS, "YOLO9000_MAX_ACTIVATIONS": MAX_ACTIVATIONS}

ACTIVATIONS = ("leaky", "linear", "logistic", "relu")


@dataclass(frozen=True)
class LayerPlan:
    """One layer of a network, not yet built.

    Attributes:
        index: Position among the layers, as `route` and darknet's listing count them.
        section: Where it stands in the cfg.
        input, output: (C, H, W) at the planned input size.
        stride: Input pixels per output cell (1 / 2 after a reversed reorg at the input).
        parameters: Trained values; running statistics are not counted.
        flops: Multiplications and additions of convolutions, as darknet counts them.
        sources: Layers whose outputs a `route` joins, or the one that a `shortcut` adds.
        kernel, step, padding, groups: Of convolutions and pools.
        batch_normalize: Of convolutions.
        activation: Of convolutions and shortcuts.
        factors: Of a shortcut, for the layer before and for the one that is added; of an upsample.
    """

    index: int
    section: Section
    input: Shape
    output: Shape
    stride: Fraction
    parameters: int = 0
    flops: int = 0
    sources: tuple[int, ...] = ()
    kernel: int = 1
    step: int = 1
    padding: int = 0
    groups: int = 1
    batch_normalize: bool = False
    activation: str = "linear"
    factors: tuple[float, ...] = ()

    @property
    def type(self) -> str:
        """The section's name."""
        return self.section.name

    @property
    def activations(self) -> int:
        """Values per image that the layer adds: its output, or its padded input where that is larger."""
        around = 2 * self.padding if self.type == "convolutional" else self.padding
        channels, height, width = self.input
        padded = channels * (height + around) * (width + around) if around else 0
        return max(padded, self.output[0] * self.output[1] * self.output[2])

    @property
    def is_linear_1x1(self) -> bool:
        """Whether it can be the last convolution: a plain matrix applied at every cell."""
        plain = self.type == "convolutional" and self.activation == "linear" and not self.batch_normalize
        return plain and (self.kernel, self.step, self.padding, self.groups) == (1, 1, 0, 1)


def plan_layers(cfg: Cfg, height: int | None = None, width: int | None = None) -> tuple[LayerPlan, ...]:
    """Work out every layer of a cfg.

    Args:
        cfg: The description.
        height: Input height in pixels; the cfg's by default.
        width: Input width in pixels; the cfg's by default.

    Raises:
        CfgError: A value or a combination of layers that cannot be built.
    """
    shape: Shape = (cfg.channels, height or cfg.height, width or cfg.width)
    stride = Fraction(1)
    plans: list[LayerPlan] = []
    for index, section in enumerate(cfg.layers):
        _refuse_fork_keys(section)
        plan = _PLANNERS[section.name](index, section, shape, stride, plans)
        if min(plan.output) < 1:
            section.fail(
                f"layer {index} would have output {_text(plan.output)}; its input is {_text(plan.input)}.",
                remedy="Raise the input size or lower sizes and strides.",
            )
        plans.append(plan)
        shape, stride = plan.output, plan.stride
    if not plans:
        raise CfgError("holds no layer, only [net].", path=cfg.path, line=cfg.net.line)
    return tuple(plans)


def grid_cells(cfg: Cfg, height: int, width: int) -> int:
    """Cells of the last layer's map for an input of so many pixels: layers without padding have fewer.

    Raises:
        CfgError: See `plan_layers`.
    """
    return math.prod(plan_layers(cfg, height, width)[-1].output[1:])


def _refuse_fork_keys(section: Section) -> None:
    for key, neutral in FORK_KEYS.get(section.name, {}).items():
        allowed = neutral or section.options.get("stride", "1")
        if section.options.get(key, allowed) != allowed:
            section.fail(
                f"is an extension of a fork of darknet and changes the layer; only {allowed} is supported.",
                key=key,
            )


def check_limits(cfg: Cfg, plans: tuple[LayerPlan, ...]) -> None:
    """Refuse a network that would need more memory than the stated limits.

    The limits are `MAX_PARAMETERS` and `MAX_ACTIVATIONS` (values per image at the cfg's input size); the
    environment variables `YOLO9000_MAX_PARAMETERS` and `YOLO9000_MAX_ACTIVATIONS` change them.

    Raises:
        CfgError: With the count, the limit, the largest layer and how to raise the limit.
    """
    _check("YOLO9000_MAX_PARAMETERS", "parameters", cfg, [(plan.parameters, plan) for plan in plans])
    activations = [(plan.activations, plan) for plan in plans]
    _check("YOLO9000_MAX_ACTIVATIONS", "activations per image", cfg, activations)


def _check(variable: str, what: str, cfg: Cfg, counts: list[tuple[int, LayerPlan]]) -> None:
    total = sum(count for count, _ in counts)
    limit = _limit(variable)
    if total > limit:
        worst, plan = max(counts, key=lambda pair: pair[0])
        raise CfgError(
            f"the network would have {total:,} {what}, {worst:,} of them in layer {plan.index} "
            f"[{plan.type}]; the limit is {limit:,}.",
            path=cfg.path,
            line=plan.section.line,
            remedy=f"If that is meant, set the environment variable {variable} to a larger number.",
        )


def _limit(variable: str) -> int:
    text = os.environ.get(variable)
    if text is None:
        return _LIMITS[variable]
    if not text.isdecimal():
        raise ConfigError(
            f"environment variable {variable}={text!r}: expected a whole number such as 400000000"
        )
    return int(text)


def _plan_convolutional(
    index: int, section: Section, shape: Shape, stride: Fraction, _: list[LayerPlan]
) -> LayerPlan:
    channels, height, width = shape
    filters = section.get_int("filters", 1, minimum=1)
    size = section.get_int("size", 1, minimum=1)
    step = section.get_int("stride", 1, minimum=1)
    groups = section.get_int("groups", 1, minimum=1)
    padding = size // 2 if section.get_bool("pad") else section.get_int("padding", 0, minimum=0)
    activation = _activation(section, "logistic")
    if channels % groups or filters % groups:
        section.fail(
            f"{groups} groups divide neither evenly: {channels} channels, {filters} filters.", key="groups"
        )
    for key in ("binary", "xnor", "flipped", "dontload", "dontsave", "dontloadscales", "numload"):
        if section.get_bool(key):
            section.fail("is not supported; only 0.", key=key)
    normalize = section.get_bool("batch_normalize")
    output = (filters, (height + 2 * padding - size) // step + 1, (width + 2 * padding - size) // step + 1)
    weights = filters * (channels // groups) * size * size
    return LayerPlan(
        index,
        section,
        shape,
        output,
        stride * step,
        parameters=weights + (2 if normalize else 1) * filters,
        flops=2 * weights * output[1] * output[2],
        kernel=size,
        step=step,
        padding=padding,
        groups=groups,
        batch_normalize=normalize,
        activation=activation,
    )


def _activation(section: Section, default: str) -> str:
    activation = section.get_str("activation", default)
    if activation not in ACTIVATIONS:
        section.fail(f"unknown activation {activation!r}; known: {', '.join(ACTIVATIONS)}.", key="activation")
    return activation


def _plan_maxpool(
    index: int, section: Section, shape: Shape, stride: Fraction, _: list[LayerPlan]
) -> LayerPlan:
    channels, height, width = shape
    step = section.get_int("stride", 1, minimum=1)
    size = section.get_int("size", step, minimum=1)
    padding = section.get_int("padding", size - 1, minimum=0)  # both sides together
    output = (channels, (height + padding - size) // step + 1, (width + padding - size) // step + 1)
    most = 2 * (size - 1)  # beyond that a window can lie outside of the map
    if padding > most:
        section.fail(f"expected at most {most} for size {size}, got {padding}.", key="padding")
    return LayerPlan(index, section, shape, output, stride * step, kernel=size, step=step, padding=padding)


def _plan_reorg(
    index: int, section: Section, shape: Shape, stride: Fraction, _: list[LayerPlan]
) -> LayerPlan:
    channels, height, width = shape
    step = section.get_int("stride", 1, minimum=1)
    for key in ("flatten", "extra"):
        if section.get_int(key, 0):
            section.fail("is not supported; only 0.", key=key)
    # Darknet divides the channels in both directions and reads past its input where they do not divide.
    if channels % (step * step):
        section.fail(f"{channels} channels are not a multiple of {step} x {step}.", key="stride")
    if section.get_bool("reverse"):
        output = (channels // (step * step), height * step, width * step)
        return LayerPlan(index, section, shape, output, stride / step, step=step)
    if height % step or width % step:
        section.fail(
            f"its input of {height} x {width} cells is not a multiple of the stride {step}.",
            key="stride",
            remedy=f"Use an input height and width that are multiples of {stride * step} pixels.",
        )
    output = (channels * step * step, height // step, width // step)
    return LayerPlan(index, section, shape, output, stride * step, step=step)


def _plan_route(
    index: int, section: Section, shape: Shape, _: Fraction, before: list[LayerPlan]
) -> LayerPlan:
    sources = tuple(_earlier(index, section, number, "layers") for number in section.get_ints("layers"))
    joined = [before[number] for number in sources]
    if any(plan.output[1:] != joined[0].output[1:] for plan in joined):
        shapes = ", ".join(f"layer {plan.index} {_text(plan.output)}" for plan in joined)
        section.fail(f"outputs of different height or width cannot be joined: {shapes}.", key="layers")
    output = (sum(plan.output[0] for plan in joined), *joined[0].output[1:])
    return LayerPlan(index, section, shape, output, joined[0].stride, sources=sources)


def _earlier(index: int, section: Section, number: int, key: str) -> int:
    """The layer before `index` that a cfg means: counted from it where negative, else from the first."""
    number = index + number if number < 0 else number
    if not 0 <= number < index:
        section.fail(f"layer {index} cannot join layer {number}: only 0 to {index - 1} exist.", key=key)
    return number


def _plan_shortcut(
    index: int, section: Section, shape: Shape, stride: Fraction, before: list[LayerPlan]
) -> LayerPlan:
    added = before[_earlier(index, section, section.get_int("from"), "from")]
    activation = _activation(section, "linear")
    factors = section.get_float("alpha", 1.0), section.get_float("beta", 1.0)
    if added.output[1:] != shape[1:]:
        section.fail(
            f"outputs of different height or width cannot be added: layer {index - 1} {_text(shape)}, layer "
            f"{added.index} {_text(added.output)}.",
            key="from",
        )
    return LayerPlan(
        index, section, shape, shape, stride, sources=(added.index,), activation=activation, factors=factors
    )


def _plan_upsample(
    index: int, section: Section, shape: Shape, stride: Fraction, _: list[LayerPlan]
) -> LayerPlan:
    step = section.get_int("stride", 2, minimum=1)
    factors = (section.get_float("scale", 1.0),)
    output = (shape[0], shape[1] * step, shape[2] * step)
    return LayerPlan(index, section, shape, output, stride / step, step=step, factors=factors)


def _plan_avgpool(
    index: int, section: Section, shape: Shape, stride: Fraction, _: list[LayerPlan]
) -> LayerPlan:
    return LayerPlan(index, section, shape, (shape[0], 1, 1), stride)


def _plan_softmax(
    index: int, section: Section, shape: Shape, stride: Fraction, _: list[LayerPlan]
) -> LayerPlan:
    groups = section.get_int("groups", 1, minimum=1)
    values = shape[0] * shape[1] * shape[2]
    if values % groups:
        section.fail(f"{values} values do not divide into {groups} groups.", key="groups")
    if section.get_bool("spatial"):
        section.fail("is not supported; only 0.", key="spatial")
    if section.get_float("temperature", 1.0) <= 0:
        section.fail("expected a number above 0.", key="temperature")
    return LayerPlan(index, section, shape, shape, stride, groups=groups)


def _plan_dropout(
    index: int, section: Section, shape: Shape, stride: Fraction, _: list[LayerPlan]
) -> LayerPlan:
    if not 0 <= section.get_float("probability", 0.5) < 1:
        section.fail("expected a share from 0 to below 1.", key="probability")
    return LayerPlan(index, section, shape, shape, stride)


def _plan_cost(index: int, section: Section, shape: Shape, stride: Fraction, _: list[LayerPlan]) -> LayerPlan:
    return LayerPlan(index, section, shape, shape, stride)


def _plan_region(
    index: int, section: Section, shape: Shape, stride: Fraction, _: list[LayerPlan]
) -> LayerPlan:
    region = RegionConfig.from_section(section)
    expected = filters_before(region)
    if shape[0] != expected:
        form = "num * 5 + classes" if region.tied else "num * (5 + classes)"
        section.fail(
            f"needs {expected:,} channels ({form} with num={region.num}, classes={region.classes:,}), but "
            f"the layer before it gives {shape[0]:,}.",
            remedy=f"Set filters={expected} in the last [convolutional], or change num or classes.",
        )
    # Tied rows are shared in the parameters only: the dense output has all channels.
    return LayerPlan(index, section, shape, (region.num * (5 + region.classes), *shape[1:]), stride)


def filters_before(region: RegionConfig) -> int:
    """Filters of the convolution before a `[region]`: num * (5 + classes), or num * 5 + classes when tied."""
    if region.tied:
        return region.num * 5 + region.classes
    return region.num * (5 + region.classes)


def _text(shape: Shape) -> str:
    return " x ".join(map(str, shape))


_PLANNERS = {
    "convolutional": _plan_convolutional,
    "maxpool": _plan_maxpool,
    "reorg": _plan_reorg,
    "route": _plan_route,
    "shortcut": _plan_shortcut,
    "upsample": _plan_upsample,
    "avgpool": _plan_avgpool,
    "softmax": _plan_softmax,
    "dropout": _plan_dropout,
    "cost": _plan_cost,
    "region": _plan_region,
}
