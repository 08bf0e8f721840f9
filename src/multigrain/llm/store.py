"""Every answer that was paid for, in one SQLite file; a request that it holds is never sent again."""

import sqlite3
from pathlib import Path
from typing import Self

from multigrain.errors import RunError
from multigrain.llm.client import Answer, Request

SCHEMA = """
create table if not exists answers (
    key text primary key,
    prompt text not null,
    answer text not null,
    prompt_tokens integer not null,
    completion_tokens integer not null
) without rowid
"""


class AnswerStore:
    """Answers by request key.

    Each is committed before the next request takes its place, so that kill -9 loses at most what was under way.

    Raises:
        RunError: the file is no database, or another program has locked it.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = sqlite3.connect(path, isolation_level=None)
            self._database.execute("pragma journal_mode = wal")
            self._database.execute("pragma synchronous = normal")
            self._database.execute(SCHEMA)
        except sqlite3.DatabaseError as error:
            raise RunError(
                f"{path}: cannot be used as the store of answers ({error}). Move it away; then all is asked again."
            ) from None

    def get(self, request: Request) -> Answer | None:
        """The answer to this very request, if it was given before."""
        row = self._database.execute(
            "select answer, prompt_tokens, completion_tokens from answers where key = ?", (request.key,)
        ).fetchone()
        return Answer(*row) if row else None

    def put(self, request: Request, answer: Answer) -> None:
        """Keep an answer; the first one stays."""
        self._database.execute(
            "insert or ignore into answers values (?, ?, ?, ?, ?)",
            (request.key, request.prompt, answer.text, answer.prompt_tokens, answer.completion_tokens),
        )

    def __len__(self) -> int:
        return int(self._database.execute("select count(*) from answers").fetchone()[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()
