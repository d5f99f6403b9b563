"""Fixtures that several test files share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from yolo9000 import cli


@pytest.fixture(scope="session")
def darknet_dir() -> Path:
    """Debian's darknet data folder (cfg/, data/); the test is skipped where it is not installed."""
    folder = Path(os.environ.get("DARKNET_DIR", "/usr/share/darknet"))
    if not (folder / "data" / "9k.tree").exists():
        pytest.skip(f"no darknet data in {folder}: apt-get install darknet")
    return folder


@pytest.fixture(scope="session")
def libdarknet_path() -> Path:
    """Debian's libdarknet.so; the test is skipped where it is not installed."""
    path = Path(os.environ.get("LIBDARKNET", "/usr/lib/darknet/libdarknet.so"))
    if not path.exists():
        pytest.skip(f"no {path}: apt-get install darknet")
    return path


@pytest.fixture(scope="session")
def wordnet_dir() -> Path:
    """Debian's WordNet 3.0 database folder; the test is skipped where it is not installed."""
    folder = Path(os.environ.get("WORDNET_DIR", "/usr/share/wordnet"))
    if not (folder / "data.noun").exists():
        pytest.skip(f"no WordNet database in {folder}: apt-get install wordnet-base")
    return folder


@pytest.fixture
def command_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process: (exit code, standard output, standard error)."""
    monkeypatch.delenv("YOLO9000_DEBUG", raising=False)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["yolo9000", *map(str, arguments)])
        code: object = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capfd.readouterr()
        assert isinstance(code, int)
        return code, out, err

    return call
