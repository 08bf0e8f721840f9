"""One TOML file describes a run: read it, check all of it, and freeze it.

Unknown keys are errors that name the likely key, and all faults are reported at once. Input paths are
relative to the TOML file (environment variables such as `${MULTIGRAIN_DATA}` are filled in); `output` is
relative to the folder the command is run in.
"""

import hashlib
import json
import math
import os
import re
import tomllib
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from multigrain import usual
from multigrain.errors import ConfigError

Dimension = Annotated[int, Field(ge=1)]
Grade = Annotated[int, Field(ge=1, le=4)]
Precision = Literal["fp32", "bf16", "auto"]
"""Of matrix products."""
Share = Annotated[float, Field(ge=0, le=1)]

OUTCOME_NEUTRAL: dict[str, Any] = {
    "llm": {
        "base_url",
        "api_key_env",
        "max_concurrency",
        "max_requests",
        "max_tokens",
        "max_cost",
        "prices",
        "timeout",
        "extra_headers",
        "query",
    },
    "synthesis": {"answer_tokens", "max_parked", "durable"},
    "training": {
        "checkpoint_every",
        "checkpoint_minutes",
        "micro_batch_tokens",
        "activation_gb",
        "frozen_cache_gb",
        "evaluate",
        "report_to",
    },
}
"""Settings that may change without anything being done again."""

WRITTEN_SURPLUS = 2
"""Queries that are asked for, for each that training can see: the filters drop up to half of them."""

ALIKE = 0.75
"""How much alike two keys must be for the one to be a misspelling of the other, as difflib measures it."""
ALTERNATIVES = {
    "data.held_out": "a share of the queries, from 0 to below 1, such as 0.1, or a list of sources",
    "model.bidirectional": "true, false, or a number of layers from 1 on",
    "model.lora.targets": '"all-linear", or a list of names such as ["q_proj", "v_proj"]',
}
"""Keys that take values of several kinds, and which."""
BEIR = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets"
"""Where the data sets of the BEIR benchmark lie."""

QUICKSTART = Path(__file__).with_name("quickstart.toml")
RUN_FILE = "run.toml"
"""What a run folder calls the file that describes it."""


class Section(BaseModel):
    """A table of the TOML file: strict types, no unknown keys, frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _paths_are_text(cls, value: Any) -> Any:
        """In Python a setting may be a `Path` too."""
        texts = [_text(part) for part in value] if isinstance(value, list) else value
        return _text(texts)


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


class DataSection(Section):
    """Where the pairs and the corpus come from, and what is held out."""

    pairs: str | None = Field(None, min_length=1)
    """`beir:FOLDER:SPLIT`, `python-docs`, or a file or folder in one of the forms of docs/interchange.md; none
    where the language model writes the pairs too (`synthesis.mode`)."""
    corpus: str | None = None
    """`FILE.jsonl` or `beir:FOLDER`; by default the corpus that `pairs` brings, else the positives."""
    held_out: Annotated[float, Field(ge=0, lt=1)] | list[str] = 0.1
    """Share of the queries to hold out, or the sources (for `python-docs`: packages) to hold out whole."""
    limit: int | None = Field(None, ge=1)
    """Most training pairs to keep (a seeded sample)."""
    drop_leaked: bool = False
    """Train without the pairs whose query the evaluation asks too, instead of refusing them."""


class PricesSection(Section):
    """What the language model costs, in dollars per million tokens."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)


def _server(url: str) -> str:
    """The address without a slash at its end.

    Raises:
        ValueError: it is none, or carries a login or a query: keys come from the environment.
    """
    wanted = f'found "{url}"; wanted http(s)://HOST[:PORT]/PATH, such as https://api.example.com/v1'
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise ValueError(f"{wanted} ({error})") from None
    if not is_good or parts.username or parts.query or parts.fragment or re.search(r"\s", url):
        raise ValueError(f"{wanted}, without login or query (parameters go into llm.query)")
    return url.rstrip("/")


OWN_FIELDS = {
    "model": "llm.model",
    "temperature": "llm.temperature",
    "max_tokens": "synthesis.answer_tokens",
    "max_completion_tokens": "synthesis.answer_tokens",
    "seed": "seed",
    "messages": "synthesis.prompts",
    "prompt": "synthesis.prompts",
} | dict.fromkeys(("stop", "stream", "stream_options", "response_format", "n", "best_of"))
"""Fields of a request that are not the user's to add -> the setting for it, if there is one."""
OWN_HEADERS = ("content-type", "content-length", "transfer-encoding", "host", "connection")
SECRET = re.compile(r"authorization|(?:^|[-_ ]|api)(?:key|token|secret|password|cookie|credentials?)$", re.IGNORECASE)
"""Names of headers and parameters whose values are to come from the environment."""
VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")
"""An environment variable in a value."""


class LLMSection(Section):
    """Which language model writes candidates, and how it is spoken to."""

    provider: Literal["embedded", "endpoint", "scripted"] = "embedded"
    base_url: list[str] = []
    """Of an OpenAI-compatible server, such as `https://api.example.com/v1`; or of several with the same model."""
    model: str | None = None
    api_key_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    temperature: float = Field(0.7, ge=0, le=2)
    max_concurrency: int = Field(8, ge=1)
    """Requests under way at once, at each server."""
    max_requests: int | None = Field(None, ge=0)
    """The caps hold for the run folder, however many commands fill it; they are never passed."""
    max_tokens: int | None = Field(None, ge=0)
    """Of all prompts and answers together."""
    max_cost: float | None = Field(None, ge=0)
    """In dollars."""
    prices: PricesSection | None = None
    """By default those that the package `genai-prices` lists; nothing for a server on this machine."""
    timeout: float = Field(120, gt=0, le=86_400)
    """Seconds that one request may take."""
    extra_body: dict[str, Any] = {}
    """Further fields of each request, such as `{ chat_template_kwargs = { enable_thinking = false } }`."""
    extra_headers: dict[str, str] = {}
    """Further headers, such as `{ api-key = "$MY_KEY" }`: `$NAME` and `${NAME}` stand for environment variables."""
    query: dict[str, str] = {}
    """Added to each address, such as `{ api-version = "2024-10-21" }`; with variables, as in headers."""

    @property
    def extra(self) -> str:
        """`extra_body` as JSON, the same for the same fields; empty if there are none."""
        return json.dumps(self.extra_body, sort_keys=True) if self.extra_body else ""

    @field_validator("extra_body")
    @classmethod
    def _fields_are_free(cls, fields: dict[str, Any]) -> dict[str, Any]:
        for name in fields:
            if name in OWN_FIELDS:
                instead = f"; set {OWN_FIELDS[name]} instead" if OWN_FIELDS[name] else ""
                raise ValueError(f'found "{name}", which multigrain sets itself{instead}')
        try:
            json.dumps(fields, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"wanted what JSON can hold ({error})") from None
        return fields

    @field_validator("extra_headers")
    @classmethod
    def _headers_are_free(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
                raise ValueError(f'found "{name}", which is no name of a header')
            if not (value.isascii() and value.isprintable()):
                raise ValueError(f'the value of "{name}" holds characters that a header cannot (a line end?)')
            if name.lower() in OWN_HEADERS:
                raise ValueError(f'found "{name}", which multigrain sets itself')
        return headers

    @field_validator("extra_headers", "query")
    @classmethod
    def _keys_come_from_the_environment(cls, values: dict[str, str]) -> dict[str, str]:
        for name, value in values.items():
            if SECRET.search(name) and not VARIABLE.search(value):
                wanted = 'wanted the name of an environment variable, such as "$MY_KEY"'
                raise ValueError(f'the value of "{name}" is written to disk as it stands here; {wanted}')
        return values

    @model_validator(mode="after")
    def _endpoint_is_complete(self) -> "LLMSection":
        if self.provider == "endpoint" and not (self.base_url and self.model):
            raise ValueError('provider = "endpoint" also needs base_url and model')
        if len(set(self.base_url)) < len(self.base_url):
            raise ValueError("base_url names a server twice")
        return self

    @field_validator("base_url", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        urls = [value] if isinstance(value, str) else value
        return [_server(url) if isinstance(url, str) else url for url in urls] if isinstance(urls, list) else urls


class ExampleSection(Section):
    """A query with its positive, and negatives of it as you would write them: the language model is shown them."""

    query: str = Field(min_length=1)
    positive: str = Field(min_length=1)
    grade_1: str | None = None
    grade_2: str | None = None
    grade_3: str | None = None
    grade_4: str | None = None


QueryType = Literal["question", "situation", "keywords", "statement"]
Origin = Literal["llm", "mined", "both"]


class SynthesisSection(Section):
    """What the language model is asked to write."""

    mode: Literal["negatives", "corpus", "tasks"] = "negatives"
    """`negatives` for given pairs; `corpus`: queries for passages of `data.corpus` first; `tasks`: first search
    tasks in `domains`, then pairs for them."""
    limit: int | None = Field(None, ge=0)
    """Most training pairs (`corpus`: passages) to ask about; 0 asks the model for no negatives. It is never asked about
    more than training can see (`pairs_asked`)."""
    grades: list[Grade] = Field([1, 2, 3, 4], min_length=1)
    """Those that are written; `sources` may take some out."""
    per_grade: int = Field(1, ge=1, le=16)
    sources: dict[Literal["1", "2", "3", "4"], Origin] = {}
    """Where the negatives of a grade come from, such as `{1 = "mined", 4 = "both"}`; by default from both."""
    prompt_style: Literal["auto", "per-grade", "all-grades"] = "auto"
    """`per-grade`: few-shot completions and a cloze, for small models; `all-grades`: one JSON answer to a chat
    message; `auto` tries both on a few pairs and takes the one whose grades come in the better order, but for the
    embedded model, which wants `per-grade`."""
    language: str | None = None
    """Of the passages that are written, such as "German"; by default that of the passages that are there."""
    query_language: str | None = None
    """Of the queries that are written, if it is another."""
    domain: str | None = None
    """What the texts are about, in a sentence or two: every prompt says it."""
    examples: list[ExampleSection] = []
    prompts: str | None = None
    """A folder with prompts of yours; each replaces the packaged one of its name (see `multigrain/prompts`)."""
    query_types: list[QueryType] = Field(["question", "situation", "keywords", "statement"], min_length=1)
    """Mode `corpus`: each passage is asked for one of them, in turn."""
    queries_per_passage: int = Field(1, ge=1, le=16)
    domains: list[Annotated[str, Field(min_length=1)]] = []
    """Mode `tasks`: the fields to invent search tasks for."""
    tasks: int = Field(40, ge=1)
    """Mode `tasks`: how many, over all domains and kinds."""
    pairs_per_task: int = Field(10, ge=1)
    answer_tokens: int | None = Field(None, ge=8, le=10**6)
    """Longest answer; by default enough for texts of the positive's shown length. What was cut is
    asked again by `--retry length`."""
    durable: bool = False
    """Wait for the disk with every commit of an answer: then not even a power cut loses one."""
    max_parked: Share = 0.1
    """Share of the requests that may stay without a usable answer before the exit code is 3."""

    @field_validator("sources", mode="before")
    @classmethod
    def _grades_as_text(cls, value: Any) -> Any:
        return {str(grade): origin for grade, origin in value.items()} if isinstance(value, dict) else value

    def grades_from(self, origin: Literal["llm", "mined"]) -> list[int]:
        """The grades that may come from there, in rising order."""
        wanted = {grade for grade in (1, 2, 3, 4) if self.sources.get(str(grade), "both") in (origin, "both")}  # type: ignore[call-overload]
        return sorted(wanted & set(self.grades) if origin == "llm" else wanted)


class MiningSection(Section):
    """How neighbours from the corpus fill the grades."""

    enabled: bool = True
    methods: list[Literal["embedding", "bm25"]] = Field(["embedding", "bm25"], min_length=1)
    """`embedding` draws from all documents of a grade, `bm25` takes those that share most words with the query."""
    grades: list[Grade] = Field([1, 2, 3, 4], min_length=1)
    per_grade: int = Field(6, ge=1, le=16)
    """Candidates of each method; grading chooses among them."""
    language: str = "english"
    """Of the corpus, for `bm25`: its stop words and endings, where they are known."""


class GradingSection(Section):
    """How relevance is measured and cut into grades."""

    judge: list[Literal["embedding", "cross-encoder", "bm25", "llm"]] = Field(["embedding", "bm25"], min_length=1)
    """One or several. The first measures the grades; all must agree on the order, and that nothing is as relevant as
    the positive. `llm` measures nothing: it is asked whether the most relevant candidates answer the query."""
    judge_model: str = "embedded"
    """`embedded` (all-MiniLM-L6-v2) or a sentence-transformers model. It also mines, and filters written queries."""
    judge_max_tokens: int = Field(256, ge=8)
    query_prompt: str | None = None
    """What the judge's model reads before queries in place of its own prompt (see `model.query_prompt`)."""
    document_prompt: str | None = None
    """The same before documents."""
    cross_encoder: str | None = None
    """The model of the judge `cross-encoder`."""
    bands: list[Annotated[float, Field(gt=0)]] = Field([0.3, 0.5, 0.7], min_length=3, max_length=3)
    """Relevance, as a share of the positive's, at which grades 2, 3 and 4 begin."""
    false_negative_above: float = Field(0.95, gt=0)
    keep_given: bool = False
    """Negatives that came with their pairs keep the grades that they came with; only the others are judged."""
    length_ratio: float = Field(3.0, gt=1)
    """How many times as long as its positive, or as short, a negative may be, in words."""
    repairs: int = Field(2, ge=0, le=8)
    """Times that the language model is asked once more for a grade that stayed empty."""
    round_trip: int = Field(3, ge=1)
    """A written query must find its own passage among so many first documents of the corpus."""
    most_answers: int = Field(5, ge=1)
    """A written query that fits more documents of the corpus nearly as well as its own passage is dropped."""

    @field_validator("judge", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _cross_encoder_is_named(self) -> "GradingSection":
        if "cross-encoder" in self.judge and not self.cross_encoder:
            raise ValueError('judge = "cross-encoder" also needs cross_encoder, a model such as a folder or hub name')
        return self

    @model_validator(mode="after")
    def _bands_rise(self) -> "GradingSection":
        if list(self.bounds) != sorted(set(self.bounds)):
            raise ValueError("bands and false_negative_above must rise: " + " < ".join(map(str, self.bounds)))
        return self

    @property
    def bounds(self) -> tuple[float, ...]:
        """The four bounds that `multigrain.grades.grade_of` takes."""
        return (*self.bands, self.false_negative_above)


class AnchorSection(Section):
    """How anchor pooling weighs tokens; the defaults are the paper's."""

    form: Literal["log", "linear"] = "log"
    """`linear` does not damp the tokens that take most of the attention."""
    layers: list[int] = Field([-1], min_length=1)
    """The attention layers that are looked at, counted as in a list: -1 is the last."""
    exclude_first: bool = False
    """Leave out the first token, which takes half of the attention in an untrained causal model."""
    visibility_correction: bool = False
    """Divide the score of each token by the number of tokens that see it: a causal mask favours early ones."""
    detach: bool = False
    """Let no gradient flow through the weights."""


class LoraSection(Section):
    """A low-rank adapter is trained in place of all weights."""

    rank: int = Field(16, ge=1)
    alpha: int | None = Field(None, ge=1)
    """What the adapter adds is multiplied by alpha / rank; by default 2."""
    dropout: float = Field(0.05, ge=0, lt=1)
    targets: list[str] | Literal["all-linear"] = "all-linear"
    """Names of the modules that get an adapter, such as `["q_proj", "v_proj"]`."""
    dora: bool = False
    """Weight-decomposed adapters (arXiv 2402.09353)."""
    top_layers: int | None = Field(None, ge=1)
    """Only the last N layers get an adapter."""
    quantize: Literal["4bit"] | None = None
    """Keep the frozen weights in 4 bits while training (QLoRA); needs `pip install "multigrain[qlora]"`."""


class ModelSection(Section):
    """The model that is trained."""

    base: str = "embedded"
    """`embedded` (all-MiniLM-L6-v2), `embedded-llm` (SmolLM2-135M, a decoder), a folder, a GGUF file, or a hub name."""
    pooling: Literal["anchor", "mean", "cls", "last", "weighted"] = "anchor"
    anchor: AnchorSection = AnchorSection()
    bidirectional: bool | Annotated[int, Field(ge=1)] = False
    """Let the tokens of a decoder see those after them too, as encoders do; a number: in so many of its last layers,
    which is the way where only these are trained (lora.top_layers)."""
    lora: LoraSection | None = None
    max_tokens: int = Field(256, ge=8)
    instruction: str | None = Field(None, min_length=1)
    """What queries look for, in a sentence such as "Given a claim, find documents that refute it": queries then begin
    with it, documents with nothing. By default the base's own prompts, if it has any."""
    query_prompt: str | None = None
    """What goes before queries in place of the base's own prompt, such as "query: " of E5, whose files do not say it.
    The base is measured with it too."""
    document_prompt: str | None = None
    """The same before documents, such as "passage: "."""
    prompt_in_pooling: bool = True
    """Whether the tokens of a prompt take part in the pooling; they are attended to in any case."""

    @field_validator("instruction")
    @classmethod
    def _one_line(cls, instruction: str | None) -> str | None:
        if instruction is not None and (not instruction.strip() or len(instruction.splitlines()) > 1):
            raise ValueError(f"found {instruction!r}; wanted one line that says what queries look for")
        return instruction

    @model_validator(mode="after")
    def _one_prompt(self) -> "ModelSection":
        if self.instruction is not None and (self.query_prompt is not None or self.document_prompt is not None):
            raise ValueError("instruction, query_prompt and document_prompt: an instruction decides both; take it out")
        return self

    @model_validator(mode="after")
    def _anchor_settings_are_used(self) -> "ModelSection":
        if self.pooling != "anchor" and self.anchor.model_fields_set:
            raise ValueError(f'model.anchor is of use with pooling = "anchor" alone, found "{self.pooling}"')
        return self


def described(section: ModelSection) -> str:
    """What is made of the base, in words."""
    words = [f"{section.pooling} pooling", f"{section.max_tokens} tokens"]
    if section.bidirectional:
        words.append("bidirectional" if section.bidirectional is True else f"top {section.bidirectional} bidirectional")
    if lora := section.lora:
        where = f"the top {lora.top_layers} layers" if lora.top_layers else "all layers"
        words.append(f"{'DoRA' if lora.dora else 'LoRA'} of rank {lora.rank} in {where}")
    return ", ".join(words)


class PhaseSection(Section):
    """A part of the schedule; no grades means in-batch negatives alone."""

    name: str = Field(min_length=1)
    grades: list[Grade]
    """A step has one negative of each; a grade that is named twice has two."""
    steps: int | None = Field(None, ge=1)
    """By default the phase's share of training.steps."""
    share: float | None = Field(None, gt=0, le=1000)
    """Of the steps that phases without a number of steps have among them; by default they have equal shares."""
    temperature: float = Field(0.05, gt=0)
    """Similarities are divided by it."""
    weights: list[Share] | None = None
    """How much a negative of each of the grades counts, from 0 to 1; by default 1."""
    weights_end: list[Share] | None = None
    """The same at the end of the phase; in between the weights move evenly."""
    one_at_a_time: bool = False
    """A step has negatives of one of the grades, in random order, each as often as the others."""

    @model_validator(mode="after")
    def _fits_together(self) -> "PhaseSection":
        if self.steps is not None and self.share is not None:
            raise ValueError(f'phase "{self.name}" has steps and share; give one of them')
        for name in ("weights", "weights_end"):
            weights = getattr(self, name)
            if weights is not None and len(weights) != len(self.grades):
                raise ValueError(f'phase "{self.name}" has {len(weights)} {name} for {len(self.grades)} grades')
        if self.one_at_a_time and not self.grades:
            raise ValueError(f'phase "{self.name}" has one grade at a time, and no grades; name some')
        return self

    def weights_at(self, progress: float) -> list[float]:
        """The weight of each of the grades when `progress` (from 0 to 1) of the phase is over.

        >>> PhaseSection(name="a", grades=[1, 2], weights=[1, 0.5], weights_end=[0, 1]).weights_at(0.5)
        [0.5, 0.75]
        """
        start = self.weights or [1.0] * len(self.grades)
        end = self.weights_end or start
        return [a + progress * (b - a) for a, b in zip(start, end, strict=True)]


DEFAULT_STEPS = 80


class TrainingSection(Section):
    """How the model is trained."""

    schedule: Literal[
        "coarse-to-fine",
        "reverse",
        "random",
        "all-at-once",
        "only-1",
        "only-2",
        "only-3",
        "only-4",
        "in-batch",
        "overlapping",
        "annealed",
        "self-paced",
    ] = "all-at-once"
    """Which grades of negatives training meets when; see `multigrain.schedules`. Or give `phases`."""
    seed: int | None = Field(None, ge=0, lt=2**32)
    """Of the order of the tuples, of the negatives that are drawn, and of what an adapter begins with; by default the
    run's. Trainings that differ in it alone share data, synthesis and grading: see `multigrain ablate`."""
    steps: int = Field(DEFAULT_STEPS, ge=1)
    """Optimiser steps of the whole schedule."""
    temperature: float = Field(0.05, gt=0)
    """Similarities are divided by it; a phase may have its own."""
    phases: list[PhaseSection] = []
    """A schedule of your own (with `schedule = "self-paced"`: one whose phases end when they have taught enough)."""
    pace_every: int = Field(10, ge=2)
    """Self-paced: steps between two looks at the held-out tuples."""
    batch_size: int = Field(32, ge=2)
    """Tuples of one step, over all processes."""
    by_task: bool = True
    """A batch holds tuples of one task, where tuples have tasks and there are enough of them."""
    learning_rate: float = Field(5e-5, gt=0, lt=1)
    loss: Literal["infonce", "listwise", "distill"] = "infonce"
    """See `multigrain.training.objectives`."""
    symmetric: bool = False
    """Positives must find their queries too."""
    false_negative_above: float | None = Field(None, gt=0)
    """Negatives whose judge score is at least this share of the positive's do not count; grading did so already with
    the last of grading.bounds, so this is for trying stricter limits."""
    matryoshka: list[Dimension] = []
    """Train the first so many numbers of the vectors too, so that they can be cut to that length."""
    base_share: float = Field(0.0, ge=0, lt=1)
    """Share of the base in the weights that are saved (a soup of both models): less is forgotten, for less gain."""
    dropout: bool = False
    """Keep the base's own dropout. Without it a step is faster, and does not depend on how a batch is split."""
    precision: Precision = "fp32"
    """`bf16`: matrix products in half precision (about 1.6 times as fast on a CPU that can, more on a GPU); `auto`:
    where the hardware can."""
    max_tokens: int | None = Field(None, ge=8)
    """Cut texts to this length in training alone; by default model.max_tokens."""
    micro_batch_tokens: int | None = Field(None, ge=1)
    """Tokens that are encoded at once, texts of like length together; by default 1,024 on a CPU, 4,096 on a GPU."""
    activation_gb: float = Field(2.0, ge=0)
    """Memory for what the backward pass needs. Texts beyond it are encoded twice (GradCache): as exact, but slower."""
    frozen_cache_gb: float = Field(4.0, ge=0)
    """Disk space for the output of layers that are not trained (model.lora.top_layers), computed once for each text;
    if it takes more, it is computed at each step."""
    checkpoint_every: int = Field(20, ge=1)
    """Steps between checkpoints."""
    checkpoint_minutes: float = Field(5.0, gt=0)
    """And the longest time between them. Ctrl-C, SIGTERM and SIGHUP leave one too, when the step under way is done."""
    evaluate: bool = False
    """Measure the model on held-out pairs before training and after each phase."""
    report_to: list[Literal["tensorboard", "wandb"]] = []
    """Where the training log goes besides training/log.jsonl."""

    @field_validator("phases")
    @classmethod
    def _names_differ(cls, phases: list[PhaseSection]) -> list[PhaseSection]:
        names = [phase.name for phase in phases]
        if len(set(names)) < len(names):
            raise ValueError(f"phase names must differ, found {names}")
        return phases

    @model_validator(mode="after")
    def _one_schedule(self) -> "TrainingSection":
        for name in ("schedule", "temperature"):
            found = getattr(self, name)
            if self.phases and found not in (type(self).model_fields[name].default, "self-paced"):
                raise ValueError(f"{name} = {found} is of no use with phases; take one of them out")
        given = [phase.steps for phase in self.phases if phase.steps is not None]
        if given and len(given) == len(self.phases) and self.steps not in (DEFAULT_STEPS, sum(given)):
            raise ValueError(
                f"steps = {self.steps}, but the phases have {sum(given)}; take it out, or give them shares"
            )
        return self

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole schedule, the numbers that phases bring included."""
        given = [phase.steps for phase in self.phases if phase.steps is not None]
        return sum(given) if given and len(given) == len(self.phases) else self.steps

    @property
    def pairs_seen(self) -> int:
        """Most pairs that training can meet: one in each place of each batch."""
        return self.total_steps * self.batch_size

    @property
    def is_self_paced(self) -> bool:
        """Whether phases end when the model gets no better at them."""
        return self.schedule == "self-paced"


class EvaluationSection(Section):
    """What the trained model and its base are measured on."""

    tasks: list[str] = Field(["held-out"], min_length=1)
    """`held-out`, `beir:FOLDER:SPLIT`, `sts:FILE`, `graded:FILE` or `mteb:NAME`; see docs/evaluation.md."""
    precision: Precision = "fp32"
    """`bf16`: encode in half precision (about 1.6 times as fast on a CPU that can); `auto`: where the hardware can."""
    mteb_data: str | None = None
    """A folder with data sets of the hub, as OWNER/NAME, for `mteb:` tasks where the hub cannot be reached."""


class ExportSection(Section):
    """What is written beside the model that sentence-transformers loads."""

    onnx: bool = False
    """`model/onnx`: one graph from token ids to the embedding. Needs `pip install "multigrain[onnx]"`."""
    int8: bool = False
    """The graph in 8 bits too."""

    @model_validator(mode="after")
    def _int8_is_onnx(self) -> "ExportSection":
        if self.int8 and not self.onnx:
            raise ValueError("int8 = true needs onnx = true")
        return self


class Config(Section):
    """A whole run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(7, ge=0, lt=2**32)
    output: str = "runs"
    data: DataSection
    llm: LLMSection = LLMSection()
    synthesis: SynthesisSection = SynthesisSection()
    mining: MiningSection = MiningSection()
    grading: GradingSection = GradingSection()
    model: ModelSection = ModelSection()
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSection = EvaluationSection()
    export: ExportSection = ExportSection()

    @property
    def folder(self) -> Path:
        """The run folder that this configuration fills."""
        return Path(self.output) / self.name

    @property
    def training_seed(self) -> int:
        """That of the training: its own, else the run's."""
        return self.seed if self.training.seed is None else self.training.seed

    @property
    def pairs_asked(self) -> int:
        """Most training pairs that the language model is asked about: no more than training can see."""
        seen, limit = self.training.pairs_seen, self.synthesis.limit
        return seen if limit is None else min(limit, seen)

    @property
    def passages_asked(self) -> int:
        """Mode "corpus": most passages that get queries, those that are held out included."""
        return math.ceil(self._texts_written / self.synthesis.queries_per_passage)

    @property
    def pairs_invented_each(self) -> int:
        """Mode "tasks": the pairs that are asked for each search task; at least one."""
        return min(self.synthesis.pairs_per_task, math.ceil(self._texts_written / self.synthesis.tasks))

    @property
    def _texts_written(self) -> int:
        """Queries, or pairs, of which enough are left for training when some are held out and others dropped."""
        share = self.data.held_out
        assert isinstance(share, int | float)  # sources cannot be held out of what is still to be written
        return math.ceil(WRITTEN_SURPLUS * self.training.pairs_seen / (1 - share))

    @property
    def prompt_style(self) -> Literal["per-grade", "all-grades"]:
        """The style in force; for `auto`, the one that is likely before anybody has tried (`multigrain.style`)."""
        if self.synthesis.prompt_style != "auto":
            return self.synthesis.prompt_style
        return "all-grades" if self.llm.provider == "endpoint" else "per-grade"

    def fingerprint(self, *sections: str) -> str:
        """A digest of the sections named, and of nothing else.

        Some names stand for parts of sections: "asked" for the tasks of the evaluation, "drawing" for what decides
        which passages get queries, "judging" for what decides how the judge's encoder measures, "filtering" for what
        decides which written queries are kept.
        """
        synthesis, grading = self.synthesis, self.grading
        settings = self.model_dump(exclude=OUTCOME_NEUTRAL)
        settings["drawing"] = [synthesis.mode, synthesis.limit if synthesis.mode == "corpus" else None]
        settings["judging"] = [grading.judge_model, grading.judge_max_tokens, grading.bounds]
        settings["judging"] += [grading.query_prompt, grading.document_prompt]
        settings["asked"] = self.evaluation.tasks
        settings["filtering"] = [grading.round_trip, grading.most_answers]
        return self.digest({name: settings[name] for name in sections})

    @staticmethod
    def digest(value: Any) -> str:
        """The same for the same JSON value."""
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]

    @model_validator(mode="after")
    def _onnx_can_pool_so(self) -> "Config":
        if self.export.onnx and not self.model.prompt_in_pooling:
            found = "export.onnx: found true; a graph cannot know which tokens are a prompt's"
            raise ValueError(f"{found}, so it wants model.prompt_in_pooling = true")
        return self

    @model_validator(mode="after")
    def _has_what_its_mode_needs(self) -> "Config":
        mode, data = self.synthesis.mode, self.data
        if mode == "negatives" and data.pairs is None:
            raise ValueError("data.pairs: missing; add it, or set synthesis.mode to have the pairs written")
        if mode != "negatives" and data.pairs is not None:
            raise ValueError(f'data.pairs: synthesis.mode = "{mode}" has the pairs written; take it out')
        if mode == "corpus" and data.corpus is None:
            raise ValueError('data.corpus: missing; synthesis.mode = "corpus" writes queries for its passages')
        if mode == "tasks" and not self.synthesis.domains:
            raise ValueError('synthesis.domains: missing; synthesis.mode = "tasks" wants a list such as ["cooking"]')
        if mode == "tasks" and data.corpus is not None:
            raise ValueError('data.corpus: synthesis.mode = "tasks" writes all texts; take it out')
        if mode != "negatives" and isinstance(data.held_out, list):
            raise ValueError(f'data.held_out: found sources; synthesis.mode = "{mode}" wants a share, such as 0.1')
        if mode != "negatives" and self.synthesis.limit == 0:
            raise ValueError(f'synthesis.limit: found 0; synthesis.mode = "{mode}" needs the language model')
        return self


def as_path(value: str | Path, wanted: str) -> Path:
    """What a caller gave as the place of something; `~` is the home folder.

    Raises:
        TypeError: it is neither text nor a path.
        ConfigError: it is empty, which would be the folder that the command is run in.
    """
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"found {type(value).__name__}; wanted {wanted}, as str or Path")
    if value == "":
        raise ConfigError(wanted, ["found nothing; give its path"])
    return Path(value).expanduser()


def config_of(config: Config | str | Path) -> Config:
    """The configuration that is meant: as it is, or read from its file or run folder.

    Raises:
        TypeError, ConfigError: see `as_path` and `load_config`.
    """
    return config if isinstance(config, Config) else load_config(as_path(config, "a Config or a RUN.toml"))


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a run's TOML file.

    Args:
        path: the file; or a run folder, which has its own.
        overrides: `section.key=value` settings that win over the file; the value is TOML, or plain text.

    Raises:
        ConfigError: with every fault found.
    """
    given = as_path(path, "a RUN.toml")
    path = _file_of(given) if given.is_dir() else given
    settings, faults = read_settings(path, overrides)
    if "arms" in settings:
        raise ConfigError(path, ["describes a grid, with [arms]; wanted a run's file. Grids go to: multigrain ablate"])
    config = validated(settings, path, faults)
    if not is_run_folder(given) or config.folder.absolute() == given.absolute():
        return config
    place = {"output": str(given.resolve().parent), "name": given.resolve().name}  # it may have been moved
    chosen = {override.partition("=")[0].strip() for override in overrides}
    return validated(settings | {key: value for key, value in place.items() if key not in chosen}, path)


def is_run_folder(folder: Path) -> bool:
    """Whether a run was begun there."""
    return (folder / RUN_FILE).is_file() and any((folder / name).is_file() for name in ("manifest.json", ".lock"))


def _file_of(folder: Path) -> Path:
    """The file that describes a folder's run.

    Raises:
        ConfigError: it has none; says what the folder is.
    """
    if (folder / RUN_FILE).is_file():
        return folder / RUN_FILE
    found = "is a model's folder" if (folder / "modules.json").is_file() else f"is a folder without {RUN_FILE}"
    run = next((parent for parent in folder.absolute().parents if is_run_folder(parent)), None)
    advice = f"; its run is {run}" if run else ""
    raise ConfigError(folder, [f"{found}; wanted a run's file or its run folder{advice}"])


def read_settings(path: Path, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """The tables of a run's TOML file with its paths made absolute, and what is wrong with those.

    Raises:
        ConfigError: the file cannot be read, or is not TOML.
    """
    settings = read_toml(path)
    for override in overrides:
        _override(settings, override)
    return settings, resolve_paths(settings, path.parent)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(path, [f"cannot be read: {error.strerror}. Give the path of a TOML file."]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(path, [f"not TOML: {error}. Give the file that describes the run."]) from None


def validated(settings: dict[str, Any], source: str | Path, faults: Sequence[str] = ()) -> Config:
    """The settings, checked and frozen.

    Raises:
        ConfigError: with every fault found, and those that were known before.
    """
    found = list(faults)
    try:
        config = Config.model_validate(settings)
    except ValidationError as error:
        found += explained(error)
    if found:
        raise ConfigError(source, found)
    return config


def explained(error: ValidationError, kind: type[Section] = Config) -> list[str]:
    """One line for each fault that pydantic found in what was to be of this kind, however many kinds it tried."""
    lines: dict[str, str] = {}
    for fault in sorted(error.errors(), key=lambda fault: len(fault["loc"])):  # a list before its items
        tried = next((key for key in ALTERNATIVES if f"{_key(fault)}.".startswith(f"{key}.")), None)
        lines.setdefault(tried or str(fault["loc"]) + fault["type"], _explain(fault, kind, tried))
    return list(lines.values())


def _override(settings: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*", key.strip()):
        raise ConfigError("--set", [f'found "{override}"; wanted section.key=value, as in training.batch_size=16'])
    *sections, name = key.strip().split(".")
    for section in sections:
        settings = settings.setdefault(section, {})
        if not isinstance(settings, dict):
            raise ConfigError("--set", [f'"{key}": "{section}" is not a section'])
    settings[name] = _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def resolve_paths(settings: dict[str, Any], folder: Path) -> list[str]:
    """Make the paths in the settings absolute, in place; return what could not be resolved."""
    faults: list[str] = []

    def resolve(key: str, value: Any) -> Any:
        if not isinstance(value, str) or value in ("python-docs", "embedded", ""):
            return value
        expanded = os.path.expandvars(value)
        if unset := re.search(r"\$\{?(\w+)", expanded):
            origin = _origin(value)
            advice = "" if any(fault.endswith(origin) for fault in faults) else f"; {origin}"
            faults.append(f"{key}: the environment variable {unset[1]} is not set (in {value!r}){advice}")
        form, rest = re.fullmatch(r"((?:beir|sts|graded):)?(.*)", expanded, re.DOTALL).groups("")  # type: ignore[union-attr]
        is_path = form or key != "evaluation.tasks"
        return f"{form}{(folder / rest).absolute()}" if is_path else value

    for section, name in (("data", "pairs"), ("data", "corpus"), ("evaluation", "tasks"), ("evaluation", "mteb_data")):
        table = settings.get(section)
        if isinstance(table, dict) and name in table:
            value = table[name]
            key = f"{section}.{name}"
            table[name] = [resolve(key, item) for item in value] if isinstance(value, list) else resolve(key, value)
    for section, name in (
        ("model", "base"),
        ("grading", "judge_model"),
        ("grading", "cross_encoder"),
        ("synthesis", "prompts"),
    ):
        table = settings.get(section)
        if isinstance(table, dict) and isinstance(value := table.get(name), str) and (folder / value).exists():
            table[name] = str((folder / value).absolute())
    return faults


def _origin(value: str) -> str:
    """Where the data may come from that a path begins to name."""
    advice = "set it to the folder that the path goes on from, or write the path itself"
    if not (beir := re.fullmatch(r"beir:\$\{?\w+\}?/(\w[\w-]*)(:\w+)?", value)):
        return advice
    return f"{advice}. The data set, if you do not have it: {BEIR}/{beir[1]}.zip, to be unpacked there"


def _key(fault: ErrorDetails) -> str:
    return ".".join(str(part) for part in fault["loc"] if part != "[key]")


def _explain(fault: ErrorDetails, kind: type[Section], tried: str | None) -> str:
    """One line for one fault of pydantic's: key, what was found, what was wanted."""
    key, found = tried or _key(fault), fault["input"]
    if tried is not None:
        return f"{key}: found {json.dumps(found, default=str)}; wanted {ALTERNATIVES[key]}{_share_meant(key, found)}"
    if fault["type"] == "extra_forbidden":
        return _unknown(key, kind)
    if fault["type"] == "missing":
        return f"{key}: missing; add it"
    message = fault["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if fault["type"] == "value_error":
        return f"{key}: {message}" if key else message  # a fault of several sections names its keys itself
    if fault["type"] == "literal_error":
        message += _value_meant(found, re.findall("'([^']+)'", fault["ctx"]["expected"]))
    return f"{key}: found {json.dumps(found, default=str)}; {message}"


def _value_meant(found: Any, allowed: list[str]) -> str:
    near = usual.value_for(str(found), allowed) or next(iter(get_close_matches(str(found).lower(), allowed, 1)), None)
    return f'; did you mean "{near}"?' if near else ""


def _share_meant(key: str, found: Any) -> str:
    """Of what may be a percentage."""
    number = re.fullmatch(r"(\d+(?:\.\d+)?) ?%?", str(found))
    if key != "data.held_out" or not number:
        return ""
    is_percentage = 1 < float(number[1]) < 100
    return f"; did you mean {float(number[1]) / 100:g}?" if is_percentage else ""


def _unknown(key: str, kind: type[Section]) -> str:
    """Name the likely key: by its usual name, then one much like it in the same section, then the same elsewhere."""
    name = key.rsplit(".", 1)[-1]
    key = re.sub(r"\.\d+\.", ".", key)  # training.phases.0.step
    home = key.removesuffix(name)
    known = _keys_of(kind)
    here = [other.removeprefix(home) for other in known if other.startswith(home) and "." not in other[len(home) :]]
    if kind is Config and (instead := usual.absent(name, home.rstrip("."))):
        return f"{key}: unknown key; {instead}"
    meant = usual.key_for(name, home.rstrip(".")) if kind is Config else None
    near = get_close_matches(name.lower().replace("-", "_"), here, 1, ALIKE)
    elsewhere = [other for other in known if _bare(other.rsplit(".", 1)[-1]) == _bare(name)]
    if likely := meant or next((f"{home}{other}" for other in near), None) or next(iter(elsewhere), None):
        return f'{key}: unknown key; did you mean "{likely}"?'
    return f"{key}: unknown key; known here: {', '.join(here)}"


def _bare(name: str) -> str:
    return re.sub("[-_]", "", name.lower())


def _keys_of(section: type[Section], prefix: str = "") -> list[str]:
    """All keys as `section.key`, sections themselves included."""
    keys: list[str] = []
    for name, field in section.model_fields.items():
        keys.append(f"{prefix}{name}")
        for kind in (field.annotation, *get_args(field.annotation)):  # a section, a list of them, or one or none
            if isinstance(kind, type) and issubclass(kind, Section):
                keys += _keys_of(kind, f"{prefix}{name}.")
    return keys


def differences(saved: dict[str, Any], config: Config) -> list[str]:
    """The settings that matter in which a saved configuration differs from this one, one line each."""
    neutral = tuple(f"{section}.{key}" for section, keys in OUTCOME_NEUTRAL.items() for key in keys)
    old, new = _flatten(saved), _flatten(config.model_dump(exclude_none=True))
    return [
        f"{key} = {json.dumps(new.get(key))}, in the folder {json.dumps(old.get(key))}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith(neutral)
    ]


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
