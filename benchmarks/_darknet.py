"""The C program as a rival: built for speed from Debian's source package, driven through its library."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

from parity import DARKNET, reference, resized, silence

FLAGS = "-Ofast -march=native -fopenmp -fPIC -shared -w -Iinclude -Isrc".split()
DEBIAN = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")


class UnavailableError(Exception):
    """Why darknet cannot be built or run here."""


def build(folder: Path, suite: str = "bookworm") -> Path:
    """Fetch the source package into a folder and compile its library with every optimisation.

    A library that an earlier call left there is taken as it is.

    Raises:
        UnavailableError: A tool, the network or the package is missing, or the compiler fails.
    """
    for tool, package in (("apt-get", "apt"), ("dpkg-source", "dpkg-dev"), ("gcc", "gcc")):
        if shutil.which(tool) is None:
            raise UnavailableError(f"{tool} is missing: apt-get install {package}")
    if built := next(folder.glob("darknet-*/libdarknet.so"), None):
        return built
    source = _source(folder, suite)
    # compare.c is no part of the Makefile's library, and no longer compiles
    files = sorted(f"src/{path.name}" for path in (source / "src").glob("*.c") if path.name != "compare.c")
    _run(["gcc", *FLAGS, *files, "-o", "libdarknet.so", "-lm", "-lpthread"], source)
    return source / "libdarknet.so"


def library(path: Path) -> Any:
    """The driver of `tests/reference/` around a built library.

    Raises:
        UnavailableError: It cannot be loaded.
    """
    module: ModuleType = reference("libdarknet")
    try:
        with silence():
            return module.Library(path)
    except OSError as error:
        raise UnavailableError(str(error)) from error


def cfg_at(name: str, folder: Path, size: int) -> Path:
    """A copy of a cfg of Debian's darknet package at another size, without its tree (see `parity.resized`).

    Raises:
        UnavailableError: The package is not installed.
    """
    cfg = DARKNET / "cfg" / f"{name}.cfg"
    if not cfg.exists():
        raise UnavailableError(f"{cfg} is missing: apt-get install darknet")
    return resized(cfg, folder, size, size, 1)


def _source(folder: Path, suite: str) -> Path:
    """The unpacked source package; package lists and settings of the system stay untouched."""
    lists = folder / "lists" / "partial"
    lists.mkdir(parents=True, exist_ok=True)
    sources = folder / "sources.list"
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    sources.write_text(f"deb-src [signed-by={keys}] {DEBIAN} {suite} main\n")
    options = [
        *("-o", f"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=/dev/null"),
        *("-o", f"Dir::State::Lists={lists.parent}", "-o", f"Dir::Cache={folder}"),
        *("-o", "APT::Sandbox::User="),
    ]
    (folder / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    _run(["apt-get", *options, "-qq", "update"], folder)
    _run(["apt-get", *options, "-qq", "source", "darknet"], folder)
    found = next((path.parent.parent for path in folder.glob("darknet-*/src/network.c")), None)
    if found is None:
        raise UnavailableError("the source package holds no src/network.c")
    return found


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.SubprocessError) as error:
        last = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        raise UnavailableError(f"{command[0]}: {last}") from error
