"""Text of others on a terminal: the names of files and classes may hold anything."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# To their pictures (U+2400 and after) or to the sign for what has none; tabs and line ends stay.
_SHOWN = {code: 0x2400 + code for code in range(32) if code not in b"\t\n"}
_SHOWN |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


def printable(text: str) -> str:
    """The text with control characters shown, so that none gives orders to a terminal."""
    return text.translate(_SHOWN)


def complain(what: object, kind: str = "Error", style: str = "red") -> None:
    """Print an error, or something of that kind, on standard error; in colour where that is a terminal."""
    Terminal(stderr=True, soft_wrap=True, markup=False).print(f"{kind}: {what}", style=style)


class Terminal(Console):
    """A console that shows control characters, and takes `:dog:` and numbers for what they are.

    Args:
        **options: Of `rich.console.Console`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**({"highlight": False, "emoji": False} | options))

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The pieces of text that `print` writes."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)
