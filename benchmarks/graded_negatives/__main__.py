"""Measure the grades and the false negatives with judges that the grading did not use.

    python -m benchmarks.graded_negatives [--sets scifact medquad] [--folder runs/graded_negatives]

For 300 training pairs each of SciFact and MedQuAD, the embedded language model writes four graded negatives and the
corpus supplies more. Both are graded twice: by the embedding alone (BM25 is then an independent judge), and by
embedding and BM25 together, the default (only the third judge is then independent). The third judge is a static
embedding, the mean of the token vectors of the package wordllama (`pip install --no-deps wordllama`; its weights are in
the package). The result also says how far each judge can be trusted: the nDCG@10 of its own ranking of the corpus for
these queries, and the figures of the "sure" pairs, those whose positive it ranks among the first ten. For other pairs,
it is already wrong about the positive.

The answers of the language model stay in the run folder: a second call only repeats the grading.
"""

import json
import math
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import bm25s
import numpy as np

from benchmarks.shared.data_sets import DATA_SETS
from benchmarks.shared.environment import environment, parser_of, require_commit
from benchmarks.shared.result_files import open_result
from multigrain.config import load_config
from multigrain.data.jsonl import read_candidates, read_documents, read_pairs, read_tuples
from multigrain.data.mined_candidates import MinedFile
from multigrain.grading.bm25_judge import Bm25Judge
from multigrain.model.roles import Vectors
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.verbs import grade, synthesize
from multigrain.records import Pair, folded
from multigrain.retrieval.bm25 import Words

RESULTS = Path(__file__).with_name("results")
PAIRS = 300
SETS = {
    "scifact": {"pairs": f"beir:{DATA_SETS}/scifact:train"},
    "medquad": {"pairs": f"{DATA_SETS}/medquad/train.jsonl.gz", "corpus": f"{DATA_SETS}/medquad/corpus.jsonl.gz"},
}
JUDGES = {"embedding": ["embedding"], "embedding + BM25": ["embedding", "bm25"]}
FALSE_NEGATIVE = 0.95
Texts = tuple[str, str, str, dict[int, str]]
"""The pair's id, the query, the positive, and a text for each grade."""
Relevance = Callable[[Sequence[tuple[str, str]]], list[float]]
SEED = 7
RUN = """
name = "{name}"
seed = {seed}
output = "{folder}"
[data]
{data}
held_out = 0.02
limit = {pairs}
[synthesis]
prompt_style = "per-grade"
[grading]
judge = {judge}
judge_max_tokens = 128
"""


class StaticJudge:
    """Cosine of the means of static token vectors: it knows words, but not their order or importance."""

    def __init__(self) -> None:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        spec = find_spec("wordllama")
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit("wordllama is missing: pip install --no-deps wordllama")
        folder = Path(spec.submodule_search_locations[0])
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json"))
        self._tokenizer.no_padding()
        (self._vectors,) = load_file(folder / "weights" / "l2_supercat_256.safetensors").values()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return (texts, 256) vectors of length 1."""
        found = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        means = np.stack([self._vectors[part.ids or [0]].astype(np.float32).mean(0) for part in found])
        unit: Vectors = means / (np.linalg.norm(means, axis=1, keepdims=True) + 1e-9)
        return unit

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the cosine of each (query, text)."""
        texts = {text: row for row, text in enumerate(dict.fromkeys(text for pair in pairs for text in pair))}
        vectors = self.embed(list(texts))
        return [float(vectors[texts[query]] @ vectors[texts[text]]) for query, text in pairs]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--folder", type=Path, default=Path("runs/graded_negatives"))
    options = parser.parse_args()
    require_commit(options)
    path = open_result(RESULTS, "scifact-medquad")
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in options.sets:
        found[name] = measure(name, options.folder)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(found[name], indent=1))


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Return all figures of one set."""
    result: dict[str, Any] = {"environment": environment(run=SEED)}
    for way, judge in JUDGES.items():
        config = load_config(run_file(name, folder, judge))
        synthesize(config, force=True)
        started = time.monotonic()
        grade(config, force=True)
        seconds = time.monotonic() - started
        run = RunDir(config.folder)
        by_words = Bm25Judge(
            "english",
            (pair.query for pair in read_pairs(run.train_pairs)),
            (document.text for document in read_documents(run.corpus)),
        )
        judges: dict[str, Relevance] = {"static": StaticJudge(), "bm25": by_words.scores}
        ranks = {"static": static_ranks(run), "bm25": bm25_ranks(run)}
        candidates = sum(1 for _ in read_candidates(run.candidates)) + MinedFile(run.mined).rows
        result[way] = {
            "candidates": candidates,
            "candidates_per_minute": round(60 * candidates / seconds),
            **tuples_of(run),
            "after": {key: both(tuples_in(run), judge, ranks[key]) for key, judge in judges.items()},
        }
    result["before"] = {key: both(written_in(run), judge, ranks[key]) for key, judge in judges.items()}
    result["judges_ndcg@10"] = {key: ndcg(found.values()) for key, found in ranks.items()}
    return result


def run_file(name: str, folder: Path, judge: list[str]) -> Path:
    """Return the TOML file of a run; both ways of grading share the folder and its answers."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.toml"
    data = "\n".join(f'{key} = "{value}"' for key, value in SETS[name].items())
    text = RUN.format(name=name, seed=SEED, folder=folder.absolute(), data=data, pairs=PAIRS, judge=json.dumps(judge))
    path.write_text(text, encoding="utf-8")
    return path


def written_in(run: RunDir) -> list[Texts]:
    """Return the first written candidate of each grade, as the model wrote it."""
    written: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for candidate in read_candidates(run.candidates):
        if candidate.source == "llm":
            written[candidate.pair_id].setdefault(candidate.grade, candidate.text)
    pairs = {pair.id: pair for pair in read_pairs(run.train_pairs)}
    return [(id, pairs[id].query, pairs[id].positive, texts) for id, texts in written.items()]


def tuples_in(run: RunDir) -> list[Texts]:
    """Return the tuples that grading kept."""
    return [(t.id, t.query, t.positive, {n.grade: n.text for n in t.negatives}) for t in read_tuples(run.tuples)]


def both(tuples: Sequence[Texts], judge: Relevance, ranks: dict[str, int]) -> dict[str, Any]:
    """Return the figures of all pairs, and of those about whose positive the judge is sure."""
    sure = [row for row in tuples if ranks[row[0]] < 10]
    return {"all": figures(tuples, judge), "sure": {"pairs": len(sure), **figures(sure, judge)}}


def figures(tuples: Sequence[Texts], judge: Relevance) -> dict[str, Any]:
    """Return order, quartiles and false negatives; relevance is a share of the positive's."""
    asked = [(query, text) for _, query, positive, texts in tuples for text in (positive, *texts.values())]
    scores = iter(judge(asked))
    relevance: defaultdict[int, list[float]] = defaultdict(list)
    rises: defaultdict[str, list[bool]] = defaultdict(list)
    for _, _, _, texts in tuples:
        own = max(next(scores), 1e-6)
        found = {level: next(scores) / own for level in texts}
        for level, share in found.items():
            relevance[level].append(share)
        for (low, a), (high, b) in pairwise(sorted(found.items())):
            rises[f"{low}<{high}"].append(a < b)
    shares = [share for row in relevance.values() for share in row]
    return {
        "order": round(statistics.fmean(rise for row in rises.values() for rise in row), 4),
        "order_by_step": {step: round(statistics.fmean(row), 4) for step, row in sorted(rises.items())},
        "quartiles": {g: [round(q, 3) for q in statistics.quantiles(row, n=4)] for g, row in sorted(relevance.items())},
        "false_negatives": round(statistics.fmean(share >= FALSE_NEGATIVE for share in shares), 4),
        "at_or_above_positive": round(statistics.fmean(share >= 1 for share in shares), 4),
    }


def tuples_of(run: RunDir) -> dict[str, Any]:
    """Return the figures of the grading itself, counted again."""
    report = json.loads(run.report.read_text(encoding="utf-8"))
    tuples = list(read_tuples(run.tuples))
    sources = Counter(f"grade {n.grade} {n.source}" for t in tuples for n in t.negatives)
    repeated = sum(len(t.negatives) - len({folded(n.text) for n in t.negatives}) for t in tuples)
    return {
        "tuples": len(tuples),
        "all_four_grades": round(statistics.fmean(len({n.grade for n in t.negatives}) == 4 for t in tuples), 4),
        "sources": dict(sorted(sources.items())),
        "duplicates_within_tuples": repeated,
        "near_duplicates_across_tuples": report["near_duplicates_across_tuples"],
        "leak_accuracy": report["leak"]["accuracy"],
        "dropped": report["dropped"],
    }


def static_ranks(run: RunDir) -> dict[str, int]:
    """Return, for each pair, how many documents the static judge finds nearer than the positive."""
    pairs, texts = _task(run)
    judge = StaticJudge()
    corpus, queries = judge.embed(texts), judge.embed([pair.query for pair in pairs])
    return _ranks(pairs, texts, (query @ corpus.T for query in queries))


def bm25_ranks(run: RunDir) -> dict[str, int]:
    """Return, for each pair, how many documents BM25 finds nearer than the positive."""
    pairs, texts = _task(run)
    words = Words("english")
    ids, vocabulary = words([*texts, *(pair.query for pair in pairs)])
    index = bm25s.BM25(method="lucene")
    index.index((ids[: len(texts)], {word: n for n, word in enumerate(vocabulary)}), show_progress=False)
    return _ranks(pairs, texts, (index.get_scores(part) for part in ids[len(texts) :]))


def _task(run: RunDir) -> tuple[list[Pair], list[str]]:
    return list(read_pairs(run.train_pairs)), [document.text for document in read_documents(run.corpus)]


def _ranks(pairs: list[Pair], texts: list[str], rows: Iterable[Vectors]) -> dict[str, int]:
    places = {folded(text): place for place, text in enumerate(texts)}
    return {
        pair.id: int((row > row[places[folded(pair.positive)]]).sum()) for pair, row in zip(pairs, rows, strict=True)
    }


def ndcg(ranks: Iterable[int]) -> float:
    """Return the mean nDCG@10 of rankings with one relevant document each."""
    return round(statistics.fmean(1 / math.log2(2 + rank) if rank < 10 else 0.0 for rank in ranks), 4)


if __name__ == "__main__":
    main()
