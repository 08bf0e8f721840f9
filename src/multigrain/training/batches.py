"""The planned curriculum as the host's datasets, losses and sampler."""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.sampler import DefaultBatchSampler, MultiDatasetDefaultBatchSampler
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from torch import nn
from torch.utils.data import BatchSampler, ConcatDataset, SequentialSampler

from multigrain.training.curriculum import Curriculum, Phase
from multigrain.vectors import ROLES, prompt_for


def to_datasets(curriculum: Curriculum) -> DatasetDict:
    """One dataset for each phase, its rows in the order of training.

    Columns: query, positive, negative_1 .. negative_k for k grades.
    """
    return DatasetDict({phase.name: _dataset(phase) for phase in curriculum.phases})


def _dataset(phase: Phase) -> Dataset:
    rows = [row for batch in phase.batches for row in batch]
    columns = {"query": [row.query for row in rows], "positive": [row.positive for row in rows]}
    for index in range(len(phase.grades)):
        columns[f"negative_{index + 1}"] = [row.negatives[index] for row in rows]
    return Dataset.from_dict(columns)


def to_prompts(curriculum: Curriculum, model: SentenceTransformer) -> dict[str, dict[str, str]] | None:
    """The prompt of each column of each phase's dataset, so that texts are trained on as they will be encoded.

    By phase, because the host takes a name in a flat mapping for that of a dataset first, and a phase may be called
    "query".
    """
    query, document = (prompt_for(role, model.prompts) for role in ROLES)
    if not query and not document:
        return None
    return {
        phase.name: {
            name: query if name == "query" else document
            for name in ("query", "positive", *(f"negative_{index + 1}" for index in range(len(phase.grades))))
        }
        for phase in curriculum.phases
    }


def to_losses(curriculum: Curriculum, model: SentenceTransformer, mini_batch_size: int | None) -> dict[str, nn.Module]:
    """InfoNCE for each phase, over its own and the batch's negatives, at the phase's temperature.

    loss = mean over i of -log( exp(cos(q_i, p_i) / T) / sum over all p and negatives d of exp(cos(q_i, d) / T) )
    """
    return {phase.name: _loss(model, 1 / phase.temperature, mini_batch_size) for phase in curriculum.phases}


def _loss(model: SentenceTransformer, scale: float, mini_batch_size: int | None) -> nn.Module:
    if mini_batch_size is None:
        return MultipleNegativesRankingLoss(model, scale=scale)
    return CachedMultipleNegativesRankingLoss(model, scale=scale, mini_batch_size=mini_batch_size)


class PlannedBatchSampler(DefaultBatchSampler):
    """Rows in the order in which they lie: the curriculum has already shuffled them."""

    def __init__(self, dataset: Dataset, batch_size: int, drop_last: bool, **_host: Any) -> None:
        super().__init__(dataset, batch_size=batch_size, drop_last=drop_last)
        self.sampler = SequentialSampler(dataset)

    def __iter__(self) -> Iterator[list[int]]:
        """Batches of row numbers."""
        return BatchSampler.__iter__(self)


class PhaseSampler(MultiDatasetDefaultBatchSampler):
    """The phases one after the other, in whole rounds of `world_size` batches.

    A round that mixed phases would give the ranks different numbers of columns, and they would wait for each
    other for ever. The order is a pure function of the position, so a resumed training skips ahead exactly.
    """

    def __init__(
        self, dataset: ConcatDataset[Any], batch_samplers: list[BatchSampler], *, world_size: int = 1, **host: Any
    ) -> None:
        super().__init__(dataset, batch_samplers, **host)
        self.world_size = world_size

    def _counts(self) -> list[int]:
        return [len(sampler) // self.world_size * self.world_size for sampler in self.batch_samplers]

    def __iter__(self) -> Iterator[list[int]]:
        """Batches of row numbers in the concatenated dataset."""
        offsets = [0, *self.dataset.cumulative_sizes]
        for offset, sampler, count in zip(offsets, self.batch_samplers, self._counts(), strict=False):
            for batch in islice(sampler, count):
                yield [row + offset for row in batch]

    def __len__(self) -> int:
        return sum(self._counts())


def phase_sampler(world_size: int) -> Any:
    """What the host's `multi_dataset_batch_sampler` argument takes."""
    return partial(PhaseSampler, world_size=world_size)
