"""From a model's answer to candidate texts by grade. Nothing is guessed: what cannot be read is an error."""

from collections.abc import Callable
from functools import cache
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

from multigrain.errors import LLMReplyError
from multigrain.llm.client import Answer
from multigrain.llm.structured import read_object
from multigrain.synthesis.prompts import MEANINGS, one_line

Passages = dict[int, str]
"""By grade."""
Reader = Callable[[Answer], Passages]


@cache
def per_grade_reader(grade: int) -> Reader:
    """Reads raw completions: the passage as it stands, also where it was cut at the limit, as the positive was."""

    def read(answer: Answer) -> Passages:
        passage = one_line(answer.text)
        if not passage:
            raise LLMReplyError("the model wrote nothing")
        return {grade: passage}

    return read


@cache
def all_grades_reader(grades: tuple[int, ...]) -> Reader:
    """Reads JSON objects with a field `grade_N` for each grade."""
    model = answer_model(grades)

    def read(answer: Answer) -> Passages:
        found = read_object(answer, model)
        return {grade: getattr(found, f"grade_{grade}") for grade in grades}

    return read


@cache
def answer_model(grades: tuple[int, ...]) -> type[BaseModel]:
    """The object that is asked for: one named text for each grade."""
    fields: dict[str, Any] = {
        f"grade_{grade}": (Passage, Field(description=f"A passage {MEANINGS[grade]}.")) for grade in grades
    }
    return create_model("Negatives", __config__=ConfigDict(strict=True), **fields)


def _not_blank(text: str) -> str:
    if not (passage := one_line(text)):
        raise ValueError("the text is empty")
    return passage


Passage = Annotated[str, AfterValidator(_not_blank)]
