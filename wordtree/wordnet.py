"""WordNet's nouns: hypernyms, words and glosses, packed with the library or read from a database folder.

The packed file is a zip of NumPy arrays (texts as UTF-8 bytes), made from a database folder by
`scripts/pack_wordnet.py`. Glosses are unpacked only when somebody asks for one.

A synset is known by its number (ascending in the id) or by its id, `n` and the eight digits of its place in
the database file. Hypernyms are ascending: nothing depends on the order in which a reader found them.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wordtree._files import atomic_write
from wordtree.errors import TreeError

PACKED = Path(__file__).parent / "data" / "wordnet-3.0-nouns.npz"
_ZIP_DATE = (2006, 12, 7, 0, 0, 0)  # of WordNet 3.0's release; a fixed date makes packing reproducible
_MOST_CANDIDATES = 12  # lines of an "ambiguous name" message; a screenful
_GLOSS_WIDTH = 90  # characters of a gloss in such a line


class WordNet:
    """The noun synsets of a WordNet database.

    Args:
        offsets: [number of synsets] ids as numbers, ascending.
        hypernyms: For each synset the numbers of its hypernyms and instance hypernyms.
        words: For each synset its words, tab-separated, as the database spells them.
        ranks: Sense number of each word of each synset in turn (1 is the commonest sense of the word).
        glosses: Gives the definitions, one a synset.
        version: Version of the database, "3.0".
    """

    def __init__(
        self,
        offsets: NDArray[np.uint32],
        hypernyms: Sequence[Sequence[int]],
        words: Sequence[str],
        ranks: bytes,
        glosses: Callable[[], Sequence[str]],
        version: str,
    ) -> None:
        self.version = version
        self.wnids = tuple([f"n{offset:08d}" for offset in offsets.tolist()])
        self._hypernyms = [tuple(sorted(set(above))) for above in hypernyms]
        self._words = tuple(words)
        self._ranks = ranks
        self._read_glosses = glosses

    def __len__(self) -> int:
        return len(self.wnids)

    def __repr__(self) -> str:
        return f"<WordNet {self.version}: {len(self):,} noun synsets>"

    # -------------------------------------------------------------------------------------- synsets

    @cached_property
    def _by_wnid(self) -> dict[str, int]:
        return {wnid: synset for synset, wnid in enumerate(self.wnids)}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """First word of each synset, with spaces."""
        return tuple([words.partition("\t")[0].replace("_", " ") for words in self._words])

    @cached_property
    def _glosses(self) -> Sequence[str]:
        return self._read_glosses()

    def index(self, wnid: str) -> int:
        """Number of a synset.

        Raises:
            TreeError: No noun synset has this id.
        """
        if (synset := self._by_wnid.get(wnid)) is None:
            what = f"unknown id {wnid!r}: no noun synset of WordNet {self.version} has it"
            raise TreeError(f"{what}. Ids look like n02084071 (dog) and are those of WordNet 3.0.")
        return synset

    def __contains__(self, wnid: object) -> bool:
        return wnid in self._by_wnid

    def name(self, wnid: str) -> str:
        """First word of the synset with this id."""
        return self.names[self.index(wnid)]

    def words(self, synset: int) -> tuple[str, ...]:
        """All words of a synset, with spaces."""
        return tuple(self._words[synset].replace("_", " ").split("\t"))

    def hypernyms(self, synset: int) -> tuple[int, ...]:
        """Hypernyms and instance hypernyms of a synset, ascending."""
        return self._hypernyms[synset]

    def gloss(self, synset: int) -> str:
        """Definition of a synset."""
        return self._glosses[synset]

    # --------------------------------------------------------------------------------------- lookup

    @cached_property
    def _senses(self) -> dict[str, list[int]]:
        table: dict[str, list[tuple[int, int]]] = {}
        ranks = iter(self._ranks)
        for synset, words in enumerate(self._words):
            for lemma in words.replace("_", " ").casefold().split("\t"):
                table.setdefault(lemma, []).append((next(ranks), synset))
        return {lemma: [synset for _, synset in sorted(set(found))] for lemma, found in table.items()}

    def senses(self, text: str) -> list[int]:
        """Synsets that have this word, the commonest sense first (case ignored, `_` the same as a space)."""
        return self._senses.get(_fold(text), [])

    def lookup(self, text: str) -> int:
        """The one synset meant by a word, or by a word and its sense number (`crane.n.04`).

        Raises:
            TreeError: No such word or sense, or several senses (with ids and glosses).
        """
        if (synset := self._by_wnid.get(text)) is not None:
            return synset
        lemma, number = text, None
        if match := re.fullmatch(r"(.+)\.n\.(\d{1,3})", text):
            lemma, number = match[1], int(match[2])
        found = self.senses(lemma)
        if not found:
            raise TreeError(f"WordNet {self.version} has no noun {lemma!r}. Use a synonym, or give its id.")
        if number is not None:
            if not 1 <= number <= len(found):
                raise TreeError(f"{lemma!r} has {len(found)} senses, not {number}:\n{self._listing(found)}")
            return found[number - 1]
        if len(found) > 1:
            how = f"say which by its id (or as {lemma}.n.01):"
            raise TreeError(f"{lemma!r} is ambiguous, {len(found)} senses; {how}\n{self._listing(found)}")
        return found[0]

    def _listing(self, synsets: Sequence[int]) -> str:
        lines = []
        for number, synset in enumerate(synsets[:_MOST_CANDIDATES], 1):
            gloss = self.gloss(synset)
            short = gloss if len(gloss) <= _GLOSS_WIDTH else gloss[: _GLOSS_WIDTH - 3].rstrip() + "..."
            lines.append(f"  {number:2d}. {self.wnids[synset]}  {self.names[synset]}: {short}")
        if len(synsets) > _MOST_CANDIDATES:
            lines.append(f"  and {len(synsets) - _MOST_CANDIDATES} more")
        return "\n".join(lines)

    # ---------------------------------------------------------------------------------------- files

    @classmethod
    def packed(cls) -> WordNet:
        """The nouns of WordNet 3.0 that come with the library, read once per process."""
        return _packed()

    @classmethod
    def from_folder(cls, folder: str | Path) -> WordNet:
        """Read a WordNet database folder through nltk (about ten seconds).

        Args:
            folder: Holds `data.noun` and `index.noun`: Debian's `/usr/share/wordnet`, an unpacked nltk
                corpus.

        Raises:
            FormatError: Files are missing or no WordNet database.
        """
        from wordtree.database import read_database

        return read_database(folder)

    def save(self, path: str | Path) -> None:
        """Write the packed form."""
        arrays: dict[str, NDArray[Any]] = {
            "version": _bytes([self.version]),
            "offsets": np.array([int(wnid[1:]) for wnid in self.wnids], np.uint32),
            "hypernym_count": np.array([len(above) for above in self._hypernyms], np.uint8),
            "hypernyms": np.array([synset for above in self._hypernyms for synset in above], np.int32),
            "words": _bytes(self._words),
            "ranks": np.frombuffer(self._ranks, np.uint8),
            "glosses": _bytes(self._glosses),
        }
        with (
            atomic_write(path) as stream,
            zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        ):
            for name, array in arrays.items():
                buffer = io.BytesIO()
                np.lib.format.write_array(buffer, array, allow_pickle=False)
                entry = zipfile.ZipInfo(f"{name}.npy", _ZIP_DATE)
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, buffer.getvalue())

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Read the packed form."""
        with np.load(path, allow_pickle=False) as arrays:
            ends = np.cumsum(arrays["hypernym_count"].astype(np.int64)).tolist()
            flat = arrays["hypernyms"].tolist()
            starts = [0, *ends[:-1]]
            return cls(
                offsets=arrays["offsets"],
                hypernyms=[flat[start:end] for start, end in zip(starts, ends, strict=True)],
                words=_texts(arrays["words"]),
                ranks=arrays["ranks"].tobytes(),
                glosses=lambda: _read_member(path, "glosses"),
                version=_texts(arrays["version"])[0],
            )


@cache
def _packed() -> WordNet:
    return WordNet.open(PACKED)


def _read_member(path: str | Path, name: str) -> list[str]:
    with np.load(path, allow_pickle=False) as arrays:
        return _texts(arrays[name])


def _bytes(texts: Sequence[str]) -> NDArray[np.uint8]:
    return np.frombuffer("\n".join(texts).encode(), np.uint8)


def _texts(array: NDArray[np.uint8]) -> list[str]:
    return array.tobytes().decode().split("\n")


def _fold(text: str) -> str:
    return " ".join(text.replace("_", " ").split()).casefold()
