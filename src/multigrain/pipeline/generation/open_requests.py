"""The requests that a run still has to ask, for batches and for engines that answer files in place of a server."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

from multigrain.config import Config
from multigrain.data.key_table import KeyTable, exact_key
from multigrain.errors import ConfigError
from multigrain.llm.budget import Budget, prices_of
from multigrain.llm.dialect import Dialect
from multigrain.llm.job import Job
from multigrain.llm.job_queue import JobQueue
from multigrain.llm.ledger import Ledger
from multigrain.llm.protocol import Request
from multigrain.llm.store import AnswerStore
from multigrain.pipeline.freshness import finished
from multigrain.pipeline.generation import plans
from multigrain.pipeline.generation.plans import Plan
from multigrain.pipeline.generation.prompt_style import with_known_style
from multigrain.pipeline.run_dir import RunDir


def unwritten(config: Config, run_dir: RunDir) -> dict[str, Config]:
    """Return the sources in `config.writing`, if their pairs are not written yet."""
    return config.writing if config.writing and "pairs" not in finished(config, run_dir) else {}


def next_plan(config: Config, run_dir: RunDir) -> Plan:
    """Plan the next requests of a run: for the pairs that are to be written, later for negatives.

    For the pairs of a source, these are the requests of the first step that is not settled. So no pairs are asked for
    search tasks that an open request may yet replace.

    Args:
        config: the run as its user set it: with a decided prompt style, its pairs would pass for outdated.
        run_dir: its folder.
    """
    steps = [_next_step(own, run_dir, name) for name, own in unwritten(config, run_dir).items()]
    if not steps:
        return plans.negatives(with_known_style(config, run_dir), run_dir)
    if len(steps) == 1:
        return steps[0]
    count = sum(step.count for step in steps)
    return Plan("writing pairs", count, lambda: chain.from_iterable(step.prompts() for step in steps))


def _next_step(config: Config, run_dir: RunDir, source: str) -> Plan:
    *earlier, last = plans.pair_steps(config, run_dir, source)
    return next((step for step in earlier if not step.is_settled(run_dir)), last)


def settled_plan(config: Config, run_dir: RunDir, ledger: Ledger) -> Plan:
    """Plan the next requests, after the usable replies so far have settled the steps that others depend on."""
    for name, own in unwritten(config, run_dir).items():
        for step in plans.pair_steps(own, run_dir, name)[:-1]:
            deque(open_jobs(ledger, step), maxlen=0)
    ledger.store.commit()
    return next_plan(config, run_dir)


def precheck_tasks(config: Config, run_dir: RunDir) -> None:
    """Check the search tasks whose pairs are among the next requests.

    Raises:
        ConfigError: see `precheck_prompts`.
    """
    for own in unwritten(config, run_dir).values():
        if own.synthesis.mode == "tasks" and plans.brainstorm(own).is_settled(run_dir):
            plans.precheck_tasks(own, plans.brainstormed_tasks(own, run_dir))


def require_endpoint(config: Config) -> None:
    """Check that the language model of the run is one that other engines can stand in for.

    Raises:
        ConfigError: the provider answers in this process.
    """
    provider = config.llm.provider
    if provider != "endpoint":
        found = f'found "{provider}", which answers in the run itself, so there is nothing to export or import'
        wanted = 'Run: multigrain run RUN.toml. For another engine, set provider = "endpoint" and model'
        raise ConfigError("llm.provider", [f"{found}. {wanted}"])


@contextmanager
def opened(config: Config, run_dir: RunDir) -> Iterator[Ledger]:
    """Open the store of a run with its accounts.

    Raises:
        ConfigError: the cost is capped, but the prices are unknown.
    """
    with AnswerStore(run_dir.store, config.synthesis.durable) as store:
        yield Ledger(store, Budget(config.llm, prices_of(config.llm), store.spent()))


def open_jobs(ledger: Ledger, plan: Plan) -> Iterator[Job]:
    """Yield each input that has to be asked, once, with its next request; inputs in a batch are left out.

    Usable replies settle their inputs, and inputs without a try left are parked, as when a server is asked.

    Raises:
        Exception: what the plan raises, such as a DataError.
    """
    queue = JobQueue(plan.prompts(), ledger, concurrency=1)
    seen = KeyTable()
    while job := queue.pop_new():
        queue.discard(job)
        if not seen.add(exact_key(job.key)):
            continue
        if job.has_try:
            yield job
        elif job.error:
            ledger.store.park(job.key, job.error.reason, str(job.error))
    if queue.failure:
        raise queue.failure


def known_dialect(config: Config, store: AnswerStore, request: Request) -> Dialect:
    """Return what is known of the model from the run's own requests; without any, the strictest dialect."""
    return store.dialect(config.llm.base_url[0], request.dialect_key) or Dialect()


def next_step(config: Config, run_dir: RunDir) -> str:
    """Say what comes after the answers to the next requests."""
    if unwritten(config, run_dir):
        return "Later requests depend on these answers; the next multigrain export-requests RUN.toml writes them."
    later = "multigrain run RUN.toml goes on, and asks llm.base_url only for what is missing"
    asks = [*(["verdicts"] if "llm" in config.grading.judge else []), *(["repairs"] if config.grading.repairs else [])]
    return f"{later}, and for {' and '.join(asks)} in grading." if asks else f"{later}."
