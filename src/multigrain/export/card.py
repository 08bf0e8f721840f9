"""The model card: what the model is, what it was made from, and how it was measured."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multigrain.config import Config, PhaseSection, described
from multigrain.model.files import EMBEDDED, EMBEDDED_LLM, is_gguf
from multigrain.model.locate import find_base
from multigrain.model.older_settings import OLDEST_ANCHOR
from multigrain.model.roles import ROLES, prompt_for
from multigrain.records import GRADES
from multigrain.terminal import DIFFERENCE_HEAD, counted, difference_rows

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

HUB_NAMES = {
    EMBEDDED: "sentence-transformers/all-MiniLM-L6-v2",
    EMBEDDED_LLM: "HuggingFaceTB/SmolLM2-135M-Instruct",
}
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
TAGS = ["sentence-transformers", "sentence-similarity", "feature-extraction", "multigrain"]
SOURCES = {"llm": "written by the language model", "mined": "mined from the corpus, or given"}
TASK_TYPES = {"sts:": "semantic-similarity", "graded:": "reranking", "mteb:": "sentence-similarity"}
"""By the beginning of a task's name; all others are searches. Words as in sentence-transformers' cards."""
METRIC_TYPES = {
    "nDCG@10": "cosine_ndcg@10",
    "MRR@10": "cosine_mrr@10",
    "Recall@100": "cosine_recall@100",
    "Spearman": "spearman_cosine",
}
ENCODE = """queries = model.encode_query(["what somebody looks for"])
documents = model.encode_document(["a passage", "another one"])
print(model.similarity(queries, documents))"""


@dataclass(frozen=True)
class Lesson:
    """What the model was trained with.

    Attributes:
        phases: the schedule as it was trained.
        negatives: how many negatives its phases ask for, by source and grade.
        languages: of the positives, as ISO 639-1 codes.
        release: the first of sentence-transformers that loads the model.
    """

    phases: Sequence[PhaseSection]
    negatives: Mapping[tuple[str, int], int]
    languages: Sequence[str] = ()
    release: str = OLDEST_ANCHOR


def model_card(config: Config, summary: dict[str, Any], prompts: Mapping[str, str], lesson: Lesson) -> str:
    """Markdown with the metadata that model hubs read.

    Args:
        config: the run.
        summary: its figures.
        prompts: the model's, by name.
        lesson: what it was trained with.
    """
    usage = (WITH_CODE if config.model.pooling == "anchor" else WITHOUT_CODE).replace("ENCODE", ENCODE)
    usage += f"\n\nNeeds sentence-transformers {lesson.release} or newer.{_prompts(config, prompts)}"
    rows = [f"| {phase.name} | {_grades(phase)} | {phase.steps} | {phase.temperature} |" for phase in lesson.phases]
    schedule, counts = "\n".join(rows), summary["counts"]
    return f"""---
{_metadata(config, summary, lesson)}
---

# {config.name}

A text-embedding model trained by multigrain from `{_base(config)}` ({described(config.model)}).

## Use

{usage}

## Result

Paired with the base model; the interval is a 95 % bootstrap interval of the difference.

{results_table(summary)}

## Data

{_origin(config)}: {counts["train_pairs"]} for training, {counts["held_out_pairs"]} held out.
{_used(config, counts, lesson)}

## Schedule

Batches of {_batch(config, counts)}, learning rate {config.training.learning_rate},
seed {config.training_seed}.{_mixed(config)}

| phase | grades of negatives | steps | temperature |
| --- | --- | --- | --- |
{schedule}
"""


def _metadata(config: Config, summary: dict[str, Any], lesson: Lesson) -> str:
    """The YAML at the head of the card."""
    from huggingface_hub import ModelCardData

    of_base = front_matter(config.model.base)
    licence = of_base.get("license")
    known: dict[str, Any] = {key: of_base.get(key) for key in ("license_name", "license_link") if licence == "other"}
    results = _results(summary)
    data = ModelCardData(
        base_model=hub_name(config.model.base),
        language=list(lesson.languages) or None,
        library_name="sentence-transformers",
        license=licence if isinstance(licence, str) else None,
        pipeline_tag="sentence-similarity",
        tags=TAGS,
        model_name=config.name,
        eval_results=results or None,
        **known,
    )
    text: str = data.to_yaml(line_break="\n")
    return text.strip()


def _results(summary: dict[str, Any]) -> list[Any]:
    """The figures of the trained model as hubs keep them."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type=next(
                (kind for start, kind in TASK_TYPES.items() if task.startswith(start)), "information-retrieval"
            ),
            dataset_type=re.sub(r"[^\w.]+", "-", _shown(task)),
            dataset_name=_shown(task),
            metric_type=METRIC_TYPES.get(metric, metric.lower().replace(" ", "_")),
            metric_name=metric,
            metric_value=round(summary["trained"][task][metric], 4),
        )
        for task, metrics in summary["difference"].items()
        for metric in metrics
    ]


def hub_name(base: str) -> str | None:
    """What the model hub calls a base; None where it is a file or folder of somebody's."""
    if base in HUB_NAMES:
        return HUB_NAMES[base]
    return base if not Path(base).exists() and not is_gguf(base) and HUB_NAME.fullmatch(base) else None


def front_matter(base: str) -> dict[str, Any]:
    """What the base's own card says for machines; nothing where it has none, or it is not on this disk."""
    from huggingface_hub import ModelCard, try_to_load_from_cache

    if base == EMBEDDED_LLM:  # its package has the weights alone
        return {"license": "apache-2.0"}
    folder = Path(find_base(base, "model.base") if base == EMBEDDED else base)
    found = (
        folder / "README.md" if folder.is_dir() or hub_name(base) is None else try_to_load_from_cache(base, "README.md")
    )
    try:
        text = Path(found).read_text(encoding="utf-8") if isinstance(found, str | Path) else ""
        return dict(vars(ModelCard(text, ignore_metadata_errors=True).data))
    except Exception:  # there is none, or it is damaged in one of many ways: no reason to write no model
        return {}


def _used(config: Config, counts: Mapping[str, int], lesson: Lesson) -> str:
    """What the training could see: the steps may be fewer than all tuples take."""
    batch = _batch(config, counts)
    seen = sum(phase.steps or 0 for phase in lesson.phases) * batch
    steps = counted(sum(phase.steps or 0 for phase in lesson.phases), "steps")
    brought = f"{steps} of {counted(batch, 'tuples')} each"
    drawn = f"The training drew from {counted(counts['tuples'], 'tuples')} ({brought}"
    drawn += f", so {seen} of them at most)" if seen < counts["tuples"] else ")"
    total = sum(lesson.negatives.values())
    if not total:
        return f"{drawn}, and used no negatives but those of the batch."
    rows = [
        f"| {words} | {' | '.join(str(lesson.negatives.get((source, grade), 0)) for grade in GRADES)} |"
        for source, words in SOURCES.items()
    ]
    head = f"| negatives | {' | '.join(f'grade {grade}' for grade in GRADES)} |\n| --- | --- | --- | --- | --- |"
    return f"{drawn}, with {counted(total, 'negatives')} of the grades in its schedule:\n\n" + "\n".join([head, *rows])


def _batch(config: Config, counts: Mapping[str, int]) -> int:
    """The tuples of a step: few do not fill the batch that was wanted. Runs of earlier versions did not note it."""
    return counts.get("tuples_per_step", min(config.training.batch_size, counts["tuples"]))


def _prompts(config: Config, prompts: Mapping[str, str]) -> str:
    """What is put before texts; nothing is said of a model that puts nothing."""
    given = config.model.query_prompt is not None or config.model.document_prompt is not None
    query, document = (prompt_for(role, prompts) for role in ROLES)
    if not query and not document:
        return ""
    put = [f"`{json.dumps(prompt, ensure_ascii=False)}`" if prompt else "nothing" for prompt in (query, document)]
    return f"""

`encode_query` puts {put[0]} before a text, `encode_document` {put[1]}.
So the model was trained and measured; its base was measured with {"the same" if given else "its own"} prompts."""


def results_table(summary: dict[str, Any]) -> str:
    """Return the figures of all tasks as a Markdown table."""
    lines = [f"| {' | '.join(DIFFERENCE_HEAD)} |", "|" + " --- |" * len(DIFFERENCE_HEAD)]
    shown = [row._replace(task=_shown(row.task)) for row in difference_rows(summary)]
    lines += [f"| {' | '.join(row)} |" for row in shown]
    return "\n".join(lines)


def _base(config: Config) -> str:
    return HUB_NAMES.get(config.model.base) or _shown(config.model.base)


def _mixed(config: Config) -> str:
    share = config.training.base_share
    return f" Then {share:.0%} of the base's weights were mixed in." if share else ""


def _grades(phase: PhaseSection) -> str:
    return ", ".join(map(str, phase.grades)) or "in-batch negatives only"


def _origin(config: Config) -> str:
    """Where the pairs come from, in words."""
    if config.data.pairs is not None:
        return f"Pairs from `{_shown(config.data.pairs)}`"
    if config.data.corpus is not None:
        return f"Queries that a language model wrote for passages of `{_shown(config.data.corpus)}`"
    return f"Pairs that a language model invented ({', '.join(config.synthesis.domains)})"


def _shown(source: str) -> str:
    """A source without the folders that lead to it: a published card tells nothing of the author's disk."""
    return source.rsplit("/", 1)[-1]
