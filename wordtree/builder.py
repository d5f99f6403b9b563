"""Building a WordTree from a class list and WordNet, by four rules and a list of visible choices.

1. *Fewest new nodes.* Every class with a single hypernym path to the root is added first; then each class
   with several, in list order, by the path that adds the fewest nodes to the tree so far (YOLO9000 paper,
   section 4; of equal paths the one whose steps, from the class upwards, have the lowest ids).
2. *No pointless inner nodes.* An inner node that is no class and has one child goes; its child moves up.
3. *No softmax over one.* Where a class has one child and that child is a leaf, the child becomes its sibling.
4. *Drop the trivial top.* `entity` and `physical entity` go, unless they are classes; so do `object` and
   `whole` where one of them stands alone at the top.

A choice makes one synset have one given hypernym, before the rules run. Siblings stand in the order in which
the class list first names them or something below them; groups are laid out depth-first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wordtree.classes import CLASS_LISTS, ClassEntry, class_list
from wordtree.errors import FormatError, TreeError
from wordtree.layout import depth_first
from wordtree.textfile import lines_of, read_text
from wordtree.tree import WordTree
from wordtree.wordnet import WordNet

_DATA = Path(__file__).parent / "data"
TRIVIAL_TOP = ("n00001740", "n00001930")  # entity, physical entity: true of everything that can be seen
TRIVIAL_ALONE = ("n00002684", "n00003553")  # object, whole: say nothing on their own

_ABSENT, _TOP = -2, -1  # marks in a parent array: not in the tree; no parent


@dataclass(frozen=True)
class Choice:
    """One decision that WordNet leaves open: the hypernym that a synset keeps.

    Args:
        child: Id of the synset.
        parent: Id of its only hypernym.
        reason: What the choice is.
        line: Line of the choices file, 0 when it is from none.
    """

    child: str
    parent: str
    reason: str
    line: int = 0


@dataclass(frozen=True)
class Build:
    """A derived tree and how it came about.

    Args:
        tree: The tree.
        classes: The class list it was derived from.
        class_nodes: [number of classes] node of each class, in list order: a darknet map.
        choices: The choices that were applied.
        by_rules: Nodes whose parent (or standing at the top) the rules alone give as well.
    """

    tree: WordTree
    classes: tuple[ClassEntry, ...]
    class_nodes: NDArray[np.int32]
    choices: tuple[Choice, ...]
    by_rules: int

    @property
    def by_choice(self) -> int:
        """Nodes whose parent differs from what the rules alone give."""
        return len(self.tree) - self.by_rules


def build_tree(
    classes: str | Path | Sequence[ClassEntry] | Sequence[str] = "yolo9000",
    *,
    wordnet: WordNet | None = None,
    choices: str | Path | Sequence[Choice] | None = None,
    rules_only: bool = False,
) -> Build:
    """Derive a tree.

    Args:
        classes: A built-in list, a file (see `class_list`), or a sequence of entries or WordNet ids.
        wordnet: The database; the packed WordNet 3.0 when left out.
        choices: Choices or a file of them; when left out, those that come with a built-in list.
        rules_only: Apply no choices.

    Raises:
        FormatError: The class list or the choices file breaks its format.
        TreeError: A class is not in WordNet, or stands in the list twice.
    """
    nouns = WordNet.packed() if wordnet is None else wordnet
    entries = _entries(classes, nouns)
    wanted = _synsets(entries, nouns)
    applied = () if rules_only else _choices(classes, choices)
    parent = _derive(wanted, nouns, _hypernyms_chosen(applied, nouns))
    tree, node_of = _lay_out(parent, wanted, entries, nouns)
    by_rules = len(tree)
    if applied:
        alone = _derive(wanted, nouns, {})
        by_rules = sum(alone[synset] == parent[synset] for synset in node_of)
    nodes = np.array([node_of[synset] for synset in wanted], np.int32)
    return Build(tree, entries, nodes, applied, by_rules)


def load_choices(path: str | Path) -> tuple[Choice, ...]:
    """Read a choices file: child's id, parent's id and reason a line; `#` starts a comment line.

    Raises:
        FormatError: A line of another form, or a second choice for one child.
    """
    found: dict[str, Choice] = {}
    for number, line in enumerate(lines_of(read_text(path, "a choices file")), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = re.fullmatch(r"\s*(n\d{8})\s+(n\d{8})\s+(\S.*)", line)
        if match is None:
            what = f"expected two ids and a reason, got {line[:80]!r}."
            raise FormatError(what, path=path, line=number, remedy="Write: <child id> <parent id> <why>")
        if (first := found.get(match[1])) is not None:
            what = f"a second choice for {match[1]}, chosen in line {first.line} already."
            raise FormatError(what, path=path, line=number, remedy="Keep one of the two.")
        found[match[1]] = Choice(match[1], match[2], match[3].strip(), number)
    return tuple(found.values())


# -------------------------------------------------------------------------------------------- input


def _entries(
    classes: str | Path | Sequence[ClassEntry] | Sequence[str], nouns: WordNet
) -> tuple[ClassEntry, ...]:
    if isinstance(classes, str | Path):
        return tuple(class_list(classes, nouns))
    if not classes:
        raise TreeError("expected at least one class, got none.")
    return tuple([ClassEntry(nouns.name(c), c) if isinstance(c, str) else c for c in classes])


def _synsets(entries: Sequence[ClassEntry], nouns: WordNet) -> list[int]:
    seen: dict[str, int] = {}
    for number, entry in enumerate(entries):
        if (first := seen.setdefault(entry.wnid, number)) != number:
            raise TreeError(f"classes {first} and {number} have the same id {entry.wnid}; remove one.")
    return [nouns.index(entry.wnid) for entry in entries]


def _choices(classes: object, choices: str | Path | Sequence[Choice] | None) -> tuple[Choice, ...]:
    if isinstance(choices, str | Path):
        return load_choices(choices)
    if choices is not None:
        return tuple(choices)
    own = _DATA / f"{classes}.choices"
    built_in = isinstance(classes, str) and classes in CLASS_LISTS
    return load_choices(own) if built_in and own.exists() else ()


def _hypernyms_chosen(choices: Sequence[Choice], nouns: WordNet) -> dict[int, tuple[int, ...]]:
    chosen: dict[int, tuple[int, ...]] = {
        nouns.index(choice.child): (nouns.index(choice.parent),) for choice in choices
    }
    for choice in choices:
        _refuse_circle(choice, nouns, chosen)
    return chosen


def _refuse_circle(choice: Choice, nouns: WordNet, chosen: Mapping[int, tuple[int, ...]]) -> None:
    child = nouns.index(choice.child)
    above, waiting = set[int](), list(chosen[child])
    while waiting:
        synset = waiting.pop()
        if synset == child:
            what = f"the choice {choice.child} < {choice.parent} makes {choice.child} its own ancestor"
            raise TreeError(f"{what} (line {choice.line} of the choices). Choose another parent.")
        if synset not in above:
            above.add(synset)
            waiting.extend(chosen.get(synset) or nouns.hypernyms(synset))


# -------------------------------------------------------------------------------------------- rules


def _derive(wanted: Sequence[int], nouns: WordNet, chosen: Mapping[int, tuple[int, ...]]) -> list[int]:
    """Parent of each synset by the four rules; `_ABSENT` where it is not in the tree."""
    parent = _fewest_new_nodes(wanted, nouns, chosen)
    classes = set(wanted)
    children: dict[int, list[int]] = {}
    for synset, above in enumerate(parent):
        if above != _ABSENT:
            children.setdefault(above, []).append(synset)
    order = depth_first([children.get(synset, []) for synset in range(len(parent))], children[_TOP])
    _drop_pointless(parent, children, classes, order)
    _lift_single_leaves(parent, children, order)
    _drop_trivial_top(parent, children, classes, nouns)
    return parent


def _fewest_new_nodes(
    wanted: Sequence[int], nouns: WordNet, chosen: Mapping[int, tuple[int, ...]]
) -> list[int]:
    """Rule 1."""
    known: dict[int, tuple[tuple[int, ...], ...]] = {}

    def paths(synset: int) -> tuple[tuple[int, ...], ...]:
        if (found := known.get(synset)) is None:
            above = chosen.get(synset) or nouns.hypernyms(synset)
            found = tuple([(*path, synset) for other in above for path in paths(other)]) or ((synset,),)
            known[synset] = found
        return found

    parent = [_ABSENT] * len(nouns)
    several = []
    for synset in wanted:
        if len(paths(synset)) == 1:
            _join(parent, paths(synset)[0])
        else:
            several.append(synset)
    for synset in several:
        if parent[synset] == _ABSENT:
            _join(parent, min(paths(synset), key=lambda path: _new_nodes(parent, path)))
    return parent


def _new_nodes(parent: Sequence[int], path: Sequence[int]) -> int:
    """How many nodes of a path (top first) stand below the deepest one that is in the tree already."""
    for count, synset in enumerate(reversed(path)):
        if parent[synset] != _ABSENT:
            return count
    return len(path)


def _join(parent: list[int], path: Sequence[int]) -> None:
    """Add the end of a path below the deepest of its nodes that is in the tree already."""
    for synset, above in zip(reversed(path), [*reversed(path[:-1]), _TOP], strict=True):
        if parent[synset] != _ABSENT:
            return
        parent[synset] = above


def _drop_pointless(
    parent: list[int], children: dict[int, list[int]], classes: set[int], order: Sequence[int]
) -> None:
    """Rule 2, from the bottom up, so that chains vanish whole."""
    for synset in reversed(order):
        if synset not in classes and len(children.get(synset, ())) == 1:
            _remove(synset, parent, children)


def _lift_single_leaves(parent: list[int], children: dict[int, list[int]], order: Sequence[int]) -> None:
    """Rule 3. After rule 2 only classes have a single child."""
    for synset in reversed(order):
        below = children.get(synset, ())
        if parent[synset] != _ABSENT and len(below) == 1 and not children.get(below[0]):
            parent[below[0]] = parent[synset]
            children[parent[synset]].append(below[0])
            children[synset] = []


def _drop_trivial_top(
    parent: list[int], children: dict[int, list[int]], classes: set[int], nouns: WordNet
) -> None:
    """Rule 4."""
    for wnid in (*TRIVIAL_TOP, *TRIVIAL_ALONE):
        top = nouns.index(wnid) if wnid in nouns else -1
        if top not in children[_TOP] or top in classes:
            continue
        if wnid in TRIVIAL_TOP or len(children[_TOP]) == 1:
            _remove(top, parent, children)


def _remove(synset: int, parent: list[int], children: dict[int, list[int]]) -> None:
    """Take one node out; its children become its parent's."""
    above = parent[synset]
    children[above].remove(synset)
    for child in children.pop(synset, ()):
        parent[child] = above
        children[above].append(child)
    parent[synset] = _ABSENT


# ------------------------------------------------------------------------------------------- output


def _lay_out(
    parent: Sequence[int], wanted: Sequence[int], entries: Sequence[ClassEntry], nouns: WordNet
) -> tuple[WordTree, dict[int, int]]:
    """The tree, and the node of each of its synsets."""
    children: dict[int, list[int]] = {}
    seen: set[int] = set()
    for synset in wanted:
        chain = []
        while synset != _TOP and synset not in seen:
            seen.add(synset)
            chain.append(synset)
            synset = parent[synset]
        for new in reversed(chain):
            children.setdefault(parent[new], []).append(new)
    order = depth_first([children.get(synset, []) for synset in range(len(parent))], children[_TOP])
    node_of = {synset: node for node, synset in enumerate(order)}
    own_names = {synset: entry.name for synset, entry in zip(wanted, entries, strict=True)}
    tree = WordTree(
        [node_of.get(parent[synset], -1) for synset in order],
        [nouns.wnids[synset] for synset in order],
        [own_names.get(synset) or nouns.names[synset] for synset in order],
    )
    return tree, node_of
