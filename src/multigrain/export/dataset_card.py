"""The card of a data set of graded tuples: what dataset hubs read, and what its columns are."""

from multigrain.export.tuple_survey import Survey

PARQUET = "data/train-00000-of-00001.parquet"
"""The file of the tuples in the data set."""
GROUP_COLUMN = "\n| `group` | texts of one group are never negatives of each other; empty where there is none |"


def dataset_card(survey: Survey) -> str:
    """Return the card: Markdown with the metadata that dataset hubs read; the licence is the user's to add."""
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

{survey.written} queries, each with a text that answers it and texts that do not, at several grades of similarity; made by
multigrain. {survey.negatives} negatives in all.

| column | |
| --- | --- |
| `id`, `query`, `positive` | the pair |
| `negatives` | a list in rising order of grade: `text`; `grade` from 1 (easy) to 4 (hardest); `score`, the judge's relevance; `source`, `llm` or `mined` |
| `instruction`, `task` | what queries are embedded with, and the kind of search; empty where there is none |{GROUP_COLUMN if survey.has_groups else ""}

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
