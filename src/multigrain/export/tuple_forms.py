"""The formats of graded tuples that other tools train on; see `multigrain.export.interchange`."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from multigrain.export.dataset_card import PARQUET, dataset_card
from multigrain.export.tuple_survey import Survey
from multigrain.files import atomic_file, atomic_folder, write_atomic, write_objects
from multigrain.records import GradedTuple, Negative

ROWS = 1000
"""Number of rows of a parquet file in memory at once."""


@dataclass(frozen=True)
class Form:
    """A format of graded tuples.

    Attributes:
        suffixes: allowed suffixes of the file name; none if the format is a folder.
        write: writes tuples to a path.
        loading: how to load the result, with `{path}` for its path.
    """

    suffixes: tuple[str, ...]
    write: Callable[[Path, Iterable[GradedTuple], Survey], None]
    loading: str


def _write_hf(out: Path, tuples: Iterable[GradedTuple], survey: Survey) -> None:
    import pyarrow as pa

    text = pa.string()
    negative = pa.struct([("text", text), ("grade", pa.int64()), ("score", pa.float64()), ("source", text)])
    columns = [("id", text), ("query", text), ("positive", text), ("negatives", pa.list_(negative))]
    columns += [("instruction", text), ("task", text)]
    if survey.has_groups:
        columns.append(("group", text))
    schema = pa.schema(columns)
    with atomic_folder(out, keep_others=True) as folder:
        with atomic_file(folder / PARQUET) as file:
            _write_parquet(file, schema, (_hf_row(graded, schema.names) for graded in tuples))
        write_atomic(folder / "README.md", dataset_card(survey).encode())


def _hf_row(graded: GradedTuple, columns: Sequence[str]) -> dict[str, Any]:
    negatives = [_hf_negative(negative) for negative in graded.negatives]
    return {name: negatives if name == "negatives" else getattr(graded, name) for name in columns}


def _hf_negative(negative: Negative) -> dict[str, Any]:
    return {
        "text": negative.text,
        "grade": negative.grade,
        "score": float(negative.score),
        "source": negative.source,
    }


def _write_columns(out: Path, tuples: Iterable[GradedTuple], survey: Survey) -> None:
    import pyarrow as pa

    names = ["anchor", "positive", *(f"negative_{number}" for number in range(1, survey.least + 1))]
    schema = pa.schema([(name, pa.string()) for name in names])
    with atomic_file(out) as file:
        _write_parquet(file, schema, (_columns_row(graded, names, survey.least) for graded in tuples))


def _columns_row(graded: GradedTuple, names: Sequence[str], count: int) -> dict[str, str]:
    negatives = [negative.text for negative in hardest(graded, count)]
    return dict(zip(names, [graded.query, graded.positive, *negatives], strict=True))


def hardest(graded: GradedTuple, count: int) -> list[Negative]:
    """Return the `count` negatives of the highest grades, in rising order of grade."""
    return sorted(graded.negatives, key=lambda negative: negative.grade)[-count:]


def _write_parquet(file: BinaryIO, schema: Any, rows: Iterable[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetWriter(file, schema) as writer:
        rows = iter(rows)
        while some := list(islice(rows, ROWS)):
            writer.write_table(pa.Table.from_pylist(some, schema))


def _write_flagembedding(out: Path, tuples: Iterable[GradedTuple], survey: Survey) -> None:
    write_objects(out, (_flagembedding_row(graded, survey.has_instructions) for graded in tuples))


def _flagembedding_row(graded: GradedTuple, has_prompt: bool) -> dict[str, Any]:
    """Return the fields of a line. All lines have the same fields, because a missing prompt would be read as "None"."""
    row: dict[str, Any] = {
        "query": graded.query,
        "pos": [graded.positive],
        "neg": [negative.text for negative in graded.negatives],
        "neg_scores": [float(negative.score) for negative in graded.negatives],
    }
    if has_prompt:
        row["prompt"] = graded.instruction or ""
    return row


def _write_tevatron(out: Path, tuples: Iterable[GradedTuple], survey: Survey) -> None:
    write_objects(out, (_tevatron_row(graded, survey.has_instructions) for graded in tuples))


def _tevatron_row(graded: GradedTuple, has_instruction: bool) -> dict[str, Any]:
    """Return the fields of a line. `instruction` is an extra field: Tevatron takes one prefix, on its command line."""
    negatives = [_passage(f"{graded.id}-n{i}", n.text) for i, n in enumerate(graded.negatives, start=1)]
    row: dict[str, Any] = {
        "query_id": graded.id,
        "query": graded.query,
        "positive_passages": [_passage(f"{graded.id}-p", graded.positive)],
        "negative_passages": negatives,
    }
    if has_instruction:
        row["instruction"] = graded.instruction or ""
    return row


def _passage(id: str, text: str) -> dict[str, str]:
    return {"docid": id, "title": "", "text": text}


COLUMNS = "sentence-transformers"
"""The format with a column for each negative."""
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
"""The formats, by their names for `--to`."""
