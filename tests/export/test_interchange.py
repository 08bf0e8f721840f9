"""Whatever is written is read back, by us and by those for whom it is written."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multigrain.cli.main import main
from multigrain.cli.parser import DATA_FORMS
from multigrain.config import load_config
from multigrain.data.sources import read_source
from multigrain.errors import ConfigError, RunError
from multigrain.export import dataset_card
from multigrain.export.interchange import export_data
from multigrain.export.tuple_forms import FORMS
from multigrain.pipeline.verbs import export_data as export_data_of_run
from multigrain.pipeline.verbs import grade, synthesize
from multigrain.records import GradedTuple, Negative, folded
from tests.conftest import small_pairs

DOCS = Path(__file__).parents[2] / "docs" / "interchange.md"
NAMES = {"hf": "folder", "sentence-transformers": "t.parquet", "flagembedding": "f.jsonl", "tevatron": "t.jsonl"}


def graded(id: str, *grades: int, instruction: str | None = None) -> GradedTuple:
    negatives = tuple(
        Negative(f"{id}{i} of grade {g}", g, g / 8, "llm" if g % 2 else "mined") for i, g in enumerate(grades)
    )
    return GradedTuple(id, f"query {id}", f"positive {id}", negatives, instruction, instruction and "search")


TUPLES = [graded("a", 1, 2, 3, 4), graded("b", 2), graded("c", 1, 3, 4, 4)]


def written(tuples: list[GradedTuple], form: str, folder: Path, **options: Any) -> Path:
    out = folder / NAMES[form]
    export_data(lambda: iter(tuples), form, out, force=True, **options)
    return out


# Back again.


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_is_read(form: str, tmp_path: Path) -> None:
    tuples = [*TUPLES, graded("d", 4, instruction="Find it: ")]
    source = read_source(str(written(tuples, form, tmp_path, **({"negatives": 1} if form in NARROW else {}))))
    assert [(p.query, p.positive) for p in source.pairs] == [(t.query, t.positive) for t in tuples]
    of = {pair.id: pair.query for pair in source.pairs}
    expected = [(t.query, n.text) for t in tuples for n in (t.negatives[-1:] if form in NARROW else t.negatives)]
    assert [(of[c.pair_id], c.text) for c in source.given] == expected
    if form in ("hf", "tevatron"):
        assert list(of) == ["a", "b", "c", "d"]
    if form == "hf":
        assert [(c.grade, c.source) for c in source.given] == [(n.grade, n.source) for t in tuples for n in t.negatives]
        assert source.pairs[-1].task == "search"
    if form not in NARROW:
        assert [pair.instruction for pair in source.pairs] == [None, None, None, "Find it: "]


NARROW = {"sentence-transformers"}

any_text = st.text(min_size=1).map(str.strip).filter(bool)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(any_text, any_text, any_text), min_size=1, max_size=4, unique_by=lambda texts: texts[0]))
def test_any_text_survives(tmp_path: Path, texts: list[tuple[str, str, str]]) -> None:
    """Line ends, NUL, quotes, separators, every plane: in each form."""
    texts = [(query, positive, other) for query, positive, other in texts if folded(positive) != folded(other)]
    tuples = [GradedTuple(str(i), q, p, (Negative(n, 1, 0.5, "llm"),)) for i, (q, p, n) in enumerate(texts)]
    for form in FORMS if tuples else ():
        source = read_source(str(written(tuples, form, tmp_path)))
        assert [(p.query, p.positive, c.text) for p, c in zip(source.pairs, source.given, strict=True)] == texts


# With the libraries for which it is written.


def load(builder: str, tmp_path: Path, **options: Any) -> Dataset:
    return load_dataset(builder, split="train", cache_dir=str(tmp_path / "cache"), **options)


def test_datasets_loads_the_folder(tmp_path: Path) -> None:
    out = written(TUPLES, "hf", tmp_path)
    dataset = load(str(out), tmp_path)
    assert dataset.column_names == ["id", "query", "positive", "negatives", "instruction", "task"]
    assert dataset[0]["negatives"][3] == {"text": "a3 of grade 4", "grade": 4, "score": 0.5, "source": "mined"}
    assert dataset["task"][:] == [None, None, None]
    card = (out / "README.md").read_text()
    assert 'size_categories: ["n<1K"]' in card
    assert "3 queries" in card and "9 negatives" in card


def test_groups_survive(tmp_path: Path) -> None:
    tuples = [replace(TUPLES[0], group="card lost"), TUPLES[1]]
    out = written(tuples, "hf", tmp_path)
    assert [pair.group for pair in read_source(str(out)).pairs] == ["card lost", None]
    assert "| `group` | texts of one group" in (out / "README.md").read_text()


def test_the_host_trains_on_the_columns(tiny_encoder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.training_args import SentenceTransformerTrainingArguments

    tuples = [
        GradedTuple(p["id"], p["query"], p["positive"], tuple(Negative("the red cat", g, 0.1, "llm") for g in (1, 4)))
        for p in small_pairs(4)
    ]
    out = written(tuples, "sentence-transformers", tmp_path)
    dataset = load("parquet", tmp_path, data_files=str(out))
    model = SentenceTransformer(str(tiny_encoder), device="cpu")
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path / "model"), max_steps=1, per_device_train_batch_size=4, report_to="none", save_strategy="no"
    )
    loss = MultipleNegativesRankingLoss(model)
    result = SentenceTransformerTrainer(model, arguments, dataset, loss=loss).train()
    assert result.global_step == 1
    assert 0 < result.training_loss < 100


def test_lines_have_the_fields_that_others_document(tmp_path: Path) -> None:
    tuples = [graded("a", 1, 4), graded("b", 2, instruction="Find: ")]
    flag = [json.loads(line) for line in written(tuples, "flagembedding", tmp_path).read_text().splitlines()]
    assert flag[0] == {
        "query": "query a",
        "pos": ["positive a"],
        "neg": ["a0 of grade 1", "a1 of grade 4"],
        "neg_scores": [0.125, 0.5],
        "prompt": "",  # an absent one would be read as the word None
    }
    assert flag[1]["prompt"] == "Find: "
    (line,) = written(TUPLES[1:2], "tevatron", tmp_path).read_text().splitlines()
    assert json.loads(line) == {
        "query_id": "b",
        "query": "query b",
        "positive_passages": [{"docid": "b-p", "title": "", "text": "positive b"}],
        "negative_passages": [{"docid": "b-n1", "title": "", "text": "b0 of grade 2"}],
    }
    assert load("json", tmp_path, data_files=str(tmp_path / NAMES["flagembedding"]))["neg_scores"][:][1] == [0.25]


# How many columns.


def test_columns_are_as_many_as_keep_most_negatives(tmp_path: Path) -> None:
    out = tmp_path / "t.parquet"
    told = export_data(lambda: iter(TUPLES), "sentence-transformers", out)  # 4 x 2 tuples beats 1 x 3
    assert "2 tuples, 4 negatives each (1 tuple with fewer left out; --negatives 1 keeps all" in told
    rows = load("parquet", tmp_path, data_files=str(out))
    assert rows.column_names == ["anchor", "positive", "negative_1", "negative_2", "negative_3", "negative_4"]
    export_data(lambda: iter(TUPLES), "sentence-transformers", out, force=True, negatives=1)
    rows = load("parquet", tmp_path, data_files=str(out))
    assert rows["negative_1"][:] == ["a3 of grade 4", "b0 of grade 2", "c3 of grade 4"]


def test_tuples_without_negatives_are_left_out(tmp_path: Path) -> None:
    for form, name in NAMES.items():
        told = export_data(lambda: iter([graded("e"), *TUPLES]), form, tmp_path / name, negatives=None)
        assert "left out" in told
        assert "e" not in [pair.id for pair in read_source(str(tmp_path / name)).pairs]
        with pytest.raises(ConfigError, match="no tuple has 1 negatives; the maximum is 0"):
            export_data(lambda: iter([graded("e")]), form, tmp_path / name, force=True)


# Paths.


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_written_over_unasked_or_by_half(form: str, tmp_path: Path) -> None:
    out = written(TUPLES, form, tmp_path)

    def files() -> dict[str, bytes]:
        return {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    before = files()
    with pytest.raises(ConfigError, match="exists; give another path, or --force"):
        export_data(lambda: iter(TUPLES[:1]), form, out)
    reads = 0

    def cut() -> Iterator[GradedTuple]:
        nonlocal reads
        reads += 1
        yield from TUPLES
        if reads == 2:
            raise KeyboardInterrupt

    for place in (out, out.with_stem("new")):
        reads = 0
        with pytest.raises(KeyboardInterrupt):
            export_data(cut, form, place, force=True)
    assert files() == before
    export_data(lambda: iter(TUPLES[:1]), form, out, force=True)
    assert files().keys() == before.keys()
    assert len(read_source(str(out)).pairs) == 1


def test_other_files_in_a_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("mine")
    with pytest.raises(ConfigError, match="exists; give another path"):
        export_data(lambda: iter(TUPLES), "hf", tmp_path)
    export_data(lambda: iter(TUPLES), "hf", tmp_path, force=True)
    assert (tmp_path / "LICENSE").read_text() == "mine"
    assert len(read_source(str(tmp_path)).pairs) == 3


@pytest.mark.parametrize(
    ("form", "name", "negatives", "expected"),
    [
        ("flagembedding", "train.txt", None, "the name must end in .jsonl or .json"),
        ("sentence-transformers", "train.jsonl", None, "the name must end in .parquet"),
        ("tevatron", "folder.jsonl", None, "is a folder; tevatron is one file"),
        ("hf", "file", None, "is a file; hf is a folder"),
        ("hf", "new", 4, "--negatives: applies only to sentence-transformers"),
        ("sentence-transformers", "t.parquet", 5, "no tuple has 5 negatives; the maximum is 4"),
    ],
)
def test_bad_paths(tmp_path: Path, form: str, name: str, negatives: int | None, expected: str) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=expected):
        export_data(lambda: iter(TUPLES), form, tmp_path / name, force=True, negatives=negatives)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.jsonl"]


def test_the_command(
    run_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = load_config(run_toml).folder
    with pytest.raises(RunError, match="there are no graded tuples yet. Run: multigrain grade RUN.toml"):
        export_data_of_run(folder, "hf", tmp_path / "out")
    assert set(DATA_FORMS) == set(FORMS)
    synthesize(load_config(run_toml))
    summary = grade(load_config(run_toml))
    capsys.readouterr()
    out = tmp_path / "t.jsonl"
    assert main(["export-data", str(folder), "--to", "tevatron", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert told.count("\n") == 1 and f"--dataset_path {out}" in told
    assert len(out.read_text().splitlines()) == summary["counts"]["tuples"]
    assert main(["export-data", str(folder), "--to", "tevatron", "--out", str(out)]) == 2
    assert "exists; give another path" in capsys.readouterr().err
    commands = re.findall(r"^multigrain (export-data .+)$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) == 5
    monkeypatch.chdir(tmp_path)
    for command in commands:
        assert main([str(folder) if part == "runs/my-search" else part for part in shlex.split(command)]) == 0
    (folder / "grading" / "tuples.jsonl").write_text('{"id": "x"}\n')
    assert main(["export-data", str(folder), "--to", "hf", "--out", str(tmp_path / "out")]) == 2
    assert "tuples.jsonl, line 1: is not a graded tuple" in capsys.readouterr().err


def test_the_documented_configuration_is_one(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "run.toml").write_text(block)
    assert load_config(tmp_path / "run.toml").mining.per_grade == 2


@pytest.mark.parametrize(("rows", "expected"), [(999, "n<1K"), (1000, "1K<n<10K"), (10**8, "n>100M")])
def test_size_categories(rows: int, expected: str) -> None:
    assert dataset_card._size_category(rows) == expected
