"""Every call that was made and every answer that was paid for, in one SQLite file.

calls      one row a request that went out: the raw reply, or why there is none, and what it took. Written before the
           request is sent, so nothing that may have cost is forgotten, also after kill -9.
inputs     one row an input that is settled: `ok` with the call that answered it, `parked` with the reason, or back to
           `todo`. An input without a row was never settled. One in a batch is `batched`.
batches    the files of requests that were handed over as a whole.
dialects   what was learnt about each server and model.

Raw replies are kept apart from what is read in them: a better reader finds in the old replies what the first one
missed, and nothing is paid for twice.
"""

import sqlite3
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Self

from multigrain.errors import RunError
from multigrain.llm.budget import Usage
from multigrain.llm.dialect import Dialect
from multigrain.llm.protocol import Answer


@dataclass(frozen=True)
class Batch:
    """What is known of a batch."""

    name: str
    requests: int
    file_id: str | None = None
    """Of the uploaded requests."""
    batch_id: str | None = None
    """The server's; None where the files are carried by hand."""
    state: str = "written"
    """`written`, the server's word, or `ingested`."""


VERSION = 2
BATCHED = "batched"
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


class AnswerStore:
    """Inputs by request key, with the calls that were made for them.

    Nothing is on disk before `commit`; whoever sends requests commits first.

    Args:
        path: the file; made if it is not there.
        durable: every commit reaches the disk (survives a power cut, not only kill -9).

    Raises:
        RunError: the file is no store, or another program has locked it.
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
            f"{self._path}: cannot be used as the store of answers ({error}). Move it away; then all is asked again."
        )

    def commit(self) -> None:
        """Let everything written so far survive."""
        if self._database.in_transaction:
            self._database.execute("commit")

    def _write(self, statement: str, *values: object) -> sqlite3.Cursor:
        if not self._database.in_transaction:
            self._database.execute("begin immediate")
        return self._database.execute(statement, values)

    # Calls

    def mark_lost(self) -> None:
        """Note that whoever had calls under way is gone, and will not hear of them; only for who holds the folder."""
        self._write("update calls set state = 'lost' where state = 'under way' and batch is null")

    def is_under_way(self, key: str) -> bool:
        """Whether a call for the input is under way."""
        found = self._database.execute("select 1 from calls where key = ? and state = 'under way'", (key,)).fetchone()
        return found is not None

    def begin_call(self, key: str, max_tokens: int, bound: Usage, batch: str | None = None) -> int:
        """Note that a request goes out (in a batch), and what it may take; returns the call's number."""
        cursor = self._write(
            "insert into calls (key, state, max_tokens, prompt_tokens, completion_tokens, cost, batch) "
            "values (?, 'under way', ?, ?, ?, ?, ?)",
            *(key, max_tokens, bound.prompt_tokens, bound.completion_tokens, bound.cost, batch),
        )
        assert cursor.lastrowid
        return cursor.lastrowid

    def bound(self, call: int) -> Usage:
        """What was reserved for a call under way."""
        row = self._database.execute(
            "select prompt_tokens, completion_tokens, cost from calls where id = ?", (call,)
        ).fetchone()
        return Usage(1, *row)

    def end_call(self, call: int, answer: Answer, usage: Usage) -> None:
        """Keep what came back, readable or not, and what it took."""
        self._write(
            "update calls set state = 'answered', reply = ?, finish_reason = ?, prompt_tokens = ?, "
            "completion_tokens = ?, cost = ? where id = ?",
            *(answer.text, answer.finish_reason, usage.prompt_tokens, usage.completion_tokens, usage.cost, call),
        )

    def fail_call(self, call: int, error: str, usage: Usage) -> None:
        """Keep why nothing came back, and what it may have taken."""
        self._write(
            "update calls set state = 'failed', error = ?, prompt_tokens = ?, completion_tokens = ?, cost = ? "
            "where id = ?",
            *(error, usage.prompt_tokens, usage.completion_tokens, usage.cost, call),
        )

    def replies(self, key: str) -> list[tuple[int, int, Answer]]:
        """(call, token limit, reply) for each reply to the input, the oldest first."""
        rows = self._database.execute(
            "select id, max_tokens, reply, prompt_tokens, completion_tokens, finish_reason from calls "
            "where key = ? and state = 'answered' order by id",
            (key,),
        )
        return [(call, limit, Answer(*answer)) for call, limit, *answer in rows]

    def spent(self) -> Usage:
        """What all calls took, or may have taken."""
        return self._usage("")

    def answered(self) -> Usage:
        """What the calls took that were answered."""
        return self._usage("where state = 'answered'")

    def _usage(self, condition: str) -> Usage:
        row = self._database.execute(
            "select count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), "  # noqa: S608
            f"coalesce(sum(cost), 0.0) from calls {condition}"
        ).fetchone()
        return Usage(*row)

    # Inputs

    def state(self, key: str) -> tuple[str, int] | None:
        """(`todo`, `ok`, `parked` or `batched`, replies that came before it was put back); None if never settled."""
        row: tuple[str, int] | None = self._database.execute(
            "select state, forgiven from inputs where key = ?", (key,)
        ).fetchone()
        return row

    def answer(self, key: str) -> Answer | None:
        """The answer that settled the input, if one did."""
        row = self._database.execute(
            "select reply, prompt_tokens, completion_tokens, finish_reason from calls "
            "where id = (select call from inputs where key = ? and state = 'ok')",
            (key,),
        ).fetchone()
        return Answer(*row) if row else None

    def parked(self, key: str) -> tuple[str, str] | None:
        """(reason, detail) of an input that stays without an answer."""
        row: tuple[str, str] | None = self._database.execute(
            "select reason, detail from inputs where key = ? and state = 'parked'", (key,)
        ).fetchone()
        return row

    def accept(self, key: str, call: int) -> None:
        """Settle an input with the reply of a call."""
        self._write("insert or replace into inputs (key, state, call) values (?, 'ok', ?)", key, call)

    def park(self, key: str, reason: str, detail: str) -> None:
        """Settle an input without an answer."""
        self._settle(key, "parked", reason, detail)

    def lend(self, key: str, batch: str) -> None:
        """Note that the input is in a batch, and not to be sent by anybody else."""
        self._settle(key, "batched", batch, None)

    def _settle(self, key: str, state: str, reason: str, detail: str | None) -> None:
        self._write(
            "insert into inputs (key, state, reason, detail) values (?, ?, ?, ?) on conflict (key) do update "
            "set state = excluded.state, call = null, reason = excluded.reason, detail = excluded.detail",
            *(key, state, reason, detail),
        )

    def give_back(self, key: str) -> None:
        """Make an input `todo` again that was in a batch; what came back for it counts."""
        self._write("update inputs set state = 'todo', reason = null where key = ?", key)

    def put_back(self, key: str) -> None:
        """Make an input `todo` again, with all its tries; what is under way for it may come back or not."""
        self._write("update calls set state = 'lost' where key = ? and state = 'under way'", key)
        self._write(
            "update inputs set state = 'todo', call = null, reason = null, detail = null, forgiven = "
            "(select count(*) from calls where calls.key = inputs.key and calls.state = 'answered') where key = ?",
            key,
        )

    # Batches

    def save_batch(self, batch: Batch) -> None:
        """Keep what is known of a batch."""
        self._write("insert or replace into batches values (?, ?, ?, ?, ?)", *astuple(batch))

    def batches(self) -> list[Batch]:
        """All batches, the oldest first."""
        rows = self._database.execute("select name, requests, file_id, batch_id, state from batches order by name")
        return [Batch(*row) for row in rows]

    def calls_in(self, batch: str) -> dict[str, int]:
        """The calls of a batch that have not come back, by the keys of their inputs."""
        rows = self._database.execute(
            "select key, id from calls where batch = ? and state in ('under way', 'lost')", (batch,)
        )
        return dict(rows.fetchall())

    def is_batched(self, key: str, batch: str | None = None) -> bool:
        """Whether the input is in this batch (or in any)."""
        found = self._database.execute(
            "select 1 from inputs where key = ? and state = 'batched' and reason = coalesce(?, reason)", (key, batch)
        )
        return found.fetchone() is not None

    def has_batched(self) -> bool:
        """Whether any input is in a batch."""
        return self._database.execute("select 1 from inputs where state = 'batched'").fetchone() is not None

    # Servers

    def dialect(self, address: str, model: str) -> Dialect | None:
        """What was learnt about a server and model."""
        row = self._database.execute(
            "select dialect from dialects where address = ? and model = ?", (address, model)
        ).fetchone()
        return Dialect.from_json(row[0]) if row else None

    def learn(self, address: str, model: str, dialect: Dialect) -> None:
        """Keep what was learnt about a server and model."""
        self._write("insert or replace into dialects values (?, ?, ?)", address, model, dialect.to_json())
