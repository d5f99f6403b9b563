"""Results for people: tables on the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from yolo9000.evaluation.classification import AccuracyScores, ClassificationResult
from yolo9000.evaluation.confusion import Confusion
from yolo9000.evaluation.detection import DetectionResult
from yolo9000.evaluation.hierarchy import VERDICTS, LabelQuality

if TYPE_CHECKING:
    from rich.table import Table

_MEANING = {
    "exact": "the label of the data set",
    "finer": "below it: right as far as the data set says",
    "unspecific": "above it: right, but vague",
    "overconfident": "another branch, where less would have been right",
    "wrong": "nothing in common",
}
_SHOWN = 10  # confusions of a cut that the terminal shows


def tables(result: DetectionResult | ClassificationResult, *, per_class: bool = True) -> Iterator[Table]:
    """The result as rich tables, in the order to read them."""
    if isinstance(result, DetectionResult):
        yield _detection_summary(result)
        if per_class:
            yield _class_table(result)
        yield _label_table([("labels of confident detections", result.labels)])
        yield from _confusion_tables(result.confusion)
    else:
        yield _accuracy_table(result)
        yield _depth_table(result)
        yield _label_table([(name, way.labels) for name, way in _ways(result)])
        for name, way in _ways(result):
            yield from _confusion_tables(way.confusion, f"{name}, ")


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    return table


def _share(value: float) -> str:
    return _number(100 * value)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"


def _count(number: int, noun: str) -> str:
    plural = "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{'' if number == 1 else plural}"


def _sizes(result: DetectionResult | ClassificationResult) -> str:
    return ", ".join(f"{width} × {height}" for height, width in result.sizes)


def _detection_summary(result: DetectionResult) -> Table:
    counts = f"{_count(result.images, 'picture')}, {_count(result.truths, 'object')}"
    title = f"{result.data}: {counts}, {_sizes(result)}"
    table = _table(title, "average precision, %", "")
    rule = {"voc": "VOC", "imagenet": "ImageNet"}[result.rule]
    for scores in (result.nodes, *result.cuts, *result.ancestors):
        left_out = f", {_count(scores.uncovered, 'object')} left out" if scores.uncovered else ""
        classes = _count(len(scores.classes), "class")
        label = f"{rule} mAP{round(100 * result.iou)}, {scores.name} ({classes}{left_out})"
        table.add_row(f"{label}, all points", _share(scores.map))
        if scores is result.nodes:
            table.add_row(f"{label}, 11 points", _share(scores.map11))
            for group in result.groups:
                table.add_row(f"  {group.name} ({_count(group.classes, 'class')})", _share(group.map))
    for scores in (result.credited, result.strict):
        table.add_row(f"VOC mAP{round(100 * result.iou)}, {scores.name}", _share(scores.map))
    for name, value in (
        ("COCO AP, IoU 0.50 to 0.95", result.coco.ap),
        ("COCO AP50", result.coco.ap50),
        ("COCO AP75", result.coco.ap75),
        ("COCO AP small, by box", result.coco.small),
        ("COCO AP medium", result.coco.medium),
        ("COCO AP large", result.coco.large),
        ("COCO AR100", result.coco.ar100),
    ):
        table.add_row(name, _share(value))
    return table


def _class_table(result: DetectionResult) -> Table:
    table = _table(
        f"per class, {result.nodes.name}",
        "class",
        "id",
        "objects",
        "predictions",
        "recall, %",
        "AP, %",
        "11 points, %",
        "labels, credited, %",
    )
    credited = {score.node: score.ap for score in result.credited.classes}
    for score in sorted(result.nodes.classes, key=lambda score: -score.ap):
        counts = (str(score.truths), str(score.predictions))
        aps = (score.ap, score.ap11, credited[score.node])
        table.add_row(score.name, score.wnid, *counts, _share(score.recall), *map(_share, aps))
    return table


def _confusion_tables(confusions: Sequence[Confusion], of: str = "") -> Iterator[Table]:
    for confusion in confusions:
        table = _table(f"most frequent confusions, {of}cut: {confusion.name}", "truth", "label", "times")
        table.columns[1].justify = "left"
        for truth, label, count in confusion.most_frequent(_SHOWN):
            table.add_row(truth, label, str(count))
        if table.rows:
            yield table


def _label_table(columns: Sequence[tuple[str, LabelQuality]]) -> Table:
    table = _table(
        "honesty of labels, % of those given", "verdict", *(name for name, _ in columns), "meaning"
    )
    qualities = [quality for _, quality in columns]
    for verdict in VERDICTS:
        table.add_row(verdict, *(_share(q.share(verdict)) for q in qualities), _MEANING[verdict])
    table.add_section()
    leaves = (q.overconfident_leaves / q.labels if q.labels else math.nan for q in qualities)
    table.add_row("overconfident leaves", *(_share(value) for value in leaves), "part of overconfident")
    table.add_row("labels given", *(str(q.labels) for q in qualities), "")
    table.add_row("no verdict", *(str(q.unmatched) for q in qualities), "no object there, or not confident")
    table.add_row("mean depth", *(_number(q.depth) for q in qualities), "top nodes: 0")
    table.add_row("mean depth of the truths", *(_number(q.truth_depth) for q in qualities), "")
    return table


def _ways(result: ClassificationResult) -> list[tuple[str, AccuracyScores]]:
    ways = [("whole picture", result.whole)]
    return ways if result.best_anchor is None else [*ways, ("best anchor", result.best_anchor)]


def _accuracy_table(result: ClassificationResult) -> Table:
    counts = f"{_count(result.images, 'picture')}, {_count(result.classes, 'class')}"
    title = f"{result.data}: {counts}, {_sizes(result)}"
    ways = _ways(result)
    table = _table(title, "accuracy, %", *(name for name, _ in ways))
    table.add_row("top-1 of the data set's classes", *(_share(way.top1) for _, way in ways))
    table.add_row("top-5 of the data set's classes", *(_share(way.top5) for _, way in ways))
    table.add_row("label on the likeliest path of the whole tree", *(_share(way.node) for _, way in ways))
    return table


def _depth_table(result: ClassificationResult) -> Table:
    ways = _ways(result)
    table = _table("likeliest path right at depth, %", "depth", "pictures", *(name for name, _ in ways))
    for rows in zip(*(way.depths for _, way in ways), strict=True):
        table.add_row(str(rows[0].depth), str(rows[0].images), *(_share(row.accuracy) for row in rows))
    return table
