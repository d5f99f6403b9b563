"""`benchmarks/parity.py`, which takes minutes, uses these tests: what it takes from them is there."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

from yolo9000.darknet.cfg import Cfg

PAGE = Path(__file__).resolve().parents[2] / "benchmarks" / "parity.py"


def test_what_the_page_takes_from_the_tests_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PAGE.parent))
    spec = importlib.util.spec_from_file_location("parity_of_the_page", PAGE)
    assert spec is not None
    assert spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, page)
    spec.loader.exec_module(page)
    taken = set()
    for function in ast.walk(ast.parse(PAGE.read_text(encoding="utf-8"))):
        if not isinstance(function, ast.FunctionDef):
            continue
        names = [
            call.args[0].value
            for call in ast.walk(function)
            if isinstance(call, ast.Call)
            and isinstance(call.func, ast.Name)
            and call.func.id == "reference"
            and isinstance(call.args[0], ast.Constant)
        ]
        taken |= {
            (names[0], use.attr)
            for use in ast.walk(function)
            if isinstance(use, ast.Attribute) and isinstance(use.value, ast.Name) and use.value.id == "module"
        }
    assert len(taken) > 10
    assert {(name, use) for name, use in taken if not hasattr(page.reference(name), use)} == set()


def test_the_cfg_of_the_benchmark_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PAGE.parent))
    cfg = Cfg.load(importlib.import_module("_darknet").cfg_at("yolov2-tiny", tmp_path, 96))
    assert (cfg.width, cfg.height, cfg.net.get_int("batch")) == (96, 96, 1)
