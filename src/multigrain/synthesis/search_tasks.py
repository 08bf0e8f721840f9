"""Mode "tasks": brainstorm search tasks for a few fields, then invent pairs for each.

These are the two stages of *Negative Matters* (and of E5-mistral, arXiv 2401.00368). The negatives follow, as for any
pair.
"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

from multigrain.config import Config
from multigrain.llm.prompted_input import Prompted
from multigrain.llm.protocol import Answer, Request
from multigrain.llm.structured import read_object, schema_of
from multigrain.records import Pair, folded
from multigrain.synthesis import shown_texts
from multigrain.synthesis.parse import TaskList, WrittenPair
from multigrain.synthesis.prompts import load_prompt

STAGE = "invent"
AT_ONCE = 8
"""Tasks requested by one prompt."""
ROUNDS = 3
"""Tasks requested for each task wanted, because many are repeats."""
LIST_TOKENS, PAIR_TOKENS = 600, 900
"""Maximum number of tokens in an answer: for a list of tasks, and for a query with its positive."""
NEAR_COPY = 0.8
"""Share of common letter pairs (Dice) at which two tasks count as the same."""
DIFFICULTIES = ("no special knowledge", "a school education", "a degree in the subject")
"""The knowledge needed to understand an invented pair; drawn for each."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of search task: what a query and its positive look like."""

    name: str
    finds: str
    query: str
    positive: str
    samples: tuple[str, str]


KINDS = (
    Kind(
        "short-long",
        "long texts by a short query",
        "a query of at most ten words",
        "a passage of 80 to 200 words",
        ("Find the manual page that explains an error message.", "Retrieve studies on the side effects of a medicine."),
    ),
    Kind(
        "long-short",
        "a short label or sentence for a long text",
        "a text of 80 to 200 words",
        "a text of at most ten words",
        ("Name the department that a complaint should go to.", "Find the headline that fits a news article."),
    ),
    Kind(
        "short-short",
        "a short text by another short text",
        "a query of at most ten words",
        "a text of at most fifteen words",
        ("Find the product that a customer asks for.", "Retrieve the abbreviation of a technical term."),
    ),
    Kind(
        "long-long",
        "a long text by another long text",
        "a text of 80 to 200 words",
        "a passage of 80 to 200 words",
        ("Find earlier court decisions that resemble a case.", "Retrieve papers that rest on the same method."),
    ),
    Kind(
        "symmetric",
        "a text that says the same in other words",
        "a sentence of 10 to 25 words",
        "a paraphrase of it in 10 to 25 words, with hardly a word in common",
        ("Find forum questions that ask the same.", "Retrieve sentences that are paraphrases of each other."),
    ),
)
"""Four asymmetric kinds, by the lengths of query and positive, and the symmetric one."""
BY_NAME = {kind.name: kind for kind in KINDS}


@dataclass(frozen=True, slots=True)
class SearchTask:
    """A search task: a sentence that says what its queries look for, which becomes their instruction."""

    text: str
    kind: str
    field: str


def plan_brainstorm(config: Config, model: str) -> Iterator[Prompted[list[SearchTask]]]:
    """Yield prompts for lists of tasks, for each field and kind."""
    section = config.synthesis
    prompt = load_prompt("brainstorm", section.prompts)
    rounds = -(-section.tasks * ROUNDS // (AT_ONCE * len(KINDS) * max(len(section.domains), 1)))
    for number, field, kind in product(range(rounds), section.domains, KINDS):
        text = prompt.fill(
            count=str(AT_ONCE),
            field=shown_texts.one_line(field),
            kind=kind.finds,
            samples="\n".join(f'"{sample}"' for sample in kind.samples),
            domain=shown_texts.domain(section),
        )
        request = _request(
            config,
            text,
            model=model,
            tokens=LIST_TOKENS,
            number=number,
            schema=schema_of(TaskList),
            version=prompt.version,
        )
        yield Prompted(f"{field}, {kind.name}, {number + 1}", request, partial(_tasks_found, kind.name, field))


def choose_tasks(found: Iterable[SearchTask], count: int) -> list[SearchTask]:
    """Return at most `count` distinct tasks, spread evenly over fields and kinds; of similar tasks keep the first."""
    numbers: dict[str, int] = {}
    of_field: dict[str, list[int]] = {}
    distinct: list[SearchTask] = []
    for task in found:
        letters, others = _letter_pairs(task, numbers), of_field.setdefault(task.field, [])
        if not any(_are_same(letters, other) for other in others):
            others.append(letters)
            distinct.append(task)
    places = Counter[tuple[str, str]]()
    turns = []
    for task in distinct:
        turns.append((places[task.field, task.kind], task))
        places[task.field, task.kind] += 1
    turns.sort(key=lambda turn: turn[0])  # stable: each field and kind gives its first, then its second, ...
    return [task for _, task in turns[:count]]


def plan_pairs(config: Config, tasks: Sequence[SearchTask], model: str) -> Iterator[Prompted[list[Pair]]]:
    """Yield prompts for a query and its positive, `pairs_invented_each` for each task."""
    section = config.synthesis
    prompt = load_prompt("pair", section.prompts)
    for place, task in enumerate(tasks, start=1):
        kind = BY_NAME[task.kind]
        for number in range(1, config.pairs_invented_each + 1):
            id = f"{place}-{number}"
            text = prompt.fill(
                task=task.text,
                query_kind=kind.query,
                positive_kind=kind.positive,
                query_language=shown_texts.query_language(section, "English"),
                language=shown_texts.passage_language(section, "English"),
                difficulty=random.Random(f"{config.seed} {id}").choice(DIFFICULTIES),
                number=str(number),
                domain=shown_texts.domain(section),
                examples=shown_texts.examples(section),
            )
            request = _request(
                config,
                text,
                model=model,
                tokens=PAIR_TOKENS,
                number=number,
                schema=schema_of(WrittenPair),
                version=prompt.version,
            )
            yield Prompted(id, request, partial(_pair_invented, id, task))


def _tasks_found(kind: str, field: str, answer: Answer) -> list[SearchTask]:
    return [SearchTask(task, kind, field) for task in read_object(answer, TaskList).tasks]


def _pair_invented(id: str, task: SearchTask, answer: Answer) -> list[Pair]:
    found = read_object(answer, WrittenPair)
    return [
        Pair(
            id=id,
            query=found.query,
            positive=found.positive,
            source=task.field,
            instruction=shown_texts.one_line(task.text),
            task=task.kind,
        )
    ]


def _request(config: Config, text: str, *, model: str, tokens: int, number: int, schema: str, version: str) -> Request:
    return Request(
        kind="chat",
        prompt=text,
        model=model,
        max_tokens=config.synthesis.answer_tokens or tokens,
        temperature=config.llm.temperature,
        seed=config.seed + number,
        schema=schema,
        version=f"{STAGE} {version}",
        extra=config.llm.extra,
    )


def _letter_pairs(task: SearchTask, numbers: dict[str, int]) -> int:
    """Return the letter pairs of the task as bits of a number, so that comparing two tasks is fast."""
    text = folded(task.text)
    pairs = {text[start : start + 2] for start in range(max(len(text) - 1, 1))}
    return sum(1 << numbers.setdefault(pair, len(numbers)) for pair in pairs)


def _are_same(one: int, other: int) -> bool:
    return 2 * (one & other).bit_count() >= NEAR_COPY * (one.bit_count() + other.bit_count())
