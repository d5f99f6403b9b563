"""Reading text files with errors that name the file and the line."""

from __future__ import annotations

from pathlib import Path

from wordtree.errors import FormatError


def read_text(path: str | Path, kind: str) -> str:
    """The whole of a UTF-8 text file, without byte order mark, lines ended by line feeds.

    Args:
        path: The file.
        kind: What the file should be, for messages: "a darknet tree", ...

    Raises:
        FormatError: The file is missing, a folder, empty, or holds bytes that are no text.
    """
    file = Path(path)
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        raise FormatError("no such file.", path=path, remedy="Check the path.") from None
    except IsADirectoryError:
        raise FormatError(f"expected {kind}, got a folder.", path=path, remedy="Name a file in it.") from None
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}.", path=path) from error
    return decode(raw, path, kind)


def decode(raw: bytes, path: str | Path | None, kind: str) -> str:
    """UTF-8 bytes as text; see `read_text`."""
    if not raw.strip():
        raise FormatError(f"expected {kind}, got an empty file.", path=path, remedy="Write it again.")
    try:
        text = raw.decode("utf-8-sig")
        bad = text.find("\0")
        at = len(text[:bad].encode()) if bad >= 0 else -1
    except UnicodeDecodeError as error:
        at = error.start
    if at >= 0:
        line = raw.count(b"\n", 0, at) + 1
        what = f"expected {kind}, got bytes that are no UTF-8 text (0x{raw[at]:02x})."
        raise FormatError(what, path=path, line=line, remedy="If it is text, save it as UTF-8.")
    return text.replace("\r\n", "\n")


def lines_of(text: str) -> list[str]:
    """Lines without their ends; the last end of line starts no further line, nor do blank lines behind it."""
    return text.rstrip("\n").split("\n")
