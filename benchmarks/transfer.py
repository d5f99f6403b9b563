"""Does joint training find classes that it has no boxes of? Withholds those of ten VOC classes, and measures.

    python benchmarks/transfer.py DATA                 boxes alone and jointly, two seeds
    python benchmarks/transfer.py DATA --arm all       and every variant: the table of ablations
    python benchmarks/transfer.py DATA --arm joint --set loss.smoothing=0.2     a variant of one's own
    python benchmarks/transfer.py DATA --report        the table of what is finished
    python benchmarks/transfer.py DATA --page          and write it into docs/transfer.md

DATA holds `coco-mini`, `voc-mini`, `imagenet-mini` and, if there, `tiny-imagenet-200-part.tar` (see
recipes/nano/README.md; the full data sets under these names do as well). Every detection image that shows one
of the withheld classes is left out, so that nothing teaches that it is background; the classification data
keep them. All arms start from one classifier, which is trained on these first. Whatever is finished stays
under --out: the same command again goes on where it was. What it measures and how the arms differ is in
docs/transfer.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from transfer_data import find_classification, prepare_detection, prepare_held_out, prepare_labelled
from transfer_report import FORMAT, report, write_page

from wordtree._files import atomic_write
from yolo9000.checkpoint import load_model
from yolo9000.config import TrainConfig, load_config, save_config
from yolo9000.darknet.cfg import Cfg
from yolo9000.errors import ConfigError, YOLO9000Error
from yolo9000.evaluate import evaluate
from yolo9000.evaluation.detection import DetectionResult
from yolo9000.evaluation.options import EvaluateConfig
from yolo9000.evaluation.scores import ClassScores
from yolo9000.model import pick_device
from yolo9000.network import Network
from yolo9000.train import train_classifier, train_joint

SETTINGS = Path(__file__).resolve().parent / "transfer.yaml"
CLASSIFIER = SETTINGS.with_name("transfer-classifier.yaml")
TAUGHT = 20  # labelled images from which a class without boxes counts as taught
WITHHELD = ("bird", "boat", "bottle", "cat", "cow", "dog", "horse", "sheep", "sofa", "train")
# What the experiment itself decides.
OURS = (
    "data.detection",
    "data.classification",
    "data.mosaic",
    "data.map",
    "out",
    "seed",
    "max_steps",
    "weights",
)


@dataclass(frozen=True)
class Data:
    """What is trained on and measured with.

    Attributes:
        detection: Specs of the detection images that show no withheld class.
        classification: Specs of the classification images.
        held_out: Spec of the photos with boxes that no arm sees.
        labels: Withheld node -> classification images at or below it.
    """

    detection: list[str]
    classification: list[str]
    held_out: str
    labels: dict[int, int]


@dataclass(frozen=True)
class Arm:
    """One variant of training.

    Attributes:
        about: What it is, for `--help` and the table of the documentation.
        settings: `key=value` on top of the recipe.
        joint: Whether classification images take part.
        pretrained: Start from the classifier, not from random weights.
    """

    about: str
    settings: tuple[str, ...] = ()
    joint: bool = True
    pretrained: bool = True


_TILES = ("augment.mosaic=0.75", "data.mosaic_classification=0.67")
_WHOLE = ("loss.whole_scale=1", "loss.classification_scale=0", "loss.classification_iou=0")

ARMS = {
    "detection": Arm("boxes alone, as many steps", joint=False),
    "joint": Arm("the paper's rules: likeliest box learns the class and is lifted to objectness 0.3"),
    "box-largest": Arm("the largest box learns the class (Detic)", ("loss.classification_box=largest",)),
    "box-objectness": Arm("the box of most objectness", ("loss.classification_box=objectness",)),
    "iou-0": Arm("objectness of classification images is left alone", ("loss.classification_iou=0",)),
    "iou-0.1": Arm("lifted to 0.1", ("loss.classification_iou=0.1",)),
    "iou-0.6": Arm("lifted to 0.6", ("loss.classification_iou=0.6",)),
    "darknet": Arm(
        "darknet's rules: other boxes are pushed to objectness 0", ("loss.mode=darknet", "loss.match_iou=1")
    ),
    "ratio-0.3": Arm("0.3 classification images to one with boxes", ("data.ratio=0.3",)),
    "ratio-2": Arm("2 to 1", ("data.ratio=2",)),
    "ratio-4": Arm("4 to 1, as in the paper", ("data.ratio=4",)),
    "balance": Arm("rare synsets are drawn more often", ("data.balance=true",)),
    "smoothing": Arm("label smoothing along the path", ("loss.smoothing=0.1",)),
    "whole": Arm("the averaged features learn the class, no box does", _WHOLE),
    "whole-too": Arm("the averaged features learn the class beside the box", ("loss.whole_scale=1",)),
    "weight-3": Arm(
        "the class term of classification images counts three times", ("loss.classification_scale=3",)
    ),
    "tiles": Arm("mosaics of photos of both kinds", _TILES),
    "objects": Arm(
        "the box of most objectness, three times, the averaged features beside it, mosaics of both kinds",
        ("loss.classification_box=objectness", "loss.classification_scale=3", "loss.whole_scale=1", *_TILES),
    ),
    "scratch": Arm("jointly from random weights", pretrained=False),
    "detection-scratch": Arm("boxes alone from random weights", joint=False, pretrained=False),
}


@dataclass(frozen=True)
class Plan:
    """What all arms share.

    Attributes:
        model: The cfg.
        device: Where all is trained.
        data: Folder of the data sets.
        settings: YAML file of what all arms share.
        out: Folder of everything that is written.
        withheld: Names of VOC classes without boxes.
        cuts: Cuts of the tree at which ancestors are scored.
        steps: Optimiser steps of each arm.
        classifier_steps: Those of the classifier.
        base: Further settings on top, `key=value`.
        weights: What the arms start from instead of the classifier, or None.
        left_out: How often photos that were left out stand among the labelled ones; 0: they do not.
    """

    model: str
    device: str
    data: Path
    settings: Path
    out: Path
    withheld: tuple[str, ...]
    cuts: tuple[str, ...]
    steps: int
    classifier_steps: int
    base: tuple[str, ...]
    weights: str | None
    left_out: int = 0


def title(name: str, settings: Sequence[str]) -> str:
    """An arm and what `--set` changed in it: the name of its row and of its files."""
    return " ".join([name, *settings])


def arm_config(plan: Plan, name: str, extra: Sequence[str], seed: int, data: Data) -> TrainConfig:
    """The settings of one training."""
    arm = ARMS[name]
    return load_config(
        plan.settings,
        [*plan.base, *arm.settings, *extra],
        model=plan.model,
        device=plan.device,
        out=str(plan.out / "runs" / slug(title(name, extra), seed)),
        weights=(plan.weights or str(classifier(plan))) if arm.pretrained else None,
        seed=seed,
        max_steps=plan.steps,
        data__detection=data.detection,
        data__classification=data.classification if arm.joint else [],
    )


def classifier(plan: Plan) -> Path:
    """The model that pre-trained arms start from."""
    return plan.out / "runs" / "classifier" / "model.safetensors"


def slug(name: str, seed: int) -> str:
    """A file name."""
    return "".join(c if c.isalnum() or c in "-._=" else "+" for c in name) + f"-seed{seed}"


def train(config: TrainConfig, run: Any, console: Console) -> tuple[Network, float]:
    """Train, or go on, or take what is finished; the network, and the seconds of this call.

    Raises:
        ConfigError: The folder holds a run with other settings.
    """
    out, start = Path(config.out), time.perf_counter()
    saved, model = out / "config.yaml", out / "model.safetensors"
    if saved.exists():
        with_ours = out / "asked.yaml"
        save_config(config, with_ours)
        if with_ours.read_text() != saved.read_text():
            raise ConfigError(
                f"{out} holds a run with other settings (compare {saved} and {with_ours}); name another --out"
            )
        with_ours.unlink()
    if not model.exists():
        run(config, resume=(out / "last.ckpt").exists(), console=console)
    device = pick_device(None if config.device == "auto" else config.device)
    return load_model(model)[0].to(device), time.perf_counter() - start


def pretrain(plan: Plan, classification: list[str], console: Console) -> None:
    """Train the classifier that arms with any seed start from, unless it is there."""
    model = classifier(plan)
    if model.exists():
        return
    config = load_config(
        CLASSIFIER,
        model=plan.model,
        device=plan.device,
        out=str(model.parent),
        max_steps=plan.classifier_steps,
        data__classification=classification,
    )
    train(config, train_classifier, console)


def measure(network: Network, plan: Plan, size: int, data: Data) -> dict[str, Any]:
    """Scores on VOC val and on all VOC photos that were held out."""
    photos = {"val": f"voc:{plan.data / 'voc-mini'}:val", "held out": data.held_out}
    return {name: measure_on(network, plan, size, spec, data.labels) for name, spec in photos.items()}


def measure_on(network: Network, plan: Plan, size: int, spec: str, labels: dict[int, int]) -> dict[str, Any]:
    """mAP50, in 0..1, of the withheld and of the other classes, by node and by ancestors."""
    config = EvaluateConfig(size=size, cuts=plan.cuts)
    result = evaluate(network, spec, config)
    assert isinstance(result, DetectionResult)
    ways = {"node": result.nodes}
    ways |= {f"ancestor at {cut}": scores for cut, scores in zip(plan.cuts, result.ancestors, strict=True)}
    return {
        "images": result.images,
        "objects": result.truths,
        "map50": {way: halves(scores, labels) for way, scores in ways.items()},
        "classes": {
            score.name: {"unseen": score.node in labels, "objects": score.truths, "ap50": score.ap}
            for score in result.nodes.classes
        },
    }


def halves(scores: ClassScores, labels: dict[int, int]) -> dict[str, float | None]:
    """Mean AP of the seen and of the unseen classes, and of those of these with labels; None without classes.

    Args:
        scores: Of all classes.
        labels: Unseen node -> labelled images.
    """
    parts = {
        "seen": {score.node for score in scores.classes} - set(labels),
        "unseen": set(labels),
        "taught": {node for node, count in labels.items() if count >= TAUGHT},
    }
    found = {name: scores.subset(nodes, name).map for name, nodes in parts.items()}
    return {name: None if np.isnan(value) else float(value) for name, value in found.items()}


def run_arm(
    plan: Plan, name: str, extra: Sequence[str], seed: int, size: int, data: Data, console: Console
) -> None:
    """Train and measure one arm with one seed, unless that is done."""
    target = plan.out / "results" / f"{slug(title(name, extra), seed)}.json"
    config = arm_config(plan, name, extra, seed, data)
    about = {"withheld": list(plan.withheld), "cuts": list(plan.cuts), "size": size, "steps": plan.steps}
    about |= {"left out": plan.left_out} if plan.left_out else {}
    if target.exists():
        if (found := json.loads(target.read_text()))["about"] != about:
            raise ConfigError(f"{target} was measured with {found['about']}, not {about}; name another --out")
        return
    console.rule(f"{title(name, extra)}, seed {seed}")
    if ARMS[name].pretrained and not plan.weights:
        pretrain(plan, data.classification, console)
    network, seconds = train(config, train_joint, console)
    start = time.perf_counter()
    scores = measure(network, plan, size, data)
    content = {
        "format": FORMAT,
        "arm": title(name, extra),
        "seed": seed,
        "about": about,
        "settings": [
            f"model={plan.model}",
            f"device={plan.device}",
            *plan.base,
            *ARMS[name].settings,
            *extra,
        ],
        "seconds": {"training": round(seconds, 1), "measuring": round(time.perf_counter() - start, 1)},
        "photos": scores,
    }
    with atomic_write(target, text=True) as stream:
        stream.write(json.dumps(content, indent=2) + "\n")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    arms = "\n".join(f"  {name:22}{arm.about}" for name, arm in ARMS.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"arms:\n{arms}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of the data sets")
    parser.add_argument("--out", type=Path, default=Path("runs/transfer"), help="default: %(default)s")
    parser.add_argument("--arm", action="append", choices=[*ARMS, "all"], help="default: detection and joint")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of these arms"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="default: 0 1")
    parser.add_argument(
        "--steps", type=int, default=4000, help="optimiser steps of each arm; default: %(default)s"
    )
    parser.add_argument(
        "--classifier-steps", type=int, default=3000, help="those of the classifier; default: %(default)s"
    )
    parser.add_argument(
        "--settings",
        type=Path,
        default=SETTINGS,
        help="YAML file of what all arms share; default: benchmarks/transfer.yaml",
    )
    parser.add_argument(
        "--size",
        type=int,
        help="input of training in pixels; default: as the settings say",
    )
    parser.add_argument(
        "--measure-size", type=int, default=160, help="input of measuring in pixels; default: %(default)s"
    )
    parser.add_argument("--model", default="yolo9000-nano", help="cfg; default: %(default)s")
    parser.add_argument(
        "--weights", help="what the arms start from instead; must not know boxes of the withheld classes"
    )
    parser.add_argument(
        "--boxes",
        nargs="+",
        default=[],
        metavar="SPEC",
        help="labelled photos with boxes that such a model drew (recipes/nano/boxes.py), for mosaics; "
        "with an --out of its own",
    )
    parser.add_argument(
        "--label-left-out",
        type=int,
        default=0,
        metavar="TIMES",
        help="all COCO and every other VOC photo that is left out take part as labelled ones, without boxes, "
        "each so often; held out are the others then; with an --out of its own",
    )
    parser.add_argument("--batch-size", type=int, help="images a step; default: as the settings say")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--withhold", nargs="+", default=list(WITHHELD), metavar="CLASS", help="VOC classes")
    parser.add_argument("--cut", action="append", help="cuts for ancestors; default: depths 4 and 6")
    parser.add_argument("--report", action="store_true", help="only the table of what is finished")
    parser.add_argument("--page", action="store_true", help="the same, and write it into docs/transfer.md")
    return parser.parse_args(arguments)


def plan_of(options: argparse.Namespace) -> Plan:
    """What the command line asks for.

    Raises:
        ConfigError: A setting that the experiment itself decides.
    """
    for assignment in options.set:
        if assignment.partition("=")[0].strip() in OURS:
            raise ConfigError(f"--set {assignment}: the experiment decides {', '.join(OURS)}")
    base = [f"data.sizes=[{options.size}]"] if options.size else []
    base += [f"batch_size={options.batch_size}"] if options.batch_size else []
    base += [f"data.mosaic=[{','.join(options.boxes)}]"] if options.boxes else []
    return Plan(
        model=options.model,
        device=options.device,
        data=options.data,
        settings=options.settings,
        out=options.out,
        withheld=tuple(options.withhold),
        cuts=tuple(options.cut or ("4", "6")),
        steps=options.steps,
        classifier_steps=options.classifier_steps,
        base=tuple(base),
        weights=options.weights,
        left_out=options.label_left_out,
    )


def chosen(options: argparse.Namespace) -> list[str]:
    """The arms to run."""
    names = [*dict.fromkeys(options.arm or ["detection", "joint"])]
    return [*ARMS] if "all" in names else names


def prepare(plan: Plan, console: Console) -> Data:
    """Find and divide the data."""
    tree = Network(Cfg.load(plan.model), initialise=False).tree
    folder = plan.out / "data"
    detection = prepare_detection(plan.data, folder, plan.withheld, tree, console)
    classification, labels = find_classification(plan.data, plan.withheld, tree, console)
    held_out = prepare_held_out(plan.data, folder, plan.withheld, tree, plan.left_out > 0)
    if plan.left_out:
        photos = prepare_labelled(plan.data, folder, plan.withheld, tree, console)
        classification += plan.left_out * [photos]
    return Data(detection, classification, held_out, labels)


def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> int:
    console = console or Console()
    options = parse(arguments)
    try:
        plan, names = plan_of(options), chosen(options)
        if not options.report and not options.page:
            data = prepare(plan, console)
            for seed in options.seeds:
                for name in names:
                    run_arm(plan, name, options.set, seed, options.measure_size, data, console)
        report(plan.out, list(ARMS), console)
        if options.page:
            write_page(plan.out, list(ARMS))
    except YOLO9000Error as error:
        console.print(f"[red]Error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
