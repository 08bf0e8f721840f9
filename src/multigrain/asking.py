"""How the inputs of a run are asked: what is asked, the store that keeps the answers, and the money."""

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from multigrain.config import Config
from multigrain.errors import RunError
from multigrain.jsonl import read_objects
from multigrain.llm.budget import Budget, Prices, Usage, prices_of
from multigrain.llm.client import Request
from multigrain.llm.ledger import Tally
from multigrain.llm.providers import make_clients, model_name
from multigrain.llm.scheduler import answer_all
from multigrain.llm.store import BATCHED, AnswerStore
from multigrain.progress import Meter, listed, meter
from multigrain.records import Candidate, Pair
from multigrain.rundir import RunDir
from multigrain.synthesis.synthesize import Parked, Task, plan, requests_each

PILOT = 20
"""Answered calls by which a whole run can be judged."""
BYTES_PER_TOKEN = 4
"""Of English text; other languages have fewer."""
REFRESH = 0.25
"""Seconds between two looks at how the work stands."""
BATCH_HINT = "First take its answers in (synthesize --batch ingest), or take the inputs back (--retry batched)."


def tasks(config: Config, run_dir: RunDir) -> Iterator[Task]:
    """All that is asked in the run; the pairs are read one by one."""
    if config.synthesis.limit != 0:
        pairs = (Pair(**fields) for _, fields in read_objects(run_dir.train_pairs))
        yield from plan(config, pairs, count_pairs(run_dir), model_name(config.llm))


def count_pairs(run_dir: RunDir) -> int:
    """How many training pairs there are."""
    with run_dir.train_pairs.open("rb") as file:
        return sum(1 for _ in file)


def count_tasks(config: Config, pairs: int) -> int:
    """How many requests these pairs make."""
    limit = config.synthesis.limit
    return requests_each(config) * (pairs if limit is None else min(limit, pairs))


def ask_all(config: Config, run_dir: RunDir) -> int:
    """Have each input answered or parked; returns how many requests went out.

    Raises:
        RunError: some inputs are in a batch.
        ConfigError, LLMRefused, LLMUnavailable: see `answer_all`.
    """
    total = count_tasks(config, count_pairs(run_dir))
    if not total:
        return 0
    with AnswerStore(run_dir.store, config.synthesis.durable) as store:
        if store.has_batched():
            batched = sum(store.is_batched(task.ask.request.key) for task in tasks(config, run_dir))
            if batched:
                raise RunError(f"{run_dir.folder}: {batched} inputs are in a batch. {BATCH_HINT}")
        return asyncio.run(_ask_all(config, run_dir, store, total)).sent


async def _ask_all(config: Config, run_dir: RunDir, store: AnswerStore, total: int) -> Tally:
    gc.freeze()  # the modules stay: looking through them again and again cost a hundredth of the throughput
    tally, budget = Tally(), Budget(config.llm, prices_of(config.llm), store.spent())
    asks = (task.ask for task in tasks(config, run_dir))
    with meter("writing negatives", total) as progress:
        reporter = asyncio.create_task(_report(tally, budget, progress))
        try:
            await answer_all(make_clients(config.llm), asks, store, budget, config.llm.max_concurrency, tally)
        finally:
            reporter.cancel()
            progress.reach(tally.answered + tally.parked, _fields(tally, budget))
    return tally


async def _report(tally: Tally, budget: Budget, progress: Meter) -> None:
    with suppress(asyncio.CancelledError):
        while True:
            progress.reach(tally.answered + tally.parked, _fields(tally, budget))
            await asyncio.sleep(REFRESH)


def _fields(tally: Tally, budget: Budget) -> dict[str, object]:
    fields: dict[str, object] = {
        "parked": tally.parked,
        "under_way": tally.under_way,
        "requests": tally.sent,
        "tokens": tally.spent.tokens,
    }
    if budget.prices.input or budget.prices.output:
        fields["dollars"] = round(tally.spent.cost, 4)
    if tally.errors:
        kind, times = tally.errors.most_common(1)[0]
        fields["most_often"] = f"{kind} ({times} times)"
    return fields


def outcomes(config: Config, run_dir: RunDir) -> Iterator[list[Candidate] | Parked]:
    """What came of each input, in the order of the pairs: its candidates, or why there are none."""
    if config.synthesis.limit == 0:
        return
    with AnswerStore(run_dir.store) as store:
        for task in tasks(config, run_dir):
            yield task.outcome(store)


def spent(run_dir: RunDir) -> tuple[Usage, Usage]:
    """What the answered calls of the run took, and what all calls took or may have taken."""
    if not run_dir.store.is_file():
        return Usage(), Usage()
    with AnswerStore(run_dir.store) as store:
        return store.answered(), store.spent()


@dataclass(frozen=True)
class Estimate:
    """What asking all of a run's inputs takes, judged before anything is spent."""

    likely: Usage
    most: Usage
    """No more than this, if each input is answered at its first try."""
    is_priced: bool
    basis: str
    so_far: dict[str, float]
    """Spent in the run folder already."""
    prompt: str
    """One of those that will be sent."""


def estimate(config: Config, pairs: list[Pair]) -> Estimate | None:
    """Judge what the whole run takes: by what the calls took that were answered already, or by the prompts.

    Returns:
        None if nothing is asked.
    """
    prices = prices_of(config.llm)
    budget = Budget(config.llm, prices, Usage())
    likely, most, request = Usage(), Usage(), None
    for task in plan(config, pairs, len(pairs), model_name(config.llm)):
        request = task.ask.request
        likely += _likely(request, budget.prices)
        most += budget.bound(request)
    if request is None:
        return None
    answered, so_far = spent(RunDir(config.folder))
    basis = "the prompts, and answers half as long as allowed"
    if answered.calls >= PILOT:
        likely = answered.times(most.calls / answered.calls)
        basis = f"the {answered.calls} calls that were answered already"
    fields = {"calls": so_far.calls, "tokens": so_far.tokens, "dollars": round(so_far.cost, 4)}
    return Estimate(likely, most, prices is not None, basis, fields, request.prompt)


def _likely(request: Request, prices: Prices) -> Usage:
    tokens = len(request.prompt.encode("utf-8", "replace")) // BYTES_PER_TOKEN, request.max_tokens // 2
    return Usage(1, *tokens, prices.of(*tokens))


def retry(config: Config, run_dir: RunDir, reason: str) -> int:
    """Put this run's inputs back that are parked for the reason; returns how many.

    Args:
        config: the run.
        run_dir: its folder.
        reason: of parking; `all` for any, `batched` for those in a batch.

    Raises:
        RunError: none is parked for it.
    """
    found: Counter[str] = Counter()
    if run_dir.store.is_file() and run_dir.train_pairs.is_file():
        with AnswerStore(run_dir.store) as store:
            for task in tasks(config, run_dir):
                key = task.ask.request.key
                parked = BATCHED if store.is_batched(key) else (store.parked(key) or ("",))[0]
                found[parked] += 1
                if parked == reason or (reason == "all" and parked not in ("", BATCHED)):
                    store.put_back(key)
    del found[""]
    if reason != "all" and reason not in found:
        listing = listed(found) or "none"
        raise RunError(f'{run_dir.folder}: no input is parked for "{reason}"; parked: {listing}.')
    return found[reason] if reason != "all" else found.total() - found[BATCHED]
