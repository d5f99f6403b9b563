"""The data of benchmarks/transfer.py: detection images without those that show a withheld class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from wordtree import class_list
from wordtree._files import atomic_write
from wordtree.tree import WordTree
from yolo9000.datasets import Records, open_dataset, pack, read_records
from yolo9000.datasets.labels import map_labels
from yolo9000.datasets.store import ConcatStore, PartStore
from yolo9000.errors import ConfigError
from yolo9000.evaluation.credit import related

_COLUMNS = ("label_ids", "boxes", "ignored", "normalised", "stated")  # one row a label or image


def withheld_nodes(tree: WordTree, names: Sequence[str]) -> NDArray[np.int64]:
    """Nodes of VOC classes by name.

    Raises:
        ConfigError: VOC has no such class.
    """
    known = {entry.name: entry.wnid for entry in class_list("voc")}
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"VOC has no class {', '.join(unknown)}; its classes: {', '.join(known)}")
    return np.array([tree.index(known[name]) for name in names], np.int64)


def shows(records: Records, tree: WordTree, nodes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[R] images with a label at, below or above one of the nodes, difficult objects and crowds included.

    What is labelled above them (`animal`) may be one of them.
    """
    labels = map_labels(records.labels, tree).nodes
    near = np.zeros(len(labels), np.bool_)
    mapped = labels >= 0
    near[mapped] = related(tree, labels[mapped][:, None], nodes[None]).any(1)
    owner = np.repeat(np.arange(len(records.store)), np.diff(records.offsets))
    found = np.zeros(len(records.store), np.bool_)
    found[owner[near[records.label_ids]]] = True
    return found


def without(records: Records, drop: NDArray[np.bool_]) -> Records:
    """The records of the other images."""
    kept = np.flatnonzero(~drop)
    counts = np.diff(records.offsets)
    rows = np.repeat(~drop, counts)
    return replace(
        records,
        store=PartStore(records.store, kept.tolist()),
        offsets=np.concatenate([[0], np.cumsum(counts[kept])]).astype(np.int64),
        label_ids=records.label_ids[rows],
        boxes=records.boxes[rows],
        ignored=records.ignored[rows],
        normalised=records.normalised[kept],
        stated=records.stated[kept],
    )


def joined(first: Records, second: Records) -> Records:
    """Two data sets of the same classes as one."""
    assert (first.labels, first.rules) == (second.labels, second.rules)
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in _COLUMNS}
    return replace(
        first,
        store=ConcatStore([first.store, second.store]),
        offsets=np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]]),
        **{name: np.concatenate(pair) for name, pair in pairs.items()},
    )


def every_other(drop: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of the images that are left out the first, the third and so on."""
    return drop & (np.cumsum(drop) % 2 == 1)


def prepare_held_out(
    data: Path, target: Path, withheld: Sequence[str], tree: WordTree, labelled: bool = False
) -> str:
    """A pack of all VOC photos that no arm is trained on: the val part, and what was left out of training.

    Args:
        data: Folder of the data sets.
        target: Folder of the pack.
        withheld: Names of VOC classes without boxes.
        tree: The tree.
        labelled: Leave out every other of the training photos, too: `prepare_labelled` takes them.
    """
    path = target / ("held-out-half.h5" if labelled else "held-out.h5")
    train, val = (read_records(f"voc:{data / 'voc-mini'}", split) for split in ("train", "val"))
    drop = shows(train, tree, withheld_nodes(tree, withheld))
    if labelled:
        drop &= ~every_other(drop)
    if not path.exists():
        pack(joined(val, without(train, ~drop)), path)
    if len(read_records(f"pack:{path}").store) != len(val.store) + int(drop.sum()):
        raise ConfigError(f"{path} was made from other data or for other withheld classes: remove it")
    return f"pack:{path}"


def prepare_labelled(
    data: Path, target: Path, withheld: Sequence[str], tree: WordTree, console: Console
) -> str:
    """Photos that were left out, a folder for each withheld class, as data without boxes; says what there is.

    All of COCO's and every other of VOC's. A photo of several withheld classes stands in the folder of each.
    """
    folder = target / "labelled"
    nodes = withheld_nodes(tree, withheld)
    counts = np.zeros(len(nodes), np.int64)
    for kind in ("coco", "voc"):
        source = read_records(f"{kind}:{data / f'{kind}-mini'}", "train")
        drop = shows(source, tree, nodes)
        labels = map_labels(source.labels, tree).nodes
        for image in np.flatnonzero(drop if kind == "coco" else every_other(drop)).tolist():
            shown = labels[source.label_ids[source.offsets[image] : source.offsets[image + 1]]]
            shown = shown[shown >= 0]
            for place, node in enumerate(nodes.tolist()):
                if ((shown == node) | tree.is_ancestor(node, shown)).any():
                    photo = folder / tree.wnids[node] / f"{kind}-{image}.jpg"
                    counts[place] += 1
                    if not photo.exists():
                        with atomic_write(photo) as stream:
                            stream.write(source.store.read(image))
    listed = ", ".join(f"{name} {count}" for name, count in zip(withheld, counts.tolist(), strict=True))
    console.print(f"labelled: photos that were left out, without their boxes: {listed}")
    return f"imagenet:{folder}"


def prepare_detection(
    data: Path, target: Path, withheld: Sequence[str], tree: WordTree, console: Console
) -> list[str]:
    """Packs of the detection images of `data` that are left; says what there is.

    Raises:
        DataError: A data set is missing.
        ConfigError: A pack of an earlier call shows a withheld class, or nothing is left.
    """
    nodes = withheld_nodes(tree, withheld)
    specs = []
    for kind in ("coco", "voc"):
        path = target / f"{kind}.h5"
        source = read_records(f"{kind}:{data / f'{kind}-mini'}", "train")
        drop = shows(source, tree, nodes)
        if drop.all():
            raise ConfigError(
                f"{source.root}: every image shows a withheld class; nothing is left to train on"
            )
        if not path.exists():
            pack(without(source, drop), path)
        packed = read_records(f"pack:{path}")
        if len(packed.store) != int((~drop).sum()) or shows(packed, tree, nodes).any():
            raise ConfigError(f"{path} was made from other data or for other withheld classes: remove it")
        console.print(
            f"{kind}: {len(drop)} images with boxes, {int(drop.sum())} left out, {int((~drop).sum())} stay"
        )
        specs.append(f"pack:{path}")
    return specs


def find_classification(
    data: Path, withheld: Sequence[str], tree: WordTree, console: Console
) -> tuple[list[str], dict[int, int]]:
    """The classification data of `data`, and how many images of each withheld node and below there are."""
    specs = [f"imagenet:{data / 'imagenet-mini'}"]
    tiny = data / "tiny-imagenet-200-part.tar"
    if tiny.exists():
        specs.append(f"tiny-imagenet:{tiny}")
    sets = [open_dataset(spec, tree) for spec in specs]
    labels = np.concatenate([[dataset.nodes(i)[0] for i in range(len(dataset))] for dataset in sets])
    counts = {
        node: int(((labels == node) | tree.is_ancestor(node, labels)).sum())
        for node in withheld_nodes(tree, withheld).tolist()
    }
    listed = ", ".join(f"{name} {count}" for name, count in zip(withheld, counts.values(), strict=True))
    console.print(f"classification: {len(labels)} images; of the withheld classes and below: {listed}")
    return specs, counts
