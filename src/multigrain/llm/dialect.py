"""How a server is spoken to: how it can be held to a JSON schema, and which parameters it takes.

"OpenAI-compatible" servers differ. A *rung* is a way to ask for JSON, the strictest first:

    json_schema   the server constrains the answer to the schema
    json_object   the server promises some JSON object; the prompt says which
    text          the prompt alone asks

Whatever the rung, answers are validated here: servers exist that accept a schema and ignore it.
"""

import json
import re
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

Rung = Literal["json_schema", "json_object", "text"]
RUNGS: tuple[Rung, ...] = ("json_schema", "json_object", "text")

OTHER_NAMES: dict[str, str | None] = {
    "max_tokens": "max_completion_tokens",
    "seed": None,
    "temperature": None,
    "stop": None,
}
"""Parameters that some servers refuse -> the name to try instead; None: do without. `Prompted.read` cuts at stops."""
FORMS = ("response_format", "json_schema", "json_object")
"""What a server names that refuses a rung."""


@dataclass(frozen=True)
class Dialect:
    """Parameters and forms that one server understands for one model."""

    rung: Rung = "json_schema"
    renamed: tuple[tuple[str, str | None], ...] = ()
    """Parameters with the names that they have here; None: not sent."""
    thinks: bool | None = None
    """Whether the model reasons before it answers; None: it has not shown it, and was not asked without a schema."""

    def spoken(self, body: dict[str, Any], schema: str | None) -> dict[str, Any]:
        """The body of a request as this server takes it."""
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
        """The dialect to try after a refusal that names a parameter; None if it names none.

        Of several, the first that is named: servers go on to say what they take instead, or what they were sent.
        """
        known = dict(self.renamed)
        names = [name for name in OTHER_NAMES if name not in known]
        found = re.search(rf"\b(?:{'|'.join([*names, *FORMS])})\b", message)
        name = found[0] if found else None
        return replace(self, renamed=(*self.renamed, (name, OTHER_NAMES[name]))) if name in OTHER_NAMES else None

    def lower(self) -> Self | None:
        """The dialect one rung down; None at the bottom."""
        index = RUNGS.index(self.rung) + 1
        return replace(self, rung=RUNGS[index]) if index < len(RUNGS) else None

    def to_json(self) -> str:
        """Write the dialect as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a dialect that `to_json` wrote."""
        fields = json.loads(text)
        renamed = tuple((name, other) for name, other in fields["renamed"])
        return cls(fields["rung"], renamed, fields.get("thinks"))
