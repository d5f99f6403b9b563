"""The detection head: boxes everywhere, classes only where they are asked for.

The last convolution of a YOLOv2 detector has A · (5 + N) filters of size 1 × 1. With N = 9,418 nearly all of
its work is thrown away, so the filters are kept apart here as rows of matrices: five per anchor for box and
objectness, computed everywhere, and N per anchor for the classes, computed only at chosen anchors or only for
the sibling groups on a label's path. `RegionHead.dense` is the plain convolution, the reference for
everything else.

Letters: B batch, A anchors per cell, D feature channels, H and W grid, N tree nodes, K kept anchors, R
columns on paths.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wordtree.tree import WordTree
from yolo9000.darknet.cfg import RegionConfig
from yolo9000.errors import ConfigError, WeightsError
from yolo9000.tree_ops import TreeOps

BOX_CHANNELS = 5  # tx, ty, tw, th, to: four box numbers and the objectness, raw
# Standard deviation of untrained rows: small, so that every prior starts near its own shape and every softmax
# near uniform.
_INITIAL_STD = 0.01


class RegionHead(nn.Module):
    """Box and class rows of darknet's region layer and of the 1 × 1 convolution before it.

    Args:
        in_channels: D, channels of the feature map.
        region: Anchors (grid cells), class count, and `tied`: one set of class rows shared by all anchors.
        tree: The classes; a flat tree for a plain class list.
        initialise: Draw starting values; without, the parameters hold anything until they are loaded.

    Raises:
        ConfigError: The class count of the cfg is not the number of tree nodes.
    """

    anchors: Tensor

    def __init__(
        self, in_channels: int, region: RegionConfig, tree: WordTree, *, initialise: bool = True
    ) -> None:
        super().__init__()
        if region.classes != len(tree):
            raise ConfigError(
                f"[region] has classes={region.classes}, but the tree has {len(tree)} nodes; "
                "set classes to the number of nodes, or give the tree that belongs to this cfg"
            )
        self.in_channels = in_channels
        self.region = region
        self.tree = tree
        self.ops = TreeOps(tree)
        self.num_anchors = len(region.anchors)
        self.tied = region.tied
        copies = 1 if self.tied else self.num_anchors
        self.box_weight = _parameter(self.num_anchors, BOX_CHANNELS, in_channels)
        self.box_bias = _parameter(self.num_anchors, BOX_CHANNELS)
        self.class_weight = _parameter(copies, len(tree), in_channels)
        self.class_bias = _parameter(copies, len(tree))
        self.register_buffer("anchors", torch.tensor(region.anchors, dtype=torch.float32), persistent=False)
        if initialise:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new starting values: rows from a narrow normal distribution, biases 0."""
        for weight, bias in ((self.box_weight, self.box_bias), (self.class_weight, self.class_bias)):
            nn.init.normal_(weight, std=_INITIAL_STD)
            nn.init.zeros_(bias)

    def boxes(self, features: Tensor) -> Tensor:
        """Raw tx, ty, tw, th, to at every anchor.

        Args:
            features: [B, D, H, W].

        Returns:
            [B, A, 5, H, W], before any sigmoid or exponential.
        """
        weight, bias = self.box_weight.reshape(-1, self.in_channels), self.box_bias.reshape(-1)
        if (
            features.is_cuda
        ):  # cuDNN would round a float32 convolution to TF32; products of matrices are exact
            raw = F.linear(features.movedim(1, -1), weight, bias).movedim(-1, 1)
        else:
            raw = F.conv2d(features, weight[:, :, None, None], bias)
        return raw.reshape(raw.shape[0], self.num_anchors, BOX_CHANNELS, *raw.shape[2:])

    def class_logits(self, features: Tensor, b: Tensor, a: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """Class logits at K anchors only.

        Args:
            features: [B, D, H, W].
            b: [K] image of each anchor.
            a: [K] anchor.
            y: [K] row of the grid cell.
            x: [K] column of the grid cell.

        Returns:
            [K, N] logits, before the softmax.
        """
        return self._rows_at(gather_vectors(features, b, y, x), a, self.class_weight, self.class_bias)

    def descend(self, features: Tensor, b: Tensor, a: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest path at K anchors, from the class rows of the sibling groups on the way alone.

        Args:
            features: [B, D, H, W].
            b: [K] image of each anchor.
            a: [K] anchor.
            y: [K] row of the grid cell.
            x: [K] column of the grid cell.

        Returns:
            `TreeOps.descend` of `class_logits`, to rounding: path and log-probabilities, both [K, L].
        """
        vectors = gather_vectors(features, b, y, x)
        if self.tied:
            return self.ops.descend_rows(vectors, self.class_weight[0], self.class_bias[0])
        order = a.argsort(stable=True)
        parts = torch.split(vectors[order], a.bincount(minlength=self.num_anchors).tolist())
        walks = map(self.ops.descend_rows, parts, self.class_weight, self.class_bias)
        paths, log_probs = (torch.cat(found)[order.argsort()] for found in zip(*walks, strict=True))
        return paths, log_probs

    def descend_fixed(self, vectors: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """`descend` with shapes that depend on K alone, and no waiting for sizes: for GPUs and compilation.

        Args:
            vectors: [K, D] feature vectors.
            a: [K] anchor of each.
        """
        weight, bias = self.class_weight.flatten(0, 1), self.class_bias.flatten()
        logits = F.linear(vectors, weight, bias).view(-1, *self.class_bias.shape)  # [K, A or 1, N]
        own = torch.zeros_like(a) if self.tied else a
        return self.ops.descend(logits[torch.arange(len(a), device=a.device), own])

    def path_nll(
        self,
        features: Tensor,
        b: Tensor,
        a: Tensor,
        y: Tensor,
        x: Tensor,
        nodes: Tensor,
        smoothing: float = 0.0,
    ) -> Tensor:
        """−log P(node) at K anchors, from the rows of the sibling groups on the nodes' paths alone.

        Values and gradients are those of the dense head; U distinct rows on the paths cost
        [K, D] × [D, U].

        Args:
            features: [B, D, H, W].
            b: [K] image of each anchor.
            a: [K] anchor.
            y: [K] row of the grid cell.
            x: [K] column of the grid cell.
            nodes: [K] label of each anchor.
            smoothing: Share of the target that is spread evenly over each sibling group on the path.

        Returns:
            [K] negative log of the absolute probability, float32.
        """
        columns = self.ops.path_columns(nodes)
        wanted = torch.zeros(self.ops.nodes, dtype=torch.long, device=nodes.device)
        wanted[columns.column] = 1
        rows = wanted.nonzero().squeeze(1)  # [U]
        position = wanted.cumsum(0)[columns.column] - 1  # [R] place of each column among the U rows
        logits = self._rows_at(
            gather_vectors(features, b, y, x),
            a,
            self.class_weight.index_select(1, rows),
            self.class_bias.index_select(1, rows),
        )
        owner = torch.repeat_interleave(columns.lengths)
        wanted = logits.reshape(-1).index_select(0, owner * len(rows) + position)
        return self.ops.columns_nll(wanted, columns, smoothing)

    def path_log_probs(self, features: Tensor, labels: Tensor) -> Tensor:
        """Log P(label) at every anchor of every image, from the sibling groups on its path alone.

        An image of the 9,418-node tree needs about 100 class rows an anchor, which are copied.

        Args:
            features: [B, D, H, W].
            labels: [B] the node that each image shows.

        Returns:
            [B, A, H, W] log of the absolute probability of the image's label, float32.
        """
        columns = self.ops.path_columns(labels)
        height, width = features.shape[-2:]
        lengths = columns.lengths.tolist()
        # One gather for the batch, so that its gradient is one tensor of the weights' size and not one an
        # image.
        weights = torch.split(self.class_weight.index_select(1, columns.column), lengths, 1)
        products = [weight @ image for weight, image in zip(weights, features.flatten(2), strict=True)]
        none = features.new_zeros(len(self.class_weight), 0, height * width)
        bias = self.class_bias.index_select(1, columns.column).unsqueeze(-1)
        logits = (torch.cat([none, *products], 1) + bias).transpose(0, 1)  # [R, A or 1, H·W]
        log_probs = -self.ops.columns_nll(logits, columns)
        shape = (len(labels), self.num_anchors, height, width)
        return log_probs.expand(-1, self.num_anchors, -1).reshape(shape)

    def dense(self, features: Tensor) -> Tensor:
        """Everything everywhere: the plain convolution, [B, A, 5 + N, H, W], raw. For tests and exports."""
        weight, bias = self.darknet_conv()
        raw = F.conv2d(features, weight, bias)
        return raw.reshape(raw.shape[0], self.num_anchors, BOX_CHANNELS + self.ops.nodes, *raw.shape[2:])

    def classify(self, features: Tensor) -> Tensor:
        """Class logits [B, N] of whole images: the mean over the grid by the mean of the anchors' rows."""
        return F.linear(features.mean((2, 3)), self.class_weight.mean(0), self.class_bias.mean(0))

    def whole_nll(self, features: Tensor, nodes: Tensor, smoothing: float = 0.0) -> Tensor:
        """-log P(node) of whole images: the mean over the grid, by each anchor's class rows.

        Args:
            features: [B, D, H, W].
            nodes: [B] label of each image.
            smoothing: As in `path_nll`.

        Returns:
            [B], the mean over the anchors' rows, float32.
        """
        images, copies = len(features), len(self.class_weight)
        image = torch.arange(images, device=features.device).repeat(copies)
        anchor = torch.arange(copies, device=features.device).repeat_interleave(images)
        corner = torch.zeros_like(image)
        pooled = features.mean((2, 3), keepdim=True)
        nll = self.path_nll(pooled, image, anchor, corner, corner, nodes.repeat(copies), smoothing)
        return nll.view(copies, images).mean(0)

    def darknet_conv(self) -> tuple[Tensor, Tensor]:
        """Weight [A · (5 + N), D, 1, 1] and bias [A · (5 + N)] of darknet's convolution; tied rows repeat."""
        classes = self.class_weight.expand(self.num_anchors, -1, -1)
        weight = torch.cat((self.box_weight, classes), 1)
        bias = torch.cat((self.box_bias, self.class_bias.expand(self.num_anchors, -1)), 1)
        return weight.reshape(-1, self.in_channels, 1, 1), bias.reshape(-1)

    @torch.no_grad()
    def load_darknet_conv(self, weight: Tensor, bias: Tensor) -> None:
        """Take over the last convolution of a darknet file.

        Args:
            weight: [A · (5 + N), D, 1, 1].
            bias: [A · (5 + N)].

        Raises:
            WeightsError: The shapes are others, or the head is tied and the anchors' class rows differ.
        """
        filters = self.num_anchors * (BOX_CHANNELS + len(self.tree))
        expected = ((filters, self.in_channels, 1, 1), (filters,))
        if (tuple(weight.shape), tuple(bias.shape)) != expected:
            raise WeightsError(
                f"the last convolution should have weight {expected[0]} and bias {expected[1]}: "
                f"{self.num_anchors} anchors x (5 + {len(self.tree)} classes); got {tuple(weight.shape)} "
                f"and {tuple(bias.shape)}; the weights belong to another cfg or tree"
            )
        rows = weight.reshape(self.num_anchors, -1, self.in_channels)
        biases = bias.reshape(self.num_anchors, -1)
        class_rows, class_biases = rows[:, BOX_CHANNELS:], biases[:, BOX_CHANNELS:]
        if self.tied:
            if not (class_rows == class_rows[:1]).all() or not (class_biases == class_biases[:1]).all():
                raise WeightsError(
                    "the cfg says tied=1, but the class rows of the anchors differ in these weights; "
                    "remove tied=1 from [region] to load them"
                )
            class_rows, class_biases = class_rows[:1], class_biases[:1]
        self.box_weight.copy_(rows[:, :BOX_CHANNELS])
        self.box_bias.copy_(biases[:, :BOX_CHANNELS])
        self.class_weight.copy_(class_rows)
        self.class_bias.copy_(class_biases)

    def _rows_at(self, vectors: Tensor, a: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """[K, D] vectors by their anchors' rows, weight [A or 1, U, D]: one product an anchor that occurs."""
        if self.tied:
            return F.linear(vectors, weight[0], bias[0])
        order = a.argsort(stable=True)
        counts = a.bincount(minlength=self.num_anchors).tolist()
        parts = zip(torch.split(vectors[order], counts), weight.unbind(0), bias.unbind(0), strict=True)
        logits = torch.cat(
            [F.linear(part, w, c) for part, w, c in parts if len(part)] or [vectors @ weight[0].t()]
        )
        return logits.index_select(0, order.argsort())


def _parameter(*shape: int) -> nn.Parameter:
    """Of float32, whatever the program's default may be, and without starting values."""
    return nn.Parameter(torch.empty(shape, dtype=torch.float32))


def gather_vectors(features: Tensor, b: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Feature vectors [K, D] of K cells (image `b`, row `y`, column `x`) of a map [B, D, H, W]."""
    height, width = features.shape[-2:]
    # index_select on flat cells: its gradient is summed in order, so training repeats bit by bit on CPU.
    return features.permute(0, 2, 3, 1).flatten(0, 2).index_select(0, (b * height + y) * width + x)
