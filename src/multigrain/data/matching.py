"""Positives and given negatives as the corpus has them: with the title before the text."""

from dataclasses import dataclass, replace

from multigrain.data.sources import Source, distinct, read_passages
from multigrain.errors import DataError
from multigrain.progress import say
from multigrain.records import identity


@dataclass(frozen=True)
class _Corpus:
    """What a corpus says of the texts that are looked for.

    Attributes:
        texts: the `identity` of each document's text.
        whole: the text of the first document that has, but for its title, the text of this `identity`.
    """

    texts: set[bytes]
    whole: dict[bytes, str]

    def text_of(self, text: str) -> str:
        """The text as the corpus has it."""
        key = identity(text)
        return text if key in self.texts else self.whole.get(key, text)


def as_in_corpus(source: Source, corpus: str) -> tuple[Source, int]:
    """Find the positives in the corpus; one that is a document's text without the title gets the title.

    So do given negatives: else the title would tell the positives from them. Returns also how many distinct texts the
    corpus has.

    Raises:
        DataError: positives are not in the corpus, or see `read_passages`.
    """
    wanted = {identity(text) for text in (*(p.positive for p in source.pairs), *(c.text for c in source.given))}
    found = _look_for(wanted, corpus)
    known = found.texts | found.whole.keys()
    if missing := [pair.id for pair in source.pairs if identity(pair.positive) not in known]:
        raise DataError(
            corpus,
            f"the positives of {len(missing)} pairs are not in the corpus (first: {', '.join(missing[:3])}). "
            "Add them to the corpus, word for word, or leave data.corpus out.",
        )
    if not found.whole:
        return source, len(found.texts)
    say(f"  {len(found.whole)} positives or negatives stand in the corpus with a title: the title is put before them")
    pairs = [replace(pair, positive=found.text_of(pair.positive)) for pair in source.pairs]
    given = distinct([replace(negative, text=found.text_of(negative.text)) for negative in source.given], pairs)
    return replace(source, pairs=pairs, given=given), len(found.texts)


def _look_for(wanted: set[bytes], corpus: str) -> _Corpus:
    texts: set[bytes] = set()
    whole: dict[bytes, str] = {}
    count = 0
    for count, (document, text) in enumerate(read_passages(corpus), start=1):  # noqa: B007
        texts.add(identity(document.text))
        if text != document.text and (key := identity(text)) in wanted:
            whole.setdefault(key, document.text)
    if copies := count - len(texts):
        say(f"  {copies} documents of the corpus repeat the text of another: read once")
    return _Corpus(texts, {key: text for key, text in whole.items() if key not in texts})
