"""From pictures to scored boxes of chosen nodes, with no more of the class layer than those nodes need.

Letters: B images, D feature channels, H and W grid, N tree nodes, U nodes of a pruned tree, C chosen nodes, Q
predictions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torchvision.ops import batched_nms

from wordtree.tree import WordTree
from yolo9000.boxes import cxcywh_to_xyxy
from yolo9000.decode import Decoder, RawDetections
from yolo9000.evaluation.ap import Predictions
from yolo9000.evaluation.options import EvaluateConfig
from yolo9000.head import RegionHead
from yolo9000.letterbox import Letterbox, letterbox
from yolo9000.network import Network

if TYPE_CHECKING:
    from yolo9000.datasets import Sample, SampleDataset

# Candidates of an image that enter suppression, best first: 80 classes x 845 anchors are 67,600, nearly all
# of them noise.
_CANDIDATES = 4000


Progress: TypeAlias = Callable[[int, int], None]  # pictures just done, pictures in all


@contextmanager
def inference(device: torch.device) -> Iterator[None]:
    """Without gradients, and with the numbers of the settings' precision, as detection: not of a caller's."""
    with torch.inference_mode(), torch.autocast(device.type, enabled=False):
        yield


@dataclass(frozen=True)
class Loaded:
    """A batch of pictures, ready for the network.

    Attributes:
        indices: [B] positions in the data set.
        samples: What the data set gave, pictures left out of memory where possible.
        views: The pictures [B, 3, h, w], float32 0..1, in each size.
        fits: Where each of the B lies there.
    """

    indices: list[int]
    samples: list[Sample]
    views: list[Tensor]
    fits: list[list[Letterbox]]


def load_batches(
    network: Network, dataset: SampleDataset, config: EvaluateConfig, progress: Progress | None = None
) -> Iterator[Loaded]:
    """Read and letterbox a data set's pictures in order, a few batches ahead of their use.

    Args:
        network: Whose input size and way of resampling are taken where `config` leaves them open.
        dataset: The pictures.
        config: Size, batch size, threads, limit and letterbox mode.
        progress: Called after each batch.
    """
    sizes = input_sizes(network, config)
    mode = config.letterbox or ("darknet" if network.batchnorm == "darknet" else "torch")

    def prepare(index: int) -> tuple[Sample, list[tuple[Tensor, Letterbox]]]:
        sample = dataset[index]
        image = sample.image.as_subclass(Tensor)
        return sample, [letterbox(image, size, mode) for size in sizes]

    indices = chosen_images(len(dataset), config.limit)
    chunks = [indices[i : i + config.batch_size] for i in range(0, len(indices), config.batch_size)]
    with ThreadPoolExecutor(config.threads) as pool:
        pending: deque[tuple[list[int], list[Future[Any]]]] = deque()
        for chunk in [*chunks, None, None]:
            if chunk is not None:
                pending.append((chunk, [pool.submit(prepare, i) for i in chunk]))
            if pending and (chunk is None or len(pending) > 2):
                done, futures = pending.popleft()
                samples, boxed = zip(*(future.result() for future in futures), strict=True)
                views = [[*zip(*view, strict=True)] for view in zip(*boxed, strict=True)]
                images, fits = [torch.stack(view[0]) for view in views], [[*view[1]] for view in views]
                yield Loaded(done, list(samples), images, fits)
                if progress is not None:
                    progress(len(done), len(indices))


def input_sizes(network: Network, config: EvaluateConfig) -> list[tuple[int, int]]:
    """(height, width) of the network inputs in pixels: as asked for, else as the cfg says.

    Raises:
        ConfigError, CfgError: They are too large, or do not fit the network; a classifier's own may be any.
    """
    own = network.cfg.height, network.cfg.width
    asked = [(side, side) for side in config.sizes or (config.size,) if side]
    for height, width in asked or ([own] if network.head is not None else []):
        network.check_size(height, width)
    return asked or [own]


def chosen_images(count: int, limit: int) -> list[int]:
    """All positions 0..count−1, or `limit` of them, evenly spread."""
    if not limit or limit >= count:
        return list(range(count))
    return [i * count // limit for i in range(limit)]


def prune_tree(tree: WordTree, nodes: ArrayLike) -> tuple[WordTree, NDArray[np.int64]]:
    """The part of a tree that the probabilities of some nodes depend on: whole groups along their paths.

    Args:
        tree: N nodes.
        nodes: [C] those of interest, at least one.

    Returns:
        The pruned tree of U nodes and their indices in `tree`, [U] ascending.
    """
    needed = np.zeros(len(tree.group_start), np.bool_)
    current = np.unique(np.asarray(nodes, np.int64))
    while len(current):
        needed[tree.group[current]] = True
        current = np.unique(tree.parent[current])
        current = current[current >= 0]
    kept = np.flatnonzero(needed[tree.group])
    place = np.full(len(tree) + 1, -1, np.int64)  # the last entry answers for parent -1
    place[kept] = np.arange(len(kept))
    pruned = WordTree(place[tree.parent[kept]], [tree.wnids[i] for i in kept], [tree.names[i] for i in kept])
    return pruned, kept


def prune_head(head: RegionHead, nodes: ArrayLike) -> tuple[RegionHead, NDArray[np.int64]]:
    """A head for some of the nodes: same boxes, same probabilities of these nodes, far fewer class rows.

    COCO's 80 nodes need 1,172 of 9,418 rows. Every sibling group on the way stays whole, so nothing changes
    but the time.

    Args:
        head: The head over N nodes; its parameters are copied.
        nodes: [C] those of interest, at least one.

    Returns:
        The head over a pruned tree, and that tree's nodes as indices in the full one, [U] ascending.
    """
    tree, kept = prune_tree(head.tree, nodes)
    # A tree of which one group is left must not be taken for a plain list of independent classes.
    softmax = head.region.softmax or head.ops.groups > 1
    region = replace(head.region, classes=len(tree), softmax=softmax)
    pruned = RegionHead(head.in_channels, region, tree).to(head.class_weight).eval()
    rows = torch.from_numpy(kept).to(head.class_weight.device)
    with torch.no_grad():
        pruned.box_weight.copy_(head.box_weight)
        pruned.box_bias.copy_(head.box_bias)
        pruned.class_weight.copy_(head.class_weight[:, rows])
        pruned.class_bias.copy_(head.class_bias[:, rows])
    return pruned, kept


class NodePredictor:
    """Boxes of chosen nodes: score objectness × P(node) at every anchor, suppression node by node.

    Args:
        head: The head.
        nodes: [C] nodes of its tree that count as classes, at least one.
        config: Thresholds.
    """

    def __init__(self, head: RegionHead, nodes: NDArray[np.int64], config: EvaluateConfig) -> None:
        pruned, self.kept = prune_head(head, nodes)
        self.classes = np.searchsorted(self.kept, nodes).tolist()
        self.decoder = Decoder(pruned)
        self.config = config

    def __call__(self, features: Sequence[Tensor], batch: Loaded) -> Predictions:
        """Predictions in a batch.

        Args:
            features: [B, D, H, W] of the batch in each size.
            batch: For the pictures' numbers and geometry.

        Returns:
            Boxes in pixels of the original pictures; `classes` are nodes of the full tree, `images` positions
            in the data set.
        """
        found = self.decoder.decode_views(features, batch.fits, self.config.score, classes=self.classes)
        parts = []
        for raw, index, fit in zip(found, batch.indices, batch.fits[0], strict=True):
            boxes, row = self._choose(raw, fit)
            nodes = self.kept[raw.nodes[row].cpu().numpy()]
            parts.append((boxes, nodes, np.full(len(nodes), index), raw.scores[row]))
        return join_predictions(parts)

    def _choose(self, raw: RawDetections, fit: Letterbox) -> tuple[Tensor, Tensor]:
        """What stays of one image, best first: boxes [Q, 4] xyxy in its pixels, and rows of `raw` [Q]."""
        row = raw.scores.topk(min(_CANDIDATES, len(raw))).indices
        corners = cxcywh_to_xyxy(raw.boxes[row])
        row = row[
            batched_nms(corners, raw.scores[row], raw.nodes[row], self.config.nms)[: self.config.per_image]
        ]
        boxes = fit.unmap(raw.boxes[row])
        solid = (boxes[:, 2:] > boxes[:, :2]).all(1)  # not wholly in the grey around the picture
        return boxes[solid], row[solid]


def join_predictions(
    parts: Sequence[tuple[Tensor, NDArray[np.int64], NDArray[np.int64], Tensor]],
) -> Predictions:
    """One `Predictions` from (boxes, classes, images, scores) of several images."""
    if not parts:
        return Predictions.of([], [], [], [])
    boxes, classes, images, scores = zip(*parts, strict=True)
    return Predictions.of(
        torch.cat(boxes).double().cpu().numpy(),
        np.concatenate(classes),
        np.concatenate(images),
        torch.cat(scores).double().cpu().numpy(),
    )
