"""The baseline that users have already: sentence-transformers' own trainer, on the pairs of a grid.

MultipleNegativesRankingLoss, no duplicates in a batch, the base's own pooling and dropout, linear warm-up. Steps,
precision and text lengths are those of the grid's first arm. So is the learning rate, unless the grid tunes it: then it
is the best of the same values on the same task. Scores are kept as a run keeps them, so that all arms can be compared.

A step of 64 pairs with one mined negative each encodes 192 texts. So do 32 pairs with four, which stock finds by its
own `mine_hard_negatives`, and 96 pairs with in-batch negatives alone.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from multigrain.config import Config
from multigrain.data.split_data import SplitData
from multigrain.experiments.cells import Cell
from multigrain.experiments.grid import Grid
from multigrain.experiments.results import tuned_score
from multigrain.files import write_json
from multigrain.pipeline.encoders import base_encoder, load_measured_base
from multigrain.pipeline.reuse import share_answers
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages.data import keep, read_data
from multigrain.pipeline.stages.evaluate import evaluate
from multigrain.terminal import say
from multigrain.training.stock import StockTraining, mined_rows, pair_rows


@dataclass(frozen=True)
class Stock:
    """A way to train with what sentence-transformers has."""

    folder: str
    """The end of its folder's name."""
    batch_size: int
    is_mined: bool = False
    """Whether each pair has four negatives: the nearest that are not within 5 % of the positive's similarity."""


STOCKS = {
    "stock": Stock("32", 32),
    "stock, batches x 3": Stock("96", 96),
    "stock, mined negatives": Stock("mined", 32, is_mined=True),
}


def run_stock(grid: Grid, stock: Stock) -> tuple[float, list[Path]]:
    """Train and measure what is not done yet.

    Args:
        grid: the grid whose pairs, seeds and learning rates are used.
        stock: the way to train.

    Returns:
        The learning rate, and the folder of each seed's training.
    """
    arm = next(iter(grid.ablation.arms))
    tried = {rate: tuned_score(measured(grid, cell, stock, rate)) for rate, cell in grid.tuning_cells(arm)}
    cells = [cell for cell in grid.cells({}) if cell.arm == arm]
    best = max(tried, key=lambda rate: tried[rate]) if tried else cells[0].config.training.learning_rate
    if tried:
        say(f"stock-{stock.folder}: learning rates {tried}; taken: {best}")
    return best, [measured(grid, cell, stock, best) for cell in cells]


def measured(grid: Grid, cell: Cell, stock: Stock, learning_rate: float) -> Path:
    """Train and measure stock beside a cell of the grid, if that is not done yet; return the folder."""
    donors = [RunDir(folder) for folder in grid.donors]  # of the vectors of the base
    cell = _beside(cell, learning_rate, stock, grid.folder.with_name(f"{grid.ablation.name}-stock-{stock.folder}"))
    run_dir, config = RunDir(cell.folder), cell.config
    if not cell.is_done:
        cell.note.unlink(missing_ok=True)
        share_answers(donors, config, run_dir)
        say(f"stock-{stock.folder}, {cell.label}: learning rate {learning_rate}")
        split = read_data(config)
        keep(split, run_dir)
        _train(config, split, stock, run_dir)
        evaluate(config, run_dir)
        shutil.rmtree(run_dir.training)
        run_dir.vectors.unlink()
        write_json(cell.note, {"fingerprint": cell.fingerprint})
    return cell.folder


def _beside(cell: Cell, learning_rate: float, stock: Stock, home: Path) -> Cell:
    """Return the training of stock that goes with a cell of the grid."""
    changes = {"learning_rate": learning_rate, "batch_size": stock.batch_size}
    training = cell.config.training.model_copy(update=changes)
    settings = {"name": cell.label, "output": str(home), "training": training}
    return Cell("stock", cell.label, cell.config.model_copy(update=settings))


def _train(config: Config, split: SplitData, stock: Stock, run_dir: RunDir) -> None:
    rows = pair_rows(list(split.train))
    if stock.is_mined:
        texts: Sequence[str] = [document.text for document in split.documents if document.split != "held_out"]
        rows = mined_rows(rows, texts, base_encoder(config, run_dir))
    model = load_measured_base(config)
    full_length, section = model.max_seq_length, config.training
    model.max_seq_length = section.max_tokens or full_length
    training = StockTraining(rows, section, config.training_seed)
    training.train(model, run_dir.training / "checkpoints", section.total_steps(len(rows)), f"training ({config.name})")
    model.max_seq_length = full_length
    model.save_pretrained(str(run_dir.trained), create_model_card=False)
