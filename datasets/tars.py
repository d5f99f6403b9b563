"""Where the members of an uncompressed tar file lie, so that they can be read in place."""

from __future__ import annotations

import os
import posixpath
import tarfile
from collections.abc import Mapping, Sequence, Set
from pathlib import Path, PurePosixPath

from yolo9000.datasets.store import read_at
from yolo9000.errors import DataError

_BLOCK = 512  # bytes of a header; a member's data are filled up to a multiple of it
_LINKS = 40  # links from one to the next, after which Linux too gives up (path_resolution(7))

Member = tuple[str, int, int]  # name, first byte in the file, length in bytes


def tar_members(path: Path, start: int = 0, length: int | None = None) -> list[Member]:
    """The files in a tar file, from one pass over its headers.

    A link to a file in it, hard or symbolic, is one more file with the same bytes. Links to its folders are
    passed over: the files that they lead to are listed once, by their own names.

    Args:
        path: The tar file, or a larger file that it lies in.
        start: Its first byte.
        length: Its length in bytes; None: to the end of the file.

    Returns:
        Name, first byte in `path` and length of each, in file order.

    Raises:
        DataError: Not a tar file, a compressed one (no random access), a cut-off one, or a link out of it.
    """
    try:
        with path.open("rb") as stream:
            end = os.fstat(stream.fileno()).st_size if length is None else start + length
            members = _plain_members(stream.fileno(), start, end)
            if members is None:
                stream.seek(start)
                with tarfile.open(fileobj=stream, mode="r:") as archive:
                    members = _all_members(archive, end, path)
    except tarfile.TarError as error:
        if "unexpected end" in str(error):
            raise DataError(f"{path}: the tar file is cut off; copy it again") from error
        raise DataError(
            f"{path}: not an uncompressed tar file ({error}); unpack it, or repack it with `tar cf`: images "
            "are read from the middle of the file, which compression does not allow"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    return members


def lacks_end(members: Sequence[Member], path: Path, start: int = 0, length: int | None = None) -> bool:
    """Whether a tar file, given as to `tar_members`, which found these, lacks the empty block at its end.

    It may then be cut off between two files, which nothing else shows.
    """
    with path.open("rb") as stream:
        end = os.fstat(stream.fileno()).st_size if length is None else start + length
        last = read_at(stream.fileno(), _BLOCK, max(start, end - _BLOCK))
    # The empty block that is last may be that of a tar file in it.
    used = max((place + _filled(size) for _, place, size in members), default=start)
    return start < end and (last != bytes(_BLOCK) or used >= end)


def end_note(place: Path, names: Sequence[str]) -> str:
    """What to say of the tar files in a place that `lacks_end`, at least one."""
    return (
        f"{place}: the empty blocks at a tar file's end are missing in {len(names):,}, such as {names[0]}: "
        "was it cut off in copying, between two of its files? Copy it again"
    )


def _all_members(archive: tarfile.TarFile, end: int, path: Path) -> list[Member]:
    found: list[Member | str] = []  # a link's name stands for it, as what it leads to may come later
    files: dict[str, tuple[int, int]] = {}
    links: dict[str, str] = {}
    folders: set[str] = set()
    for member in archive:
        if member.offset >= end:  # a tar file within another, without the empty block at its end
            break
        if member.offset_data + _filled(member.size) > end and member.isreg():
            raise tarfile.ReadError("unexpected end of data")
        name, target = posixpath.normpath(member.name), _target(member)
        if member.isfile() or target in files:
            files[name] = (member.offset_data, member.size) if member.isfile() else files[target]
            found.append((member.name, *files[name]))
        elif target:
            links[name] = target
            found.append(member.name)
        elif member.isdir():
            folders.add(name)
    if links:
        folders.update(parent for name in [*files, *links] for parent in _parents(name))
    members: list[Member] = []
    for entry in found:
        if not isinstance(entry, str):
            members.append(entry)
        elif place := _follow(entry, files, links, folders, path):
            members.append((entry, *place))
    return members


def _target(member: tarfile.TarInfo) -> str:
    """What a link leads to, from the tar's root; "" for anything else. A hard link's counts from the root."""
    if member.islnk():
        return posixpath.normpath(member.linkname.lstrip("/"))
    if member.issym():
        return posixpath.normpath(posixpath.join(posixpath.dirname(member.name), member.linkname))
    return ""


def _parents(name: str) -> list[str]:
    return [str(parent) for parent in PurePosixPath(name).parents]


def _follow(
    link: str,
    files: Mapping[str, tuple[int, int]],
    links: Mapping[str, str],
    folders: Set[str],
    path: Path,
) -> tuple[int, int] | None:
    """First byte and length of the file that a link leads to; None where that is a folder."""
    name = posixpath.normpath(link)
    for _ in range(_LINKS):
        if name in files:
            return files[name]
        if name in folders:
            return None
        head = next((part for part in (name, *_parents(name)) if part in links), None)
        if head is None:
            break
        name = posixpath.normpath(posixpath.join(links[head], name[len(head) + 1 :]))
    raise DataError(
        f"{path}: {link} is a link, and what it leads to, {links[posixpath.normpath(link)]}, is not in the "
        "tar file; pack the files anew with `tar chf`, which stores what links lead to"
    )


def _filled(size: int) -> int:
    """Bytes that a member's data take."""
    return -(-size // _BLOCK) * _BLOCK


def _plain_members(descriptor: int, start: int, end: int) -> list[Member] | None:
    """The same for a tar file of files and folders with short names; None where there is anything else.

    Ten times quicker than `tarfile`, for the 14 million images of ImageNet.
    """
    members: list[Member] = []
    place = start
    while place < end:
        header = read_at(descriptor, _BLOCK, place)
        if header == bytes(_BLOCK):
            break
        if len(header) < _BLOCK or header[156:157] not in (b"0", b"\0", b"5"):
            return None
        try:
            size, checksum = (int(header[a:b].strip(b" \0"), 8) for a, b in ((124, 136), (148, 156)))
        except ValueError:
            return None
        place += _BLOCK
        if (
            sum(header) - sum(header[148:156]) + 8 * ord(" ") != checksum
            or not 0 <= _filled(size) <= end - place
        ):
            return None
        name = header[:100].split(b"\0", 1)[0]
        if header[257:263] == b"ustar\0" and header[345]:
            name = header[345:500].split(b"\0", 1)[0] + b"/" + name
        if header[156:157] != b"5" and not name.endswith(b"/"):
            members.append((os.fsdecode(name), place, size))
        place += _filled(size)
    return members
