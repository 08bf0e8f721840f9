"""Have a language model write candidates for negatives, at every requested grade.

There are two styles, because models differ in how well they follow instructions:

per-grade    one grade per request: a few-shot completion for grades 1 to 3, a cloze for grade 4. Small models
             continue a pattern far better than they follow an instruction.
all-grades   one chat message that describes all grades and asks for one JSON object; for large models.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from multigrain.config import Config
from multigrain.data.sampling import choose
from multigrain.llm.prompted_input import Prompted
from multigrain.llm.protocol import Answer, Request
from multigrain.llm.structured import schema_of
from multigrain.records import Candidate, Pair
from multigrain.synthesis import parse, shown_texts
from multigrain.synthesis.cloze import Cloze
from multigrain.synthesis.prompts import load_prompt

STAGE = "synthesize"
STOP = ("\n",)
GRADE_PROMPTS = ("grade_1", "grade_2", "grade_3", "grade_4")
"""The prompts of the style `per-grade`, by grade."""
PASSAGE_TOKENS, TERM_TOKENS = 48, 12
"""Maximum number of tokens that a small model may write: for a passage, and for the term of a cloze."""
TOKENS_PER_WORD = 3
"""Tokens per word, with room for languages whose words have many tokens."""
SMALLEST_ANSWER, LARGEST_ANSWER = 700, 8000
"""Smallest and largest token limit of an answer with all grades."""
CLOZE = 4
"""The grade that a small model writes by cloze."""

ReadPairs = Callable[[], Iterable[Pair]]


def requests_each(config: Config) -> int:
    """Return the number of requests for each pair: one for each grade, or one for all, times `per_grade`."""
    return len(_together(config, config.synthesis.grades_from("llm"))) * config.synthesis.per_grade


def plan_negatives(
    config: Config, read_pairs: ReadPairs, count: int, model: str
) -> Iterator[Prompted[list[Candidate]]]:
    """Yield a prompt for each request of a run, pair by pair.

    Args:
        config: the run, with the prompt style decided.
        read_pairs: returns the training pairs, which are read lazily.
        count: number of training pairs.
        model: the model's name at the server.
    """
    writer = Writer(config, read_pairs, model)
    for pair in choose(read_pairs(), count, config.pairs_asked(count), config.seed):
        for repeat in range(config.synthesis.per_grade):
            yield from writer.prompts(pair, config.synthesis.grades_from("llm"), repeat)


def plan_repairs(
    config: Config, read_pairs: ReadPairs, missing: Mapping[str, Sequence[int]], model: str, attempt: int
) -> Iterator[Prompted[list[Candidate]]]:
    """Yield prompts for the grades that stayed empty, and only for these.

    Args:
        config: the run, with the prompt style decided.
        read_pairs: returns the training pairs.
        missing: empty grades, by the id of the pair.
        model: the model's name at the server.
        attempt: number of the attempt, from 1; each has another seed and, in a cloze, another term.
    """
    writer = Writer(config, read_pairs, model)
    for pair in read_pairs():
        if grades := missing.get(pair.id):
            yield from writer.prompts(pair, grades, config.synthesis.per_grade + attempt - 1)


class Writer:
    """Writes the prompts for grades, in the style of the run.

    Args:
        config: the run, with the prompt style decided.
        read_pairs: returns the training pairs, whose queries tell a cloze which words are rare.
        model: the model's name at the server.
    """

    def __init__(self, config: Config, read_pairs: ReadPairs, model: str) -> None:
        self._config, self._section, self._model = config, config.synthesis, model
        self._prompts = {name: load_prompt(name, self._section.prompts) for name in (*GRADE_PROMPTS, "all_grades")}
        self._cloze = None
        if config.prompt_style == "per-grade":
            language = self._section.language or "english"
            self._cloze = Cloze((pair.query for pair in read_pairs()), language)

    def prompts(self, pair: Pair, grades: Sequence[int], repeat: int) -> Iterator[Prompted[list[Candidate]]]:
        """Yield the prompts about a pair; each `repeat` leads to different texts."""
        for together in _together(self._config, grades):
            yield self._prompted(pair, together, repeat)

    def _prompted(self, pair: Pair, grades: tuple[int, ...], repeat: int) -> Prompted[list[Candidate]]:
        if self._cloze is None:
            return self._all_grades(pair, grades, repeat)
        (grade,) = grades
        return self._by_cloze(self._cloze, pair, repeat) if grade == CLOZE else self._by_pattern(pair, grade, repeat)

    def _by_pattern(self, pair: Pair, grade: int, repeat: int) -> Prompted[list[Candidate]]:
        prompt = self._prompts[GRADE_PROMPTS[grade - 1]]
        texts = {"query": shown_texts.one_line(pair.query), "positive": shown_texts.shortened(pair.positive)}
        text = shown_texts.domain(self._section) + prompt.pattern(shown_texts.shots(self._section, grade), **texts)
        request = self._completion(text, PASSAGE_TOKENS, repeat, prompt.version)
        return _prompted_about(pair, request, parse.per_grade_reader(grade))

    def _by_cloze(self, cloze: Cloze, pair: Pair, repeat: int) -> Prompted[list[Candidate]]:
        prompt, terms = self._prompts["grade_4"], cloze.terms(pair)
        # After the last term, the first is used again, with another seed.
        term = terms[repeat % len(terms)]
        text = prompt.pattern([], term=shown_texts.one_line(term))
        request = self._completion(text, TERM_TOKENS, repeat, prompt.version)
        return _prompted_about(pair, request, parse.cloze_reader(CLOZE, pair.positive, term, cloze.is_same))

    def _completion(self, text: str, tokens: int, repeat: int, version: str) -> Request:
        return Request(
            kind="completion",
            prompt=text,
            model=self._model,
            max_tokens=self._section.answer_tokens or tokens,
            temperature=self._config.llm.temperature,
            stop=STOP,
            seed=self._config.seed + repeat,
            version=f"{STAGE} {version}",
            extra=self._config.llm.extra,
        )

    def _all_grades(self, pair: Pair, grades: tuple[int, ...], repeat: int) -> Prompted[list[Candidate]]:
        prompt, section = self._prompts["all_grades"], self._section
        words = min(len(pair.positive.split()), shown_texts.MANY_WORDS)
        text = prompt.fill(
            count=str(len(grades)),
            wanted="\n".join(f'"grade_{grade}": a passage {parse.MEANINGS[grade]}' for grade in grades),
            keys=", ".join(f'"grade_{grade}": "..."' for grade in grades),
            language=shown_texts.passage_language(section, "the language of the positive passage"),
            words=str(max(words, 5)),
            domain=shown_texts.domain(section),
            examples=shown_texts.examples(section),
            query=shown_texts.one_line(pair.query),
            positive=shown_texts.shortened(pair.positive, shown_texts.MANY_WORDS),
        )
        needed = len(grades) * words * TOKENS_PER_WORD
        limit = section.answer_tokens or min(max(needed, SMALLEST_ANSWER), LARGEST_ANSWER)
        request = Request(
            kind="chat",
            prompt=text,
            model=self._model,
            max_tokens=limit,
            temperature=self._config.llm.temperature,
            seed=self._config.seed + repeat,
            schema=schema_of(parse.answer_model(grades)),
            version=f"{STAGE} {prompt.version}",
            extra=self._config.llm.extra,
        )
        return _prompted_about(pair, request, parse.all_grades_reader(grades))


def _prompted_about(pair: Pair, request: Request, read: parse.Reader) -> Prompted[list[Candidate]]:
    return Prompted(pair.id, request, partial(_candidates, pair, request, read))


def _candidates(pair: Pair, request: Request, read: parse.Reader, answer: Answer) -> list[Candidate]:
    prompt = request.version.removeprefix(f"{STAGE} ")
    candidates = []
    for grade, text in read(answer).items():
        candidate = Candidate(pair_id=pair.id, grade=grade, text=text, source="llm", model=request.model, prompt=prompt)
        candidates.append(candidate)
    return candidates


def _together(config: Config, grades: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the grades that each request for a pair asks for."""
    if not grades:
        return []
    return [(grade,) for grade in grades] if config.prompt_style == "per-grade" else [tuple(grades)]
