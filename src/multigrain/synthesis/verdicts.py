"""Have a language model say whether texts answer a query."""

from collections.abc import Iterable, Iterator

from multigrain.config import Config
from multigrain.llm.client import Ask, Request
from multigrain.prompts import load_prompt
from multigrain.records import Candidate, Pair
from multigrain.synthesis import wording
from multigrain.synthesis.rating import read_rating
from multigrain.synthesis.task import Task

STAGE = "judge"
RATING_TOKENS = 64


def plan_verdicts(
    config: Config, pair: Pair, candidates: Iterable[Candidate], model: str
) -> Iterator[Task[tuple[str, str, int]]]:
    """One request for each candidate of the pair; it becomes (pair's id, text, rating)."""
    prompt = load_prompt("judge", config.synthesis.prompts)
    for candidate in candidates:
        text = prompt.fill(
            query=wording.one_line(pair.query),
            passage=wording.shortened(candidate.text, wording.MANY_WORDS),
            domain=wording.domain(config.synthesis),
        )
        limit, version = config.synthesis.answer_tokens or RATING_TOKENS, f"{STAGE} {prompt.version}"
        extra = config.llm.extra
        request = Request("chat", text, model, limit, 0.0, (), config.seed, version=version, extra=extra)

        def make(rating: int, text: str = candidate.text) -> list[tuple[str, str, int]]:
            return [(pair.id, text, rating)]

        yield Task(pair.id, Ask(request, read_rating), make)
