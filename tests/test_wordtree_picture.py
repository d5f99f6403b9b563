"""Trees as pictures and pages: laid out apart, complete, read back; the page in a real browser."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from wordtree import TreeError, WordTree, font
from wordtree.page import to_html
from wordtree.picture import Picture, lay_out, open_nodes, to_png, to_svg

NAMES = ["animal", "vehicle", "cat", "dog", "car", "pug", "</script><b>beagle", "husky"]
TOY = WordTree([-1, -1, 0, 0, 1, 3, 3, 3], [f"x{i}" for i in range(8)], NAMES)


@pytest.fixture(scope="module")
def whole() -> WordTree:
    return WordTree.load("yolo9000")


def check(picture: Picture) -> None:
    """Every node right of its parent and on no other's text; all inside."""
    boxes = [(item.x - 4, item.y - 9, item.end, item.y + 9) for item in picture.nodes]
    for left, top, right, bottom in boxes:
        assert 0 <= left <= right <= picture.width
        assert 0 <= top <= bottom <= picture.height
    for item in picture.nodes:
        if item.parent >= 0:
            parent = picture.nodes[item.parent]
            assert parent.end < item.x
            assert picture.tree.parent[item.node] == parent.node
    taken: dict[float, list[tuple[float, float]]] = {}
    for item in picture.nodes:
        taken.setdefault(round(item.x), []).append((item.y - 9, item.y + 9))
    for column in taken.values():
        column.sort()
        assert all(a[1] <= b[0] + 0.01 for a, b in pairwise(column))


def test_a_small_tree_is_shown_whole() -> None:
    picture = lay_out(TOY)
    check(picture)
    assert sorted(item.node for item in picture.nodes) == list(range(8))
    assert not any(item.folded or item.note for item in picture.nodes)


@pytest.mark.parametrize("under", [None, "dog", "artifact", "Siberian husky"])
@pytest.mark.parametrize("lines", [1, 10, 150, 1000])
def test_large_trees_are_folded_to_fit(whole: WordTree, under: str | None, lines: int) -> None:
    picture = lay_out(whole, under, lines=lines)
    check(picture)
    ends = [item for item in picture.nodes if item.folded or whole.is_leaf[item.node]]
    assert len(ends) <= max(lines, 4 if under is None else 1)
    shown = {item.node for item in picture.nodes}
    hidden = sum(int(item.note.replace(",", "")) for item in picture.nodes if item.folded)
    top = len(whole) if under is None else len(whole.subtree(under))
    assert len(shown) + hidden == top, "what is folded is counted"


def test_all_nodes(whole: WordTree) -> None:
    picture = lay_out(whole, depth=99)
    check(picture)
    assert len(picture.nodes) == 9418
    with pytest.raises(TreeError, match=r"too large: use \.svg or \.html"):
        to_png(picture)


def test_depth(whole: WordTree) -> None:
    picture = lay_out(whole, "dog", depth=1)
    assert [item.node for item in picture.nodes] == [whole.index("dog"), *whole.children("dog")]
    assert len(lay_out(whole, "dog", depth=0).nodes) == 1


def test_the_largest_are_opened_first() -> None:
    assert open_nodes(TOY, [0, 1], 3) == {0, 1}
    assert open_nodes(TOY, [0, 1], 4) == {0, 1}
    assert open_nodes(TOY, [0, 1], 5) == {0, 3, 1}
    assert open_nodes(TOY, [0, 1], 2) == {1}  # costs no line
    assert open_nodes(TOY, [0, 1], 1) == set()


def test_values() -> None:
    counts = np.array([7, 0, 0, 7, 0, 1234, 0, 0])
    notes = {item.node: (item.note, item.faint) for item in lay_out(TOY, values=counts).nodes}
    assert (notes[0], notes[5], notes[1]) == (("7", False), ("1,234", False), ("", True))
    assert {item.note for item in lay_out(TOY, values=counts / 10_000).nodes} == {"0.00", "0.12", ""}


def test_svg_is_valid_and_holds_every_name(whole: WordTree) -> None:
    for picture in (lay_out(TOY), lay_out(whole, "dog")):
        root = ElementTree.fromstring(to_svg(picture))
        texts = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
        assert texts == [f"{picture.tree.names[item.node]} {item.note}".rstrip() for item in picture.nodes]
        assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) == sum(
            item.parent >= 0 for item in picture.nodes
        )


def test_png() -> None:
    picture = lay_out(TOY)
    image = Image.open(io.BytesIO(to_png(picture))).convert("RGB")
    assert image.size == (round(2 * picture.width), round(2 * picture.height))
    pixels = np.asarray(image)
    for item in picture.nodes:
        around = pixels[
            round(2 * item.y) - 9 : round(2 * item.y) + 9, round(2 * item.x) - 9 : round(2 * item.x) + 9
        ]
        assert around.std() > 20, "no dot"
        text = pixels[
            round(2 * item.y) - 14 : round(2 * item.y) + 14, round(2 * item.x) + 16 : round(2 * item.end)
        ]
        assert text.min() < 60, "no text"


def test_refused() -> None:
    for wrong in ({"lines": 0}, {"depth": -1}):
        with pytest.raises(TreeError, match="at least one line and a depth from 0"):
            lay_out(TOY, **wrong)
    with pytest.raises(TreeError, match="no node 'unicorn'"):
        to_html(TOY, "unicorn")


@pytest.mark.parametrize(("one", "other"), ["éö", "ßł", "ΩЖ", "שع", ("Bär", "Bör")])
def test_png_has_the_letters_of_names(one: str, other: str) -> None:
    pictures = [to_png(lay_out(WordTree([-1], ["n0"], [name]))) for name in (one, other)]
    assert pictures[0] != pictures[1]


def test_without_another_font_there_is_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(font, "_dejavu", lambda: "none.ttf")
    monkeypatch.setattr(font, "_SYSTEM", ())
    monkeypatch.setattr(font, "_SYSTEM_EAST_ASIAN", ())
    assert font.font_for("犬é", 13).getname() == font.font_for("dog", 13).getname()


# ----------------------------------------------------------------------------------------------- the page


def test_page_holds_the_subtree_and_loads_nothing(whole: WordTree) -> None:
    page = to_html(whole, "dog")
    assert "default-src 'none'" in page
    assert not re.findall(r"(?:src|href)\s*=|https?://|@import|url\(", page)
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])  # type: ignore[index]
    nodes = whole.subtree("dog")
    assert data["names"] == [whole.names[node] for node in nodes]
    assert data["parents"][0] == -1
    assert all(
        whole.names[whole.parent[nodes[k]]] == data["names"][p] for k, p in enumerate(data["parents"]) if k
    )
    assert data["glosses"][0].startswith("a member of the genus Canis")


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_page_opens_as_many_levels_as_asked_for(depth: int) -> None:
    page = to_html(TOY, depth=depth)
    opened = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])["opened"]  # type: ignore[index]
    assert opened == [node for node in range(len(TOY)) if TOY.depth[node] < depth and not TOY.is_leaf[node]]


FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --virtual-time-budget=2000 --dump-dom"
).split()
# Does what a reader would do, and writes what can then be seen into the page.
SCRIPT = """<script>
const all = selector => [...document.querySelectorAll(selector)];
const text = nodes => nodes.map(node => node.textContent);
const visible = () => all(".row").filter(row => row.offsetParent !== null);
const seen = () => text(visible().map(row => row.querySelector(".name")));
const type = words => { $("search").value = words; $("search").dispatchEvent(new Event("input")); };
const press = (row, key) => row.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const steps = { start: seen(), status: $("status").textContent };
$("close").click();
steps.closed = seen();
document.querySelector(".row.inner").click();
steps.clicked = seen();
$("open").click();
$("open").click();
steps.opened = seen();
$("close").click();
type("PUG");
steps.results = text(all("#results li"));
document.querySelector("#results li").click();
steps.revealed = seen();
steps.found = document.querySelector(".found .name").textContent;
press(document.querySelector(".row.inner"), "ArrowLeft");
steps.left = seen();
type("nothing of it");
steps.none = $("status").textContent;
steps.values = text(all(".value"));
const out = document.createElement("pre");
out.id = "steps";
out.textContent = JSON.stringify(steps);
document.body.append(out);
</script>"""


def browse(page: str, folder: Path, fragment: str = "") -> str:
    """The page's document after its scripts have run in Chromium."""
    program = next((p for name in ("chromium", "google-chrome") if (p := shutil.which(name))), None)
    if program is None:
        pytest.skip("no chromium to open the page with: apt-get install chromium")
    file = folder / "tree.html"
    file.write_text(page, encoding="utf-8")
    command = [program, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"{file.as_uri()}{fragment}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def test_page_in_a_browser(tmp_path: Path) -> None:
    page = to_html(TOY, values=np.array([0.9, 0.4, 0, 0.9, 0, 0.25, 0, 0]), unit="score")
    document = browse(page.replace("</body>", SCRIPT + "</body>"), tmp_path)
    steps = json.loads(
        re.search(r'<pre id="steps">(.*?)</pre>', document, re.S)[1]  # type: ignore[index]
        .replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    )  # fmt: skip
    everything = ["animal", "cat", "dog", "pug", "</script><b>beagle", "husky", "vehicle", "car"]
    assert steps["start"] == everything, "a small tree is shown whole"
    assert steps["status"] == "8 nodes, with scores"
    assert steps["closed"] == ["animal", "vehicle"]
    assert steps["clicked"] == ["animal", "cat", "dog", "vehicle"]
    assert steps["opened"] == everything
    assert steps["results"] == ["animal › dog › pug"]
    assert (steps["found"], "pug" in steps["revealed"], "car" in steps["revealed"]) == ("pug", True, False)
    assert steps["left"] == ["animal", "vehicle"]
    assert steps["none"] == "0 found"
    assert sorted(steps["values"]) == ["0.25", "0.40", "0.90", "0.90"]


def test_page_of_all_nodes_in_a_browser(whole: WordTree, tmp_path: Path) -> None:
    document = browse(to_html(whole), tmp_path, "#find=Siberian%20husky")
    assert 'role="status">2 found<' in document or 'role="status">1 found<' in document
    found = re.search(r'<li[^>]*class="found"[^>]*>.*?class="name">([^<]*)<', document, re.S)
    assert found is not None
    assert found[1] == "Siberian husky"
    assert 30 < document.count('role="treeitem"') < 1500, "rows are made when they are opened"
