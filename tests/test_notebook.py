"""The notebook runs from top to bottom and is stored without outputs; the Dockerfile has its files."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from yolo9000.model import DEFAULT_MODEL, packaged_models

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "notebooks" / "tour.ipynb"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    DEFAULT_MODEL not in packaged_models(), reason="the built-in model is not in this checkout"
)
def test_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    book = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(book, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = [cell.outputs for cell in book.cells if cell.cell_type == "code"]
    assert any("image/png" in str(outputs) for outputs in printed)
    path = next(str(outputs) for outputs in printed if "sled dog" in str(outputs))
    assert path.index("animal") < path.index("working dog") < path.index("Siberian husky")


def test_notebook_is_stored_without_outputs() -> None:
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(book)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


def test_the_docker_context_holds_what_the_dockerfile_copies() -> None:
    """`.dockerignore` lets in exactly what is copied, and all of it exists."""
    copied = re.findall(r"^COPY (?!--from)(.+)$", (ROOT / "Dockerfile").read_text(), flags=re.M)
    names = {name for line in copied for name in line.split()[:-1]}
    allowed = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), flags=re.M))
    assert names == allowed
    assert all((ROOT / name).exists() for name in names)
