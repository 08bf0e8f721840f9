"""Structured answers: from a pydantic model to the JSON schema that is sent, and from the answer back to the model.

Answers are read strictly first, then without the fence or the words around them, then by `json-repair`; whatever comes
out is validated. A text that breaks off is never repaired: half a passage would look like a whole one.
"""

import json
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from multigrain.errors import LLMReplyError
from multigrain.llm.protocol import Answer

Model = TypeVar("Model", bound=BaseModel)

LONGEST = 2**16
"""Characters; a longer text is no answer to a request for a few passages."""
UNSENT = {"title", "minLength", "maxLength", "pattern", "default"}
"""Keywords that some servers refuse in a strict schema; the model checks them here."""


@cache
def schema_of(model: type[BaseModel]) -> str:
    """The JSON schema of a model of flat fields, as strict servers want it: all required, nothing else allowed."""
    schema = model.model_json_schema()
    fields = {
        name: {keyword: value for keyword, value in field.items() if keyword not in UNSENT}
        for name, field in schema["properties"].items()
    }
    strict = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    return json.dumps(strict, ensure_ascii=False)


def read_object(answer: Answer, model: type[Model]) -> Model:
    """The object in an answer.

    Raises:
        LLMReplyError: there is no such object in it.
    """
    try:
        return model.model_validate_json(answer.text)
    except ValidationError:
        pass
    try:
        return model.model_validate(_object(answer.text))
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(str(part) for part in fault["loc"])
        raise LLMReplyError(f'the answer has no usable "{field}": {fault["msg"]}') from None


def _object(text: str) -> dict[str, Any]:
    start = text.find("{")
    if start < 0 or len(text) > LONGEST:
        raise LLMReplyError("the answer holds no JSON object")
    try:
        value, _ = json.JSONDecoder().raw_decode(text, start)
    except ValueError:
        value = _repaired(text[start:])
    except RecursionError:
        raise LLMReplyError("the answer is nested too deeply") from None
    if not isinstance(value, dict):
        raise LLMReplyError("the answer holds no JSON object")
    return value


def _repaired(text: str) -> Any:
    """What a person would take slightly wrong JSON for: a comma too many, quotes of another kind."""
    from json_repair import repair_json

    whole = text.rstrip("` \n\t\r")
    if not whole.endswith("}"):
        raise LLMReplyError("the answer breaks off in the middle of a JSON object")
    try:
        return repair_json(whole, return_objects=True, skip_json_loads=True)
    except Exception as error:  # whatever a guess at broken text may raise
        raise LLMReplyError(f"the answer is not JSON ({type(error).__name__})") from None
