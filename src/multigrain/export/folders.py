"""Folders that are whole or not there."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
