"""Class lists: which classes a tree is built for. Built in: those of the paper's data sets.

A class list file has one class a line: a WordNet id, an id and a name behind it, or a name alone (looked up
in WordNet). Blank lines and what follows a `#` at the start of a line or behind white space are ignored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wordtree._checks import check_line
from wordtree.errors import FormatError, TreeError
from wordtree.textfile import exists, lines_of, read_text

if TYPE_CHECKING:
    from wordtree.wordnet import WordNet

_DATA = Path(__file__).parent / "data"
_WNID = re.compile(r"n\d{8}")
ILSVRC_CLASSES = 1000  # the ImageNet list begins with the challenge's classes, in the challenge's order

CLASS_LISTS = {
    "yolo9000": "the classes of the published tree: ImageNet's top 9,000, COCO's and ImageNet DET's",
    "coco": "COCO's 80 classes, at the nodes of darknet's coco9k.map",
    "voc": "PASCAL VOC's 20 classes",
    "imagenet-det": "the 200 classes of ImageNet's detection challenge, at the nodes of darknet's inet9k.map",
    "ilsvrc1k": "the 1,000 classes of ImageNet's classification challenge (WordTree1k)",
    "imagenet22k": "all 21,842 classes of ImageNet",
    "all-nouns": "every noun synset of WordNet 3.0",
}


@dataclass(frozen=True)
class ClassEntry:
    """One class of a data set.

    Args:
        name: The data set's own name of the class (`aeroplane`).
        wnid: The WordNet id it stands for (`n02691156`).
    """

    name: str
    wnid: str


def class_lists() -> dict[str, str]:
    """Names of the built-in class lists, each with what it holds."""
    return dict(CLASS_LISTS)


def class_list(source: str | Path, wordnet: WordNet | None = None) -> list[ClassEntry]:
    """A built-in class list, or one from a file.

    Args:
        source: A built-in name (see `class_lists`) or a file of ids, ids and names, or names.
        wordnet: Where names are looked up; the packed WordNet when left out.

    Returns:
        The classes in the data set's order.

    Raises:
        FormatError: An unknown name, or a line of the file that is no class: an unknown or duplicate id, a
            name that WordNet lacks or that has several senses (they are listed).
    """
    name = str(source)
    if name == "all-nouns":
        nouns = _wordnet(wordnet)
        return [ClassEntry(nouns.name(wnid), wnid) for wnid in nouns.wnids]
    if name == "ilsvrc1k":
        return _read(_DATA / "imagenet22k.classes", wordnet, stop=ILSVRC_CLASSES)
    if name in CLASS_LISTS:
        return _read(_DATA / f"{name}.classes", wordnet)
    if not exists(source):
        remedy = f"Built in are {', '.join(CLASS_LISTS)}."
        raise FormatError(f"no class list {name!r}: neither built in nor a file.", remedy=remedy)
    if Path(source).suffix.lower() == ".tree":  # its parents would be taken for names
        remedy = "Give a list of ids or names; build-tree takes a tree as --from."
        raise FormatError("expected a class list, got a tree.", path=source, remedy=remedy)
    return _read(Path(source), wordnet)


def _wordnet(wordnet: WordNet | None) -> WordNet:
    from wordtree.wordnet import WordNet

    return WordNet.packed() if wordnet is None else wordnet


def _read(path: Path, wordnet: WordNet | None, stop: int | None = None) -> list[ClassEntry]:
    built_in = path.parent == _DATA
    nouns: WordNet | None = None
    entries: list[ClassEntry] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(lines_of(read_text(path, "a class list")), 1):
        text = re.sub(r"(^|\s)#.*", "", line).strip()
        if not text:
            continue
        head, _, tail = text.partition(" ") if " " in text else text.partition("\t")
        if built_in and tail:
            entry = ClassEntry(tail, head)
        else:
            check_line(text.replace("\t", " "), path, number)
            nouns = nouns or _wordnet(wordnet)
            entry = _resolve(text, nouns, path, number)
        if not built_in and (first := lines.setdefault(entry.wnid, number)) != number:
            what = f"{entry.wnid} ({entry.name}) stands in line {first} already."
            raise FormatError(what, path=path, line=number, remedy="Remove one of the two lines.")
        entries.append(entry)
        if len(entries) == stop:
            break
    if not entries:
        raise FormatError("expected classes, got only comments.", path=path, remedy="Add ids or names.")
    return entries


def _resolve(text: str, nouns: WordNet, path: Path, line: int) -> ClassEntry:
    fields = text.split(maxsplit=1)
    try:
        if _WNID.fullmatch(fields[0]):
            synset = nouns.index(fields[0])
            return ClassEntry(fields[1] if len(fields) > 1 else nouns.names[synset], fields[0])
        return ClassEntry(text, nouns.wnids[nouns.lookup(text)])
    except TreeError as error:
        raise FormatError(str(error), path=path, line=line) from None
