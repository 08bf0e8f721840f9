"""How the inputs of a run are asked: what is asked, the store that keeps the answers, and the money."""

import asyncio
import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multigrain.config import Config
from multigrain.data.proposals import by_pair
from multigrain.errors import RunError
from multigrain.jsonl import read_candidates, read_documents, read_pairs
from multigrain.llm.budget import TEMPLATE_TOKENS, Budget, Prices, Usage, prices_of
from multigrain.llm.client import Request
from multigrain.llm.dialect import Dialect
from multigrain.llm.ledger import Tally
from multigrain.llm.providers import make_clients, model_name
from multigrain.llm.scheduler import answer_all
from multigrain.llm.store import BATCHED, AnswerStore
from multigrain.progress import Meter, listed, meter
from multigrain.records import Pair
from multigrain.rundir import RunDir
from multigrain.synthesis.bound import Bound
from multigrain.synthesis.invent import SearchTask, choose_tasks, plan_brainstorm, plan_pairs
from multigrain.synthesis.negatives import plan, plan_repairs, requests_each
from multigrain.synthesis.queries import WrittenQuery, plan_queries
from multigrain.synthesis.task import Parked, Task, choose
from multigrain.synthesis.verdicts import plan_verdicts

PILOT = 20
"""Answered calls by which a whole run can be judged."""
BYTES_PER_TOKEN = 4
"""Of English text; other languages have fewer."""
REFRESH = 0.25
"""Seconds between two looks at how the work stands."""
BATCH_HINT = "First take its answers in (synthesize --batch ingest), or take the inputs back (--retry batched)."


@dataclass(frozen=True)
class Work:
    """Inputs that are asked about together."""

    description: str
    count: int
    tasks: Callable[[], Iterator[Task[Any]]]
    """Each call goes through all of them once more."""


def negatives(config: Config, run_dir: RunDir) -> Work:
    """All that is asked to have the negatives written; the pairs are read one by one."""
    if config.synthesis.limit == 0:
        return Work("writing negatives", 0, lambda: iter(()))
    pairs = count_lines(run_dir.train_pairs)
    return Work(
        "writing negatives",
        count_requests(config, pairs),
        lambda: plan(config, lambda: read_pairs(run_dir.train_pairs), pairs, model_name(config.llm)),
    )


def repairs(config: Config, run_dir: RunDir, missing: Mapping[str, Sequence[int]], attempt: int) -> Work:
    """What is asked once more, for grades that stayed empty."""
    together = config.prompt_style == "all-grades"
    return Work(
        f"repairing negatives ({attempt})",
        len(missing) if together else sum(len(grades) for grades in missing.values()),
        lambda: plan_repairs(config, lambda: read_pairs(run_dir.train_pairs), missing, model_name(config.llm), attempt),
    )


def queries(config: Config, run_dir: RunDir) -> Work:
    """Mode "corpus": what is asked to have queries written for the passages, as many as training has use for."""
    count, most = count_lines(run_dir.passages), config.passages_asked

    def tasks() -> Iterator[Task[WrittenQuery]]:
        passages = choose(read_documents(run_dir.passages), count, most, config.seed)
        return plan_queries(config, passages, model_name(config.llm))

    return Work("writing queries", min(count, most) * config.synthesis.queries_per_passage, tasks)


def brainstorm(config: Config) -> Work:
    """Mode "tasks", first stage."""

    def tasks() -> Iterator[Task[SearchTask]]:
        return plan_brainstorm(config, model_name(config.llm))

    return Work("brainstorming tasks", sum(1 for _ in tasks()), tasks)


def inventions(config: Config, chosen: Sequence[SearchTask]) -> Work:
    """Mode "tasks", second stage: pairs for the tasks."""
    count = len(chosen) * config.pairs_invented_each
    return Work("inventing pairs", count, lambda: plan_pairs(config, chosen, model_name(config.llm)))


def verdicts(config: Config, run_dir: RunDir, candidates: Path) -> Work:
    """Whether texts answer the query of their pair: (pair's id, text, rating) each."""

    def tasks() -> Iterator[Task[tuple[str, str, int]]]:
        for pair, wanted in by_pair(read_pairs(run_dir.train_pairs), read_candidates(candidates)):
            if wanted:
                yield from plan_verdicts(config, pair, wanted, model_name(config.llm))

    return Work("asking whether they answer", count_lines(candidates), tasks)


def current(config: Config, run_dir: RunDir) -> Work:
    """What is to be asked next: for the pairs as long as the run has none, then for the negatives."""
    mode = config.synthesis.mode
    if mode == "negatives" or "pairs" in run_dir.stages():
        return negatives(config, run_dir)
    if mode == "corpus":
        return queries(config, run_dir)
    chosen = found_tasks(config, run_dir)
    return inventions(config, chosen) if chosen else brainstorm(config)


def found_tasks(config: Config, run_dir: RunDir) -> list[SearchTask]:
    """Mode "tasks": those to invent pairs for, as far as the brainstorming has come."""
    found = (outcome for outcome in outcomes(run_dir, brainstorm(config)) if not isinstance(outcome, Parked))
    return choose_tasks((task for tasks in found for task in tasks), config.synthesis.tasks)


def count_lines(path: Path) -> int:
    """How many records a file holds."""
    with path.open("rb") as file:
        return sum(1 for _ in file)


def count_requests(config: Config, pairs: int) -> int:
    """How many requests these pairs make."""
    return requests_each(config) * min(config.pairs_asked, pairs)


def asked_about(config: Config, run_dir: RunDir) -> set[str]:
    """The ids of the pairs that the language model writes negatives for."""
    if not requests_each(config):
        return set()
    count = count_lines(run_dir.train_pairs)
    return {pair.id for pair in choose(read_pairs(run_dir.train_pairs), count, config.pairs_asked, config.seed)}


def ask_all(config: Config, run_dir: RunDir, work: Work) -> int:
    """Have each input answered or parked; returns how many requests went out.

    Raises:
        RunError: some inputs are in a batch.
        ConfigError, LLMRefused, LLMUnavailable: see `answer_all`.
    """
    if not work.count:
        return 0
    with AnswerStore(run_dir.store, config.synthesis.durable) as store:
        if store.has_batched():
            batched = sum(store.is_batched(task.ask.request.key) for task in work.tasks())
            if batched:
                raise RunError(f"{run_dir.folder}: {batched} inputs are in a batch. {BATCH_HINT}")
        return asyncio.run(_ask_all(config, store, work)).sent


async def _ask_all(config: Config, store: AnswerStore, work: Work) -> Tally:
    gc.freeze()  # the modules stay: looking through them again and again cost a hundredth of the throughput
    tally, budget = Tally(), Budget(config.llm, prices_of(config.llm), store.spent())
    asks = (task.ask for task in work.tasks())
    with meter(work.description, work.count) as progress:
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


def outcomes(run_dir: RunDir, work: Work) -> Iterator[list[Any] | Parked]:
    """What came of each input, in their order: its records, or why there are none."""
    if not work.count:
        return
    with AnswerStore(run_dir.store) as store:
        for task in work.tasks():
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


def estimate(config: Config, tasks: Iterable[Task[Any]], whole: Usage | None = None) -> Estimate | None:
    """Judge what these inputs take: by what the calls took that were answered already, or by the prompts.

    Args:
        config: the run.
        tasks: all of them, or a sample.
        whole: where they are a sample, what all take at most; see `bound`.

    Returns:
        None if nothing is asked.
    """
    prices = prices_of(config.llm)
    budget = Budget(config.llm, prices, Usage())
    likely, most, request, dialect = Usage(), Usage(), None, None
    for task in tasks:
        dialect = dialect if request else _known_dialect(config, task.ask.request)
        request = task.ask.request.suited(dialect)
        likely += _likely(request, budget.prices)
        most += budget.bound(request)
    if request is None:
        return None
    if whole is not None:
        likely, most = likely.times(whole.calls / most.calls), whole
    answered, so_far = spent(RunDir(config.folder))
    basis = "the prompts, and answers half as long as allowed"
    if answered.calls >= PILOT:
        likely = answered.times(most.calls / answered.calls)
        basis = f"the {answered.calls} calls that were answered already"
    fields = {"calls": so_far.calls, "tokens": so_far.tokens, "dollars": round(so_far.cost, 4)}
    return Estimate(likely, most, prices is not None, basis, fields, request.prompt)


def _known_dialect(config: Config, request: Request) -> Dialect | None:
    """What an earlier command has learnt of the (first) server: whether its model thinks, and needs room for it."""
    store = RunDir(config.folder).store
    if not store.is_file() or not config.llm.base_url:
        return None
    with AnswerStore(store) as answers:
        return answers.dialect(config.llm.base_url[0], request.asked_of)


def bound(config: Config, pairs: Sequence[Pair]) -> Usage:
    """The most that all requests about these pairs may take, if each is answered at its first try."""
    calls = len(pairs) * requests_each(config)
    prompt_bytes, answer_tokens = Bound(config, model_name(config.llm)).of(pairs)
    tokens = prompt_bytes + calls * TEMPLATE_TOKENS, answer_tokens
    return Usage(calls, *tokens, (prices_of(config.llm) or Prices()).of(*tokens))


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
    if run_dir.store.is_file():
        with AnswerStore(run_dir.store) as store:
            for task in _known_tasks(config, run_dir):
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


def _known_tasks(config: Config, run_dir: RunDir) -> Iterator[Task[Any]]:
    """All that has been asked in the run, or will be next."""
    mode = config.synthesis.mode
    if mode == "corpus" and run_dir.passages.is_file():
        yield from queries(config, run_dir).tasks()
    if mode == "tasks":
        yield from brainstorm(config).tasks()
        yield from inventions(config, found_tasks(config, run_dir)).tasks()
    if run_dir.train_pairs.is_file():
        yield from negatives(config, run_dir).tasks()
