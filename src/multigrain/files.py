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
    """What changes with a file's content, and costs nothing to ask for."""

    inode: int
    size: int
    changed: int
    """Nanoseconds of the clock."""


def state_of(path: Path) -> FileState:
    """Return the state of a file.

    Raises:
        OSError: it is not there.
    """
    state = path.stat()
    return FileState(state.st_ino, state.st_size, state.st_mtime_ns)


def count_lines(path: Path) -> int:
    """Return the number of lines of a file, which is that of its records.

    The file is read once while it stays the same: stages ask for its length again and again.

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
    """Give a file to write; a reader of `path` sees all of the old content or all of the new, never a part."""
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
    """Remove the files below the folder that `atomic_file` had begun when its process was killed."""
    for part in folder.rglob("*.*.part"):
        writer = part.suffixes[-2].removeprefix(".")
        if writer.isdecimal() and not _is_alive(int(writer)):
            part.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # somebody else's, or no name of ours
        pass
    return True


@contextmanager
def atomic_folder(out: Path, *, keep_others: bool = False) -> Iterator[Path]:
    """Give an empty folder to fill, and put it in the place of `out` when the block ends well.

    While the block runs, and if it raises, `out` stays as it was. One process at a time may write a folder. What a
    killed one left beside `out` goes away, and what it had moved aside comes back.

    Without `keep_others` the new folder replaces the old one by two renames: `out` is all old or all new, and between
    the two renames it is absent. A symbolic link is replaced, and what it points to stays.

    With `keep_others` the files move into the folder that is there, one by one: each of them is all old or all new,
    and files of other names stay. A symbolic link is followed.

    Args:
        out: the folder to write; its parents are made.
        keep_others: keep the files in `out` that the block does not write.

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
    """Give the old folder its name again, unless a new one has it."""
    if old.exists() and not out.exists():
        old.rename(out)


def _move_files(source: Path, target: Path) -> None:
    """Move each file of `source` to its place below `target`, over the file that is there."""
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
    """Write one object a line, atomically; return how many."""
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
"""What the messages of a full disk say."""
LEAST_FREE = 2**20
"""Bytes of free disk below which a failure is put down to the disk."""


@contextmanager
def full_disk_explained(folder: Path) -> Iterator[None]:
    """Turn an error that a full disk caused into one that says so.

    Libraries wrap "disk full" in errors of their own. So look through the chain of causes, then at the disk.

    Args:
        folder: is on the disk that the block writes to.

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
    """Return the SHA-256 of a file as hexadecimal digits.

    The file is read in pieces, and once while it stays the same: stages ask for its digest again and again.

    Raises:
        OSError: it cannot be read.
    """
    return _digest_at(path, state_of(path))


@cache
def _digest_at(path: Path, _state: FileState) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
