"""A language model as the judge of false negatives: does this passage answer the query after all?

It is asked for a rating of 0 to 3, the scale of TREC's assessors that UMBRELA (arXiv 2406.06519) puts to language
models. What a rating means differs between models, so the threshold is measured: positives should be rated at or above
it, passages that are known to be irrelevant below it. Nothing is asked here; the caller asks.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from multigrain.errors import LLMReplyError, LLMTruncated
from multigrain.llm.client import Answer

RATINGS = (0, 1, 2, 3)
USABLE = 0.75
"""Balanced accuracy from which on a judge is worth asking."""
FEWEST_KNOWN = 10
"""Passages known on each side, below which the accuracy may be luck."""

_RATING = r"[\"'*_`\s]*([0-3])[\"'*_`]*(?:\s*/\s*3)?\b[\"'*_`]*"
_BARE = re.compile(rf"{_RATING}(?:\W[^\d]*)?")
_LABELLED = re.compile(rf"\b(?:rating|score)[\"'*_`]*\s*(?:is|[:=])(?:{_RATING}(?!\d|\.\d)([^\n]*))?", re.IGNORECASE)
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)


def judge_prompt(query: str, passage: str) -> str:
    """What a chat model is asked about one query and passage."""
    return f"""\
Judge whether a passage answers a search query. Go by what the passage says, not by the words it shares with the query.

Rate it:
0 = The passage has nothing to do with the query.
1 = The passage is on the topic of the query, but does not answer it.
2 = The passage answers the query in part, or the answer is there but unclear or among other matters.
3 = The passage is about the query and answers it fully and exactly.

A passage that speaks of another person, place, time, quantity or condition than the query asks about is at most a 1.

Query: {query}

Passage: {passage}

Reply with one line and nothing else: "Rating: " and the number."""


def read_rating(answer: Answer) -> int:
    """The rating in an answer, such as `2`, `Rating: 2`, `**2**` or `{"rating": 2}`.

    Explanations beside it are allowed; two different ratings, and numbers that are none, are not.

    >>> read_rating(Answer("**Rating: 2** (answers in part)"))
    2

    Raises:
        LLMTruncated: the answer was cut at its token limit.
        LLMReplyError: there is no rating in it, or more than one.
    """
    if answer.finish_reason == "length":
        raise LLMTruncated("the rating was cut at its token limit")
    text = _THOUGHT.sub("", answer.text).strip()
    if whole := _BARE.fullmatch(text):
        return int(whole[1])
    found = [match.groups() for match in _LABELLED.finditer(text)]
    ratings = {rating for rating, rest in found}
    if len(ratings) != 1 or None in ratings or any(re.match(r"\W*(?:or|to|and)?\W*\d", rest) for _, rest in found):
        raise LLMReplyError(f'the answer holds no single rating of 0 to 3: "{text[:100]}"')
    return int(ratings.pop())


@dataclass(frozen=True, slots=True)
class Calibration:
    """From which rating on a passage counts as answering, and how well that tells what is known."""

    threshold: int
    accuracy: float
    """Balanced: 0.5 is chance."""
    known: int
    """Passages on the side that has fewer."""

    @property
    def is_usable(self) -> bool:
        """Whether the judge tells enough, on enough passages, to drop negatives by it."""
        return self.accuracy >= USABLE and self.known >= FEWEST_KNOWN

    def answers(self, rating: int) -> bool:
        """Whether a passage of this rating counts as answering: as a negative, it would be a false one."""
        return rating >= self.threshold


def calibrate(relevant: Sequence[int], irrelevant: Sequence[int]) -> Calibration:
    """The threshold t of 1 to 3 with the highest balanced accuracy, and of equals the lowest.

        (share of relevant rated >= t + share of irrelevant rated < t) / 2

    The lowest of equals lets fewer false negatives pass.

    >>> calibrate(relevant=[3, 3, 2, 1], irrelevant=[0, 1, 0, 0])
    Calibration(threshold=1, accuracy=0.875, known=4)

    Args:
        relevant: ratings of known positives.
        irrelevant: ratings of known negatives, such as random passages of the corpus.

    Raises:
        ValueError: one side is empty.
    """
    if not relevant or not irrelevant:
        raise ValueError("calibration needs ratings of known positives and of known negatives")
    accuracies = {threshold: _balanced(relevant, irrelevant, threshold) for threshold in RATINGS[1:]}
    best = max(accuracies, key=lambda threshold: (accuracies[threshold], -threshold))
    return Calibration(best, round(accuracies[best], 4), min(len(relevant), len(irrelevant)))


def _balanced(relevant: Sequence[int], irrelevant: Sequence[int], threshold: int) -> float:
    kept = sum(rating >= threshold for rating in relevant) / len(relevant)
    return (kept + sum(rating < threshold for rating in irrelevant) / len(irrelevant)) / 2
