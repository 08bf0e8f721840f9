"""The contrastive loss over graded negatives, through the host's contracts.

It takes the columns query, positive, negative_1 .. negative_k as the host's other losses do, and composes with the
host's trainer, MatryoshkaLoss and several processes. What it adds to MultipleNegativesRankingLoss:

* labels of shape (B, 1 + k, 3 + W): the grade, judge score and weight of the positive and of each negative, then up to
  W rows of the batch, of all processes, whose document in that column is no negative of the query (-1: none);
* no false in-batch negatives: nor does a document count against a query whose positive it is, in any row;
* each distinct text is encoded once, with others of its length;
* the activations of as many texts as fit are kept for the backward pass, the others are computed twice (GradCache,
  arXiv 2101.06983). The result depends on neither.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.distributed
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.gradcache import CachedLossMixin, RandContext
from sentence_transformers.util.distributed import all_gather, all_gather_with_grad, get_rank, get_world_size
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from multigrain.training.frozen import FrozenStates
from multigrain.training.objectives import LEFT_OUT, OBJECTIVES, Similarities
from multigrain.training.texts import Features, Texts, cut, distinct

ROWS = 512
"""Queries whose similarities to all documents are in memory at once."""
GRADE, SCORE, WEIGHT = range(3)
"""Of the last axis of the labels."""


@dataclass(frozen=True)
class Encoding:
    """How texts are encoded in training.

    Attributes:
        micro_batch_tokens: tokens that are encoded at once.
        activation_bytes: what may be kept for the backward pass.
        bf16: whether matrix products are in half precision.
        frozen: the output of layers that are not trained.
    """

    micro_batch_tokens: int = 4096
    activation_bytes: int = 2 * 10**9
    bf16: bool = False
    frozen: FrozenStates | None = None


@dataclass
class Measures:
    """What the last batch was like: for the log."""

    texts: int = 0
    """In all places of the batch."""
    encoded: int = 0
    """Distinct ones."""
    tokens: int = 0
    """Of the distinct ones."""
    guessing: float = 0.0
    """What the loss would be if all documents were equally near."""
    terms: int = 0
    """How often the loss was taken: once for each length of MatryoshkaLoss."""
    margins: dict[int, float] = field(default_factory=dict)
    """For each grade the mean of cos(query, positive) - cos(query, own negative)."""


class GradedLoss(CachedLossMixin, nn.Module):
    """InfoNCE over graded negatives, or another of `multigrain.training.objectives`.

    Args:
        model: what is trained.
        temperature: T, which divides the cosines.
        objective: its name in `OBJECTIVES`.
        symmetric: average with the same from the positives to the queries of the batch (infonce).
        encoding: how texts are encoded.

    Raises:
        ValueError: the temperature is not above 0, or there is no such objective.

    Example:
        >>> from sentence_transformers import SentenceTransformerTrainer  # doctest: +SKIP
        >>> SentenceTransformerTrainer(model, train_dataset=rows, loss=GradedLoss(model))  # doctest: +SKIP
    """

    show_progress_bar = False
    mini_batch_size = 1  # the host's name; what counts is mini_batch_num_tokens

    def __init__(
        self,
        model: SentenceTransformer,
        temperature: float = 0.05,
        objective: str = "infonce",
        *,
        symmetric: bool = False,
        encoding: Encoding | None = None,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature: found {temperature}; wanted a number above 0, such as 0.05")
        if objective not in OBJECTIVES:
            raise ValueError(f'objective: found "{objective}"; wanted one of {", ".join(OBJECTIVES)}')
        self.model = model
        self.temperature, self.symmetric = temperature, symmetric
        self.objective_name, self._objective = objective, OBJECTIVES[objective]
        self.encoding = encoding or Encoding()
        self.mini_batch_num_tokens = self.encoding.micro_batch_tokens
        tokenizer = model.tokenizer
        self._padding_side, self._pad_token = tokenizer.padding_side, tokenizer.pad_token_id or 0
        self._own = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
        self.measures = Measures()

    def forward(self, sentence_features: Iterable[Features], labels: Tensor | None = None) -> Tensor:
        """The mean loss of the batch; see the module for the shapes."""
        texts = distinct(list(sentence_features), self._padding_side, self._pad_token)
        if len(texts.places) < 2:
            raise ValueError(f"found {len(texts.places)} column; wanted query, positive and any number of negatives")
        self.measures = Measures(texts.places.numel(), len(texts.identities), texts.tokens)
        memory = _Memory(self.encoding.activation_bytes, self._own)
        groups = [{**group, "kept": _Kept(memory, is_last=group is texts.groups[-1])} for group in texts.groups]
        return self.forward_cached(groups, _Batch(texts, labels))  # type: ignore[arg-type]  # handed on as it is

    def embed_minibatch_iter(  # type: ignore[override]
        self,
        sentence_feature: Features,
        with_grad: bool,
        copy_random_state: bool,
        random_states: list[RandContext | None] | None = None,
        ranges: list[tuple[int, int]] | None = None,
    ) -> Iterator[tuple[Tensor, RandContext | None]]:
        """Encode one micro-batch after the other, as the host asks: first `with_grad` off, then for backward on.

        The first time, micro-batches are kept with their graph as long as there is room, and found the second time.
        """
        assert ranges is not None
        kept: _Kept = sentence_feature["kept"]
        features = {key: value for key, value in sentence_feature.items() if key != "kept"}
        with ExitStack() as autocast:
            for index, (begin, end) in enumerate(ranges):
                if with_grad and index in kept.graphs:
                    yield kept.graphs.pop(index), None
                    continue
                batch = cut(features, begin, end, self._padding_side)
                if with_grad:
                    with (random_states[index] if random_states else None) or nullcontext():
                        yield self._encode(batch), None
                elif copy_random_state and self._may_keep(kept, index == len(ranges) - 1, batch):
                    if not kept.graphs:  # from here on, graphs share one copy of the weights in half precision
                        autocast.enter_context(self._autocast(batch))
                    with torch.enable_grad(), self._unsynchronized(), kept.memory.measured(batch):
                        kept.graphs[index] = self._encode(batch)
                    yield kept.graphs[index], None
                else:
                    state = RandContext(*batch.values()) if copy_random_state else None
                    with torch.no_grad():
                        yield self._encode(batch), state

    def _may_keep(self, kept: "_Kept", is_last_range: bool, batch: Features) -> bool:
        """Whether there is room.

        Where there are several processes, the host brings them together in the very last backward pass, after a
        forward pass of its own; so that micro-batch is never kept.
        """
        if get_world_size() > 1 and ((kept.is_last and is_last_range) or not self._is_replicated):
            return False
        return kept.memory.has_room_for(batch)

    @property
    def _is_replicated(self) -> bool:
        return isinstance(self.model, DistributedDataParallel)

    def _unsynchronized(self) -> AbstractContextManager[Any]:
        return self.model.no_sync() if isinstance(self.model, DistributedDataParallel) else nullcontext()

    def _autocast(self, features: Features) -> AbstractContextManager[Any]:
        return torch.autocast(features["input_ids"].device.type, torch.bfloat16, enabled=self.encoding.bf16)

    def _encode(self, features: Features) -> Tensor:
        frozen = self.encoding.frozen
        with self._autocast(features), frozen.in_use(features) if frozen else nullcontext():
            vectors: Tensor = self.model(features)["sentence_embedding"]
        return vectors.to(torch.promote_types(vectors.dtype, torch.float32))

    def calculate_loss(  # type: ignore[override]
        self, reps: list[list[Tensor]], labels: "_Batch", *, with_backward: bool = False
    ) -> Tensor:
        """The loss, from the embeddings of the distinct texts; the host's name, which its MatryoshkaLoss wraps."""
        local = torch.cat([vectors for group in reps for vectors in group])[labels.texts.places]
        everything = _Everything.gathered(local, labels, self.temperature)
        leaf = everything.vectors.detach().requires_grad_(with_backward)
        size = local.shape[1]
        total = local.new_zeros(())
        for begin in range(0, size, ROWS):
            rows = range(begin, min(begin + ROWS, size))
            value = self._loss_of(everything, leaf if with_backward else everything.vectors, rows) / size
            if with_backward:
                torch.autograd.backward(value)
            total = total + value.detach() if with_backward else total + value
        if with_backward:
            torch.autograd.backward(everything.vectors, leaf.grad)
        self.measures.terms += 1
        self.measures.guessing = math.log(max(2, int((everything.labels[..., WEIGHT] > 0).sum())))
        self.measures.margins = self.measures.margins or everything.margins()  # MatryoshkaLoss calls again, with less
        return total

    def _loss_of(self, everything: "_Everything", vectors: Tensor, rows: range) -> Tensor:
        """The sum of the losses of some queries of this process."""
        similarities, backwards = everything.similarities(vectors, rows, self.symmetric)
        value = self._objective(similarities)
        if backwards is not None:
            value = (value + torch.logsumexp(backwards, dim=1) - similarities.to_positive) / 2
        return value.sum()

    def get_config_dict(self) -> dict[str, Any]:
        """What the host writes on a model's card."""
        return {"temperature": self.temperature, "objective": self.objective_name, "symmetric": self.symmetric}


@dataclass(frozen=True)
class _Batch:
    """What `calculate_loss` needs beside the embeddings."""

    texts: Texts
    labels: Tensor | None


class _Memory:
    """The room for activations in one step.

    What they take is measured, so it holds for any model; on this step's micro-batches alone, so that a resumed
    training decides alike.
    """

    def __init__(self, limit: int, counted: set[int]) -> None:
        self._left = float(limit)
        self._per_token = 0.0
        self._counted = set(counted)

    def has_room_for(self, batch: Features) -> bool:
        tokens: int = batch["attention_mask"].numel()
        return self._left > self._per_token * tokens

    @contextmanager
    def measured(self, batch: Features) -> Iterator[None]:
        """Inside, what is saved for the backward pass is counted."""

        def count(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._counted:
                self._counted.add(storage.data_ptr())
                self._left -= storage.nbytes()
            return tensor

        before = self._left
        with saved_tensors_hooks(count, lambda tensor: tensor):
            yield
        self._per_token = (before - self._left) / batch["attention_mask"].numel()  # the next has no longer texts


@dataclass(frozen=True)
class _Kept:
    """The micro-batches of a group whose graph is kept, by number."""

    memory: _Memory
    is_last: bool
    graphs: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class _Everything:
    """The batch of all processes: N queries with k negatives each, of which B from `offset` on are this process's."""

    vectors: Tensor
    """(2 + k, N, d): queries, positives, negatives."""
    identities: Tensor
    """(2 + k, N) of the texts."""
    labels: Tensor
    """(N, 1 + k, 3 + W)"""
    offset: int
    temperature: float

    @staticmethod
    def gathered(local: Tensor, batch: _Batch, temperature: float) -> "_Everything":
        columns, size = local.shape[:2]
        labels = _labels(batch.labels, size, columns - 1, local)
        identities = batch.texts.identities[batch.texts.places]
        if get_world_size() == 1:
            return _Everything(local, identities, labels, 0, temperature)
        vectors = all_gather_with_grad(local.transpose(0, 1).contiguous()).transpose(0, 1)
        identities = all_gather(identities.T.contiguous()).T.contiguous()
        return _Everything(vectors, identities, all_gather(labels), get_rank() * size, temperature)

    def similarities(self, vectors: Tensor, rows: range, backwards: bool) -> tuple[Similarities, Tensor | None]:
        """Those of some rows of this process, and of their positives to all queries."""
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
        similarities = Similarities(counted, to_own[:, 0], to_own, grades, scores, own_weights, self.temperature)
        return similarities, self._to_queries(unit, mine) if backwards else None

    @cached_property
    def _positives(self) -> tuple[Tensor, Tensor]:
        """(queries, documents) whether a document is a positive of the query in any row; and which query each row has.

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
        """(R, M) whether a document is a positive of the query, in whatever row, or the query itself, or is told so."""
        is_positive, query_of = self._positives
        documents = self.identities[1:].reshape(1, -1)
        return (
            is_positive[query_of[mine]]
            | (self.identities[0][mine][:, None] == documents)
            | self._told(self.labels[mine])
        )

    def _told(self, labels: Tensor) -> Tensor:
        """(Q, C * N) whether the labels of some queries and columns say that a document is no negative of the query."""
        rows = labels[..., WEIGHT + 1 :].long()
        queries, columns, _ = rows.shape
        size = len(self.labels)
        table = torch.zeros(queries, columns, size + 1, dtype=torch.bool, device=rows.device)
        return table.scatter(2, rows % (size + 1), True)[..., :size].flatten(1)  # -1 is the last, which is no row

    def _to_queries(self, unit: Tensor, mine: Tensor) -> Tensor:
        """(R, N) similarities of positives to queries, those left out whose positive it is too."""
        is_positive, query_of = self._positives
        scores = unit[1][mine] @ unit[0].T / self.temperature
        false = (is_positive[:, mine][query_of] | self._told(self.labels[:, :1])[:, mine]).T.scatter(
            1, mine[:, None], False
        )
        return scores.masked_fill(false, LEFT_OUT)

    @torch.no_grad()
    def margins(self) -> dict[int, float]:
        """For each grade, over all processes: the mean of cos(query, positive) - cos(query, own negative)."""
        unit = normalize(self.vectors, dim=-1)
        cosines = (unit[:1] * unit[1:]).sum(dim=-1).T  # (N, 1 + k)
        margins = cosines[:, :1] - cosines[:, 1:]
        grades = self.labels[:, 1:, GRADE]
        return {
            int(grade): round(float(margins[grades == grade].mean()), 6)
            for grade in torch.unique(grades).tolist()
            if grade > 0
        }


def _labels(labels: Tensor | None, size: int, documents: int, like: Tensor) -> Tensor:
    """(B, 1 + k, 3 + W); without labels every document counts in full."""
    if labels is None:
        return torch.tensor([0.0, float("nan"), 1.0], device=like.device).expand(size, documents, 3).contiguous()
    if labels.shape[:2] != (size, documents) or labels.shape[2:] < (3,):
        raise ValueError(
            f"labels have the shape {tuple(labels.shape)}; wanted {(size, documents, 3)}: grade, judge score and "
            "weight of the positive and of each negative"
        )
    return labels.to(like.device, torch.float32)
