"""Last step of the recipe: the model file that the package ships, and its card, from a trained run.

    python recipes/nano/finish.py DATA RUNS [--threshold T] [--sizes PIXELS ...] [--trained-on TEXT]

Measures exactly the file that is shipped (half precision) on the val parts of DATA.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mean import mean

from yolo9000.calibrate import (
    DepthTemperature,
    apply_temperatures,
    collect_steps,
    fit_temperatures,
    join_steps,
)
from yolo9000.checkpoint import save_model
from yolo9000.config import TrainConfig, load_config
from yolo9000.darknet.cfg import Cfg
from yolo9000.datasets import open_dataset
from yolo9000.evaluate import evaluate
from yolo9000.evaluation.classification import ClassificationResult
from yolo9000.evaluation.detection import DetectionResult
from yolo9000.evaluation.options import EvaluateConfig
from yolo9000.model import YOLO9000
from yolo9000.network import Network
from yolo9000.taught import forget_untaught, label_counts

Results = tuple[DetectionResult, DetectionResult, ClassificationResult]

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "yolo9000" / "weights" / "yolo9000-nano.safetensors"
STAGES = ("classifier", "joint", "settle", "boxed", "teacher0", "student0", "further")
SHIPPED = ("student1", "further", "mean")  # stages whose mean is the model
SIZE = Cfg.load("yolo9000-nano").width
CARD = ROOT / "docs" / "models" / "yolo9000-nano.md"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--threshold", type=float, default=0.2, help="default score threshold of the model")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[320, 384, 448],
        help="sides of the network input in which it looks at a picture by default",
    )
    parser.add_argument(
        "--minimum", type=int, default=6, help="labels that a sibling group must be taught by"
    )
    parser.add_argument(
        "--hier-threshold",
        type=float,
        default=0.65,
        help="how sure labels must be by default: higher, they stop earlier and are less often overconfident",
    )
    parser.add_argument(
        "--trained-on",
        default="",
        help="sentence for the card: machine, precision, duration of the trainings",
    )
    arguments = parser.parse_args()
    network = mean([arguments.runs / stage / "model.safetensors" for stage in SHIPPED])
    forgotten = forget(network, arguments.runs, arguments.minimum)
    config = EvaluateConfig(
        sizes=arguments.sizes,
        confident=arguments.threshold,
        hier_threshold=arguments.hier_threshold,
        cuts=("4", "8"),
    )
    uncalibrated = evaluate_three(network, arguments.data, config)
    temperatures = calibrate(network, arguments.data)
    metadata = {"threshold": f"{arguments.threshold:g}", "hier_threshold": f"{arguments.hier_threshold:g}"}
    metadata["sizes"] = " ".join(map(str, arguments.sizes))
    metadata["licence"] = "MIT; trained on photos for research use"
    metadata["temperatures"] = " ".join(f"{row.temperature:.3g}" for row in temperatures)
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "trial.safetensors"
        save_model(network, trial, half=True, metadata=metadata)
        results = measure(trial, arguments.data, config)
        in_one = measure(trial, arguments.data, replace(config, sizes=()))
        metadata |= figures(*results)
        save_model(network, trial, half=True, metadata=metadata)
        MODEL.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(trial, MODEL)
    floor = evaluate_three(Network(Cfg.load("yolo9000-nano")).eval(), arguments.data, config)
    CARD.parent.mkdir(parents=True, exist_ok=True)
    text = card(
        arguments,
        results,
        in_one,
        floor,
        forgotten,
        calibration(temperatures, uncalibrated, results),
    )
    CARD.write_text(text, encoding="utf-8")
    print(MODEL, CARD, sep="\n")


def forget(network: Network, runs: Path, minimum: int) -> str:
    """Make untaught sibling groups uniform; says what was done."""
    taught = [load_config(runs / stage / "config.yaml").data for stage in STAGES[1:]]
    specs = {spec for data in taught for spec in (*data.detection, *data.classification, *data.mosaic)}
    sets = [open_dataset(spec, network.tree) for spec in specs]
    counts = label_counts(network.tree, sets)
    groups = forget_untaught(network, counts, minimum)
    return (
        f"{(counts > 0).sum():,} of {len(network.tree):,} nodes were labels in training; {groups:,} sibling groups that fewer than "
        f"{minimum} labels taught (or fewer than a quarter of those at their parent) are uniform, so that labels stop above them"
    )


def calibrate(network: Network, data: Path) -> Sequence[DepthTemperature]:
    """Fit a temperature a depth on the val parts; divide it into the class rows."""
    specs = [f"{kind}:{data / kind}-mini:val" for kind in ("voc", "coco", "imagenet")]
    network.eval()
    steps = join_steps([collect_steps(network, open_dataset(spec, network.tree)) for spec in specs])
    found = fit_temperatures(steps, network.ops.levels)
    apply_temperatures(network, [row.temperature for row in found])
    return found


def calibration(found: Sequence[DepthTemperature], before: Results, after: Results) -> str:
    """The card's section about it."""
    rows = "\n".join(
        f"| {row.depth} | {row.steps:,} | {row.temperature:.2f} | {row.nll[0]:.2f} | {row.nll[1]:.2f} | {row.error[0]:.3f} | {row.error[1]:.3f} |"
        for row in found
        if row.steps
    )
    images = [
        percent(one.overconfident, one.labels) for one in (before[2].whole.labels, after[2].whole.labels)
    ]
    return f"""The step probabilities are calibrated: logits are divided by one temperature a depth (`yolo9000 calibrate`), fitted on the val parts (few
numbers, but the same photos that the figures above are of). *Error* is the expected calibration error of the likeliest child. Overconfident labels on ImageNet val (whole photos) went from {images[0]} to {images[1]}.

| depth | labelled steps | temperature | -log P before | after | error before | after |
|---|---|---|---|---|---|---|
{rows}"""


def measure(path: Path, data: Path, config: EvaluateConfig) -> Results:
    """VOC, COCO and ImageNet val results of a model file."""
    return evaluate_three(YOLO9000.load(path, device="cpu").network, data, config)


def evaluate_three(network: Network, data: Path, config: EvaluateConfig) -> Results:
    """VOC, COCO and ImageNet val results of a network."""
    voc, coco = (evaluate(network, f"{kind}:{data / kind}-mini:val", config) for kind in ("voc", "coco"))
    imagenet = evaluate(network, f"imagenet:{data / 'imagenet-mini'}:val", config)
    assert isinstance(voc, DetectionResult)
    assert isinstance(coco, DetectionResult)
    assert isinstance(imagenet, ClassificationResult)
    return voc, coco, imagenet


def figures(voc: DetectionResult, coco: DetectionResult, imagenet: ClassificationResult) -> dict[str, str]:
    """The short figures that `yolo9000 models` shows."""
    return {
        "VOC mAP50": f"{voc.nodes.map:.3f} (99 val photos)",
        "COCO AP50": f"{coco.coco.ap50:.3f} (77 val photos)",
        "ImageNet top-1": f"{imagenet.whole.top1:.3f} (300 val photos, 20 synsets)",
    }


def pixels(stage: TrainConfig) -> str:
    """The input sizes of a training."""
    return ", ".join(map(str, stage.data.sizes))


def percent(count: int, total: int) -> str:
    return f"{100 * count / max(1, total):.1f} %"


def table(*models: Results) -> str:
    """The main figures: of the model, of the model in one size, of an untrained one."""
    rows = {
        "VOC mAP at IoU 0.5, all-point (11-point), each class at its node": [
            f"{voc.nodes.map:.3f} ({voc.nodes.map11:.3f})" for voc, _, _ in models
        ],
        "COCO AP50 (AP), each class at its node": [
            f"{coco.coco.ap50:.3f} ({coco.coco.ap:.3f})" for _, coco, _ in models
        ],
        "ImageNet top-1 (top-5) among the 20 synsets, whole photo (averaged features)": [
            f"{imagenet.whole.top1:.3f} ({imagenet.whole.top5:.3f})" for _, _, imagenet in models
        ],
        "the same at the anchor of most objectness": [
            f"{imagenet.best_anchor.top1:.3f} ({imagenet.best_anchor.top5:.3f})"
            for _, _, imagenet in models
            if imagenet.best_anchor
        ],
    }
    lines = ["", "yolo9000-nano", f"in one size, --size {SIZE}", "untrained"], ["---"] * 4
    return "\n".join(
        f"| {' | '.join(cells)} |" for cells in (*lines, *([name, *row] for name, row in rows.items()))
    )


def card(
    arguments: argparse.Namespace,
    results: Results,
    in_one: Results,
    floor: Results,
    forgotten: str,
    calibrated: str,
) -> str:
    """The model card as Markdown."""
    threshold, trained_on = arguments.threshold, arguments.trained_on
    voc, coco, imagenet = results
    classifier, joint, settle, boxed, teacher, student, further = (
        load_config(arguments.runs / stage / "config.yaml") for stage in STAGES
    )
    parameters = sum(p.numel() for p in Network(Cfg.load("yolo9000-nano"), initialise=False).parameters())
    anchors = imagenet.best_anchor
    assert anchors is not None
    depths = "\n".join(
        f"| {row.depth} | {row.images} | {100 * row.accuracy:.1f} | {100 * anchor.accuracy:.1f} |"
        for row, anchor in zip(imagenet.whole.depths, anchors.depths, strict=True)
    )
    judged = []
    for name, labels in (
        ("VOC val", voc.labels),
        ("COCO val", coco.labels),
        ("ImageNet val, whole photo", imagenet.whole.labels),
        ("ImageNet val, best anchor", anchors.labels),
    ):
        total = labels.exact + labels.finer + labels.unspecific + labels.overconfident + labels.wrong
        counts = (labels.exact, labels.finer, labels.unspecific, labels.overconfident, labels.wrong)
        judged.append(f"| {name} | {total} | " + " | ".join(percent(count, total) for count in counts) + " |")
    cuts = "\n".join(
        f"| {one.name} | {100 * one.map:.1f} | {100 * two.map:.1f} |"
        for one, two in zip(voc.cuts, coco.cuts, strict=True)
    )
    return f"""# yolo9000-nano

The model that comes with the package: a small network of the YOLOv2 family over the full 9,418-node WordTree
([cfg](../../yolo9000/cfgs/yolo9000-nano.cfg)). This card is written by `recipes/nano/finish.py` from a trained run.

- **Parameters** {parameters / 1e6:.1f} million, {MODEL.stat().st_size / 1e6:.1f} MB in half precision with cfg, tree and names inside.
- **Input** pictures are looked at in {len(arguments.sizes)} sizes ({", ".join(map(str, arguments.sizes))} pixels), and what is found in them counts as one; frames of videos in {SIZE} × {SIZE}. Any multiple of 32 can be asked for (`--size`). Class rows are shared by all five anchors.
- **Default thresholds** score {threshold:g}, `--hier-threshold` {arguments.hier_threshold:g}.
- **Licence** MIT for the weights as a work of this project. The photos it was trained on are not part of it; their terms (COCO,
  PASCAL VOC, ImageNet, Tiny ImageNet) allow research use.

## Recipe

<!-- not run: needs data, trains for hours -->
```bash
recipes/nano/train.sh DATA runs/nano          # eleven trainings; resumes after an interruption
python recipes/nano/finish.py DATA runs/nano  # measures, writes the model file and this card
```

1. `train-classifier` ([settings](../../recipes/nano/classifier.yaml)): {classifier.max_steps:,} steps of {classifier.batch_size} images, which are 3,000 ImageNet photos
   (one of each ILSVRC class, 100 more of each of 20 synsets) and 12,120 of Tiny ImageNet, at {pixels(classifier)} pixels; {100 * classifier.augment.cutmix:.0f} % of the batches with CutMix.
2. `train-joint` ([settings](../../recipes/nano/joint.yaml)): {joint.max_steps:,} steps of {joint.batch_size} images, 414 COCO and 459 VOC photos with boxes and the ImageNet photos
   {joint.data.ratio:g} to 1, at {pixels(joint)} pixels. {100 * joint.augment.mosaic:.0f} % of the photos with boxes become mosaics of four; a third of their further tiles are labelled photos, half of
   the others boxed photos of Tiny ImageNet. Every prior of a cell whose shape overlaps a box by {joint.loss.match_iou:g} learns from it. A photo without boxes teaches its class at
   the anchor of most objectness, not where the class is easiest to see ([why](../transfer.md)), and with its averaged features.
3. `train-joint` again ([settings](../../recipes/nano/settle.yaml)): {settle.max_steps:,} steps of {settle.batch_size} images with a smaller rate, at {pixels(settle)} pixels; Tiny ImageNet's photos are among the
   labelled ones, and rare synsets are drawn more often.
4. The second stage's model draws boxes on the labelled ImageNet photos (`recipes/nano/boxes.py`: three of four views of a photo must agree), and `train-joint` goes on from it with these as well, with the settings of stage 3: {boxed.max_steps:,} steps
   of {boxed.batch_size}.
5. Two networks of twice the width become teachers: classifiers as in stage 1, then with the settings of stage 2, but that rare synsets are drawn more often, {teacher.max_steps:,} steps of {teacher.batch_size} images on all photos named above, with boxes that the mean
   of the weights of stages 2 to 4 drew on labelled photos.
6. From that mean two trainings go on ([settings](../../recipes/nano/student.yaml)), {student.max_steps:,} steps of {student.batch_size} images at {pixels(student)} pixels, that learn from the labels and from the answers of both teachers and of the mean itself
   ([how](../training.md#teachers)).
7. From the mean of these two another training goes on, {further.max_steps:,} steps of {further.batch_size} with a smaller rate, for which the mean of the two and of what they began at is the third teacher. The model is the mean of the weights of this training,
   of the second student and of stages 2 to 4.

{trained_on} No photo of a val part was trained on.

## Figures

Val parts of the same data: 99 VOC photos ({voc.truths} objects), 77 COCO photos ({coco.truths} objects), 300 ImageNet photos of 20 synsets. These are small
sets, and the figures are rough.

{table(results, in_one, floor)}

mAP50 in percent where all classes below a cut of the tree count as one:

| cut | VOC | COCO |
|---|---|---|
{cuts}

Is the likeliest path right at each depth? ImageNet val, in percent: of the averaged features, and at the anchor of most objectness, as in a detection.

| depth | photos | whole photo | best anchor |
|---|---|---|---|
{depths}

How honest are the labels at `--hier-threshold {arguments.hier_threshold:g}`? Of the labels given with a score above the threshold (ImageNet, whole photo: of all): *exact*; *finer*
than the data set says; right but *unspecific*, such as `animal` for a dog; *overconfident*: another branch, where an ancestor would
have been right; *wrong* altogether.

| | labels | exact | finer | unspecific | overconfident | wrong |
|---|---|---|---|---|---|---|
{chr(10).join(judged)}

{calibrated}

## Limits

- Trained on under 900 photos with boxes: it misses many objects, small ones above all, and finds some that are not there.
- {forgotten}. Labels below the level of the data (COCO's and VOC's classes,
  200 Tiny ImageNet synsets, 20 ImageNet synsets) are guesses.
- Nothing about people's identity, age, sex or trade should be read from its labels: the tree holds many kinds of person, and the model was taught none of them.
"""


if __name__ == "__main__":
    main()
