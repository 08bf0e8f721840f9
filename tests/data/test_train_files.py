"""Which files of a folder are trained on: the rules of the Hugging Face hub."""

import random
from pathlib import Path

import pytest
from datasets.data_files import DataFilesDict, get_data_patterns

from multigrain.data.sources import files_of
from multigrain.errors import DataError

FOLDERS: dict[str, tuple[list[str], list[str]]] = {  # files, and those for training
    "the hub's shards": (
        ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/x_y-00000-of-00001.parquet"],
        ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
    ),
    "shards whose split is called training": (
        ["data/training-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"],
        ["data/training-00000-of-00001.parquet"],
    ),
    "shards without a folder": (
        ["training-00000-of-00001.parquet", "test-00000-of-00001.parquet"],
        ["training-00000-of-00001.parquet"],
    ),
    "words in names": (["my.train.jsonl", "my_eval.jsonl", "Dev 2.jsonl", "more.jsonl"], ["my.train.jsonl"]),
    "numbers are no part of a word": (["train2.json", "valid1.json"], ["train2.json"]),
    "folders before names": (["a/train/x.parquet", "a/x-test/train.parquet"], ["a/train/x.parquet"]),
    "no words": (
        ["trained.jsonl", "contest.jsonl", "b/latest.jsonl.gz"],
        ["b/latest.jsonl.gz", "contest.jsonl", "trained.jsonl"],
    ),
    "hidden files": ([".cache/train.parquet", "x.parquet", "__pycache__/y.parquet"], ["x.parquet"]),
    "what describes the data": (["x.parquet", "dataset_infos.json", "stats.json", "test.csv"], ["x.parquet"]),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_the_hubs_rules_for_splits(tmp_path: Path, name: str) -> None:
    files, expected = FOLDERS[name]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("")
    assert [path.relative_to(tmp_path).as_posix() for path in files_of(str(tmp_path))] == expected


NAMES = [
    "train",
    "training",
    "a-train",
    "my train",
    "train2",
    "trained",
    "test",
    "test_1",
    "contest",
    "val",
    "x",
]


def test_splits_are_those_of_the_hubs_own_library(tmp_path: Path) -> None:
    draw = random.Random(0)
    for number in range(15):
        root = tmp_path / str(number)
        for _ in range(draw.randint(1, 4)):
            parts = draw.choices(NAMES, k=draw.randint(1, 3))
            (root / "-").joinpath(*parts[1:]).mkdir(parents=True, exist_ok=True)
            (root / "-").joinpath(*parts[1:], f"{parts[0]}.jsonl").write_text("")
        found = DataFilesDict.from_patterns(get_data_patterns(str(root)), str(root))
        theirs = {split: set(files) for split, files in found.items()}
        twice = len(set().union(*theirs.values())) < sum(map(len, theirs.values()))
        if twice or "train" not in theirs:
            with pytest.raises(DataError, match="words for several splits" if twice else "no split for training"):
                files_of(str(root))
        else:
            assert [str(file) for file in files_of(str(root))] == sorted(theirs["train"])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["test.parquet"], "no split for training; splits found: test. Give the path of a file"),
        (["data/a-00000-of-00001.parquet"], "no split for training; splits found: a"),
        (["dev/x.jsonl", "test/x.jsonl"], "no split for training; splits found: test, validation"),
        (["train-test.jsonl", "x.jsonl"], "train-test.jsonl: its name has the words for several splits"),
        (["train.jsonl", "train.parquet"], r"files of several kinds \(train.jsonl, train.parquet\); give the name"),
        (["corpus.jsonl", "queries.jsonl", "qrels/dev.tsv"], r"write beir:.*:SPLIT \(splits found: dev\)"),
    ],
)
def test_folders_without_rows_for_training(tmp_path: Path, files: list[str], message: str) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("")
    with pytest.raises(DataError, match=message):
        files_of(str(tmp_path))


CARD = "---\nconfigs:\n{}\n---\n# A data set\n"
FIRST = "- config_name: a\n  data_files: x.jsonl"
SPLIT = "- config_name: b\n  data_files:\n  - split: train\n    path: [y*.jsonl]\n  - split: test\n    path: x.jsonl"


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (CARD.format(FIRST), ["x.jsonl"]),
        (CARD.format(SPLIT), ["y1.jsonl", "y2.jsonl"]),
        (CARD.format(f"{FIRST}\n{SPLIT}\n  default: true"), ["y1.jsonl", "y2.jsonl"]),
        (CARD.format("- config_name: a\n  data_files: absent.jsonl"), ["train.jsonl"]),
        ("---\n: no\n - yaml {\n---\n", ["train.jsonl"]),
        ("# Notes", ["train.jsonl"]),
    ],
)
def test_the_card_of_a_folder_names_the_files_of_its_splits(tmp_path: Path, card: str, expected: list[str]) -> None:
    for name in ("x.jsonl", "y1.jsonl", "y2.jsonl", "train.jsonl"):
        (tmp_path / name).write_text("")
    (tmp_path / "README.md").write_text(card)
    assert [path.name for path in files_of(str(tmp_path))] == expected


@pytest.mark.parametrize(
    ("configs", "message"),
    [
        (f"{FIRST}\n{SPLIT}", r"README.md: configs: there are several \(a, b\), and none is the default. Give"),
        (SPLIT.replace("train", "dev"), "no split for training; splits found: dev, test"),
        ("- data_files:\n  - path: x.jsonl", "README.md: configs: 'split'. Give the name"),
    ],
)
def test_cards_that_name_no_files_for_training(tmp_path: Path, configs: str, message: str) -> None:
    for name in ("x.jsonl", "y.jsonl"):
        (tmp_path / name).write_text("")
    (tmp_path / "README.md").write_text(CARD.format(configs))
    with pytest.raises(DataError, match=message):
        files_of(str(tmp_path))
