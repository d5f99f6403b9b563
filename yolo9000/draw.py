"""Drawing detections on their picture: boxes, and plates whose labels stay readable and inside it.

Letters: K detections, H and W height and width of the picture in pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

from wordtree.colour import Colour, node_colour
from wordtree.font import font_for
from yolo9000.image import ImageSource, read_image
from yolo9000.results import Detection, Detections

Rect: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom, pixels
Font: TypeAlias = ImageFont.ImageFont | ImageFont.FreeTypeFont

_FONT_SHARE = 0.026  # font size as a share of sqrt(W · H)
_FONT_MIN, _FONT_MAX = 10, 120  # pixels; below 10 letters are hard to tell apart
_LINE_SHARE = 0.0035  # width of a box's line as a share of sqrt(W · H)
_PATH_SHARE = 0.8  # size of the path's letters compared with the label's
_PATH_LINES = 4  # of the path on a plate; what is above is left out
_PLATE_SHARE = 0.35  # a plate may be as wide as its box, or as this share of the picture
_SMALL = 320  # pixels; smaller pictures have no room for letters and are enlarged
_CROWDED = 0.3  # share of the picture that plates may cover before their letters shrink
_DARK, _LIGHT = (20, 20, 20), (255, 255, 255)
_ELLIPSIS, _STEP = "…", " › "


def annotate(
    image: ImageSource, detections: Detections, *, show_path: bool = False, show_score: bool = True
) -> Image.Image:
    """Draw boxes and labels.

    Colours follow the tree: the hue is the node's position in it, so relatives look related. The size of
    lines and letters follows the picture's; where plates would cover too much of it, the letters shrink. A
    long label is cut (…) to fit, and of a path its beginning. The best detections get the best places for
    their plates and lie on top.

    Args:
        image: The picture that was detected in; of another size, a warning tells.
        detections: What was found; boxes in its pixels.
        show_path: Write the way from the top of the tree under each label; of a long one, its end.
        show_score: Write the score after each label.

    Returns:
        A new RGB picture of the same size, or, below 320 pixels, enlarged by a whole factor to be readable.
    """
    canvas = Image.fromarray(read_image(image).cpu().permute(1, 2, 0).numpy())
    height, width = detections.image_size
    if canvas.size != (width, height):
        warnings.warn(
            f"{detections.source or 'the picture'}: {canvas.width} × {canvas.height} pixels, but its "
            f"detections are of {width} × {height}: boxes are drawn in the wrong place.",
            stacklevel=2,
        )
    zoom = -(-_SMALL // max(canvas.size))
    canvas = canvas.resize((canvas.width * zoom, canvas.height * zoom), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(canvas)
    found = list(replace(detections, boxes=detections.boxes * zoom))
    colours = [node_colour(detections.tree, detection.node) for detection in found]
    line = max(1, round(_LINE_SHARE * (canvas.width * canvas.height) ** 0.5))
    for detection, colour in reversed(list(zip(found, colours, strict=True))):
        _draw_box(pen, detection.box, colour, line)
    plates = _fit_plates(found, canvas.size, show_path, show_score)
    places = _place(plates, [detection.box for detection in found], canvas.size)
    for plate, place, colour in reversed(list(zip(plates, places, colours, strict=True))):
        plate.draw(pen, place, colour)
    return canvas


def _ink(colour: Colour) -> Colour:
    """Dark letters on light plates, light ones on dark plates (luma of ITU-R BT.601)."""
    luma = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return _DARK if luma > 128 else _LIGHT


def _draw_box(pen: ImageDraw.ImageDraw, box: Rect, colour: Colour, line: int) -> None:
    """A coloured frame with a thin dark one around it, to be seen on any ground; at least one pixel large."""
    left, top = round(box[0]), round(box[1])
    right, bottom = max(left, round(box[2]) - 1), max(top, round(box[3]) - 1)
    pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_DARK)
    pen.rectangle((left, top, right, bottom), outline=colour, width=line)


# ----------------------------------------------------------------------------------------------------- plates


@dataclass(frozen=True)
class _Plate:
    """Lines of text with their fonts, measured."""

    lines: tuple[tuple[str, Font], ...]
    width: float
    height: float
    margin: int

    @classmethod
    def lay_out(
        cls, detection: Detection, limit: float, size: int, path_lines: int, show_score: bool = True
    ) -> _Plate:
        """Write a label, and the path to it in so many lines, none wider than `limit` pixels."""
        font, margin = font_for(detection.label, size), max(1, size // 5)
        room = limit - 2 * margin
        score = f" {detection.score:.0%}" if show_score else ""
        lines = [(_elide(detection.label, score, font, room), font)]
        above = [name for name, _ in detection.path[:-1]]
        if path_lines and above:
            small = font_for("".join(above), max(_FONT_MIN - 1, round(size * _PATH_SHARE)))
            lines += [(text, small) for text in _wrap_path(above, small, room, path_lines)]
        width = max(font.getlength(text) for text, font in lines) + 2 * margin
        height = sum(_line_height(font) for _, font in lines) + 2 * margin
        return cls(tuple(lines), min(width, limit), height, margin)

    def draw(self, pen: ImageDraw.ImageDraw, place: Rect, colour: Colour) -> None:
        pen.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=colour)
        x, y = place[0] + self.margin, place[1] + self.margin
        for text, font in self.lines:
            pen.text((x, y), text, fill=_ink(colour), font=font)
            y += _line_height(font)


def _line_height(font: Font) -> float:
    box = font.getbbox("Ág")
    return float(box[3] + 1)


def _elide(text: str, tail: str, font: Font, room: float) -> str:
    """`text` + `tail`, with the end of `text` cut so that both fit into `room` pixels."""
    if font.getlength(text + tail) <= room:
        return text + tail
    low, high = 0, len(text)  # the longest cut text that fits
    while low < high:
        middle = (low + high + 1) // 2
        fits = font.getlength(text[:middle].rstrip() + _ELLIPSIS + tail) <= room
        low, high = (middle, high) if fits else (low, middle - 1)
    if low:
        return text[:low].rstrip() + _ELLIPSIS + tail
    return tail.strip() if font.getlength(tail.strip()) <= room else ""


def _wrap_path(names: Sequence[str], font: Font, room: float, most: int = _PATH_LINES) -> list[str]:
    """A path in lines that fit, its end in full and its beginning left out where it has too many lines."""
    for skipped in range(len(names)):
        lines: list[str] = [_ELLIPSIS + _STEP.rstrip()] if skipped else []
        for number, name in enumerate(names[skipped:], skipped):
            word = _elide(name if number == len(names) - 1 else name + _STEP.rstrip(), "", font, room)
            if lines and font.getlength(f"{lines[-1]} {word}") <= room:
                lines[-1] += f" {word}"
            else:
                lines.append(word)
        if len(lines) <= most:
            return lines
    return [_elide(_ELLIPSIS + _STEP + names[-1], "", font, room)]


def _fit_plates(
    found: Sequence[Detection], size: tuple[int, int], show_path: bool, show_score: bool = True
) -> list[_Plate]:
    """Plates in the largest letters, and then with the longest paths, that do not crowd the picture."""
    area = size[0] * size[1]
    letters = min(_FONT_MAX, max(_FONT_MIN, round(_FONT_SHARE * area**0.5)))
    path_lines = _PATH_LINES if show_path else 0
    while True:
        limits = [min(size[0], max(d.box[2] - d.box[0], size[0] * _PLATE_SHARE, 8 * letters)) for d in found]
        plates = [
            _Plate.lay_out(detection, limit, letters, path_lines, show_score)
            for detection, limit in zip(found, limits, strict=True)
        ]
        crowded = sum(p.width * p.height for p in plates) > _CROWDED * area
        if not crowded or (letters <= _FONT_MIN and path_lines <= 1):
            return plates
        if letters > _FONT_MIN:
            letters = max(_FONT_MIN, letters * 4 // 5)
        else:
            path_lines -= 1


# -------------------------------------------------------------------------------------------------- placement


def _place(plates: Sequence[_Plate], boxes: Sequence[Rect], size: tuple[int, int]) -> list[Rect]:
    """Find a place for every plate, in order: at its box, in the picture, covering the others least."""
    taken: list[Rect] = []
    for plate, box in zip(plates, boxes, strict=True):
        best, least = None, float("inf")
        for place in _candidates(plate, box, size):
            covered = sum(_overlap(place, other) for other in taken)
            if covered < least:
                best, least = place, covered
            if not covered:
                break
        assert best is not None
        taken.append(best)
    return taken


def _candidates(plate: _Plate, box: Rect, size: tuple[int, int]) -> list[Rect]:
    """Places for a plate at its box, the usual ones first: above, inside, below, and down its sides."""
    left, top, right, bottom = box
    height = plate.height
    rows = [top - height, top, bottom, bottom - height]
    rows += [top + height * step for step in range(1, int(max(0, bottom - top) / height))]
    columns = [left, right - plate.width, left - plate.width, right]
    return [_inside((x, y, x + plate.width, y + height), size) for x in columns for y in rows]


def _inside(rect: Rect, size: tuple[int, int]) -> Rect:
    """Push a rectangle into the picture; one larger than it begins at its corner."""
    width, height = rect[2] - rect[0], rect[3] - rect[1]
    left = max(0, min(round(rect[0]), int(size[0] - width)))
    top = max(0, min(round(rect[1]), int(size[1] - height)))
    return left, top, left + width, top + height


def _overlap(a: Rect, b: Rect) -> float:
    """Area that two rectangles share, square pixels."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)
