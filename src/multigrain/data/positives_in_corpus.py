"""Positives and given negatives as the corpus has them: with the title before the text."""

from dataclasses import dataclass, replace

from multigrain.data.sources import Source, distinct, read_passages
from multigrain.errors import DataError
from multigrain.records import identity
from multigrain.terminal import say


@dataclass(frozen=True)
class _Corpus:
    """The findings of a corpus about the texts that are looked for.

    Attributes:
        texts: the `identity` of each document's text.
        whole: by `identity`, the text of the first document that is this text but for its title.
    """

    texts: set[bytes]
    whole: dict[bytes, str]


def as_in_corpus(source: Source, corpus: str) -> tuple[Source, int]:
    """Find the positives in the corpus; one that is a document's text without the title gets the title.

    So do given negatives: else the title would tell the positives from them. Returns also how many distinct texts the
    corpus has.

    Raises:
        DataError: positives are not in the corpus, or see `read_passages`.
    """
    positives = [identity(pair.positive) for pair in source.pairs]
    negatives = [identity(given.text) for given in source.given]
    found = _look_for({*positives, *negatives}, corpus)
    known = found.texts | found.whole.keys()
    if missing := [pair.id for pair, key in zip(source.pairs, positives, strict=True) if key not in known]:
        raise DataError(
            corpus,
            f"the positives of {len(missing)} pairs are not in the corpus (first: {', '.join(missing[:3])}). "
            "Add them to the corpus, word for word, or leave data.corpus out.",
        )
    count, whole = len(found.texts), found.whole
    if not whole:
        return source, count
    say(f"  {len(whole)} positives or given negatives have a title in the corpus: it is put before them")
    titled = map(whole.get, positives)
    pairs = [replace(pair, positive=text) if text else pair for pair, text in zip(source.pairs, titled, strict=True)]
    titled = map(whole.get, negatives)
    given = [replace(given, text=text) if text else given for given, text in zip(source.given, titled, strict=True)]
    return replace(source, pairs=pairs, given=distinct(given, pairs)), count


def _look_for(wanted: set[bytes], corpus: str) -> _Corpus:
    texts: set[bytes] = set()
    whole: dict[bytes, str] = {}
    count = 0
    for count, (document, text) in enumerate(read_passages(corpus, tell=True), start=1):  # noqa: B007
        texts.add(identity(document.text))
        if text != document.text and (key := identity(text)) in wanted:
            whole.setdefault(key, document.text)
    if copies := count - len(texts):
        say(f"  {copies} documents of the corpus repeat the text of another: read once")
    return _Corpus(texts, {key: text for key, text in whole.items() if key not in texts})
