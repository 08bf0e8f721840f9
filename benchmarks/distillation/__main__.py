"""Compare distillation from embedding + BM25 with contrastive training on the same texts. A proxy of minutes.

    python -m benchmarks.distillation [--vectors FOLDER] [--seeds 4]

SciFact's training claims, split by seed into three quarters for training and a quarter for measuring. A linear map of
the base's frozen vectors, initialised to the identity, replaces the model and is trained with the losses of
`multigrain.training.objectives`, so an arm takes seconds. The teacher is the cosine of the base plus 0.3 times BM25 as
a share of the query's highest. Each arm uses the better of two learning rates. Differences are paired by seed, against
"near 4 x 32". Arms trained by InfoNCE alone on the same negatives separate the value of the teacher's choice of
documents from that of its scores. Writes a file into the folder results.
"""

import gzip
import json
from dataclasses import dataclass, replace
from math import inf
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

RATES = (1e-3, 3e-3)
STEPS, TEMPERATURE, BM25_WEIGHT = 100, 0.05, 0.3
STOCK = "near 4 x 32"


@dataclass(frozen=True)
class Arm:
    """A way to train: `batch` queries per step, with k negatives each."""

    batch: int
    negatives: int
    settings: Distillation | None = None
    """Settings of distillation; None: InfoNCE alone."""
    extra: float = 0.0
    """Weight of InfoNCE at the student's temperature beside distillation."""
    fused: bool = True
    """Whether the teacher's nearest documents are the negatives, instead of the base's."""
    bound: float = inf
    """Share of the positive's score, by the same model, from which on a document is not a negative."""


CADET = Distillation()
KL = replace(CADET, infonce_weight=0.0)
ARMS = {
    STOCK: Arm(32, 4, fused=False, bound=0.95),
    "near 4 x 32, without a bound": Arm(32, 4, fused=False),
    "fused 4 x 32": Arm(32, 4),
    "KL 5 x 32, InfoNCE": Arm(32, 4, KL, extra=1.0),
    "CADET 20 x 9": Arm(9, 19, CADET),
    "KL 5 x 32, three times InfoNCE": Arm(32, 4, KL, extra=3.0),
    "KL 20 x 9": Arm(9, 19, KL),
    "CADET 5 x 32": Arm(32, 4, CADET),
    "near 1 x 64": Arm(64, 1, fused=False, bound=0.95),
    "fused 1 x 64": Arm(64, 1),
}


@dataclass(frozen=True)
class Data:
    """Q queries and N documents."""

    queries: Tensor
    documents: Tensor
    relevant: Tensor
    """(Q, N)"""
    bm25: Tensor
    """(Q, N) as a share of the query's highest."""
    teacher: Tensor
    """(Q, N)"""

    def negatives(self, arm: Arm) -> Tensor:
        """Return the nearest documents of each query that are not relevant, (Q, k)."""
        scores = self.teacher if arm.fused else self.queries @ self.documents.T
        highest = scores.masked_fill(~self.relevant, LEFT_OUT).max(dim=1, keepdim=True).values
        barred = self.relevant | (scores >= arm.bound * highest)
        return scores.masked_fill(barred, LEFT_OUT).topk(arm.negatives, dim=1).indices


def read(vectors: Path | None) -> Data:
    """Read the claims and abstracts; `vectors` is a folder with vectors of the base, if they exist already."""
    folder = DATA_SETS / "scifact"
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    texts = [f"{row['title']} {row['text']}" for row in rows]
    place = {row["_id"]: number for number, row in enumerate(rows)}
    claims = {row["_id"]: row["text"] for row in map(json.loads, (folder / "queries.jsonl").read_text().splitlines())}
    judged = [line.split("\t") for line in (folder / "qrels" / "train.tsv").read_text().splitlines()[1:]]
    queries = sorted({claims[query] for query, _, _ in judged})
    relevant = torch.zeros(len(queries), len(texts), dtype=torch.bool)
    for query, document, _ in judged:
        relevant[queries.index(claims[query]), place[document]] = True
    found = Bm25Index(queries, texts, "english").nearest(len(texts))
    bm25 = torch.zeros(relevant.shape)
    for row, (numbers, scores) in enumerate(zip(found.numbers, found.scores, strict=True)):
        bm25[row, numbers[numbers >= 0]] = torch.from_numpy(scores[numbers >= 0] / max(scores[0], 1e-9))
    if vectors is None:
        base = load_base("embedded", 256)
        arrays = [encode(base, queries, "query", "claims"), encode(base, texts, "document", "abstracts")]
    else:
        arrays = [np.load(vectors / f"scifact_{name}.npy").astype(np.float32) for name in ("q", "d")]
    of_queries, of_documents = map(torch.from_numpy, arrays)
    return Data(of_queries, of_documents, relevant, bm25, of_queries @ of_documents.T + BM25_WEIGHT * bm25)


def train(data: Data, arm: Arm, near: Tensor, rate: float, fit: NDArray[Any], seed: int) -> Tensor:
    """Return the map, (d, d)."""
    if arm.settings is not None:
        low, high = np.percentile(data.teacher[torch.from_numpy(fit)].gather(1, near[torch.from_numpy(fit)]), [1, 99])
        arm = replace(arm, settings=replace(arm.settings, lowest=float(low), highest=float(high)))
    weight = torch.eye(data.queries.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=rate)
    draw, order = np.random.default_rng(seed), np.empty(0, dtype=np.int64)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / (0.1 * STEPS), (STEPS - step) / (0.9 * STEPS))
        while len(order) < arm.batch:
            order = np.concatenate([order, draw.permutation(fit)])
        rows, order = torch.from_numpy(order[: arm.batch]), order[arm.batch :]
        positive = torch.tensor([[draw.choice(np.flatnonzero(data.relevant[row]))] for row in rows.tolist()])
        batch = similarities(data, weight, rows, torch.cat([positive, near[rows]], dim=1))
        value = infonce(batch) if arm.settings is None else distill(batch, arm.settings)
        if arm.extra:
            value = value + arm.extra * infonce(batch)
        optimizer.zero_grad()
        torch.autograd.backward(value.mean())
        optimizer.step()
    return weight.detach()


def similarities(data: Data, weight: Tensor, rows: Tensor, documents: Tensor) -> Similarities:
    """Compare B queries with the B x (1 + k) documents of the batch; known positives do not count."""
    size, width = documents.shape
    flat = documents.T.flatten()
    own = torch.arange(width) * size + torch.arange(size)[:, None]
    to_all = normalize(data.queries[rows] @ weight) @ normalize(data.documents[flat] @ weight).T / TEMPERATURE
    to_own = to_all.gather(1, own)
    false = data.relevant[rows][:, flat].scatter(1, own[:, :1], False)
    scores = data.teacher[rows].gather(1, documents)
    ones, to_all = torch.ones_like(scores), to_all.masked_fill(false, LEFT_OUT)
    return Similarities(to_all, to_own[:, 0], to_own, own, scores, ones, TEMPERATURE, own)


def ndcg(scores: Tensor, relevant: Tensor) -> float:
    """Return the mean nDCG@10."""
    discounts = 1 / torch.log2(torch.arange(2.0, 12.0))
    gains = (relevant.gather(1, scores.topk(10, dim=1).indices) * discounts).sum(dim=1)
    return float((gains / discounts.cumsum(0)[relevant.sum(dim=1).clamp(1, 10) - 1]).mean())


def measure(data: Data, seed: int, arm: Arm | None = None, near: Any = None, rate: float = 0.0) -> list[float]:
    """Return nDCG@10 on the claims that were not trained on: dense, and with BM25 added. Without an arm, the base's."""
    order = np.random.default_rng([seed, 1]).permutation(len(data.queries))
    dev, fit = torch.from_numpy(order[: len(order) // 4]), order[len(order) // 4 :]
    weight = torch.eye(data.queries.shape[1]) if arm is None else train(data, arm, near, rate, fit, seed)
    dense = normalize(data.queries[dev] @ weight) @ normalize(data.documents @ weight).T
    return [ndcg(found, data.relevant[dev]) for found in (dense, dense + BM25_WEIGHT * data.bm25[dev])]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--vectors", type=Path, help="a folder with scifact_q.npy and scifact_d.npy")
    parser.add_argument("--seeds", type=int, default=4)
    options = parser.parse_args()
    require_commit(options)
    measured_with = environment("torch", "numpy", splits=[*range(options.seeds)])
    path = new_result(Path(__file__).with_name("results"), "scifact", measured_with)
    data = read(options.vectors)
    base = np.mean([measure(data, seed) for seed in range(options.seeds)], axis=0)
    result: dict[str, Any] = {"base": dict(zip(("dense", "with_bm25"), base.tolist(), strict=True))}
    stock = np.zeros((options.seeds, 2))
    for name, arm in ARMS.items():
        near, seeds = data.negatives(arm), range(options.seeds)
        found = {rate: np.array([measure(data, seed, arm, near, rate) for seed in seeds]) for rate in RATES}
        rate = max(RATES, key=lambda rate: float(found[rate][:, 0].mean()))
        stock = found[rate] if name == STOCK else stock
        difference = found[rate] - stock
        error = difference.std(axis=0, ddof=1) / options.seeds**0.5
        entry: dict[str, Any] = {"texts": arm.batch * (2 + arm.negatives), "rate": rate}
        for column, kind in enumerate(("dense", "with_bm25")):
            summary = found[rate][:, column].mean(), difference[:, column].mean(), error[column]
            entry[kind] = dict(zip(("mean", "difference", "standard_error"), map(float, summary), strict=True))
        result[name] = entry
        print(name, json.dumps(entry), flush=True)
        write_json(path, {"environment": measured_with, **result})


if __name__ == "__main__":
    main()
