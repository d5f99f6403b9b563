"""Tree files: darknet's `.tree`, `.names`, `.labels` and `.map`, and the choice of format by a file's ending.

A darknet tree has one line a node, in layout order: `<id> <index of the parent, or -1>`. `.names` and
`.labels` hold one name and one id a line. A `.map` gives, for each class of a data set, its node's index. A
model file of yolo9000 (safetensors) has the texts of a `.tree` and its `.names` in its metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wordtree._checks import NodeError, check_line
from wordtree._files import atomic_write, check_replaceable, write_together
from wordtree.errors import FormatError, TreeError
from wordtree.textfile import MAX_BYTES, exists, lines_of, read_text
from wordtree.tree import WordTree

DATA = Path(__file__).parent / "data"
STORED_TREES = {"yolo9000": DATA / "yolo9000.tree"}
SUFFIXES = (".tree", ".json", ".graphml", ".csv")
MODEL_SUFFIX = ".safetensors"
_UNSIGNED_DIGITS = 9  # a longer number is no index of anything we could hold in memory


def load_tree(source: str | Path) -> WordTree:
    """Read a tree file, or load a built-in tree by name; see `WordTree.load`.

    Raises:
        FormatError: No such file or built-in tree, or a file that breaks its format.
    """
    from wordtree.classes import CLASS_LISTS
    from wordtree.taxonomy import SUFFIXES as YAML_SUFFIXES
    from wordtree.taxonomy import read_yaml

    if str(source) in STORED_TREES:
        return read_darknet_tree(STORED_TREES[str(source)])
    if str(source) in CLASS_LISTS:
        from wordtree.builder import build_tree

        return build_tree(str(source)).tree
    suffix = Path(source).suffix.lower()
    if suffix == ".tree":
        return read_darknet_tree(source)
    if suffix in SUFFIXES:
        from wordtree import interchange

        return interchange.READERS[suffix](source)
    if suffix in YAML_SUFFIXES:
        return read_yaml(source)
    if suffix == MODEL_SUFFIX:
        return read_model_tree(source)
    if exists(source):
        remedy = f"Give the file one of the endings {', '.join((*SUFFIXES, *YAML_SUFFIXES, MODEL_SUFFIX))}."
        raise FormatError("the file's ending names no tree format.", path=source, remedy=remedy)
    names = ", ".join(CLASS_LISTS)
    raise FormatError(f"no tree file or built-in tree {str(source)!r}.", remedy=f"Built in are {names}.")


def save_tree(tree: WordTree, path: str | Path, suffix: str | None = None) -> list[Path]:
    """Write a tree.

    Args:
        tree: The tree.
        path: The file. As `.tree` three files are written, all or none: `x.tree`, `x.names`, `x.labels`.
        suffix: `.tree`, `.json`, `.graphml` or `.csv`: the format; the ending of `path` when left out.

    Returns:
        The files written.

    Raises:
        FormatError: The ending names no format, or that of a file beside the tree.
    """
    target = Path(path)
    suffix = check_suffix(target, suffix)
    if suffix == ".tree":
        files = darknet_files(tree, target)
        write_together(files)
        return list(files)
    from wordtree import interchange

    interchange.WRITERS[suffix](tree, target)
    return [target]


def check_suffix(path: str | Path, suffix: str | None = None) -> str:
    """The format to write a file in, as an ending: `suffix`, or else the file's own.

    Raises:
        FormatError: The ending names no format.
        OSError: The file cannot be replaced.
    """
    check_replaceable(Path(path))
    chosen = Path(path).suffix.lower() if suffix is None else suffix
    if chosen not in SUFFIXES:
        remedy = f"Use one of the endings {', '.join(SUFFIXES)}."
        raise FormatError("the file's ending names no tree format.", path=path, remedy=remedy)
    return chosen


def darknet_files(tree: WordTree, path: Path) -> dict[Path, str]:
    """The files of a darknet tree with their contents: `path`, and the `.names` and `.labels` beside it.

    Raises:
        FormatError: `path` is one of these two itself.
    """
    names, labels = path.with_suffix(".names"), path.with_suffix(".labels")
    if path in (names, labels):
        raise FormatError(f"{path.suffix} is for a file beside the tree.", path=path, remedy="Name it .tree.")
    return {path: darknet_text(tree), names: lines_text(tree.names), labels: lines_text(tree.wnids)}


def darknet_text(tree: WordTree) -> str:
    """The content of a darknet `.tree` file: `<wnid> <parent>` a line."""
    pairs = zip(tree.wnids, tree.parent.tolist(), strict=True)
    return "".join(f"{wnid} {parent}\n" for wnid, parent in pairs)


def parse_darknet_tree(text: str, path: str | Path | None = None) -> WordTree:
    """A tree from the content of a darknet `.tree` file; names are the ids.

    Args:
        text: `<id> <parent>` a line.
        path: The file, for messages.

    Raises:
        FormatError: A line that breaks the format, or lines that are no tree.
    """
    wnids, parents = [], []
    for number, line in enumerate(lines_of(text), 1):
        fields = line.split()
        if len(fields) != 2:
            what = f"expected 2 columns, an id and a parent's line index, got {len(fields)}: {line[:80]!r}."
            raise FormatError(what, path=path, line=number, remedy="Write a line as: n02084071 -1")
        wnids.append(fields[0])
        parents.append(_parent_index(fields[1], number, path))
    try:
        return WordTree(parents, wnids)
    except NodeError as error:
        raise error.in_file(path, range(1, len(wnids) + 1)) from None


def _parent_index(field: str, line: int, path: str | Path | None) -> int:
    digits = field.removeprefix("-")
    if digits.isascii() and digits.isdigit() and len(digits) <= _UNSIGNED_DIGITS:
        return int(field)
    what = f"expected the index of the parent as a whole number, got {field!r}."
    raise FormatError(what, path=path, line=line, remedy="Top nodes have -1; the first line is node 0.")


def read_darknet_tree(path: str | Path) -> WordTree:
    """Read a `.tree` file, names from the `.names` beside it, the `.labels` beside it checked.

    Raises:
        FormatError: One of the files breaks its format, or they do not belong together.
    """
    file = Path(path)
    tree = parse_darknet_tree(read_text(file, "a darknet tree"), file)
    names_file, labels_file = file.with_suffix(".names"), file.with_suffix(".labels")
    if names_file.exists():
        names = read_lines(names_file, "names")
        if len(names) != len(tree):
            what = f"expected {len(tree):,} names, one for each node of {file.name}, got {len(names):,}."
            raise FormatError(what, path=names_file, remedy="Use the names written with this tree, or none.")
        tree = WordTree(tree.parent, tree.wnids, names)
    if labels_file.exists():
        _check_labels(tree, labels_file, file)
    return tree


def read_model_tree(path: str | Path) -> WordTree:
    """The tree of a model file of yolo9000; only the file's header is read.

    Raises:
        FormatError: The file is missing, damaged, or another safetensors file.
    """
    try:
        with Path(path).open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            metadata = json.loads(stream.read(min(length, MAX_BYTES)))["__metadata__"]
        return described_tree(metadata)
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror or error}.", path=path) from error
    except KeyError as error:
        what = f"expected a model file of yolo9000, with its tree inside; it has no {error}."
        raise FormatError(what, path=path, remedy="`yolo9000 convert` writes such files.") from error
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError, TreeError) as error:
        what = f"expected a model file of yolo9000, with its tree inside: {error}."
        raise FormatError(what, path=path, remedy="It is damaged, cut off or of another kind.") from error


def described_tree(metadata: Mapping[str, str]) -> WordTree:
    """The tree of a model file's entries `tree` and `names`.

    Raises:
        KeyError, ValueError, OverflowError, TreeError: They are missing, or describe none.
    """
    rows = [line.split(" ") for line in metadata["tree"].split("\n")]
    if bad := next((number for number, row in enumerate(rows, 1) if len(row) != 2), None):
        raise ValueError(f"line {bad} of its tree is not 'wnid parent'")
    wnids, parents = zip(*rows, strict=True)
    return WordTree([int(parent) for parent in parents], wnids, metadata["names"].split("\n"))


def _check_labels(tree: WordTree, labels_file: Path, tree_file: Path) -> None:
    labels = read_lines(labels_file, "labels")
    if tuple(labels) == tree.wnids:
        return
    pairs = zip(labels, tree.wnids, strict=False)
    line = next((i for i, (a, b) in enumerate(pairs, 1) if a != b), min(len(labels), len(tree)) + 1)
    what = f"the labels differ from the ids in {tree_file.name}, line {line}."
    raise FormatError(
        what, path=labels_file, line=line, remedy="Use the labels written with this tree, or none."
    )


def read_lines(path: str | Path, kind: str = "a list") -> list[str]:
    """The lines of a `.names` or `.labels` file.

    Raises:
        FormatError: The file is empty, no text, or has a blank line or a tab within one.
    """
    lines = [line.strip() for line in lines_of(read_text(path, f"a file of {kind}"))]
    for number, line in enumerate(lines, 1):
        check_line(line, path, number)
    if "" in lines:
        number = lines.index("") + 1
        raise FormatError(
            "a blank line.", path=path, line=number, remedy="Line n belongs to node n − 1: fill it."
        )
    return lines


def write_lines(path: str | Path, lines: Sequence[str]) -> None:
    """Write one text a line, the file whole or not at all."""
    with atomic_write(path, text=True) as stream:
        stream.write(lines_text(lines))


def load_map(path: str | Path, tree: WordTree | None = None) -> NDArray[np.int32]:
    """Read a darknet `.map`: for each class of a data set (in its order) the index of its tree node.

    Args:
        path: The file, one index a line.
        tree: When given, indices are checked against it.

    Returns:
        [number of classes] node indices.

    Raises:
        FormatError: A line that is no index, or an index that the tree does not have.
    """
    nodes = []
    for number, line in enumerate(lines_of(read_text(path, "a darknet map")), 1):
        field = line.strip()
        if not (field.isascii() and field.isdigit() and len(field) <= _UNSIGNED_DIGITS):
            what = f"expected the index of a tree node, got {line[:80]!r}."
            raise FormatError(what, path=path, line=number, remedy="Write one whole number a line.")
        if tree is not None and int(field) >= len(tree):
            what = f"node {field} does not exist: the tree has {len(tree):,} nodes, from 0."
            raise FormatError(what, path=path, line=number, remedy="Use the map written for this tree.")
        nodes.append(int(field))
    return np.array(nodes, np.int32)


def save_map(nodes: ArrayLike, path: str | Path) -> None:
    """Write a darknet `.map`: one node index a line.

    Raises:
        TreeError: Indices below 0, or none.
    """
    array = np.asarray(nodes).reshape(-1)
    if not len(array) or not np.issubdtype(array.dtype, np.integer) or array.min() < 0:
        raise TreeError("expected at least one node index, all 0 or more, as whole numbers.")
    write_lines(path, [str(node) for node in array.tolist()])


def lines_text(lines: Sequence[str]) -> str:
    """The content of a file with one text a line."""
    return "".join(f"{line}\n" for line in lines)
