"""Folders that are whole or not there."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A folder to write into, beside `folder`, whose name it takes when the block ends well; else it goes away.

    What had the name before goes away when the new one is in its place. After kill -9 a hidden neighbour may be left.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    part, old = beside / "new", beside / "old"
    try:
        yield part
        part.chmod(0o755)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
