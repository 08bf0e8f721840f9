"""Write files and folders whole, name them by digest, and explain a full disk."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from multigrain.errors import MultigrainError, RunError


def count_lines(path: Path) -> int:
    """How many records a file holds."""
    with path.open("rb") as file:
        return sum(1 for _ in file)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, of which a reader sees the old content or the whole new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, which takes its name, or whose files take their places, when all of it is there."""
    out = out.resolve()
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        yield part
        if not out.exists():
            part.rename(out)
            return
        for path in [path for path in part.rglob("*") if path.is_file()]:
            place = out / path.relative_to(part)
            place.parent.mkdir(exist_ok=True)
            path.replace(place)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a whole file at once."""
    with atomic_file(path) as file:
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value, indented, atomically."""
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_objects(path: Path, objects: Iterable[dict[str, Any]]) -> int:
    """Write one object a line, atomically; return how many."""
    count = 0
    with atomic_file(path) as file:
        for fields in objects:
            file.write(to_line(fields))
            count += 1
    return count


def to_line(fields: dict[str, Any]) -> bytes:
    """One object as one line."""
    return (json.dumps(fields, ensure_ascii=False) + "\n").encode("utf-8", errors="replace")


SIGNS = ("No space left", "File too large")
LEAST_FREE = 2**20
"""Bytes of free disk below which a failure is put down to the disk."""


@contextmanager
def full_disk_explained(folder: Path) -> Iterator[None]:
    """Libraries wrap "disk full" in errors of their own: look through the chain, then at the disk."""
    try:
        yield
    except MultigrainError:
        raise
    except Exception as error:
        if not _is_full_disk(error, folder):
            raise
        raise RunError(
            f"{folder}: the disk is full. Make room, or allow larger files, then give the same command again; "
            "what is finished is kept."
        ) from error


def link_or_copy(source: str | Path, path: str | Path) -> None:
    """Give a file a second name, or copy it where the disk has no links; for files that are replaced, never changed."""
    try:
        os.link(source, path)
    except OSError:
        shutil.copy2(source, path)


def _is_full_disk(error: Exception, folder: Path) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(
            sign in str(cause) for sign in SIGNS
        ):
            return True
        cause = cause.__cause__ or cause.__context__
    # torch only says that its writer failed; an OSError has said what it is.
    return not isinstance(error, OSError) and folder.exists() and shutil.disk_usage(folder).free < LEAST_FREE


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, read in pieces, and once while it stays the same: stages ask for it again and again.

    Raises:
        OSError: it cannot be read.
    """
    state = path.stat()
    return _digest_at(path, state.st_ino, state.st_mtime_ns, state.st_size)


@cache
def _digest_at(path: Path, _inode: int, _changed: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A folder to make and fill, beside `folder`, whose name it takes when the block ends well; else it goes away.

    What had the name before goes away when the new one is in its place. What a killed process left beside, under a
    name of ours, goes away too.
    """
    folder = folder.absolute()
    beside = folder.with_name(f".{folder.name}.multigrain")
    part, old = beside / "new", beside / "old"
    if old.exists() and not folder.exists():  # killed between the two
        old.rename(folder)
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield part
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
