"""Send the inputs of a run through the Batch API: submit them, report their status, ingest the answers.

    submit (or write, for an engine that reads files) -> status -> ingest -> synthesize

Raw answers go into the store like any others; `synthesize` then reads them, and asks for the missing ones.
Each step is recorded before the next starts, so a command that was stopped can simply be run again.
"""

from multigrain.config import Config
from multigrain.llm import batch_files
from multigrain.llm.store import AnswerStore, Batch
from multigrain.pipeline.generation.batch_ingest import ingest_batches
from multigrain.pipeline.generation.batch_step import INGESTED, WRITTEN, BatchStep, do_step
from multigrain.pipeline.generation.batch_submit import submit_to_server, write_for_engine
from multigrain.pipeline.run_dir import RunDir


def submit(config: Config, run_dir: RunDir) -> str:
    """Write all unanswered inputs into batches, and submit them to the server.

    Raises:
        ConfigError: the provider is not an endpoint, or no server answers.
        LLMError: the server failed; the same command resumes.
    """
    return do_step(config, run_dir, submit_to_server)


def write(config: Config, run_dir: RunDir) -> str:
    """Write all unanswered inputs into batches, for an engine that reads files.

    Raises:
        ConfigError: the provider is not an endpoint.
    """
    return do_step(config, run_dir, write_for_engine, connect=False)


def status(config: Config, run_dir: RunDir) -> str:
    """Return the status of the batches, one line each.

    Raises:
        ConfigError, LLMError: see `submit`.
    """
    return do_step(config, run_dir, _describe_batches, connect=_is_server_at_work(run_dir))


def ingest(config: Config, run_dir: RunDir) -> str:
    """Ingest the answers that are available. Doing so twice changes nothing.

    Raises:
        ConfigError, LLMError: see `submit`.
    """
    return do_step(config, run_dir, ingest_batches, connect=_is_server_at_work(run_dir))


def _is_server_at_work(run_dir: RunDir) -> bool:
    """Return whether a server has a batch that is not ingested yet."""
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
        return f"{head}{batch.state}; {output} {'exists' if output.is_file() else 'does not exist yet'}"
    state = await batch_files.fetch_state(step.client, batch.batch_id)
    counts = state.get("request_counts") or {}
    return f"{head}{state['status']} ({counts.get('completed', 0)} done, {counts.get('failed', 0)} failed)"
