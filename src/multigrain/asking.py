"""How the inputs of a run are asked: what is asked, the store that keeps the answers, and the money."""

import asyncio
import gc
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from multigrain.config import Config
from multigrain.errors import RunError
from multigrain.jsonl import read_objects
from multigrain.llm.budget import Budget, Prices, Usage, prices_of
from multigrain.llm.client import Request
from multigrain.llm.providers import make_clients, model_name
from multigrain.llm.scheduler import Tally, answer_all
from multigrain.llm.store import AnswerStore
from multigrain.progress import Meter, listed, meter, say
from multigrain.records import Candidate, Pair
from multigrain.rundir import RunDir
from multigrain.synthesis.synthesize import Parked, Task, plan, requests_each

PILOT = 20
"""Pairs, or answered calls, by which a whole run is judged."""
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
        if batched := sum(1 for _ in store.batched()):
            raise RunError(f"{run_dir.folder}: {batched} inputs are in a batch. {BATCH_HINT}")
        tally = asyncio.run(_ask_all(config, run_dir, store, total))
        if reasons := store.reasons():
            say(f"without an answer: {listed(dict(reasons))}")
    return tally.sent


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

    requests: int
    likely: Usage
    most: Usage
    """No more than this, if each input is answered at its first try."""
    is_priced: bool
    basis: str
    so_far: dict[str, object]
    """Spent in the run folder already."""
    prompt: str
    """One of those that will be sent."""


def estimate(config: Config, pairs: list[Pair]) -> Estimate | None:
    """Judge what the whole run takes, by what answered calls took, or by the prompts of a few pairs.

    Returns:
        None if nothing is asked.
    """
    requests = count_tasks(config, len(pairs))
    if not requests:
        return None
    chosen = random.Random(config.seed).sample(pairs, min(PILOT, len(pairs)))
    pilot = [task.ask.request for task in plan(config, chosen, len(chosen), model_name(config.llm))]
    prices = prices_of(config.llm)
    budget = Budget(config.llm, prices, Usage())
    answered, so_far = spent(RunDir(config.folder))
    if answered.calls >= PILOT:
        likely, basis = answered, f"the {answered.calls} calls that were answered already"
    else:
        likely = sum((_likely(request, budget.prices) for request in pilot), Usage())
        basis = f"the prompts of {len(chosen)} pairs, and answers half as long as allowed"
    most = sum((budget.bound(request) for request in pilot), Usage())
    return Estimate(
        requests,
        likely.times(requests / likely.calls),
        most.times(requests / most.calls),
        prices is not None,
        basis,
        {"calls": so_far.calls, "tokens": so_far.tokens, "dollars": round(so_far.cost, 4)},
        pilot[-1].prompt,
    )


def _likely(request: Request, prices: Prices) -> Usage:
    tokens = len(request.prompt.encode("utf-8", "replace")) // BYTES_PER_TOKEN, request.max_tokens // 2
    return Usage(1, *tokens, prices.of(*tokens))


def retry(run_dir: RunDir, reason: str) -> int:
    """Put the inputs back that are parked for the reason (`all`: for any); returns how many.

    Raises:
        RunError: none is.
    """
    with AnswerStore(run_dir.store) as store:
        known = store.reasons()
        if reason != "all" and reason not in known:
            found = listed(dict(known)) or "none"
            raise RunError(f'{run_dir.folder}: no input is parked for "{reason}"; parked: {found}.')
        return store.retry(None if reason == "all" else reason)
