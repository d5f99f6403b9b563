"""Do tree operations and suppression keep up with plain ones that know no tree?

    python benchmarks/tree.py

Every operation stands beside its floor, the nearest thing torch or torchvision have without a tree, timed in
turn with it; and, where there is one, beside the obvious loop.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from _report import Report, arguments, bars
from torchvision.ops import batched_nms

from wordtree.tree import WordTree
from yolo9000.benchmark import alternate, machine, ratio
from yolo9000.suppress import suppress
from yolo9000.tree_ops import TreeOps

ROWS = 867  # anchors of YOLO9000 at 544 x 544
BOXES = 10_000
AIM_MS = 50.0  # decode and suppress 10,000 boxes


def scene(boxes: int, objects: int, tree: WordTree) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes around `objects` things, each with labels on a path of its own: what a detector first finds."""
    thing = torch.randint(objects, (boxes,))
    centre, side = torch.rand(objects, 2) * 500, torch.rand(objects, 2) * 100 + 10
    middle = centre[thing] + torch.randn(boxes, 2) * 8
    half = side[thing] / 2 * (1 + 0.1 * torch.randn(boxes, 2)).clamp(0.5)
    paths = TreeOps(tree).path[torch.randint(len(tree), (objects,))][thing]
    depth = (paths >= 0).sum(1)
    nodes = paths[torch.arange(boxes), (torch.rand(boxes) * depth).long()]
    return torch.cat((middle - half, middle + half), 1), torch.rand(boxes), nodes


def loop_softmax(ops: TreeOps, logits: torch.Tensor) -> torch.Tensor:
    """One log-softmax a sibling group: the obvious way."""
    return torch.cat([part.log_softmax(1) for part in torch.split(logits, ops.group_size.tolist(), 1)], 1)


def main() -> None:
    options = arguments(__doc__ or "", rounds=(5, "repetitions"))
    torch.manual_seed(0)
    tree = WordTree.load("yolo9000")
    ops, logits = TreeOps(tree), torch.randn(ROWS, len(tree))
    conditional, nodes = ops.log_softmax(logits), torch.randint(len(tree), (ROWS,))
    wide = torch.randn(BOXES, len(tree))
    labels = torch.randint(len(tree), (BOXES,))
    report = Report(
        "tree",
        "Tree operations beside their floors without a tree",
        ["operation", "floor", "ms", "floor ms", "times the floor", "loop, times ours"],
        machine(),
        {"nodes": len(tree), "rows": ROWS, "boxes": BOXES, "precision": "fp32", "rounds": options.rounds},
    )

    def compare(name, ours, floor_name, floor, loop=None):  # type: ignore[no-untyped-def]
        functions = {"ours": ours, "floor": floor} | ({"loop": loop} if loop else {})
        times = alternate(functions, options.rounds)
        best = {key: 1e3 * sorted(found)[len(found) // 2] for key, found in times.items()}
        slower = ratio(times, "loop", "ours") if loop else None
        report.add(name, floor_name, best["ours"], best["floor"], ratio(times, "ours", "floor"), slower)
        return best["ours"]

    walks, suppressions = [], []
    with torch.inference_mode():
        compare(
            "softmax in every group", lambda: ops.log_softmax(logits),
            "one softmax over all", lambda: logits.log_softmax(1),
            lambda: loop_softmax(ops, logits),
        )  # fmt: skip
        compare(
            "path probabilities", lambda: ops.path_log_probs(conditional),
            "a copy", lambda: conditional.clone(),
        )  # fmt: skip
        compare(
            "loss of a path", lambda: ops.path_nll(logits, nodes),
            "cross entropy over all", lambda: F.cross_entropy(logits, nodes, reduction="none"),
        )  # fmt: skip
        compare(
            f"walk down, logits of {BOXES:,} boxes", lambda: ops.descend(wide),
            "argmax over all", lambda: wide.max(1),
        )  # fmt: skip
        for channels in (256, 1024):
            weight, bias = torch.randn(len(tree), channels), torch.zeros(len(tree))
            things = torch.randn(20, channels)
            vectors = things[torch.randint(20, (BOXES,))] + 0.1 * torch.randn(BOXES, channels)
            walk = compare(
                f"walk down, {channels} features of {BOXES:,} boxes, 20 objects",
                lambda v=vectors, w=weight, b=bias: ops.descend_rows(v, w, b),
                "all class logits, argmax", lambda v=vectors, w=weight, b=bias: F.linear(v, w, b).max(1),
            )  # fmt: skip
            walks.append(walk)
        for objects in (20, 500):
            boxes, scores, found = scene(BOXES, objects, tree)
            took = compare(
                f"suppress, {BOXES:,} boxes, {objects} objects",
                lambda b=boxes, s=scores, n=found: suppress(b, s, n, tree),
                "batched_nms", lambda b=boxes, s=scores, n=found: batched_nms(b, s, n, 0.45),
            )  # fmt: skip
            suppressions.append(took)
        boxes, scores, _ = scene(BOXES, BOXES, tree)
        compare(
            f"suppress, {BOXES:,} boxes of as many objects", lambda: suppress(boxes, scores, labels, tree),
            "batched_nms", lambda: batched_nms(boxes, scores, labels, 0.45),
        )  # fmt: skip
    report.notes.append(
        f"walking down and suppressing {BOXES:,} boxes of 20 objects: {walks[0] + suppressions[0]:.0f} ms "
        f"from 256 features, {walks[1] + suppressions[0]:.0f} ms from 1,024; aim: {AIM_MS:.0f} ms"
    )
    report.show()
    if not options.no_write:
        report.save(bars(4))


if __name__ == "__main__":
    main()
