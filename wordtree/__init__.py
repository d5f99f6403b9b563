"""The WordTree: a class hierarchy over WordNet (or any taxonomy), built, read, written and drawn.

Examples:
    >>> from wordtree import WordTree
    >>> tree = WordTree.load("yolo9000")
    >>> [tree.names[i] for i in tree.path("Siberian husky")][-4:]
    ['dog', 'working dog', 'sled dog', 'Siberian husky']
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wordtree.errors import FormatError, TreeError, YOLO9000Error

if TYPE_CHECKING:
    from wordtree.builder import Build, build_tree
    from wordtree.classes import ClassEntry, class_list, class_lists
    from wordtree.formats import load_map, load_tree, save_map, save_tree
    from wordtree.lookup import find, nearest_node
    from wordtree.taxonomy import graft
    from wordtree.tree import WordTree
    from wordtree.wordnet import WordNet

__all__ = [
    "Build",
    "ClassEntry",
    "FormatError",
    "TreeError",
    "WordNet",
    "WordTree",
    "YOLO9000Error",
    "build_tree",
    "class_list",
    "class_lists",
    "find",
    "graft",
    "load_map",
    "load_tree",
    "nearest_node",
    "save_map",
    "save_tree",
]

_HOME = {
    "Build": "builder",
    "build_tree": "builder",
    "ClassEntry": "classes",
    "class_list": "classes",
    "class_lists": "classes",
    "load_map": "formats",
    "load_tree": "formats",
    "save_map": "formats",
    "save_tree": "formats",
    "find": "lookup",
    "graft": "taxonomy",
    "nearest_node": "lookup",
    "WordNet": "wordnet",
    "WordTree": "tree",
}


def __getattr__(name: str) -> Any:  # PEP 562: `import wordtree` stays instant, numpy comes with the first use
    if name not in _HOME:
        raise AttributeError(f"module 'wordtree' has no attribute {name!r}")
    value = getattr(import_module(f"wordtree.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
