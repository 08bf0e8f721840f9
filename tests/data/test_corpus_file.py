from pathlib import Path

import pytest

from multigrain.data.corpus_file import Corpus
from multigrain.files import write_objects
from multigrain.records import Document, to_json

DOCUMENTS = [Document("a", "one"), Document("b", "zwei\nLinien \u2028 ß", "held_out"), Document("c", "three", "train")]


def test_documents_by_number_and_in_order(tmp_path: Path) -> None:
    write_objects(tmp_path / "corpus.jsonl", (to_json(document) for document in DOCUMENTS))
    corpus = Corpus(tmp_path / "corpus.jsonl")
    assert len(corpus) == 3
    assert list(corpus) == list(corpus) == DOCUMENTS
    assert [corpus[2], corpus[0], corpus[-2]] == [DOCUMENTS[2], DOCUMENTS[0], DOCUMENTS[1]]
    assert corpus[1:] == DOCUMENTS[1:]
    with pytest.raises(IndexError):
        corpus[3]


def test_blank_lines_are_no_documents(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"id": "a", "text": "one"}\n\n  \n{"id": "b", "text": "two"}\n\n')
    corpus = Corpus(path)
    assert len(corpus) == 2
    assert list(corpus) == [corpus[0], corpus[1]] == [Document("a", "one"), Document("b", "two")]


def test_texts_by_number(tmp_path: Path) -> None:
    write_objects(tmp_path / "corpus.jsonl", (to_json(document) for document in DOCUMENTS))
    corpus = Corpus(tmp_path / "corpus.jsonl")
    assert corpus.texts([2, 0, 2, 1]) == [DOCUMENTS[number].text for number in (2, 0, 2, 1)]
    assert corpus.texts([]) == []
