"""Read the data, split them, and keep them in the run folder."""

import json
from collections.abc import Sequence
from dataclasses import replace

from multigrain.config import Config
from multigrain.data.held_out import SHOWN, require_groups, split_by_share, split_dev
from multigrain.data.jsonl import write_records
from multigrain.data.passages_to_query import sample_passages
from multigrain.data.split_data import SplitData, prepare, usable_negatives
from multigrain.errors import DataError
from multigrain.evaluation.tasks import HELD_OUT, MTEB, check_unseen, load_queries, without_queries_of
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages import Result
from multigrain.records import Pair, folded
from multigrain.terminal import counted, say

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.99)
"""Shares of pairs to hold out, of which a larger one may do where one was too small."""


def data(config: Config, run_dir: RunDir) -> Result:
    """Keep pairs and corpus; in mode "corpus" the corpus and the passages that get queries; in mode "tasks" nothing."""
    if config.synthesis.mode == "corpus":
        sampled = sample_passages(config)
        documents = write_records(run_dir.corpus, sampled.documents)
        passages = write_records(run_dir.passages, sampled)
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
    """Make sure that pairs serve what comes later, and keep some for choices: better now than after an hour.

    Args:
        config: the run.
        split: the pairs.
        source: where they come from, for messages.
        drop_leaked: leave training pairs out whose query the evaluation asks, instead of refusing them.

    Raises:
        DataError: nothing is held out, all pairs have one query, positive or group, a query of the evaluation is
            also in training, or there are no two pairs for a batch.
    """
    _require_parts(config, split, source)
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
    train, dev = split_dev(split.train, config.data.dev_share, config.seed)
    split = replace(split, train=train, dev=dev)
    count = len(split.train)
    _require_two(count, source, "Give more pairs.")
    require_groups(split.train, count, "pairs", source)
    if count < config.training.batch_size:
        say(
            f"  training.batch_size = {config.training.batch_size}, and {count} pairs to train on: batches hold {count}"
        )
    return split


def _require_parts(config: Config, split: SplitData, source: str) -> None:
    """Require something to train on, and something to measure on where held-out pairs are measured on.

    Raises:
        DataError: says why there is not, and what would help.
    """
    share, train = config.data.held_out, split.train
    _require_two(len(train), source, _advice_on_few(config, split))
    if alike := _alike(train):
        fault, advice = (
            "in a batch each would be the answer to all others",
            "Give pairs with other queries and positives.",
        )
        if split.held_out:
            raise DataError(source, f"{alike}, of those left to train on: {fault}. {advice}")
        fault = f"none can be held out without training on it, and {fault}"
        raise DataError(source, f"{alike}: {fault}. No value of data.held_out helps. {advice}")
    if HELD_OUT in config.evaluation.tasks and isinstance(share, float) and share and not split.held_out:
        raise DataError(source, _nothing_held_out(train, share, config.seed))


def _require_two(count: int, source: str, advice: str) -> None:
    if count < 2:
        raise DataError(source, f"found {counted(count, 'pairs')} to train on; a batch needs 2. {advice}")


def _advice_on_few(config: Config, split: SplitData) -> str:
    count = len(split.train)
    if count == config.data.limit:
        return f"Give more pairs: data.limit = {count} cuts them."
    if split.held_out:
        held_out = f"data.held_out = {config.data.held_out} holds {len(split.held_out)} pairs out"
        return f"{held_out}: lower it. Give more pairs."
    return "Give more pairs."


def _nothing_held_out(pairs: Sequence[Pair], share: float, seed: int) -> str:
    """Say why nothing is held out: the share is less than the smallest group of pairs, or all pairs are one group."""
    enough = next((larger for larger in SHARES if larger > share and _is_enough(pairs, larger, seed)), None)
    if enough:
        found = f"data.held_out = {share:g} of {len(pairs)} pairs is less than the fewest that can be held out together"
        return f"{found} (pairs with one query, or one positive). Raise it to {enough:g}, or give more pairs."
    if split_by_share(pairs, SHARES[-1], seed, tells=False)[1]:
        found = (
            "whatever data.held_out is, nothing is held out, or what is left to train on has one query or one positive"
        )
        return f"{found}. Give pairs with other queries and positives."
    return (
        f"all {len(pairs)} pairs hang together by queries and positives that they share, so none can be held out "
        "without training on what it asks or finds. Give pairs with other queries and positives; or measure on "
        "something else: set data.held_out = 0, and evaluation.tasks to a set of its own, such as beir:FOLDER:SPLIT."
    )


def _is_enough(pairs: Sequence[Pair], share: float, seed: int) -> bool:
    """Tell whether such a share leaves something to measure on, and something to train on."""
    train, held_out = split_by_share(pairs, share, seed, tells=False)
    return bool(held_out) and len(train) > 1 and _alike(train) is None


def _alike(pairs: Sequence[Pair]) -> str | None:
    """Say what all pairs have in common, if that is their query or their positive; None if they differ."""
    for name, text in (("query", pairs[0].query), ("positive", pairs[0].positive)):
        if all(folded(getattr(pair, name)) == folded(text) for pair in pairs):
            return f"all {len(pairs)} pairs have one {name} ({json.dumps(text[:SHOWN], ensure_ascii=False)})"
    return None


def keep(split: SplitData, run_dir: RunDir) -> dict[str, int]:
    """Write pairs and corpus; returns how many there are of each."""
    return {**keep_pairs(split, run_dir), "documents": write_records(run_dir.corpus, split.documents)}


def keep_pairs(split: SplitData, run_dir: RunDir) -> dict[str, int]:
    """Write the pairs of every part; returns how many there are of those that are told."""
    write_records(run_dir.other_pairs, split.other)
    counts = {
        "train_pairs": write_records(run_dir.train_pairs, split.train),
        "held_out_pairs": write_records(run_dir.held_out_pairs, split.held_out),
    }
    dev = write_records(run_dir.dev_pairs, split.dev)
    return {**counts, "dev_pairs": dev} if dev else counts
