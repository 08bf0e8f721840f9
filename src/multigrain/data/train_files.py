"""Find the training files of a folder, by the rules of the Hugging Face hub."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from multigrain.errors import DataError

COLUMNS = (".parquet", ".arrow")
KINDS = (*COLUMNS, ".jsonl")
"""Suffixes of the files that hold rows, gzipped or not."""
LESSER_KINDS = (".json", ".csv", ".tsv")
"""Suffixes that count if no file has one of `KINDS`; tables are then refused, with advice."""
IGNORED = {"config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}

TRAIN = "train"
SPLITS = {
    TRAIN: "train|training",
    "validation": "validation|valid|dev|val",
    "test": "test|testing|eval|evaluation",
}
"""Words that name a split, as in the hub (`datasets.data_files`)."""
_SPLIT_WORDS = {
    split: re.compile(rf"(?:^|[-._ 0-9])(?:{words})(?:[-._ 0-9]|$)", re.IGNORECASE) for split, words in SPLITS.items()
}
_SHARD = re.compile(r"data/([^/]+)-\d{5}-of-\d{5}[^/]*")


def files_below(path: Path) -> list[Path]:
    """Return the files that hold the rows: the path itself, or the files of a folder's training split.

    Files belong to splits by the rules of the Hugging Face hub, or as `Dataset.save_to_disk` wrote them. If no file
    names a split, all are for training.

    Raises:
        DataError: the folder holds no rows, or no training split among its splits, or files of several kinds.
    """
    if not path.is_dir():
        return [path]
    if (path / "dataset_dict.json").is_file():
        splits = [child for child in path.iterdir() if (child / "state.json").is_file()]
        return _arrow_files(_train_of({child.name: [child] for child in splits}, path)[0])
    if (path / "state.json").is_file():
        return _arrow_files(path)
    files = _data_files(path)
    by_name = {file.relative_to(path).as_posix(): file for file in files}
    train = _train_of(_configured(path) or _splits(by_name, path), path)
    if len({_kind(file) for file in train}) > 1:
        raise DataError(path, f"rows in files of several kinds ({_listed(train)}); give the name of one.")
    return train


def _kind(file: Path) -> str:
    return Path(file.name.removesuffix(".gz")).suffix.lower()


def _data_files(path: Path) -> list[Path]:
    """Return all files of the folder that hold rows; skip hidden ones, as the hub does."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name not in IGNORED)
    seen = [file for file in files if not any(part.startswith((".", "__")) for part in file.relative_to(path).parts)]
    found = [file for file in seen if _kind(file) in KINDS] or [file for file in seen if _kind(file) in LESSER_KINDS]
    if not found or (path / "qrels").is_dir():
        raise DataError(path, f"a folder without rows; {_advice(path)}")
    return found


def _configured(path: Path) -> dict[str, list[Path]]:
    """Return the files of each split as the folder's card lists them; empty if it lists none.

    The card takes precedence over all other rules.
    """
    configs = _card(path).get("configs")
    if not configs:
        return {}
    try:
        files = _default(configs).get("data_files", [])
        splits: dict[str, list[Path]] = {}
        for entry in files if isinstance(files, list) else [files]:
            split, patterns = (entry["split"], entry["path"]) if isinstance(entry, dict) else (TRAIN, entry)
            for pattern in patterns if isinstance(patterns, list) else [patterns]:
                splits.setdefault(split, []).extend(sorted(file for file in path.glob(pattern) if file.is_file()))
    except (KeyError, TypeError, ValueError, NotImplementedError, AttributeError) as error:
        raise DataError(path / "README.md", f"configs: {error}. Give the name of a file, or of a folder.") from None
    return {split: found for split, found in splits.items() if found}


def _card(path: Path) -> dict[str, Any]:
    """Return the metadata at the head of the folder's README; empty if it has none."""
    from huggingface_hub import metadata_load

    try:
        return metadata_load(path / "README.md") or {}
    except Exception:  # missing, not UTF-8 or not YAML: these errors have no common class
        return {}


def _default(configs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the default configuration."""
    chosen = [config for config in configs if config.get("default") or config.get("config_name") == "default"]
    if len(configs) > 1 and not chosen:
        found = ", ".join(str(config.get("config_name")) for config in configs)
        raise ValueError(f"there are several ({found}), and none is the default")
    return (chosen or configs)[0]


def _splits(files: dict[str, Path], path: Path) -> dict[str, list[Path]]:
    """Return the files of each split, by the first of the hub's rules that finds any; `files` is by path in the folder.

    1. `data/SPLIT-00000-of-00001.parquet`, whatever the split is called.
    2. A folder whose name has a word for a split.
    3. A file whose name has one.
    4. All files are for training.
    """
    shards = {name: found[1] for name in files if (found := _SHARD.fullmatch(name))}
    if shards:
        names = [(TRAIN if split == "training" else split, name) for name, split in shards.items()]
    else:
        in_folders = [(split, name) for name in files for split in _named(name.split("/")[:-1])]
        names = in_folders or [(split, name) for name in files for split in _named(name.split("/")[-1:])]
    for name, count in Counter(name for _, name in names).items():
        if count > 1:
            raise DataError(path / name, "its name has the words for several splits. Rename it, or give this file.")
    splits: dict[str, list[Path]] = {}
    for split, name in names or [(TRAIN, name) for name in files]:
        splits.setdefault(split, []).append(files[name])
    return splits


def _named(parts: list[str]) -> list[str]:
    """Return the splits that parts of a path name."""
    return [split for split, words in _SPLIT_WORDS.items() if any(words.search(part) for part in parts)]


def _train_of(splits: dict[str, list[Path]], path: Path) -> list[Path]:
    """Return the files of the training split."""
    train = splits.get(TRAIN) or splits.get("training")
    if not train:
        found = ", ".join(sorted(splits)) or "none"
        raise DataError(path, f"no split for training; splits found: {found}. Give the path of a file or folder in it.")
    return train


def _listed(files: list[Path]) -> str:
    return ", ".join(file.name for file in files[:3]) + (", ..." if len(files) > 3 else "")


def _arrow_files(path: Path) -> list[Path]:
    """Return the files in the order in which `Dataset.save_to_disk` wrote them."""
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        return [path / file["filename"] for file in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(path / "state.json", f"damaged ({error!r}). Save the dataset again.") from None


def _advice(path: Path) -> str:
    if (path / "qrels").is_dir():
        splits = ", ".join(sorted(file.stem for file in (path / "qrels").glob("*.tsv")))
        return f"it looks like a BEIR folder: write beir:{path}:SPLIT (splits found: {splits or 'none'})."
    return "wanted Parquet or JSON-lines files, or a dataset that Dataset.save_to_disk wrote."
