"""Finding nodes of a tree by what people call them, with WordNet's help."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from wordtree.tree import WordTree

if TYPE_CHECKING:
    from wordtree.wordnet import WordNet

_MOST_SUGGESTIONS = 5


def nearest_node(tree: WordTree, wnid: str, wordnet: WordNet | None = None) -> int | None:
    """The node of `wnid`, or of its nearest WordNet ancestor that the tree holds.

    A class that a tree lacks can so be used with the most specific label that is still true.

    Args:
        tree: A tree over WordNet.
        wnid: A WordNet id.
        wordnet: WordNet to walk up in; the packed one when left out.

    Returns:
        The node fewest hypernym links above (of several equally near the deepest in the tree), or None where
        no ancestor is in the tree.

    Raises:
        TreeError: An id that neither the tree nor WordNet knows.
    """
    if (node := tree.node_of(wnid)) is not None:
        return node
    from wordtree.wordnet import WordNet

    nouns = WordNet.packed() if wordnet is None else wordnet
    level = [nouns.index(wnid)]
    while level:
        level = list(dict.fromkeys(above for synset in level for above in nouns.hypernyms(synset)))
        found = [node for synset in level if (node := tree.node_of(nouns.wnids[synset])) is not None]
        if found:
            return max(found, key=lambda node: int(tree.depth[node]))
    return None


def find(tree: WordTree, text: str, wordnet: WordNet | None = None) -> list[int]:
    """Nodes that a text may mean, the best first.

    In this order: the node of that id; nodes of that name; nodes for which WordNet has the text as a synonym
    (`lounge` finds `sofa`); nodes with the text as a whole word in their name; nodes with it anywhere there.

    Args:
        tree: The tree to search.
        text: An id, a name or a part of one.
        wordnet: WordNet for the synonyms; the packed one when left out.
    """
    wanted = text.replace("_", " ").strip().casefold()
    if not wanted:
        return []
    exact = [] if (node := tree.node_of(text)) is None else [node]
    names = [name.replace("_", " ").casefold() for name in tree.names]
    words = [node for node, name in enumerate(names) if f" {wanted} " in f" {name} "]
    anywhere = [node for node, name in enumerate(names) if wanted in name]
    return list(
        dict.fromkeys([*exact, *tree.named(text), *_synonyms(tree, text, wordnet), *words, *anywhere])
    )


def suggestions(tree: WordTree, text: str) -> str:
    """What to try in place of a name that the tree lacks, as the end of an error message."""
    nodes = _synonyms(tree, text, None)
    if not nodes:
        folded = {name.casefold(): node for node, name in reversed(list(enumerate(tree.names)))}
        close = get_close_matches(text.replace("_", " ").casefold(), folded, n=_MOST_SUGGESTIONS, cutoff=0.75)
        nodes = [folded[name] for name in close]
    if not nodes:
        return " Give an id, a name or an index of this tree."
    shown = (f"{tree.wnids[node]} ({tree.names[node]})" for node in nodes[:_MOST_SUGGESTIONS])
    return f" Did you mean {', '.join(shown)}?"


def _synonyms(tree: WordTree, text: str, wordnet: WordNet | None) -> list[int]:
    from wordtree.wordnet import WordNet

    nouns = WordNet.packed() if wordnet is None else wordnet
    found = (tree.node_of(nouns.wnids[synset]) for synset in nouns.senses(text))
    return [node for node in found if node is not None]
