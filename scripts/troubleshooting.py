"""Writes docs/troubleshooting.md: likely mistakes, made for real, and what the command line says to each.

    python scripts/troubleshooting.py

A test makes the same mistakes and compares, so the page stays true.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import torch

from wordtree.tree import WordTree
from yolo9000 import YOLO9000
from yolo9000.cli import main
from yolo9000.darknet.cfg import Cfg
from yolo9000.darknet.weights import save_weights
from yolo9000.network import Network
from yolo9000.sources import demo_photos

PAGE = Path(__file__).parent.parent / "docs" / "troubleshooting.md"

PACKAGE = f"{Path(__file__).parent.parent}{os.sep}"

CFG = """[net]
width=64
height=64
channels=3
[convolutional]
filters=4
size=3
stride=2
pad=1
activation=leaky
[maxpool]
size=16
stride=16
[convolutional]
filters=10
size=1
stride=1
activation=linear
[region]
anchors=1,1
classes=5
num=1
softmax=1
tree=tiny.tree
"""
TREE = WordTree([-1, -1, 0, 0, 3], ["n0", "n1", "n2", "n3", "n4"], ["animal", "vehicle", "cat", "dog", "pug"])

PETS = {
    "images": [{"id": 1, "file_name": "1.jpg", "width": 768, "height": 576}],
    "categories": [{"id": 1, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 100, 100], "iscrowd": 0, "area": 1}
    ],
}

# Section, then pairs of what went wrong and the command.
MISTAKES: dict[str, list[tuple[str, str]]] = {
    "detect": [
        ("no picture named", "yolo9000 detect"),
        ("no such file", "yolo9000 detect nothing.jpg --model tiny.safetensors"),
        ("a folder without pictures", "yolo9000 detect empty --model tiny.safetensors"),
        ("a pattern that matches nothing", "yolo9000 detect '*.png' --model tiny.safetensors"),
        ("a file that is no picture", "yolo9000 detect notes.jpg --model tiny.safetensors"),
        ("a picture that is cut off", "yolo9000 detect cut.jpg --model tiny.safetensors"),
        ("nothing on standard input", "yolo9000 detect - --model tiny.safetensors"),
        ("the threshold in percent", "yolo9000 detect photo.jpg --threshold 24"),
        (
            "a size that the network cannot take",
            "yolo9000 detect photo.jpg --size 300 --model tiny.safetensors",
        ),
        (
            "a class that the tree does not have",
            "yolo9000 detect photo.jpg --under unicorn --model tiny.safetensors",
        ),
        ("a depth below the top", "yolo9000 detect photo.jpg --depth -1"),
        ("an unknown decoder", "yolo9000 detect photo.jpg --decoder c --model tiny.safetensors"),
        ("an unknown kind of output", "yolo9000 detect photo.jpg --save gif --model tiny.safetensors"),
        ("a misspelled option", "yolo9000 detect photo.jpg --treshold 0.3"),
        (
            "a file where a folder should be",
            "yolo9000 detect photo.jpg -o notes.jpg --model tiny.safetensors",
        ),
        (
            "a folder that cannot be written",
            "yolo9000 detect photo.jpg -o /proc/out --model tiny.safetensors",
        ),
        ("a GPU where there is none", "yolo9000 detect photo.jpg --device cuda --model tiny.safetensors"),
        ("a device that does not exist", "yolo9000 detect photo.jpg --device gpu --model tiny.safetensors"),
    ],
    "Models and weights": [
        ("weights without their cfg", "yolo9000 detect photo.jpg --weights tiny.weights"),
        ("a cfg without weights", "yolo9000 detect photo.jpg --cfg yolov2"),
        ("weights given as a model", "yolo9000 detect photo.jpg --model tiny.weights"),
        ("weights of another cfg", "yolo9000 detect photo.jpg --weights tiny.weights --cfg yolov2"),
        ("weights and cfg swapped", "yolo9000 detect photo.jpg --weights tiny.cfg --cfg tiny.weights"),
        ("a picture given as weights", "yolo9000 detect photo.jpg --weights photo.jpg --cfg tiny.cfg"),
        ("an unknown cfg", "yolo9000 detect photo.jpg --weights tiny.weights --cfg yolo9001"),
        ("a cfg whose tree is missing", "yolo9000 detect photo.jpg --weights tiny.weights --cfg lost.cfg"),
        (
            "a cfg with the tree of another",
            "yolo9000 detect photo.jpg --weights tiny.weights --cfg other.cfg",
        ),
        ("a name that no model has", "yolo9000 detect photo.jpg --model yolo900"),
        ("a model file that is cut off", "yolo9000 detect photo.jpg --model cut.safetensors"),
        ("a picture given as a model", "yolo9000 detect photo.jpg --model photo.jpg"),
        ("a classifier", "yolo9000 detect photo.jpg --model classifier.safetensors"),
        (
            "no network, and weights not yet downloaded",
            "yolo9000 detect photo.jpg --model yolo9000 --offline",
        ),
    ],
    "convert and export": [
        ("weights without their cfg", "yolo9000 convert tiny.weights tiny2.safetensors"),
        ("two files of one kind", "yolo9000 convert tiny.safetensors copy.safetensors"),
        ("an unknown format", "yolo9000 export tiny.safetensors -o model.bin"),
        ("TorchScript of free size", "yolo9000 export tiny.safetensors -o model.torchscript --dynamic"),
        ("a file that was not exported", "yolo9000 detect photo.jpg --model junk.onnx"),
        ("an exported model where layers are needed", "yolo9000 convert tiny.torchscript tiny.weights"),
    ],
    "The tree": [
        ("an unknown class", "yolo9000 tree path unicorn"),
        ("a class with a typo", "yolo9000 tree path 'siberian huskey'"),
        ("a name that several nodes have", "yolo9000 tree path crane"),
        ("an unknown tree", "yolo9000 tree show dog --tree 9000"),
        ("a file that is no tree", "yolo9000 tree show dog --tree broken.tree"),
        ("no such class list", "yolo9000 build-tree --classes mine.txt -o my.tree"),
        ("a class that WordNet does not know", "yolo9000 build-tree --classes unknown.txt -o my.tree"),
        ("an unknown ending", "yolo9000 build-tree --classes coco -o my.xml"),
    ],
    "relabel": [
        ("no such file", "yolo9000 relabel found.jsonl"),
        ("a file that holds no detections", "yolo9000 relabel notes.jpg"),
        ("detections by a model with another tree", "yolo9000 relabel tiny.jsonl"),
    ],
    "Data and training": [
        ("no format", "yolo9000 data check photos"),
        ("an unknown format", "yolo9000 data check coc:coco"),
        ("no such folder", "yolo9000 data check coco:nowhere"),
        ("folders that match no class", "yolo9000 data check imagenet:classes"),
        ("no data", "yolo9000 train-joint --out runs/a"),
        ("a misspelled setting", "yolo9000 train-joint -d coco:coco -c imagenet:classes --set optim.lrr=0.1"),
        ("a setting without a value", "yolo9000 train-joint -d coco:coco -c imagenet:classes --set optim.lr"),
        ("nothing to resume", "yolo9000 train -m tiny.cfg -d coco:pets --out runs/b --resume"),
        ("a folder that holds another run", "yolo9000 train -m tiny.cfg -d coco:pets --out runs/old"),
        ("a settings file that is not there", "yolo9000 train-joint --config run.yaml"),
        ("no data", "yolo9000 evaluate"),
        ("an exported model", "yolo9000 evaluate voc:voc --model tiny.torchscript"),
    ],
}

HEAD = """# Troubleshooting

What the command line says to likely mistakes. (This page is written by `scripts/troubleshooting.py`, which
makes each of them.)

Errors are one line on standard error, and the exit code is 1; 2 where the command itself was wrong.
`yolo9000 --debug ...` or `YOLO9000_DEBUG=1` shows where in the code an error came from.
"""


def set_up(folder: Path) -> None:
    """The files that the commands speak of."""
    photo = Path(demo_photos()[0]).read_bytes()
    (folder / "photo.jpg").write_bytes(photo)
    (folder / "cut.jpg").write_bytes(photo[: len(photo) // 2])
    (folder / "notes.jpg").write_text("to do: buy a camera\n")
    (folder / "empty").mkdir()
    (folder / "classes" / "huskies").mkdir(parents=True)
    (folder / "classes" / "huskies" / "1.jpg").write_bytes(photo)
    (folder / "junk.onnx").write_bytes(photo)
    TREE.save(folder / "tiny.tree")
    WordTree.flat(["a", "b"]).save(folder / "two.tree")
    (folder / "broken.tree").write_text("n0 -1\nn1 7\n")
    (folder / "unknown.txt").write_text("n02084071\nunicornfish\n")
    for name, tree in (("tiny", "tiny.tree"), ("lost", "lost.tree"), ("other", "two.tree")):
        (folder / f"{name}.cfg").write_text(CFG.replace("tree=tiny.tree", f"tree={tree}"))
    torch.manual_seed(0)
    network = Network(Cfg.load(folder / "tiny.cfg"), TREE)
    save_weights(network, folder / "tiny.weights")
    model = YOLO9000(network, device="cpu")
    model.save(folder / "tiny.safetensors")
    (folder / "tiny.torchscript").write_bytes(photo)
    (folder / "tiny.jsonl").write_text(model.detect(folder / "photo.jpg", threshold=0.0).to_json() + "\n")
    data = (folder / "tiny.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(data[: len(data) // 2])
    annotations = folder / "pets" / "annotations" / "instances_train.json"
    annotations.parent.mkdir(parents=True)
    annotations.write_text(json.dumps(PETS))
    (folder / "pets" / "train").mkdir()
    (folder / "pets" / "train" / "1.jpg").write_bytes(photo)
    (folder / "runs" / "old").mkdir(parents=True)
    (folder / "runs" / "old" / "last.ckpt").write_bytes(b"")
    save_classifier(folder / "classifier.safetensors")


def save_classifier(path: Path) -> None:
    """A model file that finds no boxes."""
    from yolo9000.checkpoint import save_model

    head = CFG[: CFG.index("[region]")].replace("filters=10", "filters=5")
    save_model(Network(Cfg.parse(f"{head}[avgpool]\n[softmax]\n"), TREE), path)


def make(command: str) -> tuple[int, str]:
    """Exit code and standard error of a command in the current folder, run in this process."""
    words = shlex.split(command)
    errors = io.StringIO()
    code: object = 0
    stack = contextlib.ExitStack()
    with stack:
        stack.enter_context(patch.object(sys, "argv", words))
        stack.enter_context(patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(b""))))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(errors))
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    return int(code or 0) if isinstance(code, int | None) else 1, errors.getvalue()


def message(text: str) -> str:
    """What stands on standard error, without boxes, colours and what other libraries word."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [line.strip(" │") for line in text.splitlines()]
    kept = [
        line for line in lines if line and line[0] not in "╭╰" and not line.startswith(("Usage:", "Try "))
    ]
    text = " ".join(kept).removeprefix("Error: ")
    text = re.sub(r"in the package: [^;]*;", "in the package: ...;", text)
    return re.sub(r"(cannot be read: ).*?( It is damaged)", r"\1....\2", text)


def rows() -> Iterator[tuple[str, str, str, str]]:
    """Section, mistake, command and message of everything, in a folder of its own."""
    top, before = Path(tempfile.mkdtemp()), Path.cwd()
    folder = top / "home" / "anna" / "yolo"
    folder.mkdir(parents=True)
    environment = {
        "YOLO9000_CACHE": str(folder / "cache"),
        "COLUMNS": "1000",
        "TERM": "dumb",
        "NO_COLOR": "1",
    }
    os.chdir(folder)
    try:
        with patch.dict(os.environ, environment):
            set_up(folder)
            for section, mistakes in MISTAKES.items():
                for mistake, command in mistakes:
                    code, text = make(command)
                    assert code, f"{command}: was no mistake"
                    assert "Traceback" not in text, f"{command}: {text}"
                    yield (
                        section,
                        mistake,
                        command,
                        message(text).replace(str(top), "").replace(PACKAGE, ""),
                    )
    finally:
        os.chdir(before)
        shutil.rmtree(top)


def page() -> str:
    """The whole page."""
    parts, last = [HEAD], ""
    for section, mistake, command, text in rows():
        if section != last:
            parts.append(f"\n## {section}\n\n| mistake | command | message |\n|---|---|---|\n")
            last = section
        cells = (mistake, f"`{command}`", text.replace("|", "\\|").replace("<", "&lt;"))
        parts.append(f"| {' | '.join(cells)} |\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
