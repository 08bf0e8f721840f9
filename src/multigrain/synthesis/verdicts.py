"""Have a language model judge whether texts answer a query."""

import re
from collections.abc import Iterable, Iterator
from functools import partial

from multigrain.config import Config
from multigrain.errors import LLMReplyError
from multigrain.llm.prompted_input import Prompted
from multigrain.llm.protocol import Answer, Request
from multigrain.records import Candidate, Pair
from multigrain.synthesis import shown_texts
from multigrain.synthesis.prompts import load_prompt

STAGE = "judge"
RATING_TOKENS = 64
"""Maximum number of tokens in a verdict."""


def plan_verdicts(
    config: Config, pair: Pair, candidates: Iterable[Candidate], model: str
) -> Iterator[Prompted[list[tuple[str, str, int]]]]:
    """Yield a prompt for each candidate of the pair; its answer becomes (pair's id, text, rating)."""
    prompt = load_prompt("judge", config.synthesis.prompts)
    for candidate in candidates:
        text = prompt.fill(
            query=shown_texts.one_line(pair.query),
            passage=shown_texts.shortened(candidate.text, shown_texts.MANY_WORDS),
            domain=shown_texts.domain(config.synthesis),
        )
        request = Request(
            kind="chat",
            prompt=text,
            model=model,
            max_tokens=config.synthesis.answer_tokens or RATING_TOKENS,
            temperature=0.0,
            seed=config.seed,
            version=f"{STAGE} {prompt.version}",
            extra=config.llm.extra,
        )
        yield Prompted(pair.id, request, partial(_verdict, pair.id, candidate.text))


def _verdict(pair_id: str, text: str, answer: Answer) -> list[tuple[str, str, int]]:
    return [(pair_id, text, read_rating(answer))]


_RATING = r"[\"'*_`\s]*([0-3])[\"'*_`]*(?:\s*/\s*3)?\b[\"'*_`]*"
_BARE = re.compile(rf"{_RATING}(?:\W[^\d]*)?")
_LABELLED = re.compile(rf"\b(?:rating|score)[\"'*_`]*\s*(?:is|[:=])(?:{_RATING}(?!\d|\.\d)([^\n]*))?", re.IGNORECASE)


def read_rating(answer: Answer) -> int:
    """Return the rating in an answer, such as `2`, `Rating: 2`, `**2**` or `{"rating": 2}`.

    Explanations beside it are allowed; two different ratings, and other numbers, are not.

    >>> read_rating(Answer("**Rating: 2** (answers in part)"))
    2

    Raises:
        LLMReplyError: the answer has no rating, or more than one.
    """
    text = answer.text.strip()
    if whole := _BARE.fullmatch(text):
        return int(whole[1])
    found = [match.groups() for match in _LABELLED.finditer(text)]
    ratings = {rating for rating, rest in found}
    if len(ratings) != 1 or None in ratings or any(re.match(r"\W*(?:or|to|and)?\W*\d", rest) for _, rest in found):
        raise LLMReplyError(f'the answer holds no single rating of 0 to 3: "{text[:100]}"')
    return int(ratings.pop())
