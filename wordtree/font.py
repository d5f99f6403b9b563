"""The font of pictures: Pillow's own, and others for names that it has no letters for."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import ImageFont

_OWN = re.compile(r"[ -~…›·]*")  # what Pillow's own font can write: English; é and ß are boxes already
_EAST_ASIAN = re.compile("[\u2e80-\uffef]")
# As Windows and macOS have them, and Linux; the first that is installed is taken.
_SYSTEM = ("arial.ttf", "Arial.ttf")
_SYSTEM_EAST_ASIAN = ("NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc")
_MATPLOTLIBS = "mpl-data/fonts/ttf/DejaVuSans.ttf"


def font_for(text: str, size: float) -> ImageFont.FreeTypeFont:
    """A font that has the letters of a text: DejaVu Sans or Arial, for East Asia the system's.

    Args:
        text: What is to be written.
        size: Height of its letters, pixels.
    """
    if _OWN.fullmatch(text):
        return _font((), size)
    east_asian = _SYSTEM_EAST_ASIAN if _EAST_ASIAN.search(text) else ()
    return _font((*east_asian, _dejavu(), *_SYSTEM), size)


@cache
def _dejavu() -> str:
    """Matplotlib's copy, which is not imported for it, or else the system's."""
    spec = find_spec("matplotlib")
    return str(Path(spec.origin).parent / _MATPLOTLIBS) if spec and spec.origin else "DejaVuSans.ttf"


@cache
def _font(files: tuple[str, ...], size: float) -> ImageFont.FreeTypeFont:
    from PIL import ImageFont

    for file in files:
        try:
            return ImageFont.truetype(file, size)
        except OSError:
            continue
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
