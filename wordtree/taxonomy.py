"""Hierarchies of one's own: nested names in YAML, and one tree grafted onto another.

animal:                       Keys and list items are nodes, what is nested is below. The id of a node is
  dog: [husky, pug]           its name with _ for spaces; or write it: office chair [SKU-12].
  cat:
furniture:
  - chair
  - office chair [SKU-12]
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wordtree._checks import NodeError
from wordtree.errors import FormatError, TreeError
from wordtree.layout import unique_ids
from wordtree.textfile import read_text
from wordtree.tree import WordTree

if TYPE_CHECKING:
    import yaml

SUFFIXES = (".yaml", ".yml")
_MOST_NODES = 1_000_000  # aliases can make a file of a few lines larger than any memory
_MOST_LEVELS = 200  # far beyond any taxonomy, and below Python's own limit
_REMEDY = "Write nested names: a key or a list item is a node, what is nested is below it."


@dataclass(frozen=True)
class _Entry:
    name: str
    id: str | None
    parent: int
    line: int


def read_yaml(path: str | Path) -> WordTree:
    """Read a tree from nested names, see above.

    Raises:
        FormatError: No YAML, YAML of another form, the same id twice, or a name twice below one parent where
            no id tells the two apart.
    """
    import yaml

    text = read_text(path, "a YAML taxonomy")
    try:
        document = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = f"no valid YAML: {getattr(error, 'problem', None) or 'unreadable'}."
        raise FormatError(what, path=path, line=mark.line + 1 if mark else None, remedy=_REMEDY) from None
    except RecursionError:
        raise FormatError("no tree: YAML nested too deep.", path=path, remedy=_REMEDY) from None
    entries: list[_Entry] = []
    if document is not None:
        for entry in _entries(document, path):
            entries.append(entry)
            if len(entries) > _MOST_NODES:
                raise FormatError(
                    f"more than {_MOST_NODES:,} nodes.", path=path, remedy="Remove aliases (*)."
                )
    if not entries:
        raise FormatError("expected nodes, got none.", path=path, remedy=_REMEDY)
    _refuse_twins(entries, path)
    ids = _ids(entries)
    parents = [None if entry.parent < 0 else ids[entry.parent] for entry in entries]
    try:
        return WordTree.from_edges(ids, parents, [entry.name for entry in entries])
    except NodeError as error:
        raise error.in_file(path, [entry.line for entry in entries]) from None


def _entries(document: yaml.Node, path: str | Path) -> Iterator[_Entry]:
    """Nodes depth-first, parents first."""
    import yaml

    number = 0
    waiting: list[
        tuple[yaml.Node, yaml.Node | None, int, int]
    ] = []  # a name, what is below it, parent, level

    def push(value: yaml.Node, parent: int, level: int) -> None:
        found: list[tuple[yaml.Node, yaml.Node | None]] = []
        if isinstance(value, yaml.MappingNode):
            found += value.value
        elif isinstance(value, yaml.SequenceNode):
            for item in value.value:
                found += item.value if isinstance(item, yaml.MappingNode) else [(item, None)]
        elif value.value.strip() and value.tag != "tag:yaml.org,2002:null":
            found.append((value, None))
        if level > _MOST_LEVELS:
            _fail(f"nested more than {_MOST_LEVELS} levels deep, or an alias within itself.", value, path)
        waiting.extend((name, below, parent, level) for name, below in reversed(found))

    push(document, -1, 0)
    while waiting:
        name, below, parent, level = waiting.pop()
        if not isinstance(name, yaml.ScalarNode) or not name.value.strip():
            _fail("expected a name, got none or something nested.", name, path)
        match = re.fullmatch(r"(.*\S)\s*\[(\S+)\]\s*", name.value)
        text, own_id = (match[1], match[2]) if match else (name.value.strip(), None)
        yield _Entry(text, own_id, parent, name.start_mark.line + 1)
        if below is not None:
            push(below, number, level + 1)
        number += 1


def _fail(what: str, node: yaml.Node, path: str | Path) -> None:
    raise FormatError(what, path=path, line=node.start_mark.line + 1, remedy=_REMEDY)


def _refuse_twins(entries: Sequence[_Entry], path: str | Path) -> None:
    """One name twice below one parent is most likely one node written twice, unless ids tell them apart."""
    lines: dict[tuple[int, str], int] = {}
    for entry in entries:
        place = entry.parent, "_".join(entry.name.split())
        if entry.id is None and place in lines:
            where = f"below {entries[entry.parent].name!r}" if entry.parent >= 0 else "at the top"
            what = f"{entry.name!r} stands {where} in line {lines[place]} already."
            remedy = f"Make one of the two, or tell them apart by ids: {entry.name} [ID]"
            raise FormatError(what, path=path, line=entry.line, remedy=remedy)
        if entry.id is None:
            lines[place] = entry.line


def _ids(entries: Sequence[_Entry]) -> list[str]:
    """Ids as written; the others from the names, none of them one that is written."""
    written = [entry.id for entry in entries if entry.id]
    invented = iter(
        unique_ids([*written, *(entry.name for entry in entries if not entry.id)])[len(written) :]
    )
    return [entry.id or next(invented) for entry in entries]


# -------------------------------------------------------------------------------------------------- grafting


def graft(base: WordTree, own: WordTree) -> WordTree:
    """Add a hierarchy of one's own to a tree.

    A top node of `own` that the base has, by id or name, is that node, wherever it stands; so is a node
    below it that the base has at the same place. All others are new, and stand last among their siblings.

    Examples:
        >>> chairs = WordTree.from_edges(["chair", "aeron"], [None, "chair"])
        >>> tree = graft(WordTree.load("voc"), chairs)
        >>> [tree.names[node] for node in tree.path("aeron")]
        ['instrumentality', 'furniture', 'seat', 'chair', 'aeron']

    Raises:
        TreeError: A name that several nodes of the base have, a new node with the id of another place, or two
            nodes that are one of the base.
    """
    place: list[int | None] = []  # of each own node in the base
    met: dict[int, str] = {}  # own ids of nodes of the base
    ids, names = list(base.wnids), list(base.names)
    parents: list[str | None] = [None if above < 0 else base.wnids[above] for above in base.parent.tolist()]
    for node, (wnid, name) in enumerate(zip(own.wnids, own.names, strict=True)):
        above = int(own.parent[node])
        found = _top(base, wnid, name) if above < 0 else _below(base, place[above], wnid, name)
        if found is not None and (first := met.setdefault(found, wnid)) != wnid:
            raise TreeError(
                f"{first!r} and {wnid!r} of yours are both the node {_way(base, found)}: make them one."
            )
        if found is None:
            if base.node_of(wnid) is not None:
                raise TreeError(
                    f"the id {wnid!r} is that of another node, {_way(base, wnid)}. Write it at the top to "
                    "add to it there, or give yours an id of its own."
                )
            ids.append(wnid)
            names.append(name)
            anchor = None if above < 0 else place[above]
            parents.append(own.wnids[above] if above >= 0 and anchor is None else _wnid(base, anchor))
        place.append(found)
    return WordTree.from_edges(ids, parents, names)


def _way(base: WordTree, node: int | str) -> str:
    return " > ".join(base.names[step] for step in base.path(node))


def _wnid(base: WordTree, node: int | None) -> str | None:
    return None if node is None else base.wnids[node]


def _top(base: WordTree, wnid: str, name: str) -> int | None:
    key = name if base.node_of(wnid) is None else wnid
    found = base.node_of(key) is not None or base.named(key)
    return base.index(key) if found else None  # index: refuses names that are not unique


def _below(base: WordTree, parent: int | None, wnid: str, name: str) -> int | None:
    if parent is None:
        return None
    children = base.children(parent).tolist()
    node = base.node_of(wnid)
    if node in children:
        return node
    return next((child for child in children if child in base.named(name)), None)
