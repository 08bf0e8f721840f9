"""Structured answers: turn a pydantic model into the JSON schema to send, and the answer into an object.

Answers are parsed strictly first, then without the fence or the words around them, then by `json-repair`; the result is
always validated. A text that breaks off is never repaired, because half a passage would look complete.
"""

import json
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from multigrain.errors import LLMReplyError
from multigrain.llm.protocol import Answer

Model = TypeVar("Model", bound=BaseModel)

LONGEST = 2**16
"""Largest answer, in characters; a longer text cannot be an answer to a request for a few passages."""
UNSENT = {"title", "minLength", "maxLength", "pattern", "default"}
"""Keywords that some servers refuse in a strict schema; validation here still applies them."""


@cache
def schema_of(model: type[BaseModel]) -> str:
    """Return the JSON schema of a model with flat fields, in strict form: all are required, no others allowed."""
    fields = {}
    for name, field in model.model_json_schema()["properties"].items():
        fields[name] = {keyword: value for keyword, value in field.items() if keyword not in UNSENT}
    strict = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    return json.dumps(strict, ensure_ascii=False)


def read_object(answer: Answer, model: type[Model]) -> Model:
    """Read the object in an answer.

    Args:
        answer: an answer without its reasoning.
        model: the object's class.

    Raises:
        LLMReplyError: the answer holds no such object.
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
    """Parse slightly malformed JSON, such as an extra comma or quotes of another kind."""
    from json_repair import repair_json

    bare = text.rstrip("` \n\t\r")
    if not bare.endswith("}"):
        raise LLMReplyError("the answer breaks off in the middle of a JSON object")
    try:
        return repair_json(bare, return_objects=True, skip_json_loads=True)
    except Exception as error:  # guessing at broken text may raise anything
        raise LLMReplyError(f"the answer is not JSON ({type(error).__name__})") from None
