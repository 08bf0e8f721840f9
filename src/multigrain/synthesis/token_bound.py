"""Bound the size of a run's requests by the lengths of its texts, a hundred times as fast as writing them."""

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from multigrain.config import Config
from multigrain.llm.protocol import Request
from multigrain.records import Pair
from multigrain.synthesis import shown_texts
from multigrain.synthesis.negatives import CLOZE, Writer, requests_each

PROBE = 256
"""Bytes of a probe text that shows how often the prompts, perhaps the user's own, contain a text."""
SPARE = 16
"""Spare bytes in each request, for numbers that are a digit longer."""


class Lengths(NamedTuple):
    """Total lengths of requests and of their answers."""

    prompt_bytes: int
    """Bytes of the prompts and schemas."""
    answer_tokens: int
    """Maximum number of tokens in the answers."""


class Bound:
    """Upper bounds on the size of requests about pairs.

    Args:
        config: the run.
        model: the model's name at the server.
    """

    def __init__(self, config: Config, model: str) -> None:
        self._config, self._writer = config, Writer(config, lambda: (), model)
        self._grades = config.synthesis.grades_from("llm")
        self._fixed = self._sent("", "") + SPARE * requests_each(config)
        self._of_query = -(-(self._sent("x" * PROBE, "") - self._sent("", "")) // PROBE)
        self._of_positive = -(-(self._sent("", "x" * PROBE) - self._sent("", "")) // PROBE)
        self._answer = cache(self._answer_tokens)

    def of(self, pairs: Iterable[Pair]) -> Lengths:
        """Return an upper bound on the size of the requests about these pairs."""
        by_cloze = CLOZE in self._grades and self._config.prompt_style == "per-grade"
        prompt_bytes = answer_tokens = 0
        for pair in pairs:
            words = pair.positive.split(None, shown_texts.MANY_WORDS)[: shown_texts.MANY_WORDS]
            shown = pair.positive if by_cloze else " ".join(words)  # the term of a cloze may come from anywhere
            prompt_bytes += self._fixed
            prompt_bytes += self._of_query * _bytes(pair.query) + self._of_positive * _bytes(shown)
            answer_tokens += self._answer(len(words))
        return Lengths(prompt_bytes, answer_tokens)

    def _requests(self, query: str, positive: str) -> list[Request]:
        pair = Pair("", query, positive)
        requests: list[Request] = []
        for repeat in range(self._config.synthesis.per_grade):
            requests += [prompted.request for prompted in self._writer.prompts(pair, self._grades, repeat)]
        return requests

    def _sent(self, query: str, positive: str) -> int:
        return sum(_bytes(request.prompt + (request.schema or "")) for request in self._requests(query, positive))

    def _answer_tokens(self, words: int) -> int:
        return sum(request.max_tokens for request in self._requests("", "x " * words))


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))
