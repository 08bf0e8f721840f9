"""Join the pairs of a run with the candidates that were proposed for them."""

from collections.abc import Iterable, Iterator

from multigrain.errors import RunError
from multigrain.records import Candidate, Pair


def by_pair(pairs: Iterable[Pair], *streams: Iterable[Candidate]) -> Iterator[tuple[Pair, list[Candidate]]]:
    """Yield each pair with its candidates. The streams must follow the order of the pairs; they are read lazily.

    Raises:
        RunError: a stream is in another order or names an unknown pair; its candidates would be lost.
    """
    heads = [_Head(stream) for stream in streams]
    for pair in pairs:
        yield pair, [candidate for head in heads for candidate in head.take(pair.id)]
    for head in heads:
        head.check_taken()


class _Head:
    """A stream of candidates with a look-ahead of one."""

    def __init__(self, stream: Iterable[Candidate]) -> None:
        self._rest = iter(stream)
        self._next = next(self._rest, None)

    def take(self, pair_id: str) -> Iterator[Candidate]:
        """Yield the next candidates while they belong to the pair."""
        while self._next is not None and self._next.pair_id == pair_id:
            yield self._next
            self._next = next(self._rest, None)

    def check_taken(self) -> None:
        """Check that no candidate is left."""
        if self._next is not None:
            raise RunError(
                f'the candidates of pair "{self._next.pair_id}" are not in the order of the pairs, or the pair does '
                "not exist; they would be lost. Make them again: multigrain run RUN.toml --force"
            )
