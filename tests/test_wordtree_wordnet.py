"""WordNet's nouns: the packed file, database folders read through nltk, and words with several senses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from wordtree import FormatError, TreeError, WordNet, WordTree, build_tree, find, nearest_node
from wordtree.wordnet import PACKED

# A database of five synsets in the format of wndb(5WN); {name} stands for the place of a synset in the file.
HEAD = (
    "  1 This software and database is being provided to you\n"
    "  2 WordNet 3.0 Copyright 2006 by Princeton University.\n"
)
SYNSETS = {
    "animal": '{animal} 03 n 02 animal 0 living_thing 0 001 @ {entity} n 0000 | moves; "an animal moves"',
    "pet": "{pet} 03 n 01 pet 0 001 @ {entity} n 0000 | kept for company",
    "dog": "{dog} 05 n 02 dog 0 Canis_familiaris 0 002 @ {pet} n 0000 @ {animal} n 0000 | barks",
    "snoopy": "{snoopy} 18 n 02 Snoopy 0 dog 1 001 @i {dog} n 0000 | drawn by Schulz",
    "entity": "{entity} 03 n 01 entity 0 001 ~ {animal} n 0000 | what exists",
}
INDEX = """animal n 1 1 @ 1 0 {animal}
canis_familiaris n 1 1 @ 1 0 {dog}
dog n 2 1 @ 2 0 {dog} {snoopy}
entity n 1 1 ~ 1 0 {entity}
living_thing n 1 1 @ 1 0 {animal}
pet n 1 1 @ 1 0 {pet}
snoopy n 1 1 @ 1 0 {snoopy}
"""


def places(synsets: dict[str, str]) -> dict[str, str]:
    """Where each synset's line begins, in the eight digits that name it."""
    nothing = dict.fromkeys(SYNSETS, "0" * 8)
    result, place = {}, len(HEAD)
    for name, line in synsets.items():
        result[name] = f"{place:08d}"
        place += len(line.format(**nothing).encode()) + 1
    return nothing | result


def write_database(folder: Path, synsets: dict[str, str] = SYNSETS, index: str = INDEX) -> Path:
    folder.mkdir(exist_ok=True)
    where = places(synsets)
    data = "".join(f"{line.format(**where)}\n" for line in synsets.values())
    (folder / "data.noun").write_text(HEAD + data, encoding="utf-8")
    (folder / "index.noun").write_text(HEAD + index.format(**where), encoding="utf-8")
    return folder


PLACE = {name: f"n{place}" for name, place in places(SYNSETS).items()}


@pytest.fixture
def mini(tmp_path: Path) -> WordNet:
    return WordNet.from_folder(write_database(tmp_path / "wordnet"))


def test_a_folder_with_the_noun_files_alone(mini: WordNet) -> None:
    assert mini.wnids == tuple(PLACE[name] for name in ("animal", "pet", "dog", "snoopy", "entity"))
    assert mini.names == ("animal", "pet", "dog", "Snoopy", "entity")
    assert [mini.hypernyms(i) for i in range(5)] == [(4,), (4,), (0, 1), (2,), ()]
    assert mini.words(2) == ("dog", "Canis familiaris")
    assert mini.gloss(0) == "moves"
    assert mini.version == "3.0"
    assert repr(mini) == "<WordNet 3.0: 5 noun synsets>"


def test_senses_come_in_the_order_of_the_index(mini: WordNet) -> None:
    assert mini.senses("DOG") == [2, 3]
    assert mini.senses("living thing") == mini.senses("Living_Thing") == [0]
    assert mini.senses("unicorn") == []
    assert mini.lookup("dog.n.02") == 3
    assert mini.lookup("snoopy") == 3
    assert mini.lookup(PLACE["dog"]) == 2


def test_lookup_errors_list_the_candidates(mini: WordNet) -> None:
    with pytest.raises(TreeError) as caught:
        mini.lookup("dog")
    message = str(caught.value)
    assert "'dog' is ambiguous, 2 senses" in message
    assert f"1. {PLACE['dog']}  dog: barks" in message
    assert f"2. {PLACE['snoopy']}  Snoopy: drawn by Schulz" in message
    with pytest.raises(TreeError, match="2 senses, not 3"):
        mini.lookup("dog.n.03")
    with pytest.raises(TreeError, match="no noun 'unicorn'"):
        mini.lookup("unicorn")
    with pytest.raises(TreeError, match=r"unknown id 'n00000001'.*WordNet 3\.0"):
        mini.index("n00000001")


def test_pack_and_read_again(mini: WordNet, tmp_path: Path) -> None:
    mini.save(tmp_path / "mini.npz")
    assert_same(WordNet.open(tmp_path / "mini.npz"), mini)
    first = (tmp_path / "mini.npz").read_bytes()
    mini.save(tmp_path / "mini.npz")
    assert (tmp_path / "mini.npz").read_bytes() == first  # no dates, no hash order


def assert_same(a: WordNet, b: WordNet) -> None:
    assert a.wnids == b.wnids
    assert a.version == b.version
    for synset in range(len(a)):
        assert a.words(synset) == b.words(synset)
        assert a.hypernyms(synset) == b.hypernyms(synset)
        assert a.gloss(synset) == b.gloss(synset)
        for word in a.words(synset):
            assert a.senses(word) == b.senses(word)


def test_the_packed_nouns() -> None:
    nouns = WordNet.packed()
    assert nouns is WordNet.packed()
    assert len(nouns) == 82_115
    assert PACKED.stat().st_size <= 6_000_000
    assert nouns.name("n02084071") == "dog"
    assert [nouns.names[i] for i in nouns.hypernyms(nouns.index("n02084071"))] == [
        "domestic animal",
        "canine",
    ]
    assert nouns.gloss(nouns.index("n02110958")).startswith("small compact smooth-coated breed")
    assert [nouns.wnids[i] for i in nouns.senses("crane")][-2:] == ["n03126707", "n02012849"]
    roots = [nouns.names[i] for i in range(len(nouns)) if not nouns.hypernyms(i)]
    assert roots == ["entity"]


def test_the_licence_comes_along() -> None:
    text = PACKED.with_name("WORDNET-LICENSE.txt").read_text()
    assert "WordNet 3.0 Copyright 2006 by Princeton University.  All rights reserved." in text
    assert "that the same appear on ALL copies" in text


def test_the_packing_script(tmp_path: Path) -> None:
    folder = write_database(tmp_path / "wordnet")
    script = Path(__file__).parents[1] / "scripts" / "pack_wordnet.py"
    made = tmp_path / "made.npz"
    run = [sys.executable, str(script), str(folder), "-o", str(made)]
    done = subprocess.run(run, check=True, timeout=200, capture_output=True, text=True)
    assert "5 noun synsets" in done.stdout
    assert_same(WordNet.open(made), WordNet.from_folder(folder))
    assert "WordNet 3.0 Copyright 2006" in (tmp_path / "WORDNET-LICENSE.txt").read_text()


@pytest.fixture(scope="module")
def debian(wordnet_dir: Path) -> WordNet:
    return WordNet.from_folder(wordnet_dir)


@pytest.mark.reference
@pytest.mark.slow
def test_the_packed_nouns_are_those_of_the_database(debian: WordNet) -> None:
    assert_same(WordNet.packed(), debian)


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolo9000", "imagenet22k"])
def test_a_database_folder_gives_the_same_tree(debian: WordNet, name: str) -> None:
    assert build_tree(name, wordnet=debian).tree == build_tree(name).tree


def test_a_database_that_is_not_ascii(tmp_path: Path) -> None:
    """nltk finds synsets by byte, so a letter of two bytes must not shift what follows."""
    synsets = SYNSETS | {"animal": SYNSETS["animal"].replace("moves;", "läuft;")}
    assert_same_links(WordNet.from_folder(write_database(tmp_path, synsets)))


def assert_same_links(nouns: WordNet) -> None:
    assert [nouns.hypernyms(i) for i in range(5)] == [(4,), (4,), (0, 1), (2,), ()]
    assert nouns.gloss(0) == "läuft"


@pytest.mark.parametrize("missing", ["data.noun", "index.noun"])
def test_a_folder_without_a_file(tmp_path: Path, missing: str) -> None:
    (write_database(tmp_path) / missing).unlink()
    with pytest.raises(FormatError, match=f"no file {missing}: not a WordNet database folder.*wordnet-base"):
        WordNet.from_folder(tmp_path)


@pytest.mark.parametrize(("raw", "message"), [(b"\xff\xfe\0", "no UTF-8 text"), (b"", "empty file")])
def test_a_file_that_is_no_text(tmp_path: Path, raw: bytes, message: str) -> None:
    (write_database(tmp_path) / "data.noun").write_bytes(raw)
    with pytest.raises(FormatError, match=message):
        WordNet.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("synsets", "index", "message"),
    [
        ({}, INDEX, "expected noun synsets, found none"),
        (SYNSETS | {"pet": "{pet} 03 n zz pet"}, INDEX, "nltk cannot read this"),
        (SYNSETS, INDEX.replace("living_thing", "lamp"), "no entry of 'living_thing' for the synset n0"),
        (SYNSETS | {"pet": SYNSETS["pet"].replace("entity", "dog")}, INDEX, "lead in a circle"),
        (SYNSETS | {"pet": SYNSETS["pet"].replace("{entity}", "00000001")}, INDEX, "where no synset begins"),
    ],
)
def test_damaged_databases(tmp_path: Path, synsets: dict[str, str], index: str, message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        WordNet.from_folder(write_database(tmp_path, synsets, index))
    assert str(tmp_path) in str(caught.value)


def test_nearest_node() -> None:
    tree = WordTree.load("yolo9000")
    assert nearest_node(tree, "n02084071") == tree.index("n02084071")
    assert nearest_node(tree, "n02413824") == tree.index("domestic sheep")  # Exmoor, a breed
    assert nearest_node(tree, "n02896949") == tree.index(
        "apparatus"
    )  # breeder reactor: `nuclear reactor` lacks
    assert nearest_node(tree, "n00024720") is None  # state: no kind of thing, matter or object
    with pytest.raises(TreeError, match="unknown id 'n99999999'"):
        nearest_node(tree, "n99999999")


def test_nearest_node_takes_the_shortest_way(mini: WordNet) -> None:
    tree = WordTree([-1, 0], [PLACE["entity"], PLACE["pet"]], ["entity", "pet"])
    assert nearest_node(tree, PLACE["snoopy"], mini) == 1  # by dog and pet, not by dog, animal and entity
    assert nearest_node(tree, PLACE["animal"], mini) == 0
    assert nearest_node(WordTree.flat(["x"]), PLACE["snoopy"], mini) is None


def test_find_prefers_names_to_synonyms_to_parts() -> None:
    tree = WordTree.load("yolo9000")
    found = [tree.names[node] for node in find(tree, "husky")]
    assert found == ["Eskimo dog", "Siberian husky"]
    assert find(tree, "n02084071") == [tree.index("n02084071")]
    assert [tree.names[node] for node in find(tree, "CRANE")][:3] == ["crane", "crane", "whooping crane"]
    assert find(tree, "no such thing") == find(tree, " ") == []
