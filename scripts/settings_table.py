"""Writes the tables of all training settings into docs/training.md, from the dataclasses and their comments.

    python scripts/settings_table.py [--check]

With `--check` nothing is written; the exit code is 1 where the page is not current.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "training.md"
SOURCE = ROOT / "yolo9000" / "config.py"
BEGIN, END = "<!-- settings: written by scripts/settings_table.py -->", "<!-- end of settings -->"
GROUPS = {  # dataclass -> how its settings are addressed
    "TrainConfig": "",
    "DataConfig": "data.",
    "AugmentConfig": "augment.",
    "OptimConfig": "optim.",
    "LossConfig": "loss.",
    "ValConfig": "val.",
}


def tables(source: str) -> str:
    """One Markdown table a dataclass."""
    comments = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    lines = source.split("\n")
    classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    parts = []
    for name, prefix in GROUPS.items():
        rows = [row(field, prefix, comments, lines) for field in fields(classes[name])]
        parts.append("\n".join(["| setting | default | meaning |", "|---|---|---|", *rows]))
    return "\n\n".join(parts)


def fields(node: ast.ClassDef) -> list[ast.AnnAssign]:
    """The settings of a dataclass; groups of settings have a table of their own."""
    return [
        item
        for item in node.body
        if isinstance(item, ast.AnnAssign) and "field(" not in ast.unparse(item.value or item.target)
    ]


def row(field: ast.AnnAssign, prefix: str, comments: dict[int, str], lines: list[str]) -> str:
    """A row of a table; the meaning is the comment beside the setting, or the lines above it."""
    assert field.value is not None
    assert field.end_lineno is not None
    inside = [comments[n] for n in range(field.lineno, field.end_lineno + 1) if n in comments]
    above: list[str] = []
    number = field.lineno - 1
    while lines[number - 1].strip().startswith("#"):
        above.insert(0, comments[number])
        number -= 1
    meaning = " ".join(above + inside)
    name = prefix + ast.unparse(field.target)
    options = ast.unparse(field.annotation).removesuffix(" | None")
    if options.startswith("Literal["):
        meaning = f"{options[8:-1].replace(chr(39), '')}; {meaning}"
    cells = (f"`{name}`", f"`{ast.unparse(field.value)}`", meaning.replace("|", "\\|"))
    return f"| {' | '.join(cells)} |"


def page(text: str, source: str) -> str:
    """The page with its tables made new."""
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    return f"{head}{BEGIN}\n\n{tables(source)}\n\n{END}{tail}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    text = PAGE.read_text(encoding="utf-8")
    current = page(text, SOURCE.read_text(encoding="utf-8"))
    if arguments.check:
        if text != current:
            sys.exit(f"{PAGE.name} is not current: run python scripts/settings_table.py")
        return
    PAGE.write_text(current, encoding="utf-8")


if __name__ == "__main__":
    main()
