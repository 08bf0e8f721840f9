"""The corpus of a run folder: a file of documents, read one at a time."""

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from multigrain.data.jsonl import read_objects
from multigrain.data.record_file import Numbers, Records, Some
from multigrain.errors import DataError
from multigrain.files import state_of
from multigrain.records import Document


class Corpus(Records[Document]):
    """The documents of a JSON-lines file that multigrain wrote, in file order.

    Iterating reads the file from its start; indexing reads one line. Memory holds only the offset of each line.

    Args:
        path: the file.

    Raises:
        DataError: on reading, if the file has changed since.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = state_of(path)
        self._starts = array("q")
        position = 0
        with path.open("rb") as file:
            for line in file:
                if line.strip():  # as `read_objects` skips blank lines
                    self._starts.append(position)
                position += len(line)

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[Document]:
        self._require_unchanged()
        for _, fields in read_objects(self._path):
            yield Document(**fields)
        self._require_unchanged()

    def _at(self, number: int) -> Document:
        with self._path.open("rb") as file:
            file.seek(self._starts[number])
            return Document(**json.loads(file.readline()))

    def texts(self, numbers: Iterable[int]) -> list[str]:
        """Return the texts of the documents with these numbers, in the order of the numbers."""
        return [document.text for document in self.documents(numbers)]

    def documents(self, numbers: Iterable[int]) -> Iterator[Document]:
        """Yield the documents with these numbers, in the order of the numbers."""
        self._require_unchanged()
        with self._path.open("rb") as file:
            for number in numbers:
                file.seek(self._starts[number])
                yield Document(**json.loads(file.readline()))

    def _require_unchanged(self) -> None:
        if state_of(self._path) != self._state:
            raise DataError(
                self._path, "changed while it was read. Stop what writes to it, then run the same command again."
            )


class CorpusOfSource(Some[Document]):
    """The documents of one of several sources; memory holds the number of each.

    Args:
        corpus: the corpus of the run.
        numbers: (documents,) their numbers in it, ascending.
    """

    def __init__(self, corpus: Corpus, numbers: Numbers) -> None:
        super().__init__(corpus, numbers)
        self._corpus = corpus
        self.numbers = numbers

    def __iter__(self) -> Iterator[Document]:
        return self._corpus.documents(self.numbers.tolist())


def corpora_of(corpus: Corpus, sources: Sequence[str]) -> dict[str, CorpusOfSource]:
    """Return the corpus of each source; a document may be in several."""
    numbers = {name: array("q") for name in sources}
    for number, document in enumerate(corpus):
        for name in document.sources or ():
            numbers[name].append(number)
    return {name: CorpusOfSource(corpus, np.asarray(found)) for name, found in numbers.items()}
