"""Write the card of a data set of graded tuples: metadata for dataset hubs, and its columns."""

from multigrain.export.tuple_survey import Survey

PARQUET = "data/train-00000-of-00001.parquet"
"""The data file of the data set."""
GROUP_COLUMN = "\n| `group` | texts of one group are never negatives of each other; empty if the tuple has none |"


def dataset_card(survey: Survey) -> str:
    """Return the card: Markdown with metadata for dataset hubs. The user has to add the licence."""
    return f"""---
# Add a licence before you publish this: license: ...
task_categories: [sentence-similarity]
tags: [sentence-transformers, multigrain, hard-negatives]
size_categories: ["{_size_category(survey.written)}"]
configs:
- config_name: default
  data_files:
  - split: train
    path: {PARQUET}
---

# Graded tuples

{survey.written} queries, each with a text that answers it and texts that do not, at several grades of similarity:
{survey.negatives} negatives in total. Made with multigrain.

| column | content |
| --- | --- |
| `id`, `query`, `positive` | the pair |
| `negatives` | a list, easiest first: `text`; `grade`, from 1 (easiest) to 4 (hardest); `score`, the relevance given by the judge; `source`, `llm` or `mined` |
| `instruction`, `task` | the instruction for embedding queries, and the kind of search; empty if the tuple has none |{GROUP_COLUMN if survey.has_groups else ""}

```python
from datasets import load_dataset

tuples = load_dataset("PATH", split="train")
```
"""  # noqa: E501


def _size_category(rows: int) -> str:
    bounds = [(10**3, "1K"), (10**4, "10K"), (10**5, "100K"), (10**6, "1M"), (10**7, "10M"), (10**8, "100M")]
    low = ""
    for bound, name in bounds:
        if rows < bound:
            return f"{low}<n<{name}" if low else f"n<{name}"
        low = name
    return f"n>{low}"
