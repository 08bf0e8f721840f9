"""The planned curriculum as datasets and a sampler for sentence-transformers.

Each phase is a dataset with the same row numbers. Row `step * batch_size + position` holds that example with the
negatives of the phase. Texts are looked up when a batch is fetched, so a row takes a few bytes, however long its texts.

Columns: query, positive, negative_1 .. negative_k, and label. The label gives, for the positive and each negative, its
grade, judge score and weight, then the rows of the step whose document in that column is a false negative of the query.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.sampler import DefaultBatchSampler, MultiDatasetDefaultBatchSampler
from torch.utils.data import BatchSampler, ConcatDataset

from multigrain.config import PhaseSection
from multigrain.model.roles import prompt_for, query_prompt
from multigrain.training.curriculum import Curriculum
from multigrain.training.in_batch_false_negatives import texts_of
from multigrain.training.prompted_texts import PromptedText, tokenized

PhaseAt = Callable[[int], int]
"""Maps a step (from 0) to the index of its phase."""


def name_of(phase: int) -> str:
    """Return the name of a phase's dataset and loss. torch may take the user's name for a path or a method."""
    return f"phase_{phase}"


def to_datasets(curriculum: Curriculum, prompts: Mapping[str, str | None]) -> DatasetDict:
    """Return one dataset for each phase, whose queries have their prompts among those of the model."""
    numbers = Dataset.from_dict({"row": np.arange(curriculum.steps * curriculum.batch_size)})
    phases = range(len(curriculum.phases))
    return DatasetDict({name_of(phase): numbers.with_transform(_Rows(curriculum, phase, prompts)) for phase in phases})


class _Rows:
    """The transform of a phase's dataset, from row numbers to columns."""

    def __init__(self, curriculum: Curriculum, phase: int, prompts: Mapping[str, str | None]) -> None:
        self._curriculum, self._phase, self._prompts = curriculum, phase, prompts

    def __call__(self, batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        curriculum = self._curriculum
        places = [divmod(number, curriculum.batch_size) for number in batch["row"]]
        rows = [curriculum.row(*place, self._phase) for place in places]
        false = {step: curriculum.false_at(step, self._phase) for step in {step for step, _ in places}}
        queries = [PromptedText(query_prompt(self._prompts, row.instruction), row.query) for row in rows]
        columns: dict[str, list[Any]] = {"query": queries}
        for index, name in enumerate(column_names(curriculum.phases[self._phase])[1:]):
            columns[name] = [row.documents[index].text for row in rows]
        columns["label"] = []
        for row, (step, position) in zip(rows, places, strict=True):
            labels = []
            for document, false_rows in zip(row.documents, false[step][position], strict=True):
                labels.append((document.grade, document.score, document.weight, *false_rows))
            columns["label"].append(labels)
        return columns

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the tuples: `datasets` pickles only for a fingerprint, and a million tuples take minutes."""
        return (_Rows._never, (self._curriculum.seed, self._phase))

    @staticmethod
    def _never(seed: int, phase: int) -> None:
        raise TypeError(f"the rows of phase {phase} (seed {seed}) cannot leave the process that planned them")


def column_names(section: PhaseSection) -> list[str]:
    """Return the names of the text columns of a phase."""
    count = 1 if section.one_at_a_time else len(section.grades)
    return ["query", "positive", *(f"negative_{index + 1}" for index in range(count))]


def to_prompts(curriculum: Curriculum, model: SentenceTransformer) -> dict[str, str] | None:
    """Return the prompt of each column of documents, as in encoding; None without one. A query brings its own."""
    document = prompt_for("document", model.prompts)
    names = max((column_names(section) for section in curriculum.phases), key=len)
    return dict.fromkeys(names[1:], document) if document else None


class RowsOfPhase(DefaultBatchSampler):
    """The per-dataset sampler that sentence-transformers requires; `StepSampler` alone decides the order."""

    def __init__(self, dataset: Dataset, batch_size: int, drop_last: bool, **_unused: Any) -> None:
        super().__init__(range(len(dataset)), batch_size=batch_size, drop_last=drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield batches of row numbers, in order."""
        return BatchSampler.__iter__(self)


class StepSampler(MultiDatasetDefaultBatchSampler):
    """The batches of all steps in order, each from the dataset of the step's phase.

    With W processes, accelerate deals batches to them in turn, so a step is W consecutive batches from one phase:
    processes with different numbers of columns in a step would deadlock. The order is a pure function of the step and
    the phases, so a resumed training skips ahead exactly.
    """

    def __init__(
        self,
        dataset: ConcatDataset[Any],
        batch_samplers: list[BatchSampler],
        *,
        batch_size: int,
        world_size: int,
        phase_at: PhaseAt,
        **sampler_arguments: Any,
    ) -> None:
        super().__init__(dataset, batch_samplers, **sampler_arguments)
        self.step_size, self.world_size, self.phase_at = batch_size, world_size, phase_at
        self.batch_size = batch_size // world_size  # accelerate takes smaller batches for incomplete ones
        self.rows_of_phase = dataset.cumulative_sizes[0]

    def __iter__(self) -> Iterator[list[int]]:
        """Yield batches of row numbers in the concatenated dataset."""
        for step in range(self.rows_of_phase // self.step_size):
            start = self.phase_at(step) * self.rows_of_phase + step * self.step_size
            for begin in range(start, start + self.step_size, self.batch_size):
                yield list(range(begin, begin + self.batch_size))

    def __len__(self) -> int:
        return self.rows_of_phase // self.step_size * self.world_size


def step_sampler(batch_size: int, world_size: int, phase_at: PhaseAt) -> Any:
    """Return the value of the training argument `multi_dataset_batch_sampler`."""
    return partial(StepSampler, batch_size=batch_size, world_size=world_size, phase_at=phase_at)


CHUNK = 256
"""Number of texts tokenized at once."""


def token_rows(model: SentenceTransformer, curriculum: Curriculum) -> Iterator[list[int]]:
    """Yield the token ids of every text in the curriculum, as training reads it; a text may come twice."""
    prompts, document = model.prompts, prompt_for("document", model.prompts)
    queries = {PromptedText(query_prompt(prompts, graded.instruction), graded.query) for graded in curriculum.tuples}
    documents = {PromptedText(document, text) for graded in curriculum.tuples for text in texts_of(graded)}
    for texts in (sorted(queries), sorted(documents)):
        for start in range(0, len(texts), CHUNK):
            features = tokenized(model, texts[start : start + CHUNK])
            for ids, mask in zip(features["input_ids"], features["attention_mask"], strict=True):
                yield ids[mask.bool()].tolist()
