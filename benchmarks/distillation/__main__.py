"""Does distillation from embedding + BM25 beat contrastive training on the same texts? A proxy of minutes.

    python -m benchmarks.distillation [--vectors FOLDER] [--seeds 8]

SciFact's training claims, parted by seed into three quarters to train on and a quarter to measure on. In place of a
model stands a linear map of the base's frozen vectors, from identity on, which is trained with the losses of
`multigrain.training.objectives`; so an arm takes seconds. The teacher is the cosine of the base plus 0.3 times BM25 as
a share of the query's highest. Each arm has the best of four learning rates; differences are paired by seed. Writes a
file in the folder results.
"""

import gzip
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.shared.data_sets import DATA_SETS
from benchmarks.shared.environment import environment, parser_of, require_commit
from benchmarks.shared.result_files import new_result
from multigrain.files import write_json
from multigrain.model.encode import encode
from multigrain.model.load import load_base
from multigrain.retrieval.bm25_index import Bm25Index
from multigrain.training.objectives import LEFT_OUT, Distillation, Similarities, distill, infonce

RATES = (1e-4, 3e-4, 1e-3, 3e-3)
STEPS, TEMPERATURE, BM25_WEIGHT = 100, 0.05, 0.3
NEAR = 64
"""Candidates of a query that are looked at, by each method."""


@dataclass(frozen=True)
class Arm:
    """A way to train: B queries a step, with k negatives each."""

    batch: int
    negatives: int
    settings: Distillation | None = None
    """Of distillation; None: InfoNCE."""
    raised: bool = False
    """Whether the teacher's score of a positive is at least that of the negatives."""
    extra: float = 0.0
    """Weight of InfoNCE at the student's temperature, over all documents."""

    @property
    def texts(self) -> int:
        """Texts of a step."""
        return self.batch * (2 + self.negatives)


CADET = Distillation()
KL = replace(CADET, infonce_weight=0.0)
ARMS = {
    "in-batch, 32": Arm(32, 0),
    "in-batch, 96": Arm(96, 0),
    "near 4, 32": Arm(32, 4),
    "near 1, 64": Arm(64, 1),
    "near 19, 9": Arm(9, 19),
    "distill, lists of 20, 9": Arm(9, 19, CADET),
    "distill, lists of 20, 32 (3.6 times the texts)": Arm(32, 19, CADET),
    "distill, lists of 8, 21": Arm(21, 7, CADET),
    "distill, lists of 5, 32": Arm(32, 4, CADET),
    "distill, lists of 20, 9, positive raised": Arm(9, 19, CADET, raised=True),
    "distill, lists of 20, 9, KL alone": Arm(9, 19, KL),
    "distill, lists of 20, 9, KL and InfoNCE at 0.05": Arm(9, 19, KL, extra=1.0),
    "distill, lists of 5, 32, KL and InfoNCE at 0.05": Arm(32, 4, KL, extra=1.0),
    "distill, lists of 5, 32, positive raised, KL and InfoNCE at 0.05": Arm(32, 4, KL, raised=True, extra=1.0),
    "distill, lists of 20, 9, teacher temperature 0.1": Arm(9, 19, replace(CADET, teacher_temperature=0.1)),
}


@dataclass(frozen=True)
class Data:
    """Q queries and N documents."""

    queries: Tensor
    """(Q, d)"""
    documents: Tensor
    """(N, d)"""
    relevant: Tensor
    """(Q, N)"""
    bm25: Tensor
    """(Q, N) as a share of the query's highest."""
    near: Tensor
    """(Q, candidates) the nearest documents that are not relevant, by the base's cosine and by BM25 in turn."""

    def fused(self) -> Tensor:
        """Return the teacher's scores, (Q, N)."""
        return self.queries @ self.documents.T + BM25_WEIGHT * self.bm25


def read(vectors: Path | None) -> Data:
    """Read the claims and abstracts; `vectors` holds those of the base where somebody has encoded them before."""
    folder = DATA_SETS / "scifact"
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    texts = [f"{row['title']} {row['text']}" for row in rows]
    place = {row["_id"]: number for number, row in enumerate(rows)}
    claims = {row["_id"]: row["text"] for row in map(json.loads, (folder / "queries.jsonl").read_text().splitlines())}
    judged = [line.split("\t") for line in (folder / "qrels" / "train.tsv").read_text().splitlines()[1:]]
    queries = sorted({claims[query] for query, _, _ in judged})
    number = {text: place for place, text in enumerate(queries)}
    relevant = torch.zeros(len(queries), len(texts), dtype=torch.bool)
    for query, document, _ in judged:
        relevant[number[claims[query]], place[document]] = True
    index = Bm25Index(queries, texts, "english")
    pairs = np.indices((len(queries), len(texts))).reshape(2, -1)
    bm25 = torch.from_numpy(index.scores(*pairs).reshape(len(queries), -1))
    bm25 = bm25 / bm25.max(dim=1, keepdim=True).values.clamp_min(1e-9)
    of_queries, of_documents = map(torch.from_numpy, encoded(queries, texts, vectors))
    by_cosine, by_words = (
        scores.masked_fill(relevant, LEFT_OUT).argsort(dim=1, descending=True, stable=True)[:, :NEAR]
        for scores in (of_queries @ of_documents.T, bm25)
    )
    return Data(of_queries, of_documents, relevant, bm25, torch.stack([by_cosine, by_words], dim=2).flatten(1))


def encoded(queries: list[str], texts: list[str], folder: Path | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the base's vectors of queries and documents."""
    if folder is not None:
        return tuple(np.load(folder / f"scifact_{name}.npy").astype(np.float32) for name in ("q", "d"))
    base = load_base("embedded", 256)
    return encode(base, queries, "query", "claims"), encode(base, texts, "document", "abstracts")


def columns_of(data: Data, lists: bool, negatives: int) -> Tensor:
    """Return the negatives of each query, (Q, negatives): the nearest, or for lists the nearest by both methods."""
    found = torch.empty(len(data.near), negatives, dtype=torch.long)
    for row, near in enumerate(data.near.tolist()):
        found[row] = torch.tensor(list(dict.fromkeys(near if lists else near[::2]))[:negatives])
    return found


def train(data: Data, teacher: Tensor, arm: Arm, rate: float, fit: NDArray[Any], seed: int) -> Tensor:
    """Return the map, (d, d)."""
    own = columns_of(data, arm.settings is not None, arm.negatives)
    weight = torch.eye(data.queries.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=rate)
    draw, order = np.random.default_rng(seed), np.empty(0, dtype=np.int64)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / (0.1 * STEPS), (STEPS - step) / (0.9 * STEPS))
        while len(order) < arm.batch:
            order = np.concatenate([order, draw.permutation(fit)])
        rows, order = torch.from_numpy(order[: arm.batch]), order[arm.batch :]
        positive = torch.multinomial(data.relevant[rows].float(), 1, generator=torch.Generator().manual_seed(step))
        documents = torch.cat([positive, own[rows]], dim=1)
        batch = similarities(data, teacher, weight, rows, documents, arm.raised)
        value = infonce(batch) if arm.settings is None else distill(batch, arm.settings) + arm.extra * infonce(batch)
        optimizer.zero_grad()
        value.mean().backward()
        optimizer.step()
    return weight.detach()


def similarities(
    data: Data, teacher: Tensor, weight: Tensor, rows: Tensor, documents: Tensor, raised: bool
) -> Similarities:
    """Compare B queries with the B x (1 + k) documents of the batch; known positives do not count."""
    queries = normalize(data.queries[rows] @ weight, dim=1)
    found = normalize(data.documents[documents.T.flatten()] @ weight, dim=1)
    size, width = documents.shape
    own = torch.arange(width) * size + torch.arange(size)[:, None]
    to_all = queries @ found.T / TEMPERATURE
    to_own = to_all.gather(1, own)
    false = data.relevant[rows][:, documents.T.flatten()].scatter(1, own[:, :1], False)
    scores = teacher[rows].gather(1, documents)
    if raised:
        scores[:, 0] = scores.max(dim=1).values
    to_all, ones = to_all.masked_fill(false, LEFT_OUT), torch.ones_like(scores)
    return Similarities(to_all, to_own[:, 0], to_own, torch.zeros_like(own), scores, ones, TEMPERATURE, own)


def ndcg(scores: Tensor, relevant: Tensor) -> float:
    """Return the mean nDCG@10."""
    best = scores.topk(10, dim=1).indices
    discounts = 1 / torch.log2(torch.arange(2.0, 12.0))
    gains = (relevant.gather(1, best) * discounts).sum(dim=1)
    ideal = discounts.cumsum(0)[relevant.sum(dim=1).clamp(1, 10) - 1]
    return float((gains / ideal).mean())


def measure(data: Data, arm: Arm | None, rate: float, seed: int) -> tuple[float, float]:
    """Return nDCG@10 on the claims that were not trained on: dense, and with BM25 added."""
    order = np.random.default_rng([seed, 1]).permutation(len(data.queries))
    dev, fit = torch.from_numpy(order[: len(order) // 4]), order[len(order) // 4 :]
    teacher = data.fused()
    listed = teacher[torch.from_numpy(fit)].gather(1, data.near[torch.from_numpy(fit)])
    low, high = np.percentile(listed, [1, 99])
    if arm is not None and arm.settings is not None:
        arm = replace(arm, settings=replace(arm.settings, lowest=float(low), highest=float(high)))
    weight = torch.eye(data.queries.shape[1]) if arm is None else train(data, teacher, arm, rate, fit, seed)
    dense = normalize(data.queries[dev] @ weight, dim=1) @ normalize(data.documents @ weight, dim=1).T
    return ndcg(dense, data.relevant[dev]), ndcg(dense + BM25_WEIGHT * data.bm25[dev], data.relevant[dev])


def summarized(values: NDArray[Any], base: NDArray[Any]) -> dict[str, float]:
    """Return the mean over seeds, and the mean and standard error of the paired difference."""
    difference = values - base
    error = difference.std(ddof=1) / len(difference) ** 0.5
    return {"mean": values.mean(), "difference": difference.mean(), "standard_error": error}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--vectors", type=Path, help="a folder with scifact_q.npy and scifact_d.npy")
    parser.add_argument("--seeds", type=int, default=8)
    options = parser.parse_args()
    require_commit(options)
    data = read(options.vectors)
    base = np.array([measure(data, None, 0.0, seed) for seed in range(options.seeds)])
    result: dict[str, Any] = {"base": base.mean(axis=0).tolist()}
    stock: NDArray[Any] | None = None
    for name, arm in ARMS.items():
        by_rate = {rate: np.array([measure(data, arm, rate, seed) for seed in range(options.seeds)]) for rate in RATES}
        rate = max(by_rate, key=lambda found: by_rate[found][:, 0].mean())
        best = by_rate[rate]
        stock = best if name == "near 4, 32" else stock
        against = base if stock is None else stock
        result[name] = {"texts": arm.texts, "rate": rate, "rates": {r: v[:, 0].mean() for r, v in by_rate.items()}}
        for column, kind in enumerate(("dense", "with_bm25")):
            result[name][kind] = summarized(best[:, column], against[:, column])
        print(name, json.dumps(result[name]))
    measured_with = environment()
    write_json(
        new_result(Path(__file__).with_name("results"), "scifact", measured_with),
        {"environment": measured_with, **result},
    )


if __name__ == "__main__":
    main()
