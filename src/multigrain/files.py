"""Write files and folders atomically, digest files, and explain a full disk."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from multigrain.errors import MultigrainError, RunError


class FileState(NamedTuple):
    """Metadata that changes with a file's content and is cheap to read."""

    inode: int
    size: int
    changed: int
    """Modification time in nanoseconds."""


def state_of(path: Path) -> FileState:
    """Return the state of a file.

    Raises:
        OSError: the file does not exist.
    """
    state = path.stat()
    return FileState(state.st_ino, state.st_size, state.st_mtime_ns)


def count_lines(path: Path) -> int:
    """Return the number of lines in a file, which is its number of records.

    The count is cached until the file changes, because stages ask for it often.

    Raises:
        OSError: it cannot be read.
    """
    return _lines_at(path, state_of(path))


@cache
def _lines_at(path: Path, _state: FileState) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for atomic writing: readers of `path` see all of the old content or all of the new, never a part."""
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


def remove_parts(folder: Path) -> None:
    """Remove the partial files below the folder that `atomic_file` left when its process was killed."""
    for part in folder.rglob("*.*.part"):
        writer = part.suffixes[-2].removeprefix(".")
        if writer.isdecimal() and not _is_alive(int(writer)):
            part.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's process, or no process id
        pass
    return True


@contextmanager
def atomic_folder(out: Path, *, keep_others: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill, and move it to `out` when the block succeeds.

    While the block runs, and if it raises, `out` stays unchanged. Only one process at a time may write a folder. The
    next call removes what a killed process left beside `out`, and restores what it had moved aside.

    Without `keep_others`, the new folder replaces the old one by two renames: `out` is all old or all new, and absent
    between the renames. A symbolic link is replaced; its target stays.

    With `keep_others`, the files move into the existing folder one by one: each file is all old or all new, and files
    with other names stay. A symbolic link is followed.

    Args:
        out: the folder to write; missing parents are created.
        keep_others: keep files in `out` that the block does not write.

    Yields:
        An empty folder beside `out`, on the same disk.
    """
    out = out.resolve() if keep_others else out.absolute()
    beside = out.with_name(f".{out.name}.multigrain")
    new, old = beside / "new", beside / "old"
    _put_back(old, out)  # a process was killed between the two renames
    shutil.rmtree(beside, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
        if keep_others and out.exists():
            _move_files(new, out)
        else:
            if out.exists():
                out.rename(old)
            new.rename(out)
    finally:
        _put_back(old, out)
        shutil.rmtree(beside, ignore_errors=True)


def _put_back(old: Path, out: Path) -> None:
    """Rename the old folder back to `out`, unless a new folder is there."""
    if old.exists() and not out.exists():
        old.rename(out)


def _move_files(source: Path, target: Path) -> None:
    """Move each file of `source` to the same place below `target`, replacing any file there."""
    files = [path for path in source.rglob("*") if path.is_file()]
    for path in files:
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)


def write_atomic(path: Path, content: bytes) -> None:
    """Write the content of a file atomically."""
    with atomic_file(path) as file:
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value, indented, atomically."""
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_objects(path: Path, objects: Iterable[dict[str, Any]]) -> int:
    """Write one JSON object per line, atomically; return their number."""
    count = 0
    with atomic_file(path) as file:
        for fields in objects:
            file.write(to_line(fields))
            count += 1
    return count


def to_line(fields: dict[str, Any]) -> bytes:
    """Return one object as one line of JSON."""
    return (json.dumps(fields, ensure_ascii=False) + "\n").encode("utf-8", errors="replace")


SIGNS = ("No space left", "File too large")
"""Phrases in the error messages of a full disk."""
LEAST_FREE = 2**20
"""Free bytes on the disk below which a failure is attributed to a full disk."""


@contextmanager
def full_disk_explained(folder: Path) -> Iterator[None]:
    """Turn an error caused by a full disk into one that says so.

    Libraries wrap the original error in their own, so this searches the chain of causes, then checks the free space.

    Args:
        folder: a folder on the disk that the block writes to.

    Raises:
        RunError: the block failed because the disk is full.
    """
    try:
        yield
    except MultigrainError:
        raise
    except Exception as error:
        if not _is_full_disk(error, folder):
            raise
        raise RunError(
            f"{folder}: the disk is full. Make room, or allow larger files, then run the same command again; "
            "finished work is kept."
        ) from error


def link_or_copy(source: str | Path, path: str | Path) -> None:
    """Hard-link a file, or copy it if that fails; only for files that are replaced as a whole, never edited."""
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
    # torch only reports that its writer failed; an OSError names its own cause.
    return not isinstance(error, OSError) and folder.exists() and shutil.disk_usage(folder).free < LEAST_FREE


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits.

    The digest is cached until the file changes, because stages ask for it often.

    Raises:
        OSError: it cannot be read.
    """
    return _digest_at(path, state_of(path))


@cache
def _digest_at(path: Path, _state: FileState) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
