"""The project's errors, all under `YOLO9000Error`."""

from __future__ import annotations

from wordtree.errors import FormatError, TreeError, YOLO9000Error


class CfgError(FormatError):
    """A network description (.cfg) that cannot be built: names section, line and key."""


class CfgWarning(UserWarning):
    """Keys of a network description that nothing reads: often misspelled."""


class WeightsError(YOLO9000Error):
    """A weights or model file that does not fit: expected and found counts, and the layer where they part."""


class ImageError(YOLO9000Error):
    """An image that cannot be read or has no usable shape."""


class DataError(YOLO9000Error):
    """A data set whose files, labels or boxes are not what its format says."""


class ConfigError(YOLO9000Error):
    """Settings that are unknown, contradictory or out of range; all problems are listed at once."""


class TrainingError(YOLO9000Error):
    """A training run that cannot go on, such as a loss that is not finite."""


__all__ = [
    "CfgError",
    "CfgWarning",
    "ConfigError",
    "DataError",
    "FormatError",
    "ImageError",
    "TrainingError",
    "TreeError",
    "WeightsError",
    "YOLO9000Error",
]
