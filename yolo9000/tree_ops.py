"""Probabilities over a WordTree: a softmax in every sibling group, and products of them along paths.

Letters: `...` any leading axes, K rows, N tree nodes, G sibling groups, L levels of the tree (its depth + 1),
R columns of the sibling groups on the paths of K nodes, laid end to end, P such groups.

Words as everywhere in the package: *conditional* is P(node | parent), *absolute* is P(node), the product of
the conditionals from the top down to the node (paper, section 4, "Hierarchical classification").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wordtree.tree import WordTree

# Rows that the CPU normalises at a time. 32 rows of 9,418 float32 values and their temporaries stay in the
# caches; for [900, 9418] on one core, forward + backward (ms): all rows at once 345, 128 rows 206, 64 rows
# 137, 32 rows 133, 16 rows 132. Tried instead: autograd through scatter_reduce / index_add on the last axis
# 405, segment_reduce on the transpose 404 (163 in chunks), padded blocks of groups of like width 660.
_CPU_ROWS = 32
_WORTH_COPYING = 0.75  # share of the vectors that still walk, below which the others are dropped


@dataclass(frozen=True)
class PathColumns:
    """The columns of the sibling groups on the paths of K nodes, end to end: path by path, top group first.

    Attributes:
        column: [R] node of each column.
        segment: [R] which of the P groups the column belongs to.
        target: [P] position in [0, R) of the node of the path in each group.
        row: [P] the path (0..K-1) each group belongs to.
        lengths: [K] columns of each path; they add up to R.
    """

    column: Tensor
    segment: Tensor
    target: Tensor
    row: Tensor
    lengths: Tensor


class TreeOps(nn.Module):
    """Operations of a tree on tensors whose last axis is its N nodes.

    The buffers are not saved in checkpoints (the tree is stored beside the weights) and follow `.to(device)`.
    No operation loops over groups or nodes. All compute in float32 at least, inside autocast too, and repeat
    bit by bit on CPU.

    Args:
        tree: The hierarchy. A flat tree is one group: an ordinary softmax.
    """

    group: Tensor
    group_start: Tensor
    group_size: Tensor
    child_group: Tensor
    depth: Tensor
    parent: Tensor  # [N] N above a top node
    path: Tensor  # [N, L] nodes from the top down to the node, padded with -1
    level_order: Tensor  # [N] nodes sorted by depth
    level_place: Tensor  # [N] position of each node in `level_order`
    level_parent: Tensor  # [N] in that order: position of the parent within the level above

    def __init__(self, tree: WordTree) -> None:
        super().__init__()
        self.nodes = len(tree)
        self.groups = len(tree.group_start)
        self.levels = int(tree.max_depth) + 1
        arrays = {
            "group": tree.group,
            "group_start": tree.group_start,
            "group_size": tree.group_size,
            "child_group": tree.child_group,
            "depth": tree.depth,
            "parent": np.where(np.asarray(tree.parent) < 0, self.nodes, tree.parent),
            "path": _paths(np.asarray(tree.parent), np.asarray(tree.depth), self.levels),
            **_level_tables(np.asarray(tree.parent), np.asarray(tree.depth)),
        }
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(np.array(array, dtype=np.int64)), persistent=False)
        self.level_sizes = np.bincount(tree.depth).tolist()
        depth_of_group = tree.depth[tree.group_start]
        # Widest sibling group of every level: `descend` looks at that many columns there.
        self.widths = [int(tree.group_size[depth_of_group == level].max()) for level in range(self.levels)]

    def log_softmax(self, logits: Tensor) -> Tensor:
        """Log of the conditional probabilities: a log-softmax in every sibling group.

        Args:
            logits: [..., N] in any floating type.

        Returns:
            [..., N] log P(node | parent), float32 (float64 for float64); in every group the probabilities add
            up to one.
        """
        logits = _at_least_float32(logits)
        if self.groups == 1:
            return logits.log_softmax(-1)
        flat = logits.reshape(-1, self.nodes)
        result = cast(Tensor, _GroupLogSoftmax.apply(flat, self.group, self.groups))
        return result.view(logits.shape)

    def path_log_probs(self, conditional: Tensor) -> Tensor:
        """Log of the absolute probabilities, the sums of the conditional ones along every path.

        One pass a level, each adding the level above: twice as quick as doubling the summed ancestors in
        log2(L) passes over all nodes, and a child never comes out above its parent.

        Args:
            conditional: [..., N] log P(node | parent).

        Returns:
            [..., N] log P(node).
        """
        conditional = _at_least_float32(conditional)
        if self.levels == 1:
            return conditional
        flat = conditional.reshape(-1, self.nodes)
        parts = [self._sum_levels(part) for part in torch.split(flat, _rows_at_a_time(flat))]
        return torch.cat(parts).view(conditional.shape)

    def _sum_levels(self, conditional: Tensor) -> Tensor:
        by_level = torch.split(conditional.index_select(1, self.level_order), self.level_sizes, 1)
        parents = torch.split(self.level_parent, self.level_sizes)
        absolute = [by_level[0]]
        for steps, parent in zip(by_level[1:], parents[1:], strict=True):
            absolute.append(steps + absolute[-1].index_select(1, parent))
        return torch.cat(absolute, 1).index_select(1, self.level_place)

    def path_columns(self, nodes: Tensor) -> PathColumns:
        """Lay out the columns of the sibling groups on the path of every node: a few hundred of the N.

        Args:
            nodes: [K] long.
        """
        path = self.path[nodes]  # [K, L]
        present = path >= 0
        on_path = path[present]  # [P]
        groups = self.group[on_path]
        sizes = self.group_size[groups]
        ends = sizes.cumsum(0)
        starts = ends - sizes  # [P] where each group begins among the R columns
        segment = torch.repeat_interleave(sizes)
        column = (
            torch.arange(len(segment), device=nodes.device) + (self.group_start[groups] - starts)[segment]
        )
        row = torch.repeat_interleave(self.depth[nodes] + 1)
        lengths = sizes.new_zeros(len(nodes)).index_add_(0, row, sizes)
        return PathColumns(column, segment, starts + on_path - self.group_start[groups], row, lengths)

    def columns_nll(self, logits: Tensor, columns: PathColumns, smoothing: float = 0.0) -> Tensor:
        """−log P(node) of K nodes from the logits of the columns on their paths.

        Args:
            logits: [R, ...] the logits of `columns.column`; trailing axes (such as places in an image) are
                independent.
            columns: From `path_columns`.
            smoothing: Share of the target that is spread evenly over each sibling group: the cross entropy
                with (1 − smoothing) · one-hot + smoothing / size in every group on the path.

        Returns:
            [K, ...] negative log of the absolute probability, or that cross entropy.
        """
        logits = _at_least_float32(logits)
        tail = logits.shape[1:]
        groups = (len(columns.row), *tail)
        index = columns.segment.view(-1, *[1] * len(tail)).expand_as(logits)
        highest = logits.new_full(groups, -torch.inf).scatter_reduce(0, index, logits.detach(), "amax")
        shifted = (logits - highest.index_select(0, columns.segment)).exp()
        total = logits.new_zeros(groups).index_add(0, columns.segment, shifted)
        wanted = logits.index_select(0, columns.target)
        if smoothing:
            sizes = self.group_size[self.group[columns.column[columns.target]]].view(-1, *[1] * len(tail))
            mean = logits.new_zeros(groups).index_add(0, columns.segment, logits) / sizes
            wanted = torch.lerp(wanted, mean, smoothing)
        group_nll = total.log() - (wanted - highest)
        return logits.new_zeros((len(columns.lengths), *tail)).index_add(0, columns.row, group_nll)

    def path_nll(self, logits: Tensor, nodes: Tensor, smoothing: float = 0.0) -> Tensor:
        """−log P(node): the cross entropies of the groups on the node's path, added up.

        Its gradient is darknet's class delta with the sign turned: softmax − one-hot in every group from the
        label to the top (`delta_region_class` in region_layer.c). Only the columns of those groups are read.

        Args:
            logits: [K, N].
            nodes: [K] long, one node a row.
            smoothing: As for `columns_nll`.

        Returns:
            [K] negative log-likelihoods, at least 0.
        """
        columns = self.path_columns(nodes)
        owner = torch.repeat_interleave(columns.lengths)
        wanted = logits.reshape(-1).index_select(0, owner * self.nodes + columns.column)
        return self.columns_nll(wanted, columns, smoothing)

    def descend(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Walk from the top group to a leaf, taking the likeliest child at every split.

        The groups on the way are normalised here; logits and conditional log-probabilities give the same
        result, and a softmax over all N nodes is not needed.

        Args:
            logits: [K, N] logits, or log P(node | parent).

        Returns:
            The path [K, L] (long, padded with −1 below the leaf) and log P(node | parent) of each step [K, L]
            (padded with 0, so that sums along the path stay right).
        """
        group = torch.zeros(logits.shape[0], dtype=torch.long, device=logits.device)
        steps: list[tuple[Tensor, Tensor]] = []
        for width in self.widths:
            active = group >= 0
            group = group.clamp(min=0)
            offsets = torch.arange(width, device=logits.device)
            start, size = self.group_start[group][:, None], self.group_size[group][:, None]
            outside = offsets >= size
            children = _at_least_float32(logits.gather(1, torch.where(outside, start, start + offsets)))
            log_probs = children.masked_fill(outside, -torch.inf).log_softmax(1)
            best_log_prob, best = log_probs.max(1)
            node = start[:, 0] + best
            steps.append((node.where(active, -1), best_log_prob.where(active, 0.0)))
            group = self.child_group[node].where(active, -1)
        return torch.stack([s[0] for s in steps], 1), torch.stack([s[1] for s in steps], 1)

    def descend_rows(self, vectors: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """`descend(vectors @ weight.T + bias)`, to rounding, from the rows of the groups on the way alone.

        A walk passes some hundred of the N rows, and walks that pass the same groups share them. At most the
        N rows are multiplied, each once. Shapes depend on the walks: for CPU; `descend` suits GPUs better.

        Args:
            vectors: [K, D].
            weight: [N, D].
            bias: [N].

        Returns:
            As `descend`.
        """
        paths = torch.full((len(vectors), self.levels), -1, device=vectors.device)
        log_probs = torch.zeros(paths.shape, dtype=_precise(vectors.dtype), device=vectors.device)
        walker = torch.arange(len(vectors), device=vectors.device)  # those not yet at a leaf
        group, at = torch.zeros_like(walker), walker  # at: their rows in `vectors`
        for level in range(self.levels if len(vectors) else 0):
            groups, place = torch.unique(group, return_inverse=True)
            start, size = self.group_start[groups], self.group_size[groups]
            first = size.cumsum(0) - size  # where each group begins among the rows
            rows = (start - first).repeat_interleave(size)
            rows += torch.arange(len(rows), device=rows.device)
            logits = F.linear(vectors, weight.index_select(0, rows), bias[rows])
            if len(at) < len(vectors):
                logits = logits.index_select(0, at)
            offsets = torch.arange(int(size.max()), device=rows.device)
            outside = offsets >= size[place][:, None]
            columns = (first[place][:, None] + offsets).masked_fill_(outside, 0)
            children = _at_least_float32(logits.gather(1, columns)).masked_fill_(outside, -torch.inf)
            log_probs[walker, level], best = children.log_softmax(1).max(1)
            node = start[place] + best
            paths[walker, level] = node
            group = self.child_group[node]
            active = (group >= 0).nonzero().squeeze(1)
            if not len(active):
                break
            walker, group, at = walker[active], group[active], at[active]
            # Multiplying a few that have arrived is cheaper than copying all the others.
            if len(at) < _WORTH_COPYING * len(vectors):
                vectors, at = vectors.index_select(0, at), torch.arange(len(at), device=at.device)
        return paths, log_probs


class _GroupLogSoftmax(torch.autograd.Function):
    """Log-softmax in every sibling group of [K, N] rows; saves only its result."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, group: Tensor, groups: int) -> Tensor:
        result = torch.empty_like(logits)
        for rows in _chunks(logits):
            x = logits[rows].t().contiguous()  # [N, k]: sums over a group run along whole rows
            index = group[:, None].expand_as(x)
            highest = x.new_full((groups, x.shape[1]), -torch.inf).scatter_reduce_(0, index, x, "amax")
            x = x - highest.index_select(0, group)  # not in place: `contiguous` may have copied nothing
            total = x.new_zeros((groups, x.shape[1])).index_add_(0, group, x.exp())
            result[rows] = (x - total.log_().index_select(0, group)).t()
        ctx.save_for_backward(result, group)
        ctx.groups = groups
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        result, group = ctx.saved_tensors
        grad_logits = torch.empty_like(result)
        for rows in _chunks(result):
            g = grad[rows].t().contiguous()
            total = g.new_zeros((ctx.groups, g.shape[1])).index_add_(0, group, g).neg_()
            grad_logits[rows] = g.addcmul(result[rows].t().exp(), total.index_select(0, group)).t()
        return grad_logits, None, None


def _rows_at_a_time(rows: Tensor) -> int:
    return _CPU_ROWS if rows.device.type == "cpu" else max(1, len(rows))


def _chunks(rows: Tensor) -> list[slice]:
    size = _rows_at_a_time(rows)
    return [slice(start, start + size) for start in range(0, len(rows), size)]


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(_precise(values.dtype))


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _paths(parent: np.ndarray[Any, Any], depth: np.ndarray[Any, Any], levels: int) -> np.ndarray[Any, Any]:
    """[N, L] the nodes from the top down to each node, padded with −1; one pass a level."""
    path = np.full((len(parent), levels), -1, dtype=np.int64)
    path[np.arange(len(parent)), depth] = np.arange(len(parent))
    for level in range(1, levels):
        nodes = np.flatnonzero(depth == level)
        path[nodes, :level] = path[parent[nodes], :level]
    return path


def _level_tables(
    parent: np.ndarray[Any, Any], depth: np.ndarray[Any, Any]
) -> dict[str, np.ndarray[Any, Any]]:
    """`level_order`, `level_place` and `level_parent` of `TreeOps`."""
    order = depth.argsort(kind="stable")
    place = order.argsort()
    first = np.searchsorted(depth[order], depth)  # position in `order` where each node's level begins
    above = parent[order]
    return {
        "level_order": order,
        "level_place": place,
        "level_parent": np.where(above < 0, 0, (place - first)[above]),
    }
