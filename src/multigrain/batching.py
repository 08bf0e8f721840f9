"""A run's inputs by the Batch API: hand them over, look after them, take the answers in.

Raw answers go into the store like any others; `synthesize` then reads them, and asks for what is missing.
Each step is noted before the next begins, so a command that was stopped is simply given again.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

from multigrain import asking
from multigrain.config import Config
from multigrain.errors import ConfigError, LLMError, RunError
from multigrain.llm import batch
from multigrain.llm.batch import Batch
from multigrain.llm.budget import Budget, Usage, prices_of
from multigrain.llm.client import Answer, Request
from multigrain.llm.dialect import Dialect
from multigrain.llm.endpoint import EndpointClient
from multigrain.llm.providers import make_clients
from multigrain.llm.scheduler import learn_dialect
from multigrain.llm.store import AnswerStore
from multigrain.rundir import RunDir

BY_HAND = "handed over"
"""The state of a batch whose files are carried by hand."""


def submit(config: Config, run_dir: RunDir) -> str:
    """Write all that is not settled into batches, and hand them to the server if it takes them.

    Raises:
        ConfigError: the provider is not an endpoint.
        LLMError: the server failed; the same command goes on.
    """
    return _with_server(config, run_dir, _submit)


def status(config: Config, run_dir: RunDir) -> str:
    """How the batches stand."""
    return _with_server(config, run_dir, _status)


def ingest(config: Config, run_dir: RunDir) -> str:
    """Take the answers in that are there. Doing so twice changes nothing."""
    return _with_server(config, run_dir, _ingest)


Step = Callable[[Config, RunDir, AnswerStore, EndpointClient | None], Awaitable[str]]


def _with_server(config: Config, run_dir: RunDir, step: Step) -> str:
    """Do a step with the store open, and with the server if it is there."""
    if config.llm.provider != "endpoint":
        raise ConfigError("--batch", [f'found llm.provider = "{config.llm.provider}"; only an endpoint takes batches'])

    async def work() -> str:
        client = make_clients(config.llm)[0]
        assert isinstance(client, EndpointClient)
        with AnswerStore(run_dir.store, config.synthesis.durable) as store:
            try:
                await client.__aenter__()
            except ConfigError:  # nobody is there: the files are for an offline engine
                return await step(config, run_dir, store, None)
            try:
                return await step(config, run_dir, store, client)
            finally:
                await client.__aexit__()

    return asyncio.run(work())


# Submit


async def _submit(config: Config, run_dir: RunDir, store: AnswerStore, client: EndpointClient | None) -> str:
    if not any(known.state == "written" for known in store.batches()):
        await _write_batches(config, run_dir, store, client)
    lines = []
    for known in store.batches():
        if known.state == "written":
            kind = "chat" if config.prompt_style == "all-grades" else "completion"
            lines.append(await _hand_over(run_dir, store, client, known, kind))
    return "\n".join(lines) or "nothing to submit: every input is answered, parked or in a batch already"


async def _write_batches(config: Config, run_dir: RunDir, store: AnswerStore, client: EndpointClient | None) -> None:
    budget = Budget(config.llm, prices_of(config.llm), store.spent())
    unsettled = _unsettled(config, run_dir, store)
    first = next(unsettled, None)
    if first is None:
        return
    dialect = await learn_dialect(client, first[1], store, budget) if client else Dialect()
    affordable = _affordable(itertools.chain([first], unsettled), store, budget)
    for number in itertools.count(len(store.batches()) + 1):
        name = f"batch-{number:04}"
        keys = batch.write_batch(affordable, run_dir.batch(name), dialect)
        if not keys:
            run_dir.batch(name).unlink()
            return
        for key in keys:
            store.lend(key, name)
        store.save_batch(Batch(name, len(keys)))
        store.commit()


def _unsettled(config: Config, run_dir: RunDir, store: AnswerStore) -> Iterator[tuple[str, Request]]:
    """Each input that nobody has answered, parked or put in a batch, once."""
    store.mark_lost()
    for task in asking.tasks(config, run_dir):
        request = task.ask.request
        key = request.key
        state, _ = store.state(key) or ("todo", 0)
        if state == "todo" and not store.replies(key) and not store.is_under_way(key):
            yield key, request


def _affordable(
    requests: Iterator[tuple[str, Request]], store: AnswerStore, budget: Budget
) -> Iterator[tuple[str, Request]]:
    """The requests up to the first that might pass a cap; each is reserved for."""
    for key, request in requests:
        bound = budget.bound(request)
        if budget.obstacle(bound):
            return
        budget.spent += bound
        store.begin_call(key, request.max_tokens, bound)
        yield key, request


async def _hand_over(
    run_dir: RunDir, store: AnswerStore, client: EndpointClient | None, known: Batch, kind: str
) -> str:
    path = run_dir.batch(known.name)
    try:
        if client is None:
            return _by_hand(store, known, path)
        if known.file_id is None:
            known = replace(known, file_id=await batch.upload(client, path))
            store.save_batch(known)
            store.commit()
        assert known.file_id
        batch_id = await batch.start(client, known.name, known.file_id, kind)
    except LLMError as error:
        if not batch.is_without_batches(error):
            raise
        return _by_hand(store, known, path)
    store.save_batch(replace(known, batch_id=batch_id, state="submitted"))
    store.commit()
    return f"{known.name}: {known.requests} requests, submitted as {batch_id}"


def _by_hand(store: AnswerStore, known: Batch, path: Path) -> str:
    store.save_batch(replace(known, state=BY_HAND))
    return (
        f"{known.name}: {known.requests} requests in {path}. The server takes no batches; answer them with\n"
        f"  vllm run-batch -i {path} -o {_output(path)} --model MODEL\n"
        f"and then give: multigrain synthesize RUN.toml --batch ingest"
    )


# Status


async def _status(_config: Config, run_dir: RunDir, store: AnswerStore, client: EndpointClient | None) -> str:
    lines = []
    for known in store.batches():
        line = f"{known.name}: {known.requests} requests, {known.state}"
        if known.state in ("written", "ingested"):
            pass
        elif known.batch_id is None:
            found = _output(run_dir.batch(known.name))
            line += f"; {found} is {'there' if found.is_file() else 'not there yet'}"
        elif client is not None:
            state = await batch.fetch_state(client, known.batch_id)
            counts = state.get("request_counts") or {}
            line = (
                f"{known.name}: {known.requests} requests, {state['status']} "
                f"({counts.get('completed', 0)} done, {counts.get('failed', 0)} failed)"
            )
        lines.append(line)
    return "\n".join(lines) or "no batches"


# Ingest


async def _ingest(config: Config, run_dir: RunDir, store: AnswerStore, client: EndpointClient | None) -> str:
    budget = Budget(config.llm, prices_of(config.llm), store.spent())
    lines = []
    for known in store.batches():
        if known.state in ("written", "ingested"):
            continue
        path = run_dir.batch(known.name)
        if known.batch_id is not None:
            if client is None:
                raise RunError(
                    f"{known.name}: the server that has the batch cannot be reached ({config.llm.base_url[0]})."
                )
            state = await batch.fetch_state(client, known.batch_id)
            if state["status"] not in batch.ENDED:
                lines.append(f"{known.name}: still {state['status']}")
                continue
            for field, target in (("output_file_id", _output(path)), ("error_file_id", _errors(path))):
                if file_id := state.get(field):
                    await batch.download(client, file_id, target)
        elif not _output(path).is_file():
            lines.append(f"{known.name}: {_output(path)} is not there yet")
            continue
        lines.append(_take_in(store, budget, known, path))
    return "\n".join(lines) or "no batch to take in"


def _take_in(store: AnswerStore, budget: Budget, known: Batch, path: Path) -> str:
    """Keep what came back; inputs without an answer are to do again."""
    calls = dict(store.batched(known.name))
    answered = 0
    for output in (_output(path), _errors(path)):
        for key, outcome in batch.read_output(output) if output.is_file() else ():
            call = calls.pop(key, None)
            if call is None:
                continue
            store.put_back(key)
            if isinstance(outcome, Answer):
                answered += 1
                bound = store.bound(call)
                store.end_call(call, outcome, budget.actual(outcome, bound))
            else:
                store.fail_call(call, str(outcome), Usage(calls=1))
    for key, call in calls.items():
        store.put_back(key)
        store.fail_call(call, "the batch ended without an answer", Usage(calls=1))
    store.save_batch(replace(known, state="ingested"))
    store.commit()
    return f"{known.name}: {answered} of {known.requests} answered. Now give: multigrain synthesize RUN.toml"


def _output(path: Path) -> Path:
    return path.with_suffix(".output.jsonl")


def _errors(path: Path) -> Path:
    return path.with_suffix(".errors.jsonl")
