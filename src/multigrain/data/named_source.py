"""One of several sources: its records carry the name of the source, and ids that no other source has."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

from multigrain.config import SourceSection
from multigrain.data.record_file import Changed
from multigrain.data.sources import Source
from multigrain.records import Candidate, Document, Pair


def named_source(source: Source, section: SourceSection) -> Source:
    """Return the source with the name in all records; the records stay in their files."""
    return Source(
        pairs=Changed(source.pairs, partial(named, section=section)),
        given=Changed(source.given, partial(_candidate, name=section.name)),
        own=Changed(source.own, partial(_own, name=section.name)),
    )


def named(pair: Pair, section: SourceSection) -> Pair:
    """Return the pair with the name of its source, and the source's instruction and task if it has none.

    Id and group begin with the name, because another source may have the same.
    """
    return replace(
        pair,
        id=f"{section.name}/{pair.id}",
        source=section.name,
        instruction=pair.instruction or section.instruction,
        task=pair.task or section.task,
        group=pair.group and f"{section.name}/{pair.group}",
    )


def named_documents(documents: Iterable[Document], name: str) -> Iterator[Document]:
    """Yield the documents of the corpus of a source; id and group begin with its name."""
    for document in documents:
        yield replace(document, id=f"{name}/{document.id}", group=document.group and f"{name}/{document.group}")


def _candidate(candidate: Candidate, name: str) -> Candidate:
    return replace(candidate, pair_id=f"{name}/{candidate.pair_id}")


def _own(pair: Pair, name: str) -> Pair:
    """Return a pair of a query that is itself a document; it keeps its source, `multigrain.data.beir.OWN`."""
    return replace(pair, id=f"{name}/{pair.id}")
