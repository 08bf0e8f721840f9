"""Server dialects: how to hold a server to a JSON schema, and which parameters it accepts.

"OpenAI-compatible" servers differ. A *rung* is a way to ask for JSON, the strictest first:

    json_schema   the server constrains the answer to the schema
    json_object   the server promises some JSON object; the prompt says which
    text          only the prompt asks for JSON

Answers are validated on every rung, because some servers accept a schema and ignore it.
"""

import json
import re
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

Rung = Literal["json_schema", "json_object", "text"]
RUNGS: tuple[Rung, ...] = ("json_schema", "json_object", "text")

OTHER_NAMES: dict[str, str | None] = {
    "max_tokens": "max_completion_tokens",
    "seed": None,
    "temperature": None,
    "stop": None,
}
"""Parameters that some servers refuse, with the name to try instead; None to omit the parameter.

Without `stop`, `Prompted.read` cuts the answer itself.
"""
FORMS = ("response_format", "json_schema", "json_object")
"""Words by which a server names the rung that it refuses."""


@dataclass(frozen=True)
class Dialect:
    """Parameters and JSON forms that one server accepts for one model."""

    rung: Rung = "json_schema"
    renamed: tuple[tuple[str, str | None], ...] = ()
    """Parameters with this server's names for them; None if the parameter is not sent."""
    is_reasoning_model: bool | None = None
    """Whether the model reasons before it answers; None until an answer shows it, or comes without a schema."""

    def spoken(self, body: dict[str, Any], schema: str | None) -> dict[str, Any]:
        """Return a request body in this server's dialect."""
        if schema is not None and self.rung == "json_schema":
            wanted = {"name": "answer", "strict": True, "schema": json.loads(schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": wanted}
        elif schema is not None and self.rung == "json_object":
            body["response_format"] = {"type": "json_object"}
        for name, other in self.renamed:
            value = body.pop(name, None)
            if other is not None and value is not None:
                body[other] = value
        return body

    def without(self, message: str) -> Self | None:
        """Return the dialect to try after a refusal that names a parameter; None if it names none.

        Only the first name in the message counts: servers go on to say what they accept instead, or what they were
        sent.
        """
        known = dict(self.renamed)
        names = [name for name in OTHER_NAMES if name not in known]
        found = re.search(rf"\b(?:{'|'.join([*names, *FORMS])})\b", message)
        name = found[0] if found else None
        if name not in OTHER_NAMES:
            return None
        return replace(self, renamed=(*self.renamed, (name, OTHER_NAMES[name])))

    def lower(self) -> Self | None:
        """Return the dialect one rung down; None at the bottom."""
        index = RUNGS.index(self.rung) + 1
        return replace(self, rung=RUNGS[index]) if index < len(RUNGS) else None

    def to_json(self) -> str:
        """Write the dialect as JSON."""
        return json.dumps({"rung": self.rung, "renamed": self.renamed, "thinks": self.is_reasoning_model})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a dialect that `to_json` wrote."""
        fields = json.loads(text)
        renamed = tuple((name, other) for name, other in fields["renamed"])
        return cls(fields["rung"], renamed, is_reasoning_model=fields.get("thinks"))
