"""WordTree on a toy tree with exact expected sets, and fast code against slow code on random trees."""

from __future__ import annotations

import pickle

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordtree import TreeError, WordTree

#    0 animal ─┬─ 3 cat
#              └─ 4 dog ─┬─ 7 husky ──── 10 Siberian husky
#                        ├─ 8 pug
#                        └─ 9 beagle
#    1 vehicle ─┬─ 5 car
#               └─ 6 boat
#    2 thing
PARENT = [-1, -1, -1, 0, 0, 1, 1, 4, 4, 4, 7]
NAMES = "animal vehicle thing cat dog car boat husky pug beagle Siberian_husky".replace("_", "\t").split(" ")
IDS = [f"id{i}" for i in range(len(PARENT))]


@pytest.fixture
def toy() -> WordTree:
    return WordTree(PARENT, IDS, [name.replace("\t", " ") for name in NAMES])


@st.composite
def random_trees(draw: st.DrawFn, most: int = 25) -> WordTree:
    """Any shape: parents by growing sibling groups below random nodes, names with odd characters."""
    parent = [-1] * draw(st.integers(1, 4))
    open_nodes = list(range(len(parent)))
    while open_nodes and len(parent) < most:
        node = open_nodes.pop(draw(st.integers(0, len(open_nodes) - 1)))
        size = draw(st.integers(0, 4))
        open_nodes.extend(range(len(parent), len(parent) + size))
        parent += [node] * size
    text = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn", "Co", "Zl", "Zp", "Cf"]), min_size=1)
    names = draw(st.lists(text.filter(str.strip), min_size=len(parent), max_size=len(parent)))
    return WordTree(parent, [f"n{i:08d}" for i in range(len(parent))], names)


def slow_ancestors(parent: list[int], node: int) -> list[int]:
    return [] if parent[node] < 0 else [*slow_ancestors(parent, parent[node]), parent[node]]


def slow_subtree(parent: list[int], node: int) -> set[int]:
    return {n for n in range(len(parent)) if n == node or node in slow_ancestors(parent, n)}


def test_derived_arrays(toy: WordTree) -> None:
    assert toy.group.tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 4]
    assert toy.group_start.tolist() == [0, 3, 5, 7, 10]
    assert toy.group_size.tolist() == [3, 2, 2, 3, 1]
    assert toy.group_parent.tolist() == [-1, 0, 1, 4, 7]
    assert toy.child_group.tolist() == [1, 2, -1, -1, 3, -1, -1, 4, -1, -1, -1]
    assert toy.depth.tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3]
    assert toy.is_leaf.tolist() == [False, False, True, True, False, True, True, False, True, True, True]
    assert toy.subtree_size.tolist() == [7, 3, 1, 1, 5, 1, 1, 2, 1, 1, 1]
    assert toy.enter.tolist() == [0, 7, 10, 1, 2, 8, 9, 3, 5, 6, 4]
    assert toy.leave.tolist() == [7, 10, 11, 2, 7, 9, 10, 5, 6, 7, 5]
    assert [level.tolist() for level in toy.levels] == [[0, 1, 2], [3, 4, 5, 6], [7, 8, 9], [10]]
    assert (len(toy), toy.max_depth) == (11, 3)


def test_relations(toy: WordTree) -> None:
    assert toy.path("Siberian husky") == (0, 4, 7, 10)
    assert toy.path(2) == (2,)
    assert toy.ancestors(10).tolist() == [0, 4, 7]
    assert toy.ancestors(1).tolist() == []
    assert toy.children("dog").tolist() == [7, 8, 9]
    assert toy.children("cat").tolist() == []
    assert toy.subtree("dog").tolist() == [4, 7, 8, 9, 10]
    assert toy.leaves("animal").tolist() == [3, 8, 9, 10]
    assert toy.leaves().tolist() == [2, 3, 5, 6, 8, 9, 10]
    assert toy.leaves("pug").tolist() == [8]


def test_ancestor_is_strict_and_vectorised(toy: WordTree) -> None:
    assert toy.is_ancestor(0, 10) is True
    assert toy.is_ancestor(10, 0) is False
    assert toy.is_ancestor(4, 4) is False
    assert toy.is_ancestor(3, 8) is False
    table = toy.is_ancestor(np.arange(11)[:, None], np.arange(11)[None])
    pairs = {(int(a), int(b)) for a, b in np.argwhere(table)}
    assert pairs == {(a, b) for b in range(11) for a in slow_ancestors(PARENT, b)}


@pytest.mark.parametrize(("a", "b", "expected"), [(10, 8, 4), (10, 7, 7), (3, 9, 0), (5, 6, 1), (5, 3, None)])
def test_lowest_common_ancestor(toy: WordTree, a: int, b: int, expected: int | None) -> None:
    assert toy.lowest_common_ancestor(a, b) == expected
    assert toy.lowest_common_ancestor(b, a) == expected


@settings(max_examples=30, deadline=None)
@given(random_trees())
def test_fast_equals_slow(tree: WordTree) -> None:
    parent = tree.parent.tolist()
    for node in range(len(tree)):
        above = slow_ancestors(parent, node)
        assert tree.ancestors(node).tolist() == above
        assert tree.depth[node] == len(above)
        assert tree.children(node).tolist() == [n for n, p in enumerate(parent) if p == node]
        assert set(tree.subtree(node).tolist()) == slow_subtree(parent, node)
        assert bool(tree.is_leaf[node]) == (node not in parent)
    assert sorted(tree.enter.tolist()) == list(range(len(tree)))
    assert int(tree.group_size.sum()) == len(tree)


@pytest.mark.parametrize(
    ("key", "node"),
    [("id4", 4), ("dog", 4), ("DOG", 4), ("siberian_husky", 10), ("Siberian husky", 10), (4, 4), ("4", 4)],
)
def test_index(toy: WordTree, key: int | str, node: int) -> None:
    assert toy.index(key) == node
    assert toy.index(np.int64(node)) == node  # type: ignore[arg-type]


def test_index_errors_help(toy: WordTree) -> None:
    with pytest.raises(TreeError, match="11 nodes, numbered 0 to 10"):
        toy.index(11)
    with pytest.raises(TreeError, match="no node -1"):
        toy.index(-1)
    with pytest.raises(TreeError, match=r"no node 'beagel'.*Did you mean id9 \(beagle\)\?"):
        toy.index("beagel")
    two = WordTree([-1, -1, 0, 1], list("abcd"), ["bird", "machine", "crane", "Crane"])
    with pytest.raises(TreeError) as caught:
        two.index("crane")
    assert "2 nodes are called 'crane'" in str(caught.value)
    assert "c  bird > crane" in str(caught.value)
    assert "d  machine > Crane" in str(caught.value)


def test_an_id_made_of_a_name_that_two_nodes_have_finds_neither() -> None:
    tree = WordTree(
        [-1, -1, 0, 1], ["animal", "car", "jaguar", "jaguar-2"], ["animal", "car", *2 * ["jaguar"]]
    )
    for key in ("jaguar", "Jaguar"):
        with pytest.raises(TreeError) as caught:
            tree.path(key)
        assert str(caught.value) == (
            f"2 nodes are called {key!r}; say which by its id or number:\n"
            "  2  animal > jaguar\n  jaguar-2  car > jaguar"
        )
    assert [tree.index(tree.key(node)) for node in range(4)] == [0, 1, 2, 3]
    assert tree.node_of("jaguar") == 2
    assert WordTree.flat(["Polish", "polish"]).index("polish") == 1, "told apart by their letters"


@pytest.mark.parametrize("key", [None, 0.0, b"dog", ["dog"]])
def test_keys_of_wrong_types(toy: WordTree, key: object) -> None:
    with pytest.raises(TreeError, match="expected the id, name or index of a node, found"):
        toy.index(key)  # type: ignore[arg-type]
    assert toy.index(np.int64(1)) == 1  # type: ignore[arg-type]


def test_unknown_name_that_wordnet_knows() -> None:
    tree = WordTree.load("yolo9000")
    with pytest.raises(TreeError, match=r"Did you mean n02084071 \(dog\)"):
        tree.index("domestic dog")


def test_immutable_hashable_picklable(toy: WordTree) -> None:
    with pytest.raises(AttributeError, match="immutable"):
        toy.parent = np.zeros(3)  # type: ignore[assignment, misc]
    with pytest.raises(AttributeError, match="immutable"):
        del toy.names  # type: ignore[misc]
    for array in (toy.parent, toy.depth, toy.group, toy.enter, toy.leave, toy.is_leaf, toy.levels[0]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    source = np.array(PARENT)
    other = WordTree(source, IDS, toy.names)
    source[5] = 0  # the tree has its own copy
    assert other == toy
    assert hash(other) == hash(toy)
    assert pickle.loads(pickle.dumps(toy)) == toy
    assert toy != WordTree(PARENT, IDS)
    assert toy != WordTree([*PARENT[:-1], 8], IDS, toy.names)
    assert toy != "a tree"
    assert len({toy, other}) == 1


def test_repr(toy: WordTree) -> None:
    assert repr(toy) == "<WordTree: 11 nodes, 7 leaves, 5 groups, depth 3>"


def test_flat() -> None:
    tree = WordTree.flat(["person", "traffic light", "person", "tie"])
    assert tree.wnids == ("person", "traffic_light", "person-2", "tie")
    assert tree.names == ("person", "traffic light", "person", "tie")
    assert tree.group_size.tolist() == [4]
    assert tree.max_depth == 0
    assert tree.is_leaf.all()
    assert WordTree.flat(["one"]).subtree(0).tolist() == [0]


def test_networkx_and_back(toy: WordTree) -> None:
    graph = toy.to_networkx()
    assert set(graph.edges) == {(f"id{p}", f"id{n}") for n, p in enumerate(PARENT) if p >= 0}
    assert graph.nodes["id4"] == {"name": "dog"}
    assert WordTree.from_networkx(graph) == toy


def test_any_networkx_forest_is_laid_out() -> None:
    graph = nx.DiGraph(
        [("animal", "dog"), ("dog", "pug"), ("animal", "cat"), ("cat", "lynx"), ("dog", "husky")]
    )
    tree = WordTree.from_networkx(graph)
    assert tree.wnids == ("animal", "dog", "cat", "pug", "husky", "lynx")
    assert tree.parent.tolist() == [-1, 0, 0, 1, 1, 2]


def test_names_of_a_graph_are_its_names_or_labels() -> None:
    graph = nx.DiGraph([("n0", "n1"), ("n0", "n2")])
    graph.nodes["n0"]["label"] = "animal"  # as yEd writes them
    graph.nodes["n1"].update(label="Hund", name="dog")
    assert WordTree.from_networkx(graph).names == ("animal", "dog", "n2")


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (nx.DiGraph([("a", "c"), ("b", "c")]), "'c' has 2 parents"),
        (nx.DiGraph([("a", "b"), ("b", "c"), ("c", "b")]), "'b' has 2 parents"),
        (nx.DiGraph([("b", "c"), ("c", "d"), ("d", "b")]), "cycle.*'b' < 'd' < 'c' < 'b'"),
        (nx.Graph([("a", "b")]), "undirected"),
        (nx.DiGraph(), "at least one node"),
    ],
)
def test_no_forest(graph: nx.DiGraph, message: str) -> None:
    with pytest.raises(TreeError, match=message):
        WordTree.from_networkx(graph)


@pytest.mark.parametrize(
    ("parent", "ids", "names", "message"),
    [
        ([], [], None, "at least one node"),
        ([-1, 0], ["a"], None, "one parent for each of the 1 ids"),
        ([[-1], [0]], ["a", "b"], None, r"shape \(2, 1\)"),
        ([-1, -2], ["a", "b"], None, r"node 1 \('b'\) has parent -2; expected −1"),
        ([-1, 5], ["a", "b"], None, "parent 5; expected"),
        ([0], ["a"], None, "its own parent: a cycle"),
        ([1, -1], ["a", "b"], None, r"stands before its parent 1 \('b'\)"),
        ([-1, -1, 0, 1, 0], list("abcde"), None, "node 4 .'e'. stands apart.* begin at node 2"),
        ([-1, 0, -1], list("abc"), None, "the top nodes begin at node 0"),
        ([-1, -1], ["a", "a"], None, "nodes 0 and 1 have the same id 'a'"),
        ([-1, -1], ["a", ""], None, "node 1 has the id ''"),
        ([-1, -1], ["a", "b c"], None, "node 1 has the id 'b c'"),
        ([-1, -1], ["a", "b"], ["x"], "expected 2 names"),
        ([-1, -1], ["a", "b"], ["x", " "], "node 1 .* has the name ''"),
        ([-1, -1], ["a", "b"], ["x", "y\nz"], "one line of text"),
        ([-1, -1], ["a", "b"], ["x", "y\ud800"], "one line of text"),
        ([-1, 0.7], ["a", "b"], None, "whole numbers, −1 for a top node, got float64"),
        ([float("nan"), 0], ["a", "b"], None, "whole numbers"),
        ([-1, -1], ["a", 2], None, "node 1 has the id 2; expected text"),
        ([-1, -1], ["a", "b"], ["x", None], "node 1 has the name None; expected text"),
    ],
)
def test_arrays_that_are_no_tree(parent: list, ids: list[str], names: list[str] | None, message: str) -> None:
    with pytest.raises(TreeError, match=message):
        WordTree(parent, ids, names)


def test_from_edges_in_any_order() -> None:
    tree = WordTree.from_edges(["pug", "dog", "cat", "animal"], ["dog", "animal", "animal", None])
    assert tree.wnids == ("animal", "dog", "cat", "pug")
    assert tree.parent.tolist() == [-1, 0, 0, 1]
    with pytest.raises(TreeError, match="the parent 'animl' of 'dog' is no node"):
        WordTree.from_edges(["dog", "animal"], ["animl", None])
    with pytest.raises(TreeError, match="one parent for each"):
        WordTree.from_edges(["dog"], [])


def test_a_chain_and_a_wide_group_are_no_problem() -> None:
    n = 20_000
    chain = WordTree(np.arange(-1, n - 1), [f"c{i}" for i in range(n)])
    assert chain.max_depth == n - 1
    assert chain.path(n - 1) == tuple(range(n))
    assert (chain.enter == np.arange(n)).all()
    assert (chain.leave == n).all()
    wide = WordTree(np.full(n, -1), [f"w{i}" for i in range(n)])
    assert wide.group_size.tolist() == [n]
