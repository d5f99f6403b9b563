"""Measures packs against loose files and against torchvision's reading of loose files, cold and warm.

    python benchmarks/packs.py imagenet:DIR                      a table
    python benchmarks/packs.py coco:DIR:val --json packs.json    and every single measurement
    python benchmarks/packs.py imagenet:DIR --workers 4          through a loader with 4 processes

All contestants read the same images in the same random order. They take turns within every round, so that a
busy machine slows them alike; the ratios are medians over the rounds. For a cold pass the files' pages are
dropped from memory before it (posix_fadvise; no rights are needed), and how many of them stayed is printed.
The file system's own tables (names, inodes) cannot be dropped so: loose files look better cold than they are.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets.folder import default_loader
from torchvision.transforms.v2.functional import pil_to_tensor

from yolo9000.datasets import Records, pack, read_records
from yolo9000.datasets.sample import decode_image
from yolo9000.datasets.store import ConcatStore, FolderStore, Store, TarStore

Read = Callable[[int], object]
_PAGE = os.sysconf("SC_PAGE_SIZE")
_BASE = "loose files"  # what the ratios compare with
_PROBES = 400  # pages looked for after dropping them


class Reads(Dataset[int]):
    """Reads one image a call; what it read stays in its process."""

    def __init__(self, read: Read) -> None:
        self.read = read

    def __getitem__(self, index: int) -> int:
        self.read(index)
        return index


def contestants(loose: Records, packed: Records) -> dict[str, dict[str, tuple[Read, list[str]]]]:
    """What is measured -> who reads -> how, and the files that it reads."""
    files, file = sorted(set(files_of(loose.store))), sorted(set(files_of(packed.store)))
    found: dict[str, dict[str, tuple[Read, list[str]]]] = {
        "encoded images": {_BASE: (loose.store.read, files), "pack": (packed.store.read, file)},
        "decoded images": {_BASE: (decoding(loose.store), files), "pack": (decoding(packed.store), file)},
    }
    if isinstance(loose.store, FolderStore):
        found["decoded images"]["torchvision"] = (torchvision(loose.store), files)
    return found


def decoding(store: Store) -> Read:
    return lambda index: decode_image(store.read(index), store.name(index))


def torchvision(store: FolderStore) -> Read:
    """As `torchvision.datasets.ImageFolder` reads an image, which then becomes a tensor."""
    return lambda index: pil_to_tensor(default_loader(store.name(index)))


def files_of(store: Store) -> Iterator[str]:
    """Every file on disk behind a store."""
    if isinstance(store, ConcatStore):
        for part in store.parts:
            yield from files_of(part)
    elif isinstance(store, FolderStore):
        yield from (store.name(i) for i in range(len(store)))
    elif isinstance(store, TarStore):
        yield from {store.file(i) for i in range(len(store))}
    else:
        yield str(store.path)  # type: ignore[attr-defined]


def drop(files: Sequence[str]) -> float:
    """Drop the files' pages from memory; the share of pages that stayed, or nan where that cannot be told."""
    for name in files:
        descriptor = os.open(name, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    rng = np.random.default_rng(0)
    stayed = [in_memory(files[int(rng.integers(len(files)))], rng) for _ in range(_PROBES)]
    return statistics.fmean(stayed) if None not in stayed else float("nan")  # type: ignore[type-var]


def in_memory(name: str, rng: np.random.Generator) -> bool | None:
    """Whether a random page of a file is in memory; None where the file system does not say."""
    descriptor = os.open(name, os.O_RDONLY)
    try:
        pages = max(os.fstat(descriptor).st_size // _PAGE, 1)
        os.preadv(descriptor, [bytearray(1)], int(rng.integers(pages)) * _PAGE, os.RWF_NOWAIT)
    except OSError as error:
        return False if error.errno == errno.EAGAIN else None
    finally:
        os.close(descriptor)
    return True


def seconds(read: Read, order: Sequence[int], workers: int) -> float:
    """Time of one pass over the images in this order."""
    begin = time.perf_counter()
    if workers:
        loader: DataLoader[int] = DataLoader(Reads(read), batch_size=None, sampler=order, num_workers=workers)
        assert len(list(loader)) == len(order)
    else:
        for index in order:
            read(index)
    return time.perf_counter() - begin


def measure(loose: Records, packed: Records, rounds: int, images: int, workers: int) -> list[dict[str, Any]]:
    """One row a pass: round, what, who, cold, images a second, share of pages that stayed in memory."""
    rng, rows = np.random.default_rng(0), []
    for number in range(rounds):
        order = [int(i) for i in rng.permutation(len(loose.store))[:images]]
        for what, readers in contestants(loose, packed).items():
            names = list(readers)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                read, files = readers[name]
                for cold in (True, False):  # the warm pass follows the cold one
                    stayed = drop(files) if cold else float("nan")
                    rate = len(order) / seconds(read, order, workers)
                    rows.append(
                        {
                            "round": number,
                            "what": what,
                            "who": name,
                            "cold": cold,
                            "rate": rate,
                            "stayed": stayed,
                        }
                    )
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians over the rounds: images a second, and the ratio to loose files in the same round."""
    found = []
    for what, who in dict.fromkeys((row["what"], row["who"]) for row in rows):
        entry: dict[str, Any] = {"what": what, "who": who}
        for cold in (True, False):
            of = {
                name: [r["rate"] for r in rows if (r["what"], r["who"], r["cold"]) == (what, name, cold)]
                for name in (who, _BASE)
            }
            state = "cold" if cold else "warm"
            entry[state] = statistics.median(of[who])
            ratios = [mine / base for mine, base in zip(of[who], of[_BASE], strict=True)]
            entry[f"{state}_ratio"] = statistics.median(ratios)
            entry[f"{state}_ratio_range"] = [min(ratios), max(ratios)]
        found.append(entry)
    return found


def show(console: Console, result: dict[str, Any]) -> None:
    console.print(
        f"{result['images']:,} of {result['all_images']:,} images, {result['mean_bytes'] / 1e3:.1f} kB each; "
        f"{result['rounds']} rounds; {result['workers']} workers; {result['cpus']} CPUs\n"
        f"pack: {result['pack_bytes'] / 1e6:.1f} MB, {result['size_ratio']:.4f} times the size of the "
        f"originals, written in {result['pack_seconds']:.1f} s"
    )
    table = Table("images a second", "", box=None, header_style="dim")
    for state in ("cold", "warm"):
        table.add_column(state, justify="right")
        table.add_column("to loose", justify="right")
        table.add_column("lowest, highest", justify="right", style="dim")
    for row in result["summary"]:
        cells = [row["what"], row["who"]]
        for state in ("cold", "warm"):
            low, high = row[f"{state}_ratio_range"]
            cells += [f"{row[state]:,.0f}", f"{row[f'{state}_ratio']:.2f}", f"{low:.2f}, {high:.2f}"]
        table.add_row(*cells)
    console.print(table)
    stayed = [row["stayed"] for row in result["measurements"] if row["cold"]]
    console.print(f"pages that stayed in memory before cold passes: {np.mean(stayed):.1%} (nan: unknown)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("spec", help="a data set, such as imagenet:DIR or coco:DIR:val")
    parser.add_argument("--images", type=int, default=2000, help="images a pass (2000)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (7)")
    parser.add_argument("--workers", type=int, default=0, help="loader processes; 0: this one (0)")
    parser.add_argument(
        "--pack", type=Path, help="where to write the pack, on the disk of the data (a new folder)"
    )
    parser.add_argument("--json", type=Path, help="write every measurement into this file")
    arguments = parser.parse_args()
    loose = read_records(arguments.spec)
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.pack or Path(folder) / "images.h5"
        begin = time.perf_counter()
        pack(loose, path, overwrite=True)
        packed_in = time.perf_counter() - begin
        os.sync()  # pages that are not yet on disk cannot be dropped
        rows = measure(
            loose, read_records(f"pack:{path}"), arguments.rounds, arguments.images, arguments.workers
        )
        originals, size = sum(loose.store.size(i) for i in range(len(loose.store))), path.stat().st_size
    count = len(loose.store)
    result = {
        "spec": arguments.spec,
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "all_images": count,
        "images": min(arguments.images, count),
        "mean_bytes": originals / count,
        "rounds": arguments.rounds,
        "workers": arguments.workers,
        "pack_bytes": size,
        "size_ratio": size / originals,
        "pack_seconds": packed_in,
        "summary": summary(rows),
        "measurements": rows,
    }
    show(Console(width=110), result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
