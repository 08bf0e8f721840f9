"""A step of the Batch API: its inputs, and the states of a batch between steps."""

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
from multigrain.pipeline.generation.open_requests import next_plan
from multigrain.pipeline.generation.prompt_style import with_assumed_style
from multigrain.pipeline.run_dir import RunDir

WRITTEN, SUBMITTED, HANDED_OVER, INGESTED = "written", "submitted", "handed over", "ingested"
"""States of a batch: only on this disk, at the server, with an engine that reads files, ingested."""


@dataclass(frozen=True)
class BatchStep:
    """A step in progress: the run, its store of answers with the accounts, and the server."""

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
        """The kind of the next requests, which is the same for all of them."""
        return next(next_plan(self.config, self.run_dir).prompts()).request.kind

    def requests_path(self, batch: str) -> Path:
        """Return the file with the requests of the batch of this name."""
        return self.run_dir.batch(batch)

    def output_path(self, batch: str) -> Path:
        """Return the file with the answers to a batch."""
        return self.requests_path(batch).with_suffix(".output.jsonl")

    def errors_path(self, batch: str) -> Path:
        """Return the file with the failed requests of a batch."""
        return self.requests_path(batch).with_suffix(".errors.jsonl")


Work = Callable[[BatchStep], Awaitable[str]]


def do_step(config: Config, run_dir: RunDir, work: Work, connect: bool = True) -> str:
    """Do a step with the store open, connected to the server if needed, and return its report.

    Raises:
        ConfigError: the provider is not an endpoint, or no server answers.
        LLMError: the server failed.
    """
    if config.llm.provider != "endpoint":
        raise ConfigError("--batch", [f'found llm.provider = "{config.llm.provider}"; batches need "endpoint"'])
    with_assumed_style(config, run_dir)  # notes it for the run
    client = make_clients(config.llm)[0]
    assert isinstance(client, EndpointClient)

    async def step() -> str:
        with AnswerStore(run_dir.store, config.synthesis.durable) as store:
            ledger = Ledger(store, Budget(config.llm, prices_of(config.llm), store.spent()))
            async with client if connect else nullcontext():
                return await work(BatchStep(config, run_dir, ledger, client))

    return run_async(step)
