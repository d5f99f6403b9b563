"""Pictures of the documentation are those that their scripts draw."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_depth() -> None:
    spec = importlib.util.spec_from_file_location("draw_depth", ROOT / "scripts" / "draw_depth.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.TARGET.read_text(encoding="utf-8") == script.draw(), "run scripts/draw_depth.py"
