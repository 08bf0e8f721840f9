"""Servers: the dialect of each, as learnt from a probe or an answer."""

from multigrain.llm.dialect import Dialect
from multigrain.llm.store_database import Database


class Servers(Database):
    """The table `dialects`."""

    def dialect(self, address: str, model: str) -> Dialect | None:
        """Return the dialect of a server and model; None if it is unknown."""
        row = self._database.execute(
            "select dialect from dialects where address = ? and model = ?", (address, model)
        ).fetchone()
        return Dialect.from_json(row[0]) if row else None

    def learn(self, address: str, model: str, dialect: Dialect) -> None:
        """Store the dialect of a server and model."""
        self._write("insert or replace into dialects values (?, ?, ?)", address, model, dialect.to_json())
