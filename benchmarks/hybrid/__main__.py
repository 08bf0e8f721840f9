"""Measure the hybrid of cosine and BM25 beside either, and find its weight.

    python -m benchmarks.hybrid --queries claims.npy --documents abstracts.npy

SciFact's training claims over all of its abstracts, and those of the grids' dev set over 2,000. The weight is fitted
on half of the claims and measured on the other half, both ways round. Existing vectors of the base (claims sorted, each
once; abstracts in the order of the corpus) save minutes; without them both are encoded.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.grids.data import ABSTRACTS, CLAIMS
from benchmarks.shared.data_sets import DATA_SETS
from benchmarks.shared.environment import environment, parser_of, require_commit
from benchmarks.shared.result_files import new_result
from multigrain.data.beir import RetrievalTask, read_beir_task
from multigrain.evaluation.evaluate import Search, search_of, word_matches
from multigrain.evaluation.metrics import NDCG, metric_by
from multigrain.evaluation.retriever_choice import GRID, Choice, choose
from multigrain.evaluation.significance import paired_bootstrap
from multigrain.files import write_json
from multigrain.model.roles import Embed, Role, Vectors

SEED, BASE, TOKENS = 7, "embedded", 128
WEIGHTS = sorted({*GRID, 0.3, 0.5})
RETRIEVERS = ("dense", "bm25", "hybrid")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--queries", type=Path, help="vectors of the claims")
    parser.add_argument("--documents", type=Path, help="vectors of the abstracts")
    options = parser.parse_args()
    require_commit(options)
    claims = read_beir_task(DATA_SETS / "scifact", "train")
    embed = _encoder() if options.queries is None else _known(claims, options.queries, options.documents)
    with TemporaryDirectory() as folder:
        found = {task.name: _measured(task, embed, Path(folder)) for task in (claims, _dev(claims))}
    noted = environment("bm25s", "numpy", "sentence-transformers", halves=SEED)
    path = new_result(Path(__file__).parent / "results", "scifact", noted)
    write_json(path, {"environment": noted, "base": BASE, "max_tokens": TOKENS, "searches": found})
    print(path)


def _measured(task: RetrievalTask, embed: Embed, folder: Path) -> dict[str, Any]:
    """Measure the retrievers on all queries, and the chosen hybrid on the queries that did not choose it."""
    search = _searched(task, embed, folder)
    choice = choose([search], RETRIEVERS, SEED)
    pools = list(search.pools())
    by_weight = {weight: _scores(search, [pool.ranked(weight, 10) for pool in pools]) for weight in WEIGHTS}
    dense = _scores(search, [search.found.numbers])
    difference = paired_bootstrap(list(dense.values()), list(by_weight[0.3].values()), SEED)
    shuffled = random.Random(SEED).sample(list(task.queries), len(task.queries))
    halves = [shuffled[::2], shuffled[1::2]]
    chosen = [choose([_searched(_part(task, half), embed, folder)], RETRIEVERS, SEED) for half in halves]
    others = [_hybrid(_part(task, half), embed, folder, each) for half, each in zip(halves[::-1], chosen, strict=True)]
    return {
        "queries": len(task.queries),
        "documents": search.searched.count,
        "all queries": choice.to_json(),
        "by weight": {f"{weight:g}": fmean(scores.values()) for weight, scores in by_weight.items()},
        "hybrid at 0.3 less dense": difference,
        "exact first 10 and 100, share of queries": [_exact(pools, k) for k in (10, 100)],
        "chosen on half": [each.to_json() for each in chosen],
        "measured on the other": others,
    }


def _hybrid(task: RetrievalTask, embed: Embed, folder: Path, choice: Choice) -> float:
    scores = _searched(task, embed, folder).evaluation(choice.weight).scores
    return fmean(item[metric_by("hybrid", NDCG)] for item in scores.values())


def _exact(pools: Sequence[Any], k: int) -> float:
    return fmean(float(exact) for pool in pools for exact in pool.is_exact(0.3, k))


def _searched(task: RetrievalTask, embed: Embed, folder: Path) -> Search:
    return search_of(task, embed, word_matches(task, "english", folder))


def _scores(search: Search, rankings: Sequence[Any]) -> dict[str, float]:
    return {query: scores[NDCG] for query, scores in search.scores(np.concatenate(rankings)).items()}


def _part(task: RetrievalTask, queries: Sequence[str]) -> RetrievalTask:
    texts = {query: task.queries[query] for query in queries}
    return replace(task, queries=texts, relevance={query: task.relevance[query] for query in queries}, own={})


def _dev(claims: RetrievalTask) -> RetrievalTask:
    """Draw claims and abstracts as the grids do."""
    draw = random.Random(1)
    asked = draw.sample(sorted(claims.queries), CLAIMS)
    evidence = {abstract for claim in asked for abstract in claims.relevance[claim]}
    ids = sorted(document.id for document in claims.documents if document.id not in evidence)
    kept = evidence | set(draw.sample(ids, ABSTRACTS - len(evidence)))
    documents = [document for document in claims.documents if document.id in kept]
    return replace(_part(claims, sorted(asked)), name="scifact-dev", documents=documents)


def _known(task: RetrievalTask, queries: Path, documents: Path) -> Embed:
    """Return an encoder that looks up vectors by text."""
    texts = sorted(set(task.queries.values()))
    found = dict(zip(texts, np.load(queries), strict=True))
    found |= {document.text: row for document, row in zip(task.documents, np.load(documents), strict=True)}

    def embed(wanted: Sequence[str], _role: Role) -> Vectors:
        return np.stack([found[text] for text in wanted])

    return embed


def _encoder() -> Embed:
    from functools import partial

    from multigrain.model.encode import encode
    from multigrain.model.load import load_base

    return partial(encode, load_base(BASE, TOKENS, "base"), description="encoding")


if __name__ == "__main__":
    main()
