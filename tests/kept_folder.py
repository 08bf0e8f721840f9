"""A folder that is dear to make: made once, and put back at its place before each test that uses it."""

import shutil
import tarfile
from contextlib import redirect_stderr, redirect_stdout
from io import BytesIO, StringIO
from pathlib import Path
from typing import NamedTuple

from multigrain.cli.main import main


class KeptFolder:
    """The content that a folder has now. Paths are part of fingerprints, so it goes back to where it was made.

    Args:
        folder: where it is; tests may change it as they like.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._content = BytesIO()
        with tarfile.open(fileobj=self._content, mode="w") as archive:  # hard links stay hard links
            archive.add(folder, arcname=".")

    def put_back(self) -> Path:
        """Make the folder what it was, and return its path."""
        shutil.rmtree(self._folder)
        self._content.seek(0)
        with tarfile.open(fileobj=self._content) as archive:
            archive.extractall(self._folder, filter="fully_trusted")
        return self._folder


class Performed(NamedTuple):
    """A folder in which a command has been performed, and what the command said."""

    project: KeptFolder
    out: str
    err: str


def perform(folder: Path, *arguments: str) -> Performed:
    """Perform a command that succeeds, and keep what it leaves in the folder."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        assert main(list(arguments)) == 0
    return Performed(KeptFolder(folder), out.getvalue(), err.getvalue())
