"""Read the data, split them, and keep them in the run folder."""

from dataclasses import replace

from multigrain.config import Config
from multigrain.data.split import SplitData, prepare, sample_passages, usable_negatives
from multigrain.errors import DataError
from multigrain.evaluation.tasks import MTEB, check_unseen, load_queries, without_queries_of
from multigrain.jsonl import write_records
from multigrain.progress import say
from multigrain.rundir import RunDir
from multigrain.stages import Result


def data(config: Config, run_dir: RunDir) -> Result:
    """Pairs and corpus; in mode "corpus" the corpus and the passages that get queries; in mode "tasks" nothing."""
    if config.synthesis.mode == "corpus":
        sampled = sample_passages(config)
        documents = write_records(run_dir.corpus, sampled.documents)
        passages = write_records(run_dir.passages, sampled.passages)
        return Result({"passages": passages, "documents": documents})
    if config.synthesis.mode == "tasks":
        return Result()
    split = read_data(config)
    given, left_out = usable_negatives(split)
    write_records(run_dir.given, given)
    if left_out:
        say(f"  {left_out} given negatives are held-out texts: left out")
    return Result(keep(split, run_dir))


def read_data(config: Config) -> SplitData:
    """Read and split the data, and make sure that they serve what comes later.

    Raises:
        DataError: see `prepare` and `fit`.
    """
    return fit(config, prepare(config), config.data.pairs or "[data]", config.data.drop_leaked)


def fit(config: Config, split: SplitData, source: str, drop_leaked: bool) -> SplitData:
    """Make sure that pairs serve what comes later: better now than after an hour.

    Args:
        config: the run.
        split: the pairs.
        source: where they come from, for messages.
        drop_leaked: leave training pairs out whose query the evaluation asks, instead of refusing them.

    Raises:
        DataError: nothing is held out, a query of the evaluation is also in training, or there are no two pairs for a
            batch.
    """
    for name in config.evaluation.tasks:
        if name.startswith(MTEB):
            continue  # comes from the hub, at the earliest when it is evaluated
        task = load_queries(name, split.held_out)
        if drop_leaked:
            kept = without_queries_of(task, split.train)
            if left_out := len(split.train) - len(kept):
                say(f"  {left_out} pairs are not trained on: {task.name} asks their query")
            split = replace(split, train=kept)
        check_unseen(task, split.train)
    count = len(split.train)
    if count < 2:
        raise DataError(source, f"{count} pairs are left to train on; a batch needs 2. Give more pairs.")
    if count < config.training.batch_size:
        say(
            f"  training.batch_size = {config.training.batch_size}, and {count} pairs to train on: batches hold {count}"
        )
    return split


def keep(split: SplitData, run_dir: RunDir) -> dict[str, int]:
    """Write pairs and corpus; returns how many they are."""
    write_records(run_dir.other_pairs, split.other)
    return {
        "train_pairs": write_records(run_dir.train_pairs, split.train),
        "held_out_pairs": write_records(run_dir.held_out_pairs, split.held_out),
        "documents": write_records(run_dir.corpus, split.documents),
    }
