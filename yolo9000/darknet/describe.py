"""A network as a table: one row per layer, as darknet prints it, with parameters and totals."""

from __future__ import annotations

from dataclasses import dataclass

from yolo9000.darknet.plan import LayerPlan, Shape


@dataclass(frozen=True)
class LayerRow:
    """One layer.

    Attributes:
        index: Position, as `route` counts.
        type: Section name.
        filters: Output channels of a convolution, else None.
        size: Kernel and stride (`3 x 3 / 2`), how much a map grows (`2x`), or the layers that are joined or
            added.
        input, output: (C, H, W).
        parameters: Trained values.
        bflops: Billions of multiplications and additions, as darknet counts them.
    """

    index: int
    type: str
    filters: int | None
    size: str
    input: Shape
    output: Shape
    parameters: int
    bflops: float


@dataclass(frozen=True)
class Description:
    """All layers of a network; `str()` of it is the table.

    Attributes:
        rows: One per layer.
    """

    rows: tuple[LayerRow, ...]

    @property
    def parameters(self) -> int:
        """Trained values of the whole network."""
        return sum(row.parameters for row in self.rows)

    @property
    def bflops(self) -> float:
        """Billions of operations per image, all outputs of the last convolution included."""
        return sum(row.bflops for row in self.rows)

    def __str__(self) -> str:
        heading = (
            f"{'layer':>5} {'type':<13} {'filters':>7}  {'size':<12} {'input':>20}    {'output':>20} "
            f"{'parameters':>12} {'BFLOPs':>8}"
        )
        lines = [heading, *map(_line, self.rows)]
        lines.append(f"{'total':<88}{self.parameters:>12,} {self.bflops:>8.3f}")
        return "\n".join(lines)


def describe(plans: tuple[LayerPlan, ...]) -> Description:
    """Put planned layers into a table."""
    return Description(tuple(map(_row, plans)))


def _row(plan: LayerPlan) -> LayerRow:
    if plan.type in ("convolutional", "maxpool"):
        size = f"{plan.kernel} x {plan.kernel} / {plan.step}"
    elif plan.type == "reorg":
        size = f"/ {plan.step}"
    elif plan.type == "upsample":
        size = f"{plan.step}x"
    else:
        size = " ".join(map(str, plan.sources))
    filters = plan.output[0] if plan.type == "convolutional" else None
    flops = plan.flops / 1e9
    return LayerRow(plan.index, plan.type, filters, size, plan.input, plan.output, plan.parameters, flops)


def _line(row: LayerRow) -> str:
    filters = "" if row.filters is None else str(row.filters)
    parameters = f"{row.parameters:,}" if row.parameters else ""
    bflops = f"{row.bflops:.3f}" if row.bflops else ""
    return (
        f"{row.index:>5} {row.type:<13} {filters:>7}  {row.size:<12} {_shape(row.input):>20} -> "
        f"{_shape(row.output):>20} {parameters:>12} {bflops:>8}"
    ).rstrip()


def _shape(shape: Shape) -> str:
    """Darknet's order: width x height x channels."""
    channels, height, width = shape
    return f"{width} x {height} x {channels:>5}"
