"""Datasets of the hub, from a cache like the one that `hf download` leaves; there is no network."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from multigrain.config import Config
from multigrain.data.hub_datasets import hub_files
from multigrain.data.sources import files_of, read_documents, read_pairs
from multigrain.data.split_data import prepare
from multigrain.errors import DataError

CARD = """---
configs:
- config_name: pairs
  default: true
  data_files:
  - {split: train, path: pairs/train.parquet}
  - {split: test, path: pairs/test.parquet}
- config_name: corpus
  data_files: corpus/*.parquet
---
"""
FILES = {
    "pairs/train.parquet": {"question": ["q1", "q2"], "answer": ["a1", "a2"]},
    "pairs/test.parquet": {"question": ["q3"], "answer": ["a3"]},
    "corpus/all.parquet": {"_id": ["x", "y", "z"], "title": ["", "", "T"], "text": ["a1", "a2", "other"]},
}
REVISIONS = {"main": ("a" * 40, "q1"), "v1": ("b" * 40, "older"), "refs/pr/1": ("c" * 40, "proposed")}
"""Branch or tag -> its commit, and its first question."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The cache with the dataset org/name."""
    import datasets
    import huggingface_hub

    folder = tmp_path / "hub" / "datasets--org--name"
    for ref, (commit, question) in REVISIONS.items():
        (folder / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (folder / "refs" / ref).write_text(commit)
        for name, columns in FILES.items():
            path = folder / "snapshots" / commit / name
            path.parent.mkdir(parents=True, exist_ok=True)
            told = {key: [question if text == "q1" else text for text in texts] for key, texts in columns.items()}
            pq.write_table(pa.table(told), path)
        (folder / "snapshots" / commit / "README.md").write_text(CARD)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    hub_files.cache_clear()
    yield tmp_path
    hub_files.cache_clear()


def test_pairs_of_the_default_or_a_named_configuration_and_split() -> None:
    assert [(pair.query, pair.positive) for pair in read_pairs("hf:org/name")] == [("q1", "a1"), ("q2", "a2")]
    assert read_pairs("hf:org/name:pairs") == read_pairs("hf:org/name")
    assert [pair.query for pair in read_pairs("hf:org/name::test")] == ["q3"]
    assert [pair.query for pair in read_pairs("hf:org/name:pairs:test")] == ["q3"]


@pytest.mark.parametrize("revision", ["v1", "refs/pr/1", "b" * 40, "main"])
def test_a_revision_is_a_branch_a_tag_or_a_commit(revision: str, capsys: pytest.CaptureFixture[str]) -> None:
    questions = dict(REVISIONS.values()) | {ref: question for ref, (_, question) in REVISIONS.items()}
    read_pairs("hf:org/name")  # another revision, which `datasets` now has in its cache
    source = f"hf:org/name@{revision}"
    assert [pair.query for pair in read_pairs(source)] == [questions[revision], "q2"]
    assert read_pairs(f"{source}:pairs:train") == read_pairs(source)
    assert [pair.query for pair in read_pairs(f"{source}::test")] == ["q3"]
    prepare(Config.model_validate({"name": "x", "data": {"pairs": source, "held_out": 0.0}}))
    commit = dict(REVISIONS)[revision][0] if revision in REVISIONS else revision
    assert f"{source} is read at its commit {commit}" in capsys.readouterr().err


def test_a_revision_that_is_not_there_is_not_replaced_by_another() -> None:
    read_pairs("hf:org/name")
    with pytest.raises(DataError, match=r"hf download org/name --repo-type dataset --revision v2\. Then"):
        read_pairs("hf:org/name@v2")


@pytest.mark.parametrize(("kept", "question"), [("b" * 40, "prepared"), ("a" * 40, "older")])
def test_what_the_library_has_prepared_counts_only_at_the_wanted_commit(
    cache: Path, monkeypatch: pytest.MonkeyPatch, kept: str, question: str
) -> None:
    """Offline, `datasets` takes what it has prepared last, whatever revision is wanted."""
    import datasets

    folder = cache / "datasets" / "org___name" / "pairs" / "0.0.0" / kept
    folder.mkdir(parents=True)
    prepared = datasets.Dataset.from_dict({"question": ["prepared", "q2"], "answer": ["a1", "a2"]})
    prepared.save_to_disk(str(folder))
    load = datasets.load_dataset

    def offline(name: str, *args: object, **more: object) -> datasets.Dataset:
        return datasets.load_from_disk(str(folder)) if name == "org/name" else load(name, *args, **more)

    monkeypatch.setattr(datasets, "load_dataset", offline)
    assert [pair.query for pair in read_pairs("hf:org/name@v1")] == [question, "q2"]


def test_a_corpus_of_the_hub(cache: Path) -> None:
    documents = list(read_documents("hf:org/name:corpus"))
    assert [(document.id, document.text) for document in documents] == [("x", "a1"), ("y", "a2"), ("z", "T other")]
    (path,) = files_of("hf:org/name:corpus")
    assert path.is_relative_to(cache / "datasets")
    config = Config.model_validate(
        {"name": "x", "data": {"pairs": "hf:org/name", "corpus": "hf:org/name:corpus", "held_out": 0.0}}
    )
    split = prepare(config)
    assert (len(split.train), len(split.documents)) == (2, 3)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf:no/such", r"^hf:no/such: not in the cache .* run: hf download no/such --repo-type dataset\. Then copy"),
        ("hf:org/name:other", r"cannot be loaded: .*other.* not found.*corpus.*\(wanted hf:ORG/NAME, "),
        ("hf:org/name::dev", r'cannot be loaded: Unknown split "dev"'),
        ("hf:", "wanted hf:ORG/NAME"),
        ("hf:a/b/c", "wanted hf:ORG/NAME"),
        ("hf:org/na me", "wanted hf:ORG/NAME"),
        ("hf:org/name:c:s:x", "wanted hf:ORG/NAME"),
        ("hf:org/name@", "wanted hf:ORG/NAME"),
        ("hf:org/name:pairs@v1:a:b", "wanted hf:ORG/NAME.*@REVISION may follow NAME"),
    ],
)
def test_faults_say_what_to_write_or_to_run(source: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_pairs(source)


def test_the_source_of_a_run_that_is_not_there_is_named() -> None:
    config = Config.model_validate({"name": "x", "data": {"sources": [{"name": "nq", "pairs": "hf:no/such"}]}})
    with pytest.raises(DataError, match="^source nq: hf:no/such: not in the cache"):
        prepare(config)
