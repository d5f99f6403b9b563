"""Does joint training find classes that it has no boxes of? Withholds those of ten VOC classes, and measures.

    python benchmarks/transfer.py DATA                 detection only and joint, two seeds
    python benchmarks/transfer.py DATA --arm all       and every variant: the table of ablations
    python benchmarks/transfer.py DATA --arm joint --set loss.smoothing=0.2     a variant of one's own
    python benchmarks/transfer.py DATA --report        the table of what is finished

DATA holds `coco-mini`, `voc-mini`, `imagenet-mini` and, if there, `tiny-imagenet-200-part.tar` (see
recipes/nano/README.md; the full data sets under these names do as well). Every detection image that shows one
of the withheld classes is left out, so that nothing teaches that it is background; the classification data
keep them. Whatever is finished stays under --out: the same command again goes on where it was. What it
measures and how the arms differ is in docs/transfer.md.
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
from transfer_data import find_classification, prepare_detection, withheld_nodes
from transfer_report import FORMAT, report

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

RECIPES = Path(__file__).resolve().parent.parent / "recipes" / "nano"
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
Data = tuple[list[str], list[str]]  # detection and classification specs


@dataclass(frozen=True)
class Arm:
    """One variant of training.

    Attributes:
        about: What it is, for `--help` and the table of the documentation.
        settings: `key=value` on top of the recipe.
        joint: Whether classification images take part.
        pretrained: Start from a classifier that is trained on the same classification data first.
    """

    about: str
    settings: tuple[str, ...] = ()
    joint: bool = True
    pretrained: bool = False


ARMS = {
    "detection": Arm("boxes alone, as many steps", joint=False),
    "joint": Arm("the paper's rules: likeliest box learns the class and is lifted to objectness 0.3"),
    "box-largest": Arm("the largest box learns the class (Detic)", ("loss.classification_box=largest",)),
    "box-objectness": Arm("the box of most objectness", ("loss.classification_box=objectness",)),
    "iou-0": Arm("objectness of classification images is left alone", ("loss.classification_iou=0",)),
    "iou-0.1": Arm("lifted to 0.1", ("loss.classification_iou=0.1",)),
    "iou-0.6": Arm("lifted to 0.6", ("loss.classification_iou=0.6",)),
    "darknet": Arm("darknet's rules: other boxes are pushed to objectness 0", ("loss.mode=darknet",)),
    "ratio-0.3": Arm("0.3 classification images to one with boxes", ("data.ratio=0.3",)),
    "ratio-2": Arm("2 to 1", ("data.ratio=2",)),
    "ratio-4": Arm("4 to 1, as in the paper", ("data.ratio=4",)),
    "balance": Arm("rare synsets are drawn more often", ("data.balance=true",)),
    "smoothing": Arm("label smoothing along the path", ("loss.smoothing=0.1",)),
    "pretrained": Arm("starts from a classifier of the same photos", pretrained=True),
    "detection-pretrained": Arm("boxes alone, from that classifier", joint=False, pretrained=True),
}


@dataclass(frozen=True)
class Plan:
    """What all arms share.

    Attributes:
        data: Folder of the data sets.
        out: Folder of everything that is written.
        withheld: Names of VOC classes without boxes.
        cuts: Cuts of the tree at which ancestors are scored.
        steps: Optimiser steps of each arm.
        pretrain_steps: Those of the classifier.
        base: Further settings on top of the recipe, `key=value`.
        weights: What every arm starts from, or None.
    """

    data: Path
    out: Path
    withheld: tuple[str, ...]
    cuts: tuple[str, ...]
    steps: int
    pretrain_steps: int
    base: tuple[str, ...]
    weights: str | None


def title(name: str, settings: Sequence[str]) -> str:
    """An arm and what `--set` changed in it: the name of its row and of its files."""
    return " ".join([name, *settings])


def arm_config(plan: Plan, name: str, extra: Sequence[str], seed: int, data: Data) -> TrainConfig:
    """The settings of one training."""
    arm = ARMS[name]
    weights = plan.weights
    if arm.pretrained:
        weights = str(plan.out / "runs" / slug("classifier", seed) / "model.safetensors")
    return load_config(
        RECIPES / "joint.yaml",
        [*plan.base, *arm.settings, *extra],
        out=str(plan.out / "runs" / slug(title(name, extra), seed)),
        weights=weights,
        seed=seed,
        max_steps=plan.steps,
        data__detection=data[0],
        data__classification=data[1] if arm.joint else [],
    )


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


def pretrain(plan: Plan, seed: int, classification: list[str], console: Console) -> None:
    """The classifier that the arms with `pretrained` start from."""
    config = load_config(
        RECIPES / "classifier.yaml",
        [s for s in plan.base if not s.startswith(("data.sizes", "loss.", "augment."))],
        out=str(plan.out / "runs" / slug("classifier", seed)),
        seed=seed,
        max_steps=plan.pretrain_steps,
        data__classification=classification,
    )
    train(config, train_classifier, console)


def measure(network: Network, plan: Plan, size: int) -> dict[str, Any]:
    """mAP50 on VOC val, in 0..1, of the withheld and of the other classes, by node and by ancestors."""
    config = EvaluateConfig(size=size, cuts=plan.cuts)
    result = evaluate(network, f"voc:{plan.data / 'voc-mini'}:val", config)
    assert isinstance(result, DetectionResult)
    unseen = set(withheld_nodes(network.tree, plan.withheld).tolist())
    ways = {"node": result.nodes}
    ways |= {f"ancestor at {cut}": scores for cut, scores in zip(plan.cuts, result.ancestors, strict=True)}
    return {
        "images": result.images,
        "objects": result.truths,
        "map50": {way: halves(scores, unseen) for way, scores in ways.items()},
        "classes": {
            score.name: {"unseen": score.node in unseen, "objects": score.truths, "ap50": score.ap}
            for score in result.nodes.classes
        },
    }


def halves(scores: ClassScores, unseen: set[int]) -> dict[str, float | None]:
    """Mean AP of the seen and of the unseen classes; None without classes."""
    seen = {score.node for score in scores.classes} - unseen
    found = {"seen": scores.subset(seen, "seen").map, "unseen": scores.subset(unseen, "unseen").map}
    return {name: None if np.isnan(value) else float(value) for name, value in found.items()}


def run_arm(
    plan: Plan, name: str, extra: Sequence[str], seed: int, size: int, data: Data, console: Console
) -> None:
    """Train and measure one arm with one seed, unless that is done."""
    target = plan.out / "results" / f"{slug(title(name, extra), seed)}.json"
    config = arm_config(plan, name, extra, seed, data)
    about = {"withheld": list(plan.withheld), "cuts": list(plan.cuts), "size": size, "steps": plan.steps}
    if target.exists():
        if (found := json.loads(target.read_text()))["about"] != about:
            raise ConfigError(f"{target} was measured with {found['about']}, not {about}; name another --out")
        return
    console.rule(f"{title(name, extra)}, seed {seed}")
    if ARMS[name].pretrained:
        pretrain(plan, seed, data[1], console)
    network, seconds = train(config, train_joint, console)
    start = time.perf_counter()
    scores = measure(network, plan, size)
    content = {
        "format": FORMAT,
        "arm": title(name, extra),
        "seed": seed,
        "about": about,
        "settings": [*plan.base, *ARMS[name].settings, *extra],
        "seconds": {"training": round(seconds, 1), "measuring": round(time.perf_counter() - start, 1)},
        **scores,
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
        "--steps", type=int, default=3600, help="optimiser steps of each arm; default: %(default)s"
    )
    parser.add_argument(
        "--pretrain-steps", type=int, default=3600, help="those of the classifier; default: %(default)s"
    )
    parser.add_argument(
        "--size", type=int, help="input in pixels; default: 224 to 288 in training, else the cfg's"
    )
    parser.add_argument("--model", default="yolo9000-nano", help="cfg; default: %(default)s")
    parser.add_argument(
        "--weights", help="what every arm starts from; must not know boxes of the withheld classes"
    )
    parser.add_argument(
        "--batch-size", type=int, help="images a step; default: as recipes/nano/joint.yaml says"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--withhold", nargs="+", default=list(WITHHELD), metavar="CLASS", help="VOC classes")
    parser.add_argument("--cut", action="append", help="cuts for ancestors; default: depths 4 and 6")
    parser.add_argument("--report", action="store_true", help="only the table of what is finished")
    return parser.parse_args(arguments)


def plan_of(options: argparse.Namespace) -> Plan:
    """What the command line asks for.

    Raises:
        ConfigError: A setting that the experiment itself decides.
    """
    for assignment in options.set:
        if assignment.partition("=")[0].strip() in OURS:
            raise ConfigError(f"--set {assignment}: the experiment decides {', '.join(OURS)}")
    base = [f"model={options.model}", f"device={options.device}"]
    base += [f"data.sizes=[{options.size}]"] if options.size else []
    base += [f"batch_size={options.batch_size}"] if options.batch_size else []
    return Plan(
        data=options.data,
        out=options.out,
        withheld=tuple(options.withhold),
        cuts=tuple(options.cut or ("4", "6")),
        steps=options.steps,
        pretrain_steps=options.pretrain_steps,
        base=tuple(base),
        weights=options.weights,
    )


def chosen(options: argparse.Namespace) -> list[str]:
    """The arms to run.

    Raises:
        ConfigError: Pre-trained arms where all start from given weights.
    """
    names = [*dict.fromkeys(options.arm or ["detection", "joint"])]
    if "all" in names:
        names = [name for name, arm in ARMS.items() if not (options.weights and arm.pretrained)]
    if options.weights and (own := [name for name in names if ARMS[name].pretrained]):
        raise ConfigError(f"with --weights every arm is pre-trained: leave out {', '.join(own)}")
    return names


def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> int:
    console = console or Console()
    options = parse(arguments)
    try:
        plan, names = plan_of(options), chosen(options)
        if not options.report:
            tree = Network(Cfg.load(options.model), initialise=False).tree
            detection = prepare_detection(plan.data, plan.out / "data", plan.withheld, tree, console)
            data = detection, find_classification(plan.data, plan.withheld, tree, console)
            for seed in options.seeds:
                for name in names:
                    run_arm(plan, name, options.set, seed, options.size or 0, data, console)
        report(plan.out, list(ARMS), console)
    except YOLO9000Error as error:
        console.print(f"[red]Error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
