"""What sentence-transformers' own trainer makes of a run's pairs: the baseline that users have already.

    python -m benchmarks.ablations.stock RUN.toml --learning-rate 1e-4 2e-4 --seeds 1 2 3

In-batch negatives (MultipleNegativesRankingLoss, no duplicates in a batch), mean pooling, dropout on, linear warm-up of
a tenth; the steps, the batch, the precision and the cuts of texts are those of the run. The first learning rate whose
model is best by the first metric of the run's first task, with seed 0, is taken for the seeds. The scores go to
OUTPUT/NAME-stock/seed-N, as a run's do, so that `multigrain compare` reads them.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.training_args import BatchSamplers

from multigrain.config import Config, load_config
from multigrain.data.split import SplitData
from multigrain.jsonl import write_json
from multigrain.model.load import load_base
from multigrain.progress import say
from multigrain.rundir import RunDir
from multigrain.stages.data import keep, read_data
from multigrain.stages.evaluate import evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN.toml")
    parser.add_argument("--learning-rate", type=float, nargs="+", default=[5e-5, 1e-4, 2e-4, 4e-4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    config = load_config(options.run)
    split = read_data(config)
    tried = {rate: measured(config, split, rate, 0) for rate in options.learning_rate}
    best = max(tried, key=lambda rate: tried[rate])
    say(f"learning rates: {tried}; taken: {best}")
    write_json(folder_of(config) / "tuned.json", {str(rate): score for rate, score in tried.items()})
    for seed in options.seeds:
        measured(config, split, best, seed)


def folder_of(config: Config) -> Path:
    return Path(config.output) / f"{config.name}-stock"


def measured(config: Config, split: SplitData, learning_rate: float, seed: int) -> float:
    """Train, write the scores, and return the first of them."""
    run_dir = RunDir(folder_of(config) / (f"seed-{seed}" if seed else f"tune-{learning_rate}"))
    if not run_dir.scores.exists():
        keep(split, run_dir)
        model = trained(config, split, learning_rate, seed)
        model.save_pretrained(str(run_dir.trained), create_model_card=False)
        evaluate(config, run_dir)
        shutil.rmtree(run_dir.training)
        run_dir.vectors.unlink()
    (score, *_) = next(iter(json.loads(run_dir.scores.read_text())["trained"].values())).values()
    say(f"stock, learning rate {learning_rate}, seed {seed}: {score:.4f}")
    return float(score)


def trained(config: Config, split: SplitData, learning_rate: float, seed: int) -> SentenceTransformer:
    model = load_base(config.model.base, config.training.max_tokens or config.model.max_tokens)
    rows = Dataset.from_list([{"anchor": pair.query, "positive": pair.positive} for pair in split.train])
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            max_steps=config.training.steps,
            per_device_train_batch_size=config.training.batch_size,
            learning_rate=learning_rate,
            warmup_steps=max(1, config.training.steps // 10),
            bf16=config.training.precision == "bf16",
            batch_sampler=BatchSamplers.NO_DUPLICATES,
            seed=seed,
            save_strategy="no",
            report_to=[],
            logging_steps=10,
            use_cpu=not torch.cuda.is_available(),
        )
        loss: Any = MultipleNegativesRankingLoss(model)
        SentenceTransformerTrainer(model=model, args=arguments, train_dataset=rows, loss=loss).train()
    model.max_seq_length = config.model.max_tokens
    return model.eval()


if __name__ == "__main__":
    main()
