"""From a model's answer to candidate texts. Nothing is guessed: what cannot be read is an error."""

import json
import re

from multigrain.errors import LLMReplyError


def parse_per_grade(text: str) -> str:
    """The passage of a raw completion.

    Raises:
        LLMReplyError: the model wrote nothing.
    """
    passage = " ".join(text.split())
    if not passage:
        raise LLMReplyError("the model wrote nothing")
    return passage


def parse_all_grades(text: str, grades: list[int]) -> dict[int, str]:
    """The passages by grade, from a JSON object with a field `grade_N` for each grade.

    Raises:
        LLMReplyError: there is no such object in the text.
    """
    found = re.search(r"\{.*\}", text, re.DOTALL)
    try:
        fields = json.loads(found[0]) if found else None
    except ValueError as error:
        raise LLMReplyError(f"the answer is not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise LLMReplyError("the answer holds no JSON object")
    passages = {}
    for grade in grades:
        passage = fields.get(f"grade_{grade}")
        if not isinstance(passage, str) or not passage.strip():
            raise LLMReplyError(f'the answer has no text in "grade_{grade}"')
        passages[grade] = " ".join(passage.split())
    return passages
