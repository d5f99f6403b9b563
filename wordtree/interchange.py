"""Trees as JSON, GraphML and CSV: forms in which other programs and people write hierarchies.

All three name a node's parent by its id and may list nodes in any order; siblings keep the order of the file.

    CSV       child,parent,name           JSON   {"format": "wordtree-1", "nodes": [
              animal,,animal                       {"id": "animal", "name": "animal", "parent": null},
              dog,animal,dog                       {"id": "dog", "name": "dog", "parent": "animal"}]}
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from xml.parsers import expat

from wordtree._checks import NodeError
from wordtree._files import atomic_write
from wordtree.errors import FormatError, TreeError
from wordtree.textfile import read_text
from wordtree.tree import WordTree

JSON_FORMAT = "wordtree-1"
_HEADER = ["child", "parent", "name"]


def read_json(path: str | Path) -> WordTree:
    """Read a tree from JSON.

    Raises:
        FormatError: No JSON, JSON of another form, or nodes that are no tree.
    """
    text = read_text(path, "a JSON tree")
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        what = f"no valid JSON: {error.msg}."
        raise FormatError(what, path=path, line=error.lineno, remedy="Correct it.") from None
    except (RecursionError, ValueError):  # ValueError: a number of thousands of digits
        what = "no tree: JSON nested too deep, or with endless numbers."
        raise FormatError(what, path=path, remedy=_JSON_REMEDY) from None
    nodes = content.get("nodes") if isinstance(content, dict) else None
    if not isinstance(nodes, list) or content.get("format", JSON_FORMAT) != JSON_FORMAT:
        what = f'expected an object with "format": "{JSON_FORMAT}" and a list "nodes".'
        raise FormatError(what, path=path, line=1, remedy=_JSON_REMEDY)
    if more := content.keys() - {"format", "nodes"}:  # such as the edges of networkx's node_link_data
        what = f"expected format and nodes alone, got {', '.join(sorted(map(repr, more)))}, too."
        remedy = f"{_JSON_REMEDY} A graph with edges can be read as .graphml."
        raise FormatError(what, path=path, line=1, remedy=remedy)
    for number, node in enumerate(nodes):
        if problem := _json_node_problem(node):
            where = _json_lines(text, len(nodes))[number]
            raise FormatError(f"node {number}: {problem}", path=path, line=where, remedy=_JSON_REMEDY)
    ids = [node["id"] for node in nodes]
    names = [node.get("name", node["id"]) for node in nodes]
    parents = [node.get("parent") for node in nodes]
    return _tree(ids, parents, names, path, lambda: _json_lines(text, len(nodes)))


_JSON_KEYS = {"id", "name", "parent"}
_JSON_REMEDY = (
    'A node looks like {"id": "dog", "name": "dog", "parent": "animal"}, a top node has "parent": null.'
)


def _json_node_problem(node: object) -> str | None:
    if not isinstance(node, dict):
        return f"expected an object, got {node!r:.80}."
    if not node.keys() <= _JSON_KEYS:
        return f"unknown key {min(node.keys() - _JSON_KEYS)!r}."
    if not isinstance(node.get("id"), str) or not isinstance(node.get("name", ""), str):
        return '"id" and "name" must be texts.'
    if not isinstance(node.get("parent"), str | None):
        return f'"parent" must be an id or null, got {node["parent"]!r:.80}.'
    return None


def _json_lines(text: str, nodes: int) -> Sequence[int | None]:
    """Line of each node's "id"; no lines where it stands elsewhere too, or is missing somewhere."""
    line, lines = 1, list[int]()
    for match in re.finditer(r'\n|"id"\s*:', text):
        if match[0] == "\n":
            line += 1
        else:
            lines.append(line)
            line += match[0].count("\n")
    return lines if len(lines) == nodes else [None] * nodes


def write_json(tree: WordTree, path: str | Path) -> None:
    """Write a tree as JSON, one node a line."""
    nodes = []
    for wnid, name, parent in zip(tree.wnids, tree.names, _parent_ids(tree), strict=True):
        nodes.append("  " + json.dumps({"id": wnid, "name": name, "parent": parent}, ensure_ascii=False))
    _write(path, f'{{"format": "{JSON_FORMAT}", "nodes": [\n' + ",\n".join(nodes) + "\n]}\n")


def read_csv(path: str | Path) -> WordTree:
    """Read a tree from lines of `child,parent` or `child,parent,name`; top nodes have an empty parent.

    A header line `child,parent,name` is optional. White space inside an id becomes `_`; the name keeps it.

    Raises:
        FormatError: A line with another number of columns, or lines that are no tree.
    """
    reader = csv.reader(io.StringIO(read_text(path, "a CSV tree"), newline=""), strict=True)
    ids: list[str] = []
    parents: list[str | None] = []
    names: list[str] = []
    lines: list[int] = []
    try:
        for row in reader:
            fields = [field.strip() for field in row]
            titles = [] if lines else [field.lower() for field in fields]
            if not any(fields) or (titles and titles == _HEADER[: len(titles)]):
                continue
            if len(titles) > 1 and set(titles) <= set(_HEADER):
                what = f"expected the columns {','.join(_HEADER)}, got {','.join(titles)}."
                raise FormatError(what, path=path, line=reader.line_num, remedy="Put them into this order.")
            if len(fields) not in (2, 3):
                what = f"expected 2 or 3 columns, got {len(fields)}: {','.join(row)[:80]!r}."
                remedy = "Write child,parent,name in a line: dog,animal,dog"
                raise FormatError(what, path=path, line=reader.line_num, remedy=remedy)
            ids.append(_identifier(fields[0]))
            parents.append(_identifier(fields[1]) or None)
            names.append(fields[2] if len(fields) == 3 and fields[2] else fields[0])
            lines.append(reader.line_num)
    except csv.Error as error:
        what, remedy = f"no valid CSV: {error}.", "Close quotes; double them inside."
        raise FormatError(what, path=path, line=reader.line_num, remedy=remedy) from None
    if not ids:
        raise FormatError(
            "expected nodes, got only a header.", path=path, remedy="Add lines: child,parent,name"
        )
    return _tree(ids, parents, names, path, lambda: lines)


def _identifier(text: str) -> str:
    return "_".join(text.split())


def write_csv(tree: WordTree, path: str | Path) -> None:
    """Write a tree as `child,parent,name` lines with a header."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_HEADER)
    writer.writerows(zip(tree.wnids, _parent_ids(tree), tree.names, strict=True))
    _write(path, buffer.getvalue())


def read_graphml(path: str | Path) -> WordTree:
    """Read a tree from GraphML: edges from parent to child; the node attribute `name` is optional.

    Raises:
        FormatError: No XML or GraphML, or a graph that is no forest.
    """
    import networkx as nx

    text = read_text(path, "a GraphML tree")
    lines = _graphml_lines(text, path)
    remedy = "Write it with `tree.save('x.graphml')` or networkx to see the form."
    try:
        graph = nx.read_graphml(io.BytesIO(text.encode()), node_type=str)
    except (nx.NetworkXError, KeyError, ValueError, AttributeError, TypeError, SyntaxError) as error:
        raise FormatError(
            f"networkx cannot read this as GraphML: {error}.", path=path, remedy=remedy
        ) from error
    if not len(graph):
        raise FormatError("the graph has no nodes.", path=path, remedy=remedy)
    try:
        return WordTree.from_networkx(cast("nx.DiGraph[Any]", graph))
    except NodeError as error:
        raise error.in_file(path, [lines.get(node) for node in graph]) from None
    except TreeError as error:
        raise FormatError(str(error), path=path, remedy='Use <graph edgedefault="directed">.') from None


def _graphml_lines(text: str, path: str | Path) -> dict[str, int]:
    """Line of each node; networkx, which reads the rest, would merge duplicates and invent missing nodes."""
    lines: dict[str, int] = {}
    ends: list[tuple[str, int]] = []
    parser = expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        line, kind = parser.CurrentLineNumber, tag.rpartition(":")[2]
        if kind == "node":
            node = attributes.get("id", "")
            if node in lines:
                what = f"the node {node!r} stands in line {lines[node]} already."
                raise FormatError(what, path=path, line=line, remedy="Remove one of the two, or rename it.")
            lines[node] = line
        if kind == "edge":
            ends.extend((attributes.get(end, ""), line) for end in ("source", "target"))

    parser.StartElementHandler = start
    try:
        parser.Parse(text.encode(), True)
    except expat.ExpatError as error:
        what = f"no valid XML: {expat.ErrorString(error.code)}."
        raise FormatError(
            what, path=path, line=error.lineno, remedy="Correct it, or export it again."
        ) from None
    except (LookupError, ValueError) as error:  # an encoding that Python does not know, or of several bytes
        raise FormatError(f"no valid XML: {error}.", path=path, line=1, remedy="Save it as UTF-8.") from None
    for node, line in ends:
        if node not in lines:
            what = f"an edge names the unknown node {node!r}."
            raise FormatError(what, path=path, line=line, remedy="Add the node, or correct its id.")
    return lines


def write_graphml(tree: WordTree, path: str | Path) -> None:
    """Write a tree as GraphML: edges from parent to child, node attribute `name`."""
    import networkx as nx

    _write(path, "\n".join(nx.generate_graphml(tree.to_networkx())) + "\n")


READERS: Mapping[str, Callable[[str | Path], WordTree]] = {
    ".json": read_json,
    ".csv": read_csv,
    ".graphml": read_graphml,
}
WRITERS: Mapping[str, Callable[[WordTree, str | Path], None]] = {
    ".json": write_json,
    ".csv": write_csv,
    ".graphml": write_graphml,
}


def _parent_ids(tree: WordTree) -> list[str | None]:
    return [None if parent < 0 else tree.wnids[parent] for parent in tree.parent.tolist()]


def _tree(
    ids: Sequence[str],
    parents: Sequence[str | None],
    names: Sequence[str],
    path: str | Path,
    lines: Callable[[], Sequence[int | None]],
) -> WordTree:
    try:
        return WordTree.from_edges(ids, parents, names)
    except NodeError as error:
        raise error.in_file(path, lines()) from None
    except TreeError as error:
        raise FormatError(str(error), path=path) from None


def _write(path: str | Path, text: str) -> None:
    with atomic_write(path, text=True) as stream:
        stream.write(text)
