"""Mode "corpus": have a language model write the queries that passages answer."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from multigrain.config import Config, QueryType
from multigrain.llm.prompted_input import Prompted
from multigrain.llm.protocol import Answer, Request
from multigrain.records import Document
from multigrain.synthesis import parse, shown_texts
from multigrain.synthesis.prompts import load_prompt

STAGE = "queries"
QUERY_TOKENS = 64
STOP = ("\n",)
SHOWN_WORDS = 150
"""Words shown of a passage. Small models lose the thread in longer ones and read 300 tokens a second on 2 cores."""


@dataclass(frozen=True, slots=True)
class WrittenQuery:
    """A query that was written for a passage, with a prompt."""

    id: str
    query: str
    passage: Document
    kind: QueryType
    prompt: str


def plan_queries(config: Config, passages: Iterable[Document], model: str) -> Iterator[Prompted[list[WrittenQuery]]]:
    """Yield a prompt for each query wanted; the query types take turns, from a seeded start.

    Args:
        config: the run.
        passages: the passages that get queries, read lazily.
        model: the model's name at the server.
    """
    section = config.synthesis
    prompts = {kind: load_prompt(f"query_{kind}", section.prompts) for kind in section.query_types}
    for passage in passages:
        start = random.Random(f"{config.seed} {passage.id}").randrange(len(section.query_types))
        for number in range(section.queries_per_passage):
            kind = section.query_types[(start + number) % len(section.query_types)]
            prompt = prompts[kind]
            text = prompt.fill(
                passage=shown_texts.shortened(passage.text, SHOWN_WORDS),
                language=shown_texts.query_language(section, "the language of the text"),
                domain=shown_texts.domain(section),
                examples=_examples(config),
            )
            request = Request(
                kind="chat",
                prompt=text,
                model=model,
                max_tokens=section.answer_tokens or QUERY_TOKENS,
                temperature=config.llm.temperature,
                stop=STOP,
                seed=config.seed + number,
                version=f"{STAGE} {prompt.version}",
                extra=config.llm.extra,
            )
            id = passage.id if section.queries_per_passage == 1 else f"{passage.id}#{number + 1}"

            yield Prompted(id, request, partial(_written, id, passage, kind, prompt.version))


def _written(id: str, passage: Document, kind: QueryType, prompt: str, answer: Answer) -> list[WrittenQuery]:
    return [WrittenQuery(id, parse.read_query(answer), passage, kind, prompt)]


def _examples(config: Config) -> str:
    """Return the user's own queries, as examples of what is wanted."""
    queries = [shown_texts.one_line(example.query) for example in config.synthesis.examples]
    return "\nIt should look like these: " + " | ".join(queries) if queries else ""
