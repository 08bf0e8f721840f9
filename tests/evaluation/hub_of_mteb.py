"""Small data sets of real tasks of mteb, in a folder, as the hub lays them out."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.conftest import WORDS, small_pairs

Rows = list[dict[str, Any]]


def jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def card(**configs: tuple[str, str]) -> str:
    """The head of a data set's README, which says which file each configuration (split, file) is."""
    listed = (
        f"- config_name: {name}\n  data_files:\n  - split: {split}\n    path: {path}\n"
        for name, (split, path) in configs.items()
    )
    return f"---\nconfigs:\n{''.join(listed)}---\n"


def write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def retrieval() -> tuple[Rows, Rows, Rows]:
    """Corpus, queries and qrels in which random vectors find some and miss others."""
    pairs = small_pairs(24)
    corpus = [{"_id": f"d{n}", "title": WORDS[n], "text": pair["positive"]} for n, pair in enumerate(pairs)]
    queries = [{"_id": f"q{n}", "text": pair["query"]} for n, pair in enumerate(pairs[:12])]
    relevant = [{"query-id": f"q{n}", "corpus-id": f"d{m}", "score": 1} for n in range(12) for m in {n, (n * 5) % 24}]
    return corpus, queries, relevant


def write_hub(folder: Path) -> Path:
    """Write the data of SciFact, STSBenchmark, Banking77Classification and TwentyNewsgroupsClustering.v2."""
    corpus, queries, relevant = retrieval()
    configs = {
        "default": ("test", "qrels/test.jsonl"),
        "corpus": ("corpus", "corpus.jsonl"),
        "queries": ("queries", "queries.jsonl"),
    }
    scifact = {
        "README.md": card(**configs),
        "corpus.jsonl": jsonl(corpus),
        "queries.jsonl": jsonl(queries),
        "qrels/test.jsonl": jsonl(relevant),
    }
    write(folder / "mteb" / "scifact", scifact)
    sentences = [
        {"sentence1": a["text"], "sentence2": b["text"], "score": n % 6}
        for n, (a, b) in enumerate(zip(corpus, corpus[3:], strict=False))
    ]
    write(folder / "mteb" / "stsbenchmark-sts", {"test.jsonl": jsonl(sentences)})
    for split in ("train", "test"):
        asked = [
            {"text": f"{WORDS[n]} {split} {word}", "label": label}
            for n in range(16)
            for label, word in enumerate(WORDS[16:19])
        ]
        write(folder / "mteb" / "banking77", {f"{split}.jsonl": jsonl(asked)})
    noun = [WORDS[n % 12 + 10] for n in range(500)]
    news = [{"sentences": [f"{word} {WORDS[n % 30]} {WORDS[-n % 17]}" for n, word in enumerate(noun)], "labels": noun}]
    write(folder / "mteb" / "twentynewsgroups-clustering", {"test.jsonl": jsonl(news * 2)})
    return folder
