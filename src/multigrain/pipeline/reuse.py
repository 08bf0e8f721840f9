"""Reuse the results of other runs: finished stages, answers of the language model, vectors.

Files are hard links if the disk supports them, so that a grid of runs takes the space of one. Files of a run are
replaced, never changed in place, with two exceptions: several runs may append to a file of vectors, and every run has
its own copy of the store of answers.
"""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from multigrain.config import Config
from multigrain.files import atomic_folder, link_or_copy
from multigrain.pipeline.run_dir import RunDir, read_settings


def take_over_stage(stage: str, files: Sequence[Path], donor: RunDir, run_dir: RunDir) -> None:
    """Reuse a finished stage of another run: its files, and its entry in the manifest.

    Args:
        stage: name of the stage.
        files: paths in `run_dir` of the files and folders that the stage writes.
        donor: run folder in which the stage is done.
        run_dir: run folder that reuses it.
    """
    run_dir.forget(stage)
    for path in files:
        link_all(donor.folder / path.relative_to(run_dir.folder), path)
    run_dir.record(stage, donor.stages()[stage])


def share_answers(donors: Sequence[RunDir], config: Config, run_dir: RunDir) -> None:
    """Reuse answers of a language model, vectors, indexes and states that the run does not have yet.

    The caller must hold the lock of the folder. Readers of these files check that they belong to the right model.
    """
    for name in ("judge_vectors", "base_vectors", "style"):
        path: Path = getattr(run_dir, name)
        sources = [getattr(donor, name) for donor in donors]
        source = next((source for source in sources if source.exists()), None)
        if source is not None and not path.exists():
            _link(source, path)
    _share_indexes(donors, run_dir)
    if not _has_answers(run_dir.store):
        stores = [donor.store for donor in donors if donor.store.exists()]
        if stores:
            _copy_store(max(stores, key=_size), run_dir.store)
    if config.model.lora is not None:
        _share_folder("frozen", _deciding_frozen, donors, config, run_dir)
    if config.training.teacher is not None:
        _share_folder("teacher", _deciding_teacher, donors, config, run_dir)


def _share_indexes(donors: Sequence[RunDir], run_dir: RunDir) -> None:
    """Reuse the indexes of BM25. Each is named by a digest of its corpus, so they cannot be confused."""
    for donor in donors:
        for index in sorted(donor.bm25.glob("[0-9a-f]*")):
            if not (run_dir.bm25 / index.name).exists():
                with atomic_folder(run_dir.bm25 / index.name) as folder:
                    for path in index.iterdir():
                        _link(path, folder / path.name)


def _share_folder(
    name: str,
    deciding: Callable[[dict[str, Any]], list[Any]],
    donors: Sequence[RunDir],
    config: Config,
    run_dir: RunDir,
) -> None:
    """Reuse a folder that the run does not have, from a run in which the settings that determine it are the same.

    The folder holds states of frozen layers, or scores of a teacher.
    """
    own: Path = getattr(run_dir, name)
    if own.exists():
        return
    wanted = deciding(config.model_dump(exclude_none=True))
    for donor in donors:
        folder: Path = getattr(donor, name)
        if folder.is_dir() and donor.config.is_file() and deciding(read_settings(donor.config)) == wanted:
            for path in folder.iterdir():
                _link(path, own / path.name)
            return


def _deciding_teacher(settings: dict[str, Any]) -> list[Any]:
    """Return the settings that identify a teacher."""
    teacher = settings["training"].get("teacher", {})
    return [teacher.get(name) for name in ("kind", "model", "max_tokens", "query_prompt", "document_prompt")]


def _deciding_frozen(settings: dict[str, Any]) -> list[Any]:
    """Return the settings that determine the states of frozen layers."""
    model, training = settings["model"], settings["training"]
    names = ("base", "bidirectional", "max_tokens", "instruction", "query_prompt", "document_prompt")
    top_layers = model.get("lora", {}).get("top_layers")
    return [*(model.get(name) for name in names), top_layers, training.get("max_tokens"), settings.get("adapt")]


def _size(path: Path) -> int:
    return path.stat().st_size


def link_all(source: Path, path: Path) -> None:
    """Link a file, or all files of a folder."""
    if not source.is_dir():
        _link(source, path)
        return
    with atomic_folder(path) as part:
        for file in source.rglob("*"):
            if file.is_file():
                _link(file, part / file.relative_to(source))


def _link(source: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.taken_over")
    fresh.unlink(missing_ok=True)
    link_or_copy(source, fresh)
    fresh.replace(path)


def _has_answers(store: Path) -> bool:
    """Return whether the store may hold paid answers; True if it cannot be read."""
    if not store.exists():
        return False
    try:
        with closing(sqlite3.connect(store)) as database:
            tables = {name for (name,) in database.execute("select name from sqlite_master")}
            return "calls" in tables and database.execute("select 1 from calls limit 1").fetchone() is not None
    except sqlite3.DatabaseError:
        return True


def _copy_store(source: Path, path: Path) -> None:
    """Copy a database that may have been left in the middle of a write.

    SQLite itself copies it, in one transaction, because pages of the old database may be in a file beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(path)) as new:
        old.backup(new)
