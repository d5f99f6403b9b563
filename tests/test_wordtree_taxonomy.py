"""Hierarchies of one's own: YAML, and grafting onto trees of WordNet."""

from __future__ import annotations

from pathlib import Path

import pytest

from wordtree import FormatError, TreeError, WordTree, graft
from wordtree.taxonomy import read_yaml

GOODS = """# our shop
furniture:
  chair:
    - office chair [SKU-12]
    - armchair
  table:
yes: {no: [1, 2.50]}     # words that YAML would take for something else
tools:
  - hammer
  - saw: [jigsaw, hacksaw]
  - hammer [SKU-7]
garden: [hammer]
"""


def yaml_tree(folder: Path, text: str) -> WordTree:
    path = folder / "my.yaml"
    path.write_text(text, encoding="utf-8")
    return WordTree.load(path)


def edges(tree: WordTree) -> dict[str, str | None]:
    return {
        w: None if p < 0 else tree.wnids[p] for w, p in zip(tree.wnids, tree.parent.tolist(), strict=True)
    }


def test_nested_names(tmp_path: Path) -> None:
    tree = yaml_tree(tmp_path, GOODS)
    assert edges(tree) == {
        "furniture": None, "yes": None, "tools": None, "chair": "furniture", "table": "furniture",
        "SKU-12": "chair", "armchair": "chair", "no": "yes", "1": "no", "2.50": "no",
        "hammer": "tools", "saw": "tools", "SKU-7": "tools", "jigsaw": "saw", "hacksaw": "saw",
        "garden": None, "hammer-2": "garden",
    }  # fmt: skip
    assert tree.names[tree.index("SKU-12")] == "office chair"
    for name in ("a.csv", "a.graphml", "a.json", "a.tree"):
        tree.save(tmp_path / name)
        assert WordTree.load(tmp_path / name) == tree


@pytest.mark.parametrize(
    ("text", "nodes"),
    [("dog", {"dog": None}), ("[a, b]", {"a": None, "b": None}), ("a: b", {"a": None, "b": "a"}),
     ("a: ~\nb: null", {"a": None, "b": None}), ("- a: [b]\n  c:", {"a": None, "b": "a", "c": None}),
     ("x: &x [1]\ny: *x", {"x": None, "y": None, "1": "x", "1-2": "y"})],
)  # fmt: skip
def test_small_forms(tmp_path: Path, text: str, nodes: dict[str, str | None]) -> None:
    assert edges(yaml_tree(tmp_path, text)) == nodes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# nothing", "expected nodes, got none"),
        ("", "got an empty file"),
        ("a:\n  b: [c", r"my\.yaml:2: no valid YAML|my\.yaml:3: no valid YAML"),
        ("a:\n  ? [b, c]\n  : d", "my.yaml:2: expected a name"),
        ("a:\n  - ''", "my.yaml:2: expected a name"),
        ("a:\n  - [b]", "my.yaml:2: expected a name"),
        ("a [x]:\n  b [x]:", "my.yaml:2: .*same id 'x'.* The first is in line 1"),
        ("a: [b]\nc: [b]\na: [d]", r"my.yaml:3: 'a' stands at the top in line 1 already. .*: a \[ID\]"),
        ("a:\n- b c\n- b_c", "my.yaml:3: 'b_c' stands below 'a' in line 2 already"),
        ("&a a: &b\n  - c: *b", "an alias within itself"),
        ("!!python/object/apply:os.system ['true']: x", "expected a name"),
    ],
)
def test_wrong_yaml(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        yaml_tree(tmp_path, text)


def test_a_bomb_of_aliases_ends(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} {{{', '.join(f'{j}: *a{k - 1}' for j in range(10))}}}" for k in range(1, 9)]
    with pytest.raises(FormatError, match="more than 1,000,000 nodes"):
        yaml_tree(tmp_path, "\n".join(lines))


def test_graft_below_a_wordnet_node() -> None:
    base = WordTree.load("voc")
    for top in (("chair", "chair"), ("n03001627", "whatever it is called here")):
        own = WordTree.from_edges([top[0], "a", "b"], [None, top[0], "a"], [top[1], "Aeron", "Aeron chrome"])
        tree = graft(base, own)
        assert len(tree) == len(base) + 2
        assert [tree.names[node] for node in tree.path("b")][-4:] == [
            "seat",
            "chair",
            "Aeron",
            "Aeron chrome",
        ]
        assert {w: p for w, p in edges(tree).items() if w not in "ab"} == edges(base)
        assert all(tree.names[tree.index(w)] == name for w, name in zip(base.wnids, base.names, strict=True))


def test_graft_meets_nodes_that_are_there_and_adds_the_others(tmp_path: Path) -> None:
    base = WordTree(
        [-1, -1, 0, 0, 3], ["n0", "n1", "n2", "n3", "n4"], ["animal", "vehicle", "cat", "dog", "pug"]
    )
    tree = graft(base, yaml_tree(tmp_path, "animal: {dog: [pug, husky], horse: }\nfruit: [apple]"))
    assert edges(tree) == edges(base) | {
        "husky": "n3", "horse": "n0", "fruit": None, "apple": "fruit",
    }  # fmt: skip
    assert graft(base, base) == base


def test_graft_refuses() -> None:
    base = WordTree([-1, -1, 0, 1], ["n0", "n1", "n2", "n3"], ["bird", "machine", "crane", "crane"])
    with pytest.raises(TreeError, match="2 nodes are called 'crane'"):
        graft(base, WordTree.from_edges(["crane", "x"], [None, "crane"]))
    with pytest.raises(TreeError, match="the id 'n3' is that of another node, machine > crane"):
        graft(base, WordTree.from_edges(["n0", "n3"], [None, "n0"]))
    pets = WordTree([-1, 0], ["n0", "n1"], ["animal", "dog"])
    for ids, parents, names in (
        (["n0", "a", "b"], [None, "n0", "n0"], ["animal", "dog", "dog"]),
        (["a", "n1"], [None, None], ["dog", "Hund"]),
    ):
        with pytest.raises(TreeError, match=r"'a' and '(b|n1)' of yours are both the node animal > dog: m"):
            graft(pets, WordTree.from_edges(ids, parents, names))


def test_yaml_is_not_needed_elsewhere() -> None:
    import sys
    from subprocess import run

    code = "import sys, wordtree; wordtree.WordTree.load('yolo9000'); print('yaml' in sys.modules)"
    assert run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_read_yaml_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"none\.yaml: no such file"):
        read_yaml(tmp_path / "none.yaml")
