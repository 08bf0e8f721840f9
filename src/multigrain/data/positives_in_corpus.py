"""Give positives and given negatives the form of the corpus: the title before the text."""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from multigrain.data.key_table import KeyTable, text_key
from multigrain.data.record_file import RecordFile
from multigrain.data.sources import Source, distinct, read_passages
from multigrain.errors import DataError
from multigrain.records import Candidate, Document, Pair
from multigrain.terminal import say


@dataclass(frozen=True)
class _Corpus:
    """Lookup tables of a corpus, for the texts of the pairs.

    Attributes:
        texts: the `text_key` of each document's text.
        titled: `text_key` of a text -> number of the first document that is this text with a title.
        documents: these documents.
        keys: the `text_key` of each of them without its title.
    """

    texts: KeyTable
    titled: KeyTable
    documents: RecordFile[Document]
    keys: "array[int]"

    def __contains__(self, key: int) -> bool:
        return key in self.texts or key in self.titled

    def whole(self, text: str) -> str | None:
        """Return the text with its title; None if it has none, or if a document is the text without a title."""
        key = text_key(text)
        number = None if key in self.texts else self.titled.get(key)
        return None if number is None else self.documents[number].text


def as_in_corpus(source: Source, corpus: str, folder: Path | None = None) -> tuple[Source, KeyTable]:
    """Find the positives in the corpus; a positive that is a document's text without the title gets the title.

    Given negatives get it too, or the title would give the positives away.

    Args:
        source: the pairs.
        corpus: the source of the corpus.
        folder: folder for temporary files, see `RecordFile`.

    Returns:
        The source with titles, and the `text_key` of each distinct text of the corpus.

    Raises:
        DataError: positives are not in the corpus; see also `read_passages`.
    """
    found = _look_for(source, corpus, folder)
    missing = [pair.id for pair in source.pairs if text_key(pair.positive) not in found]
    if missing:
        raise DataError(
            corpus,
            f"the positives of {len(missing)} pairs are not in the corpus (first: {', '.join(missing[:3])}). "
            "Add them to the corpus, word for word, or remove the key corpus.",
        )
    count = sum(key not in found.texts for key in found.keys)
    if not count:
        return source, found.texts
    say(f"  {count} positives or given negatives have a title in the corpus, which is put before them")
    pairs = RecordFile(Pair, _titled_pairs(source.pairs, found), folder)
    given = RecordFile(Candidate, _titled_negatives(source.given, found), folder)
    return replace(source, pairs=pairs, given=distinct(given, pairs)), found.texts


def _titled_pairs(pairs: Iterable[Pair], found: _Corpus) -> Iterator[Pair]:
    for pair in pairs:
        text = found.whole(pair.positive)
        yield replace(pair, positive=text) if text else pair


def _titled_negatives(given: Iterable[Candidate], found: _Corpus) -> Iterator[Candidate]:
    for candidate in given:
        text = found.whole(candidate.text)
        yield replace(candidate, text=text) if text else candidate


def _look_for(source: Source, corpus: str, folder: Path | None) -> _Corpus:
    wanted = KeyTable()
    for pair in source.pairs:
        wanted.add(text_key(pair.positive))
    for given in source.given:
        wanted.add(text_key(given.text))
    found = _Corpus(KeyTable(), KeyTable(), RecordFile(Document, folder=folder), array("Q"))
    count = 0
    for count, (document, text) in enumerate(read_passages(corpus, tell=True), start=1):  # noqa: B007
        found.texts.add(text_key(document.text))
        if text != document.text and (key := text_key(text)) in wanted and key not in found.titled:
            found.titled.setdefault(key, len(found.documents))
            found.keys.append(key)
            found.documents.append(document)
    if copies := count - len(found.texts):
        say(f"  {copies} documents of the corpus repeat the text of another; each text is read once")
    return found
