"""What detection returns: parallel arrays that can be sliced, looped over, relabelled and written as JSON.

Letters: K detections, L steps of the longest path, N tree nodes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wordtree.tree import WordTree
from yolo9000.errors import ConfigError, DataError

FORMAT = "yolo9000-detections-1"
_SLACK = 1e-4  # how far beyond 0..1 a float32 product of probabilities may land
_ROUND_PX, _ROUND_P = 2, 6  # decimals in JSON: hundredths of a pixel, millionths of a probability
_SHOWN = 6  # detections that repr() lists


@dataclass(frozen=True)
class Detection:
    """One detected object.

    Attributes:
        label: Name of the node.
        wnid: Its id, for WordNet trees the WordNet id.
        node: Its index in the tree.
        score: What detections are sorted and thresholded by, 0..1: objectness × P(label); with darknet's
            decoder over a tree, the objectness alone.
        objectness: Probability that the box holds an object of any class.
        box: x1, y1, x2, y2 in pixels of the original picture.
        path: (name, absolute probability) of every node from the top down to the label.
        full_path: The same, on down the likeliest children to a leaf.
        steps: (name, probability given its parent) of every node of `full_path`.
    """

    label: str
    wnid: str
    node: int
    score: float
    objectness: float
    box: tuple[float, float, float, float]
    path: list[tuple[str, float]]
    full_path: list[tuple[str, float]]
    steps: list[tuple[str, float]]

    def __str__(self) -> str:
        corners = ", ".join(f"{value:.0f}" for value in self.box)
        return f"{self.score:.2f} {self.label} ({corners}): {' > '.join(name for name, _ in self.path)}"


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """The detections of one picture, best first, as parallel arrays.

    Every detection keeps its path down to a leaf with the probability of each step, so that `relabel` can
    choose another depth without running the network again.

    Attributes:
        boxes: [K, 4] float32 x1, y1, x2, y2 in pixels of the original picture.
        scores: [K] float32, 0..1.
        objectness: [K] float32, 0..1.
        nodes: [K] int64 label of each detection; lies on its path.
        paths: [K, L] int64 nodes from the top to a leaf, −1 after the leaf.
        path_probs: [K, L] float32 probability of each node given its parent, 0 after the leaf.
        tree: The tree that the nodes belong to.
        image_size: (height, width) of the picture, pixels.
        source: Path or URL of the picture, None for one that was only in memory.

    Raises:
        DataError: The arrays do not fit each other, or hold what no detection can.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    objectness: NDArray[np.float32]
    nodes: NDArray[np.int64]
    paths: NDArray[np.int64]
    path_probs: NDArray[np.float32]
    tree: WordTree
    image_size: tuple[int, int]
    source: str | None = None

    def __post_init__(self) -> None:
        count = np.asarray(self.nodes).shape[0] if np.ndim(self.nodes) else 0
        steps = np.asarray(self.paths).shape[-1] if np.ndim(self.paths) == 2 else 0
        shapes: dict[str, tuple[tuple[int, ...], type[Any]]] = {
            "boxes": ((count, 4), np.float32),
            "scores": ((count,), np.float32),
            "objectness": ((count,), np.float32),
            "nodes": ((count,), np.int64),
            "paths": ((count, steps), np.int64),
            "path_probs": ((count, steps), np.float32),
        }
        for name, (shape, dtype) in shapes.items():
            object.__setattr__(self, name, _checked(name, getattr(self, name), shape, dtype))
        self._check_values()
        object.__setattr__(self, "path_probs", np.where(self.paths < 0, np.float32(0), self.path_probs))

    def _check_values(self) -> None:
        for name in ("scores", "objectness", "path_probs"):
            values = getattr(self, name)[self.paths >= 0] if name == "path_probs" else getattr(self, name)
            _refuse(~((values >= -_SLACK) & (values <= 1 + _SLACK)), f"{name} must lie in 0..1", values)
        finite = np.isfinite(self.boxes).all(axis=1)
        ordered = (self.boxes[:, :2] <= self.boxes[:, 2:]).all(axis=1)
        _refuse(~(finite & ordered), "boxes must be finite with x1 <= x2 and y1 <= y2", self.boxes)
        size = len(self.tree)
        _refuse((self.nodes < 0) | (self.nodes >= size), f"nodes must lie in 0..{size - 1}", self.nodes)
        _refuse(
            ((self.paths < -1) | (self.paths >= size)).any(axis=1),
            f"paths must hold nodes 0..{size - 1}, or −1 after the leaf",
            self.paths,
        )
        _refuse(~_are_paths(self.tree, self.paths), "paths must run from a top node to a leaf", self.paths)
        found = (self.paths == self.nodes[:, None]).any(axis=1)
        _refuse(~found, "each node must lie on its own path", self.nodes)

    @classmethod
    def empty(cls, tree: WordTree, image_size: tuple[int, int], source: str | None = None) -> Detections:
        """No detections."""
        return cls(
            boxes=np.empty((0, 4), np.float32),
            scores=np.empty(0, np.float32),
            objectness=np.empty(0, np.float32),
            nodes=np.empty(0, np.int64),
            paths=np.empty((0, 0), np.int64),
            path_probs=np.empty((0, 0), np.float32),
            tree=tree,
            image_size=image_size,
            source=source,
        )

    # ------------------------------------------------------------------------------------------------ looking

    def __len__(self) -> int:
        return len(self.nodes)

    def __iter__(self) -> Iterator[Detection]:
        return (self._one(index) for index in range(len(self)))

    @overload
    def __getitem__(self, key: int | np.integer[Any]) -> Detection: ...
    @overload
    def __getitem__(self, key: slice | ArrayLike) -> Detections: ...
    def __getitem__(self, key: Any) -> Detection | Detections:
        """One detection for an integer; the chosen ones for a slice, a mask [K] or a list of indices."""
        if isinstance(key, int | np.integer):
            if not -len(self) <= key < len(self):
                raise IndexError(f"detection {key} of {len(self)}")
            return self._one(int(key))
        if not isinstance(key, slice):
            key = np.asarray(key)
            key = key.astype(np.int64) if key.size == 0 else key
        return replace(self, **{name: getattr(self, name)[key] for name in _ARRAYS})

    def _one(self, index: int) -> Detection:
        nodes = self.paths[index][self.paths[index] >= 0]
        names = [self.tree.names[node] for node in nodes]
        conditional = self.path_probs[index, : len(nodes)].astype(np.float64)
        full = list(zip(names, np.cumprod(conditional).tolist(), strict=True))
        node = int(self.nodes[index])
        x1, y1, x2, y2 = self.boxes[index].tolist()
        return Detection(
            label=self.tree.names[node],
            wnid=self.tree.wnids[node],
            node=node,
            score=float(self.scores[index]),
            objectness=float(self.objectness[index]),
            box=(x1, y1, x2, y2),
            path=full[: int(self.tree.depth[node]) + 1],
            full_path=full,
            steps=list(zip(names, conditional.tolist(), strict=True)),
        )

    @property
    def labels(self) -> list[str]:
        """[K] names of the nodes."""
        return [self.tree.names[node] for node in self.nodes]

    def __repr__(self) -> str:
        found = [f"{label} {score:.2f}" for label, score in zip(self.labels, self.scores, strict=True)]
        if len(found) > _SHOWN:
            found[_SHOWN:] = [f"and {len(found) - _SHOWN} more"]
        return f"<Detections: {len(self)} in {self._where()}: {', '.join(found) or 'nothing'}>"

    def _where(self) -> str:
        height, width = self.image_size
        return f"{self.source or 'image'} ({width} × {height})"

    def __str__(self) -> str:
        count = f"{len(self)} detection{'' if len(self) == 1 else 's'}"
        return "\n".join([f"{self._where()}: {count}", *(f"  {detection}" for detection in self)])

    # -------------------------------------------------------------------------------------------------- depth

    def relabel(
        self, hier_threshold: float | None = None, depth: int | None = None, leaves: bool = False
    ) -> Detections:
        """Choose labels at another depth of the same paths, without the network.

        Args:
            hier_threshold: Go down the path as long as the next node's absolute probability is above this,
                0..1; the top node is always given. 0 goes to the leaf, 1 stays at the top.
            depth: Go down to this depth (0 is the top), or to the leaf where the path ends earlier. Together
                with `hier_threshold`, whichever stops first.
            leaves: Go down to the leaf.

        Returns:
            The same boxes with new labels, in the same order; scores become objectness × P(label).

        Raises:
            ConfigError: No rule given, `leaves` together with another, or a value out of range.
        """
        if leaves == (hier_threshold is not None or depth is not None):
            raise ConfigError("relabel takes hier_threshold, depth or both, or else leaves=True.")
        if hier_threshold is not None and not 0 <= hier_threshold <= 1:
            raise ConfigError(f"hier_threshold must lie in 0..1, found {hier_threshold}.")
        if depth is not None and depth < 0:
            raise ConfigError(f"depth must be 0 (the top) or more, found {depth}.")
        if not len(self):
            return self
        absolute = np.cumprod(self.path_probs.astype(np.float64), axis=1)
        last = (self.paths >= 0).sum(axis=1) - 1
        if hier_threshold is not None:
            # Absolute probabilities never grow along a path, so counting those above finds the stop.
            above = ((absolute > hier_threshold) & (self.paths >= 0)).sum(axis=1)
            last = np.clip(above - 1, 0, last)
        if depth is not None:
            last = np.minimum(last, depth)
        rows = np.arange(len(self))
        return replace(self, nodes=self.paths[rows, last], scores=self.objectness * absolute[rows, last])

    # --------------------------------------------------------------------------------------------------- JSON

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, ready for JSON; the schema is stable.

        Returns:
            `format` ("yolo9000-detections-1"), `source`, `width`, `height` and `detections`: for each its
            `label`, `wnid`, `node`, `score`, `objectness`, `box` (x1, y1, x2, y2 in pixels), `depth` of the
            label, and `path`, the nodes from the top to the leaf, each with `label`, `wnid`, `node` and the
            `probability` given its parent.
        """
        height, width = self.image_size
        return {
            "format": FORMAT,
            "source": self.source,
            "width": int(width),
            "height": int(height),
            "detections": [self._entry(index) for index in range(len(self))],
        }

    def _entry(self, index: int) -> dict[str, Any]:
        tree, node = self.tree, int(self.nodes[index])
        steps = zip(self.paths[index].tolist(), self.path_probs[index].tolist(), strict=True)
        return {
            "label": tree.names[node],
            "wnid": tree.wnids[node],
            "node": node,
            "score": round(float(self.scores[index]), _ROUND_P),
            "objectness": round(float(self.objectness[index]), _ROUND_P),
            "box": [round(value, _ROUND_PX) for value in self.boxes[index].tolist()],
            "depth": int(tree.depth[node]),
            "path": [
                {
                    "label": tree.names[step],
                    "wnid": tree.wnids[step],
                    "node": step,
                    "probability": round(p, _ROUND_P),
                }
                for step, p in steps
                if step >= 0
            ],
        }

    def to_json(self) -> str:
        """`to_dict` on one line, as JSON Lines wants it."""
        return json.dumps(self.to_dict(), ensure_ascii=False)


_ARRAYS = tuple(field.name for field in fields(Detections))[:6]


def _checked(name: str, value: ArrayLike, shape: tuple[int, ...], dtype: type[Any]) -> NDArray[Any]:
    array = np.asarray(value)
    if array.shape != shape and array.size == 0 and 0 in shape:
        array = array.reshape(shape)
    if array.shape != shape:
        raise DataError(f"{name} has shape {array.shape}; expected {shape}, one row for each of the nodes.")
    return np.ascontiguousarray(array, dtype=dtype)


def _refuse(bad: NDArray[np.bool_] | np.bool_, rule: str, values: NDArray[Any]) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(f"{rule}; found {values[row].tolist()} (detection {row}).")


def _are_paths(tree: WordTree, paths: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[K] whether each row of [K, L] starts at the top, goes from parent to child, and ends at a leaf."""
    if paths.shape[1] == 0:
        return np.zeros(len(paths), bool)
    valid = paths >= 0
    before = np.concatenate((np.full((len(paths), 1), -1), paths[:, :-1]), axis=1)
    linked = (tree.parent[paths] == before) | ~valid
    last = paths[np.arange(len(paths)), np.maximum(valid.sum(axis=1) - 1, 0)]
    contiguous = (valid[:, :-1] >= valid[:, 1:]).all(axis=1)
    return np.asarray(valid[:, 0] & contiguous & linked.all(axis=1) & tree.is_leaf[last])
