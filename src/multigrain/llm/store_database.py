"""The SQLite file of the store: its tables and its transactions."""

import sqlite3
from pathlib import Path
from typing import Self

from multigrain.errors import RunError

VERSION = 2
SCHEMA = """
create table if not exists calls (
    id integer primary key,
    key text not null,
    state text not null check (state in ('under way', 'answered', 'failed', 'lost')),
    reply text,
    finish_reason text,
    max_tokens integer not null,
    prompt_tokens integer not null,
    completion_tokens integer not null,
    cost real not null,
    error text,
    batch text
);
create index if not exists calls_by_key on calls (key);
create table if not exists inputs (
    key text primary key,
    state text not null check (state in ('todo', 'ok', 'parked', 'batched')),
    call integer,
    reason text,
    detail text,
    forgiven integer not null default 0
) without rowid;
create table if not exists batches (
    name text primary key, requests integer not null, file_id text, batch_id text, state text not null
) without rowid;
create table if not exists dialects (
    address text not null, model text not null, dialect text not null, primary key (address, model)
) without rowid;
"""


class Database:
    """A SQLite file with the tables of the store.

    Nothing is on disk before `commit`, so commit before a request is sent.

    Args:
        path: the file; created if it does not exist.
        durable: whether every commit is flushed to the disk, and so survives a power cut as well as kill -9.

    Raises:
        RunError: the file is not a store, or another process has locked it.
    """

    def __init__(self, path: Path, durable: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        try:
            self._database = sqlite3.connect(path, isolation_level=None)
            version = self._database.execute("pragma user_version").fetchone()[0]
            if version not in (0, VERSION):
                raise sqlite3.DatabaseError(f"its format is {version}; wanted {VERSION}")
            self._database.execute("pragma journal_mode = wal")
            self._database.execute(f"pragma synchronous = {'full' if durable else 'normal'}")
            if not version:
                self._database.executescript(f"{SCHEMA}; pragma user_version = {VERSION}")
        except sqlite3.DatabaseError as error:
            raise self._explained(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: object, error: object, _traceback: object) -> None:
        if not isinstance(error, sqlite3.Error):
            self.commit()
        self._database.close()
        if isinstance(error, sqlite3.DatabaseError) and "full" not in str(error):
            raise self._explained(error) from error

    def _explained(self, error: sqlite3.DatabaseError) -> RunError:
        if "locked" in str(error):
            return RunError(f"{self._path}: another process is writing to it. Wait for it, or stop it.")
        return RunError(
            f"{self._path}: cannot be used as the store of answers ({error}). Move it away to have all asked again."
        )

    def commit(self) -> None:
        """Write all changes so far to the file."""
        if self._database.in_transaction:
            self._database.execute("commit")

    def _write(self, statement: str, *values: object) -> sqlite3.Cursor:
        """Execute a statement that changes data, in the transaction that the next `commit` ends."""
        if not self._database.in_transaction:
            self._database.execute("begin immediate")
        return self._database.execute(statement, values)
