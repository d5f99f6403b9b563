"""YOLO9000: detection of 9,418 classes arranged in a WordTree.

Names are imported on first use, so that `import yolo9000` and the command line's `--help` stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wordtree.tree import WordTree
    from yolo9000.model import YOLO9000
    from yolo9000.results import Detection, Detections

__version__ = "0.1.0"
__all__ = ["YOLO9000", "Detection", "Detections", "WordTree", "__version__"]

_HOME = {
    "YOLO9000": "yolo9000.model",
    "Detection": "yolo9000.results",
    "Detections": "yolo9000.results",
    "WordTree": "wordtree.tree",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'yolo9000' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
