"""Have a language model write candidates for negatives, at every grade asked for."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from multigrain.config import Config
from multigrain.llm.client import Ask, Request
from multigrain.llm.store import AnswerStore
from multigrain.llm.structured import schema_of
from multigrain.records import Candidate, Pair
from multigrain.synthesis import parse, prompts

STAGE = "synthesize"


@dataclass(frozen=True, slots=True)
class Parked:
    """An input that stays without candidates, and why."""

    pair_id: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Task:
    """A pair, and what is asked for it."""

    pair: Pair
    ask: Ask

    def outcome(self, store: AnswerStore) -> list[Candidate] | Parked:
        """What came of it: the candidates, or why there are none."""
        request = self.ask.request
        answer = store.answer(request.key)
        if answer is None:
            reason, detail = store.parked(request.key) or ("unsettled", "nobody has asked yet")
            return Parked(self.pair.id, reason, detail)
        prompt = request.version.removeprefix(f"{STAGE} ")
        passages = self.ask.read(answer)
        return [Candidate(self.pair.id, grade, text, "llm", request.model, prompt) for grade, text in passages.items()]


def choose_pairs(pairs: Iterable[Pair], count: int, limit: int | None, seed: int) -> Iterator[Pair]:
    """A seeded sample of at most `limit` of the `count` pairs, in their old order."""
    if limit is None or limit >= count:
        yield from pairs
        return
    chosen = set(random.Random(seed).sample(range(count), limit))
    yield from (pair for index, pair in enumerate(pairs) if index in chosen)


def requests_each(config: Config) -> int:
    """How many requests are made for each pair: one for each grade or one for all, `per_grade` times."""
    return len(_asked(config)) * config.synthesis.per_grade


def plan(config: Config, pairs: Iterable[Pair], count: int, model: str) -> Iterator[Task]:
    """All that is asked in a run, one after the other.

    Args:
        config: the run.
        pairs: the training pairs, read as they are needed.
        count: how many they are.
        model: the model's name at the server.
    """
    asked = _asked(config)
    for pair in choose_pairs(pairs, count, config.synthesis.limit, config.seed):
        for repeat in range(config.synthesis.per_grade):
            for grades in asked:
                yield Task(pair, _ask(config, pair, grades, model, config.seed + repeat))


def _asked(config: Config) -> list[tuple[int, ...]]:
    """The grades that each request for a pair asks for."""
    grades = sorted(set(config.synthesis.grades))
    return [(grade,) for grade in grades] if config.prompt_style == "per-grade" else [tuple(grades)]


def _ask(config: Config, pair: Pair, grades: tuple[int, ...], model: str, seed: int) -> Ask:
    temperature, limit = config.llm.temperature, config.synthesis.answer_tokens
    if config.prompt_style == "per-grade":
        (grade,) = grades
        prompt, limit = prompts.per_grade_prompt(pair, grade), limit or prompts.MAX_TOKENS_PER_GRADE
        version = f"{STAGE} {prompts.PER_GRADE_VERSION}"
        request = Request("completion", prompt, model, limit, temperature, prompts.STOP, seed, version=version)
        return Ask(request, parse.per_grade_reader(grade))
    prompt, limit = prompts.all_grades_prompt(pair, list(grades)), limit or prompts.MAX_TOKENS_ALL_GRADES
    schema, version = schema_of(parse.answer_model(grades)), f"{STAGE} {prompts.ALL_GRADES_VERSION}"
    request = Request("chat", prompt, model, limit, temperature, (), seed, schema, version)
    return Ask(request, parse.all_grades_reader(grades))
