"""The requests that a run still has to ask, for engines that answer files in place of a server."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

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
from multigrain.pipeline.run_dir import RunDir


class Round(NamedTuple):
    """Requests that do not depend on each other's answers."""

    stage: str
    plan: Plan


def rounds(config: Config, run_dir: RunDir) -> Iterator[Round]:
    """Yield the rounds of requests that are known, in order.

    The prompts of a round depend on the answers of the rounds before, so go on only when none of these is open. Once
    the pairs are written, they determine the last round.
    """
    mode = config.synthesis.mode
    if mode == "negatives" or "pairs" in finished(config, run_dir):
        yield Round("synthesize", plans.negatives(config, run_dir))
    elif mode == "corpus":
        yield Round("pairs", plans.queries(config, run_dir))
    else:
        yield Round("pairs", plans.brainstorm(config))
        yield Round("pairs", plans.synthetic_pairs(config, plans.brainstormed_tasks(config, run_dir)))


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


def next_step(config: Config, round: Round) -> str:
    """Say what comes after the answers of a round."""
    if round.stage == "pairs":
        return "Later requests depend on these answers; the next multigrain export-requests RUN.toml writes them."
    later = "multigrain run RUN.toml goes on, and asks llm.base_url only for what is missing"
    asks = [*(["verdicts"] if "llm" in config.grading.judge else []), *(["repairs"] if config.grading.repairs else [])]
    return f"{later}, and for {' and '.join(asks)} in grading." if asks else f"{later}."
