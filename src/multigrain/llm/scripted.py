"""A double for tests and documentation: a client that answers at once, by a fixed recipe, from no model."""

import json
import random
from typing import Self

from multigrain.llm.client import Answer, Request
from multigrain.llm.dialect import Dialect

MODEL = "scripted"
WORDS = (
    "river stone window garden paper engine winter letter market island copper basket thunder village mirror "
    "candle harbor meadow timber saddle lantern orchard pepper ribbon marble feather anchor barrel cotton desert"
).split()
LENGTH = 14
"""Words of a passage."""


class ScriptedClient:
    """The higher the grade asked for, the more words of the query the passage repeats."""

    address = "the scripted LLM"
    dialect: Dialect | None = Dialect("text")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    async def complete(self, request: Request) -> Answer:
        """See `Client.complete`."""
        query = request.prompt.rpartition("Query: ")[2].splitlines()[0]
        if request.kind == "chat":
            grades = [grade for grade in (1, 2, 3, 4) if f'"grade_{grade}": a passage' in request.prompt]
            text = json.dumps({f"grade_{grade}": _passage(query, grade, request.seed) for grade in grades})
        else:
            hints = {"Off-topic": 1, "Same-field": 2, "Related": 3, "Near-miss": 4}
            last_label = request.prompt.splitlines()[-1].split()[0]
            text = _passage(query, hints[last_label], request.seed)
        return Answer(text, len(request.prompt.split()), len(text.split()))

    async def is_alive(self) -> bool:
        """See `Client.is_alive`."""
        return True


def _passage(query: str, grade: int, seed: int) -> str:
    draw = random.Random(f"{seed}-{grade}-{query}")
    words = query.split()
    repeated = draw.sample(words, round(len(words) * (grade - 1) / 4))
    filler = draw.choices(WORDS, k=max(LENGTH - len(repeated), 4))
    return " ".join(draw.sample(repeated + filler, len(repeated) + len(filler)))
