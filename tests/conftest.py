"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


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
