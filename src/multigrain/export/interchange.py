"""Write graded tuples in the forms that other tools train on.

    hf                     a Hugging Face dataset: one row for each tuple, with all that is known of its negatives
    sentence-transformers  parquet with the columns anchor, positive, negative_1 .. negative_n
    flagembedding          JSON lines {"query", "pos", "neg", "neg_scores", "prompt"}
    tevatron               JSON lines {"query_id", "query", "positive_passages", "negative_passages"}

Sources: the data formats in the READMEs of FlagEmbedding (examples/finetune/embedder) and Tevatron, and the section
"Dataset Format" of sentence-transformers' training overview.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from multigrain.config import require_free_form
from multigrain.errors import ConfigError
from multigrain.files import atomic_file, atomic_folder, write_atomic, write_objects
from multigrain.records import GradedTuple, Negative
from multigrain.terminal import counted

ROWS = 1000
"""Rows of a parquet file that are in memory at once."""
PARQUET = "data/train-00000-of-00001.parquet"

Tuples = Callable[[], Iterator[GradedTuple]]
"""Reads the tuples from the start; each form goes through them twice, so that none needs them all in memory."""


@dataclass(frozen=True)
class Survey:
    """What must be known of the tuples before the first is written.

    Attributes:
        sizes: how many tuples have how many negatives.
        has_instructions: whether any of them has one.
        least: the negatives that a tuple needs to be written.
        has_groups: whether any of them has one.
    """

    sizes: Counter[int]
    has_instructions: bool
    least: int = 1
    has_groups: bool = False

    @property
    def written(self) -> int:
        """How many tuples are written."""
        return self.at_least(self.least)

    @property
    def negatives(self) -> int:
        """How many negatives the tuples that are written have."""
        return sum(size * tuples for size, tuples in self.sizes.items() if size >= self.least)

    def at_least(self, negatives: int) -> int:
        """How many tuples have that many negatives."""
        return sum(tuples for size, tuples in self.sizes.items() if size >= negatives)

    def most_kept(self) -> int:
        """The number of columns in which most negatives find a place; the smaller one of two such."""
        sizes = range(1, max(self.sizes, default=0) + 1)
        return max(sizes, key=lambda columns: columns * self.at_least(columns), default=1)


@dataclass(frozen=True)
class Form:
    """A form: how its path must end, how it is written, and how the result is loaded."""

    suffixes: tuple[str, ...]
    write: Callable[[Path, Iterable[GradedTuple], Survey], None]
    loading: str


def export_data(tuples: Tuples, form: str, out: Path, force: bool = False, negatives: int | None = None) -> str:
    """Write the tuples to `out`, whole or not at all; returns a line that says what was written and how to load it.

    Args:
        tuples: reads them from the start.
        form: one of `FORMS`.
        out: the file, or for `hf` the folder.
        force: replace what is there. Other files in the folder stay.
        negatives: columns of negatives (`sentence-transformers` alone). By default the number of columns in which
            most negatives find a place. A tuple with more of them gives its hardest, one with fewer is left out,
            because sentence-transformers cannot train on an empty cell.

    Raises:
        ConfigError: there is no such form, the path exists or is not one for this form, or no tuple could be written.
    """
    if form not in FORMS:
        raise ConfigError("--to", [f"found {form!r}; wanted one of {', '.join(FORMS)}"])
    chosen = FORMS[form]
    if negatives is not None and form != COLUMNS:
        raise ConfigError("--negatives", [f"is for {COLUMNS}; {form} takes all negatives. Leave it out"])
    require_free_form(out, form, chosen.suffixes, force)
    survey = _survey(tuples())
    if form == COLUMNS:
        survey = replace(survey, least=negatives or survey.most_kept())
    if not survey.written:
        most = max(survey.sizes, default=0)
        raise ConfigError(out, [f"no tuple has {survey.least} negatives; the most that one has is {most}"])
    chosen.write(out, (graded for graded in tuples() if len(graded.negatives) >= survey.least), survey)
    return f"{out}: {_told(survey, form)}. {chosen.loading.format(path=out)}"


def _told(survey: Survey, form: str) -> str:
    negatives = counted(survey.least if form == COLUMNS else survey.negatives, "negatives")
    each = f"{negatives} each" if form == COLUMNS else negatives
    left_out = survey.sizes.total() - survey.written
    hint = "; --negatives 1 keeps all that have any" if form == COLUMNS and survey.least > 1 else ""
    fewer = f" ({counted(left_out, 'tuples')} with fewer left out{hint})" if left_out else ""
    return f"{counted(survey.written, 'tuples')}, {each}{fewer}"


def _survey(tuples: Iterator[GradedTuple]) -> Survey:
    sizes: Counter[int] = Counter()
    has_instructions = has_groups = False
    for graded in tuples:
        sizes[len(graded.negatives)] += 1
        has_instructions = has_instructions or bool(graded.instruction)
        has_groups = has_groups or graded.group is not None
    return Survey(sizes, has_instructions, has_groups=has_groups)


# Hugging Face.


def _write_hf(out: Path, tuples: Iterable[GradedTuple], survey: Survey) -> None:
    import pyarrow as pa

    text = pa.string()
    negative = pa.struct([("text", text), ("grade", pa.int64()), ("score", pa.float64()), ("source", text)])
    schema = pa.schema(
        [
            *(("id", text), ("query", text), ("positive", text), ("negatives", pa.list_(negative))),
            *(("instruction", text), ("task", text), *([("group", text)] if survey.has_groups else [])),
        ]
    )
    with atomic_folder(out) as folder:
        with atomic_file(folder / PARQUET) as file:
            _write_parquet(file, schema, (_hf_row(graded, schema.names) for graded in tuples))
        write_atomic(folder / "README.md", dataset_card(survey).encode())


def _hf_row(graded: GradedTuple, columns: Sequence[str]) -> dict[str, Any]:
    negatives = [
        {"text": n.text, "grade": n.grade, "score": float(n.score), "source": n.source} for n in graded.negatives
    ]
    return {name: negatives if name == "negatives" else getattr(graded, name) for name in columns}


GROUP_COLUMN = "\n| `group` | texts of one group are never negatives of each other; empty where there is none |"


def dataset_card(survey: Survey) -> str:
    """Markdown with the metadata that dataset hubs read; the licence is the user's to add."""
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


# sentence-transformers.


def _write_columns(out: Path, tuples: Iterable[GradedTuple], survey: Survey) -> None:
    import pyarrow as pa

    names = ["anchor", "positive", *(f"negative_{number}" for number in range(1, survey.least + 1))]
    rows = (
        dict(zip(names, [graded.query, graded.positive, *(n.text for n in hardest(graded, survey.least))], strict=True))
        for graded in tuples
    )
    with atomic_file(out) as file:
        _write_parquet(file, pa.schema([(name, pa.string()) for name in names]), rows)


def hardest(graded: GradedTuple, count: int) -> list[Negative]:
    """The `count` negatives of the highest grades, in rising order of grade."""
    return sorted(graded.negatives, key=lambda negative: negative.grade)[-count:]


def _write_parquet(file: BinaryIO, schema: Any, rows: Iterable[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetWriter(file, schema) as writer:
        rows = iter(rows)
        while some := list(islice(rows, ROWS)):
            writer.write_table(pa.Table.from_pylist(some, schema))


# FlagEmbedding and Tevatron.


def _write_flagembedding(out: Path, tuples: Iterable[GradedTuple], survey: Survey) -> None:
    write_objects(out, (_flagembedding_row(graded, survey.has_instructions) for graded in tuples))


def _flagembedding_row(graded: GradedTuple, has_prompt: bool) -> dict[str, Any]:
    """All lines have the same fields, since an absent prompt would be read as the word None."""
    row = {
        "query": graded.query,
        "pos": [graded.positive],
        "neg": [negative.text for negative in graded.negatives],
        "neg_scores": [float(negative.score) for negative in graded.negatives],
    }
    return row | ({"prompt": graded.instruction or ""} if has_prompt else {})


def _write_tevatron(out: Path, tuples: Iterable[GradedTuple], survey: Survey) -> None:
    write_objects(out, (_tevatron_row(graded, survey.has_instructions) for graded in tuples))


def _tevatron_row(graded: GradedTuple, has_instruction: bool) -> dict[str, Any]:
    """The instruction is a field of ours: Tevatron takes one prefix for all queries, on its command line."""
    negatives = [_passage(f"{graded.id}-n{i}", n.text) for i, n in enumerate(graded.negatives, start=1)]
    row = {
        "query_id": graded.id,
        "query": graded.query,
        "positive_passages": [_passage(f"{graded.id}-p", graded.positive)],
        "negative_passages": negatives,
    }
    return row | ({"instruction": graded.instruction or ""} if has_instruction else {})


def _passage(id: str, text: str) -> dict[str, str]:
    return {"docid": id, "title": "", "text": text}


COLUMNS = "sentence-transformers"
FORMS = {
    "hf": Form((), _write_hf, 'Load: datasets.load_dataset("{path}", split="train")'),
    COLUMNS: Form(
        (".parquet",),
        _write_columns,
        'Load: datasets.load_dataset("parquet", data_files="{path}", split="train")',
    ),
    "flagembedding": Form((".jsonl", ".json"), _write_flagembedding, "Train: --train_data {path}"),
    "tevatron": Form((".jsonl", ".json"), _write_tevatron, "Train: --dataset_name json --dataset_path {path}"),
}
"""The forms by the name that `--to` takes."""
