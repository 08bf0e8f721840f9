"""Train the baseline that users already have: the stock sentence-transformers trainer, on the pairs of a grid.

In-batch negatives (MultipleNegativesRankingLoss, no duplicates in a batch), mean pooling, dropout on, linear warm-up of
a tenth; steps, batch, precision and text lengths of the grid's run. The learning rate is chosen as for the grid's arms:
same values, seed and task. The scores are stored like those of a run, so they can be compared.
A step with a negative of each grade encodes three times as many texts as one without. So there is also stock training
with batches three times as large, and with as many negatives, found by its own `mine_hard_negatives`.
"""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from sentence_transformers.util import mine_hard_negatives

from multigrain.config import Config
from multigrain.data.split_data import SplitData
from multigrain.experiments.cells import Cell
from multigrain.experiments.grid import Grid
from multigrain.experiments.results import tuned_score
from multigrain.files import write_json
from multigrain.model.load import load_base
from multigrain.model.precision import uses_bf16
from multigrain.pipeline.reuse import share_answers
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages.data import keep, read_data
from multigrain.pipeline.stages.evaluate import evaluate
from multigrain.terminal import say


@dataclass(frozen=True)
class Stock:
    """A way to train with sentence-transformers alone."""

    folder: str
    """Suffix of its folder's name."""
    times: int = 1
    """Size of its batches, in batches of the run."""
    negatives: int = 0
    """Negatives mined for each pair: the nearest of the corpus that are not within 5 % of the positive's similarity."""


STOCKS = {
    "stock": Stock("1"),
    "stock, batches x 3": Stock("3", times=3),
    "stock, mined negatives": Stock("mined", negatives=4),
}


def run_stock(grid: Grid, stock: Stock) -> tuple[float, list[Path]]:
    """Train and measure all missing cells.

    Args:
        grid: the grid with the pairs, seeds and learning rates.
        stock: the way to train.

    Returns:
        The chosen learning rate, and the folder of each seed's training.
    """
    arm = next(iter(grid.ablation.arms))
    home = grid.folder.with_name(f"{grid.ablation.name}-stock-{stock.folder}")
    donors = [RunDir(folder) for folder in grid.donors]  # they lend the vectors of the base
    tried = {}
    for rate, cell in grid.tuning_cells(arm):
        tried[rate] = tuned_score(_measured(_beside(cell, rate, stock, home), stock, donors))
    best = max(tried, key=lambda rate: tried[rate])
    say(f"stock-{stock.folder}: learning rates {tried}; taken: {best}")
    cells = (cell for cell in grid.cells({}) if cell.arm == arm)
    return best, [_measured(_beside(cell, best, stock, home), stock, donors) for cell in cells]


def _beside(cell: Cell, learning_rate: float, stock: Stock, home: Path) -> Cell:
    """Return the stock training that corresponds to a cell of the grid."""
    training = cell.config.training
    changes = {"learning_rate": learning_rate, "batch_size": training.batch_size * stock.times}
    settings = {"name": cell.label, "output": str(home), "training": training.model_copy(update=changes)}
    return Cell("stock", cell.label, cell.config.model_copy(update=settings))


def _measured(cell: Cell, stock: Stock, donors: Sequence[RunDir]) -> Path:
    """Train and measure a cell of stock training unless it exists; return its folder."""
    run_dir, config = RunDir(cell.folder), cell.config
    if not cell.is_done:
        cell.note.unlink(missing_ok=True)
        share_answers(donors, config, run_dir)
        say(f"stock-{stock.folder}, {cell.label}: learning rate {config.training.learning_rate}")
        split = read_data(config)
        keep(split, run_dir)
        _trained(config, _rows(config, split, stock.negatives)).save_pretrained(
            str(run_dir.trained), create_model_card=False
        )
        evaluate(config, run_dir)
        shutil.rmtree(run_dir.training)
        run_dir.vectors.unlink()
        write_json(cell.note, {"fingerprint": cell.fingerprint})
    return cell.folder


def _rows(config: Config, split: SplitData, negatives: int) -> Dataset:
    rows = Dataset.from_list([{"anchor": pair.query, "positive": pair.positive} for pair in split.train])
    if not negatives:
        return rows
    base = load_base(config.model.base, config.model.max_tokens)
    corpus = [document.text for document in split.documents]
    found: Dataset = mine_hard_negatives(
        rows,
        base,
        corpus=corpus,
        num_negatives=negatives,
        relative_margin=0.05,
        output_format="n-tuple",
        cache_folder=str(Path(config.output) / "vectors"),
        verbose=False,
    )
    return found


def _trained(config: Config, rows: Dataset) -> SentenceTransformer:
    model = load_base(config.model.base, config.training.max_tokens or config.model.max_tokens)
    steps = config.training.total_steps(len(rows))
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=config.training.batch_size,
            learning_rate=config.training.learning_rate,
            warmup_steps=max(1, steps // 10),
            bf16=uses_bf16(config.training.precision, model.device),
            batch_sampler=BatchSamplers.NO_DUPLICATES,
            seed=config.training_seed,
            save_strategy="no",
            report_to=[],
            logging_steps=10,
            use_cpu=not torch.cuda.is_available(),
        )
        loss: Any = MultipleNegativesRankingLoss(model)
        SentenceTransformerTrainer(model=model, args=arguments, train_dataset=rows, loss=loss).train()
    model.max_seq_length = config.model.max_tokens
    return model.eval()
