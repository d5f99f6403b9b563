"""The documentation is true: its code blocks run, its pages are reachable, the site builds.

Python blocks of a page run in order with one set of names, in a folder of bundled photos. Shell blocks
consist of `yolo9000` commands, which run, too; console blocks of one command and what it prints, which is
compared. A block with a title is written to a file of that name. What
cannot run here says why, in a comment directly above the block: `<!-- not run: reason -->`.
"""

from __future__ import annotations

import doctest
import json
import os
import pkgutil
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner, Result

import wordtree
import yolo9000
from yolo9000 import YOLO9000
from yolo9000.cli import app
from yolo9000.model import DEFAULT_MODEL, packaged_models
from yolo9000.sources import demo_photos

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EVERYWHERE = [*PAGES, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "recipes").rglob("*.md"))]
RUN = ("python", "bash", "console")
# Files that pages speak of.
TEXTS = {
    "my.txt": "dog.n.01\nairplane\nn02958343\n",
    "mine.txt": "dog.n.01\nairplane\nn02958343\n",
    "goods.yaml": "furniture:\n  chair:\n    - office chair [SKU-12]\n  table:\ntools: [hammer, saw]\n",
    "chairs.yaml": "chair:\n  - Aeron\n  - stool: [bar stool, step stool]\n",
}
PHOTOS = ("photo.jpg", "park.jpg")  # beside those that come with the package
NO_API = {"yolo9000.json", "yolo9000.__version__"}  # a file in exported models, a text
# Blocks with these need the model that comes with the package.
NEEDS_MODEL = re.compile(
    r"yolo9000 (detect|relabel|export|retree)|YOLO9000\.load\(|\bmodel\.|\bfound\b|nano\.onnx"
)


class Block(NamedTuple):
    """One fenced block: its language, its text, its line on the page, and why it is not run."""

    language: str
    text: str
    line: int
    reason: str | None


def blocks_of(page: Path) -> Iterator[Block]:
    """All fenced blocks of a page."""
    lines = page.read_text(encoding="utf-8").splitlines()
    start = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
            continue
        above = lines[start - 1] if start else ""
        note = re.fullmatch(r"<!-- not run: (.+) -->", above.strip())
        language = lines[start][3:].strip()
        yield Block(language, "\n".join(lines[start + 1 : number]), start + 2, note and note[1])
        start = None
    assert start is None, f"{page}: a block that begins in line {start} has no end"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that pages speak of, as current folder."""
    photos = [Path(photo) for photo in demo_photos()]
    (tmp_path / "photos").mkdir()
    if DEFAULT_MODEL in packaged_models():
        shutil.copy(packaged_models()[DEFAULT_MODEL], tmp_path / "model.safetensors")
    for name, photo in (*zip(PHOTOS, photos, strict=False), *((photo.name, photo) for photo in photos)):
        (tmp_path / name).write_bytes(photo.read_bytes())
        (tmp_path / "photos" / photo.name).write_bytes(photo.read_bytes())
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YOLO9000_OFFLINE", "1")
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_blocks_run(page: Path, folder: Path) -> None:
    names: dict[str, Any] = {"__name__": "__docs__"}
    there = DEFAULT_MODEL in packaged_models()
    left_out = []
    for block in blocks_of(page):
        if title := re.search(r'title="(.+)"', block.language):
            (folder / title[1]).write_text(block.text)
        if block.language not in RUN or block.reason:
            continue
        if not there and NEEDS_MODEL.search(block.text):
            left_out.append(block.line)
            continue
        if block.language == "bash":
            run_commands(page, block, folder)
        elif block.language == "console":
            command, *expected = block.text.splitlines()
            words = shlex.split(command.removeprefix("$ "))
            check_printed(expected, run_command(f"{page.name}:{block.line}", words).stdout.splitlines())
        elif block.text.startswith(">>>"):
            example = doctest.DocTestParser().get_doctest(block.text, names, page.name, str(page), block.line)
            assert doctest.DocTestRunner().run(example, clear_globs=False).failed == 0
        else:
            if NEEDS_MODEL.search(block.text) and "model" not in names:
                names["model"] = YOLO9000.load(device="cpu")
                names["found"] = names["model"].detect("photo.jpg")
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)
    if left_out:
        pytest.skip(f"{DEFAULT_MODEL} is not in this checkout: blocks in lines {left_out} did not run")


def run_commands(page: Path, block: Block, folder: Path) -> None:
    """Run every line of a shell block in this process."""
    for number, line in enumerate(block.text.splitlines(), block.line):
        words = shlex.split(line, comments=True)
        if not words:
            continue
        place = f"{page.name}:{number}: {line}"
        target = None
        if ">" in words:
            target = folder / words[words.index(">") + 1]
            words = words[: words.index(">")]
        result = run_command(place, words)
        if target is not None:
            target.write_text(result.stdout)


def run_command(place: str, words: list[str]) -> Result:
    assert words[0] == "yolo9000", f"{place}\n(mark the block with <!-- not run: reason -->)"
    assert not {"|", "&&", ";"} & set(words), f"{place}\n(one command a line)"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = CliRunner().invoke(app, words[1:])
    error = result.exception if not isinstance(result.exception, SystemExit) else ""
    assert result.exit_code == 0, f"{place}\n{result.output}{error}"
    return result


def check_printed(expected: list[str], printed: list[str]) -> None:
    """Compare line by line; `...` stands for any lines."""
    lines, any_lines = iter(printed), False
    for line in expected:
        if line == "...":
            any_lines = True
            continue
        found = next((got for got in lines if not any_lines or alike(line, got.rstrip())), "nothing")
        assert alike(line, found.rstrip()), f"expected {line!r}, printed {found!r}"
        any_lines = False
    assert any_lines or not list(lines), "more is printed than the page shows"


def alike(line: str, other: str) -> bool:
    """The same words, and numbers that another machine's arithmetic may give."""
    number = r"\d+(?:\.\d+)?"
    pairs = zip(re.findall(number, line), re.findall(number, other), strict=False)
    near = all(abs(float(a) - float(b)) <= (0.1 if "." in a else 20) for a, b in pairs)  # shares, pixels
    return near and re.sub(number, "0", line) == re.sub(number, "0", other)


def test_reasons_are_given_where_nothing_else_can_be_done() -> None:
    """A note above a block that is no program would be forgotten there."""
    for page in PAGES:
        for block in blocks_of(page):
            if block.reason:
                assert block.language in RUN, f"{page.name}:{block.line}"


@pytest.mark.parametrize("page", EVERYWHERE, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_exist(page: Path) -> None:
    """Also those that are not run; but for the troubleshooting page, which shows mistakes."""
    if page.name == "troubleshooting.md":
        return
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    shell = [block.text for block in blocks_of(page) if block.language in ("bash", "console")]
    for line in "\n".join(shell).splitlines() + re.findall(r"`([^`]+)`", prose):
        if not (found := re.search(r"\byolo9000 ([a-z][^#|]*)", line)):
            continue
        words, command = found[1].split(), get_command(app)
        while isinstance(command, TyperGroup):
            assert words[0] in command.commands, line
            command = command.commands[words.pop(0)]
        options = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
        assert {word for word in words if re.match("--?[a-z]", word)} <= options, line


@pytest.mark.parametrize("page", EVERYWHERE, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.S)
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_every_page_is_in_the_navigation() -> None:
    class Loader(yaml.SafeLoader):
        pass

    nav = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)["nav"]
    listed = set(re.findall(r"[\w/-]+\.md", str(nav)))
    pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES[1:]}
    assert listed == pages, "list the pages in mkdocs.yml"


def test_names_that_people_use_are_on_the_pages_of_the_api() -> None:
    """All of the packages' `__all__`, and what pages and the notebook import or speak of."""
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    notebook = json.loads((ROOT / "notebooks" / "tour.ipynb").read_text(encoding="utf-8"))
    texts += ["".join(cell["source"]) for cell in notebook["cells"]]
    found = re.findall(r"^from ((?:yolo9000|wordtree)[\w.]*) import (.+)$", "\n".join(texts), re.M)
    used = {f"{module}.{name}" for module, names in found for name in names.split(", ")}
    used |= {name for text in texts for name in re.findall(r"`((?:yolo9000|wordtree)\.\w+(?:\.\w+)*)`", text)}
    used |= {f"{package.__name__}.{name}" for package in (yolo9000, wordtree) for name in package.__all__}
    documented = re.findall(r"^::: (\S+)$", "\n".join(texts), re.M)
    for name in sorted(used - NO_API):
        thing = pkgutil.resolve_name(name)
        home = f"{thing.__module__}.{thing.__qualname__}" if hasattr(thing, "__qualname__") else name
        assert any(f"{home}.".startswith(f"{page}.") for page in documented), f"{name}: list it in docs/api"


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the page is of a machine without a GPU")
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="names /proc as a folder that cannot be written")
def test_mistakes_get_the_messages_of_the_troubleshooting_page() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "troubleshooting.py"))
    expected = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    assert script["page"]().splitlines() == expected.splitlines(), "run: python scripts/troubleshooting.py"


@pytest.mark.slow
def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = [page.read_text() for page in (tmp_path / "site" / "api").glob("*/index.html")]
    assert any("hier_threshold" in page for page in pages)
    assert not any("<blockquote>" in page for page in pages), "an example is no code: say Examples"
