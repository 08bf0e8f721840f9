"""Inputs: whether each is settled, and how."""

from multigrain.llm.protocol import Answer
from multigrain.llm.store_database import Database

BATCHED = "batched"
"""The state of an input in a batch."""


class Inputs(Database):
    """The table `inputs`, with the answers of the calls that settled them."""

    def state(self, key: str) -> tuple[str, int] | None:
        """Return (`todo`, `ok`, `parked` or `batched`, replies before `put_back`); None if it was never settled."""
        row: tuple[str, int] | None = self._database.execute(
            "select state, forgiven from inputs where key = ?", (key,)
        ).fetchone()
        return row

    def answer(self, key: str) -> Answer | None:
        """Return the answer that settled the input, if one did."""
        row = self._database.execute(
            "select reply, prompt_tokens, completion_tokens, finish_reason from calls "
            "where id = (select call from inputs where key = ? and state = 'ok')",
            (key,),
        ).fetchone()
        return Answer(*row) if row else None

    def parked(self, key: str) -> tuple[str, str] | None:
        """Return (reason, detail) of a parked input; None if it is not parked."""
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
        """Record that an input is in a batch, and must not be sent otherwise."""
        self._settle(key, "batched", batch, None)

    def _settle(self, key: str, state: str, reason: str, detail: str | None) -> None:
        self._write(
            "insert into inputs (key, state, reason, detail) values (?, ?, ?, ?) on conflict (key) do update "
            "set state = excluded.state, call = null, reason = excluded.reason, detail = excluded.detail",
            *(key, state, reason, detail),
        )

    def give_back(self, key: str) -> None:
        """Make an input of a batch `todo` again; its replies count as tries."""
        self._write("update inputs set state = 'todo', reason = null where key = ?", key)

    def put_back(self, key: str) -> None:
        """Make an input `todo` again, with all its tries; its calls under way count as lost."""
        self._write("update calls set state = 'lost' where key = ? and state = 'under way'", key)
        self._write(
            "update inputs set state = 'todo', call = null, reason = null, detail = null, forgiven = "
            "(select count(*) from calls where calls.key = inputs.key and calls.state = 'answered') where key = ?",
            key,
        )
