"""Ingest the available answers of the batches into the store."""

from dataclasses import replace

from multigrain.errors import LLMError, LLMUnavailable
from multigrain.llm import batch_files
from multigrain.llm.ledger import Call
from multigrain.llm.store import Batch
from multigrain.pipeline.generation.batch_step import INGESTED, WRITTEN, BatchStep


async def ingest_batches(step: BatchStep) -> str:
    """Ingest the answers to all pending batches, and return a line on each."""
    lines = []
    for batch in step.store.batches():
        if batch.state not in (WRITTEN, INGESTED):
            obstacle = await _fetch(step, batch)
            lines.append(f"{batch.name}: {obstacle}" if obstacle else _take_in(step, batch))
    return "\n".join(lines) or "no batch to ingest"


async def _fetch(step: BatchStep, batch: Batch) -> str | None:
    """Fetch the files with the answers; if they are not available yet, return the reason."""
    output, errors = step.output_path(batch.name), step.errors_path(batch.name)
    if batch.batch_id is None:
        return None if output.is_file() else f"{output} does not exist yet"
    state = await batch_files.fetch_state(step.client, batch.batch_id)
    if state["status"] not in batch_files.ENDED:
        return f"still {state['status']}"
    for field, target in (("output_file_id", output), ("error_file_id", errors)):
        if file_id := state.get(field):
            await batch_files.download(step.client, file_id, target)
    return None


def _take_in(step: BatchStep, batch: Batch) -> str:
    """Keep all answers, even to inputs taken back meanwhile. If the batch has ended, release the unanswered inputs."""
    store, output = step.store, step.output_path(batch.name)
    calls = {key: Call(number, store.bound(number)) for key, number in store.calls_in(batch.name).items()}
    failed: dict[str, LLMError] = {}
    answered = 0
    for path in (output, step.errors_path(batch.name)):
        for key, outcome in batch_files.read_output(path):
            if isinstance(outcome, LLMError):
                failed[key] = outcome
            elif call := calls.pop(key, None):
                answered += 1
                step.ledger.end(call, outcome)
                _return(step, key, batch.name)
    has_ended = batch.batch_id is not None
    for key, call in list(calls.items()):
        if key in failed or has_ended:
            step.ledger.fail(call, failed.get(key) or LLMUnavailable("the batch ended without an answer"))
            _return(step, key, batch.name)
            del calls[key]
    store.save_batch(batch if calls else replace(batch, state=INGESTED))
    store.commit()
    taken = f"{batch.name}: {answered} answers to {batch.requests} requests ingested"
    if calls:
        return f"{taken}; {len(calls)} are not in {output} yet (--retry batched takes these inputs back)"
    return f"{taken}. Now run: multigrain synthesize RUN.toml"


def _return(step: BatchStep, key: str, batch: str) -> None:
    """Remove an input from the batch, unless it was removed before."""
    if step.store.is_batched(key, batch):
        step.store.give_back(key)
