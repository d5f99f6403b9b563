"""Reading text files with errors that name the file and the line."""

from __future__ import annotations

from pathlib import Path

from wordtree.errors import FormatError

MAX_BYTES = 1 << 27  # WordNet's 82,115 nouns as GraphML, the longest form, take 16 MB
_PIECE = 1 << 20  # bytes; Python takes memory for as much as it is asked to read


def read_text(path: str | Path, kind: str) -> str:
    """The whole of a UTF-8 text file, without byte order mark, lines ended by line feeds.

    Args:
        path: The file.
        kind: What the file should be, for messages: "a darknet tree", ...

    Raises:
        FormatError: The file is missing, a folder, empty, endless, or holds bytes that are no text.
    """
    file = Path(path)
    try:
        with file.open("rb") as stream:
            raw = b"".join(stream.read(_PIECE) for _ in range(MAX_BYTES // _PIECE))
            endless = bool(stream.read(1))
    except FileNotFoundError:
        raise FormatError("no such file.", path=path, remedy="Check the path.") from None
    except IsADirectoryError:
        raise FormatError(f"expected {kind}, got a folder.", path=path, remedy="Name a file in it.") from None
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        reason = getattr(error, "strerror", None) or error
        raise FormatError(f"cannot be read: {reason}.", path=path) from error
    if endless:
        raise FormatError(f"expected {kind}, got more than {MAX_BYTES:,} bytes.", path=path)
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


def exists(path: str | Path) -> bool:
    """Whether there is such a file or folder; no error for names that no file can have."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def is_file(path: str | Path) -> bool:
    """Whether there is such a file; no error for names that no file can have."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def is_pipe(path: str | Path) -> bool:
    """Whether there is such a pipe: a named one, `/dev/stdin`, or what a shell makes of `<(command)`."""
    try:
        return Path(path).is_fifo()
    except (OSError, ValueError):
        return False


def lines_of(text: str) -> list[str]:
    """Lines without their ends; the last end of line starts no further line, nor do blank lines behind it."""
    return text.rstrip("\n").split("\n")
