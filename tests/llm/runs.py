"""Runs of `answer_all` under a simulated clock, and what their store says afterwards."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from multigrain.config import LLMSection
from multigrain.llm.budget import Budget, Prices
from multigrain.llm.ledger import Tally
from multigrain.llm.prompted_input import Prompted
from multigrain.llm.scheduler import answer_all
from multigrain.llm.store import AnswerStore
from tests.llm.clock import simulate
from tests.llm.world import FakeServer, inputs

PRICES = Prices(0.001, 0.01)


@contextmanager
def new_store() -> Iterator[AnswerStore]:
    with tempfile.TemporaryDirectory() as folder, AnswerStore(Path(folder, "store.sqlite")) as store:
        store._database.execute("pragma synchronous = off")  # no power is cut: nobody waits for the disk
        yield store


def budget(store: AnswerStore, **caps: float) -> Budget:
    return Budget(LLMSection.model_validate(caps), PRICES, store.spent())


def run(
    servers: FakeServer | list[FakeServer],
    asked: list[Prompted[Any]],
    store: AnswerStore,
    concurrency: int = 4,
    **caps: float,
) -> Tally:
    fakes = servers if isinstance(servers, list) else [servers]
    return simulate(answer_all(fakes, asked, store, budget(store, **caps), concurrency))


def state(store: AnswerStore, prompted: Prompted[Any]) -> str:
    return (store.state(prompted.request.key) or ("todo", 0))[0]


def reason(store: AnswerStore, prompt: str) -> str:
    (prompted,) = inputs([prompt])
    parked = store.parked(prompted.request.key)
    return parked[0] if parked else state(store, prompted)


def reasons(store: AnswerStore) -> dict[str, int]:
    rows = store._database.execute("select reason, count(*) from inputs where state = 'parked' group by 1")
    return dict(rows.fetchall())
