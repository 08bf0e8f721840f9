"""What a run's requests hold at most, by the lengths of its texts alone: a hundred times as fast as to write them."""

from collections.abc import Iterable
from functools import cache

from multigrain.config import Config
from multigrain.llm.protocol import Request
from multigrain.records import Pair
from multigrain.synthesis import shown_texts
from multigrain.synthesis.negatives import CLOZE, Writer, requests_each

PROBE = 256
"""Bytes of a text by which it is found out how often the prompts hold it; they may be the user's own."""
SPARE = 16
"""Bytes a request, for numbers that are a digit longer."""


class Bound:
    """Knows how much a pair's requests hold at most.

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

    def of(self, pairs: Iterable[Pair]) -> tuple[int, int]:
        """The bytes of their prompts and schemas, and the tokens that the answers may have."""
        whole = CLOZE in self._grades and self._config.prompt_style == "per-grade"  # a term may come from anywhere
        sizes = tokens = 0
        for pair in pairs:
            words = pair.positive.split(None, shown_texts.MANY_WORDS)[: shown_texts.MANY_WORDS]
            shown = pair.positive if whole else " ".join(words)
            sizes += self._fixed + self._of_query * _bytes(pair.query) + self._of_positive * _bytes(shown)
            tokens += self._answer(len(words))
        return sizes, tokens

    def _requests(self, query: str, positive: str) -> list[Request]:
        repeats = range(self._config.synthesis.per_grade)
        pair = Pair("", query, positive)
        return [prompted.request for n in repeats for prompted in self._writer.prompts(pair, self._grades, n)]

    def _sent(self, query: str, positive: str) -> int:
        return sum(_bytes(request.prompt + (request.schema or "")) for request in self._requests(query, positive))

    def _answer_tokens(self, words: int) -> int:
        return sum(request.max_tokens for request in self._requests("", "x " * words))


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))
