"""The model card: what the model is, what it was made from, and how it was measured."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multigrain.config import Config, PhaseSection, described
from multigrain.export.card_metadata import HUB_NAMES, card_metadata, shown_source
from multigrain.export.retriever_table import RETRIEVER_HEAD, retriever_rows
from multigrain.model.older_settings import OLDEST_ANCHOR
from multigrain.model.roles import prompt_for
from multigrain.records import GRADES
from multigrain.terminal import DIFFERENCE_HEAD, VERDICT_HEAD, counted, difference_rows, verdict_rows

WITH_CODE = """```python
from sentence_transformers import SentenceTransformer

# The folder holds the code of the pooling (pooling.py and three files beside it): read it, then allow it.
model = SentenceTransformer("PATH", trust_remote_code=True)
ENCODE
```

With multigrain installed no flag is needed: `multigrain.load_model("PATH")`."""

WITHOUT_CODE = """```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("PATH")
ENCODE
```"""

SOURCES = {"llm": "written by the language model", "mined": "mined from the corpus, or given"}
ENCODE = """queries = model.encode_query(["what somebody looks for"])
documents = model.encode_document(["a passage", "another one"])
print(model.similarity(queries, documents))"""

OWN = "trained"
"""The run's own model, among those of which one is exported."""


@dataclass(frozen=True)
class Lesson:
    """The facts of a training that a card tells.

    Attributes:
        phases: the schedule as it was trained.
        negatives: how many negatives its phases ask for, by source and grade.
        languages: of the positives, as ISO 639-1 codes.
        release: the first of sentence-transformers that loads the model.
        model: which one it is: `trained` by the run itself, an arm of its baseline, or its `base`.
        stock: of an arm, with what it was trained: pairs, steps and batch size.
        choice: why it is this one.
    """

    phases: Sequence[PhaseSection]
    negatives: Mapping[tuple[str, int], int]
    languages: Sequence[str] = ()
    release: str = OLDEST_ANCHOR
    model: str = OWN
    stock: Mapping[str, Any] | None = None
    choice: str = ""


def model_card(config: Config, summary: dict[str, Any], prompts: Mapping[str, str], lesson: Lesson) -> str:
    """Return the model card: Markdown with the metadata that model hubs read.

    Args:
        config: the run.
        summary: its figures.
        prompts: the model's, by name.
        lesson: what it was trained with.
    """
    with_code = lesson.model == OWN and config.model.pooling == "anchor"
    usage = (WITH_CODE if with_code else WITHOUT_CODE).replace("ENCODE", ENCODE)
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

Paired with the base model; the interval is a 95 % bootstrap interval of the difference.

{results_table(summary)}{_by_retriever(summary)}
{_verdicts(summary, lesson)}
## Data

{_origin(config)}: {counts["train_pairs"]} for training, {counts["held_out_pairs"]} held out.
{_training(config, counts, lesson)}
"""


def _what_it_is(config: Config, lesson: Lesson) -> str:
    if lesson.model == OWN:
        return f"A text-embedding model trained by multigrain from `{_base(config)}` ({described(config.model)})."
    if lesson.stock is None:
        return f"`{_base(config)}` as it is: no training on the data below was better than none."
    trainer = "sentence-transformers' own trainer (MultipleNegativesRankingLoss"
    mined = lesson.stock["negatives"]
    negatives = f"{mined} negatives of `mine_hard_negatives` for each pair" if mined else "in-batch negatives"
    return f"A text-embedding model trained from `{_base(config)}` by {trainer}, {negatives})."


def _verdicts(summary: Mapping[str, Any], lesson: Lesson) -> str:
    """Tell how the run's own training stands against the base and the arms, and why this model was exported."""
    why = f"Exported is `{lesson.model}`: {lesson.choice}.\n" if lesson.choice else ""
    if not summary["verdict"]:
        return f"\n{why}" if why else ""
    head = "Multigrain's own training (`trained`) against the base and against sentence-transformers' own trainer:"
    rows = [(*row[:2], shown_source(row[2]), *row[3:]) for row in verdict_rows(summary)]
    return "\n".join(["", why, "## Verdict", "", head, "", *_markdown(VERDICT_HEAD, rows), ""])


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    return [f"| {' | '.join(head)} |", "|" + " --- |" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]


def _training(config: Config, counts: Mapping[str, int], lesson: Lesson) -> str:
    """Tell how the model was trained, if it was."""
    if lesson.stock is not None:
        pairs, steps, batch = (lesson.stock[name] for name in ("pairs", "steps", "batch_size"))
        settings = f"learning rate {config.training.learning_rate}, seed {config.training_seed}"
        return f"The training drew from {pairs} pairs ({counted(steps, 'steps')} of {batch} each), {settings}."
    if lesson.model != OWN:
        return "None of it was trained on."
    rows = [f"| {phase.name} | {_grades(phase)} | {phase.steps} | {phase.temperature} |" for phase in lesson.phases]
    schedule = "\n".join(rows)
    return f"""{_used(config, counts, lesson)}

## Schedule

Batches of {_batch(config, counts)}, learning rate {config.training.learning_rate},
seed {config.training_seed}.{_mixed(config)}

| phase | grades of negatives | steps | temperature |
| --- | --- | --- | --- |
{schedule}"""


def _used(config: Config, counts: Mapping[str, int], lesson: Lesson) -> str:
    """Tell what the training could see: the steps may be fewer than all tuples take."""
    batch = _batch(config, counts)
    steps = sum(phase.steps or 0 for phase in lesson.phases)
    seen = steps * batch
    fewer = f", so {seen} of them at most" if seen < counts["tuples"] else ""
    brought = f"{counted(steps, 'steps')} of {counted(batch, 'tuples')} each{fewer}"
    drawn = f"The training drew from {counted(counts['tuples'], 'tuples')} ({brought})"
    total = sum(lesson.negatives.values())
    if not total:
        return f"{drawn}, and used no negatives but those of the batch."
    grades = " | ".join(f"grade {grade}" for grade in GRADES)
    lines = [f"| negatives | {grades} |", "| --- | --- | --- | --- | --- |"]
    for source, words in SOURCES.items():
        figures = " | ".join(str(lesson.negatives.get((source, grade), 0)) for grade in GRADES)
        lines.append(f"| {words} | {figures} |")
    table = "\n".join(lines)
    return f"{drawn}, with {counted(total, 'negatives')} of the grades in its schedule:\n\n{table}"


def _batch(config: Config, counts: Mapping[str, int]) -> int:
    """Return the number of tuples of a step: few do not fill the batch that was wanted.

    Runs of earlier versions did not note it.
    """
    return counts.get("tuples_per_step", min(config.training.batch_size, counts["tuples"]))


def _prompts(config: Config, prompts: Mapping[str, str]) -> str:
    """Tell what is put before texts; nothing is said of a model that puts nothing."""
    given = config.model.query_prompt is not None or config.model.document_prompt is not None
    query = prompt_for("query", prompts)
    document = prompt_for("document", prompts)
    if not query and not document:
        return ""
    return f"""

`encode_query` puts {_quoted(query)} before a text, `encode_document` {_quoted(document)}.
So the model was trained and measured; its base was measured with {"the same" if given else "its own"} prompts."""


def _quoted(prompt: str) -> str:
    return f"`{json.dumps(prompt, ensure_ascii=False)}`" if prompt else "nothing"


def results_table(summary: dict[str, Any]) -> str:
    """Return the figures of all tasks as a Markdown table."""
    shown = [row._replace(task=shown_source(row.task)) for row in difference_rows(summary)]
    return "\n".join(_markdown(DIFFERENCE_HEAD, shown))


def _by_retriever(summary: dict[str, Any]) -> str:
    """Tell what the model finds alone, BM25 alone, and both together."""
    rows = [(shown_source(task), *cells) for task, *cells in retriever_rows(summary)]
    if not rows:
        return ""
    table = "\n".join(f"| {' | '.join(row)} |" for row in (RETRIEVER_HEAD, (" --- ",) * len(RETRIEVER_HEAD), *rows))
    choices = summary.get("retrieval", {})
    weights = [f"{choices[name]['weight']:g} for the {name} model" for name in ("base", "trained") if name in choices]
    return f"""

*dense* ranks by the model's cosine, *bm25* by words, *hybrid* by cosine plus w times BM25 as a share of the query's
highest (w: {", ".join(weights) or "0.3"}).

{table}"""


def _base(config: Config) -> str:
    return HUB_NAMES.get(config.model.base) or shown_source(config.model.base)


def _mixed(config: Config) -> str:
    share = config.training.base_share
    return f" Then {share:.0%} of the base's weights were mixed in." if share else ""


def _grades(phase: PhaseSection) -> str:
    return ", ".join(map(str, phase.grades)) or "in-batch negatives only"


def _origin(config: Config) -> str:
    """Tell where the pairs come from."""
    if config.data.pairs is not None:
        return f"Pairs from `{shown_source(config.data.pairs)}`"
    if config.data.corpus is not None:
        return f"Queries that a language model wrote for passages of `{shown_source(config.data.corpus)}`"
    return f"Pairs that a language model invented ({', '.join(config.synthesis.domains)})"
