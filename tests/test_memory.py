"""Freed memory stays with the process: counted by the kernel, in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from yolo9000.memory import keep_freed_memory

FAULTS = """
import resource, sys
import torch
from yolo9000.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def use(times):
    for _ in range(times):
        torch.ones(1 << 24)  # 64 MiB: 16,384 pages
use(8)  # until the heap has a place for it
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use(8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of glibc")
def test_pages_are_not_taken_anew() -> None:
    taken = {
        how: int(subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True).stdout)
        for how in ("keep", "return")
    }
    # A small block at the end of the heap may make it look for another place once more.
    assert 2 * taken["keep"] < taken["return"]


def test_other_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert not keep_freed_memory()
