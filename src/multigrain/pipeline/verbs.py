"""The functions behind the command line: one for each verb that works on a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from multigrain.config import BaselineSection, Config, as_path, config_of, run_folder_of
from multigrain.errors import ConfigError, RunError
from multigrain.evaluation.metrics import RETRIEVERS
from multigrain.files import full_disk_explained
from multigrain.pipeline.dropped import DroppedCount, DroppedOfPair, dropped_counts, dropped_of_pair
from multigrain.pipeline.generation import batch_api
from multigrain.pipeline.preflight import require, require_inputs
from multigrain.pipeline.recipe import with_recipe
from multigrain.pipeline.run import run_stages
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.search import search as search_run
from multigrain.pipeline.spoiled_model import require_sound
from multigrain.pipeline.stage_table import names_of
from multigrain.pipeline.stages.export import export_data as write_data
from multigrain.pipeline.stages.train import take_part
from multigrain.records import Document
from multigrain.training import distributed


def run(config: Config | str | Path, force: bool = False) -> dict[str, Any]:
    """Run all stages but those that are done already, and return the summary.

    Args:
        config: what to do; or the file that says so, or a run folder. The other verbs take the same.
        force: redo finished stages of the run folder that this configuration would do otherwise.

    Raises:
        MultigrainError: see `multigrain.errors`.
    """
    config = config_of(config)
    return run_stages(config, names_of(config), force)


def synthesize(config: Config | str | Path, force: bool = False, retry: str | None = None) -> dict[str, Any]:
    """Prepare the data, and have candidates written and mined; `force` does so again.

    Args:
        config: the run.
        force: see `run`. Answers are not asked for again.
        retry: put back the inputs that are parked for this reason (`all`: for any), and ask again.

    Raises:
        MultigrainError: see `multigrain.errors`.
    """
    config = config_of(config)
    wanted = [name for name in names_of(config) if name in ("data", "pairs", "synthesize")]
    redo = tuple(wanted[1:]) if force or retry is not None else ()
    return run_stages(config, wanted, force, redo=redo, retry=retry)


def grade(config: Config | str | Path, force: bool = False) -> dict[str, Any]:
    """Judge the candidates and make graded tuples of them; `force` does so again."""
    return run_stages(config_of(config), ["grade"], force, redo=("grade",) if force else ())


def train(config: Config | str | Path, force: bool = False) -> dict[str, Any]:
    """Train the model along the curriculum; `force` does so again.

    Under `torchrun` every process calls it. The main one returns the summary; the others take part in the training
    alone, and return an empty one.
    """
    described = config_of(config)
    if not distributed.is_main():
        run_dir = RunDir(described.folder)
        distributed.follow(lambda: take_part(with_recipe(described, run_dir), run_dir))
        return {}
    with distributed.leading():
        return run_stages(described, ["train"], force, redo=("train",) if force else ())


def evaluate(config: Config | str | Path, force: bool = False) -> dict[str, Any]:
    """Measure the trained model, its base and the baseline, which is trained first; `force` measures again.

    Raises:
        TrainingFailed: the trained model is far worse than its base.
    """
    described = config_of(config)
    wanted = [name for name in names_of(described) if name in ("baseline", "evaluate")]
    summary = run_stages(described, wanted, force, redo=("evaluate",) if force else ())
    require_sound(RunDir(described.folder))
    return summary


def export_model(config: Config | str | Path, force: bool = False) -> dict[str, Any]:
    """Write the folder that others load; `force` does so again."""
    return run_stages(config_of(config), ["export"], force, redo=("export",) if force else ())


def export_data(
    folder: str | Path, form: str, out: str | Path, force: bool = False, negatives: int | None = None
) -> str:
    """Write a run's graded tuples in a form that another tool trains on; returns a line that says how to load it.

    Args:
        folder: the run folder, or its model's.
        form: `hf`, `sentence-transformers`, `flagembedding` or `tevatron`; see `multigrain.export.interchange`.
        out: the file to write, or for `hf` the folder.
        force: replace what is there.
        negatives: columns of negatives (`sentence-transformers` alone).

    Raises:
        RunError: the run has no graded tuples yet.
        ConfigError: see `multigrain.export.interchange.export_data`.
    """
    run_dir, file = RunDir(run_folder_of(folder)), as_path(out, "a file to write")
    if not run_dir.tuples.is_file():
        raise RunError(f"{folder}: no graded tuples here. Run: multigrain grade RUN.toml")
    with full_disk_explained(file.absolute().parent):
        return write_data(run_dir, form, file, force, negatives)


def search(folder: str | Path, query: str, k: int = 5, retriever: str | None = None) -> list[tuple[float, Document]]:
    """Return the documents of a run's corpus that its exported model finds best for the query, with their scores.

    Args:
        folder: the run folder, or its model's.
        query: what to look for.
        k: how many documents.
        retriever: `dense` (by cosine), `bm25` or `hybrid` (cosine plus weighted BM25); None for the one that was best
            on the queries that the run keeps for choices.

    Raises:
        ConfigError: the query is no text, k is not above 0, or there is no such retriever.
        RunError: the run has no exported model yet.
    """
    if not isinstance(query, str) or not query.strip():
        raise ConfigError("search", [f"found the query {query!r}; wanted a text"])
    if type(k) is not int or k < 1:
        raise ConfigError("search", [f"found k = {k!r}; wanted a number of documents, from 1 on"])
    if retriever not in (None, *RETRIEVERS):
        raise ConfigError("search", [f"found the retriever {retriever!r}; wanted one of {', '.join(RETRIEVERS)}"])
    run_dir = RunDir(run_folder_of(folder))
    if not (run_dir.model / "modules.json").is_file():
        raise RunError(f"{folder}: no exported model here. Run: multigrain run RUN.toml")
    return search_run(run_dir, query, k, retriever)


@overload
def dropped(config: Config | str | Path, pair: None = None) -> list[DroppedCount]: ...
@overload
def dropped(config: Config | str | Path, pair: str) -> DroppedOfPair: ...
def dropped(config: Config | str | Path, pair: str | None = None) -> list[DroppedCount] | DroppedOfPair:
    """Return how many candidates each rule of grading has dropped, or those of one pair with rule and value.

    Args:
        config: the run.
        pair: the id of a training pair; without it the whole run is counted.

    Raises:
        ConfigError: there is no such pair.
        RunError: the run is not graded yet.
        DataError: a file of the run cannot be read.
    """
    run_dir = RunDir(config_of(config).folder)
    if pair is None:
        return dropped_counts(run_dir)
    if not isinstance(pair, str):
        raise ConfigError("dropped", [f"found the pair {pair!r}; wanted the id of a training pair, a text"])
    return dropped_of_pair(run_dir, pair)


def measure(config: Config, donors: Sequence[Path] = (), force: bool = False) -> None:
    """Run all stages up to the evaluation.

    Args:
        config: the run.
        donors: run folders whose stages are taken over where they would come out the same.
        force: see `run`.
    """
    config = config.model_copy(update={"baseline": BaselineSection(against="none")})  # a grid brings its own
    run_stages(config, [name for name in names_of(config) if name != "export"], force, donors=donors)


def batch(config: Config, step: str, force: bool = False) -> str:
    """Do one step of having the candidates written in batches, and tell of it in a few lines.

    Args:
        config: the run.
        step: `submit`, `write`, `status` or `ingest`; `synthesize` afterwards reads what came back.
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
        return f"{config.folder}: no batches; --batch submit makes them"
    steps = {
        "submit": batch_api.submit,
        "write": batch_api.write,
        "status": batch_api.status,
        "ingest": batch_api.ingest,
    }
    with full_disk_explained(run_dir.folder), run_dir.lock():
        return steps[step](config, run_dir)
