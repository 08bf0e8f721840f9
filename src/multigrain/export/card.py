"""Write the model card: the model, its training and data, and its evaluation."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multigrain.config import INSTRUCTION, Config, PhaseSection, SourceSection, described, described_adaptation
from multigrain.export.card_metadata import HUB_NAMES, card_metadata, shown_source
from multigrain.export.retriever_table import RETRIEVER_HEAD, retriever_rows
from multigrain.model.older_settings import OLDEST_ANCHOR
from multigrain.model.roles import prompt_for, template_of
from multigrain.records import GRADES
from multigrain.terminal import DIFFERENCE_HEAD, VERDICT_HEAD, counted, difference_rows, rows_of_sources, verdict_rows

WITH_CODE = """```python
from sentence_transformers import SentenceTransformer

# The folder contains the code of the pooling: pooling.py and three files beside it. Read it before you allow it.
model = SentenceTransformer("PATH", trust_remote_code=True)
ENCODE
```

With multigrain installed, no flag is needed: `multigrain.load_model("PATH")`."""

WITHOUT_CODE = """```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("PATH")
ENCODE
```"""

SOURCES = {"llm": "written by the language model", "mined": "mined from the corpus, or given"}
ENCODE = """queries = model.encode_query(["a search query"])
documents = model.encode_document(["a passage", "another passage"])
print(model.similarity(queries, documents))"""

OWN = "trained"
"""The name of the model trained by the run itself, among the models that can be exported."""


@dataclass(frozen=True)
class Lesson:
    """Facts about a training for the model card.

    Attributes:
        phases: the schedule as trained.
        negatives: number of negatives available to the phases, by source and grade.
        languages: languages of the positives, as ISO 639-1 codes.
        release: the first release of sentence-transformers that loads the model.
        with_code: whether the model's folder has code that sentence-transformers asks to trust.
        model: the exported model: `trained` (by the run itself), an arm of the baseline, or `base`.
        stock: for an arm, its pairs, steps, batch size and mined negatives.
        choice: the reason for exporting this model.
    """

    phases: Sequence[PhaseSection]
    negatives: Mapping[tuple[str, int], int]
    languages: Sequence[str] = ()
    release: str = OLDEST_ANCHOR
    model: str = OWN
    stock: Mapping[str, Any] | None = None
    choice: str = ""
    with_code: bool = False


def model_card(config: Config, summary: dict[str, Any], prompts: Mapping[str, str], lesson: Lesson) -> str:
    """Return the model card: Markdown with metadata for model hubs.

    Args:
        config: the settings of the run.
        summary: the figures of the run.
        prompts: the model's prompts, by name.
        lesson: the facts about its training.
    """
    usage = (WITH_CODE if lesson.with_code else WITHOUT_CODE).replace("ENCODE", ENCODE)
    usage += f"\n\nNeeds sentence-transformers {lesson.release} or newer.{_prompts(config, prompts)}"
    counts = summary["counts"]
    return f"""---
{card_metadata(config, summary, lesson.languages)}
---

# {config.name}

{_what_it_is(config, lesson)}

## Use

{usage}

## Result

The model is compared with its base on the same items. The interval is a 95 % bootstrap interval of the difference.

{results_table(summary)}{_by_retriever(summary)}
{_verdicts(summary, lesson)}
## Data

{_origin(config)}: {counts["train_pairs"]} for training, {counts["held_out_pairs"]} held out.
{_training(config, counts, lesson)}
"""


def _what_it_is(config: Config, lesson: Lesson) -> str:
    if lesson.model == OWN:
        how = described(config.model) + (f", {described_adaptation(config.adapt)}" if config.adapt else "")
        return f"A text-embedding model trained by multigrain from `{_base(config)}` ({how})."
    if lesson.stock is None:
        return f"`{_base(config)}`, unchanged: no training on the data below improved it."
    trainer = "the stock sentence-transformers trainer (MultipleNegativesRankingLoss"
    mined = lesson.stock["negatives"]
    negatives = f"{mined} hard negatives per pair from `mine_hard_negatives`" if mined else "in-batch negatives"
    return f"A text-embedding model trained from `{_base(config)}` with {trainer}, {negatives})."


def _verdicts(summary: Mapping[str, Any], lesson: Lesson) -> str:
    """Return the verdicts on the run's own training against the base and the arms, and the reason for the export."""
    why = f"The exported model is `{lesson.model}`: {lesson.choice}.\n" if lesson.choice else ""
    if not summary["verdict"]:
        return f"\n{why}" if why else ""
    head = "multigrain's training (`trained`), compared with the base and with the stock sentence-transformers trainer:"
    rows = [(*row[:2], shown_source(row[2]), *row[3:]) for row in verdict_rows(summary)]
    return "\n".join(["", why, "## Verdict", "", head, "", *_markdown(VERDICT_HEAD, rows), ""])


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(head)} |", "|" + " --- |" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]


def _training(config: Config, counts: Mapping[str, int], lesson: Lesson) -> str:
    """Describe how the model was trained, if it was."""
    if lesson.stock is not None:
        pairs, steps, batch = (lesson.stock[name] for name in ("pairs", "steps", "batch_size"))
        settings = f"learning rate {config.training.learning_rate}, seed {config.training_seed}"
        return f"The training drew from {pairs} pairs ({counted(steps, 'steps')} of {batch} pairs each), {settings}."
    if lesson.model != OWN:
        return "The model was not trained on this data."
    rows = [f"| {phase.name} | {_grades(phase)} | {phase.steps} | {phase.temperature} |" for phase in lesson.phases]
    schedule = "\n".join(rows)
    return f"""{_used(config, counts, lesson)}

## Schedule

Batch size {_batch(config, counts)}, learning rate {config.training.learning_rate},
seed {config.training_seed}.{_mixed(config)}

| phase | grades of negatives | steps | temperature |
| --- | --- | --- | --- |
{schedule}"""


def _used(config: Config, counts: Mapping[str, int], lesson: Lesson) -> str:
    """Describe the data that the training could see; there may be too few steps for all tuples."""
    batch = _batch(config, counts)
    steps = sum(phase.steps or 0 for phase in lesson.phases)
    seen = steps * batch
    fewer = f", so at most {seen} of them" if seen < counts["tuples"] else ""
    brought = f"{counted(steps, 'steps')} of {counted(batch, 'tuples')} each{fewer}"
    drawn = f"The training drew from {counted(counts['tuples'], 'tuples')} ({brought})"
    total = sum(lesson.negatives.values())
    if not total:
        return f"{drawn}, with in-batch negatives only."
    grades = " | ".join(f"grade {grade}" for grade in GRADES)
    lines = [f"| negatives | {grades} |", "| --- | --- | --- | --- | --- |"]
    for source, words in SOURCES.items():
        figures = " | ".join(str(lesson.negatives.get((source, grade), 0)) for grade in GRADES)
        lines.append(f"| {words} | {figures} |")
    table = "\n".join(lines)
    return f"{drawn}, with {counted(total, 'negatives')} of the grades in its schedule:\n\n{table}"


def _batch(config: Config, counts: Mapping[str, int]) -> int:
    """Return the number of tuples in a step: the batch size, or all tuples if there are fewer.

    Runs of earlier versions did not record it.
    """
    return counts.get("tuples_per_step", min(config.training.batch_size, counts["tuples"]))


def _prompts(config: Config, prompts: Mapping[str, str]) -> str:
    """Describe the prompts of the model; return "" if it has none."""
    own = config.model.query_prompt
    given = (own is not None and INSTRUCTION not in own) or config.model.document_prompt is not None
    query = prompt_for("query", prompts)
    document = prompt_for("document", prompts)
    template = template_of(prompts)
    if not query and not document and not template:
        return ""
    other = f"For another instruction, put it into {_quoted(template or '')}, and encode with that `prompt`."
    instructed = f"\n{other}" if template else ""
    return f"""

`encode_query` puts {_quoted(query)} before a text, `encode_document` {_quoted(document)}.
The model was trained and evaluated with these prompts.
Its base was evaluated with {"the same" if given else "its own"} prompts.{instructed}"""


def _quoted(prompt: str) -> str:
    return f"`{json.dumps(prompt, ensure_ascii=False)}`" if prompt else "nothing"


def results_table(summary: dict[str, Any]) -> str:
    """Return a Markdown table of the figures of all tasks."""
    shown = [row._replace(task=shown_source(row.task)) for row in difference_rows(summary)]
    shown += rows_of_sources(summary)
    return "\n".join(_markdown(DIFFERENCE_HEAD, shown))


def _by_retriever(summary: dict[str, Any]) -> str:
    """Return the results of the model alone, BM25 alone, and both combined."""
    rows = [(shown_source(task), *cells) for task, *cells in retriever_rows(summary)]
    if not rows:
        return ""
    table = "\n".join(f"| {' | '.join(row)} |" for row in (RETRIEVER_HEAD, (" --- ",) * len(RETRIEVER_HEAD), *rows))
    choices = summary.get("retrieval", {})
    weights = [f"{choices[name]['weight']:g} for the {name} model" for name in ("base", "trained") if name in choices]
    return f"""

*dense* ranks by the model's cosine and *bm25* by words. *hybrid* adds w times the BM25 score to the cosine, after
dividing it by the query's highest BM25 score (w: {", ".join(weights) or "0.3"}).

{table}"""


def _base(config: Config) -> str:
    return HUB_NAMES.get(config.model.base) or shown_source(config.model.base)


def _mixed(config: Config) -> str:
    share = config.training.base_share
    return f" After training, {share:.0%} of the base's weights were mixed in." if share else ""


def _grades(phase: PhaseSection) -> str:
    return ", ".join(map(str, phase.grades)) or "in-batch negatives only"


def _origin(config: Config) -> str:
    """Describe where the pairs come from."""
    if config.data.pairs is not None:
        return f"Pairs from `{shown_source(config.data.pairs)}`"
    if config.data.sources:
        told = [f"{source.name} ({_origin_of(source, config)})" for source in config.data.sources]
        return f"Pairs from {', '.join(told)}"
    if config.data.corpus is not None:
        return f"Queries that a language model wrote for passages of `{shown_source(config.data.corpus)}`"
    return f"Pairs that a language model invented ({', '.join(config.synthesis.domains)})"


def _origin_of(source: SourceSection, config: Config) -> str:
    """Describe where the pairs of one of several sources come from."""
    if source.pairs is not None:
        origin = f"`{shown_source(source.pairs)}`"
    elif source.corpus is not None:
        origin = f"queries that a language model wrote for passages of `{shown_source(source.corpus)}`"
    else:
        origin = f"invented by a language model: {', '.join(config.synthesis.domains)}"
    return origin if source in config.data.trained_sources else f"{origin}, not trained on"
