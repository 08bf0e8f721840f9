"""The planned curriculum as the host's datasets and sampler.

Each phase is a dataset of the same row numbers: row `step * batch_size + position`, as that phase sees it. Texts are
looked up when a batch is fetched, so a long training takes no more memory than its tuples. Columns: query, positive,
negative_1 .. negative_k, and label, a list of (grade, judge score, weight) of the positive and of each negative.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.sampler import DefaultBatchSampler, MultiDatasetDefaultBatchSampler
from torch.utils.data import BatchSampler, ConcatDataset

from multigrain.training.curriculum import Curriculum
from multigrain.vectors import ROLES, prompt_for

PhaseAt = Callable[[int], int]
"""The place of the phase that a step (from 0) belongs to."""


def to_datasets(curriculum: Curriculum) -> DatasetDict:
    """One dataset for each phase, by its name."""
    numbers = list(range(curriculum.steps * curriculum.batch_size))
    return DatasetDict(
        {
            section.name: Dataset.from_dict({"row": numbers}).with_transform(partial(_columns, curriculum, phase))
            for phase, section in enumerate(curriculum.phases)
        }
    )


def _columns(curriculum: Curriculum, phase: int, batch: dict[str, list[int]]) -> dict[str, list[Any]]:
    rows = [curriculum.row(*divmod(number, curriculum.batch_size), phase) for number in batch["row"]]
    columns: dict[str, list[Any]] = {"query": [row.query for row in rows]}
    for index, name in enumerate(column_names(curriculum, phase)[1:]):
        columns[name] = [row.documents[index].text for row in rows]
    columns["label"] = [[(d.grade, d.score, d.weight) for d in row.documents] for row in rows]
    return columns


def column_names(curriculum: Curriculum, phase: int) -> list[str]:
    """The text columns of a phase."""
    section = curriculum.phases[phase]
    count = 1 if section.one_at_a_time else len(section.grades)
    return ["query", "positive", *(f"negative_{index + 1}" for index in range(count))]


def to_prompts(curriculum: Curriculum, model: SentenceTransformer) -> dict[str, dict[str, str]] | None:
    """The prompt of each column of each phase's dataset, so that texts are trained on as they will be encoded.

    By phase, because the host takes a name in a flat mapping for that of a dataset first, and a phase may be called
    "query".
    """
    query, document = (prompt_for(role, model.prompts) for role in ROLES)
    if not query and not document:
        return None
    return {
        section.name: {name: query if name == "query" else document for name in column_names(curriculum, phase)}
        for phase, section in enumerate(curriculum.phases)
    }


class RowsOfPhase(DefaultBatchSampler):
    """What the host wants for each dataset; `StepSampler` alone decides what comes when."""

    def __init__(self, dataset: Dataset, batch_size: int, drop_last: bool, **_host: Any) -> None:
        super().__init__(range(len(dataset)), batch_size=batch_size, drop_last=drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        """Batches of row numbers, as they lie."""
        return BatchSampler.__iter__(self)


class StepSampler(MultiDatasetDefaultBatchSampler):
    """The batches of all steps in order, each from the dataset of the phase that the step belongs to.

    With W processes the host deals a batch to each in turn, so a step is W batches in a row from one phase: processes
    that met different numbers of columns in a step would wait for each other for ever. The order is a pure function of
    the step and the phases, so a resumed training skips ahead exactly.
    """

    def __init__(
        self,
        dataset: ConcatDataset[Any],
        batch_samplers: list[BatchSampler],
        *,
        batch_size: int,
        world_size: int,
        phase_at: PhaseAt,
        **host: Any,
    ) -> None:
        super().__init__(dataset, batch_samplers, **host)
        self.step_size, self.world_size, self.phase_at = batch_size, world_size, phase_at
        self.batch_size = batch_size // world_size  # accelerate takes shorter ones for a rest
        self.rows_of_phase = dataset.cumulative_sizes[0]

    def __iter__(self) -> Iterator[list[int]]:
        """Batches of row numbers in the concatenated dataset."""
        for step in range(self.rows_of_phase // self.step_size):
            start = self.phase_at(step) * self.rows_of_phase + step * self.step_size
            for begin in range(start, start + self.step_size, self.batch_size):
                yield list(range(begin, begin + self.batch_size))

    def __len__(self) -> int:
        return self.rows_of_phase // self.step_size * self.world_size


def step_sampler(batch_size: int, world_size: int, phase_at: PhaseAt) -> Any:
    """What the host's `multi_dataset_batch_sampler` argument takes."""
    return partial(StepSampler, batch_size=batch_size, world_size=world_size, phase_at=phase_at)
