"""What a run leaves behind: logs, and checkpoints that are written whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import pickle
import signal
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, Self

import torch

from wordtree._files import atomic_write, make_folder
from yolo9000.checkpoint import check_sums
from yolo9000.errors import ConfigError, TrainingError
from yolo9000.hangup import hangup_signals, leave_terminal

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

CHECKPOINT = "last.ckpt"  # its name in the folder of a run
FORMAT = 1  # version of the checkpoint's content
# What to do about a checkpoint that is damaged.
RENEW = "was it changed, or cut off? Put a copy of it there, or begin a new run in another folder (--out)"


class CsvLog:
    """A CSV file with one row a logged step; columns that appear later are added to the header.

    Args:
        path: The file. Rows of an earlier run up to `step` stay, later ones (from before a kill) are dropped.
        step: The step from which this run goes on; 0 starts a new file.

    Raises:
        TrainingError: The file is not such a log, or a damaged one.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = self._earlier(step) if step and path.exists() else []
        self.columns = list(self.rows[0]) if self.rows else []
        self._rewrite()

    def _earlier(self, step: int) -> list[dict[str, str]]:
        """The file's rows up to a step."""
        try:
            with self.path.open(newline="", encoding="utf-8") as stream:
                rows = list(csv.DictReader(stream, restval="", strict=True))
            numbers = [{name: float(value or "nan") for name, value in row.items()} for row in rows]
            return [row for row, values in zip(rows, numbers, strict=True) if values["step"] <= step]
        except (ValueError, TypeError, KeyError, csv.Error) as error:  # TypeError: more values than columns
            raise TrainingError(
                f"{self.path}: expected the log of this run, a CSV file of numbers with a column step; move "
                "it away to go on with a new one"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rewrite()

    def write(self, row: dict[str, float]) -> None:
        """Append a row; the file is complete on disk after every call."""
        self.rows.append(
            {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()}
        )
        added = [key for key in row if key not in self.columns]
        if added:
            self.columns += added
            self._rewrite()
            return
        with self.path.open("a", newline="", encoding="utf-8") as stream:
            csv.DictWriter(stream, self.columns, restval="").writerow(self.rows[-1])

    def _rewrite(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns, restval="")
        if self.columns:
            writer.writeheader()
        writer.writerows(self.rows)
        with atomic_write(self.path, text=True) as stream:
            stream.write(text.getvalue())


class TensorBoardLog:
    """The same rows as events for TensorBoard.

    Args:
        folder: Where the events go.
        step: The step from which this run goes on; later events of an earlier run are dropped.

    Raises:
        ConfigError: The package tensorboard is not installed.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "tensorboard=true needs a package that is not installed: pip install tensorboard, "
                "or set tensorboard=false (metrics.csv holds the same)"
            ) from error
        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def write(self, row: dict[str, float]) -> None:
        """Add the values of a row at its step."""
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(name, value, int(row["step"]))


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Note Ctrl-C, SIGTERM and SIGHUP instead of stopping anywhere: a step can be finished and saved.

    The second one stops at once, as ever, but for SIGHUP: when the terminal is closed, two may come. Outside
    the main thread signals stay as they are.

    Yields:
        The signals that came, none at first.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    noted = (signal.SIGINT, signal.SIGTERM, *hangup_signals())
    previous = {number: signal.getsignal(number) for number in noted}

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        restore()
        if number in hangup_signals():
            del previous[number]
            leave_terminal()

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    for number in previous:
        signal.signal(number, note)
    try:
        yield came
    finally:
        restore()


@contextlib.contextmanager
def sole_run(folder: Path) -> Iterator[None]:
    """Keep the runs of other processes out of a folder; a process that ends, however it does, lets them in.

    Raises:
        TrainingError: One is in it.
    """
    make_folder(folder)
    with (folder / ".lock").open("w") as stream:
        try:
            _lock(stream)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):  # else it is a file system without locks
                raise TrainingError(
                    f"{folder}: another run is writing into this folder; wait for its end, or name another "
                    "folder (--out)"
                ) from error
        yield


def _lock(stream: IO[str]) -> None:
    if sys.platform == "win32":
        msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which, unlike flock, no loader process inherits


def remove_leftovers(folder: Path) -> None:
    """Delete what killed writes of checkpoints and models left: hidden files, perhaps of gigabytes."""
    for kind in ("*.ckpt.*", "*.safetensors.*"):
        for path in folder.glob(f".{kind}"):
            path.unlink(missing_ok=True)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, nested) so that `path` always holds a whole checkpoint."""
    with atomic_write(path) as stream:
        try:
            torch.save({"format": FORMAT, **state}, stream)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # such as a full disk, of which torch says nothing
                raise error.__context__ from None
            raise


def check_checkpoint(path: Path, resume: bool, exists: bool) -> None:
    """See that a checkpoint is there to go on from, or none that would be overwritten.

    Raises:
        TrainingError: It is not so.
    """
    if resume and not exists:
        raise TrainingError(f"nothing to resume: {path} does not exist; start without --resume")
    if exists and not resume:
        raise TrainingError(f"{path} exists: go on with --resume, name another folder (--out), or remove it")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing anything in it.

    Raises:
        TrainingError: There is none, or it is not one of ours.
    """
    check_checkpoint(path, True, path.exists())
    if not zipfile.is_zipfile(path):  # torch takes it for one of its earlier formats
        raise TrainingError(f"{path}: not a readable checkpoint: it does not end as one; {RENEW}")
    try:
        check_sums(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's words for what is no plain data are advice to run it
        foreign = isinstance(error, pickle.UnpicklingError)
        reason = "other content than tensors, numbers and texts" if foreign else error
        raise TrainingError(f"{path}: not a readable checkpoint: {reason}; {RENEW}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise TrainingError(f"{path}: expected a checkpoint of format {FORMAT}, got something else; {RENEW}")
    return state


def check_form(path: Path, state: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare a checkpoint with one that this run would write: keys, types, shapes and dtypes of tensors.

    Args:
        path: The file, for messages.
        state: What was read from it.
        expected: What it must hold; more keys are allowed.

    Raises:
        TrainingError: Something is missing or of another form.
    """
    if problems := list(_differences(expected, state, ())):
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise TrainingError(f"{path}: {'; '.join(problems[:3])}{more}; {RENEW}")


def _differences(expected: Any, found: Any, place: tuple[str, ...]) -> Iterator[str]:
    """Where and how a value differs in form from what is expected."""
    if isinstance(expected, list) and isinstance(found, list):
        expected, found = dict(enumerate(expected)), dict(enumerate(found))
    if isinstance(expected, dict) and isinstance(found, dict):
        for key, value in expected.items():
            inner = (*place, str(key))
            if key in found:
                yield from _differences(value, found[key], inner)
            else:
                yield f"{'.'.join(inner)} is missing"
    elif _form(found) != _form(expected):
        yield f"{'.'.join(place)} is {_form(found)}, expected {_form(expected)}"


def _form(value: object) -> str:
    """What kind of value it is, in words."""
    if isinstance(value, torch.Tensor):
        return f"a tensor {list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if type(value) is int:
        return "a whole number from 0" if value >= 0 else f"{value}"
    return type(value).__name__
