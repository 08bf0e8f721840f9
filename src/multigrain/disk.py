"""Taking little disk space, and telling a full disk from other failures, and files from each other."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from multigrain.errors import MultigrainError, RunError

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
