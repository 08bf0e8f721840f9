"""GradedLoss: a contrastive loss over graded negatives, for the sentence-transformers trainer.

It takes the columns query, positive, negative_1 .. negative_k as other losses do, and works with
SentenceTransformerTrainer, MatryoshkaLoss and several processes. It adds to MultipleNegativesRankingLoss:

* Labels of shape (B, 1 + k, 3 + W): the grade, judge score and weight of the positive and of each negative, then up to
  W rows of the global batch whose document in that column is a false negative of the query (illustrated in
  `multigrain.training.gathered`).
* No false in-batch negatives. A document that is a query's positive in any row does not count against that query.
* Each distinct text is encoded once, together with texts of similar length.
* The activations of as many texts as fit are kept for the backward pass; the others are computed twice (GradCache,
  arXiv 2101.06983). Neither of the last two changes the result.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.gradcache import CachedLossMixin, RandContext
from sentence_transformers.util.distributed import get_world_size
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from multigrain.config import ContrastSection
from multigrain.training.activations import ActivationBudget, KeptGraphs
from multigrain.training.frozen_cache import FrozenStates
from multigrain.training.gathered import WEIGHT, GatheredBatch, LocalBatch
from multigrain.training.objectives import OBJECTIVES, Distillation, distill
from multigrain.training.unique_texts import Features, cut, distinct

ROWS = 512
"""Number of queries whose similarities to all documents are in memory at once."""


@dataclass(frozen=True)
class Encoding:
    """Settings for encoding texts in training. They change speed and memory, not the result.

    Attributes:
        micro_batch_tokens: number of tokens encoded at once.
        activation_bytes: bytes of activations that may be kept for the backward pass.
        bf16: whether matrix products are in half precision.
        frozen: the cached output of the frozen layers.
    """

    micro_batch_tokens: int = 4096
    activation_bytes: int = 2 * 10**9
    bf16: bool = False
    frozen: FrozenStates | None = None


@dataclass
class Measures:
    """Figures of the last batch, for the log."""

    texts: int = 0
    """Number of texts in the batch, repeated ones included."""
    encoded: int = 0
    """Number of distinct texts."""
    tokens: int = 0
    """Number of tokens in the distinct texts."""
    guessing: float = 0.0
    """The loss if all documents were equally similar to the query."""
    terms: int = 0
    """How often the loss was computed: once for each dimension of MatryoshkaLoss."""
    margins: dict[int, float] = field(default_factory=dict)
    """Mean of cos(query, positive) - cos(query, own negative), by grade."""


class GradedLoss(CachedLossMixin, nn.Module):
    """Train on graded negatives, without false in-batch negatives, in batches larger than memory.

    For each query, the loss separates its positive from all other documents of the global batch, and from the other
    texts that `contrast` adds. With s = cos / T,

        infonce = -log( exp s(q,p) / (exp s(q,p) + sum over d of w(d) exp s(q,d)) ),

    where d is any positive or negative of the batch that is not known to answer q, and w(d) is its weight. The other
    objectives also use the grades or scores of the query's own negatives (`multigrain.training.objectives`).

    Args:
        model: the model to train.
        temperature: T, which divides the cosines; the inverse of MultipleNegativesRankingLoss' `scale`.
        objective: one of `OBJECTIVES`: "infonce", "listwise" or "distill".
        contrast: directions, partition mode, hardness weighting and several positives, named as in
            sentence-transformers.
        distillation: the settings of the objective "distill".
        encoding: how texts are encoded; this changes speed and memory, not the loss.

    Raises:
        ValueError: the temperature is not above 0, or the objective is unknown.

    Inputs:
        +------------------------------------------------+--------------------------------------------------+
        | Texts                                          | Labels                                           |
        +================================================+==================================================+
        | (query, positive) pairs                        | none                                             |
        +------------------------------------------------+--------------------------------------------------+
        | (query, positive, negative_1 .. negative_k)    | none, or (B, 1 + k, 3 + W): grade, judge score   |
        |                                                | and weight of each document, then false          |
        |                                                | negatives (shown in `training.gathered`)         |
        +------------------------------------------------+--------------------------------------------------+

    Relations:
        - Without labels and without false negatives it equals MultipleNegativesRankingLoss with the same
          `directions`, `partition_mode`, `hardness_mode` and `hardness_strength`.
        - CachedMultipleNegativesRankingLoss encodes every text twice; this loss encodes texts that fit in memory once.
        - MatryoshkaLoss can wrap it, as it wraps those.

    Recommendations:
        - Start with "infonce". "listwise" needs several grades in a step, and "distill" needs a teacher's scores.
        - Set `encoding.activation_bytes` as high as memory allows.

    Example:
        >>> from datasets import Dataset  # doctest: +SKIP
        >>> from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer  # doctest: +SKIP
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> rows = Dataset.from_dict({  # doctest: +SKIP
        ...     "query": ["How tall is Everest?", "Who wrote Emma?"],
        ...     "positive": ["Everest is 8,849 m high.", "Jane Austen wrote Emma."],
        ...     "negative_1": ["Everest was climbed in 1953.", "Emma is a novel of 1815."],
        ...     "label": [[(5, 0.9, 1.0), (3, 0.6, 1.0)], [(5, 0.9, 1.0), (3, 0.5, 1.0)]],
        ... })
        >>> contrast = ContrastSection(hardness_mode="all_negatives", hardness_strength=5.0)
        >>> loss = GradedLoss(model, objective="listwise", contrast=contrast)  # doctest: +SKIP
        >>> SentenceTransformerTrainer(model, train_dataset=rows, loss=loss).train()  # doctest: +SKIP

    References:
        van den Oord et al. 2018 (InfoNCE), arXiv 1807.03748; Gao et al. 2021 (GradCache), arXiv 2101.06983; Li et al.
        2023 (GTE: all directions), arXiv 2308.03281; Lan et al. 2025 (hardness weighting), arXiv 2503.04812; Khosla et
        al. 2020 (SupCon: several positives), arXiv 2004.11362.
    """

    show_progress_bar = False
    mini_batch_size = 1  # sentence-transformers requires it, but mini_batch_num_tokens is used

    def __init__(
        self,
        model: SentenceTransformer,
        temperature: float = 0.05,
        objective: str = "infonce",
        *,
        contrast: ContrastSection | None = None,
        distillation: Distillation | None = None,
        encoding: Encoding | None = None,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature: found {temperature}; wanted a number above 0, such as 0.05")
        if objective not in OBJECTIVES:
            raise ValueError(f'objective: found "{objective}"; wanted one of {", ".join(OBJECTIVES)}')
        self.model = model
        self.temperature, self.contrast = temperature, contrast or ContrastSection()
        self.objective_name, self._objective = objective, OBJECTIVES[objective]
        if objective == "distill":
            self._objective = partial(distill, settings=distillation or Distillation())
        self.encoding = encoding or Encoding()
        self.mini_batch_num_tokens = self.encoding.micro_batch_tokens
        tokenizer = model.tokenizer
        self._padding_side, self._pad_token = tokenizer.padding_side, tokenizer.pad_token_id or 0
        self._own = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
        self.measures = Measures()

    def forward(self, sentence_features: Iterable[Features], labels: Tensor | None = None) -> Tensor:
        """Return the mean loss of the batch.

        Args:
            sentence_features: the tokenized columns, each of B texts.
            labels: (B, 1 + k, 3 + W), as shown in `multigrain.training.gathered`; if None, every document has weight 1.

        Raises:
            ValueError: there is only one column, or the labels have another shape.
        """
        texts = distinct(list(sentence_features), self._padding_side, self._pad_token)
        if len(texts.places) < 2:
            raise ValueError(f"found {len(texts.places)} column; wanted query, positive and any number of negatives")
        self.measures = Measures(texts.places.numel(), len(texts.identities), texts.tokens)
        memory = ActivationBudget(self.encoding.activation_bytes, self._own)
        groups = [{**group, "kept": KeptGraphs(memory, is_last=group is texts.groups[-1])} for group in texts.groups]
        return self.forward_cached(groups, LocalBatch(texts, labels))  # type: ignore[arg-type]  # passed through

    def embed_minibatch_iter(  # type: ignore[override]
        self,
        sentence_feature: Features,
        with_grad: bool,
        copy_random_state: bool,
        random_states: list[RandContext | None] | None = None,
        ranges: list[tuple[int, int]] | None = None,
    ) -> Iterator[tuple[Tensor, RandContext | None]]:
        """Yield the embeddings of each micro-batch: first with `with_grad` off, then on, for the backward pass.

        The first pass keeps micro-batches with their graph while there is room. The second pass reuses these.
        """
        assert ranges is not None
        kept: KeptGraphs = sentence_feature["kept"]
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
                    if not kept.graphs:  # from here on, all graphs share one half-precision copy of the weights
                        autocast.enter_context(self._autocast(batch))
                    with torch.enable_grad(), self._unsynchronized(), kept.memory.measured(batch):
                        kept.graphs[index] = self._encode(batch)
                    yield kept.graphs[index], None
                else:
                    state = RandContext(*batch.values()) if copy_random_state else None
                    with torch.no_grad():
                        yield self._encode(batch), state

    def _may_keep(self, kept: "KeptGraphs", is_last_range: bool, batch: Features) -> bool:
        """Return whether to keep the graph of this micro-batch.

        With several processes, sentence-transformers synchronizes gradients in the last backward pass, which needs a
        forward pass of its own. So the last micro-batch is never kept.
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
        self, reps: list[list[Tensor]], labels: "LocalBatch", *, with_backward: bool = False
    ) -> Tensor:
        """Return the loss from the embeddings of the distinct texts. MatryoshkaLoss wraps this method by name."""
        local = torch.cat([vectors for group in reps for vectors in group])[labels.texts.places]
        everything = GatheredBatch.gathered(local, labels, self.temperature)
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
        # MatryoshkaLoss calls again, with fewer dimensions.
        self.measures.margins = self.measures.margins or everything.margins()
        return total

    def _loss_of(self, everything: "GatheredBatch", vectors: Tensor, rows: range) -> Tensor:
        """Return the summed loss of some of this process's queries."""
        return self._objective(everything.similarities(vectors, rows, self.contrast)).sum()

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings shown on a model card."""
        compared = self.contrast.model_dump(include=set(ContrastSection.model_fields))
        return {"temperature": self.temperature, "objective": self.objective_name, **compared}
