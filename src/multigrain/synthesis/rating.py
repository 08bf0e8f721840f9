"""Read the rating with which a language model answers whether a passage answers a query."""

import re

from multigrain.errors import LLMReplyError
from multigrain.llm.client import Answer

_RATING = r"[\"'*_`\s]*([0-3])[\"'*_`]*(?:\s*/\s*3)?\b[\"'*_`]*"
_BARE = re.compile(rf"{_RATING}(?:\W[^\d]*)?")
_LABELLED = re.compile(rf"\b(?:rating|score)[\"'*_`]*\s*(?:is|[:=])(?:{_RATING}(?!\d|\.\d)([^\n]*))?", re.IGNORECASE)


def read_rating(answer: Answer) -> int:
    """The rating in an answer, such as `2`, `Rating: 2`, `**2**` or `{"rating": 2}`.

    Explanations beside it are allowed; two different ratings, and numbers that are none, are not.

    >>> read_rating(Answer("**Rating: 2** (answers in part)"))
    2

    Raises:
        LLMReplyError: there is no rating in it, or more than one.
    """
    text = answer.text.strip()
    if whole := _BARE.fullmatch(text):
        return int(whole[1])
    found = [match.groups() for match in _LABELLED.finditer(text)]
    ratings = {rating for rating, rest in found}
    if len(ratings) != 1 or None in ratings or any(re.match(r"\W*(?:or|to|and)?\W*\d", rest) for _, rest in found):
        raise LLMReplyError(f'the answer holds no single rating of 0 to 3: "{text[:100]}"')
    return int(ratings.pop())
