"""Read the inputs of a run: pairs, passages, or the number of search tasks to invent. Does not import torch."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean
from typing import Any

from multigrain.config import WRITTEN_SURPLUS, Config, SourceSection
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
from multigrain.pipeline.stages.data import read_data, read_given
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
        MultigrainError: see `sample_passages`, `read_data` and `read_given`.
    """
    if config.data.written_sources:
        return _sources(config)
    if config.writing:
        return _to_write(config)
    if config.data.pairs == PYTHON_DOCS and not reads_docs:
        return Inputs(f"documentation of {len(package_roots())} packages; held out: {config.data.held_out}")
    return _pairs(config)


def _to_write(config: Config) -> Inputs:
    """Describe the pairs to be written for a run of one source."""
    return _passages(config) if config.synthesis.mode == "corpus" else _search_tasks(config)


def _passages(config: Config) -> Inputs:
    sampled = sample_passages(config)
    count, most = len(sampled), config.passages_asked
    passages = list(choose(sampled, count, most, config.seed))
    pairs = pairs_kept(config, len(passages) * config.synthesis.queries_per_passage)
    tokens = _mean_tokens(passage.text for passage in passages[:SAMPLE])
    return Inputs(
        description=f"{len(sampled.documents)} passages, queries for {min(count, most)} of them",
        prompts=plan_queries(config, passages, model_name(config.llm)),
        size=Size(pairs, documents=len(sampled.documents), tokens=tokens),
    )


def _search_tasks(config: Config) -> Inputs:
    section, each = config.synthesis, config.pairs_invented_each
    pairs = pairs_kept(config, section.tasks * each)
    return Inputs(
        description=f"{section.tasks} tasks with {each} pairs each, in {', '.join(section.domains)}",
        prompts=plans.brainstorm(config).prompts(),
        size=Size(pairs, documents=pairs, tokens=WRITTEN_TOKENS),
    )


def pairs_kept(config: Config, written: int) -> int:
    """Return the likely number of training pairs among those to be written."""
    held_out = config.data.held_out
    assert not isinstance(held_out, list)  # a list names packages, whose pairs are not written
    return round(written * (1 - held_out) / WRITTEN_SURPLUS)


def _sources(config: Config) -> Inputs:
    """Read the given ones of several sources, and describe the pairs to be written for the others."""
    train, told, sizes = Counter[str](), dict[str, str](), list[Size]()
    given = read_given(config)
    if given is not None:
        train.update(pair.source or "" for pair in given.train)
        sizes.append(_size(given))
        told |= _told_given(given)
    written = {name: _to_write(own) for name, own in config.writing.items()}
    for source in config.data.written_sources:
        name, part = source.name, written[source.name]
        assert part.size is not None  # it is known for pairs that are to be written
        sizes.append(part.size)
        is_trained = source in config.data.trained_sources
        train[name] = min(part.size.pairs, source.limit or part.size.pairs) if is_trained else 0
        told[name] = f"{part.description}, about {counted(train[name], 'training pairs')}"
    documents = sum(size.documents for size in sizes)
    tokens = round(sum(size.documents * size.tokens for size in sizes) / max(documents, 1)) or 1
    shares, steps = config.data.shares(train) or {}, config.training.total_steps(train.total())
    uses = {source.name: _use(config, source, shares.get(source.name, 0.0), steps) for source in config.data.sources}
    return Inputs(
        description=f"about {train.total()} training pairs from {len(told)} sources, {len(written)} of them written",
        sources=[
            f"{each.name}: mode {each.mode}, {told[each.name]}; {uses[each.name]}" for each in config.data.sources
        ],
        prompts=chain.from_iterable(part.prompts for part in written.values()),
        size=Size(train.total(), documents, tokens),
        pairs=given.train if given else (),
    )


def _told_given(split: SplitData) -> dict[str, str]:
    """Return the numbers of pairs and documents of each given source, in words."""
    assert isinstance(split.documents, JoinedDocuments)  # as those of several sources are
    train = Counter(pair.source or "" for pair in split.train)
    held_out = Counter(pair.source or "" for pair in split.held_out)
    return {
        name: f"{counted(train[name], 'training pairs')}, {held_out[name]} held out, {counted(len(texts), 'documents')}"
        for name, texts in split.documents.texts.items()
    }


def _pairs(config: Config) -> Inputs:
    split = read_data(config)
    train, count = split.train, len(split.train)
    most = config.pairs_asked(count)
    asked = _chosen(train, most, config.seed)
    few = _chosen(train, min(SAMPLE, most), config.seed)
    # In a sample, other words are rare than among all pairs, so the term of a cloze may differ.
    source, number = (train, count) if count <= SAMPLE else (few, len(few))
    prompts = plan_negatives(config, lambda: source, number, model_name(config.llm))
    return Inputs(
        description=_described(config, split),
        sources=list(_described_sources(config, split)),
        prompts=prompts if few else (),
        bound=usage_bound(config, asked) if len(asked) > len(few) else None,
        size=_size(split),
        pairs=train,
    )


def _size(split: SplitData) -> Size:
    """Return the size of given data; the lengths are those of a sample."""
    sample = (split.train or split.held_out)[:SAMPLE]
    tokens = _mean_tokens(pair.positive for pair in sample)
    query_tokens = _mean_tokens(pair.query for pair in sample)
    return Size(len(split.train), documents=len(split.documents), tokens=tokens, query_tokens=query_tokens)


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
        told = _use(config, source, share, steps)
        if source not in config.data.trained_sources:
            yield f"{name}: {told}; {held_out[name]} held out, {documents}"
            continue
        if share < wanted.get(name, 0.0) - ROUNDING:
            told += f" in place of {wanted[name]:.1%}: no pair is twice in a batch of {batch}"
        pairs = counted(train[name], "training pairs")
        yield f"{name}: {pairs}, {held_out[name]} held out, {documents}; {told}"


def _use(config: Config, source: SourceSection, share: float, steps: int) -> str:
    """Describe how much of the training a source gets."""
    if source not in config.data.trained_sources:
        return f"not trained on ({'weight 0' if source.weight == 0 else 'held out whole'})"
    weight = "" if source.weight is None else f"weight {source.weight:g}, "
    return f"{weight}{share:.1%} of the steps (about {round(share * steps):,})"


def _mean_tokens(texts: Iterable[str]) -> int:
    """Return the approximate mean number of tokens of a text, at least 1."""
    lengths = [len(text.encode("utf-8", "replace")) / BYTES_PER_TOKEN for text in texts]
    return max(round(fmean(lengths)), 1) if lengths else 1
