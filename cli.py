"""The command line of yolo9000. Torch and other heavy packages are imported inside the commands."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
