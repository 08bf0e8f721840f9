"""Batches: files of requests submitted as a whole."""

from dataclasses import astuple, dataclass

from multigrain.llm.store_database import Database


@dataclass(frozen=True)
class Batch:
    """A file of requests, and its state at the server."""

    name: str
    requests: int
    file_id: str | None = None
    """The server's id of the uploaded file."""
    batch_id: str | None = None
    """The server's id of the batch; None if the user moves the files by hand."""
    state: str = "written"
    """`written`, a status of the server, or `ingested`."""


class Batches(Database):
    """The table `batches`, with the calls and inputs of each batch."""

    def save_batch(self, batch: Batch) -> None:
        """Store a batch, replacing its earlier state."""
        self._write("insert or replace into batches values (?, ?, ?, ?, ?)", *astuple(batch))

    def batches(self) -> list[Batch]:
        """Return all batches, the oldest first."""
        rows = self._database.execute("select name, requests, file_id, batch_id, state from batches order by name")
        return [Batch(*row) for row in rows]

    def calls_in(self, batch: str) -> dict[str, int]:
        """Return the unanswered calls of a batch, by the keys of their inputs."""
        rows = self._database.execute(
            "select key, id from calls where batch = ? and state in ('under way', 'lost')", (batch,)
        )
        return dict(rows.fetchall())

    def is_batched(self, key: str, batch: str | None = None) -> bool:
        """Return whether the input is in this batch, or in any if none is given."""
        found = self._database.execute(
            "select 1 from inputs where key = ? and state = 'batched' and reason = coalesce(?, reason)", (key, batch)
        )
        return found.fetchone() is not None

    def has_batched(self) -> bool:
        """Return whether any input is in a batch."""
        return self._database.execute("select 1 from inputs where state = 'batched'").fetchone() is not None
