"""Searches by source: the queries of one of several sources search its own corpus."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from multigrain.data.beir import RetrievalTask
from multigrain.data.corpus_file import Corpus, corpora_of
from multigrain.data.record_file import Numbers
from multigrain.evaluation.evaluate import Evaluation, evaluate
from multigrain.evaluation.hybrid import WEIGHT, WordMatches
from multigrain.evaluation.metrics import RETRIEVERS
from multigrain.evaluation.tasks import HELD_OUT, Searched, is_searched, search_task
from multigrain.model.roles import Embed
from multigrain.records import Document, Pair


@dataclass(frozen=True)
class SearchOfSource:
    """The search of one source.

    Attributes:
        task: its queries, and its documents.
        numbers: (documents,) the number of each of its documents among those of all sources.
    """

    task: RetrievalTask
    numbers: Numbers

    def of(self, whole: Evaluation) -> Evaluation:
        """Return the part of the results that belongs to this source."""
        scores = {query: whole.scores[query] for query in self.task.queries}
        return Evaluation(scores, documents=len(self.numbers))


def searches_by_source(
    pairs: Sequence[Pair], corpus: Corpus, own: Iterable[Pair], sources: Sequence[str], task: str = HELD_OUT
) -> dict[str, SearchOfSource]:
    """Return the search of each source with pairs.

    Args:
        pairs: held-out or dev pairs.
        corpus: the corpus of the run.
        own: queries that are documents, each with that document.
        sources: names of the sources.
        task: name of the whole task, with which the names of the tasks begin.
    """
    searched = np.array([is_searched(document) for document in corpus], dtype=bool)
    number_among_searched = np.cumsum(searched) - 1
    own = list(own)
    found: dict[str, SearchOfSource] = {}
    for name, documents in corpora_of(corpus, sources).items():
        if of_source := [pair for pair in pairs if pair.source == name]:
            search = search_task(f"{task} {name}", of_source, Searched(documents), own)
            numbers = documents.numbers[searched[documents.numbers]]
            found[name] = SearchOfSource(search, number_among_searched[numbers])
    return found


def whole_task(searches: Mapping[str, SearchOfSource], documents: Iterable[Document]) -> RetrievalTask:
    """Return the queries of all sources as one task, for its texts; each query is still searched in its own corpus."""
    whole = RetrievalTask(HELD_OUT, {}, Searched(documents), {}, {})
    for search in searches.values():
        whole.queries.update(search.task.queries)
        whole.relevance.update(search.task.relevance)
        whole.own.update(search.task.own)
        whole.instructions.update(search.task.instructions)
    return whole


def _together(searches: Mapping[str, SearchOfSource], found: Mapping[str, Evaluation]) -> Evaluation:
    """Return the results of all sources together, with rankings by the numbers of `whole_task`."""
    whole = Evaluation({}, documents=len(np.unique(np.concatenate([each.numbers for each in searches.values()]))))
    for name, search in searches.items():
        whole.scores.update(found[name].scores)
        for query, ranking in found[name].rankings.items():
            whole.rankings[query] = search.numbers[ranking]
    return whole


def evaluate_by_source(
    searches: Mapping[str, SearchOfSource],
    embed: Embed,
    words: Mapping[str, WordMatches | None] = {},
    weight: float = WEIGHT,
    retrievers: Sequence[str] = RETRIEVERS,
) -> Evaluation:
    """Measure the model behind `embed` on the searches of all sources.

    Args:
        searches: the search of each source.
        embed: encodes texts.
        words: the results of BM25 for each source, if it is measured.
        weight: weight of BM25 in the hybrid.
        retrievers: the retrievers to measure; the cosine is always included.
    """
    found = {
        name: evaluate(search.task, embed, words.get(name), weight, retrievers) for name, search in searches.items()
    }
    return _together(searches, found)
