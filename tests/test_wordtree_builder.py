"""The four rules on a toy WordNet, and the published tree derived from WordNet, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from wordtree import Build, FormatError, TreeError, WordNet, WordTree, build_tree, class_list, class_lists
from wordtree.builder import Choice, load_choices
from wordtree.classes import ClassEntry

#   1 entity ── 2 physical entity ── 3 object ─┬─ 4 animal ─┬─ 6 pet ───┬─ 9 poodle
#                                              │            │           │
#                                              │            └─ 7 canine ┴─ 8 dog ── 10 husky ── 11 sled husky
#                                              └─ 5 tool ── 12 hammer
#   (dog is a pet and a canine; poodle is a pet only)
LINKS = {1: [], 2: [1], 3: [2], 4: [3], 5: [3], 6: [4], 7: [4], 8: [6, 7], 9: [6], 10: [8], 11: [10], 12: [5]}
WORDS = ["entity", "physical_entity", "object", "animal", "tool", "pet", "canine", "dog", "poodle", "husky"]
WORDS += ["sled_husky", "hammer"]
REAL = {1: 1740, 2: 1930, 3: 2684}  # the ids that rule 4 knows


def wnid(number: int) -> str:
    return f"n{REAL.get(number, 10_000 + number):08d}"


@pytest.fixture(scope="module")
def toy() -> WordNet:
    offsets = np.array([int(wnid(number)[1:]) for number in LINKS], np.uint32)
    hypernyms = [[other - 1 for other in above] for above in LINKS.values()]
    return WordNet(offsets, hypernyms, WORDS, bytes([1] * len(WORDS)), lambda: WORDS, "toy")


def derive(toy: WordNet, *classes: int, choices: Sequence[tuple[int, int]] = ()) -> dict[str, str | None]:
    """Names of the nodes and of their parents."""
    made = [Choice(wnid(child), wnid(parent), "because") for child, parent in choices]
    tree = build_tree([wnid(number) for number in classes], wordnet=toy, choices=made).tree
    return {name: tree.names[p] if p >= 0 else None for name, p in zip(tree.names, tree.parent, strict=True)}


def test_rule_1_takes_the_path_with_fewest_new_nodes(toy: WordNet) -> None:
    # The poodle has one path, so `pet` is there already when the dog chooses, though the dog stands first.
    assert derive(toy, 8, 9, 12) == {"pet": None, "dog": "pet", "poodle": "pet", "hammer": None}
    # Both `pet` and `canine` are there: of equal paths the one with the lower ids wins.
    assert derive(toy, 8, 9, 7)["dog"] == "pet"
    # Only `canine` is there.
    assert derive(toy, 8, 10, 7, 12)["dog"] == "canine"


def test_rule_2_drops_inner_nodes_with_one_child(toy: WordNet) -> None:
    assert derive(toy, 9, 12) == {"poodle": None, "hammer": None}  # animal, pet, tool, object go


def test_rule_2_keeps_classes(toy: WordNet) -> None:
    assert derive(toy, 8, 10, 12, 4, 11) == {
        "animal": None,
        "dog": "animal",  # an only child, but no leaf: stays
        "husky": "dog",  # likewise: rule 3 moved its only child up
        "sled husky": "dog",
        "hammer": None,
    }


def test_rule_3_moves_a_single_leaf_up(toy: WordNet) -> None:
    assert derive(toy, 6, 9, 12) == {"pet": None, "poodle": None, "hammer": None}


def test_rule_4_drops_the_trivial_top_unless_it_is_a_class(toy: WordNet) -> None:
    assert derive(toy, 9, 10, 12) == {"pet": None, "poodle": "pet", "husky": "pet", "hammer": None}
    assert derive(toy, 3, 9, 10, 12)["object"] is None
    assert derive(toy, 1, 2, 9, 10)["physical entity"] == "entity"


def test_a_single_class(toy: WordNet) -> None:
    assert derive(toy, 11) == {"sled husky": None}


def test_a_choice_sets_the_hypernym(toy: WordNet) -> None:
    assert derive(toy, 8, 10, 9, 7, 12)["dog"] == "pet"
    assert derive(toy, 8, 10, 9, 7, 12, choices=[(8, 7)])["dog"] == "canine"
    assert derive(toy, 4, 8, 9, 12, 6, choices=[(8, 5)])["dog"] == "tool"  # even one WordNet does not know


def test_siblings_stand_in_list_order(toy: WordNet) -> None:
    build = build_tree([wnid(12), wnid(9), wnid(8)], wordnet=toy)
    assert build.tree.names == ("hammer", "pet", "poodle", "dog")
    assert [build.tree.names[node] for node in build.class_nodes] == ["hammer", "poodle", "dog"]
    assert build_tree([wnid(8), wnid(9), wnid(12)], wordnet=toy).tree.names == (
        "pet",
        "hammer",
        "dog",
        "poodle",
    )


def test_classes_keep_their_own_names(toy: WordNet) -> None:
    build = build_tree([ClassEntry("Hündchen", wnid(8)), ClassEntry("Hammer", wnid(12))], wordnet=toy)
    assert build.tree.names == ("Hündchen", "Hammer")
    assert (build.by_rules, build.by_choice, build.choices) == (2, 0, ())


def test_all_synsets_as_classes_are_the_hypernym_tree(toy: WordNet) -> None:
    tree = build_tree("all-nouns", wordnet=toy).tree
    assert len(tree) == 12
    assert tree.names[0] == "entity"


@pytest.mark.parametrize(
    ("classes", "choices", "message"),
    [
        ([8, 9, 8], [], "classes 0 and 2 have the same id n00010008"),
        ([8, 99], [], "unknown id 'n00010099'"),
        ([], [], "at least one class"),
        ([8], [(4, 8)], "makes n00010004 its own ancestor"),
        ([8], [(4, 4)], "its own ancestor"),
        ([8], [(4, 99)], "unknown id"),
    ],
)
def test_bad_input(toy: WordNet, classes: list[int], choices: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(TreeError, match=message):
        derive(toy, *classes, choices=choices)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("n00000001 n00000002 fine\nn00000003 n00000004\n", 2, "expected two ids and a reason"),
        ("# head\n\nn1 n00000004 why\n", 3, "expected two ids and a reason"),
        (
            "n00000001 n00000002 a\nn00000001 n00000003 b\n",
            2,
            "a second choice for n00000001, chosen in line 1",
        ),
    ],
)
def test_bad_choices_file(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = tmp_path / "x.choices"
    path.write_text(text)
    with pytest.raises(FormatError, match=message) as caught:
        load_choices(path)
    assert caught.value.line == line


# ------------------------------------------------------------------------------------------- real data


@pytest.fixture(scope="module")
def derived() -> Build:
    return build_tree("yolo9000")


@pytest.mark.reference
def test_the_published_tree_byte_for_byte(derived: Build, darknet_dir: Path, tmp_path: Path) -> None:
    derived.tree.save(tmp_path / "9k.tree")
    for name in ("9k.tree", "9k.names", "9k.labels"):
        assert (tmp_path / name).read_bytes() == (darknet_dir / "data" / name).read_bytes(), name


@pytest.mark.reference
def test_the_rules_alone_give_nearly_all_published_parents(derived: Build, darknet_dir: Path) -> None:
    published = WordTree.load(darknet_dir / "data" / "9k.tree")
    alone = build_tree("yolo9000", rules_only=True)
    assert alone.choices == ()
    given = parents(alone.tree)
    same = sum(given.get(child, "absent") == parent for child, parent in parents(published).items())
    assert same / len(published) >= 0.988
    assert same == derived.by_rules  # what the report says


def parents(tree: WordTree) -> dict[str, str | None]:
    return {
        w: tree.wnids[p] if p >= 0 else None for w, p in zip(tree.wnids, tree.parent.tolist(), strict=True)
    }


def test_the_stored_tree_is_the_derived_tree(derived: Build) -> None:
    stored = WordTree.load("yolo9000")
    assert stored == derived.tree
    assert (len(stored), int(stored.is_leaf.sum()), len(stored.group_size)) == (9418, 7573, 1846)
    assert (int(stored.group_size.max()), stored.max_depth, len(stored.levels[0])) == (149, 16, 4)
    assert derived.by_rules + derived.by_choice == 9418
    assert derived.by_choice <= 0.012 * 9418


def test_every_choice_is_needed(derived: Build) -> None:
    """A choice that changes nothing would be noise: without any one of them the tree is another."""
    nouns = WordNet.packed()
    entries = class_list("yolo9000")
    choices, wanted = derived.choices, derived.tree
    for left_out in choices[::16]:  # a sample: each takes a quarter of a second
        rest = [choice for choice in choices if choice != left_out]
        assert build_tree(entries, choices=rest).tree != wanted, left_out
    outside = {c.child for c in choices if nouns.index(c.parent) not in nouns.hypernyms(nouns.index(c.child))}
    assert {nouns.name(child) for child in outside} == {"bubble", "signal", "sign"}


def test_choices_name_what_they_choose(derived: Build) -> None:
    nouns = WordNet.packed()
    for choice in derived.choices:
        assert choice.reason.startswith(f"{nouns.name(choice.child)} < {nouns.name(choice.parent)}: ")


def test_wordtree1k_has_the_size_the_paper_gives() -> None:
    build = build_tree("ilsvrc1k")
    assert len(build.classes) == 1000
    assert len(build.tree) == pytest.approx(1369, rel=0.01)
    assert build.tree.is_leaf[build.class_nodes].all()


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("yolo9000", 9150),
        ("coco", 80),
        ("voc", 20),
        ("imagenet-det", 200),
        ("imagenet22k", 21842),
        ("all-nouns", 82115),
    ],
)
def test_every_built_in_list_builds(name: str, size: int) -> None:
    assert name in class_lists()
    build = build_tree(name)
    assert len(build.classes) == size
    assert [build.tree.wnids[node] for node in build.class_nodes] == [entry.wnid for entry in build.classes]
    single = (
        build.tree.group_size[build.tree.group[build.class_nodes[build.tree.is_leaf[build.class_nodes]]]] == 1
    )
    assert not single.any()  # no leaf is alone under a softmax
    if name in {"coco", "voc"}:
        assert WordTree.load(name) == build.tree


@pytest.mark.reference
def test_class_lists_agree_with_darknet(darknet_dir: Path) -> None:
    data = darknet_dir / "data"
    published = WordTree.load(data / "9k.tree")
    ids = (data / "imagenet.labels.list").read_text().split()
    assert [entry.wnid for entry in class_list("imagenet22k")] == ids
    assert [entry.wnid for entry in class_list("ilsvrc1k")] == ids[:1000]
    for name, file in (("coco", "coco9k.map"), ("imagenet-det", "inet9k.map")):
        nodes = [int(line) for line in (data / file).read_text().split()]
        assert [entry.wnid for entry in class_list(name)] == [published.wnids[node] for node in nodes]
    for name in ("coco", "voc"):
        lines = (data / f"{name}.names").read_text().splitlines()
        assert [entry.name for entry in class_list(name)] == lines
    ours = {entry.wnid for entry in class_list("yolo9000")}
    assert ours == (set(published.wnids) & set(ids)) | {"n03969259"}  # and COCO's plumbing fixture


# ---------------------------------------------------------------------------------------- class list files


def test_a_file_of_ids_and_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("# pets\nn02110958\nn02121620 puss  # by id\n\nSiberian husky\ncrane.n.05\n")
    entries = class_list(path)
    assert [(e.name, e.wnid) for e in entries] == [
        ("pug", "n02110958"),
        ("puss", "n02121620"),
        ("Siberian husky", "n02110185"),
        ("crane.n.05", "n02012849"),
    ]
    assert set(build_tree(path).tree.names) >= {"pug", "puss", "Siberian husky"}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (b"n02110958\nn00000000\n", 2, "unknown id 'n00000000'"),
        (b"n02110958\npug.n.01\n", 2, "n02110958 .* stands in line 1 already.*Remove one"),
        (b"pug.n.01\ncrane\n", 2, "'crane' is ambiguous, 5 senses.*say which by its id"),
        (b"quxx\n", 1, "no noun 'quxx'.*synonym"),
        (b"", None, "empty file"),
        (b" \n\n", None, "empty file"),
        (b"# nothing\n", None, "only comments"),
        (b"pug.n.01\nd\xffg\n", 2, "no UTF-8 text"),
        (b"pug\0\n", 1, "no UTF-8 text"),
        (b"n02110958\rn02121620\r", 1, "no control characters"),
    ],
)
def test_bad_class_file(tmp_path: Path, text: bytes, line: int | None, message: str) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(text)
    with pytest.raises(FormatError, match=f"(?s){message}") as caught:
        class_list(path)
    assert (caught.value.line, caught.value.path) == (line, path)


def test_a_tree_is_no_class_list(tmp_path: Path) -> None:
    build_tree("voc").tree.save(tmp_path / "voc.tree")
    with pytest.raises(FormatError, match="expected a class list, got a tree"):
        class_list(tmp_path / "voc.tree")


def test_neither_list_nor_file() -> None:
    with pytest.raises(FormatError, match=r"no class list 'cocoo'.*Built in are yolo9000, coco"):
        class_list("cocoo")
