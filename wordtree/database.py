"""Reading a WordNet database folder through nltk."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wordtree.errors import FormatError
from wordtree.textfile import read_text
from wordtree.wordnet import WordNet

if TYPE_CHECKING:
    from nltk.corpus.reader.wordnet import Synset

_LEXNAMES = 45  # lexicographer files of WordNet; nltk wants their names, we never ask for one
_MOST_SENSES = 255  # a sense number is one byte; the noun with most senses in WordNet 3.0 has 33


def read_database(folder: str | Path) -> WordNet:
    """Read the nouns of a database folder; see `WordNet.from_folder`."""
    base = Path(folder)
    remedy = "Name a folder such as /usr/share/wordnet (Debian: apt-get install wordnet-base)."
    texts = {}
    for name in ("data.noun", "index.noun"):
        if not (base / name).is_file():
            raise FormatError(f"no file {name}: not a WordNet database folder.", path=folder, remedy=remedy)
        texts[name] = read_text(base / name, "a WordNet database file")
    version = re.search(r"WordNet (\d+\.\d+) Copyright", texts["data.noun"])
    with _allowed(base), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # translations missing, synsets missing: the latter is checked below
        records = _records(base, texts)
        hypernyms = _hypernyms(records, base / "data.noun")
    if not records:
        raise FormatError("expected noun synsets, found none.", path=base / "data.noun", remedy=remedy)
    return WordNet(
        offsets=np.array([synset.offset() for synset in records], np.uint32),
        hypernyms=hypernyms,
        words=["\t".join(synset.lemma_names()) for synset in records],
        ranks=_ranks(records, texts["index.noun"], base / "index.noun"),
        glosses=[" ".join(synset.definition().split()) for synset in records].copy,
        version=version[1] if version else "of unknown version",
    )


def _records(base: Path, texts: dict[str, str]) -> list[Synset]:
    from nltk.corpus.reader.wordnet import WordNetCorpusReader, WordNetError

    class NounReader(WordNetCorpusReader):  # type: ignore[misc]  # nltk is untyped
        """Serves nltk the noun files, and empty ones for all others: Debian, for one, has no lexnames."""

        def open(self, file: str) -> Any:
            if file == "lexnames":
                return io.StringIO("".join(f"{i:02d} file{i:02d} 0\n" for i in range(_LEXNAMES)))
            text = texts.get(file, "")
            # nltk finds synsets by byte; an ASCII text in memory serves that, much faster.
            return io.StringIO(text) if text.isascii() else super().open(file)

        def map_wn(self, version: str = "wordnet") -> None:
            """Nothing to map: translations (omw), which this is for, are not read."""

    try:
        synsets = list(NounReader(str(base), None).all_synsets("n"))
    except (WordNetError, ValueError, LookupError, StopIteration, RuntimeError) as error:
        problem = f"nltk cannot read this as a WordNet database: {error}."
        raise FormatError(problem, path=base, remedy="Is it complete and unchanged?") from error
    return sorted(synsets, key=lambda synset: int(synset.offset()))


@contextmanager
def _allowed(folder: Path) -> Iterator[None]:
    """Put a folder on nltk's path for a while: from 3.10 on nltk reads only below that path."""
    import nltk.data

    entry = str(folder)
    nltk.data.path.append(entry)
    try:
        yield
    finally:
        nltk.data.path.remove(entry)


def _hypernyms(records: Sequence[Synset], path: Path) -> list[list[int]]:
    number = {synset.offset(): i for i, synset in enumerate(records)}
    result = []
    for synset in records:
        result.append([number[other.offset()] for other in _above(synset, path)])
    _refuse_cycles(result, records, path)
    return result


def _above(synset: Synset, path: Path) -> list[Synset]:
    try:
        above = [*synset.hypernyms(), *synset.instance_hypernyms()]
    except AttributeError:  # nltk sorts what it found, and found nothing in one place
        above = [None]
    if None in above:
        what = f"a hypernym of n{synset.offset():08d} is at a place where no synset begins."
        raise FormatError(what, path=path, remedy="Use an unchanged copy of the database.")
    return above


def _refuse_cycles(hypernyms: Sequence[Sequence[int]], records: Sequence[Any], path: Path) -> None:
    below: list[list[int]] = [[] for _ in hypernyms]
    open_links = [len(set(above)) for above in hypernyms]
    for synset, above in enumerate(hypernyms):
        for other in set(above):
            below[other].append(synset)
    ready = [synset for synset, links in enumerate(open_links) if not links]
    for synset in ready:  # grows while we walk
        for other in below[synset]:
            open_links[other] -= 1
            if not open_links[other]:
                ready.append(other)
    if len(ready) < len(hypernyms):
        stuck = next(synset for synset, links in enumerate(open_links) if links)
        what = f"the hypernyms of n{records[stuck].offset():08d} lead in a circle."
        raise FormatError(what, path=path, remedy="Use an unchanged copy of the database.")


def _ranks(records: Sequence[Synset], index: str, path: Path) -> bytes:
    order: dict[str, list[str]] = {}
    for line in index.splitlines():
        if line and not line.startswith(" "):
            fields = line.split()
            order[fields[0]] = fields[-int(fields[2]) :]
    ranks = bytearray()
    for synset in records:
        offset = f"{synset.offset():08d}"
        for lemma in synset.lemma_names():
            senses = order.get(lemma.lower(), ())
            if offset not in senses:
                what = f"no entry of {lemma.lower()!r} for the synset n{offset}."
                raise FormatError(what, path=path, remedy="data.noun and index.noun must be of one database.")
            ranks.append(min(senses.index(offset) + 1, _MOST_SENSES))
    return bytes(ranks)
