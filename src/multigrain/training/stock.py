"""A baseline with the stock sentence-transformers trainer, for as long as the run's own training took.

It uses MultipleNegativesRankingLoss on the same pairs, with in-batch negatives or with hard negatives from
`mine_hard_negatives` of sentence-transformers. The base is loaded unchanged, with its own pooling and dropout. Batch
size, learning rate, precision and text length are those of the run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from sentence_transformers.util import mine_hard_negatives
from torch.nn import Identity
from transformers import PrinterCallback, ProgressCallback

from multigrain.config import TrainingSection
from multigrain.model.precision import uses_bf16
from multigrain.model.roles import Embed, Vectors, prompt_for
from multigrain.records import Pair
from multigrain.terminal import meter
from multigrain.training.callbacks import StepClock
from multigrain.training.checkpoints import last_checkpoint
from multigrain.training.train import WARMUP_SHARE

NEGATIVES = 4
"""Number of negatives mined for each pair."""
MARGIN = 0.05
"""The share by which a mined negative's cosine must be below the positive's: TopK-PercPos of NV-Retriever (arXiv
2407.15831), which the documentation of `mine_hard_negatives` recommends."""
QUERIES_AT_ONCE = 512
"""Number of queries whose cosines to all documents are in memory at once: 0.2 GB per 100,000 documents."""
TIMED = 8
"""Number of timed steps, whose mean cost sets the length of the training; one untimed step comes first."""


def pair_rows(pairs: Sequence[Pair]) -> Dataset:
    """Return the pairs as a sentence-transformers dataset with the columns `anchor` and `positive`."""
    columns = {"anchor": [pair.query for pair in pairs], "positive": [pair.positive for pair in pairs]}
    return Dataset.from_dict(columns)


def mined_rows(rows: Dataset, documents: Sequence[str], embed: Embed) -> Dataset:
    """Add `NEGATIVES` columns to rows: the nearest documents within the margin, found by `mine_hard_negatives`.

    Args:
        rows: pairs as from `pair_rows`.
        documents: the texts to mine negatives from; the positives are added to them.
        embed: encodes the texts.

    Returns:
        The pairs with enough negatives; possibly none.
    """
    found: Dataset = mine_hard_negatives(
        rows,
        _Encoder(embed),
        corpus=list(documents),
        relative_margin=MARGIN,
        num_negatives=NEGATIVES,
        sampling_strategy="top",
        output_format="n-tuple",
        faiss_batch_size=QUERIES_AT_ONCE,
        verbose=False,
    )
    return found


class _Encoder(SentenceTransformer):
    """A model whose vectors come from a function, so that stored vectors are reused."""

    def __init__(self, embed: Embed) -> None:
        super().__init__(modules=[Identity()], device="cpu", similarity_fn_name="cosine")
        self._embed = embed

    def encode_query(self, sentences: Any, *_arguments: Any, **_options: Any) -> Vectors:  # type: ignore[override]
        return self._embed(sentences, "query")

    def encode_document(self, sentences: Any, *_arguments: Any, **_options: Any) -> Vectors:  # type: ignore[override]
        return self._embed(sentences, "document")


@dataclass(frozen=True)
class StockTraining:
    """A stock training: MultipleNegativesRankingLoss, no duplicate texts in a batch, linear warm-up.

    Attributes:
        rows: the training rows, from `pair_rows` or `mined_rows`.
        section: the run's training settings; batch size, learning rate, precision and checkpoints are used.
        seed: the seed of the order of rows and of dropout.
    """

    rows: Dataset
    section: TrainingSection
    seed: int

    @property
    def batch_size(self) -> int:
        """Number of rows in a step: the batch size of the settings, or all rows if there are fewer."""
        return min(self.section.batch_size, len(self.rows))

    @property
    def negatives(self) -> int:
        """Number of mined negatives per pair."""
        return len(self.rows.column_names) - len(("anchor", "positive"))

    def steps_within(self, seconds: float, model: SentenceTransformer) -> int:
        """Return how many steps fit into the given seconds (see `seconds_used`), from a few timed steps; at least 1.

        The timed steps train the model, so it is useless afterwards.
        """
        with TemporaryDirectory() as folder, meter("timing steps", TIMED + 1) as progress:
            trainer = self._trainer(model, Path(folder), TIMED + 1, save_strategy="no")
            clock = StepClock(progress)
            trainer.add_callback(clock)
            trainer.train()
        return max(1, round(seconds / max(fmean(clock.seconds[1:]), 1e-6)))

    def train(self, model: SentenceTransformer, folder: Path, steps: int, description: str) -> float:
        """Train the model in place; return the seconds of the steps done in this call (see `seconds_used`).

        An interrupted training resumes from its last complete checkpoint in `folder`.
        """
        trainer = self._trainer(model, folder, steps, save_strategy="steps")
        with meter(description, steps) as progress:
            clock = StepClock(progress)
            trainer.add_callback(clock)
            trainer.train(resume_from_checkpoint=last_checkpoint(folder, self.batch_size))
        return sum(clock.seconds)

    def _trainer(
        self, model: SentenceTransformer, folder: Path, steps: int, save_strategy: str
    ) -> SentenceTransformerTrainer:
        section = self.section
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=self.batch_size,
            learning_rate=section.learning_rate,
            warmup_steps=round(WARMUP_SHARE * steps),
            bf16=uses_bf16(section.precision, model.device),
            batch_sampler=BatchSamplers.NO_DUPLICATES,
            prompts=self._prompts(model),
            save_strategy=save_strategy,
            save_steps=section.checkpoint_every,
            save_total_limit=2,
            seed=self.seed,
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
            use_cpu=model.device.type == "cpu",  # else transformers refuses bf16 on a CPU
        )
        arguments._n_gpu = min(arguments.n_gpu, 1)  # else transformers splits each batch among several GPUs
        loss: Any = MultipleNegativesRankingLoss(model)
        trainer = _Trainer(model=model, args=arguments, train_dataset=self.rows, loss=loss)
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        return trainer

    def _prompts(self, model: SentenceTransformer) -> dict[str, str] | None:
        """Return the prompt of each column; None if the model has no prompts."""
        query, document = prompt_for("query", model.prompts), prompt_for("document", model.prompts)
        anchor, *documents = self.rows.column_names
        prompts = {anchor: query, **dict.fromkeys(documents, document)}
        return prompts if query or document else None


class _Trainer(SentenceTransformerTrainer):
    """The stock trainer without its model card, which would tokenize rows and look up the base on the hub."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Add no callback."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
        self.model.save_pretrained(output_dir or self.args.output_dir, create_model_card=False)
