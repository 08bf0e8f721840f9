"""A run's inputs by the Batch API: hand them over, look after them, take the answers in.

    submit (or write, for an engine that reads files) -> status -> ingest -> synthesize

Raw answers go into the store like any others; `synthesize` then reads them, and asks for what is missing.
Each step is noted before the next begins, so a command that was stopped is simply given again.
"""

from multigrain.config import Config
from multigrain.llm import batch_files
from multigrain.llm.store import AnswerStore, Batch
from multigrain.pipeline.generation.batch_ingest import ingest_batches
from multigrain.pipeline.generation.batch_step import INGESTED, WRITTEN, BatchStep, do_step
from multigrain.pipeline.generation.batch_submit import submit_to_server, write_for_engine
from multigrain.pipeline.run_dir import RunDir


def submit(config: Config, run_dir: RunDir) -> str:
    """Write all that is not settled into batches, and hand them to the server.

    Raises:
        ConfigError: the provider is not an endpoint, or nobody answers there.
        LLMError: the server failed; the same command goes on.
    """
    return do_step(config, run_dir, submit_to_server)


def write(config: Config, run_dir: RunDir) -> str:
    """Write all that is not settled into batches, for an engine that reads files.

    Raises:
        ConfigError: the provider is not an endpoint.
    """
    return do_step(config, run_dir, write_for_engine, connect=False)


def status(config: Config, run_dir: RunDir) -> str:
    """Tell how the batches stand, one line each.

    Raises:
        ConfigError, LLMError: see `submit`.
    """
    return do_step(config, run_dir, _describe_batches, connect=_is_server_at_work(run_dir))


def ingest(config: Config, run_dir: RunDir) -> str:
    """Take in the answers that are there. Doing so twice changes nothing.

    Raises:
        ConfigError, LLMError: see `submit`.
    """
    return do_step(config, run_dir, ingest_batches, connect=_is_server_at_work(run_dir))


def _is_server_at_work(run_dir: RunDir) -> bool:
    """Tell whether a batch is at a server."""
    with AnswerStore(run_dir.store) as store:
        return any(batch.batch_id and batch.state != INGESTED for batch in store.batches())


async def _describe_batches(step: BatchStep) -> str:
    lines = [await _described(step, batch) for batch in step.store.batches()]
    return "\n".join(lines) or "no batches"


async def _described(step: BatchStep, batch: Batch) -> str:
    head = f"{batch.name}: {batch.requests} requests, "
    if batch.state in (WRITTEN, INGESTED):
        return head + batch.state
    if batch.batch_id is None:
        output = step.output_path(batch.name)
        return f"{head}{batch.state}; {output} is {'there' if output.is_file() else 'not there yet'}"
    state = await batch_files.fetch_state(step.client, batch.batch_id)
    counts = state.get("request_counts") or {}
    return f"{head}{state['status']} ({counts.get('completed', 0)} done, {counts.get('failed', 0)} failed)"
