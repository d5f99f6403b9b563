"""Drawing: inside the picture, apart from each other, readable, in the tree's colours."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image, ImageFont

from wordtree.colour import node_colour
from wordtree.tree import WordTree
from yolo9000.draw import _elide, _fit_plates, _overlap, _place, _wrap_path, annotate
from yolo9000.results import Detections

# animal - cat, dog - husky, pug;  vehicle - car, a very long name
TREE = WordTree(
    [-1, -1, 0, 0, 1, 1, 3, 3],
    [f"n{k}" for k in range(8)],
    [
        "animal",
        "vehicle",
        "cat",
        "dog",
        "car",
        "three-wheeled self-propelled conveyance " * 3,
        "husky",
        "pug",
    ],
)
LONG = 5


def detections(boxes: Sequence[Sequence[float]], nodes: Sequence[int], size: tuple[int, int]) -> Detections:
    paths = [TREE.path(node) for node in nodes]
    paths = [(*path, 6) if path[-1] == 3 else path for path in paths]
    rows = np.full((len(nodes), 3), -1)
    for row, path in zip(rows, paths, strict=True):
        row[: len(path)] = path
    count = len(nodes)
    scores = np.linspace(0.9, 0.3, count)
    return Detections(
        np.reshape(np.asarray(boxes, np.float32), (-1, 4)),
        scores.astype(np.float32),
        np.ones(count, np.float32),
        np.array(nodes, np.int64),
        rows.reshape(count, 3),
        np.full((count, 3), 0.99, np.float32),
        TREE,
        size,
    )


def crowd(count: int, size: tuple[int, int], seed: int = 0) -> Detections:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1) * (size[1], size[0])
    nodes = rng.choice([2, 3, 4, LONG, 6, 7], count).tolist()
    return detections(corners.reshape(count, 4).tolist(), nodes, size)


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (300, 5), (64, 64), (240, 320), (1080, 1920)])
@pytest.mark.parametrize("count", [0, 1, 40])
@pytest.mark.parametrize("show_path", [False, True])
def test_any_picture_and_number_of_boxes(size: tuple[int, int], count: int, show_path: bool) -> None:
    picture = annotate(np.full((*size, 3), 128, np.uint8), crowd(count, size), show_path=show_path)
    assert picture.mode == "RGB"
    assert picture.width * size[0] == picture.height * size[1], "proportions changed"
    assert max(picture.size) >= 320
    if max(size) >= 320:
        assert picture.size == (size[1], size[0])
    changed = np.any(np.asarray(picture) != 128)
    assert changed == (count > 0)


def test_the_source_stays_as_it_is() -> None:
    array = np.full((330, 330, 3), 128, np.uint8)
    source = Image.fromarray(array)
    annotate(source, crowd(5, (330, 330)))
    annotate(array, crowd(5, (330, 330)))
    assert np.all(array == 128)
    assert np.all(np.asarray(source) == 128)


def test_a_picture_of_another_size_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="400 × 330 pixels, but its detections are of 500 × 330"):
        annotate(np.zeros((330, 400, 3), np.uint8), crowd(1, (330, 500)))


def test_box_is_drawn_where_it_is() -> None:
    found = detections([[100, 150, 300, 350]], [2], (400, 400))
    picture = np.asarray(annotate(np.zeros((400, 400, 3), np.uint8), found))
    colour = np.array(node_colour(TREE, 2))
    for x, y in [(100, 250), (299, 250), (200, 349)]:
        assert (picture[y, x] == colour).all()
    assert (picture[250, 200] == 0).all(), "the inside of the box is left free"
    assert (picture[250, 310:] == 0).all()


@pytest.mark.parametrize("size", [(64, 64), (320, 480), (2000, 3000)])
@pytest.mark.parametrize("show_path", [False, True])
def test_plates_stay_inside_and_hold_their_text(size: tuple[int, int], show_path: bool) -> None:
    found = list(crowd(60, size))
    plates = _fit_plates(found, (size[1], size[0]), show_path)
    places = _place(plates, [detection.box for detection in found], (size[1], size[0]))
    for plate, (left, top, right, bottom) in zip(plates, places, strict=True):
        assert 0 <= left <= right <= size[1]
        assert top >= 0
        assert bottom <= size[0] or plate.height > size[0]
        for text, font in plate.lines:
            assert font.getlength(text) + 2 * plate.margin <= plate.width + 1


def test_plates_do_not_cover_each_other_where_there_is_room() -> None:
    size = (600, 600)
    boxes = [[100, 100, 500, 500]] * 6 + [[10, 10, 60, 60], [540, 540, 599, 599], [0, 300, 30, 330]]
    found = list(detections(boxes, [2, 3, 4, 6, 7, 2, 3, 4, 6], size))
    places = _place(_fit_plates(found, size, False), [detection.box for detection in found], size)
    overlaps = [_overlap(a, b) for k, a in enumerate(places) for b in places[:k]]
    assert sum(overlaps) == 0


def test_letters_grow_with_the_picture_and_shrink_in_a_crowd() -> None:
    def letters(count: int, side: int) -> float:
        plate = _fit_plates(list(crowd(count, (side, side))), (side, side), False)[0]
        return float(plate.lines[0][1].size)  # type: ignore[union-attr]

    assert letters(1, 400) < letters(1, 1600) < letters(1, 4000)
    assert letters(1, 1600) > letters(80, 1600) >= 10


def test_relatives_have_related_hues() -> None:
    def hue(node: int) -> float:
        return colorsys.rgb_to_hsv(*(value / 255 for value in node_colour(TREE, node)))[0]

    def apart(a: int, b: int) -> float:
        return min(abs(hue(a) - hue(b)), 1 - abs(hue(a) - hue(b)))

    assert apart(6, 7) < apart(6, 4)
    assert apart(3, 6) < apart(3, 4)
    assert apart(0, 2) < apart(0, 4)
    assert len({node_colour(TREE, leaf) for leaf in (2, 4, 5, 6, 7)}) == 5


def test_siblings_are_told_apart() -> None:
    """In the tree of 9,418 nodes the hues of siblings are too near; their shades are not."""
    tree = WordTree.load("yolo9000")
    for parent in ("dog", "cat", "motor vehicle", "edible fruit"):
        children = tree.children(parent)
        colours = np.array([node_colour(tree, int(node)) for node in children], float)
        steps = np.abs(np.diff(colours, axis=0)).sum(axis=1)
        assert (steps > 20).mean() > 0.9


def test_paths_shrink_before_they_crowd_the_picture() -> None:
    def share(count: int) -> tuple[float, int]:
        size = (500, 500)
        plates = _fit_plates(list(crowd(count, size)), size, True)
        return sum(p.width * p.height for p in plates) / 250_000, max(len(p.lines) for p in plates)

    assert share(2)[1] > 1
    assert share(12)[0] <= 0.3


FONT = ImageFont.load_default(20)


def test_elide() -> None:
    assert _elide("dog", " 90%", FONT, 1000) == "dog 90%"
    cut = _elide("positron emission tomography scanner", " 90%", FONT, 150)
    assert cut.startswith("posi")
    assert cut.endswith("… 90%")
    assert FONT.getlength(cut) <= 150 < FONT.getlength(cut.replace("…", "xxx…"))
    assert _elide("dog", " 90%", FONT, FONT.getlength("90%")) == "90%"
    assert _elide("dog", " 90%", FONT, 1) == ""


def test_wrap_path() -> None:
    names = ["object", "living thing", "animal", "dog"]
    assert _wrap_path(names, FONT, 1000) == ["object › living thing › animal › dog"]
    lines = _wrap_path(names, FONT, 130)
    assert " ".join(lines) == "object › living thing › animal › dog"
    assert all(FONT.getlength(line) <= 130 for line in lines)
    deep = _wrap_path([f"level number {k}" for k in range(30)], FONT, 160)
    assert len(deep) == 4
    assert deep[0].startswith("… ›")
    assert deep[-1] == "level number 29"
    assert _wrap_path(names, FONT, 200, 1) == ["… › animal › dog"]
    assert FONT.getlength(_wrap_path(names, FONT, 60, 1)[0]) <= 60
