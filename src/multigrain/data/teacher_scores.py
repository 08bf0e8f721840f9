"""Scores of a teacher, kept in Parquet files, so that each query and text are scored only once.

One row for each query and text:

    key     digest of query and text, see `multigrain.data.key_table.exact_key`
    score   the score of the teacher, unchanged
"""

from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from multigrain.data.key_table import KeyTable, exact_key
from multigrain.data.mined_candidates import metadata_of
from multigrain.errors import RunError
from multigrain.files import atomic_file

MADE_FROM = "multigrain.made_from"
"""Metadata key, in each file, of the digest of everything that determines the teacher's scores."""

Score = Callable[[list[tuple[str, str]]], ArrayLike]
"""Maps (query, text) pairs to one score each, in their order; higher is more relevant."""


class TeacherScores:
    """The scores of a teacher in a folder, shared by all trainings.

    Each call writes its new scores as one file, atomically: a kill -9 costs one call. Files that are damaged, or of
    another teacher, are removed.

    Args:
        folder: folder of the files.
        made_from: digest that identifies the teacher.
        teacher: returns the teacher; called when a score is first missing.
    """

    def __init__(self, folder: Path, made_from: str, teacher: Callable[[], Score]) -> None:
        self._folder, self._made_from, self._teacher = folder, made_from, teacher
        self._score: Score | None = None
        self._rows, self._scores, self._files = KeyTable(), array("f"), 0
        for path in sorted(folder.glob("*.parquet")):
            if self._read(path):
                self._files = int(path.stem) + 1
            else:
                path.unlink()

    def scores(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Return the score of each (query, text), (pairs,).

        Raises:
            RunError: the teacher returned something that is not a number.
        """
        keys = [exact_key(*pair) for pair in pairs]
        new = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in self._rows}
        if new:
            self._ask(new)
        rows = [self._rows.get(key) or 0 for key in keys]  # all are known by now
        return np.frombuffer(self._scores, dtype=np.float32)[rows] if rows else np.empty(0, np.float32)

    def _ask(self, new: dict[int, tuple[str, str]]) -> None:
        self._score = self._score or self._teacher()
        scores = np.asarray(self._score(list(new.values())), dtype=np.float32)
        if not np.isfinite(scores).all():
            query, text = list(new.values())[int(np.flatnonzero(~np.isfinite(scores))[0])]
            found = f"returned no number for the query {query[:80]!r} and the text {text[:80]!r}"
            raise RunError(f"training.teacher: it {found}. Use another model, or lower max_tokens.")
        table = pa.table({"key": pa.array(list(new), pa.uint64()), "score": scores})
        with atomic_file(self._folder / f"{self._files:06}.parquet") as file:
            pq.write_table(table.replace_schema_metadata({MADE_FROM: self._made_from}), file)
        self._files += 1
        self._note(list(new), scores)

    def _read(self, path: Path) -> bool:
        """Load a file; return whether it is complete and from this teacher."""
        if not path.stem.isdecimal() or metadata_of(path).get(MADE_FROM) != self._made_from:
            return False
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid):
            return False
        self._note(table["key"].to_pylist(), table["score"].to_numpy())
        return True

    def _note(self, keys: Sequence[int], scores: NDArray[np.float32]) -> None:
        for key, score in zip(keys, scores.tolist(), strict=True):
            if key not in self._rows:
                self._rows.setdefault(key, len(self._scores))
                self._scores.append(score)
