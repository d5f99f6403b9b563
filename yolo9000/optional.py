"""Packages that only some functions need: imported there, with a clear message where they are missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from yolo9000.errors import ConfigError


def optional(module: str, what: str, package: str | None = None) -> Any:
    """Import a package that is not installed with yolo9000.

    Args:
        module: Its name in Python.
        what: What needs it, for the message: "reading videos", ...
        package: Its name for pip, where that is another.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise ConfigError(f"{what} needs {module}: pip install {package or module}") from error
