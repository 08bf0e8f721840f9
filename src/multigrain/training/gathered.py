"""The global batch of all processes, and its similarities without false negatives.

Letters: N queries of all processes, B of this process, R of a part of these, k negatives per query, M = (1 + k) * N
documents, d dimensions, at most W false negatives in a cell.

The labels (N, 1 + k, 3 + W) hold, for each query and each of its documents:

                     GRADE  SCORE  WEIGHT |  false negatives (W rows of the batch, -1 for none)
    positive           5     0.93    1.0  |   7   -6     the positives of row 7 and of row 4, a known answer ...
    negative_1         4     0.61    1.0  |  -1   -1
    negative_2         2     0.20    0.5  |   3    7     ... and negative_2 of rows 3 and 7 are false negatives
                       |      |       |                  of this query; -2 - r is a known positive of it in row r
                       |      |       factor on exp s(q, d); 0: the document counts for no query
                       |      score of the judge; nan: no score
                       0: there is no document of this grade, and its weight is 0
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.distributed
from sentence_transformers.util.distributed import all_gather, all_gather_with_grad, get_rank, get_world_size
from torch import Tensor
from torch.nn.functional import normalize

from multigrain.config import ContrastSection
from multigrain.training.objectives import LEFT_OUT, Similarities
from multigrain.training.unique_texts import Texts

GRADE, SCORE, WEIGHT = range(3)
"""Indices on the last axis of the labels; false negatives follow."""


@dataclass(frozen=True)
class LocalBatch:
    """The texts and labels of this process, which `calculate_loss` needs in addition to the embeddings."""

    texts: Texts
    labels: Tensor | None


@dataclass(frozen=True)
class GatheredBatch:
    """The batch of all processes: N queries with k negatives each. This process has B queries, starting at `offset`."""

    vectors: Tensor
    """(2 + k, N, d): queries, positives, negatives."""
    identities: Tensor
    """(2 + k, N): a number for each distinct text."""
    labels: Tensor
    """(N, 1 + k, 3 + W): see the module docstring."""
    offset: int
    temperature: float

    @staticmethod
    def gathered(local: Tensor, batch: LocalBatch, temperature: float) -> "GatheredBatch":
        """Gather the batch from the embeddings (2 + k, B, d) of each process; a single process works too."""
        columns, size = local.shape[:2]
        labels = full_labels(batch.labels, size, columns - 1, local)
        identities = batch.texts.identities[batch.texts.places]
        if get_world_size() == 1:
            return GatheredBatch(local, identities, labels, 0, temperature)
        vectors = all_gather_with_grad(local.transpose(0, 1).contiguous()).transpose(0, 1)
        identities = all_gather(identities.T.contiguous()).T.contiguous()
        return GatheredBatch(vectors, identities, all_gather(labels), get_rank() * size, temperature)

    def similarities(self, vectors: Tensor, rows: range, contrast: ContrastSection) -> Similarities:
        """Compare some queries with all documents, and in the other directions of `contrast.directions`.

        Memory: a few matrices (R, M) for each direction.
        """
        mine = torch.arange(self.offset + rows.start, self.offset + rows.stop, device=vectors.device)
        unit = normalize(vectors, dim=-1)
        columns, size, _ = unit.shape
        to_all = unit[0, mine] @ unit[1:].flatten(0, 1).T / self.temperature  # (R, M)
        own = torch.arange(columns - 1, device=vectors.device) * size + mine[:, None]  # (R, 1 + k) columns of to_all
        to_own = to_all.gather(1, own)
        false = self._false(mine).scatter(1, own[:, :1], False)
        positives = self._positives(mine, own, contrast)
        added = self._log_weights + self._hardness(to_all, own, contrast)
        as_negative = (to_all + added).masked_fill(false, LEFT_OUT)
        to_positive = to_own[:, 0]
        if contrast.positives == "all":
            to_positive = to_all.masked_fill(~positives, 0.0).sum(dim=1) / positives.sum(dim=1)
        others = self._other_directions(unit, own, false, contrast.directions)
        query_to_doc = torch.where(positives, to_all, as_negative)
        are_joint = contrast.partition_mode == "joint"  # else doc_to_query is the only other direction, if any
        return Similarities(
            to_all=torch.cat([query_to_doc, *others], dim=1) if others and are_joint else query_to_doc,
            to_positive=to_positive,
            to_own=to_own,
            grades=self.labels[mine][..., GRADE],
            scores=self.labels[mine][..., SCORE],
            weights=self.labels[mine][..., WEIGHT].masked_fill(false.gather(1, own), 0.0),
            temperature=self.temperature,
            own=own,
            to_queries=others[0] if others and not are_joint else None,
        )

    def _other_directions(self, unit: Tensor, own: Tensor, false: Tensor, directions: Sequence[str]) -> list[Tensor]:
        """Return the similarities of each direction but query_to_doc, (R, N) or (R, M); `LEFT_OUT` where left out.

        A text is not compared with itself or with a false negative. Two rows are false negatives of each other, in
        every direction, if the positive of one answers the query of the other.
        """
        if len(directions) == 1:
            return []
        mine, queries, size = own[:, 0], unit[0], len(self.labels)
        backwards = self._answered(mine)
        related = (false[:, :size] | backwards).scatter(1, own[:, :1], True)
        found = []
        if "doc_to_query" in directions:
            scores = unit[1, mine] @ queries.T / self.temperature
            found.append(scores.masked_fill(backwards.scatter(1, own[:, :1], False), LEFT_OUT))
        if "query_to_query" in directions:
            found.append((queries[mine] @ queries.T / self.temperature).masked_fill(related, LEFT_OUT))
        if "doc_to_doc" in directions:
            scores = unit[1, mine] @ unit[1:].flatten(0, 1).T / self.temperature + self._log_weights
            left_out = false.scatter(1, own, True)
            left_out[:, :size] |= related
            found.append(scores.masked_fill(left_out, LEFT_OUT))
        return found

    def _positives(self, mine: Tensor, own: Tensor, contrast: ContrastSection) -> Tensor:
        """Mark the positives, (R, M): each query's own and, if several count, each other known positive once."""
        positives = torch.zeros(len(mine), self._documents.numel(), dtype=torch.bool, device=mine.device)
        positives.scatter_(1, own[:, :1], True)
        if contrast.positives == "one":
            return positives
        known = self._answers(mine) | self._named(self.labels[mine], answers=True)
        return positives | (known & self._is_first & (self._documents != self._documents[own[:, :1]]))

    def _hardness(self, to_all: Tensor, own: Tensor, contrast: ContrastSection) -> Tensor:
        """Return the term that hardness weighting adds to the similarities, (R, M): alpha * cos, without gradient."""
        if contrast.hardness_mode is None:
            return to_all.new_zeros(())
        are_own = torch.zeros_like(to_all, dtype=torch.bool).scatter(1, own, True)
        left_alone = {
            "in_batch_negatives": are_own,
            "hard_negatives": ~are_own,
            "all_negatives": torch.zeros_like(are_own),
        }[contrast.hardness_mode]
        return (contrast.hardness_strength * self.temperature * to_all.detach()).masked_fill(left_alone, 0.0)

    @cached_property
    def _documents(self) -> Tensor:
        """The identities of all documents, (M,)."""
        return self.identities[1:].reshape(-1)

    @cached_property
    def _log_weights(self) -> Tensor:
        """The logarithms of the weights of all documents, (M,)."""
        return self.labels[..., WEIGHT].T.reshape(-1).log()

    @cached_property
    def _is_first(self) -> Tensor:
        """Mark the first occurrence of each distinct document with a positive weight, (M,)."""
        distinct, number = torch.unique(self._documents, return_inverse=True)
        places = torch.arange(len(number), device=number.device)
        counted = torch.where(self._log_weights.isneginf(), len(number), places)
        first = torch.full_like(distinct, len(number)).scatter_reduce(0, number, counted, "amin")
        return first[number] == places

    def _answers(self, mine: Tensor) -> Tensor:
        """Mark the documents that are positives of the same query in any row, (R, M)."""
        same_query = self.identities[0, mine][:, None] == self.identities[0]
        return _among(same_query, self.identities[1], self._documents)

    def _false(self, mine: Tensor) -> Tensor:
        """Mark false negatives, (R, M): positives of the query in any row, the query itself, those in the labels."""
        is_query = self.identities[0, mine][:, None] == self._documents
        return self._answers(mine) | is_query | self._named(self.labels[mine])

    def _answered(self, mine: Tensor) -> Tensor:
        """Mark the queries for which the positive of a row is a false negative, (R, N): the converse of `_false`."""
        size, begin = len(self.labels), int(mine[0])
        same_positive = self.identities[1, mine][:, None] == self.identities[1]
        answered = _among(same_positive, self.identities[0], self.identities[0])
        is_query = self.identities[1, mine][:, None] == self.identities[0]
        named = _rows_named(self.labels[:, 0]) - begin
        table = torch.zeros(size, len(mine) + 1, dtype=torch.bool, device=mine.device)
        table.scatter_(1, torch.where((named >= 0) & (named < len(mine)), named, len(mine)), True)
        return answered | is_query | table[:, :-1].T

    def _named(self, labels: Tensor, *, answers: bool = False) -> Tensor:
        """Mark the false negatives in the labels (R, 1 + k, 3 + W), (R, M); with `answers`, only known positives."""
        size = len(self.labels)
        rows = _rows_named(labels, answers=answers)
        table = torch.zeros(*rows.shape[:2], size + 1, dtype=torch.bool, device=rows.device)
        # -1 becomes the last column, which is cut off.
        return table.scatter(2, rows % (size + 1), True)[..., :size].flatten(1)

    @torch.no_grad()
    def margins(self) -> dict[int, float]:
        """Return the mean of cos(query, positive) - cos(query, own negative) over all processes, by grade."""
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
    """Check the labels (B, 1 + k, 3 + W) and return them; without labels, every document has weight 1.

    Raises:
        ValueError: the labels have another shape.
    """
    if labels is None:
        return torch.tensor([0.0, float("nan"), 1.0], device=like.device).expand(size, documents, 3).contiguous()
    if labels.shape[:2] != (size, documents) or labels.shape[2:] < (3,):
        raise ValueError(
            f"labels: found the shape {tuple(labels.shape)}; wanted {(size, documents, 3)}: grade, judge score and "
            "weight of the positive and of each negative"
        )
    return labels.to(like.device, torch.float32)


def _rows_named(labels: Tensor, *, answers: bool = False) -> Tensor:
    """Return the rows of false negatives in labels (..., 3 + W), (..., W), -1 for none; or only known positives."""
    rows = labels[..., WEIGHT + 1 :].long()
    return torch.where(rows < -1, -2 - rows, torch.full_like(rows, -1) if answers else rows)


def _among(marked: Tensor, keys: Tensor, wanted: Tensor) -> Tensor:
    """Return (R, n): which of the wanted keys (n,) occur among the keys (N,) at the marked places (R, N) of each row.

    No larger array is held in memory.
    """
    distinct, number = torch.unique(keys, return_inverse=True)
    table = torch.zeros(len(marked), len(distinct) + 1, dtype=torch.bool, device=keys.device)
    row, column = marked.nonzero(as_tuple=True)  # few: most texts occur once in a batch
    table[row, number[column]] = True
    place = torch.searchsorted(distinct, wanted).clamp_max(len(distinct) - 1)
    place = torch.where(distinct[place] == wanted, place, len(distinct))  # the last column means: no such key
    return table[:, place]
