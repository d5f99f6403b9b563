"""Settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from yolo9000.errors import ConfigError, DataError
from yolo9000.letterbox import LetterboxMode
from yolo9000.quantized import Precision
from yolo9000.settings import number, whole

if TYPE_CHECKING:
    from yolo9000.datasets.sample import ScoreRules


@dataclass(frozen=True)
class EvaluateConfig:
    """What is measured, and how.

    Attributes:
        size: Side of the network input, pixels; 0: as the cfg says.
        sizes: Several sides: what is found in all of them counts as one, as in `YOLO9000.detect`. Instead of
            `size`.
        batch_size: Pictures at a time.
        threads: That read pictures while the network computes.
        limit: Only so many pictures, evenly spread over the data set; 0: all.
        precision: Of the layers, see `yolo9000.engine.Engine`.
        letterbox: Resampling; None: darknet's own for weights that it trained.
        score: Objectness × P(class) at or below is no prediction; low, for the far end of the curve.
        nms: IoU above which two predictions of one class are one (darknet: detector.c).
        per_image: Best predictions kept of an image; COCO's own limit is 100.
        iou: Overlap from which on a prediction claims a truth (VOC).
        confident: Score above which a detection's label is judged (darknet: the default of `detect`).
        hier_threshold: Labels go down the tree while the absolute probability is above (darknet).
        cuts: Each a depth, or nodes, see `Cut.parse`: AP with all below seen as one.
        boxes: Class lists (coco, voc, a file) that training had boxes of: their classes are averaged apart.
            None: COCO's for ImageNet DET (paper, section 4), else none.
        rule: Which predictions are right: voc (VOCevaldet.m), imagenet (ILSVRC kit: smaller overlaps of small
            objects, free truths only); auto: imagenet for ImageNet DET, else voc.

    Raises:
        ConfigError: A value of a wrong type; values out of range, all at once.
    """

    size: int = 0
    sizes: tuple[int, ...] = ()
    batch_size: int = 16
    threads: int = 2
    limit: int = 0
    precision: Precision = "fp32"
    letterbox: LetterboxMode | None = None
    score: float = 0.001
    nms: float = 0.45
    per_image: int = 300
    iou: float = 0.5
    confident: float = 0.24
    hier_threshold: float = 0.5
    cuts: tuple[str, ...] = ()
    boxes: tuple[str, ...] | None = None
    rule: Literal["auto", "voc", "imagenet"] = "auto"

    def __post_init__(self) -> None:
        for name in ("size", "batch_size", "threads", "limit", "per_image"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))
        sides = self.sizes if isinstance(self.sizes, tuple | list) else (self.sizes,)
        object.__setattr__(self, "sizes", tuple(whole("sizes", side) for side in sides))
        fractions = ("score", "nms", "iou", "confident", "hier_threshold")
        for name in fractions:
            object.__setattr__(self, name, number(name, getattr(self, name)))
        for name in ("cuts", "boxes"):
            if isinstance(text := getattr(self, name), str):  # one of them, not its letters
                object.__setattr__(self, name, (text,))
        checks = {
            "size": self.size >= 0,
            "sizes without size": not (self.sizes and self.size),
            "sizes above 0": all(side > 0 for side in self.sizes),
            "batch_size": self.batch_size >= 1,
            "threads": self.threads >= 1,
            "limit": self.limit >= 0,
            "per_image": self.per_image >= 1,
            **{name: 0 <= getattr(self, name) <= 1 for name in fractions},
            "iou above 0": self.iou > 0,
            "precision": self.precision in get_args(Precision),
            "rule": self.rule in ("auto", "voc", "imagenet"),
        }
        if bad := [
            f"{name} (got {getattr(self, name.split()[0])})" for name, good in checks.items() if not good
        ]:
            raise ConfigError(
                f"settings out of range: {', '.join(bad)}. Fractions lie in 0..1, the size is 0 or "
                "more, batch size, threads and per_image are at least 1, the precision is one of "
                f"{', '.join(get_args(Precision))}, the rule auto, voc or imagenet."
            )


def resolve(config: EvaluateConfig, rules: ScoreRules, name: str = "") -> EvaluateConfig:
    """The settings with those answered that depend on the data set: the rule, and who had boxes.

    Args:
        config: The settings as they were given.
        rules: Whose rules the data set is scored by.
        name: The data set, for the message.

    Raises:
        DataError: The data set is joined of some that are scored by different rules.
    """
    if rules == "mixed":
        raise DataError(
            f"{name or 'the data set'}: expected data that are scored by one benchmark's rules, got "
            "data sets of several in one (COCO's crowds, VOC's difficult objects, ImageNet DET's overlaps); "
            "evaluate each of them by itself, and pack them apart for that"
        )
    det = rules == "imagenet-det"
    boxes = config.boxes if config.boxes is not None else (("coco",) if det else ())
    rule = config.rule if config.rule != "auto" else ("imagenet" if det else "voc")
    return replace(config, boxes=boxes, rule=rule)
