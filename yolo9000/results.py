"""What detection returns: parallel arrays that can be sliced, looped over, relabelled and written.

Letters: K detections, L steps of the longest path, N tree nodes.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wordtree.tree import WordTree
from yolo9000.errors import ConfigError, DataError
from yolo9000.labelling import Candidates, Labelling, Threshold, are_paths, choose, labels, permitted

if TYPE_CHECKING:
    import pandas as pd
    import supervision as sv

_SLACK = 1e-4  # how far beyond 0..1 a float32 product of probabilities may land
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

    Every detection keeps its path down to a leaf with the probability of each step, and what `detect` returns
    also keeps the candidates that gave no detection, so that `relabel` can choose another depth without
    running the network again.

    Attributes:
        boxes: [K, 4] float32 x1, y1, x2, y2 in pixels of the original picture.
        scores: [K] float32, 0..1.
        objectness: [K] float32, 0..1.
        nodes: [K] int64 label of each detection; lies on its path.
        paths: [K, L] int64 nodes from the top to a leaf, −1 after the leaf.
        path_probs: [K, L] float32 probability of each node given its parent, 0 after the leaf.
        tree: The tree that the nodes belong to.
        image_size: (height, width) of the picture, pixels.
        source: Path or URL of the picture or video, None for one that was only in memory.
        frame: Number of the frame in its video, from 0; None for a picture.
        time: Seconds from the beginning of the video; None for a picture.
        candidates: All that could become a detection; None after slicing.
        labelling: The rules by which the labels were chosen; None where they are not known.

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
    frame: int | None = None
    time: float | None = None
    candidates: Candidates | None = None
    labelling: Labelling | None = None

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
        _refuse(~are_paths(self.tree, self.paths), "paths must run from a top node to a leaf", self.paths)
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

    @classmethod
    def choose(
        cls,
        candidates: Candidates,
        rule: Labelling,
        tree: WordTree,
        image_size: tuple[int, int],
        **about: Any,
    ) -> Detections:
        """Turn candidates into detections; see `yolo9000.labelling.choose`.

        Args:
            candidates: Of one picture.
            rule: How to label them.
            tree: The tree of their paths.
            image_size: (height, width) of the picture, pixels; boxes are clipped to it, and those that lie
                wholly outside are left out.
            about: `source`, `frame` and `time`.
        """
        rule = rule.for_tree(tree)
        pick, nodes, scores = choose(candidates, rule, tree)
        height, width = image_size
        boxes = np.clip(candidates.boxes[pick], 0, np.array([width, height, width, height], np.float32))
        inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        pick = pick[inside]
        return cls(
            boxes=boxes[inside],
            scores=scores[inside],
            objectness=candidates.objectness[pick],
            nodes=nodes[inside],
            paths=candidates.paths[pick],
            path_probs=candidates.path_probs[pick],
            tree=tree,
            image_size=image_size,
            candidates=candidates,
            labelling=rule,
            **about,
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
        if not isinstance(key, slice):
            key = np.asarray(key)
            if key.ndim == 0:
                index = operator.index(key)
                if not -len(self) <= index < len(self):
                    raise IndexError(f"detection {index} of {len(self)}")
                return self._one(index)
            key = key.astype(np.int64) if key.size == 0 else key
        chosen = {name: getattr(self, name)[key] for name in _ARRAYS}
        return replace(self, **chosen, candidates=None)  # the chosen ones alone can be relabelled

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
        self,
        hier_threshold: Threshold | None = None,
        depth: int | None = None,
        leaves: bool = False,
        *,
        threshold: Threshold | None = None,
        under: str | Iterable[str] | None = None,
        not_under: str | Iterable[str] | None = None,
        nms: float | None = None,
    ) -> Detections:
        """Choose labels by other rules, without the network.

        What `detect` returned, or was read from a file it wrote, becomes what `detect` would return with
        these settings: other labels can be above the threshold, or duplicates of each other. Detections that
        were picked out of it (`found[:3]`, `found[found.scores > 0.5]`) stay the same boxes in the same
        order, but for those that `threshold`, `under` and `not_under` drop.

        Args:
            hier_threshold: Go down the path as long as the next node's absolute probability is above this,
                0..1; the top node is always given. 0 goes to the leaf, 1 stays at the top. Or a mapping, see
                `yolo9000.labelling.Labelling`, as all that follows.
            depth: Go down to this depth (0 is the top), or to the leaf where the path ends earlier. Together
                with `hier_threshold`, whichever stops first.
            leaves: Go down to the leaf.
            threshold: Lowest score; not below the one that was detected with.
            under: Only labels at or below one of these nodes.
            not_under: No labels at or below one of these nodes.
            nms: Overlap above which boxes with related labels are one object.

        Returns:
            Detections with new labels and scores; settings that are left out stay as they were.

        Raises:
            ConfigError: No rule given, rules that exclude each other, or a value out of range.
            TreeError: A node that the tree does not have.
        """
        options: dict[str, Any] = {
            "threshold": threshold, "hier_threshold": hier_threshold, "depth": depth,
            "leaves": leaves or None, "under": under, "not_under": not_under, "nms": nms,
        }  # fmt: skip
        given = {name: value for name, value in options.items() if value is not None}
        if not given:
            raise ConfigError(f"relabel takes one of {', '.join(options)}.")
        if self.candidates is None:
            return self._relabelled(given)
        assert self.labelling is not None
        rule = self.labelling.changed(**given)
        if rule.lowest_threshold < self.labelling.lowest_threshold:
            raise ConfigError(
                f"the threshold was {self.labelling.lowest_threshold:g} in detection and can only be raised; "
                f"found {rule.lowest_threshold:g}. Detect again with a lower one."
            )
        return Detections.choose(
            self.candidates, rule, self.tree, self.image_size,
            source=self.source, frame=self.frame, time=self.time,
        )  # fmt: skip

    def _relabelled(self, given: Mapping[str, Any]) -> Detections:
        """These boxes and no others with new labels, in the same order."""
        if not {"hier_threshold", "depth", "leaves"} & given.keys():
            raise ConfigError("relabel needs hier_threshold, depth or leaves where candidates are not known.")
        if "nms" in given:
            raise ConfigError("nms needs the candidates, and these detections were picked out of them.")
        free = replace(self.labelling or Labelling(), threshold=0.0, under=(), not_under=())
        rule = free.changed(**given).for_tree(self.tree)
        found = Candidates(self.boxes, self.objectness, self.paths, self.path_probs)
        nodes, scores = labels(found, rule, self.tree)
        kept = np.ones(len(self), bool)
        if given.keys() & {"threshold", "under", "not_under"}:
            kept = permitted(nodes, *labels(found, rule.sure, self.tree), rule, self.tree)
        return replace(self[kept], nodes=nodes[kept], scores=scores[kept], labelling=rule)

    # ------------------------------------------------------------------------------------------- other forms

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, ready for JSON; see `yolo9000.stored`."""
        from yolo9000.stored import to_dict

        return to_dict(self)

    def to_json(self) -> str:
        """`to_dict` on one line, as JSON Lines wants it."""
        from yolo9000.stored import to_json

        return to_json(self)

    @classmethod
    def from_json(cls, line: str, tree: WordTree) -> Detections:
        """Read back what `to_json` wrote: the same detections, bit by bit.

        Args:
            line: One line of a JSON Lines file.
            tree: The tree of the model that detected.

        Raises:
            DataError: No such JSON, or another tree.
        """
        from yolo9000.stored import from_json

        return from_json(line, tree)

    def to_supervision(self) -> sv.Detections:
        """As `supervision.Detections`: `class_id` is the node; `data` holds names, ids, paths and more.

        Raises:
            ConfigError: supervision is not installed.
        """
        from yolo9000.adapters import to_supervision

        return to_supervision(self)

    def to_pandas(self) -> pd.DataFrame:
        """As a data frame, one row a detection; several pictures go together with `pandas.concat`.

        Raises:
            ConfigError: pandas is not installed.
        """
        from yolo9000.adapters import to_pandas

        return to_pandas(self)


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
