"""Read the inputs of a run: pairs, passages, or the number of search tasks to invent. Does not import torch."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from multigrain.config import WRITTEN_SURPLUS, Config
from multigrain.data.distinct_documents import JoinedDocuments
from multigrain.data.passages_to_query import sample_passages
from multigrain.data.python_docs import package_roots
from multigrain.data.record_file import take
from multigrain.data.sampling import choose
from multigrain.data.sources import PYTHON_DOCS
from multigrain.data.split_data import SplitData, usable_negatives
from multigrain.llm.budget import Usage
from multigrain.llm.clients.factory import model_name
from multigrain.llm.prompted_input import Prompted
from multigrain.pipeline.forecast import Size
from multigrain.pipeline.generation import plans
from multigrain.pipeline.generation.estimate import BYTES_PER_TOKEN, usage_bound
from multigrain.pipeline.stages.data import read_data
from multigrain.records import Pair
from multigrain.synthesis.negatives import plan_negatives
from multigrain.synthesis.queries import plan_queries
from multigrain.terminal import counted
from multigrain.training.batch_planning import ROUNDING, shares_of_training

SAMPLE = 500
"""Number of pairs to estimate prompts from, and of texts to estimate lengths from."""
WRITTEN_TOKENS = 100
"""Assumed length of a passage that the language model invents, in tokens."""


@dataclass(frozen=True)
class Inputs:
    """The inputs of a run that exist before it starts."""

    description: str
    """Number of inputs, in words."""
    sources: Sequence[str] = ()
    """Description of each source, if there are several."""
    prompts: Iterable[Prompted[Any]] = ()
    """The first prompts to be sent, or a sample of them; empty if they take too long to read."""
    bound: Usage | None = None
    """Upper bound of the usage of all prompts, if `prompts` is a sample."""
    size: Size | None = None
    """Size of the run, if known."""
    pairs: Sequence[Pair] = ()
    """Training pairs, if they have been read."""


def read_inputs(config: Config, reads_docs: bool = False) -> Inputs:
    """Read the inputs of a run.

    Args:
        config: the run.
        reads_docs: also read the documentation of the installed Python packages, which takes some seconds.

    Raises:
        MultigrainError: see `sample_passages` and `read_data`.
    """
    if config.synthesis.mode == "corpus":
        return _passages(config)
    if config.synthesis.mode == "tasks":
        return _search_tasks(config)
    if config.data.pairs == PYTHON_DOCS and not reads_docs:
        return Inputs(f"documentation of {len(package_roots())} packages; held out: {config.data.held_out}")
    return _pairs(config)


def _passages(config: Config) -> Inputs:
    sampled = sample_passages(config)
    count, most = len(sampled), config.passages_asked
    passages = list(choose(sampled, count, most, config.seed))
    pairs = _pairs_kept(config, len(passages) * config.synthesis.queries_per_passage)
    tokens = _mean_tokens(passage.text for passage in passages[:SAMPLE])
    return Inputs(
        description=f"{len(sampled.documents)} passages, queries for {min(count, most)} of them",
        prompts=plan_queries(config, passages, model_name(config.llm)),
        size=Size(pairs, documents=len(sampled.documents), tokens=tokens),
    )


def _search_tasks(config: Config) -> Inputs:
    section, each = config.synthesis, config.pairs_invented_each
    pairs = _pairs_kept(config, section.tasks * each)
    return Inputs(
        description=f"{section.tasks} tasks with {each} pairs each, in {', '.join(section.domains)}",
        prompts=plans.brainstorm(config).prompts(),
        size=Size(pairs, documents=pairs, tokens=WRITTEN_TOKENS),
    )


def _pairs_kept(config: Config, written: int) -> int:
    """Return the likely number of training pairs among those to be written."""
    held_out = config.data.held_out
    assert not isinstance(held_out, list)  # a list names packages, whose pairs are not written
    return round(written * (1 - held_out) / WRITTEN_SURPLUS)


def _pairs(config: Config) -> Inputs:
    split = read_data(config)
    train, count = split.train, len(split.train)
    most = config.pairs_asked(count)
    asked = _chosen(train, most, config.seed)
    few = _chosen(train, min(SAMPLE, most), config.seed)
    # In a sample, other words are rare than among all pairs, so the term of a cloze may differ.
    source, number = (train, count) if count <= SAMPLE else (few, len(few))
    prompts = plan_negatives(config, lambda: source, number, model_name(config.llm))
    sample = train[:SAMPLE]
    tokens = _mean_tokens(pair.positive for pair in sample)
    query_tokens = _mean_tokens(pair.query for pair in sample)
    return Inputs(
        description=_described(config, split),
        sources=list(_described_sources(config, split)),
        prompts=prompts if few else (),
        bound=usage_bound(config, asked) if len(asked) > len(few) else None,
        size=Size(count, documents=len(split.documents), tokens=tokens, query_tokens=query_tokens),
        pairs=train,
    )


def _chosen(pairs: Sequence[Pair], most: int, seed: int) -> Sequence[Pair]:
    """Return the pairs that `choose` draws, without holding their texts in memory."""
    return take(pairs, list(choose(range(len(pairs)), len(pairs), most, seed)))


def _described(config: Config, split: SplitData) -> str:
    train, held_out, documents = len(split.train), len(split.held_out), len(split.documents)
    text = f"{train} training pairs, {held_out} held out, {documents} documents"
    negatives, _ = usable_negatives(split)
    if negatives:
        text += f", {len(negatives)} given negatives"
    if own := Counter(pair.instruction for pair in split.train if pair.instruction):
        unused = "; model.query_prompt is used in their place" if config.model.query_template is None else ""
        text += f", {own.total()} training pairs with an instruction ({len(own)} different{unused})"
    return text


def _described_sources(config: Config, split: SplitData) -> Iterator[str]:
    """Describe each of several sources: its pairs, its corpus, and its share of the training steps."""
    if not isinstance(split.documents, JoinedDocuments):
        return
    train = Counter(pair.source or "" for pair in split.train)
    held_out = Counter(pair.source or "" for pair in split.held_out)
    section, wanted = config.training, config.data.shares(train) or {}
    batch, steps = section.batch_of(len(split.train)), section.total_steps(len(split.train))
    shares = shares_of_training(split.train, batch, section.by_task, wanted)
    for source in config.data.sources:
        name, share = source.name, shares.get(source.name, 0.0)
        documents = counted(len(split.documents.texts[name]), "documents")
        if source not in config.data.trained_sources:
            why = "weight 0" if source.weight == 0 else "held out whole"
            yield f"{name}: not trained on ({why}); {held_out[name]} held out, {documents}"
            continue
        weight = "" if source.weight is None else f"weight {source.weight:g}, "
        told = f"{weight}{share:.1%} of the steps (about {round(share * steps):,})"
        if share < wanted.get(name, 0.0) - ROUNDING:
            told += f" in place of {wanted[name]:.1%}: no pair is twice in a batch of {batch}"
        pairs = counted(train[name], "training pairs")
        yield f"{name}: {pairs}, {held_out[name]} held out, {documents}; {told}"


def _mean_tokens(texts: Iterable[str]) -> int:
    """Return the approximate mean number of tokens of a text, at least 1."""
    return round(fmean(len(text.encode("utf-8", "replace")) / BYTES_PER_TOKEN for text in texts)) or 1
