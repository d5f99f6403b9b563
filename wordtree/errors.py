"""Errors of the whole project: one base class, so that callers can catch everything of ours at once."""

from __future__ import annotations

from pathlib import Path


class YOLO9000Error(Exception):
    """Base of every error that this project raises on purpose: bad input, bad files, bad settings."""


class TreeError(YOLO9000Error):
    """A tree that is none, or a node that a tree does not hold."""


class FormatError(YOLO9000Error):
    """A file whose content breaks its format.

    Args:
        problem: What was expected and what came.
        path: The file, when there is one.
        line: 1-based line number, for text files.
        remedy: What the reader can do about it.
    """

    def __init__(
        self,
        problem: str,
        *,
        path: str | Path | None = None,
        line: int | None = None,
        remedy: str | None = None,
    ) -> None:
        self.problem, self.path, self.line, self.remedy = problem, path, line, remedy
        where = "" if path is None else f"{path}:" + ("" if line is None else f"{line}:") + " "
        if path is None and line is not None:
            where = f"line {line}: "
        super().__init__(f"{where}{problem}" + (f" {remedy}" if remedy else ""))
