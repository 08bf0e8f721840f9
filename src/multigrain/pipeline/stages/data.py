"""Read and split the data, and write them to the run folder."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from multigrain.config import Config
from multigrain.data.held_out import SHOWN, require_groups, split_by_share, split_dev
from multigrain.data.jsonl import write_records
from multigrain.data.passages_to_query import Passages, sample_passages
from multigrain.data.split_data import SplitData, prepare, usable_negatives
from multigrain.errors import DataError
from multigrain.evaluation.tasks import HELD_OUT, MTEB, check_unseen, load_queries, without_queries_of
from multigrain.model.precheck import Instruction, precheck_prompts
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages import Result
from multigrain.records import Pair, folded
from multigrain.terminal import counted, say

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.99)
"""Shares of held-out pairs to suggest if the given one is too small."""


def data(config: Config, run_dir: RunDir) -> Result:
    """Write pairs and corpus; in mode "corpus", the corpus and the passages to query; in mode "tasks", nothing.

    If only some of several sources have given pairs, these are checked, and the stage `pairs` writes all pairs.
    """
    if config.data.written_sources:
        return _inputs_of_sources(config, run_dir)
    if config.synthesis.mode == "corpus":
        sampled = sample_passages(config)
        documents = write_records(run_dir.corpus, sampled.documents)
        passages = write_records(run_dir.passages, sampled)
        return Result({"passages": passages, "documents": documents})
    if config.synthesis.mode == "tasks":
        return Result()
    return Result(keep_all(read_data(config), run_dir))


def _inputs_of_sources(config: Config, run_dir: RunDir) -> Result:
    """Check the given sources, and write the passages that get queries for each source of mode "corpus"."""
    given = read_given(config)
    counts = {"given_pairs": len(given.train) + len(given.held_out)} if given else {}
    for name, sampled in passages_by_source(config).items():
        written = write_records(run_dir.source(name).passages, sampled)
        counts["passages"] = counts.get("passages", 0) + written
    return Result(counts)


def passages_by_source(config: Config) -> dict[str, Passages]:
    """Draw the passages that get queries, for each of several sources of mode "corpus".

    Raises:
        DataError: see `sample_passages`.
    """
    return {name: sample_passages(own) for name, own in config.writing.items() if own.synthesis.mode == "corpus"}


def read_given(config: Config) -> SplitData | None:
    """Read and split the given pairs of a run that also has sources with written ones; None if all are written.

    So faults in the given pairs are found before the language model is asked. The split is that of the whole run,
    except that written pairs may share texts with it.

    Raises:
        DataError: see `prepare`, or a query of the evaluation is also in training.
    """
    sources = [source for source in config.data.sources if source.mode == "pairs"]
    if not sources:
        return None
    held_out = config.data.held_out
    if isinstance(held_out, list):
        held_out = [source.name for source in sources if source.name in held_out]
    are_measured_only = isinstance(held_out, list) and not any(each in config.data.trained_sources for each in sources)
    changed = {"sources": sources, "held_out": 0.0 if are_measured_only else held_out}
    split = prepare(config.model_copy(update={"data": config.data.model_copy(update=changed)}))
    if are_measured_only:
        return replace(split, train=(), held_out=split.train)
    return _apart_from_tasks(config, split, config.data.drop_leaked)


def read_data(config: Config) -> SplitData:
    """Read and split the data, and check that they suit the later stages.

    Raises:
        DataError: see `prepare` and `fit`.
    """
    return fit(config, prepare(config), config.data.origin, config.data.drop_leaked)


def fit(config: Config, split: SplitData, source: str, drop_leaked: bool) -> SplitData:
    """Check that the pairs suit the later stages, rather than fail after an hour, and set the dev set aside.

    Args:
        config: the run.
        split: the pairs.
        source: their origin, for messages.
        drop_leaked: leave out training pairs whose query is in the evaluation, instead of refusing them.

    Raises:
        ConfigError: see `precheck_prompts`.
        DataError: nothing is held out, all pairs share one query, positive or group, a query of the evaluation is also
            in training, or there are fewer than two pairs for a batch.
    """
    _require_parts(config, split, source)
    split = _apart_from_tasks(config, split, drop_leaked)
    train, dev = split_dev(split.train, config.data.dev_share, config.seed, config.data.source_names)
    split = replace(split, train=train, dev=dev)
    count = len(split.train)
    _require_two(count, source, "Give more pairs.")
    require_groups(split.train, count, "pairs", source)
    if instructions := list(dict.fromkeys(_instructions(split))):
        precheck_prompts(config.model, config.training.max_tokens, instructions)
    if count < config.training.batch_size:
        say(
            f"  training.batch_size = {config.training.batch_size}, but there are {count} training pairs: batches hold "
            f"{count}"
        )
    return split


def _apart_from_tasks(config: Config, split: SplitData, drop_leaked: bool) -> SplitData:
    """Check that no query of the evaluation is also in training, or leave such pairs out.

    Raises:
        DataError: a query is in both, and `drop_leaked` is off.
    """
    for name in config.evaluation.tasks:
        if name.startswith(MTEB):
            continue  # not available before the evaluation fetches it from the hub
        if name == HELD_OUT and not split.held_out:
            continue  # other sources have held-out pairs
        task = load_queries(name, split.held_out)
        if drop_leaked:
            kept = without_queries_of(task, split.train)
            if left_out := len(split.train) - len(kept):
                say(f"  {left_out} pairs are not trained on: their query is in {task.name}")
            split = replace(split, train=kept)
        check_unseen(task, split.train)
    return split


def _instructions(split: SplitData) -> Iterator[Instruction]:
    """Yield the instructions of all pairs, with repeats."""
    parts = ((split.train, "of a pair"), (split.dev, "of a dev pair"), (split.held_out, "of a held-out pair"))
    for pairs, origin in parts:
        for pair in pairs:
            if pair.instruction:
                yield Instruction(pair.instruction, origin, is_trained=pairs is split.train)


def _require_parts(config: Config, split: SplitData, source: str) -> None:
    """Check that there are pairs to train on, and held-out pairs if these are measured.

    Raises:
        DataError: there are none; says why, and what would help.
    """
    share, train = config.data.held_out, split.train
    _require_two(len(train), source, _advice_on_few(config, split))
    if alike := _alike(train):
        fault, advice = (
            "in a batch, each positive would answer all other queries",
            "Give pairs with different queries and positives.",
        )
        if split.held_out:
            raise DataError(source, f"{alike}, of those left to train on: {fault}. {advice}")
        fault = f"none can be held out without also being trained on, and {fault}"
        raise DataError(source, f"{alike}: {fault}. No value of data.held_out helps. {advice}")
    if HELD_OUT in config.evaluation.tasks and isinstance(share, float) and share and not split.held_out:
        raise DataError(source, _nothing_held_out(train, share, config.seed))


def _require_two(count: int, source: str, advice: str) -> None:
    if count < 2:
        raise DataError(source, f"found {counted(count, 'pairs')} to train on; a batch needs at least 2. {advice}")


def _advice_on_few(config: Config, split: SplitData) -> str:
    count = len(split.train)
    if count == config.data.limit:
        return f"Raise data.limit = {count}, which limits them."
    counts = Counter(pair.source for pair in split.train)
    for section in config.data.sources:
        if counts[section.name] == section.limit:
            return f'Raise limit = {section.limit} of the source "{section.name}", which limits them.'
    if split.held_out:
        held_out = f"data.held_out = {config.data.held_out} holds out {len(split.held_out)} pairs"
        return f"{held_out}: lower it, or give more pairs."
    return "Give more pairs."


def _nothing_held_out(pairs: Sequence[Pair], share: float, seed: int) -> str:
    """Explain why nothing is held out: the share is less than the smallest group of pairs, or all are one group."""
    enough = next((larger for larger in SHARES if larger > share and _is_enough(pairs, larger, seed)), None)
    if enough:
        found = f"data.held_out = {share:g} of {len(pairs)} pairs is less than the smallest group to hold out together"
        return f"{found} (pairs that share a query or a positive). Raise it to {enough:g}, or give more pairs."
    if split_by_share(pairs, SHARES[-1], seed, tells=False)[1]:
        found = (
            "for any data.held_out, either nothing is held out, or the training pairs share one query or one positive"
        )
        return f"{found}. Give pairs with different queries and positives."
    return (
        f"all {len(pairs)} pairs are connected by shared queries and positives, so none can be held out without "
        "training on its query or positive. Give pairs with different queries and positives, or measure on another "
        "data set: set data.held_out = 0, and evaluation.tasks to a task such as beir:FOLDER:SPLIT."
    )


def _is_enough(pairs: Sequence[Pair], share: float, seed: int) -> bool:
    """Return whether this share leaves pairs to measure on, and pairs to train on."""
    train, held_out = split_by_share(pairs, share, seed, tells=False)
    return bool(held_out) and len(train) > 1 and _alike(train) is None


def _alike(pairs: Sequence[Pair]) -> str | None:
    """Describe the query or positive that all pairs share; return None if they differ."""
    for name, text in (("query", pairs[0].query), ("positive", pairs[0].positive)):
        if all(folded(getattr(pair, name)) == folded(text) for pair in pairs):
            return f"all {len(pairs)} pairs share one {name} ({json.dumps(text[:SHOWN], ensure_ascii=False)})"
    return None


def keep_all(split: SplitData, run_dir: RunDir) -> dict[str, int]:
    """Write pairs, corpus and given negatives, and return the numbers to report."""
    given, left_out = usable_negatives(split)
    write_records(run_dir.given, given)
    if left_out:
        say(f"  {left_out} given negatives are left out: they are held-out texts")
    return keep(split, run_dir)


def keep(split: SplitData, run_dir: RunDir) -> dict[str, int]:
    """Write pairs and corpus, and return the number of each."""
    return {**keep_pairs(split, run_dir), "documents": write_records(run_dir.corpus, split.documents)}


def keep_pairs(split: SplitData, run_dir: RunDir) -> dict[str, int]:
    """Write the pairs of every part, and return the numbers to report."""
    write_records(run_dir.other_pairs, split.other)
    counts = {
        "train_pairs": write_records(run_dir.train_pairs, split.train),
        "held_out_pairs": write_records(run_dir.held_out_pairs, split.held_out),
    }
    dev = write_records(run_dir.dev_pairs, split.dev)
    return {**counts, "dev_pairs": dev} if dev else counts
