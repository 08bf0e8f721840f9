"""Have a language model write candidates for negatives, at every grade asked for."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from multigrain.config import Config
from multigrain.errors import LLMReplyError
from multigrain.llm.client import Client, Request
from multigrain.llm.scheduler import answer_all
from multigrain.llm.store import AnswerStore
from multigrain.records import Candidate, Pair
from multigrain.synthesis import parse, prompts


@dataclass(frozen=True)
class Written:
    """The candidates written, the requests that stay without one (with the reason), and what it took."""

    candidates: list[Candidate]
    parked: list[tuple[str, str]]
    """(id of the pair, reason)"""
    requests: int
    sent: int
    tokens: int


@dataclass(frozen=True)
class Task:
    """A request and what its answer is for."""

    pair: Pair
    grades: tuple[int, ...]
    request: Request


def choose_pairs(pairs: list[Pair], limit: int | None, seed: int) -> list[Pair]:
    """A seeded sample of at most `limit` pairs, in their old order."""
    if limit is None or limit >= len(pairs):
        return pairs
    chosen = set(random.Random(seed).sample(range(len(pairs)), limit))
    return [pair for index, pair in enumerate(pairs) if index in chosen]


def plan_requests(config: Config, pairs: list[Pair], model: str) -> list[Task]:
    """All requests of a run: one for each grade, or one for all grades, `per_grade` times."""
    chosen = choose_pairs(pairs, config.synthesis.limit, config.seed)
    grades = sorted(set(config.synthesis.grades))
    per_grade = config.prompt_style == "per-grade"
    return [
        Task(pair, asked, _request(config, pair, asked, model, repeat))
        for pair in chosen
        for repeat in range(config.synthesis.per_grade)
        for asked in ([(grade,) for grade in grades] if per_grade else [tuple(grades)])
    ]


def _request(config: Config, pair: Pair, grades: tuple[int, ...], model: str, repeat: int) -> Request:
    temperature, seed = config.llm.temperature, config.seed + repeat
    if config.prompt_style == "per-grade":
        prompt = prompts.per_grade_prompt(pair, grades[0])
        return Request("completion", prompt, model, prompts.MAX_TOKENS_PER_GRADE, temperature, prompts.STOP, seed)
    prompt = prompts.all_grades_prompt(pair, list(grades))
    return Request("chat", prompt, model, prompts.MAX_TOKENS_ALL_GRADES, temperature, (), seed)


async def write_candidates(
    config: Config, tasks: list[Task], client: Client, store: AnswerStore, on_answer: Callable[[], None]
) -> Written:
    """Ask the client for whatever the store does not hold yet, and read the answers.

    Raises:
        LLMRefused, LLMUnavailable: see `answer_all`.
    """
    requests = [task.request for task in tasks]
    llm = config.llm
    outcome = await answer_all(client, requests, store, llm.max_concurrency, llm.max_requests, on_answer)
    candidates: list[Candidate] = []
    parked: list[tuple[str, str]] = []
    for task in tasks:
        answer = outcome.answers.get(task.request.key)
        if answer is None:
            parked.append((task.pair.id, outcome.parked[task.request.key]))
            continue
        try:
            candidates += _candidates(task, answer.text)
        except LLMReplyError as error:
            parked.append((task.pair.id, str(error)))
    return Written(candidates, parked, len(tasks), outcome.sent, outcome.tokens)


def _candidates(task: Task, text: str) -> list[Candidate]:
    model = task.request.model
    if task.request.kind == "completion":
        passage = parse.parse_per_grade(text)
        return [Candidate(task.pair.id, task.grades[0], passage, "llm", model, prompts.PER_GRADE_VERSION)]
    passages = parse.parse_all_grades(text, list(task.grades))
    return [
        Candidate(task.pair.id, grade, passage, "llm", model, prompts.ALL_GRADES_VERSION)
        for grade, passage in passages.items()
    ]
