"""What is installed: nothing that collides with other packages, everything that the program reads."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import wordtree
import yolo9000

ROOT = Path(__file__).resolve().parents[1]
MAX_PHOTOS = 450_000  # bytes


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy of the tracked and new files: the checkout gets no build folder."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("no git checkout to build from")
    names = [name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]
    copy = folder / "source"
    for name in [*names, "yolo9000/datasets", "yolo9000/cli.py"]:
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_symlink() or target.exists():
            continue
        if (ROOT / name).is_symlink():
            target.symlink_to((ROOT / name).readlink())
        else:
            target.write_bytes((ROOT / name).read_bytes())
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(copy)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.mark.slow
def test_top_level_of_the_wheel(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"yolo9000", "wordtree"}


@pytest.mark.slow
def test_wheel_holds_what_is_read_at_run_time(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    modules = {
        "/".join(("yolo9000", *path.relative_to(ROOT).parts)) for path in (ROOT / "datasets").glob("*.py")
    } | {"yolo9000/cli.py"}
    for package in ("yolo9000", "wordtree"):
        for kind in ("**/*.py", "py.typed", "cfgs/*.cfg", "photos/*.jpg", "weights/*", "data/*"):
            modules |= {str(path.relative_to(ROOT)) for path in (ROOT / package).glob(kind) if path.is_file()}
    missing = {name for name in modules if "__pycache__" not in name} - names
    assert not missing
    assert any(name.startswith("wordtree/data/") for name in names)
    assert "yolo9000/photos/dog.jpg" in names
    assert not any("test" in name.split("/")[0] or name.endswith(".pyc") for name in names)


@pytest.mark.slow
def test_wheel_photos_are_small(wheel: zipfile.ZipFile) -> None:
    assert sum(entry.file_size for entry in wheel.infolist() if "/photos/" in entry.filename) <= MAX_PHOTOS


@pytest.mark.slow
def test_wheel_runs_alone(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Unpacked as pip would, away from the checkout, without this environment's editable install."""
    wheel.extractall(tmp_path)
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)]\n"
        "import yolo9000.cli, yolo9000.datasets, wordtree, yolo9000\n"
        "assert yolo9000.__file__.startswith(sys.path[0]), yolo9000.__file__\n"
        "from yolo9000 import WordTree\n"
        "print(len(WordTree.load('yolo9000')))\n"
        "import importlib.util as u\n"
        "for name in ('cli', 'datasets'):\n"
        "    spec = u.find_spec(name)\n"
        "    assert spec is None or not (spec.origin or '').startswith(sys.path[0]), spec\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "9418"), done.stderr


@pytest.mark.slow
def test_checkout_does_not_shadow_other_packages(tmp_path: Path) -> None:
    """A package called `datasets` elsewhere on the path is the one that is imported (Hugging Face's, say)."""
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("whose = 'another'\n")
    script = (
        f"import sys; sys.path.append({str(tmp_path)!r})\n"
        "import yolo9000.datasets, datasets, importlib.util\n"
        "assert datasets.whose == 'another', datasets.__file__\n"
        "assert yolo9000.datasets.__name__ == 'yolo9000.datasets'\n"
        "assert importlib.util.find_spec('cli') is None\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_lazy_names() -> None:
    from yolo9000.model import YOLO9000
    from yolo9000.results import Detections

    assert yolo9000.YOLO9000 is YOLO9000
    assert yolo9000.Detections is Detections
    assert set(yolo9000.__all__) <= set(dir(yolo9000))
    assert wordtree.__name__ == "wordtree"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = yolo9000.nothing


def test_importing_the_package_is_light() -> None:
    script = (
        "import sys, yolo9000; print([m for m in ('torch', 'numpy', 'rich', 'typer') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
