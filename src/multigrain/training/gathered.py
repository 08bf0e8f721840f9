"""The batch of all processes, and its similarities without false negatives.

Letters: N queries of all processes, B of this one, R of a part of these, k negatives a query, M = (1 + k) * N
documents, d dimensions, W false negatives at most in a cell.

The labels (N, 1 + k, 3 + W) say for each query and each of its documents:

                     GRADE  SCORE  WEIGHT |  false negatives (W rows of the batch, -1 for none)
    positive           5     0.93    1.0  |   7   -1     the positives of row 7 ...
    negative_1         4     0.61    1.0  |  -1   -1
    negative_2         2     0.20    0.5  |   3    7     ... and the negatives_2 of rows 3 and 7 are no negatives
                       |      |       |                  of this query
                       |      |       multiplies exp s(q, d); 0: the document counts for nobody
                       |      what the judge of the grading said; nan: nothing
                       0: there is no document of this grade, and its weight is 0
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.distributed
from sentence_transformers.util.distributed import all_gather, all_gather_with_grad, get_rank, get_world_size
from torch import Tensor
from torch.nn.functional import normalize

from multigrain.training.objectives import LEFT_OUT, Similarities
from multigrain.training.unique_texts import Texts

GRADE, SCORE, WEIGHT = range(3)
"""Indices on the last axis of the labels; false negatives follow."""


@dataclass(frozen=True)
class LocalBatch:
    """The texts and labels of this process: what `calculate_loss` needs beside the embeddings."""

    texts: Texts
    labels: Tensor | None


@dataclass(frozen=True)
class GatheredBatch:
    """The batch of all processes: N queries with k negatives each, of which B from `offset` on are this process's."""

    vectors: Tensor
    """(2 + k, N, d): queries, positives, negatives."""
    identities: Tensor
    """(2 + k, N): a number for each distinct text."""
    labels: Tensor
    """(N, 1 + k, 3 + W): see the module."""
    offset: int
    temperature: float

    @staticmethod
    def gathered(local: Tensor, batch: LocalBatch, temperature: float) -> "GatheredBatch":
        """Gather the batch from the embeddings (2 + k, B, d) of each process, which may be the only one."""
        columns, size = local.shape[:2]
        labels = full_labels(batch.labels, size, columns - 1, local)
        identities = batch.texts.identities[batch.texts.places]
        if get_world_size() == 1:
            return GatheredBatch(local, identities, labels, 0, temperature)
        vectors = all_gather_with_grad(local.transpose(0, 1).contiguous()).transpose(0, 1)
        identities = all_gather(identities.T.contiguous()).T.contiguous()
        return GatheredBatch(vectors, identities, all_gather(labels), get_rank() * size, temperature)

    def similarities(self, vectors: Tensor, rows: range, backwards: bool) -> tuple[Similarities, Tensor | None]:
        """Compare some queries with all documents, and if `backwards` is set their positives with all queries."""
        mine = torch.arange(self.offset + rows.start, self.offset + rows.stop, device=vectors.device)
        unit = normalize(vectors, dim=-1)
        columns, size, _ = unit.shape
        queries, documents = unit[0], unit[1:].reshape((columns - 1) * size, -1)
        to_all = queries[mine] @ documents.T / self.temperature  # (R, M)
        own = torch.arange(columns - 1, device=vectors.device) * size + mine[:, None]  # (R, 1 + k) columns of to_all
        to_own = to_all.gather(1, own)
        weights = self.labels[..., WEIGHT]
        false = self._false(mine).scatter(1, own[:, :1], False)
        counted = (to_all + weights.T.reshape(1, -1).log()).masked_fill(false, LEFT_OUT)
        grades, scores = self.labels[mine][..., GRADE], self.labels[mine][..., SCORE]
        own_weights = weights[mine].masked_fill(false.gather(1, own), 0.0)
        similarities = Similarities(
            to_all=counted,
            to_positive=to_own[:, 0],
            to_own=to_own,
            grades=grades,
            scores=scores,
            weights=own_weights,
            temperature=self.temperature,
            own=own,
        )
        return similarities, self._to_queries(unit, mine) if backwards else None

    @cached_property
    def _positives(self) -> tuple[Tensor, Tensor]:
        """Return which documents are positives of which query, in any row (queries, M), and the query of each row.

        Equal queries are one query here, and equal documents one document.
        """
        queries, positives, documents = self.identities[0], self.identities[1], self.identities[1:].reshape(-1)
        distinct_queries, query_of = torch.unique(queries, return_inverse=True)
        distinct_positives, positive_of = torch.unique(positives, return_inverse=True)
        count = len(distinct_positives)
        table = torch.zeros(len(distinct_queries), count + 1, dtype=torch.bool, device=queries.device)
        table[query_of, positive_of] = True
        place = torch.searchsorted(distinct_positives, documents).clamp_max(count - 1)
        place = torch.where(distinct_positives[place] == documents, place, count)  # the last: no positive at all
        return table[:, place], query_of

    def _false(self, mine: Tensor) -> Tensor:
        """Mark the false negatives, (R, M): the query's positives in any row, itself, and what the labels name."""
        is_positive, query_of = self._positives
        documents = self.identities[1:].reshape(1, -1)
        return (
            is_positive[query_of[mine]]
            | (self.identities[0][mine][:, None] == documents)
            | self._told(self.labels[mine])
        )

    def _told(self, labels: Tensor) -> Tensor:
        """Mark the false negatives that the labels (Q, C, 3 + W) of some queries and columns name, (Q, C * N)."""
        rows = labels[..., WEIGHT + 1 :].long()
        queries, columns, _ = rows.shape
        size = len(self.labels)
        table = torch.zeros(queries, columns, size + 1, dtype=torch.bool, device=rows.device)
        return table.scatter(2, rows % (size + 1), True)[..., :size].flatten(1)  # -1 is the last, which is no row

    def _to_queries(self, unit: Tensor, mine: Tensor) -> Tensor:
        """Compare positives with all queries, (R, N), but for the queries whose positive it is too."""
        is_positive, query_of = self._positives
        scores = unit[1][mine] @ unit[0].T / self.temperature
        false = (is_positive[:, mine][query_of] | self._told(self.labels[:, :1])[:, mine]).T.scatter(
            1, mine[:, None], False
        )
        return scores.masked_fill(false, LEFT_OUT)

    @torch.no_grad()
    def margins(self) -> dict[int, float]:
        """Return for each grade, over all processes, the mean of cos(query, positive) - cos(query, own negative)."""
        unit = normalize(self.vectors, dim=-1)
        cosines = (unit[:1] * unit[1:]).sum(dim=-1).T  # (N, 1 + k)
        margins = cosines[:, :1] - cosines[:, 1:]
        grades = self.labels[:, 1:, GRADE]
        mean_of_grade = {}
        for grade in torch.unique(grades).tolist():
            if grade > 0:
                mean_of_grade[int(grade)] = round(float(margins[grades == grade].mean()), 6)
        return mean_of_grade


def full_labels(labels: Tensor | None, size: int, documents: int, like: Tensor) -> Tensor:
    """Return the labels (B, 1 + k, 3 + W), checked; without labels every document counts in full."""
    if labels is None:
        return torch.tensor([0.0, float("nan"), 1.0], device=like.device).expand(size, documents, 3).contiguous()
    if labels.shape[:2] != (size, documents) or labels.shape[2:] < (3,):
        raise ValueError(
            f"labels have the shape {tuple(labels.shape)}; wanted {(size, documents, 3)}: grade, judge score and "
            "weight of the positive and of each negative"
        )
    return labels.to(like.device, torch.float32)
