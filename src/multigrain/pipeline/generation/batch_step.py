"""A step of the Batch API: what it works with, and how a batch stands between one step and the next."""

from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from multigrain.config import Config
from multigrain.errors import ConfigError
from multigrain.llm.budget import Budget, prices_of
from multigrain.llm.clients.endpoint import EndpointClient
from multigrain.llm.clients.factory import make_clients
from multigrain.llm.event_loop import run_async
from multigrain.llm.ledger import Ledger
from multigrain.llm.store import AnswerStore
from multigrain.pipeline.generation import plans
from multigrain.pipeline.generation.prompt_style import with_assumed_style
from multigrain.pipeline.run_dir import RunDir

WRITTEN, SUBMITTED, HANDED_OVER, INGESTED = "written", "submitted", "handed over", "ingested"
"""The states of a batch: on this disk alone, at the server, with an engine that reads files, taken in."""


@dataclass(frozen=True)
class BatchStep:
    """A step under way: the run, its store of answers with the accounts, and the server."""

    config: Config
    run_dir: RunDir
    ledger: Ledger
    client: EndpointClient

    @property
    def store(self) -> AnswerStore:
        """The store of the answers, and of the batches."""
        return self.ledger.store

    @property
    def kind(self) -> str:
        """The kind of the requests that are asked next; all of them have the same."""
        return next(plans.next_plan(self.config, self.run_dir).prompts()).request.kind

    def requests_path(self, batch: str) -> Path:
        """Return the file with the requests of a batch, which is given by its name."""
        return self.run_dir.batch(batch)

    def output_path(self, batch: str) -> Path:
        """Return the file with the answers to a batch."""
        return self.requests_path(batch).with_suffix(".output.jsonl")

    def errors_path(self, batch: str) -> Path:
        """Return the file with the requests of a batch that failed."""
        return self.requests_path(batch).with_suffix(".errors.jsonl")


Work = Callable[[BatchStep], Awaitable[str]]


def do_step(config: Config, run_dir: RunDir, work: Work, connect: bool = True) -> str:
    """Do a step with the store open, and with the server if it is needed; returns what there is to tell.

    Raises:
        ConfigError: the provider is not an endpoint, or nobody answers there.
        LLMError: the server failed.
    """
    if config.llm.provider != "endpoint":
        raise ConfigError("--batch", [f'found llm.provider = "{config.llm.provider}"; only an endpoint takes batches'])
    config = with_assumed_style(config, run_dir)
    client = make_clients(config.llm)[0]
    assert isinstance(client, EndpointClient)

    async def step() -> str:
        with AnswerStore(run_dir.store, config.synthesis.durable) as store:
            ledger = Ledger(store, Budget(config.llm, prices_of(config.llm), store.spent()))
            async with client if connect else nullcontext():
                return await work(BatchStep(config, run_dir, ledger, client))

    return run_async(step)
