"""Settings that come as arguments: numbers are Python's or NumPy's, and become Python's own."""

from __future__ import annotations

import numpy as np

from yolo9000.errors import ConfigError


def number(name: str, value: object) -> float:
    """A setting that is a number; one that is not raises ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise ConfigError(f"{name} must be a number, found {value!r}.")
    return value if isinstance(value, int) else float(value)


def whole(name: str, value: object) -> int:
    """A setting that is a whole number; one that is not raises ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ConfigError(f"{name} must be a whole number, found {value!r}.")
    return int(value)


def switch(name: str, value: object) -> bool:
    """A setting that is true or false; one that is not raises ConfigError."""
    if not isinstance(value, bool | np.bool_):
        raise ConfigError(f"{name} must be True or False, found {value!r}.")
    return bool(value)
