"""The tree commands of the command line: `build-tree` and `tree show | find | path | stats`.

The root application mounts them: `app.command("build-tree")(build_tree)` and
`app.add_typer(tree_app, name="tree")`. Heavy imports stand inside the commands.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wordtree.tree import WordTree

_MOST_FOUND = 20  # rows of `tree find` unless --all


class TreeFormat(StrEnum):
    """Formats that a tree can be written in."""

    darknet = "darknet"
    json = "json"
    graphml = "graphml"
    csv = "csv"


Source = Annotated[
    str,
    typer.Option(
        "--tree",
        "-t",
        help="A built-in tree (yolo9000, coco, voc, ...), a tree file or a model file.",
        show_default=True,
    ),
]


def build_tree(
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            "-c",
            help="yolo9000, coco, voc, imagenet-det, ilsvrc1k, imagenet22k, all-nouns; or a file.",
            show_default="yolo9000, or none with --from",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="A hierarchy of your own: .yaml, .csv, .graphml, .json or .tree. With --classes it is "
            "added to their tree.",
            metavar="FILE",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; a .tree gets .names and .labels beside it."),
    ] = None,
    wordnet: Annotated[
        Path | None,
        typer.Option("--wordnet", help="WordNet database folder to use in place of the packed one."),
    ] = None,
    choices: Annotated[
        Path | None,
        typer.Option("--choices", help="File of choices to use in place of the class list's own."),
    ] = None,
    rules_only: Annotated[
        bool, typer.Option("--rules-only", help="The pure derivation: apply no choices.")
    ] = False,
    format: Annotated[
        TreeFormat | None,
        typer.Option("--format", "-f", help="Format of the output; its ending decides when left out."),
    ] = None,
) -> None:
    """Derive a WordTree from a class list and WordNet, or take one of your own, or both.

    yolo9000 build-tree -o 9k.tree                     the published 9,418 nodes, byte for byte
    yolo9000 build-tree --classes mine.txt -o my.json  a tree over your own classes
    yolo9000 build-tree --from goods.yaml -o my.tree   a hierarchy that has nothing to do with WordNet
    yolo9000 build-tree --from chairs.csv --classes coco -o my.tree   your own below WordNet's chair
    """
    from wordtree import builder, formats
    from wordtree._terminal import Terminal
    from wordtree.draw import added, report
    from wordtree.taxonomy import graft
    from wordtree.wordnet import WordNet

    if source is not None and classes is None and (choices is not None or rules_only or wordnet is not None):
        raise typer.BadParameter("--from alone needs no WordNet; add --classes, or leave its options out.")
    if choices is not None and rules_only:
        raise typer.BadParameter("--choices and --rules-only exclude each other; give one of them.")
    if format is not None and output is None:
        raise typer.BadParameter("--format is that of the file to write; add --output.")
    suffix = None if format is None else _SUFFIX[format]
    if output is not None:
        suffix = formats.check_suffix(output, suffix)
        if suffix == ".tree" and classes is not None:
            _keep(Path(classes), output)
    own = None if source is None else formats.load_tree(source)
    console = Terminal()
    if own is None or classes is not None:
        nouns = None if wordnet is None else WordNet.from_folder(wordnet)
        build = builder.build_tree(
            classes or "yolo9000", wordnet=nouns, choices=choices, rules_only=rules_only
        )
        console.print(report(build))
        tree = build.tree if own is None else graft(build.tree, own)
        if own is not None:
            console.print(added(build.tree, tree))
    else:
        tree = own
        console.print(added(None, tree))
    if output is not None:
        files = formats.save_tree(tree, output, suffix)
        console.print(f"wrote {', '.join(map(str, files))}", markup=False, soft_wrap=True)


def _keep(classes: Path, output: Path) -> None:
    """Refuse a tree beside which its names or labels would replace the list that it is made of."""
    if classes.resolve() in [output.with_suffix(ending).resolve() for ending in (".names", ".labels")]:
        problem = f"{output} gets .names and .labels beside it, which would replace the list {classes}"
        raise typer.BadParameter(f"{problem}; name it otherwise.", param_hint="--output")


_SUFFIX = {
    TreeFormat.darknet: ".tree",
    TreeFormat.json: ".json",
    TreeFormat.graphml: ".graphml",
    TreeFormat.csv: ".csv",
}

tree_app = typer.Typer(no_args_is_help=True, help="Look at a tree: show, find, path, stats, draw.")


@tree_app.command()
def show(
    node: Annotated[
        str | None, typer.Argument(help="Name, id or index; the whole tree when left out.")
    ] = None,
    tree: Source = "yolo9000",
    depth: Annotated[int, typer.Option("--depth", "-d", min=0, help="Levels to show below the node.")] = 2,
    width: Annotated[int, typer.Option("--width", "-w", min=1, help="Most children shown of one node.")] = 12,
) -> None:
    """Draw a tree, or what is below one node.

    yolo9000 tree show dog --depth 3
    """
    from wordtree.draw import drawing

    _print(drawing(_load(tree), node, depth=depth, width=width))


@tree_app.command()
def find(
    text: Annotated[str, typer.Argument(help="A name, a synonym or a part of a name.")],
    tree: Source = "yolo9000",
    everything: Annotated[bool, typer.Option("--all", "-a", help="Show all that is found.")] = False,
) -> None:
    """Find nodes by name, WordNet synonym or part of a name.

    yolo9000 tree find husky
    """
    from wordtree.draw import found_table
    from wordtree.lookup import find as search

    loaded = _load(tree)
    nodes = search(loaded, text)
    if not nodes:
        typer.echo(f"nothing in this tree is called {text!r}, nor has it in its name", err=True)
        raise typer.Exit(1)
    shown = nodes if everything else nodes[:_MOST_FOUND]
    _print(found_table(loaded, shown, text))
    if len(shown) < len(nodes):
        typer.echo(f"... {len(nodes) - len(shown):,} more: --all shows them")


@tree_app.command()
def path(
    node: Annotated[str, typer.Argument(help="Name, id or index.")],
    tree: Source = "yolo9000",
) -> None:
    """Show the way from the top of the tree to a node.

    yolo9000 tree path "Siberian husky"
    """
    from wordtree.draw import path_table

    _print(path_table(_load(tree), node))


@tree_app.command()
def stats(tree: Source = "yolo9000") -> None:
    """Count nodes, leaves and groups, by depth, and list the widest groups.

    yolo9000 tree stats --tree coco
    """
    from wordtree.draw import stats as figures

    _print(figures(_load(tree)))


def _load(source: str) -> WordTree:
    from wordtree.formats import load_tree

    return load_tree(source)


def _print(what: object) -> None:
    from wordtree._terminal import Terminal

    Terminal().print(what)
