"""Check that files do not change while they are read more than once."""

from pathlib import Path

from multigrain.data.sources import files_of
from multigrain.errors import DataError
from multigrain.files import FileState, state_of


class Unchanged:
    """The state of the files of some sources, before they are read.

    Args:
        sources: see `multigrain.data.sources`; None is skipped.
    """

    def __init__(self, *sources: str | None) -> None:
        self._files = {path: _state(path) for source in sources if source for path in files_of(source)}

    def require(self) -> None:
        """Check that the files have not changed.

        Raises:
            DataError: a file has changed; the message names the first.
        """
        for path, before in self._files.items():
            if (after := _state(path)) != before:
                found = "is gone" if after is None else "changed while it was read"
                raise DataError(path, f"{found}. Wait until it is written, then run the same command again.")


def _state(path: Path) -> FileState | None:
    """Return the state of a file; None if it is missing, which its reader will report."""
    try:
        return state_of(path)
    except OSError:
        return None
