"""A client for tests and documentation that answers at once by fixed rules, without a model."""

import json
import random
from typing import Self

from multigrain.llm.dialect import Dialect
from multigrain.llm.protocol import Answer, Request

MODEL = "scripted"
WORDS = (
    "river stone window garden paper engine winter letter market island copper basket thunder village mirror "
    "candle harbor meadow timber saddle lantern orchard pepper ribbon marble feather anchor barrel cotton desert"
).split()
CLOZE = 4
"""The grade whose negatives are made by cloze: the answer is only a replacement term."""
LENGTH = 14
"""Words of a passage."""


class ScriptedClient:
    """A client whose passages repeat more words of the query for higher grades."""

    address = "the scripted LLM"
    dialect: Dialect | None = Dialect("text")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    async def complete(self, request: Request) -> Answer:
        """See `Client.complete`."""
        text = _reply(request)
        return Answer(text, len(request.prompt.split()), len(text.split()))

    async def is_alive(self) -> bool:
        """See `Client.is_alive`."""
        return True


def _reply(request: Request) -> str:
    """Write the answer for the prompt, chosen by the prompt's name."""
    prompt = request.version.split()[-1].partition("@")[0]
    text = request.prompt.rpartition("Query: " if "Query: " in request.prompt else "Passage: ")[2].splitlines()[0]
    if prompt.startswith("grade_"):
        grade = int(prompt.removeprefix("grade_"))
        return " ".join(_invented(request, 1, 2)) if grade == CLOZE else _passage(text, grade, request.seed)
    if prompt == "all_grades":
        grades = [grade for grade in (1, 2, 3, 4) if f'"grade_{grade}": a passage' in request.prompt]
        return json.dumps({f"grade_{grade}": _passage(text, grade, request.seed) for grade in grades})
    if prompt == "brainstorm":
        return json.dumps({"tasks": [f"Find the {words}." for words in _invented(request, 8, 4)]})
    if prompt == "pair":
        (query,) = _invented(request, 1, 8)
        (positive,) = _invented(request, 1, 2 * LENGTH)
        words = f"{query} {positive}".split()
        return json.dumps({"query": query, "positive": " ".join(random.Random(query).sample(words, len(words)))})
    if prompt == "judge":
        return str(random.Random(request.prompt).randrange(4))
    if prompt.startswith("query_"):
        words = request.prompt.split()[:LENGTH]
        return " ".join(random.Random(f"{request.seed}-{request.prompt}").sample(words, max(len(words) // 2, 1)))
    raise ValueError(f"no recipe for {request.version!r}")


def _invented(request: Request, count: int, length: int) -> list[str]:
    draw = random.Random(f"{request.seed}-{length}-{request.prompt}")
    return [" ".join(draw.choices(WORDS, k=length)) for _ in range(count)]


def _passage(query: str, grade: int, seed: int) -> str:
    draw = random.Random(f"{seed}-{grade}-{query}")
    words = query.split()
    repeated = draw.sample(words, round(len(words) * (grade - 1) / 4))
    filler = draw.choices(WORDS, k=max(LENGTH - len(repeated), 4))
    return " ".join(draw.sample(repeated + filler, len(repeated) + len(filler)))
