"""A run's inputs by the Batch API: hand them over, look after them, take the answers in.

Raw answers go into the store like any others; `synthesize` then reads them, and asks for what is missing.
Each step is noted before the next begins, so a command that was stopped is simply given again.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from multigrain.config import Config
from multigrain.errors import ConfigError, LLMError, LLMRefused, LLMUnavailable
from multigrain.llm import batch_files
from multigrain.llm.budget import Budget, prices_of
from multigrain.llm.clients.endpoint import EndpointClient
from multigrain.llm.clients.factory import make_clients
from multigrain.llm.dialect import Dialect
from multigrain.llm.ledger import Call, Ledger
from multigrain.llm.probe import learn_dialect
from multigrain.llm.protocol import Request
from multigrain.llm.store import AnswerStore, Batch
from multigrain.pipeline.generation import plans
from multigrain.pipeline.generation.prompt_style import with_assumed_style
from multigrain.pipeline.run_dir import RunDir

WRITTEN, INGESTED = "written", "ingested"
"""The first and the last state of a batch."""


def submit(config: Config, run_dir: RunDir) -> str:
    """Write all that is not settled into batches, and hand them to the server.

    Raises:
        ConfigError: the provider is not an endpoint, or nobody answers there.
        LLMError: the server failed; the same command goes on.
    """
    return _with_server(config, run_dir, _submit)


def write(config: Config, run_dir: RunDir) -> str:
    """Write all that is not settled into batches, for an engine that reads files.

    Raises:
        ConfigError: the provider is not an endpoint.
    """
    return _with_server(config, run_dir, partial(_submit, by_hand=True), connect=False)


def status(config: Config, run_dir: RunDir) -> str:
    """How the batches stand."""
    return _with_server(config, run_dir, _status, connect=_has_remote(run_dir))


def ingest(config: Config, run_dir: RunDir) -> str:
    """Take the answers in that are there. Doing so twice changes nothing."""
    return _with_server(config, run_dir, _ingest, connect=_has_remote(run_dir))


def _has_remote(run_dir: RunDir) -> bool:
    """Whether a server is at work on a batch."""
    with AnswerStore(run_dir.store) as store:
        return any(known.batch_id and known.state != INGESTED for known in store.batches())


@dataclass
class _Context:
    """What each step works with."""

    config: Config
    run_dir: RunDir
    ledger: Ledger
    client: EndpointClient

    @property
    def store(self) -> AnswerStore:
        return self.ledger.store

    @property
    def kind(self) -> str:
        """Of all requests that are asked next."""
        return next(plans.next_plan(self.config, self.run_dir).prompts()).request.kind


Step = Callable[[_Context], Awaitable[str]]


def _with_server(config: Config, run_dir: RunDir, step: Step, connect: bool = True) -> str:
    """Do a step with the store open, and with the server if it is needed."""
    if config.llm.provider != "endpoint":
        raise ConfigError("--batch", [f'found llm.provider = "{config.llm.provider}"; only an endpoint takes batches'])
    config = with_assumed_style(config, run_dir)
    (client, *_) = make_clients(config.llm)
    assert isinstance(client, EndpointClient)

    async def work() -> str:
        with AnswerStore(run_dir.store, config.synthesis.durable) as store:
            ledger = Ledger(store, Budget(config.llm, prices_of(config.llm), store.spent()))
            async with client if connect else nullcontext():
                return await step(_Context(config, run_dir, ledger, client))

    return asyncio.run(work())


# Submit


async def _submit(context: _Context, by_hand: bool = False) -> str:
    lines = await _write_batches(context, learn=not by_hand)
    for known in context.store.batches():
        if known.state == WRITTEN:
            lines.append(_by_hand(context, known) if by_hand else await _hand_over(context, known))
    return "\n".join(lines)


async def _write_batches(context: _Context, learn: bool) -> list[str]:
    """Write what is not settled, file by file; returns what there is to say about the rest."""
    store = context.store
    store.mark_lost()
    unsettled = _unsettled(context)
    first = next(unsettled, None)
    if first is None:
        return [_nothing_to_submit(context)] if all(b.state != WRITTEN for b in store.batches()) else []
    if learn:
        dialect = await learn_dialect(context.client, first[1], context.ledger)
    else:
        dialect = store.dialect(context.client.address, first[1].dialect_key) or Dialect()
    requests = ((key, request.suited(dialect)) for key, request in itertools.chain([first], unsettled))
    for number in itertools.count(len(store.batches()) + 1):
        name = f"batch-{number:04}"
        keys = batch_files.write_batch(_booked(context, requests, name), context.run_dir.batch(name), dialect)
        if not keys:
            context.run_dir.batch(name).unlink()
            break
        for key in keys:
            store.lend(key, name)
        store.save_batch(Batch(name, len(keys)))
        store.commit()
        if context.ledger.obstacle:
            break
    if context.ledger.obstacle:
        left = 1 + sum(1 for _ in requests)
        return [f"{left} inputs are left out: {context.ledger.obstacle}"]
    return []


def _nothing_to_submit(context: _Context) -> str:
    todo = sum(
        (context.store.state(prompted.request.key) or ("todo",))[0] == "todo"
        for prompted in plans.next_plan(context.config, context.run_dir).prompts()
    )
    if todo:
        return f"nothing to submit: {todo} inputs have replies already. Now give: multigrain synthesize RUN.toml"
    return "nothing to submit: every input is answered, parked or in a batch already"


def _unsettled(context: _Context) -> Iterator[tuple[str, Request]]:
    """Each input for which nobody has asked yet, once."""
    store = context.store
    for prompted in plans.next_plan(context.config, context.run_dir).prompts():
        request = prompted.request
        key = request.key
        state, forgiven = store.state(key) or ("todo", 0)
        if state == "todo" and len(store.replies(key)) <= forgiven and not store.is_under_way(key):
            yield key, request


def _booked(context: _Context, requests: Iterator[tuple[str, Request]], name: str) -> Iterator[tuple[str, Request]]:
    """The requests up to the first that might pass a cap."""
    for key, request in requests:
        if context.ledger.begin(key, request, name) is None:
            return
        yield key, request


async def _hand_over(context: _Context, known: Batch) -> str:
    client, store = context.client, context.store
    try:
        batch_id, file_id = None, known.file_id
        if file_id is None:
            file_id = await batch_files.upload(client, context.run_dir.batch(known.name))
            known = replace(known, file_id=file_id)
            store.save_batch(known)
            store.commit()
        else:  # we may have been stopped before we could note the batch's id
            batch_id = await batch_files.find(client, file_id)
        batch_id = batch_id or await batch_files.start(client, file_id, context.kind)
    except LLMRefused as error:
        if error.status not in (404, 405, 501):
            raise
        return f"{client.address} takes no batches.\n{_by_hand(context, known)}"
    store.save_batch(replace(known, batch_id=batch_id, state="submitted"))
    store.commit()
    return f"{known.name}: {known.requests} requests, submitted as {batch_id}"


def _by_hand(context: _Context, known: Batch) -> str:
    path = context.run_dir.batch(known.name)
    context.store.save_batch(replace(known, state="handed over"))
    return (
        f"{known.name}: {known.requests} requests in {path}. Have them answered, for instance by\n"
        f"  vllm run-batch -i {path} -o {_output(path)} --model {context.config.llm.model}\n"
        f"and then give: multigrain synthesize RUN.toml --batch ingest"
    )


# Status


async def _status(context: _Context) -> str:
    lines = []
    for known in context.store.batches():
        line = f"{known.name}: {known.requests} requests, "
        output = _output(context.run_dir.batch(known.name))
        if known.state in (WRITTEN, INGESTED):
            line += known.state
        elif known.batch_id is None:
            line += f"{known.state}; {output} is {'there' if output.is_file() else 'not there yet'}"
        else:
            state = await batch_files.fetch_state(context.client, known.batch_id)
            counts = state.get("request_counts") or {}
            line += f"{state['status']} ({counts.get('completed', 0)} done, {counts.get('failed', 0)} failed)"
        lines.append(line)
    return "\n".join(lines) or "no batches"


# Ingest


async def _ingest(context: _Context) -> str:
    lines = []
    for known in context.store.batches():
        if known.state not in (WRITTEN, INGESTED):
            obstacle = await _fetch(context, known)
            lines.append(f"{known.name}: {obstacle}" if obstacle else _take_in(context, known))
    return "\n".join(lines) or "no batch to take in"


async def _fetch(context: _Context, known: Batch) -> str | None:
    """Get the files with the answers; returns why they are not to be had yet."""
    path = context.run_dir.batch(known.name)
    if known.batch_id is None:
        return None if _output(path).is_file() else f"{_output(path)} is not there yet"
    state = await batch_files.fetch_state(context.client, known.batch_id)
    if state["status"] not in batch_files.ENDED:
        return f"still {state['status']}"
    for field, target in (("output_file_id", _output(path)), ("error_file_id", _errors(path))):
        if file_id := state.get(field):
            await batch_files.download(context.client, file_id, target)
    return None


def _take_in(context: _Context, known: Batch) -> str:
    """Keep what came back, whoever wants it by now. Where the batch has ended, the rest is to do again."""
    store, ledger, path = context.store, context.ledger, context.run_dir.batch(known.name)
    calls = {key: Call(number, store.bound(number)) for key, number in store.calls_in(known.name).items()}
    failed: dict[str, LLMError] = {}
    answered = 0
    for output in (_output(path), _errors(path)):
        for key, outcome in batch_files.read_output(output):
            if isinstance(outcome, LLMError):
                failed[key] = outcome
            elif call := calls.pop(key, None):
                answered += 1
                ledger.end(call, outcome)
                _return(store, key, known.name)
    has_ended = known.batch_id is not None
    for key, call in list(calls.items()):
        if key in failed or has_ended:
            ledger.fail(call, failed.get(key) or LLMUnavailable("the batch ended without an answer"))
            _return(store, key, known.name)
            del calls[key]
    store.save_batch(known if calls else replace(known, state=INGESTED))
    store.commit()
    taken = f"{known.name}: {answered} answers to {known.requests} requests taken in"
    if calls:
        return f"{taken}; {len(calls)} are not in {_output(path)} yet (--retry batched takes them back)"
    return f"{taken}. Now give: multigrain synthesize RUN.toml"


def _return(store: AnswerStore, key: str, name: str) -> None:
    if store.is_batched(key, name):
        store.give_back(key)


def _output(path: Path) -> Path:
    return path.with_suffix(".output.jsonl")


def _errors(path: Path) -> Path:
    return path.with_suffix(".errors.jsonl")
