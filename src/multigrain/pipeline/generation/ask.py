"""Ask the language model about the inputs of a run, with the store of answers and the budget."""

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from multigrain.config import Config
from multigrain.errors import RunError
from multigrain.llm.budget import Budget, Usage, prices_of
from multigrain.llm.clients.factory import make_clients
from multigrain.llm.event_loop import run_async
from multigrain.llm.ledger import Tally
from multigrain.llm.prompted_input import Prompted
from multigrain.llm.scheduler import answer_all
from multigrain.llm.store import BATCHED, AnswerStore
from multigrain.pipeline.generation.plans import Plan, files_of, negatives, pair_steps
from multigrain.pipeline.run_dir import RunDir
from multigrain.terminal import Meter, listed, meter

REFRESH = 0.25
"""Interval between two updates of the progress bar, in seconds."""
BATCH_HINT = "First ingest its answers (synthesize --batch ingest), or take the inputs back (--retry batched)."


def ask_all(config: Config, run_dir: RunDir, plan: Plan) -> int:
    """Ask until each input is answered or parked, and return the number of requests sent.

    Raises:
        RunError: some inputs are in a batch.
        ConfigError, LLMRefused, LLMUnavailable: see `answer_all`.
    """
    if not plan.count:
        return 0
    return run_async(lambda: _ask_all(config, run_dir, plan)).sent


async def _ask_all(config: Config, run_dir: RunDir, plan: Plan) -> Tally:
    with AnswerStore(run_dir.store, config.synthesis.durable) as store:
        if store.has_batched():
            batched = sum(store.is_batched(prompted.request.key) for prompted in plan.prompts())
            if batched:
                raise RunError(f"{run_dir.folder}: {batched} inputs are in a batch. {BATCH_HINT}")
        return await _ask(config, store, plan)


async def _ask(config: Config, store: AnswerStore, plan: Plan) -> Tally:
    gc.freeze()  # the modules stay in memory: scanning them again and again took a hundredth of the throughput
    tally, budget = Tally(), Budget(config.llm, prices_of(config.llm), store.spent())
    prompts = plan.prompts()
    with meter(plan.description, plan.count) as progress:
        reporter = asyncio.create_task(_report(tally, budget, progress))
        try:
            await answer_all(
                make_clients(config.llm),
                prompts,
                store,
                budget,
                concurrency=config.llm.max_concurrency,
                tally=tally,
            )
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


def spent(run_dir: RunDir) -> tuple[Usage, Usage]:
    """Return the usage of the answered calls of the run, and the usage, at most, of all calls."""
    if not run_dir.store.is_file():
        return Usage(), Usage()
    with AnswerStore(run_dir.store) as store:
        return store.answered(), store.spent()


def retry(config: Config, run_dir: RunDir, reason: str) -> int:
    """Release the inputs of the run that are parked for the reason, and return their number.

    Args:
        config: the run.
        run_dir: its folder.
        reason: the reason they were parked for; `all` for any reason, `batched` for inputs in a batch.

    Raises:
        RunError: no input is parked for it.
    """
    found: Counter[str] = Counter()  # by reason; inputs that are not parked have an empty one
    if run_dir.store.is_file():
        with AnswerStore(run_dir.store) as store:
            for prompted in known_prompts(config, run_dir):
                key = prompted.request.key
                parked = BATCHED if store.is_batched(key) else (store.parked(key) or ("",))[0]
                found[parked] += 1
                if parked == reason or (reason == "all" and parked not in ("", BATCHED)):
                    store.put_back(key)
    del found[""]
    if reason != "all" and reason not in found:
        listing = listed(found) or "none"
        raise RunError(f'{run_dir.folder}: no input is parked for "{reason}"; parked: {listing}.')
    return found[reason] if reason != "all" else found.total() - found[BATCHED]


def known_prompts(config: Config, run_dir: RunDir) -> Iterator[Prompted[Any]]:
    """Yield all prompts that were asked in the run, or will be next."""
    for name, own in config.writing.items():
        if own.synthesis.mode == "tasks" or files_of(run_dir, name).passages.is_file():
            for step in pair_steps(own, run_dir, name):
                yield from step.prompts()
    if run_dir.train_pairs.is_file():
        yield from negatives(config, run_dir).prompts()
