"""Networks, trees and batches that several benchmarks take: YOLO9000's layers over trees of any size."""

from __future__ import annotations

import re
from functools import cache

import torch

from wordtree.builder import build_tree
from wordtree.classes import class_list
from wordtree.tree import WordTree
from yolo9000.darknet.cfg import Cfg
from yolo9000.datasets import Batch
from yolo9000.network import Network

# Nodes and where they come from: COCO's plain list, and trees over three of ImageNet's lists and WordNet.
TREES = {80: "coco", 1369: "ilsvrc1k", 9418: "yolo9000", 21842: "imagenet22k", 82115: "all-nouns"}


@cache
def tree_of(count: int) -> WordTree:
    """The tree of about so many nodes; 80 is COCO's plain list."""
    name = TREES[count]
    if name == "coco":
        return WordTree.flat([entry.name for entry in class_list("coco")])
    return WordTree.load("yolo9000") if name == "yolo9000" else build_tree(name).tree


def detector(count: int) -> Network:
    """YOLO9000's network over the tree of about `count` nodes, with random weights, in evaluation mode."""
    tree, published = tree_of(count), Cfg.load("yolo9000").text
    changed = {"filters": 3 * (5 + len(tree)), "classes": len(tree)}
    text = re.sub(r"filters = 28269", f"filters = {changed['filters']}", published)
    text = re.sub(r"classes = 9418", f"classes = {changed['classes']}", text)
    torch.manual_seed(0)
    return Network(Cfg.parse(text), tree).eval()


def joint_batch(size: int, images: int, nodes: int) -> Batch:
    """Half photos with three boxes each, half with one label for the whole photo."""
    generator = torch.Generator().manual_seed(0)
    detection = images // 2
    boxes = torch.rand(3 * detection, 4, generator=generator) * 0.4 + 0.3
    labels = torch.full((images,), -1)
    labels[detection:] = torch.randint(nodes, (images - detection,), generator=generator)
    return Batch(
        images=torch.rand(images, 3, size, size, generator=generator),
        boxes=boxes,
        nodes=torch.randint(nodes, (len(boxes),), generator=generator),
        image_index=torch.arange(detection).repeat_interleave(3),
        labels=labels,
        sources=["random"] * images,
    )
