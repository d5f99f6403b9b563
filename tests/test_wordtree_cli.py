"""The tree commands as a user runs them, and what they draw."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from wordtree import TreeError, WordTree, YOLO9000Error, build_tree
from wordtree.cli import build_tree as build_command
from wordtree.cli import tree_app
from wordtree.draw import added, drawing, found_table, path_table, report, stats

app = typer.Typer()
app.command("build-tree")(build_command)
app.add_typer(tree_app, name="tree")


def run(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner(env={"COLUMNS": "120"}).invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, YOLO9000Error):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def drawn(what: object, width: int = 100) -> list[str]:
    console = Console(width=width, color_system=None, record=True)
    with console.capture() as capture:
        console.print(what)
    return [line.rstrip() for line in capture.get().splitlines()]


@pytest.fixture
def toy() -> WordTree:
    names = ["animal", "vehicle", "cat", "dog", "car", "pug", "beagle", "husky"]
    return WordTree([-1, -1, 0, 0, 1, 3, 3, 3], [f"x{i}" for i in range(8)], names)


def test_drawing_a_tree(toy: WordTree) -> None:
    assert drawn(drawing(toy)) == [
        "8 nodes, 5 leaves",
        "├── animal  x0  4 leaves",
        "│   ├── cat  x2",
        "│   └── dog  x3  3 leaves",
        "└── vehicle  x1  1 leaf",
        "    └── car  x4",
    ]


def test_drawing_below_a_node_cuts_depth_and_width(toy: WordTree) -> None:
    assert drawn(drawing(toy, "animal", depth=0)) == [
        "animal  x0  4 leaves",
        "├── cat  x2",
        "└── dog  x3  3 leaves",
    ]
    assert drawn(drawing(toy, "dog", width=2)) == [
        "dog  x3  3 leaves",
        "├── pug  x5",
        "└── ... 2 more, 2 leaves",
    ]


def test_drawing_a_path(toy: WordTree) -> None:
    lines = drawn(path_table(toy, "pug"))
    assert [line.split() for line in lines] == [
        ["depth", "id", "among", "gloss"],
        ["0", "animal", "x0", "2"],
        ["1", "└─", "dog", "x3", "2"],
        ["2", "└─", "pug", "x5", "3"],
    ]
    assert lines[3].startswith("    2    └─ pug")
    assert "among" in drawn(path_table(WordTree.load("yolo9000"), "Siberian husky"), width=80)[0]


def test_drawing_what_was_found(toy: WordTree) -> None:
    lines = drawn(found_table(toy, [3, 5], "o"))
    assert [line.split() for line in lines[1:]] == [
        ["dog", "x3", "3", "animal"],
        ["pug", "x5", "leaf", "animal", ">", "dog"],
    ]


def test_drawing_figures(toy: WordTree) -> None:
    lines = drawn(stats(toy))
    assert lines[0].split() == ["nodes", "8"]
    assert lines[1].split() == ["leaves", "5", "62.5", "%"]
    assert any(line.split()[:3] == ["2", "3", "3"] for line in lines)
    widest = next(i for i, line in enumerate(lines) if line.startswith("widest groups"))
    assert lines[widest + 1].split() == ["dog", "x3", "3", "animal"]
    flat = WordTree.flat(["a", "b"])
    assert any(line.split() == ["(top)", "2"] for line in drawn(stats(flat)))


@pytest.mark.timeout(30)  # a hundred times as long where each node looks at all
def test_what_was_added_takes_no_longer_than_the_tree_is_large(toy: WordTree) -> None:
    large = WordTree([-1] + [0] * 59_999, [f"kind{number}" for number in range(60_000)])
    assert drawn(added(None, large))[0] == "nodes           60,000"
    assert drawn(added(toy, large)) == ["60,000 nodes of your own", "+  kind0"]


def test_names_are_not_markup() -> None:
    tree = WordTree.flat(["[bold]x[/bold]", "[/]"])
    assert drawn(drawing(tree))[1:] == ["├── [bold]x[/bold]", "└── [/]"]
    assert "[/]" in drawn(path_table(tree, 1))[1]


def test_report() -> None:
    lines = {line.rsplit("  ")[0]: line.split() for line in drawn(report(build_tree("yolo9000")))}
    assert any("9,418" in words for words in lines.values())
    rules = next(words for key, words in lines.items() if key.startswith("parents from the rules"))
    assert rules[-3:] == ["9,336", "99.13", "%"]


def test_build_tree_writes_every_format(tmp_path: Path) -> None:
    expected = build_tree("voc").tree
    for name, extra in (("v.tree", []), ("v.json", []), ("v.csv", []), ("v.graphml", [])):
        output = run("build-tree", "--classes", "voc", "-o", tmp_path / name, *extra)
        assert f"wrote {tmp_path / name}" in output
        assert WordTree.load(tmp_path / name) == expected
    run("build-tree", "-c", "voc", "-o", tmp_path / "v.txt", "--format", "json")
    assert json.loads((tmp_path / "v.txt").read_text())["format"] == "wordtree-1"


def test_build_tree_from_a_file_with_choices(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("n02084071 dog\nn02121808 house cat\nn02958343\n")
    (tmp_path / "mine.choices").write_text("n02084071 n02958343 dog < car: why not\n")
    run("build-tree", "-c", tmp_path / "mine.txt", "-o", tmp_path / "a.csv")
    run(
        "build-tree",
        "-c",
        tmp_path / "mine.txt",
        "--choices",
        tmp_path / "mine.choices",
        "-o",
        tmp_path / "b.csv",
    )
    names = WordTree.load(tmp_path / "a.csv").names
    assert {"dog", "house cat", "car"} <= set(names)
    assert (tmp_path / "a.csv").read_text() != (tmp_path / "b.csv").read_text()


def test_build_tree_from_a_hierarchy_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "goods.yaml").write_text("goods:\n  - spoon\n  - fork [F1]\n")
    output = run("build-tree", "--from", tmp_path / "goods.yaml", "-o", tmp_path / "goods.tree")
    assert f"wrote {tmp_path / 'goods.tree'}" in output
    assert (tmp_path / "goods.tree").read_text() == "goods -1\nspoon 0\nF1 0\n"
    (tmp_path / "chairs.csv").write_text("chair,\naeron,chair,Aeron\n")
    output = run("build-tree", "--from", tmp_path / "chairs.csv", "-c", "voc", "-o", tmp_path / "mixed.csv")
    assert "1 node of your own" in output
    tree = WordTree.load(tmp_path / "mixed.csv")
    assert [tree.names[node] for node in tree.path("aeron")][-2:] == ["chair", "Aeron"]
    assert "excl" not in run("build-tree", "--from", tmp_path / "goods.yaml", "--rules-only", code=2)
    with pytest.raises(YOLO9000Error, match="names no tree format"):
        run("build-tree", "--from", __file__)


def test_rules_only(tmp_path: Path) -> None:
    output = run("build-tree", "--rules-only", "-o", tmp_path / "r.tree")
    assert "100.00 %" in output
    assert WordTree.load(tmp_path / "r.tree") != WordTree.load("yolo9000")


def test_build_tree_refuses_before_it_works(tmp_path: Path) -> None:
    assert "exclude each other" in run("build-tree", "--rules-only", "--choices", "x", code=2)
    with pytest.raises(YOLO9000Error, match="names no tree format"):
        run("build-tree", "-o", tmp_path / "x.txt")
    with pytest.raises(YOLO9000Error, match="not a WordNet database folder"):
        run("build-tree", "--wordnet", tmp_path)
    (tmp_path / "own.yaml").write_text("a: [b]")
    assert "add --output" in run("build-tree", "--from", tmp_path / "own.yaml", "-f", "json", code=2)


@pytest.mark.parametrize("ending", [".names", ".labels"])
def test_a_tree_does_not_replace_the_list_it_is_made_of(tmp_path: Path, ending: str) -> None:
    classes = tmp_path / f"mine{ending}"
    classes.write_text("n02958343\nn02084071\n")
    assert "replace the list" in run("build-tree", "-c", classes, "-o", tmp_path / "mine.tree", code=2)
    run("build-tree", "-c", classes, "-o", tmp_path / "mine.json")
    assert classes.read_text() == "n02958343\nn02084071\n"


def test_tree_show_find_path_stats(tmp_path: Path, toy: WordTree) -> None:
    toy.save(tmp_path / "toy.json")
    source = ("--tree", str(tmp_path / "toy.json"))
    assert "├── pug  x5" in run("tree", "show", "dog", *source)
    assert "8 nodes, 5 leaves" in run("tree", "show", *source)
    assert "animal > dog" in run("tree", "find", "pug", *source)
    assert "Siberian husky" in run("tree", "path", "siberian_husky")
    assert "sibling groups" in run("tree", "stats", *source)
    with pytest.raises(TreeError, match="no node 'unicorn'"):
        run("tree", "show", "unicorn", *source)


def test_find_says_so_when_there_is_nothing_or_more() -> None:
    assert "nothing in this tree is called 'xyzzy'" in run("tree", "find", "xyzzy", code=1)
    short = run("tree", "find", "dog")
    assert "more: --all shows them" in short
    assert len(run("tree", "find", "dog", "--all").splitlines()) > len(short.splitlines())
    assert "husky" in run("tree", "find", "husky").splitlines()[1]  # Eskimo dog, also called husky


def test_importing_the_commands_is_light() -> None:
    heavy = "{'numpy', 'nltk', 'networkx', 'torch', 'rich.table'}"
    code = f"import sys, wordtree, wordtree.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("classes", "seconds"), [("yolo9000", 2), ("all-nouns", 20)])
def test_the_whole_process_is_quick(tmp_path: Path, classes: str, seconds: float) -> None:
    """Processor time of `build-tree`, start and files included."""
    code = "import typer; from wordtree.cli import build_tree; typer.run(build_tree)"
    command = [sys.executable, "-c", code, "--classes", classes, "-o", str(tmp_path / "x.tree")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, timeout=250)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime <= seconds
