"""Read texts from a model's answers. Nothing is guessed: an unreadable answer is an error."""

import re
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

from multigrain.errors import LLMReplyError
from multigrain.llm.protocol import Answer
from multigrain.llm.structured import read_object
from multigrain.synthesis.cloze import exchange
from multigrain.synthesis.shown_texts import one_line

MEANINGS = {
    1: "about another topic altogether",
    2: "from the same field, but about something else",
    3: "about the topic of the query, but it does not answer it",
    4: "looks like the right answer, but a decisive detail is wrong or different, so that it does not answer the query",
}
OPENING = re.compile(
    r"^(here is|here's|sure)\b[^:]*:\s*"
    r"|^(the |a |one )?(short |search |main )?(question|query|keywords|finding|claim)s?( is| are)?( that)?\s*:\s*"
    r"|^(this|the) (text|passage|study|article|abstract|paper|research|author|document|main finding( of this text)?)s? "
    r"(\w+ly )?(highlight|show|state|suggest|discusse?|describe|report|find|found|provide|explore|demonstrate|is)\w*"
    r"( that| is that)?([ ,:]+|$)",
    re.IGNORECASE,
)
"""Phrases with which small models introduce the requested text."""

Passages = dict[int, str]
"""Texts by grade."""
Reader = Callable[[Answer], Passages]
"""A function that reads the passages in an answer, or raises LLMReplyError."""


@cache
def per_grade_reader(grade: int) -> Reader:
    """Return a reader that takes a raw completion as the passage, even if it was truncated."""

    def read(answer: Answer) -> Passages:
        return {grade: _written(answer)}

    return read


def cloze_reader(grade: int, positive: str, term: str, is_same: Callable[[str, str], bool]) -> Reader:
    """Return a reader that takes another term and puts it in place of the one in the positive."""

    def read(answer: Answer) -> Passages:
        other = _written(answer).strip(" .;,->\"'")
        if is_same(term, other):
            raise LLMReplyError(f'wanted another term in place of "{term}"; found "{other}"')
        return {grade: exchange(positive, term, other)}

    return read


@cache
def all_grades_reader(grades: tuple[int, ...]) -> Reader:
    """Return a reader of JSON objects with a field `grade_N` for each grade."""
    model = answer_model(grades)

    def read(answer: Answer) -> Passages:
        found = read_object(answer, model)
        return {grade: getattr(found, f"grade_{grade}") for grade in grades}

    return read


def read_query(answer: Answer) -> str:
    """Return a query on one line, without quotes and introductory phrases.

    >>> read_query(Answer('Here is a question: "why does iron rust?"'))
    'Why does iron rust?'

    Raises:
        LLMReplyError: nothing is left.
    """
    query = OPENING.sub("", _written(answer).strip("\"'` ")).strip("\"'` ")
    if not query:
        raise LLMReplyError(f'found "{answer.text[:80]}"; wanted a query')
    return query[0].upper() + query[1:]


def _written(answer: Answer) -> str:
    if not (text := one_line(answer.text)):
        raise LLMReplyError("the model wrote nothing")
    return text


def _not_blank(text: str) -> str:
    if not (passage := one_line(text)):
        raise ValueError("the text is empty")
    return passage


Passage = Annotated[str, AfterValidator(_not_blank)]
"""A text on one line that is not empty."""


class TaskList(BaseModel):
    """The search tasks that one brainstorming brings."""

    model_config = ConfigDict(strict=True)
    tasks: list[Passage] = Field(min_length=1)


class WrittenPair(BaseModel):
    """A query and its positive, both invented."""

    model_config = ConfigDict(strict=True)
    query: Passage
    positive: Passage


@cache
def answer_model(grades: tuple[int, ...]) -> type[BaseModel]:
    """Return the pydantic model of the requested object: one named text for each grade."""
    fields: dict[str, Any] = {
        f"grade_{grade}": (Passage, Field(description=f"A passage {MEANINGS[grade]}.")) for grade in grades
    }
    return create_model("Negatives", __config__=ConfigDict(strict=True), **fields)
