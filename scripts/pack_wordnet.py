"""Pack the nouns of a WordNet database into the file that the library ships.

    python scripts/pack_wordnet.py /usr/share/wordnet

Writes `wordnet-3.0-nouns.npz` and Princeton's licence, as the database files carry it, to `wordtree/data`.
The same database gives the same arrays; the bytes of the zip depend on the zlib that Python was built with.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from wordtree._files import atomic_write
from wordtree.wordnet import PACKED, WordNet

LICENCE = "WORDNET-LICENSE.txt"


def licence_text(folder: Path) -> str:
    """The licence at the head of a database file: numbered, indented lines before the first synset."""
    head = []
    with (folder / "data.noun").open(encoding="utf-8") as stream:
        for line in stream:
            if not line.startswith("  "):
                break
            head.append(line.strip().partition(" ")[2].rstrip())
    return "\n".join(head).strip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Pack WordNet's nouns.")
    parser.add_argument("folder", type=Path, help="database folder with data.noun and index.noun")
    parser.add_argument("-o", "--output", type=Path, default=PACKED, help="file to write")
    arguments = parser.parse_args()
    wordnet = WordNet.from_folder(arguments.folder)
    wordnet.save(arguments.output)
    with atomic_write(arguments.output.with_name(LICENCE), text=True) as stream:
        stream.write(licence_text(arguments.folder))
    print(f"{wordnet!r} -> {arguments.output} ({arguments.output.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
