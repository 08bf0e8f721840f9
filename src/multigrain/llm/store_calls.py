"""Calls: the requests sent, their replies, and their usage."""

from multigrain.llm.budget import Usage
from multigrain.llm.protocol import Answer
from multigrain.llm.store_database import Database


class Calls(Database):
    """The table `calls`."""

    def mark_lost(self) -> None:
        """Mark the calls under way as lost, because their process is gone. Take the folder's lock first."""
        self._write("update calls set state = 'lost' where state = 'under way' and batch is null")

    def is_under_way(self, key: str) -> bool:
        """Return whether a call for the input is under way."""
        found = self._database.execute("select 1 from calls where key = ? and state = 'under way'", (key,)).fetchone()
        return found is not None

    def has_call(self, key: str, batch: str) -> bool:
        """Return whether a call for the input is kept under this name of a batch."""
        found = self._database.execute("select 1 from calls where key = ? and batch = ?", (key, batch)).fetchone()
        return found is not None

    def begin_call(self, key: str, max_tokens: int, bound: Usage, batch: str | None = None) -> int:
        """Record a request to be sent, alone or in a batch, with a bound of its usage; return the call's number."""
        cursor = self._write(
            "insert into calls (key, state, max_tokens, prompt_tokens, completion_tokens, cost, batch) "
            "values (?, 'under way', ?, ?, ?, ?, ?)",
            *(key, max_tokens, bound.prompt_tokens, bound.completion_tokens, bound.cost, batch),
        )
        assert cursor.lastrowid
        return cursor.lastrowid

    def bound(self, call: int) -> Usage:
        """Return the usage reserved for a call under way."""
        row = self._database.execute(
            "select prompt_tokens, completion_tokens, cost from calls where id = ?", (call,)
        ).fetchone()
        return Usage(1, *row)

    def end_call(self, call: int, answer: Answer, usage: Usage) -> None:
        """Store the reply, readable or not, and its usage."""
        self._write(
            "update calls set state = 'answered', reply = ?, finish_reason = ?, prompt_tokens = ?, "
            "completion_tokens = ?, cost = ? where id = ?",
            *(answer.text, answer.finish_reason, usage.prompt_tokens, usage.completion_tokens, usage.cost, call),
        )

    def fail_call(self, call: int, error: str, usage: Usage) -> None:
        """Store the reason why no reply came, and the usage that may have been charged."""
        self._write(
            "update calls set state = 'failed', error = ?, prompt_tokens = ?, completion_tokens = ?, cost = ? "
            "where id = ?",
            *(error, usage.prompt_tokens, usage.completion_tokens, usage.cost, call),
        )

    def replies(self, key: str) -> list[tuple[int, int, Answer]]:
        """Return (call, token limit, reply) for each reply to the input, the oldest first."""
        rows = self._database.execute(
            "select id, max_tokens, reply, prompt_tokens, completion_tokens, finish_reason from calls "
            "where key = ? and state = 'answered' order by id",
            (key,),
        )
        return [(call, limit, Answer(*answer)) for call, limit, *answer in rows]

    def spent(self) -> Usage:
        """Return the total usage of all calls; a call that may still be charged counts at its bound."""
        return self._usage("")

    def answered(self) -> Usage:
        """Return the total usage of the answered calls."""
        return self._usage("where state = 'answered'")

    def _usage(self, condition: str) -> Usage:
        row = self._database.execute(
            "select count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), "  # noqa: S608
            f"coalesce(sum(cost), 0.0) from calls {condition}"
        ).fetchone()
        return Usage(*row)
