"""Write unanswered inputs into batches, and hand these over: to the server, or to an engine that reads files."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from multigrain.errors import LLMRefused
from multigrain.llm import batch_files
from multigrain.llm.dialect import Dialect
from multigrain.llm.probe import learn_dialect
from multigrain.llm.protocol import Request
from multigrain.llm.store import Batch
from multigrain.pipeline.generation.batch_step import HANDED_OVER, SUBMITTED, WRITTEN, BatchStep
from multigrain.pipeline.generation.open_requests import next_plan, precheck_tasks

NO_BATCH_API = (404, 405, 501)
"""HTTP status codes of a server without a Batch API."""


class _Unsent(NamedTuple):
    """A request that was not sent yet, with its key in the store."""

    key: str
    request: Request


async def submit_to_server(step: BatchStep) -> str:
    """Write the batches, submit each written one to the server, and return a report."""
    lines = await _write_batches(step, ask_server=True)
    for batch in step.store.batches():
        if batch.state == WRITTEN:
            lines.append(await _hand_to_server(step, batch))
    return "\n".join(lines)


async def write_for_engine(step: BatchStep) -> str:
    """Write the batches, and return how to have them answered by an engine that reads files."""
    lines = await _write_batches(step, ask_server=False)
    for batch in step.store.batches():
        if batch.state == WRITTEN:
            lines.append(_leave_to_engine(step, batch))
    return "\n".join(lines)


# Write


async def _write_batches(step: BatchStep, ask_server: bool) -> list[str]:
    """Write the unanswered inputs, file by file, and return a report on the rest."""
    store = step.store
    store.mark_lost()
    precheck_tasks(step.config, step.run_dir)
    unsent = _unsent(step)
    first = next(unsent, None)
    if first is None:
        has_written = any(batch.state == WRITTEN for batch in store.batches())
        return [] if has_written else [_nothing_to_submit(step)]
    dialect = await _dialect(step, first.request, ask_server)
    requests = _suited(itertools.chain([first], unsent), dialect)
    for number in itertools.count(len(store.batches()) + 1):
        is_last = not _write_batch(step, requests, f"batch-{number:04}", dialect)
        if is_last or step.ledger.obstacle:
            break
    if step.ledger.obstacle:
        left_out = 1 + sum(1 for _ in requests)  # the one that might exceed the cap, and all after it
        return [f"{left_out} inputs are left out: {step.ledger.obstacle}"]
    return []


async def _dialect(step: BatchStep, first: Request, ask_server: bool) -> Dialect:
    """Return the dialect of the server: learnt by a first request, or the known one."""
    if ask_server:
        return await learn_dialect(step.client, first, step.ledger)
    return step.store.dialect(step.client.address, first.dialect_key) or Dialect()


def _write_batch(step: BatchStep, requests: Iterator[_Unsent], name: str, dialect: Dialect) -> bool:
    """Write one batch of the requests; return False if none is left that may be sent."""
    path = step.requests_path(name)
    keys = batch_files.write_batch(_booked(step, requests, name), path, dialect)
    if not keys:
        path.unlink()
        return False
    for key in keys:
        step.store.lend(key, name)
    step.store.save_batch(Batch(name, len(keys)))
    step.store.commit()
    return True


def _unsent(step: BatchStep) -> Iterator[_Unsent]:
    """Yield each input that was not sent yet, once."""
    store = step.store
    for prompted in next_plan(step.config, step.run_dir).prompts():
        request = prompted.request
        key = request.key
        state, forgiven = store.state(key) or ("todo", 0)
        if state == "todo" and len(store.replies(key)) <= forgiven and not store.is_under_way(key):
            yield _Unsent(key, request)


def _suited(requests: Iterable[_Unsent], dialect: Dialect) -> Iterator[_Unsent]:
    for key, request in requests:
        yield _Unsent(key, request.suited(dialect))


def _booked(step: BatchStep, requests: Iterator[_Unsent], batch: str) -> Iterator[_Unsent]:
    """Book and yield the requests up to the first that might exceed a cap."""
    for unsent in requests:
        if step.ledger.begin(unsent.key, unsent.request, batch) is None:
            return
        yield unsent


def _nothing_to_submit(step: BatchStep) -> str:
    todo = 0
    for prompted in next_plan(step.config, step.run_dir).prompts():
        state, _ = step.store.state(prompted.request.key) or ("todo", 0)
        if state == "todo":
            todo += 1
    if todo:
        return f"nothing to submit: {todo} inputs already have replies. Now run: multigrain synthesize RUN.toml"
    return "nothing to submit: every input is already answered, parked or in a batch"


# Hand over


async def _hand_to_server(step: BatchStep, batch: Batch) -> str:
    client, store = step.client, step.store
    try:
        batch_id, file_id = None, batch.file_id
        if file_id is None:
            file_id = await batch_files.upload(client, step.requests_path(batch.name))
            batch = replace(batch, file_id=file_id)
            store.save_batch(batch)
            store.commit()
        else:  # an earlier command may have been stopped before it recorded the id of the batch
            batch_id = await batch_files.find(client, file_id)
        batch_id = batch_id or await batch_files.start(client, file_id, step.kind)
    except LLMRefused as error:
        if error.status not in NO_BATCH_API:
            raise
        return f"{client.address} does not accept batches.\n{_leave_to_engine(step, batch)}"
    store.save_batch(replace(batch, batch_id=batch_id, state=SUBMITTED))
    store.commit()
    return f"{batch.name}: {batch.requests} requests, submitted as {batch_id}"


def _leave_to_engine(step: BatchStep, batch: Batch) -> str:
    path, output = step.requests_path(batch.name), step.output_path(batch.name)
    step.store.save_batch(replace(batch, state=HANDED_OVER))
    return (
        f"{batch.name}: {batch.requests} requests in {path}. Have them answered, for example by\n"
        f"  vllm run-batch -i {path} -o {output} --model {step.config.llm.model}\n"
        f"and then run: multigrain synthesize RUN.toml --batch ingest"
    )
