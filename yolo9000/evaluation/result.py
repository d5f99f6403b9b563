"""What evaluations have in common: results that turn into plain data and JSON."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from wordtree._files import atomic_write

FORMAT = "yolo9000-evaluation-1"


class Result:
    """Base of frozen result dataclasses."""

    kind: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts; what is not a number (an empty mean) is None."""
        content: dict[str, Any] = plain(self)
        return {"format": FORMAT, "kind": self.kind, **content}

    def to_json(self, indent: int | None = 2) -> str:
        """`to_dict` as JSON text, in ASCII: for any terminal."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def save(self, path: str | Path) -> None:
        """Write `to_json` to a file, whole or not at all."""
        with atomic_write(path, text=True) as stream:
            stream.write(self.to_json() + "\n")


def plain(value: Any) -> Any:
    """Dataclasses as dicts: their fields, except those left out of `repr`, and their properties."""
    if is_dataclass(value):
        names = [field.name for field in fields(value) if field.repr]
        names += [name for name, member in vars(type(value)).items() if isinstance(member, property)]
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
