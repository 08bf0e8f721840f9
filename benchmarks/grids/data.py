"""Create the data of the grids in benchmarks/grids/data, from public sets and the installed packages.

medquad         2,600 training pairs of MedQuAD, by topics; dev: 258 questions about other topics over 2,500 answers,
                including all answers about these topics, which are the hard ones to tell apart
scifact-dev     200 claims of the train part of SciFact over 2,000 abstracts, including theirs
python-docs     all documentation except scipy and torch; dev: 600 of their docstrings, over all 5,000 and more
snli.jsonl      the SNLI ladder: an entailed sentence, a neutral one (grade 2), a contradiction (grade 1)
snli_dev.jsonl  357 tuples of 400 other premises
stsb.jsonl      every third pair of STS-B dev
adaptation.jsonl  texts to adapt a decoder to: the sentences of the SNLI ladder, customer questions, encyclopedia
                paragraphs, medical answers and abstracts
"""

import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.shared.data_sets import DATA_SETS
from multigrain.data import python_docs
from multigrain.data.jsonl import read_objects
from multigrain.files import write_objects

FOLDER = Path(__file__).parent / "data"
LAST = FOLDER / "adaptation.jsonl"
"""The file that is written last: if it exists, all exist."""
TRAIN_PAIRS, DEV_QUERIES, DEV_DOCUMENTS, LADDERS = 2600, 300, 2500, 400
CLAIMS, ABSTRACTS = 200, 2000
DOCSTRINGS, DEV_PACKAGES = 600, ("scipy", "torch")
ADAPTED_DOCUMENTS = 400
"""Number of documents of each larger corpus in the texts to adapt to."""


def main() -> None:
    if not DATA_SETS.is_dir():
        raise SystemExit(f"{DATA_SETS.absolute()}: no such folder. Set MULTIGRAIN_DATA to where the data sets are.")
    _medquad(DATA_SETS / "medquad")
    _scifact(DATA_SETS / "scifact")
    _python_docs()
    _snli(DATA_SETS / "snli_small" / "train.jsonl")
    _write("stsb.jsonl", (row for line, row in read_objects(DATA_SETS / "stsb" / "dev.jsonl") if line % 3 == 0))
    _adaptation()


def _medquad(source: Path) -> None:
    corpus = {row["_id"]: row for _, row in read_objects(source / "corpus.jsonl.gz")}
    queries = {row["_id"]: row for _, row in read_objects(source / "queries.jsonl")}
    draw = random.Random(1)
    train = list(_topics(_qrels(source, "train"), queries, draw, TRAIN_PAIRS))
    dev = list(_topics(_qrels(source, "dev"), queries, draw, DEV_QUERIES))
    topics = {queries[query]["focus"] for query, _ in dev}
    asked = {document for _, document in dev} | {id for id, row in corpus.items() if row["focus"] in topics}
    others = draw.sample(sorted(corpus.keys() - asked), DEV_DOCUMENTS - len(asked))
    mined = {document for _, document in train}
    for split, pairs, documents in (("train", train, mined), ("dev", dev, asked | set(others))):
        folder = f"medquad-{split}"
        _write(f"{folder}/corpus.jsonl", (row for id, row in corpus.items() if id in documents))
        _write(f"{folder}/queries.jsonl", (queries[query] for query in dict(pairs)))
        _write_qrels(folder, split, pairs)


def _scifact(source: Path) -> None:
    corpus = {row["_id"]: row for _, row in read_objects(source / "corpus.jsonl.gz")}
    queries = {row["_id"]: row for _, row in read_objects(source / "queries.jsonl")}
    pairs = _qrels(source, "train")
    draw = random.Random(1)
    claims = set(draw.sample(sorted({claim for claim, _ in pairs}), CLAIMS))
    asked = [(claim, abstract) for claim, abstract in pairs if claim in claims]
    evidence = {abstract for _, abstract in asked}
    abstracts = evidence | set(draw.sample(sorted(corpus.keys() - evidence), ABSTRACTS - len(evidence)))
    _write("scifact-dev/corpus.jsonl", (row for id, row in corpus.items() if id in abstracts))
    _write("scifact-dev/queries.jsonl", (queries[claim] for claim in sorted(claims)))
    _write_qrels("scifact-dev", "dev", asked)


def _python_docs() -> None:
    pairs = python_docs.read_pairs()
    dev = [pair for pair in pairs if pair.source in DEV_PACKAGES]
    asked = random.Random(1).sample(dev, DOCSTRINGS)
    fields = ("id", "query", "positive", "source")
    train = ({name: getattr(pair, name) for name in fields} for pair in pairs if pair.source not in DEV_PACKAGES)
    _write("python-docs.jsonl", train)
    _write("python-docs-dev/corpus.jsonl", ({"_id": pair.id, "title": "", "text": pair.positive} for pair in dev))
    _write("python-docs-dev/queries.jsonl", ({"_id": pair.id, "text": pair.query} for pair in asked))
    _write_qrels("python-docs-dev", "dev", [(pair.id, pair.id) for pair in asked])


def _qrels(source: Path, split: str) -> list[tuple[str, str]]:
    pairs = []
    for line in (source / "qrels" / f"{split}.tsv").read_text().splitlines()[1:]:
        query, document, _ = line.split("\t")
        pairs.append((query, document))
    return pairs


def _write_qrels(folder: str, split: str, pairs: Iterable[tuple[str, str]]) -> None:
    path = FOLDER / folder / "qrels" / f"{split}.tsv"
    path.parent.mkdir(exist_ok=True)
    lines = [f"{query}\t{document}\t1\n" for query, document in pairs]
    path.write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))


def _topics(
    pairs: list[tuple[str, str]], queries: dict[str, Any], draw: random.Random, count: int
) -> Iterator[tuple[str, str]]:
    """Yield the pairs of whole topics, in random order, until there are enough."""
    by_topic: dict[str, list[tuple[str, str]]] = {}
    for query, document in pairs:
        by_topic.setdefault(queries[query]["focus"], []).append((query, document))
    topics = sorted(by_topic)
    draw.shuffle(topics)
    for topic in topics:
        if count <= 0:
            return
        yield from by_topic[topic]
        count -= len(by_topic[topic])


def _snli(path: Path) -> None:
    rows = [row for _, row in read_objects(path)]
    premises = sorted({row["query"] for row in rows})
    random.Random(1).shuffle(premises)
    held_out = set(premises[:LADDERS])
    grades = {"contradiction": 1, "neutral": 2}
    ladders = []
    for number, row in enumerate(rows):
        levels = {negative["level"] for negative in row["graded_negatives"]}
        if len(levels) == len(grades):
            negatives = [
                {"text": negative["text"], "grade": grades[negative["level"]], "score": 0.0, "source": "mined"}
                for negative in row["graded_negatives"]
            ]
            query, positive = row["query"], row["positive"]
            ladders.append({"id": str(number), "query": query, "positive": positive, "negatives": negatives})
    _write("snli.jsonl", (row for row in ladders if row["query"] not in held_out))
    _write("snli_dev.jsonl", (row for row in ladders if row["query"] in held_out))


def _adaptation() -> None:
    ladders = [row for _, row in read_objects(FOLDER / "snli.jsonl")]
    texts = [
        text for row in ladders for text in (row["query"], row["positive"], *(n["text"] for n in row["negatives"]))
    ]
    texts += [row["text"] for _, row in read_objects(DATA_SETS / "banking77" / "train.jsonl")]
    texts += [row["text"] for _, row in read_objects(DATA_SETS / "xquad_en" / "corpus.jsonl")]
    for name in ("medquad", "scifact"):
        corpus = [row["text"] for _, row in read_objects(DATA_SETS / name / "corpus.jsonl.gz")]
        texts += random.Random(1).sample(corpus, ADAPTED_DOCUMENTS)
    _write(LAST.name, ({"_id": str(number), "text": text} for number, text in enumerate(dict.fromkeys(texts))))


def _write(name: str, rows: Iterable[dict[str, Any]]) -> None:
    write_objects(FOLDER / name, rows)


if __name__ == "__main__":
    main()
