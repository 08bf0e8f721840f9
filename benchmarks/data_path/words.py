"""Create passages of pseudo-words, pairs that ask for them, and an encoder that knows these words.

    word        three syllables; the k-th is drawn with a probability that falls like 1 / (k + 3) (Zipf's law)
    passage     60 to 150 words; a tenth to 0.6 of them are of its topic, which about 100 passages share
    query       eight words of its positive, none of the most frequent
    vector      the sum over words of idf times a random direction, of length 1

Posting lists are therefore as long as in real texts, and passages of the query's topic fill all bands of relevance.
"""

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from numpy.typing import NDArray

from multigrain.files import atomic_folder, write_atomic, write_objects

SEED = 7
VOCABULARY = 50_000
BLOCK = 10_000
"""Passages that are drawn at once, from a separate seed."""
SHORTEST, LONGEST = 60, 150
OF_TOPIC = 100
"""Passages of a topic, on average."""
TOPIC_WORDS = 12
FREQUENT = 500
"""Number of most frequent words, which no topic and no query contains."""
QUERY_WORDS = 8
HELD_OUT = 0.01
"""Share of the pairs that is held out, so that the settings name no other data."""
Ranks = NDArray[np.int64]


def names() -> list[str]:
    """Return the pseudo-words, the most frequent first."""
    syllables = ["".join(pair) for pair in itertools.product("bdfgklmnprstvz", "aeiou")]
    words = ["".join(parts) for parts in itertools.product(syllables, repeat=3)]
    return random.Random(SEED).sample(words, VOCABULARY)


def write_corpus(path: Path, passages: int) -> None:
    """Write {"id", "text"} for each passage, one per line; lines of an interrupted call stay."""
    path.parent.mkdir(parents=True, exist_ok=True)
    words = np.array(names(), dtype=object)
    with path.open("a+b") as file:
        begun = _cut(file, passages)
        for start in range(begun, passages, BLOCK):
            count = min(BLOCK, passages - start)
            for number, row in enumerate(_drawn(start // BLOCK, count, max(passages // OF_TOPIC, 1)), start):
                file.write(b'{"id": "%d", "text": "%s"}\n' % (number, " ".join(words[row]).encode()))


def _cut(file: Any, passages: int) -> int:
    """Cut a file after its last whole block; return the number of passages before. A complete file stays."""
    file.seek(0)
    count = end = whole = 0
    for line in file:
        count, end = count + line.endswith(b"\n"), end + len(line)
        if count % BLOCK == 0 or count == passages:
            whole = end
    begun = passages if count == passages else count // BLOCK * BLOCK
    file.truncate(whole if begun else 0)
    return begun


def _drawn(block: int, count: int, topics: int) -> Iterator[Ranks]:
    """Yield the ranks of the words of each passage of a block."""
    draw = np.random.default_rng([SEED, block])
    ranks = np.searchsorted(_cumulative(), draw.random((count, LONGEST)))
    topic = draw.integers(topics, size=(count, 1))
    place = draw.integers(TOPIC_WORDS, size=ranks.shape)
    share = draw.uniform(0.1, 0.6, size=(count, 1))
    ranks = np.where(draw.random(ranks.shape) < share, _topic_word(topic, place), ranks)
    for row, length in zip(ranks, draw.integers(SHORTEST, LONGEST + 1, size=count), strict=True):
        yield row[:length]


def _cumulative() -> NDArray[np.float64]:
    """Return (VOCABULARY - 1): the probability of a word of this rank or below."""
    shares = 1 / (np.arange(VOCABULARY) + 3)
    return np.cumsum(shares / shares.sum())[:-1]


def _topic_word(topic: Ranks, place: Ranks) -> Ranks:
    """Return the rank of the word at a position of a topic: pseudo-random, the same in each block."""
    mixed = (topic * TOPIC_WORDS + place + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (FREQUENT + (mixed >> np.uint64(33)) % np.uint64(VOCABULARY - FREQUENT)).astype(np.int64)


def write_pairs(path: Path, corpus: Path, passages: int, pairs: int) -> None:
    """Write pairs whose positives are passages at even distances."""
    write_objects(path, _pairs(corpus, passages // pairs, pairs))


def _pairs(corpus: Path, step: int, pairs: int) -> Iterator[dict[str, Any]]:
    frequent, draw = set(names()[:FREQUENT]), random.Random(SEED)
    with corpus.open("rb") as file:
        for line in itertools.islice(file, 0, step * pairs, step):
            passage = json.loads(line)
            rare = sorted(set(passage["text"].split()) - frequent)
            query = " ".join(draw.sample(rare, min(QUERY_WORDS, len(rare))))
            yield {"id": passage["id"], "query": query, "positive": passage["text"]}


def write_encoder(folder: Path, dimension: int) -> None:
    """Save a sentence-transformers model that knows the pseudo-words: only a table of vectors."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, WordEmbeddings
    from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

    directions = np.random.default_rng(SEED).normal(size=(VOCABULARY, dimension)) / np.sqrt(dimension)
    idf = np.log1p(np.arange(VOCABULARY) / 8)[:, None]  # approximate, from the word's probability
    table = WordEmbeddings(WhitespaceTokenizer(names(), stop_words=[]), (directions * idf).astype(np.float32))
    modules = [table, Pooling(dimension), Normalize()]
    with atomic_folder(folder) as made:
        SentenceTransformer(modules=modules, device="cpu").save(str(made))


def write_run(folder: Path, passages: int, pairs: int, dimension: int) -> Path:
    """Create corpus, pairs, encoder and settings of a run unless they exist; return the TOML file.

    The run folder has the name of the file. No language model is used.
    """
    name = f"{passages}x{pairs}-{dimension}"
    corpus, asked = folder / f"corpus-{passages}.jsonl", folder / f"pairs-{passages}-{pairs}.jsonl"
    encoder, settings = folder / f"encoder-{dimension}", folder / f"{name}.toml"
    write_corpus(corpus, passages)
    if not asked.is_file():
        write_pairs(asked, corpus, passages, pairs)
    if not encoder.is_dir():
        write_encoder(encoder, dimension)
    sections = {
        "data": {"pairs": str(asked), "corpus": str(corpus), "held_out": HELD_OUT},
        "synthesis": {"limit": 0},
        "grading": {"judge_model": str(encoder)},
    }
    write_atomic(settings, tomli_w.dumps({"name": name, "output": str(folder), "seed": SEED, **sections}).encode())
    return settings
