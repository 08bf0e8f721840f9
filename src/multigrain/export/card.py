"""The model card: what the model is, what it was made from, and how it was measured."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from multigrain.config import Config, PhaseSection, described
from multigrain.progress import interval
from multigrain.vectors import ROLES, prompt_for

WITH_CODE = """```python
from sentence_transformers import SentenceTransformer

# The folder holds the code of the pooling (pooling.py, anchor_attention.py): read it, then allow it.
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
    "embedded": "sentence-transformers/all-MiniLM-L6-v2",
    "embedded-llm": "HuggingFaceTB/SmolLM2-135M-Instruct",
}
ENCODE = """queries = model.encode_query(["what somebody looks for"])
documents = model.encode_document(["a passage", "another one"])
print(model.similarity(queries, documents))"""


def model_card(
    config: Config, summary: dict[str, Any], prompts: Mapping[str, str], phases: Sequence[PhaseSection]
) -> str:
    """Markdown with the metadata that model hubs read.

    Args:
        config: the run.
        summary: its figures.
        prompts: the model's, by name.
        phases: the schedule as it was trained.
    """
    usage = (WITH_CODE if config.model.pooling == "anchor" else WITHOUT_CODE).replace("ENCODE", ENCODE)
    usage += _prompts(prompts)
    rows = "\n".join(f"| {phase.name} | {_grades(phase)} | {phase.steps} | {phase.temperature} |" for phase in phases)
    counts = summary["counts"]
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction, multigrain]
---

# {config.name}

A text-embedding model trained by [multigrain](https://pypi.org/project/multigrain/) from `{_base(config)}`
({described(config.model)}).

## Use

{usage}

## Result

Paired with the base model; the interval is a 95 % bootstrap interval of the difference.

{results_table(summary)}

## Data

{_origin(config)}: {counts["train_pairs"]} for training, {counts["held_out_pairs"]} held out.
{counts["written"]} negatives were written by the language model ({config.llm.provider}), {counts["mined"]} were mined;
{counts["dropped"]} were dropped by grading.
The training used {counts["negatives"]} negatives in {counts["tuples"]} tuples.

## Schedule

Batches of {config.training.batch_size}, learning rate {config.training.learning_rate},
seed {config.training_seed}.{_mixed(config)}

| phase | grades of negatives | steps | temperature |
| --- | --- | --- | --- |
{rows}
"""


def _prompts(prompts: Mapping[str, str]) -> str:
    """What is put before texts; nothing is said of a model that puts nothing."""
    query, document = (prompt_for(role, prompts) for role in ROLES)
    if not query and not document:
        return ""
    put = [f"`{json.dumps(prompt, ensure_ascii=False)}`" if prompt else "nothing" for prompt in (query, document)]
    return f"""

`encode_query` puts {put[0]} before a text, `encode_document` {put[1]}.
So the model was trained and measured; its base was measured with the base's own prompts."""


def results_table(summary: dict[str, Any]) -> str:
    """The figures of all tasks as a Markdown table."""
    lines = ["| task | metric | base | trained | difference | 95 % interval |", "| --- | --- | --- | --- | --- | --- |"]
    for task, difference in summary["difference"].items():
        for metric, (value, low, high) in difference.items():
            base, trained = summary["base"][task][metric], summary["trained"][task][metric]
            lines.append(
                f"| {_shown(task)} | {metric} | {base:.3f} | {trained:.3f} | {value:+.3f} | {interval(low, high)} |"
            )
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
