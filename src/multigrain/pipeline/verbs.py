"""The functions behind the command line: one for each command that works on a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from multigrain.config import BaselineSection, Config, as_path, config_of, run_folder_of
from multigrain.errors import ConfigError, RunError
from multigrain.evaluation.metrics import RETRIEVERS
from multigrain.extras import require_extra
from multigrain.files import full_disk_explained
from multigrain.pipeline.dropped import DroppedCount, DroppedOfPair, dropped_counts, dropped_of_pair
from multigrain.pipeline.encoders import models_of_shards
from multigrain.pipeline.generation import batch_api
from multigrain.pipeline.generation.answer_import import EXPORT_FIRST, answer_files, import_files
from multigrain.pipeline.generation.open_requests import require_endpoint, unwritten
from multigrain.pipeline.generation.request_shards import require_free, write_shards
from multigrain.pipeline.preflight import require, require_inputs
from multigrain.pipeline.recipe import with_recipe
from multigrain.pipeline.run import Start, run_stages
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.search import search as search_run
from multigrain.pipeline.spoiled_model import require_sound
from multigrain.pipeline.stage_table import names_of
from multigrain.pipeline.stages.export import export_data as write_data
from multigrain.pipeline.stages.train import take_part
from multigrain.records import Document
from multigrain.training import distributed

ENGINES = ("local", "ray")
"""Where the shards of work of a run are done."""


def run(
    config: Config | str | Path, force: bool = False, engine: str = "local", address: str | None = None
) -> dict[str, Any]:
    """Run all stages that are not done yet, and return the summary.

    Args:
        config: the configuration of the run, its file, or its run folder, here and in the other functions.
        force: redo finished stages of the run folder whose results this configuration would change.
        engine: `local` for this process; `ray` to encode and mine on a Ray cluster, with the same results.
        address: HOST:PORT of the head of the cluster; None for that of `RAY_ADDRESS`, or for Ray on this machine.

    Raises:
        MultigrainError: see `multigrain.errors`.
    """
    config = config_of(config)
    return run_stages(config, names_of(config), force, start=_start_of(config, engine, address))


def _start_of(config: Config, engine: str, address: str | None) -> Start | None:
    """Return what starts an engine; None for this process.

    Raises:
        ConfigError: there is no such engine, or it has no address.
        RunError: Ray is not installed.
    """
    if engine not in ENGINES:
        raise ConfigError("engine", [f"found {engine!r}; wanted one of {', '.join(ENGINES)}"])
    if engine == "local":
        if address is not None:
            raise ConfigError("--address", ["is only for --engine ray. Leave it out, or add --engine ray"])
        return None
    require_extra("ray")
    from multigrain.pipeline.cluster.ray_engine import ray_engine

    return lambda: ray_engine(address, config.folder, models_of_shards(config))


def synthesize(config: Config | str | Path, force: bool = False, retry: str | None = None) -> dict[str, Any]:
    """Prepare the data, then write and mine candidates.

    Args:
        config: the run.
        force: write and mine again, using the answers that are kept; see also `run`.
        retry: ask again for the inputs that are parked for this reason, or for any (`all`).

    Raises:
        MultigrainError: see `multigrain.errors`.
    """
    config = config_of(config)
    wanted = [name for name in names_of(config) if name in ("data", "pairs", "synthesize")]
    redo = tuple(wanted[1:]) if force or retry is not None else ()
    return run_stages(config, wanted, force, redo=redo, retry=retry)


def grade(config: Config | str | Path, force: bool = False) -> dict[str, Any]:
    """Judge the candidates and make graded tuples; with `force`, do so again."""
    return run_stages(config_of(config), ["grade"], force, redo=("grade",) if force else ())


def adapt(config: Config | str | Path, force: bool = False) -> dict[str, Any]:
    """Adapt the base to attention in both directions; with `force`, do so again.

    Raises:
        ConfigError: the run has no section `[adapt]`.
        RunError: an earlier stage is not done.
    """
    described = config_of(config)
    if described.adapt is None:
        raise ConfigError("adapt", ["the run has no section [adapt]; add one, or run: multigrain train RUN.toml"])
    return run_stages(described, ["adapt"], force, redo=("adapt",) if force else ())


def train(config: Config | str | Path, force: bool = False) -> dict[str, Any]:
    """Adapt the base if the run asks for it, and train the model along the curriculum; with `force`, train again.

    Under `torchrun`, every process calls it. The main process returns the summary; the others only take part in the
    training, and return an empty one. Only one process can adapt a base, so there the base has to be adapted already.

    Raises:
        RunError: an earlier stage is not done.
        MultigrainError: see `multigrain.errors`.
    """
    described = config_of(config)
    if not distributed.is_main():
        run_dir = RunDir(described.folder)
        distributed.follow(lambda: take_part(with_recipe(described, run_dir), run_dir))
        return {}
    with distributed.leading():
        before = ["adapt"] if described.adapt is not None and distributed.count() == 1 else []
        wanted = [*before, "train"]
        return run_stages(described, wanted, force, redo=("train",) if force else ())


def evaluate(config: Config | str | Path, force: bool = False) -> dict[str, Any]:
    """Train the baseline, then measure it, the trained model and its base; with `force`, measure again.

    Raises:
        TrainingFailed: the trained model is far worse than its base.
    """
    described = config_of(config)
    wanted = [name for name in names_of(described) if name in ("baseline", "evaluate")]
    summary = run_stages(described, wanted, force, redo=("evaluate",) if force else ())
    require_sound(RunDir(described.folder))
    return summary


def export_model(config: Config | str | Path, force: bool = False) -> dict[str, Any]:
    """Write the model folder for use with sentence-transformers; with `force`, write it again."""
    return run_stages(config_of(config), ["export"], force, redo=("export",) if force else ())


def export_data(
    folder: str | Path, form: str, out: str | Path, force: bool = False, negatives: int | None = None
) -> str:
    """Write a run's graded tuples in the form of another tool, and return a line that says how to load it.

    Args:
        folder: the run folder, or the folder of its model.
        form: `hf`, `sentence-transformers`, `flagembedding` or `tevatron`; see `multigrain.export.interchange`.
        out: the file to write, or the folder for `hf`.
        force: replace an existing file or folder.
        negatives: number of negative columns, only for `sentence-transformers`.

    Raises:
        RunError: the run has no graded tuples yet.
        ConfigError: see `multigrain.export.interchange.export_data`.
    """
    run_dir, file = RunDir(run_folder_of(folder)), as_path(out, "a file to write")
    if not run_dir.tuples.is_file():
        raise RunError(f"{folder}: there are no graded tuples yet. Run: multigrain grade RUN.toml")
    with full_disk_explained(file.absolute().parent):
        return write_data(run_dir, form, file, force, negatives)


def search(
    folder: str | Path, query: str, k: int = 5, retriever: str | None = None, instruction: str | None = None
) -> list[tuple[float, Document]]:
    """Search the corpus of a run with its exported model, and return the best documents with their scores.

    Args:
        folder: the run folder, or the folder of its model.
        query: the query.
        k: number of documents.
        retriever: `dense` (cosine), `bm25` or `hybrid` (cosine plus weighted BM25); None for the one that was best on
            the dev set of the run.
        instruction: what the query looks for, for a model trained with instructions; None for the run's own.

    Raises:
        ConfigError: the query is not a text, k is below 1, there is no such retriever, or the model was trained without
            instructions.
        RunError: the run has no exported model yet.
    """
    if not isinstance(query, str) or not query.strip():
        raise ConfigError("search", [f"found the query {query!r}; wanted a text"])
    if type(k) is not int or k < 1:
        raise ConfigError("search", [f"found k = {k!r}; wanted a number of documents, at least 1"])
    if retriever not in (None, *RETRIEVERS):
        raise ConfigError("search", [f"found the retriever {retriever!r}; wanted one of {', '.join(RETRIEVERS)}"])
    run_dir = RunDir(run_folder_of(folder))
    if not (run_dir.model / "modules.json").is_file():
        raise RunError(f"{folder}: there is no exported model yet. Run: multigrain run RUN.toml")
    return search_run(run_dir, query, k, retriever, instruction)


@overload
def dropped(config: Config | str | Path, pair: None = None) -> list[DroppedCount]: ...
@overload
def dropped(config: Config | str | Path, pair: str) -> DroppedOfPair: ...
def dropped(config: Config | str | Path, pair: str | None = None) -> list[DroppedCount] | DroppedOfPair:
    """Return the number of candidates that each rule of grading dropped, or the candidates of one pair.

    Args:
        config: the run.
        pair: id of a training pair; None to count over the whole run.

    Raises:
        ConfigError: there is no such pair.
        RunError: the run is not graded yet.
        DataError: a file of the run cannot be read.
    """
    run_dir = RunDir(config_of(config).folder)
    if pair is None:
        return dropped_counts(run_dir)
    if not isinstance(pair, str):
        raise ConfigError("dropped", [f"found the pair {pair!r}; wanted the id of a training pair, as text"])
    return dropped_of_pair(run_dir, pair)


def measure(config: Config, donors: Sequence[Path] = (), force: bool = False) -> None:
    """Run all stages up to the evaluation.

    Args:
        config: the run.
        donors: run folders from which stages with the same result are reused.
        force: see `run`.
    """
    config = config.model_copy(update={"baseline": BaselineSection(against="none")})  # a grid has its own arms
    run_stages(config, [name for name in names_of(config) if name != "export"], force, donors=donors)


def batch(config: Config, step: str, force: bool = False) -> str:
    """Do one step of writing candidates by the Batch API, and return a report of a few lines.

    Args:
        config: the run.
        step: `submit`, `write`, `status` or `ingest`; `synthesize` then reads the answers.
        force: see `run`.

    Raises:
        MultigrainError: see `multigrain.errors`.
    """
    if step in ("submit", "write"):
        require_inputs(config)
        run_stages(config, ["data"], force)
    else:
        require(config)
    run_dir = RunDir(config.folder)
    if not run_dir.folder.is_dir() or "data" not in run_dir.stages():
        return f"{config.folder}: there are no batches; --batch submit creates them"
    steps = {
        "submit": batch_api.submit,
        "write": batch_api.write,
        "status": batch_api.status,
        "ingest": batch_api.ingest,
    }
    with full_disk_explained(run_dir.folder), run_dir.lock():
        return steps[step](config, run_dir)


def export_requests(config: Config | str | Path, shards: int, output: str | Path, force: bool = False) -> str:
    """Write the requests without an answer as shards, for any engine that answers files, and return a report.

    The data are prepared first. The pairs of a run that has none are written from the answers as soon as all are there.

    Args:
        config: the run.
        shards: number of files.
        output: the folder to write, new or empty.
        force: see `run`.

    Raises:
        ConfigError: `shards` is below 1, the provider is not an endpoint, or the folder holds other files.
        MultigrainError: see `run`.
    """
    if type(shards) is not int or shards < 1:
        raise ConfigError("--shards", [f"found {shards!r}; wanted a whole number, at least 1"])
    config, folder = config_of(config), as_path(output, "a folder to write")
    require_endpoint(config)
    require_free(folder)
    require_inputs(config)
    run_stages(config, ["data"], force)
    report = _write_shards(config, shards, folder)
    if report is None and unwritten(config, RunDir(config.folder)):
        run_stages(config, ["data", "pairs"], force)
        report = _write_shards(config, shards, folder)
    return report or "nothing to export: every request is answered, parked or in a batch"


def _write_shards(config: Config, shards: int, folder: Path) -> str | None:
    run_dir = RunDir(config.folder)
    with full_disk_explained(folder.absolute().parent), run_dir.lock():
        return write_shards(config, run_dir, shards, folder)


def import_answers(config: Config | str | Path, answers: Sequence[str | Path]) -> str:
    """Put the answers to exported requests into the store of the run, and return a report.

    Answers that were imported before change nothing, so the command can be repeated at any time.

    Args:
        config: the run.
        answers: files in the output form of OpenAI's Batch API, or folders of them.

    Raises:
        ConfigError: the provider is not an endpoint.
        RunError: the run has no data yet.
        DataError: see `multigrain.pipeline.generation.answer_import`.
    """
    config = config_of(config)
    require_endpoint(config)
    require(config)
    files = answer_files(as_path(place, "a file or folder of answers") for place in answers)
    run_dir = RunDir(config.folder)
    if "data" not in run_dir.stages():
        raise RunError(f"{config.folder}: has no requests yet. {EXPORT_FIRST}")
    with full_disk_explained(run_dir.folder), run_dir.lock():
        return import_files(config, run_dir, files)
